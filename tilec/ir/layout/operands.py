"""What the hardware's own walkers of shared memory, TMA, wgmma and AMD's buffer loads to LDS, make of
a layout.

The first two are derived from a layout's strides and then checked against all of its offsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from .shared import SharedLayout
from .swizzle import SPANS, Swizzle
from .term import IntArray

SWIZZLE_CODES = {0: 0, 128: 1, 64: 2, 32: 3}
"""Bits [63:62] of a wgmma descriptor by bytes of the swizzle (PTX ISA, "Matrix descriptor")."""

WAVE_BYTES = 1024  # that a wave of 64 fills, 16 bytes a lane
_BOX_LIMIT = 256
_SWIZZLED_ROWS = 8  # after which every swizzle of TMA repeats, and any row of 16 bytes fills 128
_FIELD_LIMIT = 1 << 18
"""Descriptor fields hold 14 bits of 16 bytes."""


@dataclass(frozen=True, slots=True)
class TmaBoxes:
    """The boxes that fill a tile by TMA.

    Box (i0, i1, ...), with i[d] < counts[d], holds the coordinates from i[d] * box[d] on and starts
    sum(i[d] * steps[d]) elements into the tile.
    """

    box: tuple[int, ...]
    span: int
    """Bytes of the swizzle: 0, 32, 64 or 128."""
    counts: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def height(self) -> int | None:
        """The outermost dimension of a box, if it holds all elements along it: what a box that ends
        earlier there holds lies as in the whole one. None where boxes are rows, or stand along it.
        """
        dim = next((d for d, n in enumerate(self.box[:-1]) if n > 1), None)
        return dim if dim is not None and self.counts[dim] == 1 else None

    def cut(self, parts: int) -> tuple[int, TmaBoxes] | None:
        """The dimension along which each box falls into `parts` that are boxes as well, of which
        `parts` in a row fill its place; and the first ones. None where it does not.
        """
        dim = self.height
        if dim is None or self.box[dim] % (_SWIZZLED_ROWS * parts):
            return None
        box = (*self.box[:dim], self.box[dim] // parts, *self.box[dim + 1 :])
        return dim, replace(self, box=box)

    def part(self, shape: tuple[int, ...]) -> TmaBoxes | None:
        """The boxes of a part of the tile, of this shape, that starts at multiples of it: some of
        the boxes, or some rows of each. None where those are not boxes.
        """
        box, counts = list(self.box), list(self.counts)
        for dim, extent in enumerate(shape):
            if extent % box[dim] == 0:
                counts[dim] = extent // box[dim]
            elif dim == self.height and extent % _SWIZZLED_ROWS == 0:
                box[dim] = extent
            else:
                return None
        return replace(self, box=tuple(box), counts=tuple(counts))


@dataclass(frozen=True, slots=True)
class WgmmaOperand:
    """How wgmma's matrix descriptors address a tile. All distances are in bytes.

    The descriptor of instruction k step i for the block of 64 (of the other dimension) j starts at
    `k_offsets[i] + j * mn_step`, from the start of the tile, which must be aligned to `alignment`.
    """

    major: Literal["k", "mn"]
    swizzle: int
    """Bits [63:62]: 0 none, 1 for 128, 2 for 64, 3 for 32 bytes."""
    lbo: int
    """Leading dimension byte offset; 16 where the hardware ignores it."""
    sbo: int
    """Stride dimension byte offset."""
    k_offsets: tuple[int, ...]
    mn_step: int
    """From one block of 64 rows (or columns) to the next; 0 where the tile has at most one."""
    alignment: int

    @property
    def mn_unit(self) -> int:
        """Rows (columns of MN-major) of which a multiple stands before every descriptor's start."""
        return 8 if self.major == "k" else {0: 8, 1: 64, 2: 32, 3: 16}[self.swizzle]

    @property
    def atom(self) -> int:
        """Bytes after which the swizzle repeats, or that a descriptor counts in."""
        return {0: 16, 1: 1024, 2: 512, 3: 256}[self.swizzle]

    def mn_offset(self, rows: int) -> int:
        """Bytes from the start of the tile to row (column of MN-major) `rows`.

        Raises:
            ValueError: a descriptor cannot start at that row.
        """
        unit = self.mn_unit
        distance = self.lbo if self.major == "mn" and self.swizzle else self.sbo
        if rows % unit:
            raise ValueError(f"a descriptor starts at a multiple of {unit} rows, not at {rows}")
        return rows // unit * distance


