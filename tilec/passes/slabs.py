"""Slabs: the parts in which a tile goes through shared memory to global memory.

A slab is all rows of 128 bytes of columns, or of what a swizzle that divides the rows spans; where
that is not a part of every thread's registers (warps side by side), all columns of some rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.dtypes import DType
from ..ir.layout import ATOM_ROWS, RegisterLayout, SharedLayout, choose_swizzle, tma_boxes
from ..ir.ops.nvidia import WARPGROUP
from ..ir.types import TileType

SLAB_BYTES = 128  # of columns: the widest row that TMA swizzles
NARROW_SLAB_BYTES = 64  # where a slot more is worth twice as many stores
ROW_UNIT = 16  # bytes of which a box's row is a multiple


@dataclass(frozen=True)
class Slabs:
    """How one tile is cut: slabs of `shape`, each with its corner and register layout."""

    shape: tuple[int, int]
    span: int  # bytes of the swizzle of their buffers
    parts: tuple[tuple[tuple[int, int], RegisterLayout], ...]


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


def cut_slabs(tile: TileType, by_engine: bool, widest: int) -> Slabs | None:
    """The slabs of a tile: all rows of some columns, or all columns of some rows, whichever is a
    choice of registers; None where neither is.

    The copy engine's slabs are not larger than all rows of `widest` bytes.
    """
    layout = tile.layout
    if layout is None or tile.dtype.bits < (8 if by_engine else 16) or len(tile.shape) != 2:
        return None
    rows, row = tile.shape
    columns, span = slab_columns(row, tile.dtype.bits, widest)
    if not columns:
        return None
    parts = _parts(layout, 1, columns)
    if parts:
        return Slabs((rows, columns), span, parts)
    most = rows * widest // (row * tile.dtype.bytes) if by_engine else rows
    for height in range(-(-rows * columns // row), most + 1):
        parts = _parts(layout, 0, height) if rows % height == 0 else ()
        spans = [s for s in (span, 0) if not by_engine or _is_filled(height, row, s, tile.dtype)]
        if parts and spans:
            return Slabs((height, row), spans[0], parts)
    return None


def _is_filled(rows: int, columns: int, span: int, dtype: DType) -> bool:
    """Whether boxes of the copy engine make up a buffer of a slab: swizzled ones of less than eight rows
    would not start where the swizzle does.
    """
    layout = SharedLayout.swizzled((rows, columns), dtype.bits, span)
    return tma_boxes(layout, dtype.bits) is not None


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


def are_apart(slabs: Slabs, warpgroups: int) -> bool:
    """Whether each of the warpgroups holds as many rows as the others, together, of every slab."""
    rows = slabs.shape[0] // warpgroups
    if warpgroups < 2 or slabs.shape[0] % (warpgroups * ATOM_ROWS):
        return False
    owners = np.repeat(np.arange(warpgroups), WARPGROUP)[:, None]
    return all(bool((part.coords()[..., 0] // rows == owners).all()) for _, part in slabs.parts)
