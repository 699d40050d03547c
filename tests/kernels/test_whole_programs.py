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


@tilec.kernel
def settled(B: T.Tensor(("R", 32), "float32"), X: T.Tensor(("R", 32), "float32"),
            trips: T.Tensor(("R",), "int32"), tolerance: T.float32):  # fmt: skip
    """3 x[i] - x[i - 1] - x[i + 1] = b[i], by Jacobi's iteration until nothing moves: elements of a
    fragment decide how often, and one thread notes it.
    """
    with T.Kernel(B.shape[0], threads=32) as row:
        x = T.alloc_shared((34,), "float32")
        new = T.alloc_fragment((32,), "float32")
        moved = T.alloc_fragment((32,), "float32")
        most = T.alloc_fragment((1,), "float32")
        count = T.alloc_var("int32", init=0)
        T.clear(x)
        T.fill(most, 1)
        while most[0] > tolerance:
            for i in T.Parallel(32):
                new[i] = (B[row, i] + x[i] + x[i + 2]) / 3
                moved[i] = T.abs(new[i] - x[i + 1])
            T.reduce_max(moved, most, dim=0)
            for i in T.Parallel(32):
                x[i + 1] = new[i]
            count += 1
        T.copy(x[1:33], X[row, 0:32])
        if T.get_thread_binding() == 0:
            trips[row] = count + T.cast(most[0], "int32")


def test_elements_of_a_fragment_decide() -> None:
    b = np.random.default_rng(0).standard_normal((2, 32)).astype(np.float32)
    matrix = 3 * np.eye(32) - np.eye(32, k=1) - np.eye(32, k=-1)
    expected = np.linalg.solve(matrix, b.astype(np.float64).T).T
    seen = set()
    for device, arrays in every_leg(settled, b, 0 * b, np.zeros(2, np.int32), 1e-6):
        np.testing.assert_allclose(arrays[1], expected, atol=1e-5, err_msg=device)
        seen.add(tuple(arrays[2]))
    assert len(seen) == 1 and min(*seen) > 10
