"""Layouts for users: how a shared buffer or a fragment lies in the machine.

`Layout` maps the coordinates of a shared buffer to offsets; `Fragment` maps threads and registers
to the coordinates of a fragment. Both are given to `T.annotate_layout`.
"""

from __future__ import annotations

from typing import Any

from .ir.layout import RegisterLayout as Fragment
from .ir.layout import SharedLayout as Layout
from .ir.layout import Swizzle, choose_swizzle

__all__ = [
    "Fragment",
    "Layout",
    "Swizzle",
    "make_linear_layout",
    "make_padded_layout",
    "make_swizzle_layout",
    "make_swizzled_layout",
]


def make_swizzle_layout(buffer: Any) -> Layout:
    """The widest hardware swizzle that divides the rows of `buffer`, row-major where none does.

    Args:
        buffer: anything with a `shape` of ints and the width of an element, as `dtype.bits` or
            `bits`.

    Raises:
        ValueError: the shape or the width cannot be read.
    """
    shape, bits = _shape(buffer), _bits(buffer)
    return Layout.swizzled(shape, bits, choose_swizzle(shape, bits))


make_swizzled_layout = make_swizzle_layout


def make_linear_layout(buffer: Any) -> Layout:
    """Row-major.

    Raises:
        ValueError: the shape cannot be read.
    """
    return Layout.row_major(_shape(buffer))


def make_padded_layout(buffer: Any, pad: int | None = None) -> Layout:
    """Row-major with `pad` unused elements after each row; 16 bytes where it is not given.

    Raises:
        ValueError: the shape or the width cannot be read, or `pad` is negative.
    """
    return Layout.row_major(_shape(buffer), max(1, 128 // _bits(buffer)) if pad is None else pad)


def _shape(buffer: Any) -> tuple[int, ...]:
    shape = getattr(buffer, "shape", None)
    if shape is None or not all(isinstance(extent, int) for extent in shape) or not tuple(shape):
        raise ValueError(f"a layout needs a buffer whose shape is known, not {buffer!r}")
    return tuple(shape)


def _bits(buffer: Any) -> int:
    bits = getattr(getattr(buffer, "dtype", None), "bits", None) or getattr(buffer, "bits", None)
    if not isinstance(bits, int):
        raise ValueError(f"a layout needs the width of the elements of {buffer!r} (dtype.bits)")
    return bits
