"""Softmax of rows of any length: one pass for the largest element and the sum, one to divide.

The sum is kept relative to the largest element so far (Milakov and Gimelshein, arXiv 1805.02867),
so that a row need not fit into registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def online_softmax(
    X: T.Tensor(("M", "N"), "float16"),
    Y: T.Tensor(("M", "N"), "float16"),
    block_M: int = 4,
    block_N: int = 1024,
    threads: int = 128,
):
    M, N = X.shape
    with T.Kernel(T.ceildiv(M, block_M), threads=threads) as bx:
        T.annotate_safe_value({X: float("-inf")})
        x = T.alloc_fragment((block_M, block_N), "float32")
        largest = T.alloc_fragment((block_M,), "float32")
        before = T.alloc_fragment((block_M,), "float32")
        total = T.alloc_fragment((block_M,), "float32")
        part = T.alloc_fragment((block_M,), "float32")
        T.fill(largest, float("-inf"))
        T.clear(total)
        for k in T.serial(T.ceildiv(N, block_N)):
            T.copy(X[bx * block_M, k * block_N], x)
            T.copy(largest, before)
            T.reduce_max(x, largest, dim=1, clear=False)
            for i, j in T.Parallel(block_M, block_N):
                x[i, j] = T.exp(x[i, j] - largest[i])
            T.reduce_sum(x, part, dim=1)
            for i in T.Parallel(block_M):
                total[i] = total[i] * T.exp(before[i] - largest[i]) + part[i]
        for i in T.Parallel(block_M):
            total[i] = 1 / total[i]
        for k in T.serial(T.ceildiv(N, block_N)):
            T.copy(X[bx * block_M, k * block_N], x)
            for i, j in T.Parallel(block_M, block_N):
                x[i, j] = T.exp(x[i, j] - largest[i]) * total[i]
            T.copy(x, Y[bx * block_M, k * block_N])


def reference(X: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    wide = X.astype(np.float64)
    e = np.exp(wide - wide.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def main(xp: Any = np) -> None:
    """Run and check rows that are no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((37, 2500)).astype(np.float16)
    Y = xp.zeros(X.shape, dtype=xp.float16)
    online_softmax(xp.asarray(X), Y)
    found, exact = Y if xp is np else xp.asnumpy(Y), reference(X)
    error = np.max(np.abs(found - exact) / (np.abs(exact) + 1))
    assert error < 1e-3, error
    print(f"online_softmax of {X.shape}: largest relative error {error:.2e}")


if __name__ == "__main__":
    main()
