"""Layer normalisation of every row, with a weight and a bias a column: mean and variance are taken
from registers, or of long rows part by part.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T

MOST = 8192
"""Elements of a row that is kept in registers."""


def row_tiles(target: Any, shapes: Any) -> dict[str, Any]:
    """Whole rows in registers, 16 elements a thread, and several short ones a block; parts of longer ones."""
    N = shapes["X"][1]
    if N > MOST:
        return {"block_M": 1, "block_N": MOST, "threads": 512, "whole": False}
    block_N = max(128, 1 << (N - 1).bit_length())
    block_M = max(1, 2048 // block_N)
    return {"block_M": block_M, "block_N": block_N, "threads": block_M * block_N // 16}


@T.macro
def take_mean(sums, mean, N):
    """The mean of each row of N elements, whose sum is that of a row of `sums`."""
    T.reduce_sum(sums, mean, dim=1)
    for i in T.Parallel(mean.shape[0]):
        mean[i] = mean[i] / N


@T.macro
def take_scale(squares, scale, N, eps):
    """What each row is multiplied by, from the squares of its N centred elements."""
    T.reduce_sum(squares, scale, dim=1)
    for i in T.Parallel(scale.shape[0]):
        scale[i] = T.rsqrt(scale[i] / N + eps)


@T.macro
def rows_in_registers(X, W, B, Y, eps, first, block_M, block_N):
    """Each element is read once."""
    N = X.shape[1]
    x = T.alloc_fragment((block_M, block_N), "float32")
    square = T.alloc_fragment((block_M, block_N), "float32")
    mean = T.alloc_fragment((block_M,), "float32")
    scale = T.alloc_fragment((block_M,), "float32")
    T.copy(X[first, 0], x)
    take_mean(x, mean, N)
    for i, j in T.Parallel(block_M, block_N):
        x[i, j] = T.if_then_else(j < N, x[i, j] - mean[i], 0)
        square[i, j] = x[i, j] * x[i, j]
    take_scale(square, scale, N, eps)
    for i, j in T.Parallel(block_M, block_N):
        x[i, j] = x[i, j] * scale[i] * W[j] + B[j]
    T.copy(x, Y[first, 0])


@T.macro
def rows_in_parts(X, W, B, Y, eps, first, block_M, block_N):
    """Each element is read three times, mostly from the L2 cache."""
    N = X.shape[1]
    x = T.alloc_fragment((block_M, block_N), "float32")
    sums = T.alloc_fragment((block_M, block_N), "float32")
    mean = T.alloc_fragment((block_M,), "float32")
    scale = T.alloc_fragment((block_M,), "float32")
    T.clear(sums)
    for k in T.serial(T.ceildiv(N, block_N)):
        T.copy(X[first, k * block_N], x)
        for i, j in T.Parallel(block_M, block_N):
            sums[i, j] += x[i, j]
    take_mean(sums, mean, N)
    T.clear(sums)
    for k in T.serial(T.ceildiv(N, block_N)):
        T.copy(X[first, k * block_N], x)
        for i, j in T.Parallel(block_M, block_N):
            centred = T.if_then_else(k * block_N + j < N, x[i, j] - mean[i], 0)
            sums[i, j] += centred * centred
    take_scale(sums, scale, N, eps)
    for k in T.serial(T.ceildiv(N, block_N)):
        T.copy(X[first, k * block_N], x)
        for i, j in T.Parallel(block_M, block_N):
            n = k * block_N + j
            x[i, j] = (x[i, j] - mean[i]) * scale[i] * W[n] + B[n]
        T.copy(x, Y[first, k * block_N])


@tilec.heuristic(row_tiles)
@tilec.kernel
def layer_norm(
    X: T.Tensor(("M", "N"), "float16"),
    W: T.Tensor(("N",), "float16"),
    B: T.Tensor(("N",), "float16"),
    Y: T.Tensor(("M", "N"), "float16"),
    eps: float = 1e-5,
    block_M: int = 1,
    block_N: int = 4096,
    threads: int = 256,
    whole: bool = True,
):
    with T.Kernel(T.ceildiv(X.shape[0], block_M), threads=threads) as bx:
        normalise = rows_in_registers if whole else rows_in_parts
        normalise(X, W, B, Y, eps, bx * block_M, block_M, block_N)


def reference(X: np.ndarray, W: np.ndarray, B: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """In 64-bit floats."""
    x, w, b = (a.astype(np.float64) for a in (X, W, B))
    centred = x - x.mean(axis=1, keepdims=True)
    return centred / np.sqrt(np.mean(centred**2, axis=1, keepdims=True) + eps) * w + b


def main(xp: Any = np) -> None:
    """Run and check rows that are no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((37, 1000)).astype(np.float16)
    W, B = (rng.standard_normal(1000).astype(np.float16) for _ in range(2))
    Y = xp.zeros(X.shape, dtype=xp.float16)
    layer_norm(xp.asarray(X), xp.asarray(W), xp.asarray(B), Y)
    found, exact = Y if xp is np else xp.asnumpy(Y), reference(X, W, B)
    error = np.max(np.abs(found - exact) / (np.abs(exact) + 1))
    assert error < 1e-3, error
    print(f"layer_norm of {X.shape}: largest relative error {error:.2e}")


if __name__ == "__main__":
    main()
