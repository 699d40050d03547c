"""split_slices: buffers that are used slice by slice, in a pipelined loop, are several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tilec.ir.ops.memory import Alloc, Slot
from tilec.ir.ops.pipeline import Channel
from tilec.ir.ops.tile import Copy
from tilec.runtime.driver import lower


@tilec.kernel
def gated(
    X: T.Tensor(("M", "K"), "float16"), W: T.Tensor((3, "N", "K"), "float16"),
    Y: T.Tensor(("M", "N"), "float32"), how: str = "slices", stages: int = 2,
):  # fmt: skip
    """X W[1]^T times X W[2]^T, less X W[0]^T; the first two in one loop, the last in another."""
    M, N, K = X.shape[0], W.shape[1], X.shape[1]
    with T.Kernel(T.ceildiv(N, 32), T.ceildiv(M, 64), threads=128) as (bx, by):
        x = T.alloc_shared((64, 32), "float16")
        w = T.alloc_shared((2, 32, 32), "float16")
        a, b, c = (T.alloc_fragment((64, 32), "float32") for _ in range(3))
        for acc in (a, b, c):
            T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=stages):
            T.copy(X[by * 64, k * 32], x)
            T.copy(W[1, bx * 32, k * 32], w)
            if how == "elements":
                for i, j, n in T.Parallel(2, 32, 32):
                    w[i, j, n] = w[i, j, n] * 1
            T.gemm(x, w[0, :, :], a, transpose_B=True)
            T.gemm(x, w[k % 2 if how == "run time" else 1, :, :], b, transpose_B=True)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=stages):
            T.copy(X[by * 64, k * 32], x)
            T.copy(W[0, bx * 32, k * 32], w[1, :, :])
            T.gemm(x, w[1, :, :], c, transpose_B=True)
        for i, j in T.Parallel(64, 32):
            Y[by * 64 + i, bx * 32 + j] = a[i, j] * b[i, j] - c[i, j]


def split(**constants: Any) -> Planned:
    return plan(specialised(gated, **constants), "split_slices")


def shapes(result: Planned) -> list[tuple[int, ...]]:
    return [op.type.shape for op in result.all(Alloc)]


def test_a_slice_is_a_buffer() -> None:
    result = split()
    assert shapes(result) == [(64, 32), (32, 32), (32, 32)]
    assert not result.all(Slot) and len(result.all(Copy)) == 5
    keeps_meaning(gated.lower_to_ir(), result.program)


@pytest.mark.parametrize(
    "constants", [{"how": "elements"}, {"how": "run time"}, {"stages": 0}], ids=str
)
def test_what_is_not_taken_by_numbers_alone_stays_whole(constants: dict[str, Any]) -> None:
    assert (2, 32, 32) in shapes(split(**constants))


def test_slices_are_loaded_ahead() -> None:
    """Each is a channel of its own in each loop, which TMA fills where there is that."""
    planned = plan(specialised(gated), "plan_pipelines")
    assert [c.type.slots for c in planned.all(Channel)] == [2] * 5
    text = lower(gated, (), "cuda:sm_90a", {}).variants[0].text
    assert text.count("tma_load<") == 5 and "cp_async" not in text.split("gated_kernel")[1]


@pytest.mark.emulator
@pytest.mark.parametrize("size", [(64, 32, 96), (65, 70, 40), (1, 1, 1), (3, 33, 0)], ids=str)
def test_every_machine_agrees(size: tuple[int, int, int]) -> None:
    m, n, k = size
    rng = np.random.default_rng(m)
    x, w = (rng.integers(-2, 3, shape).astype(np.float16) for shape in ((m, k), (3, n, k)))
    one, two, three = (x.astype(np.float32) @ w[i].astype(np.float32).T for i in (1, 2, 0))
    for leg, (_, _, y) in every_leg(gated, x, w, np.zeros((m, n), np.float32)):
        np.testing.assert_array_equal(y, one * two - three, err_msg=leg)
