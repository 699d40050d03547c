"""C = op(A) @ op(B) for either operand stored either way, in float16 or bfloat16.

`tilec run examples/gemm_transposes.py` compiles all four, runs them and checks them, on a GPU or in
NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def matmul(A, B, C, transpose_A: bool = False, transpose_B: bool = False, dtype: str = "float16",
           policy: T.GemmWarpPolicy = T.GemmWarpPolicy.Square, block_M: int = 128,
           block_N: int = 128, block_K: int = 32, stages: int = 3,
           threads: int = 128):  # fmt: skip
    """A is (M, K), or (K, M) with `transpose_A`; B is (K, N), or (N, K) with `transpose_B`."""
    A: T.Tensor(("K", "M") if transpose_A else ("M", "K"), dtype)
    B: T.Tensor(("N", "K") if transpose_B else ("K", "N"), dtype)
    C: T.Tensor(("M", "N"), dtype)
    M, N, K = C.shape[0], C.shape[1], A.shape[0 if transpose_A else 1]
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        A_s = T.alloc_shared((block_K, block_M) if transpose_A else (block_M, block_K), dtype)
        B_s = T.alloc_shared((block_N, block_K) if transpose_B else (block_K, block_N), dtype)
        acc = T.alloc_fragment((block_M, block_N), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
            m, n = by * block_M, bx * block_N
            T.copy(A[k * block_K, m] if transpose_A else A[m, k * block_K], A_s)
            T.copy(B[n, k * block_K] if transpose_B else B[k * block_K, n], B_s)
            T.gemm(A_s, B_s, acc, transpose_A, transpose_B, policy=policy)
        T.copy(acc, C[by * block_M, bx * block_N])


def reference(
    A: np.ndarray, B: np.ndarray, transpose_A: bool = False, transpose_B: bool = False
) -> np.ndarray:
    """The product in 64-bit floats: what the kernel's C [M, N] is compared with."""
    a, b = A.astype(np.float64), B.astype(np.float64)
    return (a.T if transpose_A else a) @ (b.T if transpose_B else b)


def check(A: np.ndarray, B: np.ndarray, C: np.ndarray, *transposes: bool) -> float:
    """Compare C with the product; AssertionError if it is off. Returns the largest error.

    The bound: one rounding to the dtype of C, and K roundings of 32-bit partial sums.
    """
    expected = reference(A, B, *transposes)
    magnitude = reference(np.abs(A), np.abs(B), *transposes)
    rounding = 2.0**-10 if C.dtype == np.float16 else 2.0**-7
    depth = A.shape[0 if transposes and transposes[0] else 1]
    bound = rounding * np.abs(expected) + depth * np.finfo(np.float32).eps * magnitude
    error = np.abs(C.astype(np.float64) - expected)
    if not np.all(error <= bound):
        wrong = int(np.sum(~(error <= bound)))
        raise AssertionError(f"{wrong} of {error.size} elements are outside the tolerance")
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Run and check the four products at extents that are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N, K = 200, 168, 104
    rng = np.random.default_rng(0)
    for ta, tb in ((False, False), (False, True), (True, False), (True, True)):
        A = rng.standard_normal((K, M) if ta else (M, K)).astype(np.float16)
        B = rng.standard_normal((N, K) if tb else (K, N)).astype(np.float16)
        C = xp.zeros((M, N), dtype=xp.float16)
        matmul(xp.asarray(A), xp.asarray(B), C, transpose_A=ta, transpose_B=tb)
        error = check(A, B, C if xp is np else xp.asnumpy(C), ta, tb)
        print(f"A{A.shape} B{B.shape}: {C.size} elements checked, largest error {error:.2e}")


if __name__ == "__main__":
    main()
