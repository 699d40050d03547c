"""Calls of kernels: the same outcome by the quick path as by the slow one, and new outcomes where
something changed."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError, TilecError
from tilec.runtime import devices
from tilec.target import find_target


def doubler() -> Any:
    @tilec.kernel
    def double(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), factor: int = 2):
        with T.Kernel(T.ceildiv(A.shape[0], 64), threads=64) as bx:
            for i in T.Parallel(64):
                B[bx * 64 + i] = A[bx * 64 + i] * factor

    return double


def arrays(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(n, dtype=np.float32), np.zeros(n, np.float32)


def test_quick_calls_do_what_slow_calls_do() -> None:
    kernel = doubler()
    for n in (1, 63, 64, 65, 1):
        a, b = arrays(n)
        kernel(a, b)
        assert np.array_equal(b, a * 2)
    assert len(kernel.remembered.plain.found) == 1  # symbolic extents: one program for all of them


def test_constants_and_devices_are_not_mixed_up() -> None:
    kernel = doubler()
    a, b = arrays(10)
    kernel(a, b)
    kernel(a, b, factor=3)
    assert np.array_equal(b, a * 3)
    kernel(a, b)
    assert np.array_equal(b, a * 2)
    seen: list[str] = []

    class Recorder:
        name, why, target = "recorder", "asked", find_target("cuda:sm_80")

        def __init__(self, argument: str, why: str) -> None:
            pass

        def run(self, compiled: Any, args: Any, stream: object = None) -> None:
            seen.append(compiled.target.name)

    devices.register_device("recorder", Recorder)
    with tilec.device("recorder"):
        kernel(a, b)
        kernel(a, b)
    kernel(a, b)
    assert seen == ["cuda:sm_80"] * 2


def test_environment_is_heard_between_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = doubler()
    a, b = arrays(5)
    kernel(a, b)
    monkeypatch.setenv("TILEC_DEVICE", "nothing")
    with pytest.raises(TilecError, match="there is no device 'nothing'"):
        kernel(a, b)


def test_an_array_without_an_annotation_is_told_by_its_name() -> None:
    @tilec.kernel
    def forgot(A: T.Tensor(("N",), "float32"), B):
        with T.Kernel(1, threads=32):
            A[0] = 1

    for run in (forgot, forgot.lower):
        with pytest.raises(ArgumentError, match="B of forgot cannot be a ndarray") as caught:
            run(*arrays(4))
        assert caught.value.loc == forgot.loc and "T.Tensor" in caught.value.hint


def test_what_is_checked_is_one_of_few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = doubler()
    for check in (True, "1", 0, False, "0"):
        kernel(*arrays(64), check=check)
    with pytest.raises(TilecError, match=r"outside global \[5\]"):
        kernel(*arrays(5), check="bounds")
    with pytest.raises(TilecError, match="check='bound' names no checks"):
        kernel(*arrays(5), check="bound")
    monkeypatch.setenv("TILEC_CHECK", "yes")
    with pytest.raises(TilecError, match="TILEC_CHECK='yes' names no checks"):
        kernel(*arrays(6), device="interpreter")


def test_a_mask_is_not_dropped() -> None:
    a, b = arrays(4)
    with pytest.raises(ArgumentError, match="mask"):
        doubler()(np.ma.array(a, mask=[0, 1, 0, 0]), b)


def test_shapes_count_where_the_program_depends_on_them() -> None:
    kernel = doubler()
    chosen: list[int] = []

    def choose(target: Any, shapes: Any) -> dict[str, int]:
        chosen.append(shapes["A"][0])
        return {"factor": 5 if shapes["A"][0] > 8 else 4}

    kernel = tilec.heuristic(choose)(kernel)
    for n, factor in ((4, 4), (16, 5), (4, 4)):
        a, b = arrays(n)
        kernel(a, b)
        assert np.array_equal(b, a * factor)
    assert chosen == [4, 16]  # the third call is remembered


def test_wrong_arguments_are_told_on_the_quick_path_too() -> None:
    kernel = doubler()
    kernel(*arrays(4))
    with pytest.raises(ArgumentError) as caught:
        kernel(np.zeros(4, np.float16), np.zeros(4, np.float32))
    assert caught.value.loc == kernel.loc
    with pytest.raises(ArgumentError):
        kernel(*arrays(4), 2, 3, 4)


def test_memories_do_not_keep_kernels_alive() -> None:
    kernel = doubler()
    kernel(*arrays(3))
    gone = weakref.ref(kernel)
    del kernel
    gc.collect()
    assert gone() is None


def test_examples_are_like_arguments() -> None:
    @tilec.kernel
    def scaled(
        A: T.Tensor(("M", "N"), "float16"),
        B: T.Tensor(("N",), "int32"),
        C: T.Tensor((4, 8), "int4"),
        n: T.int32,
    ):
        with T.Kernel(1, threads=32):
            B[0] = n

    a, b, c = tilec.spec((4, 6), "float16"), tilec.spec((6,), "int32"), tilec.spec((4, 8), "int4")
    for good in (c, tilec.spec((4, 4), "int8"), np.zeros((4, 4), np.uint8)):
        scaled.lower(a, b, good, 1, target="cuda:sm_80")
    for examples, told in (
        ((tilec.spec((4, 6), "float32"), b, c, 1), "A has dtype f32, expected f16"),
        ((np.zeros((4, 6), np.float32), b, c, 1), "A has dtype f32, expected f16"),
        ((a, tilec.spec((6,), "int64"), c, 1), "B has dtype i64, expected i32"),
        ((a, tilec.spec((7,), "int32"), c, 1), r"B has shape \(7,\), expected \(N,\) = \(6,\)"),
        ((tilec.spec((4,), "float16"), b, c, 1), "expected 2 dimensions"),
        ((a, b, tilec.spec((4, 8), "int8"), 1), "C has shape"),
        ((a, b, c, 1.5), "n is 1.5"),
        ((a, b, c, a), "n is ArraySpec, expected a number"),
    ):
        with pytest.raises(ArgumentError, match=told) as caught:
            scaled.lower(*examples, target="cuda:sm_80")
        assert caught.value.code == "TLC0803" and caught.value.loc == scaled.loc