@lru_cache(maxsize=1024)
def tma_boxes(layout: SharedLayout, itemsize_bits: int) -> TmaBoxes | None:
    """The boxes by which TMA can fill a tile of this layout; None where it cannot.

    A box is dense and row-major, at most 256 in each dimension; swizzled, its rows are exactly the
    span of the swizzle. Rows are multiples of 16 bytes and boxes start at multiples of 128 bytes,
    or of eight spans.
    """
    if itemsize_bits % 4 or not 1 <= layout.rank <= 5:
        return None
    for span in (0, *SPANS):
        width = span * 8 // itemsize_bits if span else None
        if not _is_swizzled_by(layout, itemsize_bits, span):
            continue
        boxes = _dense_boxes(layout, width, span)
        if boxes is not None and _boxes_hold(layout, boxes, itemsize_bits):
            return boxes
    return None


@lru_cache(maxsize=1024)
def filled_by_waves(layout: SharedLayout, itemsize_bits: int) -> bool:
    """Whether waves of 64 can fill a tile of this layout by copies of 16 bytes a lane that write 1024
    consecutive bytes: there are no gaps, and the swizzle moves whole pieces within a wave's bytes.
    """
    period = layout.swizzle.period * itemsize_bits // 8
    whole = layout.vector_width() * itemsize_bits % 128 == 0
    return whole and layout.is_dense and WAVE_BYTES % max(1, period) == 0


def _is_swizzled_by(layout: SharedLayout, itemsize_bits: int, span: int) -> bool:
    """Whether the layout's swizzle does to its offsets what TMA's of `span` bytes does."""
    if span == 0 or itemsize_bits not in (4, 8, 16, 32, 64, 128):
        return span == 0 and bool(np.array_equal(layout.offsets(), layout.linear().offsets()))
    swizzle = Swizzle.for_bytes(span, itemsize_bits)
    return bool(np.array_equal(layout.offsets(), swizzle.apply(layout.linear().offsets())))


