"""Programs that own their schedule, for tests: those of examples/gemm_warp_specialized.py with edits of
their text, and small ones by the same means.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import tilec
import tilec.language as T
from tests.modules import EXAMPLES, load_module

TEXT = (EXAMPLES / "gemm_warp_specialized.py").read_text()
TILES = {
    "matmul": {"block_M": 128, "block_N": 64, "block_K": 32, "stages": 3, "blocks": 2},
    "pingpong": {"block_M": 64, "block_N": 64, "block_K": 32, "stages": 3, "blocks": 2},
}


def edited(folder: Path, *edits: tuple[str, str]) -> ModuleType:
    """The example with edits, each of the first place where its text stands."""
    text = TEXT
    for old, new in edits:
        assert old in text, f"the example has no {old!r}"
        text = text.replace(old, new, 1)
    path = folder / "user.py"
    path.write_text(text)
    return load_module(path)


@tilec.kernel
def copied(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
):
    """A producer of threads: what TileLang's example_warp_specialize_gemm_copy_0_gemm_1.py does."""
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(C.shape[0], 64), threads=256) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        ready = T.alloc_barrier(arrive_count=128)
        done = T.alloc_barrier(arrive_count=128)
        with T.ws(1):
            T.clear(acc)
        for k in range(T.ceildiv(A.shape[1], 32)):
            with T.ws(0):
                T.barrier_wait(done, (k + 1) % 2)
                T.copy(A[by * 64, k * 32], A_s)
                T.copy(B[bx * 64, k * 32], B_s)
                T.barrier_arrive(ready)
            with T.ws(1):
                T.barrier_wait(ready, k % 2)
                T.gemm(A_s, B_s, acc, transpose_B=True)
                T.barrier_arrive(done)
        with T.ws(1):
            T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def met(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
):
    """Two roles that meet at named barriers; a third warp of a smaller group that has nothing to do."""
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(C.shape[0], 64), threads=288) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        with T.ws(0):
            for k in range(T.ceildiv(A.shape[1], 32)):
                for i, j in T.Parallel(64, 32):
                    A_s[i, j] = A[by * 64 + i, k * 32 + j] * 2
                T.copy(B[bx * 64, k * 32], B_s)
                T.sync_threads(3, 256)
                T.sync_threads(4, 256)
        with T.ws(1):
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            for _ in range(T.ceildiv(A.shape[1], 32)):
                T.sync_threads(3, 256)
                T.gemm(A_s, B_s, acc, transpose_B=True)
                T.sync_threads(4, 256)
            for i, j in T.Parallel(64, 64):
                acc[i, j] = acc[i, j] / 2
            T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def alone(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
):
    """No roles: all threads wait for what one of them has copied, two products under way in two
    fragments."""
    with T.Kernel(T.ceildiv(C.shape[1], 64), T.ceildiv(C.shape[0], 128), threads=128) as (bx, by):
        A_s = T.alloc_shared((2, 64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        upper = T.alloc_fragment((64, 64), "float32")
        lower = T.alloc_fragment((64, 64), "float32")
        full = T.alloc_barrier(128)
        T.clear(upper)
        T.clear(lower)
        for k in range(T.ceildiv(A.shape[1], 64)):
            T.tma_copy(A[by * 128, k * 64], A_s[0, :, :], barrier=full)
            T.tma_copy(A[by * 128 + 64, k * 64], A_s[1, :, :], barrier=full)
            T.tma_copy(B[bx * 64, k * 64], B_s, barrier=full)
            T.mbarrier_arrive(full)
            T.mbarrier_wait_parity(full, k % 2)
            T.wgmma_gemm(A_s[0, :, :], B_s, upper, transpose_B=True)
            T.wgmma_gemm(A_s[1, :, :], B_s, lower, transpose_B=True)
            T.wait_wgmma(1)
            for i, j in T.Parallel(64, 64):
                upper[i, j] = upper[i, j] + 0.0  # a tile again, while the other is in flight
            T.wait_wgmma(0)
            T.sync_threads()
        T.copy(upper, C[by * 128, bx * 64])
        T.copy(lower, C[by * 128 + 64, bx * 64])


@tilec.kernel
def rectified(
    Q: T.Tensor(("M", 64), "float16"),
    K: T.Tensor(("N", 64), "float16"),
    V: T.Tensor(("N", 64), "float16"),
    O: T.Tensor(("M", 64), "float32"),
):
    """O = max(Q K^T, 0) V: the second product reads registers, with the first one of the next step under
    way beside it; what is between them is in another fragment meanwhile."""
    with T.Kernel(T.ceildiv(Q.shape[0], 64), threads=256) as bx:
        Q_s = T.alloc_shared((64, 64), "float16")
        K_s = T.alloc_shared((3, 64, 64), "float16")
        V_s = T.alloc_shared((3, 64, 64), "float16")
        ready = T.alloc_barrier(1)
        full, empty = T.alloc_barrier([1] * 3), T.alloc_barrier([128] * 3)
        steps = T.ceildiv(K.shape[0], 64)
        with T.ws(1):
            if T.shuffle_elect(128):
                T.mbarrier_arrive_expect_tx(ready, 64 * 64 * 2)
            T.tma_copy(Q[bx * 64, 0], Q_s, barrier=ready, expect_tx=False)
            for k in range(
                steps + 1
            ):  # beyond the last: zeros, which are multiplied and thrown away
                if T.shuffle_elect(128):
                    T.mbarrier_wait_parity(empty[k % 3], k // 3 % 2 ^ 1)
                    T.mbarrier_arrive_expect_tx(full[k % 3], 2 * 64 * 64 * 2)
                T.tma_copy(K[k * 64, 0], K_s[k % 3, :, :], barrier=full[k % 3], expect_tx=False)
                T.tma_copy(V[k * 64, 0], V_s[k % 3, :, :], barrier=full[k % 3], expect_tx=False)
        with T.ws(0):
            S = T.alloc_fragment((64, 64), "float32")
            P = T.alloc_fragment((64, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            T.mbarrier_wait_parity(ready, 0)
            T.mbarrier_wait_parity(full[0], 0)
            T.wgmma_gemm(Q_s, K_s[0, :, :], S, transpose_B=True, clear_accum=True)
            T.wait_wgmma(0)
            for k in range(steps):
                for i, j in T.Parallel(64, 64):
                    P[i, j] = T.max(S[i, j], 0.0)
                T.mbarrier_wait_parity(full[(k + 1) % 3], (k + 1) // 3 % 2)
                T.wgmma_gemm(Q_s, K_s[(k + 1) % 3, :, :], S, transpose_B=True, clear_accum=True)
                T.wgmma_gemm(P, V_s[k % 3, :, :], acc)
                T.wait_wgmma(1)
                for i, j in T.Parallel(64, 64):
                    S[i, j] = S[i, j] + 0.0
                T.wait_wgmma(0)
                T.mbarrier_arrive(empty[k % 3])
            T.copy(acc, O[bx * 64, 0])


@tilec.kernel
def mirrored(A: T.Tensor((256,), "float32")):
    with T.Kernel(1, threads=256):
        S = T.alloc_shared((256,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        T.sync_threads(2, 256)
        A[t] = S[255 - t]
        T.sync_warp()


@tilec.kernel
def shapes(
    A: T.Tensor((4, 6, 32), "float32"),
    V: T.Tensor((64,), "float32"),
    R: T.Tensor((3, 64), "float32"),
    D: T.Tensor((4, 6, 32), "float32"),
    W: T.Tensor((64,), "float32"),
    O: T.Tensor((3, 64), "float32"),
):
    """Buffers of three dimensions, of one, of one row, loaded and stored by one warp; a role that meets."""
    with T.Kernel(1, threads=160):
        a = T.alloc_shared((4, 6, 32), "float32")
        v = T.alloc_shared((64,), "float32")
        r = T.alloc_shared((1, 64), "float32")
        full, done = T.alloc_barrier(32), T.alloc_barrier(128)
        with T.ws(1):
            T.tma_copy(A, a, barrier=full)
            T.tma_copy(V, v, barrier=full)
            T.tma_copy(R[1, 0], r, barrier=full)
            T.mbarrier_arrive(full)
            T.mbarrier_wait_parity(done, 0)
            T.tma_copy(a, D)
            T.tma_copy(v, W)
            T.tma_copy(r, O[2, 0])
            T.tma_store_arrive()
            T.tma_store_wait(0, False)
        with T.ws(0):
            T.mbarrier_wait_parity(full, 0)
            for i, j, k in T.Parallel(4, 6, 32):
                a[i, j, k] = a[i, j, k] * 2
            T.sync_threads()
            for i in T.Parallel(64):
                v[i] = v[i] + a[0, 0, i % 32]
                r[0, i] = r[0, i] - 1
            T.mbarrier_arrive(done)


@tilec.kernel
def overwritten(
    A: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float32"), waits: bool = True
):
    """Two products of one buffer, written anew between them."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for n in range(2):
            for i, j in T.Parallel(64, 64):
                S[i, j] = A[i, j] + n
            T.wgmma_gemm(S, S, acc, transpose_B=True)
            if waits:
                T.wait_wgmma(0)
        T.wait_wgmma(0)
        T.copy(acc, C)


@tilec.kernel
def doubles(
    A: T.Tensor(("M", "K"), "float64"),
    B: T.Tensor(("K", "N"), "float64"),
    C: T.Tensor(("M", "N"), "float64"),
):
    """Tiles of f64, which TMA brings and lanes of mma read by elements."""
    with T.Kernel(T.ceildiv(C.shape[1], 32), T.ceildiv(C.shape[0], 32), threads=128) as (bx, by):
        A_s = T.alloc_shared((2, 32, 16), "float64")
        B_s = T.alloc_shared((2, 16, 32), "float64")
        full = T.alloc_barrier([128, 128])
        acc = T.alloc_fragment((32, 32), "float64")
        T.clear(acc)
        for k in range(T.ceildiv(A.shape[1], 16)):
            T.sync_threads()  # the buffer's last product is over
            T.tma_copy(A[by * 32, k * 16], A_s[k % 2, :, :], barrier=full[k % 2])
            T.tma_copy(B[k * 16, bx * 32], B_s[k % 2, :, :], barrier=full[k % 2])
            T.mbarrier_arrive(full[k % 2])
            T.mbarrier_wait_parity(full[k % 2], k // 2 % 2)
            T.gemm(A_s[k % 2, :, :], B_s[k % 2, :, :], acc)
        T.copy(acc, C[by * 32, bx * 32])
