"""Where a tile lies in shared memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .swizzle import CHUNK_BYTES, SPANS, Swizzle
from .term import IntArray, Term

_SWIZZLE_BITS = (4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class SharedLayout:
    """A map from coordinates to offsets in shared memory, counted in elements.

    Every dimension is factored into modes, outermost first; `strides` has the stride of each. The
    offset of a coordinate is the sum of its digits times their strides, passed through `swizzle`.

    | layout of f16[64, 128] | modes | strides | swizzle |
    |---|---|---|---|
    | row-major | (64), (128) | (128), (1) | 0, 0, 0 |
    | padded by 8 elements a row | (64), (128) | (136), (1) | 0, 0, 0 |
    | two 128-byte column blocks, swizzled | (64), (2, 64) | (64), (4096, 1) | 3, 3, 3 |

    Layouts are kept in lowest terms, as register layouts are. `offsets` is the meaning; everything
    else is a shortcut that the tests compare with it.

    Raises:
        ValueError: the fields do not describe a layout.
    """

    shape: tuple[int, ...]
    modes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    swizzle: Swizzle

    def __post_init__(self) -> None:
        if not len(self.shape) == len(self.modes) == len(self.strides):
            raise ValueError(f"shape {self.shape}, modes and strides differ in rank")
        modes, strides = [], []
        for d, (extent, dim, steps) in enumerate(
            zip(self.shape, self.modes, self.strides, strict=True)
        ):
            if extent < 1 or math.prod(dim) != extent or any(f < 1 for f in dim):
                raise ValueError(f"dimension {d}: modes {tuple(dim)} do not multiply to {extent}")
            if len(dim) != len(steps) or any(step < 0 for step in steps):
                raise ValueError(f"dimension {d}: strides {tuple(steps)} do not fit {tuple(dim)}")
            dim, steps = _lowest(dim, steps)
            modes.append(dim)
            strides.append(steps)
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "modes", tuple(modes))
        object.__setattr__(self, "strides", tuple(strides))

    # Constructors

    @classmethod
    def row_major(cls, shape: Sequence[int], pad: int = 0) -> SharedLayout:
        """The last dimension contiguous, `pad` unused elements after each of its rows.

        Raises:
            ValueError: `pad` is negative, or an extent is not positive.
        """
        if pad < 0:
            raise ValueError(f"rows cannot be padded by {pad} elements")
        strides: list[tuple[int]] = []
        step = 1
        for position, extent in enumerate(reversed(shape)):
            strides.insert(0, (step,))
            step = step * extent + (pad if position == 0 else 0)
        modes = tuple((extent,) for extent in shape)
        return cls(tuple(shape), modes, tuple(strides), Swizzle.none())

    @classmethod
    def swizzled(
        cls, shape: Sequence[int], itemsize_bits: int, span: int, chunk: int = CHUNK_BYTES
    ) -> SharedLayout:
        """Column blocks of `span` bytes one after another, each [rows][span], swizzled within by
        chunks.

        By chunks of 16 bytes this is what a sequence of TMA boxes writes, and what wgmma and ldmatrix
        read without bank conflicts. Dimensions before the last two are outside of it, row-major. `span` 0 gives the
        plain row-major layout.

        Raises:
            ValueError: `span` does not divide a row, or does not exist for elements of that width.
        """
        if span == 0:
            return cls.row_major(shape)
        swizzle = Swizzle.for_bytes(span, itemsize_bits, chunk)
        width = span * 8 // itemsize_bits
        if not shape or shape[-1] % width:
            raise ValueError(f"rows of {tuple(shape)} are no multiple of {width} elements")
        rows = shape[-2] if len(shape) > 1 else 1
        modes: list[tuple[int, ...]] = [(shape[-1] // width, width)]
        strides: list[tuple[int, ...]] = [(rows * width, 1)]
        step = width
        for position, extent in enumerate(reversed(shape[:-1])):
            modes.insert(0, (extent,))
            strides.insert(0, (step,))
            step *= extent * (shape[-1] // width if position == 0 else 1)
        return cls(tuple(shape), tuple(modes), tuple(strides), swizzle)

    @classmethod
    def from_function(cls, shape: Sequence[int], fn: Callable[..., Any]) -> SharedLayout:
        """The layout of a user's function of indices, evaluated at every coordinate.

        Args:
            shape: extents of the tile.
            fn: takes one integer array a dimension and returns an offset, or a sequence of indices
                of an array that is row-major and just large enough.

        Raises:
            ValueError: the function's values are no such offsets, or form no layout of this class.
        """
        from .fit import fit_offsets  # fit builds layouts, so it imports this module

        return fit_offsets(tuple(shape), fn)

    # Sizes and meaning

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements of storage: one more than the largest offset."""
        return int(self.offsets().max()) + 1

    @property
    def is_injective(self) -> bool:
        """Whether no two coordinates share an offset."""
        return np.unique(self.offsets()).size == math.prod(self.shape)

    def offsets(self) -> IntArray:
        """The offset of every coordinate, in elements: int array of the tile's shape, read-only."""
        return _offsets(self)

    def linear(self) -> SharedLayout:
        """The layout without its swizzle."""
        return SharedLayout(self.shape, self.modes, self.strides, Swizzle.none())

    def offset_terms(self) -> tuple[Term, ...]:
        """Terms over coordinates whose sum, passed through the swizzle, is the offset."""
        terms = []
        for dim, (modes, strides) in enumerate(zip(self.modes, self.strides, strict=True)):
            scale = self.shape[dim]
            for position, (extent, stride) in enumerate(zip(modes, strides, strict=True)):
                scale //= extent
                terms.append(Term(dim, scale, extent if position else None, stride))
        return tuple(terms)

    @property
    def is_dense(self) -> bool:
        """Whether the offsets before the swizzle are all numbers below that of the elements."""
        linear = self.linear()
        return linear.size == math.prod(self.shape) and linear.is_injective

    def coordinate_terms(self, dim: int) -> tuple[Term, ...]:
        """Terms over an offset before the swizzle (their source 0) whose sum is the coordinate along
        `dim` of the element there: the inverse of `offset_terms`, of a layout that is dense.
        """
        terms, scale, size = [], self.shape[dim], math.prod(self.shape)
        for extent, stride in zip(self.modes[dim], self.strides[dim], strict=True):
            scale //= extent
            outermost = extent * stride == size
            terms.append(Term(0, stride, None if outermost else extent, scale))
        return tuple(terms)

    def vector_width(self, dim: int = -1) -> int:
        """The longest power of two of elements along `dim` that always lie at consecutive offsets.

        Runs start at multiples of their length, and so do their offsets.
        """
        return _vector_width(self, dim % self.rank)

    def along(self, dims: Sequence[int]) -> SharedLayout:
        """The layout of the elements along some dimensions, 0 in all others."""
        return SharedLayout(
            tuple(self.shape[d] for d in dims),
            tuple(self.modes[d] for d in dims),
            tuple(self.strides[d] for d in dims),
            self.swizzle,
        )

    def stacked(self, count: int, period: int) -> SharedLayout:
        """`count` tiles of this layout one after the other, along a new outermost dimension, each
        starting at a multiple of `period` elements.
        """
        stride = -(-self.size // period) * period
        return SharedLayout(
            (count, *self.shape),
            ((count,), *self.modes),
            ((stride,), *self.strides),
            self.swizzle,
        )

    def part(self) -> SharedLayout | None:
        """The layout that each tile along the outermost dimension has, from where it starts; None
        where they differ.
        """
        part, offsets = self.along(range(1, self.rank)), self.offsets()
        starts = np.arange(self.shape[0]) * sum(self.strides[0])
        moved = starts.reshape(-1, *(1,) * part.rank) + part.offsets()
        alike = len(self.strides[0]) <= 1 and np.array_equal(offsets, moved)
        return part if alike else None

    def step(self, dim: int) -> int:
        """What divides, in elements, every distance along a dimension before the swizzle."""
        return math.gcd(*self.strides[dim])

    def transpose(self, perm: Sequence[int]) -> SharedLayout:
        """The layout whose dimension d is this one's `perm[d]`, every element where it was."""
        if sorted(perm) != list(range(self.rank)):
            raise ValueError(f"{tuple(perm)} is not a permutation of {self.rank} dimensions")
        return self.along(perm)


def choose_swizzle(shape: Sequence[int], itemsize_bits: int) -> int:
    """The widest span, in bytes, that divides a row of the tile: 128, 64, 32, or 0 for none."""
    row = shape[-1] * itemsize_bits
    if itemsize_bits not in _SWIZZLE_BITS:
        return 0
    return next((span for span in SPANS if row % (span * 8) == 0), 0)


def _lowest(
    modes: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Modes and strides of one dimension with neighbours joined where they are one run."""
    out: list[tuple[int, int]] = []
    for extent, stride in zip(modes, strides, strict=True):
        if extent == 1:
            continue
        if out and out[-1][1] == extent * stride:
            out[-1] = (out[-1][0] * extent, stride)
        else:
            out.append((extent, stride))
    return tuple(extent for extent, _ in out), tuple(stride for _, stride in out)


@lru_cache(maxsize=64)
def _offsets(layout: SharedLayout) -> IntArray:
    offsets = np.zeros(layout.shape, dtype=np.int64)
    for term in layout.offset_terms():
        assert isinstance(term.source, int)
        index = np.arange(layout.shape[term.source], dtype=np.int64)
        spread = [1] * layout.rank
        spread[term.source] = -1
        offsets = offsets + term.value(index).reshape(spread)
    offsets = layout.swizzle.apply(offsets)
    offsets.setflags(write=False)
    return offsets


@lru_cache(maxsize=1024)
def _vector_width(layout: SharedLayout, dim: int) -> int:
    extent = layout.shape[dim]
    width = 1
    rows = np.moveaxis(layout.offsets(), dim, -1)
    while extent % (2 * width) == 0:
        runs = rows.reshape(-1, 2 * width)
        first = runs[:, :1]
        if (first % (2 * width)).any() or (runs != first + np.arange(2 * width)).any():
            break
        width *= 2
    return width
