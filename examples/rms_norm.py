"""RMS normalisation of every row, times a weight a column: each element read once."""

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
def rms_norm(
    X: T.Tensor(("M", "N"), "float16"),
    W: T.Tensor(("N",), "float16"),
    Y: T.Tensor(("M", "N"), "float16"),
    eps: float = 1e-6,
    block_M: int = 1,
    block_N: int = 4096,
    threads: int = 128,
):
    M, N = X.shape
    with T.Kernel(T.ceildiv(M, block_M), threads=threads) as bx:
        x = T.alloc_fragment((block_M, block_N), "float32")
        square = T.alloc_fragment((block_M, block_N), "float32")
        w = T.alloc_fragment((block_N,), "float16")
        scale = T.alloc_fragment((block_M,), "float32")
        T.copy(X[bx * block_M, 0], x)
        T.copy(W[0], w)
        for i, j in T.Parallel(block_M, block_N):
            square[i, j] = x[i, j] * x[i, j]
        T.reduce_sum(square, scale, dim=1)
        for i in T.Parallel(block_M):
            scale[i] = T.rsqrt(scale[i] / N + eps)
        for i, j in T.Parallel(block_M, block_N):
            x[i, j] = x[i, j] * scale[i] * w[j]
        T.copy(x, Y[bx * block_M, 0])


def reference(X: np.ndarray, W: np.ndarray, eps: float = 1e-6) -> np.ndarray:
    """In 64-bit floats."""
    wide = X.astype(np.float64)
    return wide / np.sqrt(np.mean(wide**2, axis=1, keepdims=True) + eps) * W.astype(np.float64)


def main(xp: Any = np) -> None:
    """Run and check rows that are no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((37, 1000)).astype(np.float16)
    W = rng.standard_normal(1000).astype(np.float16)
    Y = xp.zeros(X.shape, dtype=xp.float16)
    rms_norm(xp.asarray(X), xp.asarray(W), Y)
    found, exact = Y if xp is np else xp.asnumpy(Y), reference(X, W)
    error = np.max(np.abs(found - exact) / (np.abs(exact) + 1))
    assert error < 1e-3, error
    print(f"rms_norm of {X.shape}: largest relative error {error:.2e}")


if __name__ == "__main__":
    main()
