"""Slabs: the parts in which a tile goes through shared memory to global memory.

A slab is all rows of 128 bytes of columns, or of what a swizzle that divides the rows spans. Narrower
ones, where there is less room, are wider again as far as some of the rows are a part of every
thread's registers: those of one of a warpgroup's instructions. Where no swizzle divides the rows,
slabs are as wide as makes few of them, and the last one ends with the tile: what it shares with the
one before is stored twice, with the same bits. Where columns are not a part of every thread's
registers (warps side by side, as those of a product whose result is stored transposed), a slab is
all columns of some rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np

from ..ir.layout import ATOM_ROWS, SPANS, RegisterLayout, SharedLayout, choose_swizzle, tma_boxes
from ..ir.ops.nvidia import WARPGROUP
from ..ir.types import TileType

SLAB_BYTES = 128  # of columns: the widest row that TMA swizzles
NARROW_SLAB_BYTES = 64  # where a slot more is worth twice as many stores,
NARROWEST_SLAB_BYTES = 32  # and a slot of few is worth four times as many
SLAB_ROWS = 6  # what a slab more costs, as rows that are stored twice
ROW_UNIT = 16  # bytes of which a box's row is a multiple
SLAB_UNITS = 1.5  # what a slab more costs, as units of rows, and one that parts sectors one more


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


def slab_columns(
    columns: int, bits: int, widest: int = SLAB_BYTES, overlap: bool = True
) -> tuple[int, int]:
    """The width of a slab in elements and its swizzle in bytes, for rows of `columns` elements and
    slabs of `widest` bytes at most.

    0, 0 where a row is not whole units of TMA. The last slab may `overlap` the one before: of widths
    without bank conflicts (the span of a swizzle, or an odd number of units) it is the one by which
    the slabs and what they take twice cost least.
    """
    units, rest = divmod(columns * bits, ROW_UNIT * 8)
    if rest:
        return 0, 0
    spans = {span // ROW_UNIT: span for span in SPANS}
    most = min(units, widest // ROW_UNIT)
    widths = [
        n for n in range(most, 0, -1) if (n % 2 or n in spans) and (overlap or units % n == 0)
    ]
    best = min(widths, key=lambda n: ceil(units / n) * (n + SLAB_UNITS + n % 2))
    return best * ROW_UNIT * 8 // bits, spans.get(best, 0)


def slab_bytes(shape: Sequence[int], bits: int, widest: int) -> int:
    """What a slab of the copy engine takes at most: all rows of `widest` bytes, some rows that are as
    much wider, or the eight whole rows in which a swizzle repeats.
    """
    rows, row = shape
    upright = _upright(rows, row, bits, widest)
    taken = [height * columns * bits // 8 for height, columns, _ in upright] or [rows * widest]
    return max(*taken, min(rows, ATOM_ROWS) * row * bits // 8)


def _upright(
    rows: int, row: int, bits: int, widest: int, overlap: bool = True
) -> list[tuple[int, int, int]]:
    """Slabs of some columns that take no more than all rows of `widest` bytes do: their extents and
    swizzle, those first of which there are the fewest, and of these the widest. None where rows
    are not whole units of TMA.
    """
    found = []
    for parts in (n for n in range(1, SLAB_BYTES // widest + 1) if rows % n == 0):
        columns, span = slab_columns(row, bits, parts * widest, overlap)
        if columns:
            found.append((parts * ceil(row / columns), (rows // parts, columns, span)))
    return [slab for _, slab in sorted(found, key=lambda f: (f[0], -f[1][1]))]


def cut_slabs(tile: TileType, by_engine: bool, widest: int) -> Slabs | None:
    """The slabs of a tile: all or some rows of some columns, or all columns of some rows, whichever is
    a choice of registers; None where none is.

    They take no more than `slab_bytes`; whole rows, but not for the copy engine, more.
    """
    layout = tile.layout
    if layout is None or tile.dtype.bits < 8 or len(tile.shape) != 2:
        return None
    bits, (rows, row) = tile.dtype.bits, tile.shape
    upright = _upright(rows, row, bits, widest, overlap=by_engine)
    if not upright:
        return None
    for height, columns, span in upright:
        parts = _parts(layout, (height, columns))
        if parts:
            return Slabs(SharedLayout.swizzled((height, columns), bits, span), parts)
    fitting = slab_bytes(tile.shape, bits, widest) * 8 // (row * bits)
    for height in _heights(rows, fitting, by_engine):
        parts = _parts(layout, (height, row))
        for span in (choose_swizzle((row,), bits), 0) if parts else ():
            buffer = SharedLayout.swizzled((height, row), bits, span)
            # Swizzled boxes of less than eight rows would not start where the swizzle does.
            if not by_engine or tma_boxes(buffer, bits) is not None:
                return Slabs(buffer, parts)
    return None


def _heights(rows: int, fitting: int, by_engine: bool) -> list[int]:
    """Of slabs of whole rows, best first, where there is room for `fitting` rows. The last of them may
    overlap the one before, if they are whole periods of a swizzle."""
    heights = [*range(fitting, min(fitting, ATOM_ROWS) - 1, -1)]
    if not by_engine:
        heights += range(fitting + 1, rows + 1)
    heights = [n for n in heights if rows % n == 0 or by_engine and n % ATOM_ROWS == 0]
    return sorted(heights, key=lambda n: ceil(rows / n) * (n + SLAB_ROWS)) if by_engine else heights


def _parts(
    layout: RegisterLayout, shape: tuple[int, int]
) -> tuple[tuple[tuple[int, int], RegisterLayout], ...]:
    """The sub-tiles of a shape, of which the last along a dimension ends with the tile; none where one
    of them is no choice of registers."""
    parts = []
    starts = [[*range(0, e - s, s), e - s] for e, s in zip(layout.shape, shape, strict=True)]
    for row, column in product(*starts):
        sliced = layout
        for dim, start in enumerate((row, column)):
            choice = sliced.slice_registers(dim, start, shape[dim])
            if choice is None:
                return ()
            sliced = choice[0]
        parts.append(((row, column), sliced))
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
