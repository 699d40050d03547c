"""Results in branches that exclude each other, stored by TMA through the same bytes of shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.kernels.machines import SCHEDULES
from tests.kernels.text_faults import E
from tests.modules import HOPPER
from tilec.backends.emitter import render
from tilec.runtime.driver import lower
from tilec.runtime.emulator import EmulatorError, build, run

pytestmark = pytest.mark.emulator
Array = np.ndarray[Any, Any]


@tilec.kernel
def halves(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"), P: T.Tensor(("M", "N"), "float32"),
    block_M: int = 64, block_N: int = 64, block_K: int = 32, stages: int = 2, threads: int = 128,
):  # fmt: skip
    """C: the first half of the steps along K, rounded; P: sums of the others."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    half = T.ceildiv(T.ceildiv(K, block_K), 2)
    with T.Kernel(2, T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (
        part,
        bx,
        by,
    ):
        A_s = T.alloc_shared((block_M, block_K), "float16")
        B_s = T.alloc_shared((block_N, block_K), "float16")
        acc = T.alloc_fragment((block_M, block_N), "float32")
        T.clear(acc)
        for k in T.Pipelined(half, num_stages=stages):
            T.copy(A[by * block_M, (part * half + k) * block_K], A_s)
            T.copy(B[bx * block_N, (part * half + k) * block_K], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        if part == 0:
            T.copy(acc, C[by * block_M, bx * block_N])
        else:
            T.copy(acc, P[by * block_M, bx * block_N])


def operands(m: int, n: int, k: int) -> tuple[Array, Array, Array, Array]:
    """Small integers, whose products are exact in any order, and results to be."""
    rng = np.random.default_rng(m + n + k)
    a, b = (rng.integers(-3, 4, shape).astype(np.float16) for shape in ((m, k), (n, k)))
    return a, b, np.full((m, n), np.nan, np.float16), np.full((m, n), np.nan, np.float32)


def exact(a: Array, b: Array, step: int) -> tuple[Array, Array]:
    half = (a.shape[1] + 2 * step - 1) // (2 * step) * step
    a, b = a.astype(np.float64), b.astype(np.float64)
    return a[:, :half] @ b[:, :half].T, a[:, half:] @ b[:, half:].T


def test_the_second_result_costs_no_stage() -> None:
    """Four stages of 48 KiB and 32 KiB of staging fit; 32 KiB more would leave three."""
    sizes = {"block_M": 128, "block_N": 256, "block_K": 64, "stages": 4, "threads": 256}
    large = [tilec.spec((4096, 4096), t) for t in ("float16", "float16", "float16", "float32")]
    made = halves.lower(*large, target=HOPPER, **sizes)
    assert "TLC0324" not in {remark.code for remark in made.remarks}, "num_stages falls"
    assert made.launches[0].shared_bytes <= 4 * 48 * 1024 + 2 * 16 * 1024 + 1024


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_every_leg_gives_both_halves(stages: int) -> None:
    for m, n, k in ((64, 64, 64), (136, 72, 40), (1, 8, 0), (65, 64, 8)):
        arrays = operands(m, n, k)
        first, second = exact(*arrays[:2], 32)
        for device, (*_, c, p) in every_leg(halves, *arrays, stages=stages):
            np.testing.assert_array_equal(c, first, err_msg=device)
            np.testing.assert_array_equal(p, second, err_msg=device)


def test_the_vendors_compilers_take_it_without_spills() -> None:
    compile_texts(halves)


def test_the_emulator_finds_a_place_that_is_written_while_it_is_stored() -> None:
    """Resident blocks take a first and a second half in turn. The slab of C lies where the engine may
    still read one of P, so C's branch waits though P's has waited for what C's sent before."""
    arrays = operands(136, 72, 200)
    first, second = exact(*arrays[:2], 32)
    lowered = lower(halves, (), HOPPER, {})
    emitted = lowered.variants[0].emitted
    (launch,) = emitted.launches

    def report(text: str, mode: Any, order: Any) -> str:
        a, b, c, p = (np.array(x) for x in arrays)
        values = {"A": a, "B": b, "C": c, "P": p, "M": 136, "N": 72, "K": 200}
        try:
            run(build(text), launch, values, mode, order, 7, multiprocessors=2)
        except EmulatorError as error:
            return error.message
        right = np.array_equal(c, first) and np.array_equal(p, second)
        return "" if right else "wrong result"

    whole = render(emitted, "cpu")
    assert [report(whole, *schedule) for schedule in SCHEDULES] == [""] * len(SCHEDULES)
    faulty = E(r" +bulk_wait_read<0>\(\);\n", "").apply(whole)
    assert any(report(faulty, *schedule) for schedule in SCHEDULES)
