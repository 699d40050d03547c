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
    [(256, 16, 128, (64, 128)), (96, 16, 128, (32, 64)), (80, 16, 128, (16, 32)),
     (24, 16, 128, (24, 0)), (264, 16, 128, (24, 0)), (8, 16, 128, (8, 0)), (4, 16, 128, (0, 0)),
     (64, 32, 128, (32, 128)), (12, 32, 128, (12, 0)),
     (256, 16, 64, (32, 64)), (80, 16, 64, (16, 32)), (24, 16, 64, (24, 0)), (264, 16, 64, (24, 0)),
     (40, 16, 64, (8, 0)), (64, 32, 64, (16, 64))],
)  # fmt: skip
def test_slab_columns(columns: int, bits: int, widest: int, expected: tuple[int, int]) -> None:
    assert slab_columns(columns, bits, widest) == expected


@pytest.mark.parametrize("widest", [128, 64])
def test_the_slabs_are_the_tile(widest: int) -> None:
    layout = wgmma_accumulator(192).repeat((3, 1), "thread")
    slabs = cut_slabs(TileType(f16, (192, 192), layout), True, widest)
    assert slabs is not None and slabs.shape == (192, widest // 2)
    assert slabs.buffer == SharedLayout.swizzled(slabs.shape, 16, widest)
    assert apart_along(slabs, 16, 3) == 0
    every_element_once(slabs, (192, 192))


def every_element_once(slabs: Slabs, shape: tuple[int, int]) -> None:
    seen = np.zeros(shape, np.int32)
    for (row, column), part in slabs.parts:
        assert part.shape == slabs.shape
        at = part.coords()
        np.add.at(seen, (at[..., 0] + row, at[..., 1] + column), 1)
    assert np.all(seen == 1)


def transposed(columns: int, warpgroups: int) -> RegisterLayout:
    """A product of wgmma whose rows run along the last dimension."""
    return wgmma_accumulator(columns).repeat((warpgroups, 1), "thread").transpose((1, 0))


@pytest.mark.parametrize("dtype", [f16, f32, i8], ids=str)
@pytest.mark.parametrize("widest", [128, 64])
@pytest.mark.parametrize("columns", [8, 16, 24, 40, 64, 96, 192, 256])
@pytest.mark.parametrize("warpgroups", [1, 2, 3])
def test_slabs_of_a_transposed_tile(
    columns: int, warpgroups: int, widest: int, dtype: DType
) -> None:
    """All columns of some rows, no more than the launch was charged for, in boxes as wide as they can be;
    each warpgroup's columns are boxes of their own."""
    layout = transposed(columns, warpgroups)
    slabs = cut_slabs(TileType(dtype, layout.shape, layout), True, widest)
    assert slabs is not None
    every_element_once(slabs, (columns, 64 * warpgroups))
    rows, row = slabs.shape
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
