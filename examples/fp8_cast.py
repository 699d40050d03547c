"""Quantises every row (token) to 8-bit floats, by its largest element: each element read once."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import tilec
import tilec.language as T

LARGEST = 448.0  # of float8_e4m3fn
SMALLEST_AMAX = 1e-4  # a row of zeros has a scale too


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
def fp8_cast(
    X: T.Tensor(("M", "N"), "float16"),
    Q: T.Tensor(("M", "N"), "float8_e4m3fn"),
    Scale: T.Tensor(("M",), "float32"),
    block_M: int = 1,
    block_N: int = 4096,
    threads: int = 128,
):
    M = X.shape[0]
    with T.Kernel(T.ceildiv(M, block_M), threads=threads) as bx:
        x = T.alloc_fragment((block_M, block_N), "float32")
        scale = T.alloc_fragment((block_M,), "float32")
        T.copy(X[bx * block_M, 0], x)
        T.reduce_absmax(x, scale, dim=1)
        for i in T.Parallel(block_M):
            scale[i] = T.max(scale[i], SMALLEST_AMAX) / LARGEST
        for i, j in T.Parallel(block_M, block_N):
            x[i, j] = x[i, j] / scale[i]
        T.copy(x, Q[bx * block_M, 0])  # rounds to nearest even; out of range it saturates
        T.copy(scale, Scale[bx * block_M])


def reference(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quotients [M, N] before they are rounded, and scales [M], in 64-bit floats."""
    wide = X.astype(np.float64)
    scale = np.maximum(np.abs(wide).max(axis=1, initial=0.0), SMALLEST_AMAX) / LARGEST
    return wide / scale[:, None], scale


def check(X: np.ndarray, Q: np.ndarray, Scale: np.ndarray) -> float:
    """Compares with the reference; AssertionError if it is off. Returns the largest error of a
    quotient as a share of half a unit in its last place (1, but for the 32-bit division).
    """
    exact, scale = reference(X)
    assert np.all(np.abs(Scale - scale) <= 2.0**-22 * scale)
    half_unit = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(exact), 2.0**-6))) - 4)
    share = np.abs(Q.astype(np.float64) - exact) / half_unit
    assert np.all(share <= 1 + 2.0**-16), share.max()
    return float(share.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Run and check rows that are no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU), which gets the 8-bit floats as bytes.
    """
    X = (np.random.default_rng(0).standard_normal((37, 1000)) * 10).astype(np.float16)
    X[5] = 0
    Q, Scale = xp.zeros(X.shape, dtype=xp.uint8), xp.zeros(len(X), dtype=xp.float32)
    fp8_cast(xp.asarray(X), Q, Scale)
    codes, scales = (a if xp is np else xp.asnumpy(a) for a in (Q, Scale))
    error = check(X, codes.view(ml_dtypes.float8_e4m3fn), scales)
    print(f"fp8_cast of {X.shape}: largest error {error:.3f} of half a unit in the last place")


if __name__ == "__main__":
    main()
