"""Sums of all rows and of all columns, in one reading of the matrix.

Every block reads a strip of rows: its row sums are whole, its column sums are parts, which a second
launch adds up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


@tilec.kernel
def sums(
    X: T.Tensor(("M", "N"), "float16"),
    rows: T.Tensor(("M",), "float32"),
    columns: T.Tensor(("N",), "float32"),
    block_M: int = 32,
    block_N: int = 256,
    threads: int = 256,
):
    M, N = X.shape
    strips = T.ceildiv(M, block_M)
    parts = T.alloc_global((strips, N), "float32")
    with T.Kernel(strips, threads=threads) as bx:
        x = T.alloc_fragment((block_M, block_N), "float32")
        row = T.alloc_fragment((block_M,), "float32")
        column = T.alloc_fragment((block_N,), "float32")
        T.clear(row)
        for k in T.serial(T.ceildiv(N, block_N)):
            T.copy(X[bx * block_M, k * block_N], x)
            T.reduce_sum(x, row, dim=1, clear=False)
            T.reduce_sum(x, column, dim=0)
            T.copy(column, parts[bx, k * block_N])
        T.copy(row, rows[bx * block_M])
    with T.Kernel(T.ceildiv(N, 64), threads=threads) as bx:
        part = T.alloc_fragment((64, 64), "float32")
        total = T.alloc_fragment((64,), "float32")
        T.clear(total)
        for k in T.serial(T.ceildiv(strips, 64)):
            T.copy(parts[k * 64, bx * 64], part)
            T.reduce_sum(part, total, dim=0, clear=False)
        T.copy(total, columns[bx * 64])


def reference(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """In 64-bit floats: the sums of the rows, and of the columns."""
    wide = X.astype(np.float64)
    return wide.sum(axis=1), wide.sum(axis=0)


def main(xp: Any = np) -> None:
    """Run and check a matrix that is no multiple of the tile. `xp` holds the arrays: numpy (the
    interpreter) or cupy (the GPU).
    """
    X = np.random.default_rng(0).standard_normal((300, 1000)).astype(np.float16)
    made = xp.zeros(300, dtype=xp.float32), xp.zeros(1000, dtype=xp.float32)
    sums(xp.asarray(X), *made)
    for name, found, exact in zip(("rows", "columns"), made, reference(X), strict=True):
        error = np.max(np.abs((found if xp is np else xp.asnumpy(found)) - exact))
        assert error < 1e-3, error
        print(f"sums of {name} of {X.shape}: largest error {error:.2e}")


if __name__ == "__main__":
    main()
