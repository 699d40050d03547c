"""4-bit integers in bytes, as arithmetic: two in a byte of memory, one in a byte of a register."""

from __future__ import annotations

from ..ir.build import Builder, Number
from ..ir.core import Value
from ..ir.dtypes import PAIRS, DType, i4, i8, u4, u8
from ..ir.ops.arith import Reinterpret, element_dtype

HELD = {i4: i8, u4: u8}
"""What holds one element in a register."""


def unpacked(b: Builder, pair: Value, index: Number, dtype: DType) -> Value:
    """The element of a byte, of an even or an odd index (i32)."""
    held = HELD[dtype]
    shift = b.cast(b.value(b.mul(b.floormod(b.value(index), 2), 4)), held)
    bits = b.pure(Reinterpret(pair, dtype=held))
    if dtype == u4:
        return b.bit_and(b.shift_right(bits, shift), 15)
    return b.shift_right(b.shift_left(bits, b.sub(b.const(4, held), shift)), 4)


def packed(b: Builder, first: Value, second: Value, pairs: DType) -> Value:
    """The byte of two elements: the first in the low half."""
    low = b.bit_and(b.cast(first, u8), 15)
    high = b.shift_left(b.cast(second, u8), 4)
    return b.pure(Reinterpret(b.bit_or(low, high), dtype=pairs))


def narrowed(b: Builder, x: Value, dtype: DType) -> Value:
    """A value, or a tile, as 4-bit integers in bytes: floats saturate, integers wrap around."""
    y = b.cast(x, HELD[dtype])
    if element_dtype(x).is_float:
        return b.min(y, 15) if dtype == u4 else b.max(b.min(y, 7), -8)
    return b.bit_and(y, 15) if dtype == u4 else b.shift_right(b.shift_left(y, 4), 4)


def twice(element: float, dtype: DType) -> float:
    """A 4-bit number in both halves of a byte."""
    assert dtype in PAIRS
    return float((int(element) & 15) * 17)
