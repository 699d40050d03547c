"""RMS normalisation of every row, times a weight a column; rows in registers, or long ones in parts."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T

MOST = 16384
"""Elements of a row that is kept in registers."""


def row_tiles(target: Any, shapes: Any) -> dict[str, Any]:
    """Whole rows in registers: 32 elements a thread, four 16-byte loads in flight; parts of longer ones."""
    N = shapes["X"][1]
    if N > MOST:
        return {"block_M": 1, "block_N": MOST // 2, "threads": 512, "whole": False}
    block_N = max(128, 1 << (N - 1).bit_length())
    return {
        "block_M": max(1, 4096 // block_N),
        "block_N": block_N,
        "threads": max(128, block_N // 32),
    }


@T.macro
def take_scale(squares, scale, N, eps):
    """What each row is multiplied by, from the squares of its N elements."""
    T.reduce_sum(squares, scale, dim=1)
    for i in T.Parallel(scale.shape[0]):
        scale[i] = T.rsqrt(scale[i] / N + eps)


@T.macro
def rows_in_registers(X, W, Y, eps, first, block_M, block_N):
    """Each element is read once."""
    x = T.alloc_fragment((block_M, block_N), "float32")
    square = T.alloc_fragment((block_M, block_N), "float32")
    w = T.alloc_fragment((block_N,), "float16")
    scale = T.alloc_fragment((block_M,), "float32")
    T.copy(X[first, 0], x)
    T.copy(W[0], w)
    for i, j in T.Parallel(block_M, block_N):
        square[i, j] = x[i, j] * x[i, j]
    take_scale(square, scale, X.shape[1], eps)
    for i, j in T.Parallel(block_M, block_N):
        x[i, j] = x[i, j] * scale[i] * w[j]
    T.copy(x, Y[first, 0])


@T.macro
def rows_in_parts(X, W, Y, eps, first, block_M, block_N):
    """Each element is read twice, mostly from the L2 cache the second time."""
    N = X.shape[1]
    x = T.alloc_fragment((block_M, block_N), "float32")
    squares = T.alloc_fragment((block_M, block_N), "float32")
    scale = T.alloc_fragment((block_M,), "float32")
    T.clear(squares)
    for k in T.serial(T.ceildiv(N, block_N)):
        T.copy(X[first, k * block_N], x)
        for i, j in T.Parallel(block_M, block_N):
            squares[i, j] += x[i, j] * x[i, j]
    take_scale(squares, scale, N, eps)
    for k in T.serial(T.ceildiv(N, block_N)):
        T.copy(X[first, k * block_N], x)
        for i, j in T.Parallel(block_M, block_N):
            x[i, j] = x[i, j] * scale[i] * W[k * block_N + j]
        T.copy(x, Y[first, k * block_N])


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
    whole: bool = True,
):
    with T.Kernel(T.ceildiv(X.shape[0], block_M), threads=threads) as bx:
        normalise = rows_in_registers if whole else rows_in_parts
        normalise(X, W, Y, eps, bx * block_M, block_M, block_N)


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
