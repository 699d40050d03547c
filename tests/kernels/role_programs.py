"""Programs whose loops are fed by a producer, of every shape that a loop can have: for operands of
any dtype with 32 bytes of k at a time.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import tilec
import tilec.language as T

ROWS = 64  # of a tile, and columns


@cache
def two_loops(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T + D E^T, a loop each."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        D: T.Tensor(("M", "L"), dtype), E: T.Tensor(("N", "L"), dtype),
        C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K, L = C.shape[0], C.shape[1], A.shape[1], D.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            D_s, E_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                T.copy(A[by * ROWS, k * bk], A_s)
                T.copy(B[bx * ROWS, k * bk], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            for k in T.Pipelined(T.ceildiv(L, bk), num_stages=stages):
                T.copy(D[by * ROWS, k * bk], D_s)
                T.copy(E[bx * ROWS, k * bk], E_s)
                T.gemm(D_s, E_s, acc, transpose_B=True)
            T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def nested(dtype: str, total: str, bk: int) -> Any:
    """C[M, N] = A B^T, all rows of a column of tiles by one block."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), threads=128) as bx:
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            for m in T.serial(T.ceildiv(M, ROWS)):
                T.clear(acc)
                for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                    T.copy(A[m * ROWS, k * bk], A_s)
                    T.copy(B[bx * ROWS, k * bk], B_s)
                    T.gemm(A_s, B_s, acc, transpose_B=True)
                T.copy(acc, C[m * ROWS, bx * ROWS])

    return program


