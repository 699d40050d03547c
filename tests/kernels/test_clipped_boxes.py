"""Tensors lower than their tiles on sm_90a: TMA brings what there is, the rest of a tile is zero. Products and
sums of whole tiles, at the extents and trip counts where boxes and slots go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.clipped_programs import sums
from tests.kernels.legs import every_leg, one_leg
from tests.kernels.machines import SCHEDULES, Case
from tests.kernels.programs import TILES, reference
from tests.kernels.test_vendor_compilers import check_nvidia
from tests.modules import example
from tests.passes.test_choose_instructions import shifted
from tilec.interpreter.compare import assert_close
from tilec.ir.dtypes import f16
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = pytest.mark.emulator
TARGET = "cuda:sm_90a"
STAGES = 3
ROWS = (1, 7, 8, 16, 63, 127, 128, 129, 200, 0)
TRIPS = (1, STAGES - 1, STAGES, STAGES + 1, 0)


@pytest.mark.parametrize("transpose_b", [True, False], ids=["NT", "NN"])
def test_products_of_few_rows(transpose_b: bool) -> None:
    """Rows of A, columns of B, and in NN steps of k, that are fewer than a tile's, by turns."""
    tile = TILES[1]
    case = Case(TARGET, tile, "float16", transpose_b, STAGES)
    for number, rows in enumerate(ROWS):
        trips = TRIPS[number % len(TRIPS)]
        k = max(0, trips * tile.k - (8 if number % 2 else 0))
        size = (rows, 8 + 56 * (number % 4), k)
        a, b, _ = case.operands(size)
        exact, allowed = reference(a, b, transpose_b)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        assert_close(case.emulate(size, mode, order), exact, allowed, f16, f"{size} {mode} {order}")


# P, M, N: planes of X and their rows; trips from none to more than there are slots, twice by turns.
SUMMED = (
    (1, 1, 64), (5, 7, 72), (3, 31, 64), (9, 33, 8), (0, 4, 8), (4, 32, 136), (2, 100, 64), (13, 8, 64),
)  # fmt: skip


@pytest.mark.parametrize("tile", [(4, 32), (2, 64)], ids=str)
@pytest.mark.parametrize("extents", [("P", "M"), (3, "M"), ("P", 7)], ids=str)
def test_sums_of_whole_tiles(tile: Any, extents: Any, tmp_path: Path) -> None:
    """What boxes leave of a tile is added up too. An extent that is known needs no condition."""
    compiled = lower(sums, (), TARGET, {"tile": tile, "extents": extents, "stages": STAGES})
    boxes = {
        argument.tensor_map.tensor: argument.tensor_map.clipped
        for argument in compiled.manifest.variants[0].launches[0].arguments
        if argument.tensor_map is not None
    }
    clipped = extents[0] == "P" or extents[0] < tile[0]
    assert boxes == {"A": (), "B": (), "C": (), "X": (0,) if clipped else ()}
    assert (f"if (P < {tile[0]})" in compiled.source) == (extents[0] == "P")
    assert ("fill_registers<8>(fill" in compiled.source) == clipped
    check_nvidia(compiled.lowered, "sm_90a", tmp_path)
    for number, size in enumerate(SUMMED):
        planes, rows, columns = (
            own if isinstance(own, int) else n for own, n in zip((*extents, "N"), size, strict=True)
        )
        random = np.random.default_rng(number)
        shapes = ((64, 32 * -(-planes // tile[0])),) * 2, (planes, rows, columns)
        a, b, x = (random.integers(-3, 4, s).astype(np.float16) for s in (*shapes[0], shapes[1]))
        c, y = np.full((64, 64), np.nan, np.float32), np.full(columns, np.nan, np.float32)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        device = EmulatorDevice(TARGET, "a test", mode, order)
        compiled.run_on(device, (a, b, x, c, y))
        assert np.array_equal(c, a.astype(np.float32) @ b.astype(np.float32).T), size
        assert np.array_equal(y, x[:, : tile[1]].astype(np.float32).sum((0, 1))), size


@pytest.mark.parametrize("row", [-3, 0, 2])
@pytest.mark.parametrize("m", [1, 40, 63])
def test_regions_that_start_elsewhere(m: int, row: int) -> None:
    """Rows before the tensor, of which the first box still has to bring what lies in it."""
    random = np.random.default_rng(m)
    a, b = (random.integers(-4, 5, (n, 72)).astype(np.float16) for n in (m, 24))
    moved = np.zeros_like(a)
    first, last = max(0, -row), m - max(0, row)
    moved[first:last] = a[first + row : last + row]
    expected = (moved.astype(np.float32) @ b.astype(np.float32).T).astype(np.float16)
    unset = np.full((m, 24), 7, np.float16)
    for leg, found in every_leg(shifted, a, b, unset, 0, 0, row=row):
        assert np.array_equal(found[2], expected), leg


@pytest.mark.parametrize(("queries", "keys"), [(1, 40), (24, 63), (63, 1), (64, 65), (16, 200)])
def test_attention_of_few_queries_and_keys(queries: int, keys: int) -> None:
    attention = example("flash_attention")
    random = np.random.default_rng(queries)
    shapes = ((1, 2, queries, 64), (1, 2, keys, 64), (1, 2, keys, 64))
    q, k, v = (random.standard_normal(shape).astype(np.float16) for shape in shapes)
    out = np.full(q.shape, np.nan, np.float16)
    tiles = {"block_M": 128, "block_N": 64, "stages": 2, "threads": 256}
    attention.attention(q, k, v, out, device=f"emulator:{TARGET}", **tiles)
    attention.check(out, attention.reference(q, k, v), v)


@tilec.kernel
def tall(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", "K"), "float16"), rows: int):
    with T.Kernel(T.ceildiv(A.shape[1], 64), T.ceildiv(A.shape[0], rows), threads=128) as (bx, by):
        S = T.alloc_shared((rows, 64), "float16")
        full = T.alloc_barrier(1)
        if T.shuffle_elect(128):
            T.mbarrier_arrive_expect_tx(full, rows * 64 * 2)
        T.tma_copy(A[by * rows, bx * 64], S, barrier=full, expect_tx=False)
        T.mbarrier_wait_parity(full, 0)
        T.tma_copy(S, C[by * rows, bx * 64])
        T.tma_store_arrive()
        T.tma_store_wait(0)


@pytest.mark.parametrize(("rows", "box"), [(320, 160), (272, 136), (512, 256)])
def test_a_tile_higher_than_a_box_is_several(rows: int, box: int) -> None:
    """Each may be outside, in part or whole."""
    for m, k in ((rows, 64), (2 * rows - 1, 136), (box, 8), (5, 72), (rows + box + 1, 64)):
        a = (np.arange(m * k) % 2039).reshape(m, k).astype(np.float16)
        for device in ("interpreter", f"emulator:{TARGET}"):
            _, found = one_leg(device, tall, a, np.full_like(a, 9), rows=rows)
            assert np.array_equal(found, a), (device, m, k)
    text = tall.lower(target=TARGET, rows=rows).source
    assert f"box * {box} * 64" in text[text.index('extern "C"') :]
