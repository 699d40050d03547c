"""The spine's programs, in every shape that the tests and the GPU check run them in."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tilec
import tilec.language as T
from tests.modules import EXAMPLES, load_module
from tilec.interpreter import tolerance
from tilec.ir.dtypes import find_dtype


@cache
def gemm(dtype: str = "float16", transpose_b: bool = True) -> Any:
    """C = A @ B.T (or A @ B) with symbolic M, N, K; tiles, stages and threads are parameters."""
    b_shape = ("N", "K") if transpose_b else ("K", "N")

    @tilec.kernel
    def matmul(
        A: T.Tensor(("M", "K"), dtype),
        B: T.Tensor(b_shape, dtype),
        C: T.Tensor(("M", "N"), dtype),
        block_M: int = 128,
        block_N: int = 256,
        block_K: int = 64,
        stages: int = 4,
        threads: int = 256,
        cluster: Any = None,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        grid = (T.ceildiv(N, block_N), T.ceildiv(M, block_M))
        with T.Kernel(*grid, threads=threads, cluster=cluster) as (bx, by):
            A_s = T.alloc_shared((block_M, block_K), dtype)
            B_s = T.alloc_shared((block_N, block_K) if transpose_b else (block_K, block_N), dtype)
            acc = T.alloc_fragment((block_M, block_N), "float32")
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, block_K), num_stages=stages):
                T.copy(A[by * block_M, k * block_K], A_s)
                if transpose_b:
                    T.copy(B[bx * block_N, k * block_K], B_s)
                else:
                    T.copy(B[k * block_K, bx * block_N], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=transpose_b)
            T.copy(acc, C[by * block_M, bx * block_N])

    return matmul


@dataclass(frozen=True)
class Tile:
    """Tile extents and threads of one configuration of the GEMM."""

    m: int
    n: int
    k: int
    threads: int

    def constants(self, stages: int, cluster: tuple[int, int] = (1, 1)) -> dict[str, Any]:
        return {
            "block_M": self.m, "block_N": self.n, "block_K": self.k,
            "threads": self.threads, "stages": stages, "cluster": cluster,
        }  # fmt: skip


TILES = (Tile(128, 256, 64, 256), Tile(128, 128, 32, 128), Tile(64, 64, 32, 128))
STAGES = range(6)


def extents(t: int) -> tuple[int, ...]:
    """The sizes at which a tile of extent t shows its faults: 1, t-1, t, t+1, 2t-1, a prime, 0."""
    prime = next(
        p for p in range(t + t // 3, 4 * t + 8) if p > 2 and all(p % d for d in range(2, p))
    )
    return (1, t - 1, t, t + 1, 2 * t - 1, prime, 0)


def sizes(tile: Tile, stages: int) -> Iterator[tuple[int, int, int]]:
    """Sizes (M, N, K) in which every pair of special extents of two dimensions meets, and all trip
    counts 0, 1, 2, stages - 1, stages, stages + 1.
    """
    rows, columns, depths = extents(tile.m), extents(tile.n), extents(tile.k)
    n = len(rows)
    for i, j in itertools.product(range(n), range(n)):
        yield rows[i], columns[j], depths[(i + j) % n]
    for trips in sorted({0, 1, 2, max(stages - 1, 0), stages, stages + 1}):
        yield tile.m + 3, tile.n - 8, trips * tile.k
        yield tile.m, 8, max(trips * tile.k - 5, 0)


def few_sizes(tile: Tile, stages: int) -> list[tuple[int, int, int]]:
    """A handful of `sizes`: every special extent of every dimension once, aligned and unaligned
    rows, trips around the stages.
    """
    rows, columns, depths = extents(tile.m), extents(tile.n), extents(tile.k)
    n = len(rows)
    found = [(rows[i], columns[(i + 2) % n], depths[(i + 4) % n]) for i in range(n)]
    found.append((tile.m + 3, tile.n + 8, (stages + 1) * tile.k))
    found.append((tile.m, 8, max(stages, 1) * tile.k - 8))
    return found


def operands(
    m: int, n: int, k: int, dtype: str, transpose_b: bool, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random A and B, and C filled with NaN."""
    random = np.random.default_rng(seed)
    numpy = find_dtype(dtype).numpy
    a = random.standard_normal((m, k)).astype(np.float32).astype(numpy)
    b = random.standard_normal((n, k) if transpose_b else (k, n)).astype(np.float32).astype(numpy)
    return a, b, np.full((m, n), np.nan, numpy)


def reference(a: np.ndarray, b: np.ndarray, transpose_b: bool) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and how far each element may be from it."""
    b = b.T if transpose_b else b
    exact = a.astype(np.float64) @ b.astype(np.float64)
    dtype = find_dtype("bfloat16" if a.dtype.name == "bfloat16" else a.dtype)
    return exact, tolerance(exact, a.shape[1], a, b, dtype)


@cache
def origin(m: int = 1024, n: int = 1024, k: int = 1024) -> Any:
    """The kernel the project began from, for other sizes than the 1024 that its file states."""
    text = (EXAMPLES / "dequantize_gemm.py").read_text()
    line = "M, N, K = 1024, 1024, 1024"
    assert text.count(line) == 1
    folder = Path(tempfile.mkdtemp(prefix="tilec-origin-"))
    path = folder / f"dequantize_gemm_{m}_{n}_{k}.py"
    path.write_text(text.replace(line, f"M, N, K = {m}, {n}, {k}"))
    return load_module(path).main


def packed(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random uint4 values (n, k) as float16, and packed two to a byte, low half first, as int8 (n,
    k // 2).
    """
    random = np.random.default_rng(seed)
    values = random.integers(0, 16, (n, k), dtype=np.uint8)
    return values.astype(np.float16), (values[:, 0::2] | values[:, 1::2] << 4).view(np.int8)
