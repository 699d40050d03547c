"""C = A @ B.T with the schedule written by hand, for Hopper: who loads, who multiplies, and when.

`matmul`: a producer warpgroup fills a ring of buffers by TMA, two consumer warpgroups multiply what lies
there by wgmma, half a tile each. `pingpong`: each consumer has tiles of its own, and while one
multiplies the other stores. Step s of a block is turn s // stages of buffer s % stages; `full` says
that it holds its operands, `empty` that they have been read, each once a turn, so that the parity of
the turn is what to wait for. Blocks take tiles in turn, and steps are counted on from tile to tile.

`tilec run examples/gemm_warp_specialized.py` runs and checks both: in NumPy, or on Hopper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T

SLAB = 64  # columns of C that are stored at a time


@T.macro
def load(A, B, A_s, B_s, full, empty, s, m, n, k):
    """Step `s`: the tiles at (m, k) of A and (n, k) of B to their buffers, once these are free."""
    stages, rows, depth = A_s.shape
    slot = s % stages
    if T.shuffle_elect(128):  # the thread that loads; nothing would hold the others back
        T.mbarrier_wait_parity(empty[slot], s // stages % 2 ^ 1)
        T.mbarrier_arrive_expect_tx(full[slot], (rows + B_s.shape[1]) * depth * 2)
    T.tma_copy(A[m * rows, k * depth], A_s[slot, :, :], barrier=full[slot], expect_tx=False)
    T.tma_copy(B[n * B_s.shape[1], k * depth], B_s[slot, :, :], barrier=full[slot], expect_tx=False)


@T.macro
def multiply(A_s, B_s, acc, full, empty, s, k):
    """Step `s`, the k-th of its tile: acc += A_s @ B_s.T, which is under way when this ends."""
    stages = A_s.shape[0]
    slot = s % stages
    T.mbarrier_wait_parity(full[slot], s // stages % 2)
    T.wgmma_gemm(A_s[slot, :, :], B_s[slot, :, :], acc, transpose_B=True)
    T.wait_wgmma(1)  # the step before has read its buffers
    if k > 0 and T.shuffle_elect(128):
        T.mbarrier_arrive(empty[(s - 1) % stages])


@T.macro
def store(acc, C_s, C, m, n):
    """The tile at (m, n) of C, slab by slab: one is on its way while the next is made."""
    (rows, columns), slab = acc.shape, C_s.shape[2]
    slabs = columns // slab
    assert columns % slab == 0, f"tiles of {columns} columns are no whole slabs of {slab}"
    for q in range(slabs):
        T.tma_store_wait(1 - slabs % 2)  # that of two slabs before has left this buffer
        T.copy(acc[:, q * slab : q * slab + slab], C_s[q % 2, :, :])
        T.tma_copy(C_s[q % 2, :, :], C[m * rows, n * columns + q * slab])
        T.tma_store_arrive()


@tilec.kernel
def matmul(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 128,
    block_N: int = 256,
    block_K: int = 64,
    stages: int = 4,
    blocks: int = 132,
):
    tiles = [T.ceildiv(C.shape[0], block_M), T.ceildiv(C.shape[1], block_N)]
    steps = T.ceildiv(A.shape[1], block_K)
    with T.Kernel(T.min(blocks, tiles[0] * tiles[1]), threads=384) as block:
        A_s = T.alloc_shared((stages, block_M, block_K), "float16")
        B_s = T.alloc_shared((stages, block_N, block_K), "float16")
        C_s = T.alloc_shared((2, block_M, min(SLAB, block_N)), "float16")
        full, empty = T.alloc_barrier([1] * stages), T.alloc_barrier([2] * stages)
        s = T.alloc_var("int32", 0)  # each role counts its own steps
        with T.ws(2):
            T.set_max_nreg(40, 0)
            for m, n in T.Persistent(tiles, blocks, block):
                for k in range(steps):
                    load(A, B, A_s, B_s, full, empty, s, m, n, k)
                    s += 1
        with T.ws(0, 1):
            T.set_max_nreg(232, 1)
            acc = T.alloc_fragment((block_M, block_N), "float32")
            for m, n in T.Persistent(tiles, blocks, block):
                T.clear(acc)
                for k in range(steps):
                    multiply(A_s, B_s, acc, full, empty, s, k)
                    s += 1
                T.wait_wgmma(0)
                if steps > 0 and T.shuffle_elect(128):
                    T.mbarrier_arrive(empty[(s - 1) % stages])
                store(acc, C_s, C, m, n)
            T.tma_store_wait(0)


@tilec.kernel
def pingpong(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 64,
    block_N: int = 256,
    block_K: int = 64,
    stages: int = 4,
    blocks: int = 132,
):
    tiles = [T.ceildiv(C.shape[0], block_M), T.ceildiv(C.shape[1], block_N)]
    steps = T.ceildiv(A.shape[1], block_K)
    with T.Kernel(T.min(blocks, tiles[0] * tiles[1]), threads=384) as block:
        A_s = T.alloc_shared((stages, block_M, block_K), "float16")
        B_s = T.alloc_shared((stages, block_N, block_K), "float16")
        full, empty = T.alloc_barrier([1] * stages), T.alloc_barrier([1] * stages)
        turn = T.alloc_barrier(
            [128, 128]
        )  # of each consumer: the other one has issued its products
        with T.ws(2):
            T.set_max_nreg(40, 0)
            s = T.alloc_var("int32", 0)
            for m, n in T.Persistent(tiles, blocks, block):
                for k in range(steps):
                    load(A, B, A_s, B_s, full, empty, s, m, n, k)
                    s += 1
        for me in (0, 1):  # a block's tiles 0, 2, 4, … and 1, 3, 5, …
            C_s = T.alloc_shared((2, block_M, min(SLAB, block_N)), "float16")
            with T.ws(me):
                T.set_max_nreg(232, 1)
                acc = T.alloc_fragment((block_M, block_N), "float32")
                s = T.alloc_var("int32", me * steps)
                mine = T.alloc_var("int32", 0)  # tiles so far
                for m, n in T.Persistent(tiles, 2 * blocks, block + me * blocks):
                    T.clear(acc)
                    T.mbarrier_wait_parity(turn[me], (mine + 1 - me) % 2)
                    for k in range(steps):
                        multiply(A_s, B_s, acc, full, empty, s, k)
                        s += 1
                    T.mbarrier_arrive(turn[1 - me])
                    T.wait_wgmma(0)
                    if steps > 0 and T.shuffle_elect(128):
                        T.mbarrier_arrive(empty[(s - 1) % stages])
                    store(acc, C_s, C, m, n)
                    s += steps  # those of the other's tile
                    mine += 1
                T.tma_store_wait(0)


def reference(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The product in 64-bit floats: what C [M, N] is compared with."""
    return A.astype(np.float64) @ B.astype(np.float64).T


