"""T.Persistent: every tile of a domain once, whatever its extents and however many blocks take them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import tilec
import tilec.language as T


@tilec.kernel
def counted(C: T.Tensor(("X", "Y", "Z"), "int32"), blocks: int = 3, group: int = 2):
    with T.Kernel(blocks, threads=32) as block:
        t = T.get_thread_binding()
        for i, j, k in T.Persistent([C.shape[0], C.shape[1], C.shape[2]], blocks, block, group):
            if t == 0:
                C[i, j, k] = C[i, j, k] + 1


@tilec.kernel
def in_a_row(C: T.Tensor(("X",), "int32")):
    with T.Kernel(4, threads=32) as block:
        t = T.get_thread_binding()
        for i in T.Persistent([C.shape[0]], 4, block):
            if t == 0:
                C[i] = C[i] + 1


@pytest.mark.parametrize("blocks", [1, 3, 5])
@pytest.mark.parametrize("group", [1, 2, 8])
def test_each_tile_once(blocks: int, group: int) -> None:
    with tilec.device("interpreter"):
        for shape in itertools.product((0, 1, 2, 5), (1, 4), (1, 3)):
            c = np.zeros(shape, np.int32)
            counted(c, blocks=blocks, group=group)
            assert (c == 1).all(), shape
        for extent in (0, 1, 3, 4, 9):
            c = np.zeros(extent, np.int32)
            in_a_row(c)
            assert (c == 1).all(), extent


@tilec.kernel
def product(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"),
):
    """A plain pipeline for each tile."""
    tiles = [T.ceildiv(C.shape[0], 64), T.ceildiv(C.shape[1], 64)]
    with T.Kernel(3, threads=128) as block:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        for m, n in T.Persistent(tiles, 3, block):
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
                T.copy(A[m * 64, k * 32], A_s)
                T.copy(B[n * 64, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[m * 64, n * 64])


@pytest.mark.emulator
@pytest.mark.parametrize("target", ["cuda:sm_90a", "hip:gfx942"])
def test_a_pipeline_in_each_tile(target: str) -> None:
    rng = np.random.default_rng(0)
    for m, n, k in ((200, 136, 96), (1, 1, 1), (300, 300, 40)):
        a, b = (rng.integers(-3, 4, (rows, k)).astype(np.float16) for rows in (m, n))
        c = np.full((m, n), np.nan, np.float16)
        with tilec.device(f"emulator:{target}"):
            product(a, b, c)
        exact = a.astype(np.float64) @ b.astype(np.float64).T
        assert np.array_equal(c, exact.astype(np.float16)), (m, n, k)
