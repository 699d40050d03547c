"""The parts in which a tile goes through shared memory to global memory."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.ir.dtypes import DType, f16, f32, i8
from tilec.ir.layout import RegisterLayout, SharedLayout, blocked, tma_boxes, wgmma_accumulator
from tilec.ir.types import TileType
from tilec.passes.slabs import Slabs, apart_along, cut_slabs, slab_bytes, slab_columns


@pytest.mark.parametrize(
    ("columns", "bits", "widest", "expected"),
    [(256, 16, 128, (64, 128)), (96, 16, 128, (32, 64)), (80, 16, 128, (40, 0)),
     (24, 16, 128, (24, 0)), (264, 16, 128, (64, 128)), (8, 16, 128, (8, 0)), (4, 16, 128, (0, 0)),
     (64, 32, 128, (32, 128)), (12, 32, 128, (12, 0)), (176, 16, 128, (64, 128)),
     (200, 16, 128, (40, 0)), (152, 16, 128, (32, 64)), (152, 16, 32, (16, 32)),
     (256, 16, 64, (32, 64)), (80, 16, 64, (32, 64)), (24, 16, 64, (24, 0)), (264, 16, 64, (32, 64)),
     (40, 16, 64, (16, 32)), (64, 32, 64, (16, 64))],
)  # fmt: skip
def test_slab_columns(columns: int, bits: int, widest: int, expected: tuple[int, int]) -> None:
    assert slab_columns(columns, bits, widest) == expected


@pytest.mark.parametrize("columns", range(8, 513, 8))
@pytest.mark.parametrize("widest", [128, 64, 32])
def test_slabs_take_few_columns_twice(columns: int, widest: int) -> None:
    """None where threads store them; and rows of a slab are in different banks."""
    width, span = slab_columns(columns, 16, widest)
    assert 0 < width <= columns and 2 * width <= widest
    assert -(-columns // width) * width < columns + width
    assert columns % slab_columns(columns, 16, widest, overlap=False)[0] == 0
    starts = SharedLayout.swizzled((8, width), 16, span).offsets()[:, 0]
    assert len(set((starts // 8 % 8).tolist())) == 8


@pytest.mark.parametrize("widest", [128, 64])
def test_the_slabs_are_the_tile(widest: int) -> None:
    layout = wgmma_accumulator(192).repeat((3, 1), "thread")
    slabs = cut_slabs(TileType(f16, (192, 192), layout), True, widest)
    assert slabs is not None and slabs.shape == (192, widest // 2)
    assert slabs.buffer == SharedLayout.swizzled(slabs.shape, 16, widest)
    assert apart_along(slabs, 16, 3) == 0
    every_element_once(slabs, (192, 192))


def every_element_once(slabs: Slabs, shape: tuple[int, int], overlap: int = 0) -> None:
    """But for the `overlap` rows that the last slab shares with the one before."""
    seen = np.zeros(shape, np.int32)
    for (row, column), part in slabs.parts:
        assert part.shape == slabs.shape
        at = part.coords()
        np.add.at(seen, (at[..., 0] + row, at[..., 1] + column), 1)
    assert np.all(seen >= 1) and np.all(seen <= 2)
    assert np.count_nonzero(seen[:, 0] == 2) == overlap
    assert np.all(seen == seen[:, :1])


@pytest.mark.parametrize(
    ("shape", "widest", "slab"),
    [((256, 152), 32, (128, 32)), ((256, 160), 64, (256, 32)), ((256, 128), 64, (128, 64)),
     ((256, 128), 128, (256, 64)), ((128, 272), 64, (128, 32)), ((128, 304), 128, (128, 64))],
)  # fmt: skip
def test_slabs_are_of_as_many_rows_as_make_them_wide(
    shape: tuple[int, int], widest: int, slab: tuple[int, int]
) -> None:
    """Two warpgroups with two products each, below or beside each other: half of the rows are a part of
    all registers."""
    rows, columns = shape
    blocks = (rows // 128, -(-columns // 256))
    product = wgmma_accumulator(columns // blocks[1])
    layout = product.repeat((2, 1), "thread").repeat(blocks, "register")
    slabs = cut_slabs(TileType(f16, shape, layout), True, widest)
    assert slabs is not None and slabs.shape == slab
    assert slab[0] * slab[1] * 2 <= slab_bytes(shape, 16, widest)
    assert apart_along(slabs, 16, 2) == (0 if slab[0] == 128 else None)
    covered = {(r + i, c + j) for (r, c), p in slabs.parts for i in (0, p.shape[0] - 1)
               for j in (0, p.shape[1] - 1)}  # fmt: skip
    assert {(0, 0), (rows - 1, columns - 1)} <= covered


def transposed(columns: int, warpgroups: int) -> RegisterLayout:
    """A product of wgmma whose rows run along the last dimension."""
    return wgmma_accumulator(columns).repeat((warpgroups, 1), "thread").transpose((1, 0))


@pytest.mark.parametrize("dtype", [f16, f32, i8], ids=str)
@pytest.mark.parametrize("widest", [128, 64])
@pytest.mark.parametrize("columns", [8, 16, 24, 40, 64, 96, 152, 192, 256])
@pytest.mark.parametrize("warpgroups", [1, 2, 3])
def test_slabs_of_a_transposed_tile(
    columns: int, warpgroups: int, widest: int, dtype: DType
) -> None:
    """All columns of some rows, no more than the launch was charged for, in boxes as wide as they can be;
    each warpgroup's columns are boxes of their own."""
    layout = transposed(columns, warpgroups)
    slabs = cut_slabs(TileType(dtype, layout.shape, layout), True, widest)
    assert slabs is not None
    rows, row = slabs.shape
    every_element_once(slabs, (columns, 64 * warpgroups), -columns % rows)
    assert rows % 8 == 0 and row == 64 * warpgroups
    assert rows * row * dtype.bytes <= slab_bytes(layout.shape, dtype.bits, widest)
    boxes = tma_boxes(slabs.buffer, dtype.bits)
    assert boxes is not None and boxes.span == (64 if dtype is i8 and warpgroups % 2 else 128)
    # 64 bytes of each of two warpgroups are one box.
    alone = warpgroups == 1 or dtype is i8 and warpgroups == 2
    assert apart_along(slabs, dtype.bits, warpgroups) == (None if alone else 1)


def test_who_holds_what_of_a_slab_decides_who_stores_it() -> None:
    """Rows dealt out in turn are nobody's own."""
    mixed = cut_slabs(TileType(f16, (128, 64), blocked((128, 64), 256, 8)), True, 128)
    assert mixed is not None and apart_along(mixed, 16, 2) is None
