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


@tilec.kernel
def diffused(X: T.Tensor(("D", "H", "W"), "float32"), Y: T.Tensor(("D", "H", "W"), "float32"),
             rate: T.float32, b: int = 5):  # fmt: skip
    """A step of diffusion in three dimensions: tiles of odd extents, dealt out to all threads."""
    D, H, W = X.shape
    with T.Kernel(T.ceildiv(W, b), T.ceildiv(H, b), T.ceildiv(D, b), threads=96) as (bx, by, bz):
        S = T.alloc_shared((b + 2, b + 2, b + 2), "float32")
        for i, j, k in T.Parallel(b + 2, b + 2, b + 2):
            z, y, x = bz * b + i - 1, by * b + j - 1, bx * b + k - 1
            S[i, j, k] = X[T.clamp(z, 0, D - 1), T.clamp(y, 0, H - 1), T.clamp(x, 0, W - 1)]
        for i, j, k in T.Parallel(b, b, b):
            around = S[i, j + 1, k + 1] + S[i + 2, j + 1, k + 1] + S[i + 1, j, k + 1]
            around += S[i + 1, j + 2, k + 1] + S[i + 1, j + 1, k] + S[i + 1, j + 1, k + 2]
            here = S[i + 1, j + 1, k + 1]
            Y[bz * b + i, by * b + j, bx * b + k] = here + rate * (around - 6 * here)


@pytest.mark.parametrize("size", [(5, 5, 5), (4, 7, 11), (1, 1, 1)], ids=str)
def test_stencils_of_odd_tiles(size: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    p = np.pad(x.astype(np.float64), 1, mode="edge")
    here, inner = p[1:-1, 1:-1, 1:-1], slice(1, -1)
    around = p[:-2, inner, inner] + p[2:, inner, inner] + p[inner, :-2, inner]
    around = around + p[inner, 2:, inner] + p[inner, inner, :-2] + p[inner, inner, 2:]
    for device, arrays in every_leg(diffused, x, 0 * x, 0.1):
        np.testing.assert_allclose(
            arrays[1], here + 0.1 * (around - 6 * here), atol=1e-5, err_msg=device
        )


@tilec.kernel
def factored(A: T.Tensor(("B", 8, 8), "float64")):
    """LU without pivoting by one thread a row: whose turn it is depends on the thread."""
    with T.Kernel(A.shape[0], threads=32) as b:
        S = T.alloc_shared((8, 8), "float64")
        row = T.get_thread_binding()
        T.copy(A[b, 0, 0], S)
        for k in T.serial(7):
            if row > k and row < 8:
                S[row, k] = S[row, k] / S[k, k]
            if row > k and row < 8:
                for j in T.serial(k + 1, 8):
                    S[row, j] = S[row, j] - S[row, k] * S[k, j]
        T.copy(S, A[b, 0, 0])


def test_rows_that_are_eliminated_thread_by_thread() -> None:
    a = np.random.default_rng(0).standard_normal((2, 8, 8)) + 8 * np.eye(8)
    for device, arrays in every_leg(factored, a):
        lower, upper = np.tril(arrays[0], -1) + np.eye(8), np.triu(arrays[0])
        np.testing.assert_allclose(lower @ upper, a, atol=1e-10, err_msg=device)


@tilec.kernel
def rescaled(A: T.Tensor(("M", "K"), "float16"), Y: T.Tensor(("M", "M"), "float32"),
             Z: T.Tensor(("M", "M"), "float32")):  # fmt: skip
    """Y is written, read and written again by one block, each time by other threads."""
    with T.Kernel(1, threads=128):
        a = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        peak = T.alloc_fragment((64,), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 64), num_stages=2):
            T.copy(A[0, k * 64], a)
            T.gemm(a, a, acc, transpose_B=True)
        T.copy(acc, Y[0, 0])
        T.reduce_max(acc, peak, dim=1)
        for i, j in T.Parallel(64, 64):
            acc[i, j] = Y[j, i] - peak[i]
        T.copy(acc, Y[0, 0])
        for i, j in T.Parallel(64, 64):
            Z[j, i] = Y[i, j] * 2


@pytest.mark.parametrize("size", [(64, 128), (40, 24)], ids=str)
def test_global_memory_that_a_block_uses_again(size: tuple[int, int]) -> None:
    m = size[0]
    a = np.random.default_rng(0).integers(-2, 3, size).astype(np.float16)
    product = a.astype(np.float64) @ a.T.astype(np.float64)
    y = product - np.maximum(product.max(axis=1), 0 if m < 64 else -np.inf)[:, None]
    empty = np.zeros((m, m), np.float32)
    for device, arrays in every_leg(rescaled, a, empty, empty):
        np.testing.assert_array_equal(arrays[1], y, err_msg=device)
        np.testing.assert_array_equal(arrays[2], 2 * y.T, err_msg=device)
