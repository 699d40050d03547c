"""Kernels with pipelined loops of every kind that the planner tells apart."""

from __future__ import annotations

import tilec
import tilec.language as T

IN = T.Tensor(("M", "K"), "float16")
OUT = T.Tensor(("M", 64), "float32")


@tilec.kernel
def gemm_nt(A: IN, B: T.Tensor(("N", "K"), "float16"), C: T.Tensor(("M", "N"), "float16"),
            bm: int = 64, bn: int = 64, bk: int = 32,
            stages: int = 3, threads: int = 128):  # fmt: skip
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
        A_s = T.alloc_shared((bm, bk), "float16")
        B_s = T.alloc_shared((bn, bk), "float16")
        acc = T.alloc_fragment((bm, bn), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
            T.copy(A[by * bm, k * bk], A_s)
            T.copy(B[bx * bn, k * bk], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * bm, bx * bn])


@tilec.kernel
def made_by_threads(A: IN, C: OUT, stages: int = 3):
    """Load, prepare (every element by some thread), multiply."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            for i in T.serial(16):
                D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32] * 2
            T.gemm(D_s, D_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def partly_made(A: IN, C: OUT, stages: int = 3):
    """The threads write the first half of the prepared buffer only: the rest is from before."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            if k == 0:
                T.fill(D_s, 1)
            T.gemm(A_s, D_s, acc, transpose_B=True)
            for i in T.serial(8):
                D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32]
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def covered_in_half(A: IN, C: OUT, stages: int = 3):
    """One writer that covers half of its buffer, which one fill before the loop completes."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((32, 32), "float16")
        acc = T.alloc_fragment((64, 32), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            for i in T.serial(8):
                if k + t > -1:
                    D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32]
            T.gemm(A_s, D_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def half_made(A: IN, C: OUT, stages: int = 3):
    """A preparation whose writer may leave elements as they were: one slot keeps them."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            for i in T.serial(16):
                if i < 8 or k == 0:
                    D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32]
            T.gemm(D_s, D_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def used_after(A: IN, B: T.Tensor((64, "K"), "float16"), C: OUT, D: T.Tensor(("M", 32), "float16"),
               stages: int = 3):  # fmt: skip
    """A_s is read once more after the loop; B_s is the loop's own."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.fill(A_s, 0)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            T.copy(B[0, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])
        T.copy(A_s, D[bx * 64, 0])


@tilec.kernel
def written_twice(A: IN, B: T.Tensor((64, "K"), "float16"), C: OUT, stages: int = 3):
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(B[0, k * 32], B_s)
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
            T.fill(A_s[0:8, :], 2)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def two_gemms(A: IN, B: T.Tensor((64, "K"), "float16"), C: OUT, D: OUT, stages: int = 3):
    """Two products that share an operand: one stage reads it."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        c = T.alloc_fragment((64, 64), "float32")
        d = T.alloc_fragment((64, 64), "float32")
        T.clear(c)
        T.clear(d)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            T.copy(B[0, k * 32], B_s)
            T.gemm(A_s, B_s, c, transpose_B=True)
            T.gemm(B_s, B_s, d, transpose_B=True)
        T.copy(c, C[bx * 64, 0])
        T.copy(d, D[bx * 64, 0])


@tilec.kernel
def guarded(A: IN, mask: T.Tensor(("P",), "int32"), C: OUT, stages: int = 3):
    """The product of an iteration only where a mask says so."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            if mask[k] > 3:
                T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def loaded_in_a_branch(A: IN, mask: T.Tensor(("P",), "int32"), C: OUT, stages: int = 3):
    """An iteration loads and multiplies only where a mask says so."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            if mask[k] > 3:
                T.copy(A[bx * 64, k * 32], A_s)
                T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def from_table(A: IN, table: T.Tensor(("P",), "int32"), C: OUT, n: T.int32, stages: int = 3):
    """Rows of A by a table in global memory, a number of iterations that the call gives."""
    with T.Kernel(T.ceildiv(C.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(n, num_stages=stages):
            row = table[k]
            T.copy(A[row * 64, 0], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def nested(A: IN, C: OUT, stages: int = 2):
    """A pipelined loop in a pipelined loop: the inner one is planned."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for outer in T.Pipelined(3, num_stages=stages):
            for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
                T.copy(A[bx * 64 + outer, k * 32], A_s)
                T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def through_global(A: IN, W: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float32"),
                   stages: int = 3):  # fmt: skip
    """What an iteration writes to global memory it reads again: the statements stay together."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[0, k * 32], A_s)
            for i in T.serial(16):
                D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32]
                W[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32]
            T.gemm(D_s, D_s, acc, transpose_B=True)
            for i, j in T.Parallel(64, 64):
                acc[i, j] = acc[i, j] + W[i, j]
        T.copy(acc, C)


@tilec.kernel
def no_load(A: T.Tensor((64, 64), "float32"), n: T.int32, stages: int = 3):
    """A pipelined loop that loads nothing."""
    with T.Kernel(1, threads=128):
        F = T.alloc_fragment((64, 64), "float32")
        T.copy(A, F)
        for _ in T.Pipelined(n, num_stages=stages):
            for i, j in T.Parallel(64, 64):
                F[i, j] = F[i, j] + 1
        T.copy(F, A)


@tilec.kernel
def address_from_shared(A: IN, table: T.Tensor(("P",), "int32"), C: T.Tensor((64, 64), "float32"),
                        n: T.int32, stages: int = 3):  # fmt: skip
    """An address that an iteration reads from shared memory which it has filled."""
    with T.Kernel(1, threads=128):
        I_s = T.alloc_shared((4,), "int32")
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(n, num_stages=stages):
            T.copy(table[k], I_s)
            row = I_s[0]
            T.copy(A[row * 8, 0], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C)


@tilec.kernel
def carried_address(A: IN, C: T.Tensor((64, 64), "float32"), n: T.int32, stages: int = 3):
    """An address that one iteration leaves to the next in a variable."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        row = T.alloc_var("int32", 1)
        T.clear(acc)
        for _ in T.Pipelined(n, num_stages=stages):
            T.copy(A[row, 0], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
            row = row * 2
        T.copy(acc, C)


@tilec.kernel
def window(A: IN, C: T.Tensor(("M", 64), "float32"), n: T.int32, shared: bool = False,
           stages: int = 3):  # fmt: skip
    """Rows from one on that a variable (or shared memory) says, which all statements read."""
    M = A.shape[0]
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        first = T.alloc_shared((1,), "int32") if shared else T.alloc_local((1,), "int32")
        if not shared or T.get_thread_binding() == 0:
            first[0] = T.min(T.max(n, 0), M)
        for k in T.Pipelined(T.ceildiv(M - first[0], 64), num_stages=stages):
            T.copy(A[first[0] + k * 64, 0], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True, clear_accum=True)
            T.copy(acc, C[first[0] + k * 64, 0])


@tilec.kernel
def kept_running(A: IN, C: OUT, D: OUT, stages: int = 3):
    """The accumulator is used within the loop too: nothing may stay in flight over it."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        total = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.clear(total)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
            for i, j in T.Parallel(64, 64):
                total[i, j] = total[i, j] + acc[i, j]
        T.copy(acc, C[bx * 64, 0])
        T.copy(total, D[bx * 64, 0])


@tilec.kernel
def mixed(A: IN, B: T.Tensor((64, "K"), "int8"), table: T.Tensor(("P",), "int32"), C: OUT,
          stages: int = 3):  # fmt: skip
    """One operand is copied as it is, the other is converted on its way, at a row from a table."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            row = table[k]
            T.copy(B[row, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def in_parts(
    A: IN, table: T.Tensor(("P",), "int32"), C: OUT, stages: int = 3, filled: bool = False
):
    """A buffer of two pages that a table names, and one whose second half is copied or made by threads."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            for page in T.unroll(2):
                row = table[2 * k + page] * 32
                T.copy(A[row, k * 32], A_s[page * 32 : page * 32 + 32, :])
            T.copy(A[0:32, k * 32 : k * 32 + 32], B_s[0:32, :])
            if filled:
                T.fill(B_s[32:64, :], 1)
            else:
                T.copy(A[32:64, k * 32 : k * 32 + 32], B_s[32:64, :])
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[0, 0])


ALL = [
    gemm_nt, made_by_threads, partly_made, covered_in_half, half_made, used_after, written_twice,
    two_gemms, guarded, loaded_in_a_branch, from_table, nested, through_global, no_load, address_from_shared,
    carried_address, window, kept_running, mixed, in_parts,
]  # fmt: skip
