"""Stream-K: C = A @ B.T with the steps of all tiles dealt out evenly, whatever the number of tiles.

Every block takes the same number of steps along K, and so ends in the middle of one tile and begins
in the middle of another. What it has of a tile that is not all its own goes to a workspace; a second
launch adds those parts in the order of the steps, so that equal inputs give equal bits (Osama et
al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix Multiplication on the
GPU", 2023). `tilec run examples/stream_k.py` compiles it, runs it and checks it, on a GPU or in NumPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import tilec
import tilec.language as T


def choose(target: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """A block for every multiprocessor; wide tiles where a producer feeds them."""
    wide = {"block_N": 256, "stages": 4} if target.warp_roles else {}
    return {"workers": target.multiprocessors, **wide}


@tilec.heuristic(choose)
@tilec.kernel
def stream_k(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
    block_M: int = 128,
    block_N: int = 128,
    block_K: int = 64,
    workers: int = 128,
    stages: int = 3,
    threads: int = 256,
):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    columns = T.max(T.ceildiv(N, block_N), 1)
    tiles = T.ceildiv(M, block_M) * columns
    steps = T.max(T.ceildiv(K, block_K), 1)  # of a tile; one that adds nothing where K is 0
    share = T.ceildiv(tiles * steps, workers)
    # Of a worker the part of the tile that it begins in the middle of, and of the one it ends in.
    parts = T.alloc_global((workers, 2, block_M, block_N), "float32")
    with T.Kernel(workers, threads=threads) as worker:
        A_s = T.alloc_shared((block_M, block_K), "float16")
        B_s = T.alloc_shared((block_N, block_K), "float16")
        sums = T.alloc_fragment((block_M, block_N), "float32")
        begin, end = worker * share, T.min((worker + 1) * share, tiles * steps)
        # never below 0, which TMA asks of what it stores, and sizes of 32 bits do not say
        for tile in T.serial(T.max(begin // steps, 0), T.ceildiv(end, steps)):
            m, n = tile // columns * block_M, tile % columns * block_N
            first, last = T.max(begin - tile * steps, 0), T.min(end - tile * steps, steps)
            T.clear(sums)
            for step in T.Pipelined(first, last, num_stages=stages):
                T.copy(A[m, step * block_K], A_s)
                T.copy(B[n, step * block_K], B_s)
                T.gemm(A_s, B_s, sums, transpose_B=True)
            if last - first == steps:
                T.copy(sums, C[m, n])
            else:
                T.copy(sums, parts[worker, T.if_then_else(first > 0, 0, 1), 0, 0])
    with T.Kernel(tiles, threads=2 * threads) as tile:
        begin = tile * steps
        first, last = begin // share, (begin + steps - 1) // share
        if first < last:
            total = T.alloc_fragment((block_M, block_N), "float32")
            part = T.alloc_fragment((block_M, block_N), "float32")
            T.clear(total)
            for worker in T.serial(first, last + 1):
                T.copy(parts[worker, T.if_then_else(worker * share > begin, 0, 1), 0, 0], part)
                for i, j in T.Parallel(block_M, block_N):
                    total[i, j] += part[i, j]
            T.copy(total, C[tile // columns * block_M, tile % columns * block_N])


def reference(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The product in 64-bit floats."""
    return A.astype(np.float64) @ B.astype(np.float64).T


def check(A: np.ndarray, B: np.ndarray, C: np.ndarray) -> float:
    """Compares C [M, N] with the product; the largest error. AssertionError if it is off.

    The bound: one rounding to the dtype of C, subnormal or not, and K roundings of 32-bit sums.
    """
    expected = reference(A, B)
    sums = A.shape[1] * np.finfo(np.float32).eps * reference(np.abs(A), np.abs(B))
    error = np.abs(C.astype(np.float64) - expected)
    result = np.finfo(C.dtype)
    wrong = ~(error <= result.eps * np.abs(expected) + result.smallest_subnormal + sums)
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} elements are outside the tolerance"
    return float(error.max(initial=0.0))


def main(xp: Any = np) -> None:
    """Runs and checks a product whose tiles are no multiple of the blocks.

    `xp` is the library that holds the arrays: numpy (the interpreter) or cupy (the GPU).
    """
    M, N, K = 600, 400, 500
    rng = np.random.default_rng(0)
    A = rng.standard_normal((M, K)).astype(np.float16)
    B = rng.standard_normal((N, K)).astype(np.float16)
    C = xp.zeros((M, N), dtype=xp.float16)
    stream_k(xp.asarray(A), xp.asarray(B), C)
    error = check(A, B, C if xp is np else xp.asnumpy(C))
    print(f"stream_k [{M}, {K}] x [{N}, {K}]: {C.size} elements, largest error {error:.2e}")


if __name__ == "__main__":
    main()