def check(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> float:
    """The largest error of C [M, N]; AssertionError where an element is off by more than one rounding
    to its dtype and K roundings of 32-bit partial sums.
    """
    exact = reference(A, B)
    bound = np.finfo(C.dtype).eps * np.abs(exact) + np.finfo(C.dtype).smallest_subnormal
    bound += A.shape[1] * np.finfo(np.float32).eps * reference(np.abs(A), np.abs(B))
    error = np.abs(C.astype(np.float64) - exact)
    if not np.all(error <= bound):
        raise AssertionError(f"{np.sum(~(error <= bound))} of {error.size} elements are off")
    return float(error.max(initial=0))


def main(xp: Any = np) -> None:
    """Run and check a product whose extents are no multiples of the tiles.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (a Hopper GPU).
    """
    M, N, K = 500, 696, 328
    rng = np.random.default_rng(0)
    A = rng.standard_normal((M, K)).astype(np.float16)
    B = rng.standard_normal((N, K)).astype(np.float16)
    for kernel in (matmul, pingpong):
        C = xp.full((M, N), np.nan, dtype=xp.float16)
        kernel(xp.asarray(A), xp.asarray(B), C, blocks=3)
        error = check(A, B, C if xp is np else xp.asnumpy(C))
        print(f"{kernel.name} [{M}, {K}] x [{N}, {K}]: largest error {error:.2e}")


if __name__ == "__main__":
    main()
