"""B = A^T through a tile of shared memory, so that reads and writes of global memory both run along
rows.

`tilec run examples/transpose.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def transpose(
    A: T.Tensor(("M", "N"), "float16"),
    B: T.Tensor(("N", "M"), "float16"),
    block: int = 64,
    threads: int = 256,
):
    M, N = A.shape
    with T.Kernel(T.ceildiv(N, block), T.ceildiv(M, block), threads=threads) as (bx, by):
        # A row more than 32 banks wide: the elements of a column lie in different banks.
        tile = T.alloc_shared((block, block + 2), "float16")
        for i, j in T.Parallel(block, block):
            tile[i, j] = A[by * block + i, bx * block + j]
        for j, i in T.Parallel(block, block):
            B[bx * block + j, by * block + i] = tile[i, j]


def reference(A: np.ndarray) -> np.ndarray:
    """The view of NumPy."""
    return A.T


def main(xp: Any = np) -> None:
    """Runs and checks a matrix whose extents are no multiples of the tile.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N = 333, 200
    A = np.random.default_rng(0).standard_normal((M, N)).astype(np.float16)
    B = xp.zeros((N, M), dtype=xp.float16)
    transpose(xp.asarray(A), B)
    assert np.array_equal(B if xp is np else xp.asnumpy(B), reference(A)), "an element is off"
    print(f"transpose [{M}, {N}]: {B.size} elements are in their places")


if __name__ == "__main__":
    main()
