"""Running sums of every row, of any length: a tile at a time, what came before carried along."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def cumsum(
    X: T.Tensor(("M", "N"), "float32"),
    Y: T.Tensor(("M", "N"), "float32"),
    block_M: int = 4,
    block_N: int = 512,
    threads: int = 128,
):
    M, N = X.shape
    with T.Kernel(T.ceildiv(M, block_M), threads=threads) as bx:
        x = T.alloc_fragment((block_M, block_N), "float32")
        sums = T.alloc_fragment((block_M, block_N), "float32")
        carry = T.alloc_fragment((block_M,), "float32")
        T.clear(carry)
        for k in T.serial(T.ceildiv(N, block_N)):
            T.copy(X[bx * block_M, k * block_N], x)
            T.cumsum(x, sums, dim=1)
            for i, j in T.Parallel(block_M, block_N):
                sums[i, j] += carry[i]
            T.reduce_sum(x, carry, dim=1, clear=False)
            T.copy(sums, Y[bx * block_M, k * block_N])


def reference(X: np.ndarray) -> np.ndarray:
    """In 64-bit floats."""
    return np.cumsum(X.astype(np.float64), axis=1)


def main(xp: Any = np) -> None:
    """Run and check rows that are no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((37, 1000)).astype(np.float32)
    Y = xp.zeros(X.shape, dtype=xp.float32)
    cumsum(xp.asarray(X), Y)
    found, exact = Y if xp is np else xp.asnumpy(Y), reference(X)
    error = np.max(np.abs(found - exact) / (np.abs(exact) + 1))
    assert error < 1e-4, error
    print(f"cumsum of {X.shape}: largest relative error {error:.2e}")


if __name__ == "__main__":
    main()
