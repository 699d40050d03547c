"""Calls that name parameters: those like an earlier one are not taken apart again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError
from tilec.runtime import calls, driver

from .conftest import CupyArray, FakeCupy, Stub, does_without

BASE = 0x7F00_0000_0000


def scaler() -> Any:
    @tilec.kernel
    def scale(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), block: int = 128,
              factor: Any = 2):  # fmt: skip
        with T.Kernel(T.ceildiv(A.shape[0], block), threads=block) as bx:
            for i in T.Parallel(block):
                B[bx * block + i] = A[bx * block + i] * factor

    return scale


def vectors(n: int) -> list[CupyArray]:
    return [CupyArray((n,), BASE + 0x100000 * i) for i in range(2)]


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], bool]:
    """Whether a call is like an earlier one for the driver."""
    return does_without(monkeypatch, driver, "_long_way")


def test_parameters_by_keyword_and_by_position_are_one_call(
    stub: Stub, cupy: FakeCupy, remembered: Any
) -> None:
    stub.sizes(8, 8, 4)
    scale = scaler()
    a, b = vectors(1000)
    assert not remembered(lambda: scale(a, b, block=64))
    for call in (
        lambda: scale(a, b, block=64),
        lambda: scale(a, b, 64),
        lambda: scale(B=b, A=a, block=64),
        lambda: scale(a, block=64, B=b, stream=7),
    ):
        assert remembered(call)
        assert [stub.launch().parameter(i, "u8") for i in range(2)] == [a.data.ptr, b.data.ptr]
        assert (stub.launch().grid[0], stub.launch().block[0]) == (16, 64)
    assert stub.launch().stream == 7
    assert not remembered(lambda: scale(a, b, block=32)) and stub.launch().grid[0] == 32
    assert not remembered(lambda: scale(a, b)) and stub.launch().grid[0] == 8
    for call, blocks in (
        (lambda: scale(a, b, 64), 16),
        (lambda: scale(a, b), 8),
        (lambda: scale(b, a, block=32), 32),
    ):
        assert remembered(call) and stub.launch().grid[0] == blocks
    assert stub.launch().parameter(0, "u8") == b.data.ptr
    longer = vectors(2000)
    assert remembered(lambda: scale(*longer, 64)) and stub.launch().grid[0] == 32


def test_values_that_are_equal_and_not_the_same_have_programs_of_their_own() -> None:
    scale = scaler()
    a = np.array([3.0, -1.0], np.float32)
    for _ in range(2):
        for factor in (2, 2.0, True, 1, 0.0, -0.0, np.float32(0.1), 0.1):
            b = np.zeros(2, np.float32)
            scale(a, b, factor=factor)
            expected = a * np.float32(factor)
            assert np.array_equal(b, expected), factor
            assert np.array_equal(np.signbit(b), np.signbit(expected)), factor


def test_a_parameter_that_changes_makes_another_program() -> None:
    class Choice:
        def __init__(self) -> None:
            self.factor = 2

    @tilec.kernel
    def scale(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), by: Any):
        with T.Kernel(T.ceildiv(A.shape[0], 64), threads=64) as bx:
            for i in T.Parallel(64):
                B[bx * 64 + i] = A[bx * 64 + i] * (by.factor if isinstance(by, Choice) else by[0])

    a, choice, several = np.ones(3, np.float32), Choice(), [2]
    for by in (choice, several):
        b = np.zeros(3, np.float32)
        scale(a, b, by=by)
        scale(a, b, by)
        assert b[0] == 2
    choice.factor, several[0] = 5, 6
    for by, factor in ((choice, 5), (several, 6)):
        scale(a, b, by)
        assert b[0] == factor


def test_parameters_may_be_objects_that_compare_by_value_and_lead_to_themselves() -> None:
    @dataclass
    class Options:
        factor: int = 2
        whole: Any = None

    @dataclass(slots=True)
    class Slotted:
        factor: int = 2

    @tilec.kernel
    def scale(A: T.Tensor("N", "float32"), B: T.Tensor("N", "float32"), by: Any):
        with T.Kernel(1, threads=64):
            for i in T.Parallel(3):
                B[i] = A[i] * by.factor

    ring, namespace = Options(), SimpleNamespace(factor=2)
    ring.whole, namespace.parts = [ring], {"first": namespace}
    for by in (Options(), Slotted(), ring, namespace):
        for factor in (2, 5, 2):
            by.factor = factor
            b = np.zeros(3, np.float32)
            scale(np.ones(3, np.float32), b, by=by)
            assert b[0] == factor
    a = np.ones(3, np.float32)
    for wrong, hint in ((a, "has an annotation"), ({1}, "pass numbers")):
        with pytest.raises(ArgumentError, match="by of scale cannot be") as caught:
            scale(a, a.copy(), by=wrong)
        assert hint in caught.value.hint


def test_wrong_calls_are_told_after_right_ones() -> None:
    scale = scaler()
    a, b = np.ones(4, np.float32), np.zeros(4, np.float32)
    scale(a, b, block=64)
    for call, message in (
        (lambda: scale(a, b, blok=64), "blok"),
        (lambda: scale(a, block=64), "not given: B"),
        (lambda: scale(a, b, 64, block=64), "multiple values"),
        (lambda: scale(a, b, 64, 2, 3), "too many positional"),
        (lambda: scale(a, b, block={64}), "block of scale cannot be a set"),
        (lambda: scale(a, b.astype(np.float64), block=64), "B has dtype f64"),
    ):
        with pytest.raises(ArgumentError, match=message) as caught:
            call()
        assert caught.value.loc == scale.loc
    with pytest.raises(tilec.errors.TilecError, match="no device 'nothing'"):
        scale(a, b, block=64, device="nothing")
    scale(a, b, block=64, target="cuda:sm_90a", device="interpreter")
    assert b[0] == 2


def test_what_is_kept_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_KEPT", 3)
    scale = scaler()
    a, b = np.ones(4, np.float32), np.zeros(4, np.float32)
    for factor in (*range(8), *range(8)):
        scale(a, b, factor=factor)
        assert b[0] == factor
    assert len(scale.remembered._memories) <= 3


def test_a_call_is_like_one_of_its_own_sizes(stub: Stub, cupy: FakeCupy, remembered: Any) -> None:
    """Whether the last wave is shared, in two launches, follows from the sizes, of 132 multiprocessors."""

    @tilec.kernel
    def rows(A: T.Tensor(("M", "K"), "float32"), C: T.Tensor(("M", 128), "float32")):
        with T.Kernel(T.ceildiv(A.shape[0], 128), threads=256) as bx:
            A_s, B_s = (T.alloc_shared((128, 32), "float32") for _ in range(2))
            sums = T.alloc_fragment((128, 128), "float32")
            T.clear(sums)
            for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=4):
                T.copy(A[bx * 128, k * 32], A_s)
                T.copy(A[0, k * 32], B_s)
                T.gemm(A_s, B_s, sums, transpose_B=True)
            T.copy(sums, C[bx * 128, 0])

    def launches(tiles: int) -> int:
        before = stub.count("launches")
        rows(CupyArray((128 * tiles, 8192), BASE), CupyArray((128 * tiles, 128), BASE + 2**40))
        return stub.count("launches") - before

    stub.sizes(8)
    for tiles, count in ((140, 2), (132, 1), (16, 2), (264, 1), (0, 0)):
        assert not remembered(partial(launches, tiles)), tiles
        assert launches(tiles) == count
    for tiles, count in ((140, 2), (132, 1), (16, 2), (0, 0)):
        assert remembered(partial(launches, tiles)), tiles
        assert launches(tiles) == count
    assert len({id(found.compiled) for found in rows.remembered.plain.found.values()}) == 2
    for tiles in range(calls.MAX_KEPT + 3):
        launches(tiles)
    assert len(rows.remembered.plain.found) <= calls.MAX_KEPT
