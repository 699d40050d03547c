"""Products in a pipelined loop that stands in another loop: the accumulator is cleared, carried or
loaded between trips, the outer loop counts or waits for a condition, what is loaded follows a
variable. Every machine agrees, and ptxas serialises no wgmma (C75xx).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import one_leg, turns
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc


@tilec.kernel
def sums_of_tiles(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    outer: str = "serial",
    start: str = "cleared",
    trips: str = "all",
    tile: int = 64,
    workers: int = 2,
):
    """A worker takes every `workers`-th tile of C. Where a tile took five steps, it is stored as it
    is, else negated: what stands behind the loop depends on how often it ran.
    """
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    columns = T.ceildiv(N, tile)
    tiles = T.ceildiv(M, tile) * columns
    steps = T.ceildiv(K, 64)
    with T.Kernel(workers, threads=128) as worker:
        A_s = T.alloc_shared((tile, 64), "float16")
        B_s = T.alloc_shared((tile, 64), "float16")
        order = T.alloc_shared((8,), "int32")
        sums = T.alloc_fragment((tile, tile), "float32")
        taken = T.alloc_var("int32")

        @T.macro
        def one(at, which):
            m, n = which // columns * tile, which % columns * tile
            if start == "cleared" or (start == "sometimes" and at % 4 < workers):
                T.clear(sums)
            elif start == "loaded":
                T.copy(C[m, n], sums)
            elif start == "halved":
                for i, j in T.Parallel(tile, tile):
                    sums[i, j] = sums[i, j] * 0.5
            first = T.min(at % 3, steps) if trips == "some" else 0
            last = T.min(first + at % 4, steps) if trips == "some" else steps
            for k in T.Pipelined(first, last, num_stages=3):
                T.copy(A[m, k * 64], A_s)
                T.copy(B[n, k * 64], B_s)
                T.gemm(A_s, B_s, sums, transpose_B=True)
            if last - first == 5:
                T.copy(sums, C[m, n])
            else:
                for i, j in T.Parallel(tile, tile):
                    C[m + i, n + j] = -sums[i, j]

        T.clear(sums)
        taken = worker
        if outer == "while":
            while taken < tiles:
                one(taken, taken)
                taken = taken + workers
        else:
            for i in T.Parallel(8 if outer == "table" else 0):
                order[i] = worker + i * workers
            for count in T.serial(T.ceildiv(tiles - worker, workers)):
                at = worker + count * workers
                one(at, {"serial": at, "variable": taken, "table": order[count]}[outer])
                taken = taken + workers


def expected(
    A: Any, B: Any, C: Any, start: str = "cleared", trips: str = "all", workers: int = 2, **_: Any
) -> Any:
    """The same in 64-bit floats."""
    C, tile = C.astype(np.float64), 64
    steps = -(-A.shape[1] // 64)
    places = [(m, n) for m in range(0, len(A), tile) for n in range(0, len(B), tile)]
    for worker in range(workers):
        sums = np.zeros((tile, tile))
        for at in range(worker, len(places), workers):
            m, n = places[at]
            if start == "cleared" or (start == "sometimes" and at % 4 < workers):
                sums = np.zeros((tile, tile))
            elif start == "loaded":
                sums = C[m : m + tile, n : n + tile].copy()
            elif start == "halved":
                sums = sums * 0.5
            first = min(at % 3, steps) if trips == "some" else 0
            last = min(first + at % 4, steps) if trips == "some" else steps
            rows = A[m : m + tile, first * 64 : last * 64].astype(np.float64)
            columns = B[n : n + tile, first * 64 : last * 64].astype(np.float64)
            sums = sums + rows @ columns.T
            C[m : m + tile, n : n + tile] = sums if last - first == 5 else -sums
    return C


STARTS = ("cleared", "carried", "sometimes", "loaded", "halved")
OUTERS = ("serial", "while", "variable", "table")
FORMS = [
    *({"start": start, "trips": trips} for start in STARTS for trips in ("all", "some")),
    *({"outer": outer, "trips": trips} for outer in OUTERS[1:] for trips in ("all", "some")),
]


def name(form: dict[str, str]) -> str:
    return "-".join(form.values())


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "form"), turns(FORMS[1::2], name))
def test_every_machine_agrees(device: str, form: dict[str, str]) -> None:
    rng = np.random.default_rng(5)
    A, B = (rng.integers(-4, 5, (rows, 136)).astype(np.float16) for rows in (128, 192))
    C = rng.integers(-4, 5, (128, 192)).astype(np.float32)
    *_, got = one_leg(device, sums_of_tiles, A, B, C, **form)
    np.testing.assert_array_equal(got, expected(A, B, C, **form))


@pytest.mark.parametrize("form", FORMS, ids=name)
def test_no_wgmma_is_serialised(form: dict[str, str]) -> None:
    lowered = lower(sums_of_tiles, (), "cuda:sm_90a", form)
    (variant,) = lowered.variants
    assert ("wgmma_ss<" in variant.text) == (form.get("outer") != "table")
    assert find_nvrtc().compile(variant.text, variant.file_name, "sm_90a").findings == ()
