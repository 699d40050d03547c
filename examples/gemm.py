"""C = A @ B.T in 16-bit floats, accumulated in 32: the first program to read.

`tilec run examples/gemm.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T
from tilec import ops


def choose_tile(target: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The tile that the library takes for a product of these extents, for want of a better one."""
    (M, K), (N, _) = shapes["A"], shapes["B"]
    return ops.choose_tile(target, M, N, K)


@tilec.heuristic(choose_tile)
@tilec.kernel
def matmul(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 128,
    block_N: int = 256,
    block_K: int = 64,
    stages: int = 4,
    threads: int = 256,
):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        A_s = T.alloc_shared((block_M, block_K), "float16")
        B_s = T.alloc_shared((block_N, block_K), "float16")
        acc = T.alloc_fragment((block_M, block_N), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
            T.copy(A[by * block_M, k * block_K], A_s)
            T.copy(B[bx * block_N, k * block_K], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * block_M, bx * block_N])


def reference(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The product in 64-bit floats: what the kernel's C [M, N] is compared with."""
    return A.astype(np.float64) @ B.astype(np.float64).T


def check(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> tuple[float, float]:
    """Compare C [M, N] with the product of A [M, K] and B [N, K]; AssertionError if it is off.

    The bound of an element: one rounding of the result to its own dtype, subnormal or not, and K roundings of
    32-bit partial sums of the magnitude |A| @ |B|. NaN never passes. Returns (largest error,
    largest error as a share of its bound).
    """
    expected = reference(A, B)
    rounding, partial = np.finfo(C.dtype).eps, np.finfo(np.float32).eps
    bound = rounding * np.abs(expected) + A.shape[1] * partial * reference(np.abs(A), np.abs(B))
    bound += np.finfo(C.dtype).smallest_subnormal
    error = np.abs(C.astype(np.float64) - expected)
    if not np.all(error <= bound):
        wrong = int(np.sum(~(error <= bound)))
        raise AssertionError(f"{wrong} of {error.size} elements are outside the tolerance")
    return float(error.max()), float(np.max(error / np.maximum(bound, np.finfo(np.float64).tiny)))


def main(xp: Any = np) -> None:
    """Run and check a product whose extents are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N, K = 500, 696, 328
    rng = np.random.default_rng(0)
    A = rng.standard_normal((M, K)).astype(np.float16)
    B = rng.standard_normal((N, K)).astype(np.float16)
    C = xp.zeros((M, N), dtype=xp.float16)
    matmul(xp.asarray(A), xp.asarray(B), C)
    error, share = check(A, B, C if xp is np else xp.asnumpy(C))
    print(
        f"matmul [{M}, {K}] x [{N}, {K}]: {C.size} elements checked against 64-bit floats, "
        f"largest error {error:.2e}, {share:.0%} of its bound"
    )


if __name__ == "__main__":
    main()
