"""small_loads: scales that TMA cannot load leave the launch its roles, operands that it cannot load do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.passes.planning import Planned, plan, specialised
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.pipeline import Stage
from tilec.ir.ops.tile import Copy

HOPPER = "cuda:sm_90a"


@tilec.kernel
def scaled(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    S: T.Tensor(("M", "G"), "float32"),
    E: T.Tensor(("N", "P"), "uint8"),
    C: T.Tensor(("M", "N"), "float32"),
    form: str = "column",
    rows: int = 64,
    stages: int = 3,
):
    """C = (A times a scale of each row and step) @ (B times two of each row and step).T"""
    M, N, K = A.shape[0], B.shape[0], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, rows), threads=128) as (bx, by):
        A_s = T.alloc_shared((rows, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        scaled_B = T.alloc_shared((64, 64), "float16")
        S_s = T.alloc_shared((rows, 1) if form == "narrow" else (rows,), "float32")
        E_s = T.alloc_shared((64, 2), "uint8")
        part = T.alloc_fragment((rows, 64), "float32")
        acc = T.alloc_fragment((rows, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 64), num_stages=stages):
            T.copy(A[by * rows, k * 64], A_s)
            T.copy(B[bx * 64, k * 64], B_s)
            T.copy(E[bx * 64, k * 2], E_s)
            if form == "nest":
                for i in T.Parallel(rows):
                    S_s[i] = S[by * rows + i, k]
            elif form == "narrow":
                T.copy(S[by * rows, k], S_s)
            else:
                T.copy(S[by * rows : by * rows + rows, k], S_s)
            for i, j in T.Parallel(64, 64):
                scaled_B[i, j] = B_s[i, j] * E_s[i, j // 32]
            T.gemm(A_s, scaled_B, part, transpose_B=True, clear_accum=True)
            for i, j in T.Parallel(rows, 64):
                acc[i, j] += part[i, j] * (S_s[i, 0] if form == "narrow" else S_s[i])
        T.copy(acc, C[by * rows, bx * 64])


def planned(target: str = HOPPER, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(scaled, **constants), "choose_instructions", target, assume=assume)


def instructions(after: Planned) -> dict[str, str]:
    """How each tensor is loaded."""
    copies = {op.source.hint: op.instruction for op in after.all(Copy)}
    nests = [op for op in after.all(Parallel) if not op.updates and op.instruction]
    assert [nest.run for nest in nests] in ([], [1])
    return copies | ({"S": nests[0].instruction} if nests else {})


@pytest.mark.parametrize("form", ["column", "narrow", "nest"])
def test_scales_are_gathered_beside_what_tma_loads(form: str) -> None:
    """A column of 32-bit scales by asynchronous copies; rows of two bytes by threads."""
    after = planned(form=form)
    assert instructions(after) == {"A": "tma", "B": "tma", "S": "cp_async"}
    assert after.one(Gemm).instruction == "wgmma"
    assert [stage.label for stage in after.all(Stage)][:2] == ["load", "make"]
    assert "E is gathered by threads" in after.remark("TLC0339").message
    assert "TLC0320" not in after.codes


def test_where_there_are_no_roles_they_are_copies() -> None:
    """On another machine, of arguments that lie anywhere, of a tile that wgmma does not split."""
    for after in (planned("cuda:sm_80"), planned(assume=False), planned(rows=32)):
        assert {"A", "B", "S", "E"} == set(instructions(after))
        assert not {"TLC0339", "TLC0323"} & {*after.codes}


@tilec.kernel
def transposed(
    A: T.Tensor(("K", "M"), "float32"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
):
    """A's tile is a part of the work, not a scale beside it, though TMA cannot turn it."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 65), "float32")
        B_s = T.alloc_shared((64, 64), "float16")
        half = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(B.shape[1], 64), num_stages=2):
            T.copy(A[k * 64, 1], A_s)
            T.copy(B[0, k * 64], B_s)
            for i, j in T.Parallel(64, 64):
                half[i, j] = A_s[j, i]
            T.gemm(half, B_s, acc, transpose_B=True)
        T.copy(acc, C[0, 0])


def test_operands_that_tma_cannot_load_are_the_launchs() -> None:
    after = plan(specialised(transposed), "choose_instructions", HOPPER)
    assert "A is not a multiple of 16 bytes" in after.remark("TLC0320").message
    assert not [op for op in after.all(Parallel) if op.instruction]


@pytest.mark.emulator
@pytest.mark.parametrize("form", ["column", "narrow"])
def test_scaled_products(form: str) -> None:
    for M, N, K in ((64, 64, 192), (3, 65, 64), (65, 8, 256), (1, 63, 0)):
        rng = np.random.default_rng(M)
        a, b = (rng.integers(-2, 3, (n, K)).astype(np.float16) for n in (M, N))
        s = rng.choice([0.5, 1, 2], (M, K // 64)).astype(np.float32)
        e = rng.integers(0, 4, (N, K // 32)).astype(np.uint8)
        exact = (a * np.repeat(s, 64, 1)) @ (b * np.repeat(e, 32, 1).astype(np.float64)).T
        C = np.full((M, N), np.nan, np.float32)
        for device, (*_, found) in every_leg(scaled, a, b, s, e, C, form=form):
            np.testing.assert_array_equal(found, exact, f"{device} {M, N, K}")
