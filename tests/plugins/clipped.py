"""A kernel that uses what acme_plugin adds: its op on the result of a GEMM, its dtype in memory."""

from __future__ import annotations

from acme_plugin import clip, fixed

import tilec
import tilec.language as T


@tilec.kernel
def clipped(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), fixed),
    tile: int = 64,
    depth: int = 32,
):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, tile), T.ceildiv(M, tile), threads=128) as (bx, by):
        A_s = T.alloc_shared((tile, depth), "float16")
        B_s = T.alloc_shared((tile, depth), "float16")
        acc = T.alloc_fragment((tile, tile), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, depth), num_stages=2):
            T.copy(A[by * tile, k * depth], A_s)
            T.copy(B[bx * tile, k * depth], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        for i, j in T.Parallel(tile, tile):
            C[by * tile + i, bx * tile + j] = clip(clip(acc[i, j] * 0.125))


@tilec.kernel
def doubled(A: T.Tensor(("N",), fixed), B: T.Tensor(("N",), fixed)):
    with T.Kernel(T.ceildiv(A.shape[0], 32), threads=32) as bx:
        S = T.alloc_shared((32,), fixed)
        T.copy(A[bx * 32], S)
        for i in T.Parallel(32):
            B[bx * 32 + i] = S[i] + S[i]
