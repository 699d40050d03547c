"""A 2-D convolution as a product: patches are gathered into shared memory (im2col), a tile at a time.

`tilec run examples/convolution.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

import tilec
import tilec.language as T


def choose_tile(target: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Where shared memory is large: steps of 128 bytes, and tiles as wide as there are filters, up to 128;
    of so many rows that there are tiles for most of the GPU. What three stages leave of the memory is L1's,
    in which the steps of a window find the pixels of those before.
    """
    if target.shared_bytes < 100_000:
        return {}
    *image, filters = shapes["Y"]
    tile = {"block_M": 128, "block_N": 64, "block_K": 64, "threads": 256, "stages": 3}
    if filters <= 64:
        return tile
    tiles = -(-math.prod(image) // 128) * -(-filters // 128)
    return tile | {"block_N": 128} | ({"block_M": 64, "threads": 128} if tiles < 96 else {})


@tilec.heuristic(choose_tile)
@tilec.kernel
def convolution(X, taps, Y, size: int = 3, stride: int = 1, padding: int = 1, dtype: str = "float16",
                block_M: int = 64, block_N: int = 64, block_K: int = 32, threads: int = 128,
                stages: int = 2, cluster: int = 1):  # fmt: skip
    """X is (B, H, W, C), Y (B, P, Q, F); taps is (size * size * C, F), rows by (r, s, c)."""
    C = T.const("C")
    X: T.Tensor(("B", "H", "W", C), dtype)
    taps: T.Tensor((size * size * C, "F"), dtype)
    Y: T.Tensor(("B", "P", "Q", "F"), dtype)
    B, P, Q, F = Y.shape
    K, M = size * size * C, B * P * Q
    blocks = (T.ceildiv(F, block_N), T.ceildiv(M, block_M))
    with T.Kernel(*blocks, threads=threads, cluster=(1, cluster)) as (bx, by):
        patches = T.alloc_shared((block_M, block_K), dtype)
        taps_s = T.alloc_shared((block_K, block_N), dtype)
        acc = T.alloc_fragment((block_M, block_N), "float32")
        pixels = T.alloc_shared((block_M, block_N), dtype)
        T.annotate_layout({pixels: tilec.layout.make_swizzle_layout(pixels)})
        T.clear(acc)
        for step in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
            T.copy(taps[step * block_K, bx * block_N], taps_s)
            for i, j in T.Parallel(block_M, block_K):
                m, k = by * block_M + i, step * block_K + j
                y = m // Q % P * stride + k // (size * C) - padding
                x = m % Q * stride + k // C % size - padding
                # outside the image, and past the last image, loads give zeros
                patches[i, j] = T.if_then_else(k < K, X[m // (P * Q), y, x, k % C], 0)
            T.gemm(patches, taps_s, acc)
        # whole rows of filters are stored, of pixels that lie anywhere
        T.copy(acc, pixels)
        for i, j in T.Parallel(block_M, block_N):
            m = by * block_M + i
            Y[m // (P * Q), m // Q % P, m % Q, bx * block_N + j] = pixels[i, j]


def extent(pixels: int, size: int, stride: int, padding: int) -> int:
    """Rows (or columns) of the result for as many of the image."""
    return (pixels + 2 * padding - size) // stride + 1


def reference(
    X: np.ndarray, taps: np.ndarray, size: int = 3, stride: int = 1, padding: int = 1
) -> np.ndarray:
    """The sum over the window in 64-bit floats, one tap after the other."""
    B, H, width, C = X.shape
    P, Q = (extent(n, size, stride, padding) for n in (H, width))
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    image = np.pad(X.astype(np.float64), sides)
    by_place = taps.astype(np.float64).reshape(size, size, C, -1)
    result = np.zeros((B, P, Q, taps.shape[1]))
    for r in range(size):
        for s in range(size):
            rows = slice(r, r + stride * (P - 1) + 1, stride)
            columns = slice(s, s + stride * (Q - 1) + 1, stride)
            result += image[:, rows, columns] @ by_place[r, s]
    return result


def check(X: np.ndarray, taps: np.ndarray, Y: np.ndarray, **shape: int) -> float:
    """Compare Y with the reference; AssertionError if it is off. Returns the largest error.

    The bound: one rounding to the dtype of Y, and a rounding of 32-bit partial sums for each tap.
    """
    expected = reference(X, taps, **shape)
    rounding = 2.0**-10 if Y.dtype == np.float16 else 2.0**-7
    magnitude = reference(np.abs(X), np.abs(taps), **shape)
    bound = rounding * np.abs(expected) + taps.shape[0] * np.finfo(np.float32).eps * magnitude
    error = np.abs(Y.astype(np.float64) - expected)
    if not np.all(error <= bound):
        wrong = int(np.sum(~(error <= bound)))
        raise AssertionError(f"{wrong} of {error.size} elements are outside the tolerance")
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Run and check a convolution whose extents are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((2, 14, 11, 24)).astype(np.float16)
    taps = (rng.standard_normal((9 * 24, 40)) / 8).astype(np.float16)
    Y = xp.zeros((2, 14, 11, 40), dtype=xp.float16)
    convolution(xp.asarray(X), xp.asarray(taps), Y)
    error = check(X, taps, Y if xp is np else xp.asnumpy(Y))
    print(f"convolution of {X.shape}: {Y.size} elements checked, largest error {error:.2e}")


if __name__ == "__main__":
    main()
