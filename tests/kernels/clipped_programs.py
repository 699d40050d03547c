"""A program whose loop is fed by TMA, of which threads read whole tiles: also what lies behind a tensor that
is lower than a tile, and is zero."""

from __future__ import annotations

from typing import Any

import tilec
import tilec.language as T

HALF, FLOAT = "float16", "float32"


@tilec.kernel
def sums(A, B, X, C, Y, extents: Any = ("P", "M"), tile: Any = (4, 32), stages: int = 3):  # type: ignore[no-untyped-def]
    """C = A B^T, and Y the sums of X [P, M, N] over P and the first rows of M: threads add whole tiles."""
    deep, high = tile
    A: T.Tensor((64, "K"), HALF)
    B: T.Tensor((64, "K"), HALF)
    X: T.Tensor((*extents, "N"), HALF)
    C: T.Tensor((64, 64), FLOAT)
    Y: T.Tensor(("N",), FLOAT)
    P, N = X.shape[0], X.shape[2]
    with T.Kernel(T.ceildiv(N, 64), threads=128) as bx:
        A_s, B_s = (T.alloc_shared((64, 32), HALF) for _ in range(2))
        X_s = T.alloc_shared((deep, high, 64), HALF)
        acc = T.alloc_fragment((64, 64), FLOAT)
        total = T.alloc_fragment((64,), FLOAT)
        T.clear(acc)
        T.clear(total)
        for p in T.Pipelined(T.ceildiv(P, deep), num_stages=stages):
            T.copy(A[0, p * 32], A_s)
            T.copy(B[0, p * 32], B_s)
            T.copy(X[p * deep, 0, bx * 64], X_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
            for j in T.Parallel(64):
                for d, i in T.grid(deep, high):
                    total[j] += X_s[d, i, j]
        if bx == 0:
            T.copy(acc, C)
        T.copy(total, Y[bx * 64])
