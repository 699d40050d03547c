"""Programs as their users write them, whole: every machine gives what NumPy gives."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg

pytestmark = pytest.mark.emulator


@tilec.kernel
def block_scaled(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
                 sa: T.Tensor(("M", "G"), "float32"), sb: T.Tensor(("H", "G"), "float32"),
                 C: T.Tensor(("M", "N"), "float32"), block: int = 32, stages: int = 2):  # fmt: skip
    """Products of blocks of k, each scaled before it is added (as DeepSeek-V3 does for 8-bit floats):
    the accumulator starts anew at the end of every iteration.
    """
    M, N, K = A.shape[0], B.shape[0], A.shape[1]
    with T.Kernel(T.ceildiv(N, block), T.ceildiv(M, block), threads=64) as (bx, by):
        A_s = T.alloc_shared((block, block), "float16")
        B_s = T.alloc_shared((block, block), "float16")
        scale = T.alloc_shared((block,), "float32")
        acc = T.alloc_fragment((block, block), "float32")
        total = T.alloc_fragment((block, block), "float32")
        T.clear(acc)
        T.clear(total)
        for k in T.Pipelined(T.ceildiv(K, block), num_stages=stages):
            T.copy(A[by * block, k * block], A_s)
            T.copy(B[bx * block, k * block], B_s)
            for i in T.Parallel(block):
                scale[i] = sa[by * block + i, k] * sb[bx, k]
            T.gemm(A_s, B_s, acc, transpose_B=True)
            for i, j in T.Parallel(block, block):
                total[i, j] += acc[i, j] * scale[i]
            T.clear(acc)
        T.copy(total, C[by * block, bx * block])


@pytest.mark.parametrize("size", [(32, 32, 96), (33, 40, 70), (1, 1, 1), (5, 7, 0)], ids=str)
def test_products_that_are_scaled_block_by_block(size: tuple[int, int, int]) -> None:
    m, n, k = size
    rng = np.random.default_rng(m)
    a, b = (rng.integers(-4, 5, (rows, k)).astype(np.float16) for rows in (m, n))
    blocks = -(-k // 32)
    sa = rng.integers(1, 4, (m, blocks)).astype(np.float32)
    sb = rng.integers(1, 4, (-(-n // 32), blocks)).astype(np.float32)
    wide = np.repeat(sa, 32, 1)[:, :k], np.repeat(np.repeat(sb, 32, 0)[:n], 32, 1)[:, :k]
    expected = (a * wide[0]) @ (b * wide[1]).T
    for device, arrays in every_leg(block_scaled, a, b, sa, sb, np.zeros((m, n), np.float32)):
        np.testing.assert_array_equal(arrays[-1], expected, err_msg=device)
