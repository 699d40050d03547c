"""Symbols that are promised to be multiples: checked by every launch, and relied on by the passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES, compile_texts, every_leg
from tests.kernels.machines import TARGETS
from tilec.errors import ArgumentError, LanguageError
from tilec.ir.print import print_program
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.context import Assume
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.lowering import lower_program, standard_registry

pytestmark = pytest.mark.emulator

K8 = T.dynamic("K", multiple_of=8)


@tilec.kernel
def scaled(
    A: T.Tensor(("M", K8), "float16"), B: T.Tensor(("M", K8), "float16"), L: T.Tensor(("M", "N"))
):
    """B = 2 A, and L is set: its rows are any length."""
    M, K = A.shape
    with T.Kernel(T.ceildiv(M, 16), threads=64) as bx:
        part = T.alloc_fragment((16, 64), "float16")
        for k in T.serial(T.ceildiv(K, 64)):
            T.copy(A[bx * 16, k * 64], part)
            for i, j in T.Parallel(16, 64):
                part[i, j] = part[i, j] + part[i, j]
            T.copy(part, B[bx * 16, k * 64])
        for i, j in T.Parallel(16, 32):
            L[bx * 16 + i, j] = 1.0


def arrays(m: int, k: int, n: int) -> tuple[Any, Any, Any]:
    a = np.arange(m * k, dtype=np.float16).reshape(m, k) % 100
    return a, np.full_like(a, np.nan), np.full((m, n), np.nan, np.float32)


@pytest.mark.parametrize("size", [(16, 64, 32), (17, 72, 33), (1, 8, 1), (33, 0, 5)], ids=str)
def test_what_keeps_the_promise_is_taken(size: tuple[int, int, int]) -> None:
    m, _, n = size
    a, b, rows = arrays(*size)
    for leg, (_, b_out, l_out) in every_leg(scaled, a, b, rows):
        assert np.array_equal(b_out, a + a), leg
        assert np.array_equal(l_out[:, :32], np.ones((m, min(n, 32)), np.float32)), leg


@pytest.mark.parametrize("device", DEVICES)
def test_what_breaks_it_is_refused_by_name(device: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        scaled(*arrays(16, 60, 32), device=device)
    assert caught.value.code == "TLC0803"
    assert "K = 60 from A is no multiple of 8" in caught.value.message
    assert "multiple_of=8" in caught.value.message


@pytest.mark.parametrize("target", TARGETS)
def test_promised_rows_are_vectors_where_others_are_not_aligned(target: str) -> None:
    """L's rows end anywhere, so that the first variant does not run: A and B are moved in vectors
    all the same."""
    compiled = lower(scaled, (), target, {})
    program = compiled.program
    kinds = (Assume.ALL, Assume.PROMISED, Assume.NOTHING)
    first, promised, general = (lower_program(program, compiled.target, assume=a) for a in kinds)
    aligned = {(f.tensor, f.bytes) for f in promised.requires if f.kind == "aligned"}
    assert aligned == {("A", 16), ("B", 16)}
    assert {f.tensor for f in first.requires if f.kind == "aligned"} == {"A", "B", "L"}
    assert not general.requires
    wide = [text.text.count("<8>") for text in (first, promised, general)]
    assert wide[0] == wide[1] > wide[2]


@pytest.mark.parametrize("target", TARGETS)
def test_the_variant_between_runs(target: str) -> None:
    """For rows that keep the promise and starts that do not, each variant where it may."""
    compiled = lower(scaled, (), target, {})
    compiled.add_general()
    kinds = [v.source.partition(".")[0] for v in compiled.manifest.variants]
    assert kinds == ["scaled", "scaled_large", "scaled_promised", "scaled_generic"]
    a, b, rows = arrays(17, 72, 33)
    shifted = np.empty(a.size + 1, np.float16)[1:].reshape(a.shape)
    shifted[...] = a
    for given in (a, shifted):
        result, ones = np.full_like(b, np.nan), np.array(rows)
        compiled.run_on(EmulatorDevice(target, "a test"), (given, result, ones))
        assert np.array_equal(result, a + a)
        assert (ones[:, :32] == 1).all()


def test_no_compiler_minds() -> None:
    compile_texts(scaled)


def doubled(symbol: Any) -> Any:
    @tilec.kernel
    def kernel(A: T.Tensor((symbol,), "float32")):
        with T.Kernel(1, threads=32):
            x = T.alloc_fragment((128,), "float32")
            T.copy(A[0], x)
            for i in T.Parallel(128):
                x[i] = x[i] + x[i]
            T.copy(x, A[0])

    return kernel


@pytest.mark.parametrize("n", [128, 64, 4, 0])
def test_a_row_alone_needs_no_tail(n: int) -> None:
    for leg, (a,) in every_leg(doubled(T.dynamic("N", multiple_of=4)), np.ones(n, np.float32)):
        assert (a == 2).all(), leg
    with_tail, without = (
        lower(doubled(symbol), (), "cuda:sm_80", {}).source
        for symbol in ("N", T.dynamic("N", multiple_of=4))
    )
    assert len(without.splitlines()) < len(with_tail.splitlines())


def test_promises_of_several_tensors_hold_together() -> None:
    @tilec.kernel
    def kernel(
        A: T.Tensor((T.dynamic("N", multiple_of=4),)), B: T.Tensor((T.dynamic("N", multiple_of=6),))
    ):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(12):
                B[i] = A[i]

    program = kernel.lower_to_ir()
    assert dict(program.multiples) == {"N": 12}
    text = print_program(program)
    assert "symbols = [N], multiples = [12]>" in text
    again = parse_program(text, standard_registry(), "kernel.tir")
    verify(again, standard_registry())
    assert print_program(again) == text


def test_a_promise_folds_what_it_decides() -> None:
    """K % 4 is 0, whatever K is."""

    @tilec.kernel
    def kernel(A: T.Tensor((T.dynamic("K", multiple_of=8),), "int32")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(1):
                A[i] = A.shape[0] % 4

    text = lower(kernel, (), "cuda:sm_80", {}).source
    assert "& 3" not in text and "% 4" not in text


@pytest.mark.parametrize("multiple", [0, -8, True, 1.5, "8"])
def test_no_promise(multiple: Any) -> None:
    with pytest.raises(LanguageError) as caught:
        T.dynamic("K", multiple_of=multiple)
    assert caught.value.code == "TLC0113"
