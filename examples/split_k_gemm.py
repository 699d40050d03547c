"""C += A @ B with K divided among blocks, whose parts meet in C by atomic additions.

For small M and N, whose tiles alone would leave most of a GPU idle. C is to be cleared before.
`tilec run examples/split_k_gemm.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def split_k_gemm(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("K", "N"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    block_M: int = 64,
    block_N: int = 64,
    block_K: int = 64,
    split: int = 8,
    stages: int = 3,
    threads: int = 128,
):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    grid = T.ceildiv(N, block_N), T.ceildiv(M, block_M), split
    with T.Kernel(*grid, threads=threads) as (bx, by, bz):
        A_s = T.alloc_shared((block_M, block_K), "float16")
        B_s = T.alloc_shared((block_K, block_N), "float16")
        acc = T.alloc_fragment((block_M, block_N), "float32")
        T.clear(acc)
        # The parts take the steps along K in turn, so that none has more than one beyond another.
        for step in T.Pipelined(T.ceildiv(T.ceildiv(K, block_K) - bz, split), num_stages=stages):
            k = (step * split + bz) * block_K
            T.copy(A[by * block_M, k], A_s)
            T.copy(B[k, bx * block_N], B_s)
            T.gemm(A_s, B_s, acc)
        T.atomic_add(C[by * block_M, bx * block_N], acc)


def reference(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    return A.astype(np.float64) @ B.astype(np.float64)


def main(xp: Any = np) -> None:
    """Runs and checks a product of small integers, whose sums are exact in any order.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N, K = 100, 72, 2000
    rng = np.random.default_rng(0)
    A = rng.integers(-4, 5, (M, K)).astype(np.float16)
    B = rng.integers(-4, 5, (K, N)).astype(np.float16)
    C = xp.zeros((M, N), dtype=xp.float32)
    split_k_gemm(xp.asarray(A), xp.asarray(B), C)
    assert np.array_equal(C if xp is np else xp.asnumpy(C), reference(A, B)), "a sum is off"
    print(f"split_k_gemm [{M}, {K}] x [{K}, {N}]: {C.size} sums are exact")


if __name__ == "__main__":
    main()
