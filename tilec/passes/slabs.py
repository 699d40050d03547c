"""Slabs: the parts in which a tile goes through shared memory to global memory.

A slab is all rows of 128 bytes of columns, or of what a swizzle that divides the rows spans; where
that is not a part of every thread's registers (warps side by side, as those of a product whose result
is stored transposed), all columns of some rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.layout import ATOM_ROWS, RegisterLayout, SharedLayout, choose_swizzle, tma_boxes
from ..ir.ops.nvidia import WARPGROUP
from ..ir.types import TileType

SLAB_BYTES = 128  # of columns: the widest row that TMA swizzles
NARROW_SLAB_BYTES = 64  # where a slot more is worth twice as many stores
ROW_UNIT = 16  # bytes of which a box's row is a multiple


@dataclass(frozen=True)
class Slabs:
    """How one tile is cut: slabs as large as their buffers, each with its corner and its layout in
    registers.
    """

    buffer: SharedLayout
    parts: tuple[tuple[tuple[int, int], RegisterLayout], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """The extents of one."""
        rows, columns = self.buffer.shape
        return rows, columns


def slab_columns(columns: int, bits: int, widest: int = SLAB_BYTES) -> tuple[int, int]:
    """The width of a slab in elements and its swizzle in bytes, for rows of `columns` elements and
    slabs of `widest` bytes at most.

    0, 0 where a row is not whole units of TMA.
    """
    span = min(choose_swizzle((columns,), bits), widest)
    if span:
        return span * 8 // bits, span
    units, rest = divmod(columns * bits, ROW_UNIT * 8)
    if rest:
        return 0, 0
    fitting = [n for n in range(1, widest // ROW_UNIT + 1) if units % n == 0]
    return max(fitting) * ROW_UNIT * 8 // bits, 0


def slab_bytes(shape: Sequence[int], bits: int, widest: int) -> int:
    """What a slab of the copy engine takes at most: all rows of `widest` bytes, or the eight whole
    rows in which a swizzle repeats.
    """
    rows, row = shape
    columns, _ = slab_columns(row, bits, widest)
    return max(rows * (columns * bits // 8 or widest), min(rows, ATOM_ROWS) * row * bits // 8)


def cut_slabs(tile: TileType, by_engine: bool, widest: int) -> Slabs | None:
    """The slabs of a tile: all rows of some columns, or all columns of some rows, whichever is a
    choice of registers; None where neither is.

    Rows are as many as take no more than `slab_bytes`; else, but not for the copy engine, more.
    """
    layout = tile.layout
    if layout is None or tile.dtype.bits < 8 or len(tile.shape) != 2:
        return None
    bits, (rows, row) = tile.dtype.bits, tile.shape
    columns, span = slab_columns(row, bits, widest)
    if not columns:
        return None
    parts = _parts(layout, 1, columns)
    if parts:
        return Slabs(SharedLayout.swizzled((rows, columns), bits, span), parts)
    fitting = slab_bytes(tile.shape, bits, widest) * 8 // (row * bits)
    heights = [*range(fitting, min(fitting, ATOM_ROWS) - 1, -1)]
    if not by_engine:
        heights += range(fitting + 1, rows + 1)
    for height in heights:
        parts = _parts(layout, 0, height) if rows % height == 0 else ()
        for span in (choose_swizzle((row,), bits), 0) if parts else ():
            buffer = SharedLayout.swizzled((height, row), bits, span)
            # Swizzled boxes of less than eight rows would not start where the swizzle does.
            if not by_engine or tma_boxes(buffer, bits) is not None:
                return Slabs(buffer, parts)
    return None


def _parts(
    layout: RegisterLayout, dim: int, extent: int
) -> tuple[tuple[tuple[int, int], RegisterLayout], ...]:
    """The sub-tiles of `extent` along `dim`; none where one of them is no choice of registers."""
    parts = []
    for start in range(0, layout.shape[dim], extent):
        sliced = layout.slice_registers(dim, start, extent)
        if sliced is None:
            return ()
        parts.append(((0, start) if dim else (start, 0), sliced[0]))
    return tuple(parts)


def apart_along(slabs: Slabs, bits: int, warpgroups: int) -> int | None:
    """The dimension along which each of several warpgroups holds as much as the others, together, of
    every slab, which the copy engine can store by itself; None where there is none.
    """
    boxes = tma_boxes(slabs.buffer, bits)
    owners = np.repeat(np.arange(warpgroups), WARPGROUP)[:, None]
    for dim, extent in enumerate(slabs.shape):
        own, rest = divmod(extent, warpgroups)
        shape = own_part(slabs.shape, dim, warpgroups)
        if warpgroups < 2 or rest or boxes is None or boxes.part(shape) is None:
            continue
        if all((part.coords()[..., dim] // own == owners).all() for _, part in slabs.parts):
            return dim
    return None


def own_part(shape: tuple[int, int], dim: int, warpgroups: int) -> tuple[int, int]:
    """The extents of a warpgroup's part of a slab."""
    rows, columns = shape
    return (rows // warpgroups, columns) if dim == 0 else (rows, columns // warpgroups)