def _dense_boxes(layout: SharedLayout, width: int | None, span: int) -> TmaBoxes | None:
    """Boxes as large as density and the limits allow; `width` is the extent of a row if fixed."""
    box = [1] * layout.rank
    dense, open_ = 1, True
    for dim in reversed(range(layout.rank)):
        extent = layout.shape[dim]
        if not open_ or extent == 1:
            continue
        inner, stride = layout.modes[dim][-1], layout.strides[dim][-1]
        if stride != dense:
            break
        fixed = dim == layout.rank - 1 and width is not None
        if fixed and (width is None or inner % width):
            return None
        limit = width if fixed and width is not None else _BOX_LIMIT
        box[dim] = max(f for f in range(1, min(inner, limit) + 1) if inner % f == 0)
        dense *= box[dim]
        open_ = box[dim] == extent or fixed
    linear = layout.linear().offsets()
    counts = tuple(n // b for n, b in zip(layout.shape, box, strict=True))
    steps = tuple(
        int(linear[tuple(box[d] if d == dim else 0 for d in range(layout.rank))])
        if counts[dim] > 1
        else 0
        for dim in range(layout.rank)
    )
    return TmaBoxes(tuple(box), span, counts, steps)


def _boxes_hold(layout: SharedLayout, boxes: TmaBoxes, itemsize_bits: int) -> bool:
    """Whether the boxes put every element where the layout has it, at legal addresses."""
    row = boxes.box[-1] * itemsize_bits
    if row % 128 or (boxes.span and row != boxes.span * 8):
        return False
    alignment = max(128, 8 * boxes.span) * 8
    several = any(count > 1 for count in boxes.counts)
    if several and any(step * itemsize_bits % alignment for step in boxes.steps):
        return False
    expected = np.zeros(layout.shape, dtype=np.int64)
    inside = 1
    for dim in reversed(range(layout.rank)):
        index = np.arange(layout.shape[dim], dtype=np.int64)
        part = index // boxes.box[dim] * boxes.steps[dim] + index % boxes.box[dim] * inside
        expected = expected + part.reshape([-1 if d == dim else 1 for d in range(layout.rank)])
        inside *= boxes.box[dim]
    return bool(np.array_equal(expected, layout.linear().offsets()))


@lru_cache(maxsize=1024)
def wgmma_operand(
    layout: SharedLayout, major: Literal["k", "mn"], itemsize_bits: int
) -> WgmmaOperand | None:
    """The descriptor fields by which wgmma reads a tile of this layout; None where it cannot.

    Args:
        layout: of shape [MN, K] for "k" (K-major), [K, MN] for "mn" (only for elements of 16 bits).
        major: which dimension is contiguous.
        itemsize_bits: width of an element: 8, 16 or 32.
    """
    if layout.rank != 2 or itemsize_bits not in (8, 16, 32):
        return None
    if major == "mn" and itemsize_bits != 16:
        return None
    mn, k = layout.shape if major == "k" else layout.shape[::-1]
    step = 256 // itemsize_bits
    if mn % 8 or k % step:
        return None
    linear = layout.linear().offsets() * (itemsize_bits // 8)
    by_mn = linear if major == "k" else linear.T
    for span in (*SPANS, 0):
        if not _is_swizzled_by(layout, itemsize_bits, span):
            continue
        found = _descriptor(by_mn, major, itemsize_bits // 8, span)
        if found is not None:
            return found
    return None


def _descriptor(
    linear: IntArray, major: Literal["k", "mn"], itemsize: int, span: int
) -> WgmmaOperand | None:
    """The operand, if `linear`, byte offsets [MN, K] before the swizzle, has the canonical form."""
    mn, k = linear.shape
    step = 32 // itemsize
    chunk = 16 // itemsize
    k_offsets = tuple(int(linear[0, i]) for i in range(0, k, step))
    eight = int(linear[8, 0]) if mn > 8 else 0
    if major == "k" and span:
        lbo, sbo = 16, eight or 8 * span
    elif major == "k":
        lbo, sbo = int(linear[0, chunk]), eight or 128
    elif span:
        width = span // itemsize
        if mn % width:
            return None
        lbo = int(linear[width, 0]) if mn > width else 8 * span
        sbo = int(linear[0, 8])
    else:
        lbo, sbo = int(linear[0, 8]), eight or 128
    if not all(x % 16 == 0 and 0 <= x < _FIELD_LIMIT for x in (lbo, sbo, *k_offsets)):
        return None
    one = _canonical(mn, step, major, itemsize, span, lbo, sbo)
    blocks = [one + offset for offset in k_offsets]
    if not np.array_equal(np.concatenate(blocks, axis=1), linear):
        return None
    if span and any(_breaks_atom(x, span, major) for x in (lbo, sbo, *k_offsets)):
        return None
    mn_step = int(linear[64, 0]) if mn > 64 else 0
    return WgmmaOperand(
        major, SWIZZLE_CODES[span], lbo, sbo, k_offsets, mn_step, max(128, 8 * span)
    )


def _breaks_atom(offset: int, span: int, major: str) -> bool:
    """Whether a step of `offset` bytes would land inside a swizzle atom, off its first row.

    K-major steps stay in the row (they add to the chunk only) or go to another atom.
    """
    within = offset % (8 * span)
    return within >= span if major == "k" else within != 0


def _canonical(
    mn: int, k: int, major: str, itemsize: int, span: int, lbo: int, sbo: int
) -> IntArray:
    """Byte offsets [mn, k] at which one instruction finds its operand, before the swizzle.

    PTX ISA, "Strides" of wgmma's matrix descriptors: in units of 16 bytes ((8, m), 2) : ((W, SBO),
    1) for K-major and ((W, m), (8, k)) : ((1, LBO), (W, SBO)) for MN-major, W = span / 16; without
    a swizzle 8 rows of 16 bytes are contiguous.
    """
    i = np.arange(mn, dtype=np.int64)[:, None]
    j = np.arange(k, dtype=np.int64)[None, :]
    if major == "k" and span:
        return (i % 8) * span + (i // 8) * sbo + j * itemsize
    chunk = 16 // itemsize
    if major == "k":
        return (i % 8) * 16 + (i // 8) * sbo + (j // chunk) * lbo + (j % chunk) * itemsize
    if span:
        width = span // itemsize
        return (i % width) * itemsize + (i // width) * lbo + (j % 8) * span + (j // 8) * sbo
    return (i % chunk) * itemsize + (i // chunk) * sbo + (j % 8) * 16 + (j // 8) * lbo


def box_bytes(boxes: TmaBoxes, itemsize_bits: int) -> int:
    """Bytes that one box transfers."""
    return math.prod(boxes.box) * itemsize_bits // 8
