"""Softmax of every row, each row read once and held in registers.

`tilec run examples/softmax.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


def row_tiles(target: Any, shapes: Any) -> dict[str, int]:
    """Whole rows in registers: 32 elements a thread, four 16-byte loads in flight."""
    block_N = max(128, 1 << (shapes["X"][1] - 1).bit_length())
    return {
        "block_M": max(1, 4096 // block_N),
        "block_N": block_N,
        "threads": min(1024, max(128, block_N // 32)),
    }


@tilec.heuristic(row_tiles)
@tilec.kernel
def softmax(
    X: T.Tensor(("M", "N"), "float16"),
    Y: T.Tensor(("M", "N"), "float16"),
    block_M: int = 1,
    block_N: int = 4096,
    threads: int = 128,
):
    M = X.shape[0]
    with T.Kernel(T.ceildiv(M, block_M), threads=threads) as bx:
        T.annotate_safe_value({X: float("-inf")})
        x = T.alloc_fragment((block_M, block_N), "float32")
        largest = T.alloc_fragment((block_M,), "float32")
        scale = T.alloc_fragment((block_M,), "float32")
        T.copy(X[bx * block_M, 0], x)
        T.reduce_max(x, largest, dim=1)
        for i, j in T.Parallel(block_M, block_N):
            x[i, j] = T.exp(x[i, j] - largest[i])
        T.reduce_sum(x, scale, dim=1)
        for i in T.Parallel(block_M):
            scale[i] = 1 / scale[i]
        for i, j in T.Parallel(block_M, block_N):
            x[i, j] *= scale[i]
        T.copy(x, Y[bx * block_M, 0])


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
    X = rng.standard_normal((37, 1000)).astype(np.float16)
    Y = xp.zeros(X.shape, dtype=xp.float16)
    softmax(xp.asarray(X), Y)
    found, exact = Y if xp is np else xp.asnumpy(Y), reference(X)
    error = np.max(np.abs(found - exact) / (np.abs(exact) + 1))
    assert error < 1e-3, error
    print(f"softmax of {X.shape}: largest relative error {error:.2e}")


if __name__ == "__main__":
    main()
