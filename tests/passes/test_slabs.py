"""The parts in which a tile goes through shared memory to global memory."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.ir.dtypes import f16
from tilec.ir.layout import wgmma_accumulator
from tilec.ir.types import TileType
from tilec.passes.slabs import cut_slabs, slab_columns


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
    assert slabs is not None and slabs.shape == (192, widest // 2) and slabs.span == widest
    seen = np.zeros((192, 192), np.int32)
    for (row, column), part in slabs.parts:
        at = part.coords()
        np.add.at(seen, (at[..., 0] + row, at[..., 1] + column), 1)
    assert np.all(seen == 1)
