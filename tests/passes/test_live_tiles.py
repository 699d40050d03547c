"""live_tiles: registers of tiles that are live together, against counts by hand."""

from __future__ import annotations

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import plan, specialised
from tilec.ir.core import Program
from tilec.ir.ops.control import Launch
from tilec.passes.live_tiles import live_registers
from tilec.target import find_target


def registers(program: Program, target: str) -> int:
    return live_registers(plan(program, "assign_roles", target).one(Launch), find_target(target))


@pytest.mark.parametrize(
    ("target", "tile", "expected"),
    [
        # The accumulator, then 16 x 8 x 16 of 2 x 2 warps: 32 rows and 32 columns of 16 k each.
        ("cuda:sm_80", {}, 32 + 8 + 8),
        # 2 x 4 warps of 64 x 64
        ("cuda:sm_80", {"bm": 128, "bn": 256, "threads": 256}, 128 + 16 + 16),
        # 16 x 8 x 8: half of it
        ("cuda:sm_75", {}, 32 + 4 + 4),
        # wgmma reads shared memory
        ("cuda:sm_90a", {}, 32),
        # 32 x 32 x 8 of 2 x 2 waves
        ("hip:gfx942", {"threads": 256}, 16 + 2 + 2),
    ],
)
def test_a_gemm_takes_its_accumulator_and_one_step_of_operands(
    target: str, tile: dict[str, int], expected: int
) -> None:
    assert registers(specialised(kernels.gemm_nt, **tile), target) == expected


@tilec.kernel
def two_products(Q: T.Tensor((64, 64), "float16"), K: T.Tensor(("N", 64), "float16"),
                 Out: T.Tensor((64, 64), "float32"), n: int = 32,
                 keep: bool = False):  # fmt: skip
    """Q K^T K by blocks of `n` keys; with `keep` all blocks' scores are summed as well."""
    with T.Kernel(1, threads=128):
        Q_s = T.alloc_shared((64, 64), "float16")
        K_s = T.alloc_shared((n, 64), "float16")
        scores = T.alloc_fragment((64, n), "float32")
        kept = T.alloc_fragment((64, n), "float32")
        weights = T.alloc_fragment((64, n), "float16")
        out = T.alloc_fragment((64, 64), "float32")
        largest = T.alloc_fragment((64,), "float32")
        T.copy(Q, Q_s)
        T.clear(out)
        T.clear(kept)
        T.fill(largest, 0)
        for k in T.Pipelined(T.ceildiv(K.shape[0], n), num_stages=2):
            T.copy(K[k * n, 0], K_s)
            T.gemm(Q_s, K_s, scores, transpose_B=True, clear_accum=True)
            T.reduce_max(scores, largest, dim=1, clear=False)
            if keep:
                for i, j in T.Parallel(64, n):
                    kept[i, j] += scores[i, j] + largest[i]
            T.copy(scores, weights)
            T.gemm(weights, K_s, out)
        for i, j in T.Parallel(64, 64):
            out[i, j] += largest[i]
        if keep:
            for i, j in T.Parallel(64, n):
                out[i, j] += kept[i, j]
        T.copy(out, Out)


def test_accumulators_that_are_live_together_add_up() -> None:
    # The first product is the peak: 32 of out, 2 of largest (four lanes share a row), the scores,
    # and 2 x 2 warps' fragments of 32 rows of Q and 16 or 32 of K.
    assert registers(specialised(two_products), "cuda:sm_80") == 32 + 2 + 16 + 8 + 4
    assert registers(specialised(two_products, n=64), "cuda:sm_80") == 32 + 2 + 32 + 8 + 8


def test_what_a_loop_carries_is_live_in_all_of_it() -> None:
    without = registers(specialised(two_products, n=64), "cuda:sm_80")
    assert registers(specialised(two_products, n=64, keep=True), "cuda:sm_80") == without + 32