@cache
def masked(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T over the steps of k whose mask is set."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        mask: T.Tensor(("P",), "int32"), C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                if mask[k] != 0:
                    T.copy(A[by * ROWS, k * bk], A_s)
                    T.copy(B[bx * ROWS, k * bk], B_s)
                    T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def guarded(dtype: str, total: str, bk: int) -> Any:
    """The same with every tile loaded, and only products under the condition."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        mask: T.Tensor(("P",), "int32"), C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                T.copy(A[by * ROWS, k * bk], A_s)
                T.copy(B[bx * ROWS, k * bk], B_s)
                if mask[k] != 0:
                    T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def paged(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T, where step k of B is page table[k] of a pool [P, N, bk]."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("P", "N", bk), dtype),
        table: T.Tensor(("Q",), "int32"), C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                T.copy(A[by * ROWS, k * bk], A_s)
                T.copy(B[table[k], bx * ROWS, 0], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def counted(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T over the first counts[by] steps of k of a row of tiles: trip counts from memory."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        counts: T.Tensor(("P",), "int32"), C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N = C.shape
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            T.clear(acc)
            for k in T.Pipelined(counts[by], num_stages=stages):
                T.copy(A[by * ROWS, k * bk], A_s)
                T.copy(B[bx * ROWS, k * bk], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def resident(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T by two blocks that take tiles in turn, as the program says."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(2, threads=128) as block:
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            columns = T.ceildiv(N, ROWS)
            tiles = columns * T.ceildiv(M, ROWS)
            for turn in T.serial(T.ceildiv(tiles, 2)):
                tile = turn * 2 + block
                if tile < tiles:
                    by, bx = tile // columns, tile % columns
                    T.clear(acc)
                    for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                        T.copy(A[by * ROWS, k * bk], A_s)
                        T.copy(B[bx * ROWS, k * bk], B_s)
                        T.gemm(A_s, B_s, acc, transpose_B=True)
                    T.copy(acc, C[by * ROWS, bx * ROWS])

    return program


@cache
def two_gemms(dtype: str, total: str, bk: int) -> Any:
    """C = A B^T and D = A E^T in one loop, of which A is loaded once."""

    @tilec.kernel
    def program(
        A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        E: T.Tensor(("N", "K"), dtype), C: T.Tensor(("M", "N"), total),
        D: T.Tensor(("M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, ROWS), T.ceildiv(M, ROWS), threads=128) as (bx, by):
            A_s, B_s, E_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(3))
            one, other = (T.alloc_fragment((ROWS, ROWS), total) for _ in range(2))
            T.clear(one)
            T.clear(other)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                T.copy(A[by * ROWS, k * bk], A_s)
                T.copy(B[bx * ROWS, k * bk], B_s)
                T.copy(E[bx * ROWS, k * bk], E_s)
                T.gemm(A_s, B_s, one, transpose_B=True)
                T.gemm(A_s, E_s, other, transpose_B=True)
            T.copy(one, C[by * ROWS, bx * ROWS])
            T.copy(other, D[by * ROWS, bx * ROWS])

    return program


@cache
def batched(dtype: str, total: str, bk: int) -> Any:
    """C[l] = A[l] B[index[l]]^T."""

    @tilec.kernel
    def program(
        A: T.Tensor(("L", "M", "K"), dtype), B: T.Tensor(("P", "N", "K"), dtype),
        index: T.Tensor(("L",), "int32"), C: T.Tensor(("L", "M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        L, M, N = C.shape
        columns, rows = T.ceildiv(N, ROWS), T.ceildiv(M, ROWS)
        with T.Kernel(columns, rows, L, threads=128) as (bx, by, bz):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            right = index[bz]
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(A.shape[2], bk), num_stages=stages):
                T.copy(A[bz, by * ROWS, k * bk], A_s)
                T.copy(B[right, bx * ROWS, k * bk], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[bz, by * ROWS, bx * ROWS])

    return program


@cache
def five_dimensions(dtype: str, total: str, bk: int) -> Any:
    """C[p, q, r] = A[p, q, r] B^T."""

    @tilec.kernel
    def program(
        A: T.Tensor(("P", "Q", "R", "M", "K"), dtype), B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("P", "Q", "R", "M", "N"), total), stages: int = 3,
    ):  # fmt: skip
        P, Q, R, M, N = C.shape
        columns, rows = T.ceildiv(N, ROWS), T.ceildiv(M, ROWS)
        with T.Kernel(columns, rows, P * Q * R, threads=128) as (bx, by, bz):
            A_s, B_s = (T.alloc_shared((ROWS, bk), dtype) for _ in range(2))
            acc = T.alloc_fragment((ROWS, ROWS), total)
            p, q, r = bz // (Q * R), bz // R % Q, bz % R
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(A.shape[4], bk), num_stages=stages):
                T.copy(A[p, q, r, by * ROWS, k * bk], A_s)
                T.copy(B[bx * ROWS, k * bk], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[p, q, r, by * ROWS, bx * ROWS])

    return program


SIDE = 8  # of a square of pixels, ROWS in all


@cache
def convolution(dtype: str, total: str, bk: int) -> Any:
    """Y[b, h, w, o]: X[b, h, w, c] convolved with F[3, 3, o, c], zeros around it. Boxes of pixels
    begin at -1, and are clipped.
    """

    @tilec.kernel
    def program(
        X: T.Tensor(("B", "H", "W", "S"), dtype), F: T.Tensor((3, 3, "O", "S"), dtype),
        Y: T.Tensor(("B", "H", "W", "O"), total), stages: int = 3,
    ):  # fmt: skip
        B, H, W, O = Y.shape
        high = T.ceildiv(H, SIDE)
        with T.Kernel(T.ceildiv(O, ROWS), T.ceildiv(W, SIDE), high * B, threads=128) as (
            bo,
            bw,
            bh,
        ):
            X_s = T.alloc_shared((SIDE, SIDE, bk), dtype)
            F_s = T.alloc_shared((ROWS, bk), dtype)
            acc = T.alloc_fragment((ROWS, ROWS), total)
            image, top, left = bh // high, bh % high * SIDE, bw * SIDE
            T.clear(acc)
            for k in T.Pipelined(9 * T.ceildiv(X.shape[3], bk), num_stages=stages):
                r, s = k % 9 // 3, k % 3
                T.copy(X[image, top + r - 1, left + s - 1, k // 9 * bk], X_s)
                T.copy(F[r, s, bo * ROWS, k // 9 * bk], F_s)
                T.gemm(T.reshape(X_s, (ROWS, bk)), F_s, acc, transpose_B=True)
            for i, j in T.Parallel(ROWS, ROWS):
                if top + i // SIDE < H and left + i % SIDE < W:
                    Y[image, top + i // SIDE, left + i % SIDE, bo * ROWS + j] = acc[i, j]

    return program
