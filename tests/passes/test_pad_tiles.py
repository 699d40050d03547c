"""pad_tiles: what is padded and to what, and that nothing shows of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.passes.planning import keeps_meaning, plan, specialised
from tilec.ir.core import Program, walk
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.tile import LoadTile, StoreTile
from tilec.ir.types import TileType

Array = np.ndarray[Any, Any]


def normed(m: int, n: int, threads: int = 128) -> Any:
    """Y: rows of 2 X + 1 divided by their sums S."""

    @tilec.kernel
    def kernel(
        X: T.Tensor((m, n), "float32"), Y: T.Tensor((m, n), "float32"), S: T.Tensor((m,), "float32")
    ):
        with T.Kernel(1, threads=threads):
            x = T.alloc_fragment((m, n), "float32")
            s = T.alloc_fragment((m,), "float32")
            T.copy(X, x)
            for i, j in T.Parallel(m, n):
                x[i, j] = x[i, j] * 2 + 1
            T.reduce_sum(x, s, dim=1)
            for i, j in T.Parallel(m, n):
                x[i, j] = x[i, j] / s[i]
            T.copy(x, Y)
            T.copy(s, S)

    return kernel


def tiles(program: Program) -> list[TileType]:
    values = (v for op in walk(program.body) for v in op.results)
    return [v.type for v in values if isinstance(v.type, TileType)]


def held(kernel: Any, target: str = "cuda:sm_80") -> int:
    """The most registers that a thread has of a tile."""
    program = plan(specialised(kernel), "infer_layouts", target).program
    return max(tile.layout.registers for tile in tiles(program) if tile.layout is not None)


@pytest.mark.parametrize(
    ("m", "n", "threads", "most"),
    [(100, 100, 128, 91), (96, 33, 128, 27), (1, 777, 128, 7), (777, 1, 128, 7), (101, 103, 96, 117),
     (1009, 3, 256, 12), (17, 19, 32, 15)],
)  # fmt: skip
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_every_thread_holds_a_part(m: int, n: int, threads: int, most: int, target: str) -> None:
    assert math.ceil(m * n / threads) <= held(normed(m, n, threads), target) <= most


@pytest.mark.parametrize(("m", "n"), [(128, 128), (96, 64), (64, 100), (3, 5), (16, 1), (100, 128)])
def test_tiles_that_are_dealt_out_well_stay(m: int, n: int) -> None:
    program = plan(specialised(normed(m, n)), "pad_tiles").program
    assert {tile.shape for tile in tiles(program)} <= {(m, n), (m,)}
    assert not any(op.within for op in walk(program.body) if isinstance(op, (LoadTile, StoreTile)))


@pytest.mark.parametrize(("m", "n"), [(100, 100), (7, 101), (1, 777)])
def test_the_meaning_stays(m: int, n: int) -> None:
    program = specialised(normed(m, n))
    for target in ("cuda:sm_80", "hip:gfx942"):
        keeps_meaning(program, plan(program, "pad_tiles", target).program, (1,))


@pytest.mark.emulator
@pytest.mark.parametrize(("m", "n"), [(100, 100), (96, 33), (1, 777)])
def test_rows_divided_by_their_sums(m: int, n: int) -> None:
    x = np.random.default_rng(n).random((m, n), np.float32)
    whole = 2 * x.astype(np.float64) + 1
    sums = whole.sum(1)
    arrays = (x, np.full_like(x, np.nan), np.full(m, np.nan, np.float32))
    for device, (_, y, s) in every_leg(normed(m, n), *arrays):
        np.testing.assert_allclose(s, sums, rtol=n * 2e-7, err_msg=device)
        np.testing.assert_allclose(y, whole / sums[:, None], rtol=(n + 2) * 2e-7, err_msg=device)


@pytest.mark.emulator
@pytest.mark.parametrize(("m", "n"), [(100, 100), (1, 777)])
def test_the_vendors_compilers_take_it_without_spills(m: int, n: int) -> None:
    compile_texts(normed(m, n))


# Reductions and scans


@tilec.kernel
def reduced(
    X: T.Tensor((7, 101), "float32"), N: T.Tensor((101, 7), "int8"),
    R: T.Tensor((7, 7), "float32"), C: T.Tensor((2, 101), "float32"), I: T.Tensor((5, 101), "int32"),
    U: T.Tensor((101, 7), "uint16"), B: T.Tensor((7,), "uint16"),
):  # fmt: skip
    with T.Kernel(1, threads=64):
        x = T.alloc_fragment((7, 101), "float32")
        T.copy(X, x)
        row = T.alloc_fragment((7,), "float32")
        T.reduce_sum(x, row, dim=1)
        T.copy(row, R[0, :])
        T.reduce_abssum(x, row, dim=1)
        T.copy(row, R[1, :])
        T.reduce_max(x, row, dim=1)
        T.copy(row, R[2, :])
        T.reduce_min(x, row, dim=1)
        T.copy(row, R[3, :])
        T.reduce_absmax(x, row, dim=1)
        T.copy(row, R[4, :])
        T.reduce_max(x, row, dim=1, nan_propagate=True)
        T.copy(row, R[5, :])
        T.reduce_min(x, row, dim=1, nan_propagate=True)
        T.copy(row, R[6, :])
        column = T.alloc_fragment((101,), "float32")
        T.reduce_max(x, column, dim=0)
        T.copy(column, C[0, :])
        T.reduce_sum(x, column, dim=0)
        T.copy(column, C[1, :])
        n = T.alloc_fragment((101, 7), "int8")
        T.copy(N, n)
        whole = T.alloc_fragment((101,), "int32")
        T.reduce_max(n, whole, dim=1)
        T.copy(whole, I[0, :])
        T.reduce_min(n, whole, dim=1)
        T.copy(whole, I[1, :])
        T.reduce_sum(n, whole, dim=1)
        T.copy(whole, I[2, :])
        T.reduce_bitand(n, whole, dim=1)
        T.copy(whole, I[3, :])
        T.reduce_bitxor(n, whole, dim=1)
        T.copy(whole, I[4, :])
        u = T.alloc_fragment((101, 7), "uint16")
        T.copy(U, u)
        all_of = T.alloc_fragment((7,), "uint16")
        T.reduce_bitand(u, all_of, dim=0)
        T.copy(all_of, B)


@pytest.mark.emulator
def test_every_reduction_of_odd_values() -> None:
    """Rows of NaN alone, of -0.0 alone, of negative numbers, of infinities; the smallest integers."""
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (7, 101)).astype(np.float32)
    x[0], x[1], x[2] = np.nan, -0.0, -np.abs(x[2]) - 1
    x[3, ::2], x[4, 100], x[5, 7], x[6] = np.nan, np.inf, -np.inf, np.abs(x[6]) + 1
    n = rng.integers(-128, 128, (101, 7)).astype(np.int8)
    n[0], n[1] = -128, 127
    u = rng.integers(0, 1 << 16, (101, 7)).astype(np.uint16) | np.uint16(0x8001)
    with np.errstate(all="ignore"):
        rows = np.stack([
            x.sum(1), np.abs(x).sum(1), np.fmax.reduce(x, 1), np.fmin.reduce(x, 1),
            np.fmax.reduce(np.abs(x), 1), x.max(1), x.min(1),
        ])  # fmt: skip
        columns = np.stack([np.fmax.reduce(x, 0), x.sum(0)])
    w = n.astype(np.int32)
    integers: Array = np.stack(
        [w.max(1), w.min(1), w.sum(1), np.bitwise_and.reduce(w, 1), np.bitwise_xor.reduce(w, 1)]
    ).astype(np.int32)
    bits = np.bitwise_and.reduce(u, 0)
    out = [np.zeros_like(rows), np.zeros_like(columns), np.zeros_like(integers)]
    for device, (_, _, r, c, i, _, b) in every_leg(reduced, x, n, *out, u, np.zeros_like(bits)):
        np.testing.assert_array_equal(r, rows, err_msg=device)
        np.testing.assert_array_equal(c, columns, err_msg=device)
        np.testing.assert_array_equal(i, integers, err_msg=device)
        np.testing.assert_array_equal(b, bits, err_msg=device)


@tilec.kernel
def scanned(X: T.Tensor((33, 35), "int32"), Y: T.Tensor((4, 33, 35), "int32")):
    with T.Kernel(1, threads=64):
        x = T.alloc_fragment((33, 35), "int32")
        y = T.alloc_fragment((33, 35), "int32")
        T.copy(X, x)
        T.cumsum(x, y, dim=0)
        T.copy(y, Y[0, :, :])
        T.cumsum(x, y, dim=1)
        T.copy(y, Y[1, :, :])
        T.cumsum(x, y, dim=0, reverse=True)
        T.copy(y, Y[2, :, :])
        T.cumsum(x, y, dim=1, reverse=True)
        T.copy(y, Y[3, :, :])


@pytest.mark.emulator
def test_scans_both_ways() -> None:
    x = np.random.default_rng(0).integers(-99, 100, (33, 35)).astype(np.int32)
    expected = np.stack([
        x.cumsum(0), x.cumsum(1), x[::-1].cumsum(0)[::-1], x[:, ::-1].cumsum(1)[:, ::-1],
    ])  # fmt: skip
    for device, (_, y) in every_leg(scanned, x, np.zeros((4, 33, 35), np.int32)):
        np.testing.assert_array_equal(y, expected, err_msg=device)


# Memory


@tilec.kernel
def parts(
    X: T.Tensor(("M", "N"), "float16"), Y: T.Tensor(("M", "N"), "float32"),
    Z: T.Tensor((35, 33), "float16"), W: T.Tensor((33, 35), "float16"),
):  # fmt: skip
    """Regions inside and across the edge of tensors, whole shared memory, a transposed fragment."""
    with T.Kernel(2, threads=64) as block:
        S = T.alloc_shared((33, 35), "float16")
        x = T.alloc_fragment((33, 35), "float16")
        wide = T.alloc_fragment((33, 35), "float32")
        turned = T.alloc_fragment((35, 33), "float16")
        T.copy(X[block * 40 + 3, 5], x)
        T.copy(x, wide)
        T.copy(wide, Y[block * 40 + 3, 5])
        if block == 0:
            T.copy(x, S)
            for i, j in T.Parallel(33, 35):
                x[i, j] = S[32 - i, 34 - j]
            T.copy(x, W)
            for i, j in T.Parallel(33, 35):
                turned[j, i] = x[i, j] + i
            T.copy(turned, Z)


@pytest.mark.emulator
def test_only_the_region_is_read_and_written() -> None:
    x = np.random.default_rng(0).integers(-99, 100, (70, 50)).astype(np.float16)
    y = np.full((70, 50), 7, np.float32)
    expected = y.copy()
    expected[3:36, 5:40] = x[3:36, 5:40]
    expected[43:70, 5:40] = x[43:70, 5:40]
    w = x[3:36, 5:40][::-1, ::-1]
    z = (w + np.arange(33, dtype=np.float16)[:, None]).T
    outputs = np.zeros((35, 33), np.float16), np.zeros((33, 35), np.float16)
    for device, found in every_leg(parts, x, y, *outputs):
        for have, wanted in zip(found[1:], (expected, z, w), strict=True):
            np.testing.assert_array_equal(have, wanted, err_msg=device)


@tilec.kernel
def summed(
    X: T.Tensor(("R", 33), "float16"), Y: T.Tensor((37, 33), "float32"), S: T.Tensor((37,), "float32"),
    stages: int = 2,
):  # fmt: skip
    """The sum of all tiles of 37 rows, in a loop that carries it, and those of its rows."""
    with T.Kernel(1, threads=128):
        tile = T.alloc_shared((37, 33), "float16")
        total = T.alloc_fragment((37, 33), "float32")
        row = T.alloc_fragment((37,), "float32")
        T.clear(total)
        for k in T.Pipelined(X.shape[0] // 37, num_stages=stages):
            T.copy(X[k * 37, 0], tile)
            for i, j in T.Parallel(37, 33):
                total[i, j] += tile[i, j]
        T.reduce_sum(total, row, dim=1)
        T.copy(total, Y)
        T.copy(row, S)


@pytest.mark.emulator
@pytest.mark.parametrize("stages", [0, 2])
def test_a_loop_carries_a_padded_tile(stages: int) -> None:
    assert held(summed) <= 15
    for trips in (0, 1, 3):
        x = np.random.default_rng(trips).integers(-9, 10, (37 * trips, 33)).astype(np.float16)
        total = x.reshape(trips, 37, 33).sum(0, dtype=np.float32)
        outputs = np.zeros_like(total), np.zeros(37, np.float32)
        for device, (_, y, s) in every_leg(summed, x, *outputs, stages=stages):
            np.testing.assert_array_equal(y, total, err_msg=device)
            np.testing.assert_array_equal(s, total.sum(1), err_msg=device)


@tilec.kernel
def beside_a_gather(
    X: T.Tensor((100, 100), "float32"), A: T.Tensor(("M", 64), "float16"), rows: T.Tensor((256,), "int32"),
    B: T.Tensor((64, 64), "float16"),
):  # fmt: skip
    with T.Kernel(1, threads=128):
        s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        x = T.alloc_fragment((100, 100), "float32")
        T.copy(X, x)
        for i, j in T.Parallel(100, 100):
            x[i, j] *= 2
        T.copy(x, X)
        T.clear(acc)
        for k in T.Pipelined(4, num_stages=2):
            for i, j in T.Parallel(64, 64):
                s[i, j] = A[rows[i + k * 64], j]
            T.gemm(s, s, acc)
        T.copy(acc, B)


def test_nests_that_gather_do_it_as_before() -> None:
    nests = plan(specialised(beside_a_gather), "pad_tiles").all(Parallel)
    assert [(nest.instruction, nest.run) for nest in nests] == [("", 1), ("cp_async", 8)]
    assert nests[0].extents != (100, 100)
