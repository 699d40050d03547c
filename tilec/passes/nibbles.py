"""4-bit elements in bytes, as arithmetic: two in a byte of memory, one in a byte of a register."""

from __future__ import annotations

import numpy as np

from ..ir.build import Builder, Number
from ..ir.conversion import pack_pairs
from ..ir.core import Value
from ..ir.dtypes import HELD, PAIRS, DType, u4, u8
from ..ir.ops.arith import Reinterpret, element_dtype


def unpacked(b: Builder, pair: Value, index: Number, dtype: DType) -> Value:
    """The element of a byte, of an even or an odd index (i32)."""
    held = u8 if dtype.is_float else HELD[dtype]
    shift = b.cast(b.value(b.mul(b.floormod(b.value(index), 2), 4)), held)
    bits = b.pure(Reinterpret(pair, dtype=held))
    if dtype.kind == "int":
        return b.shift_right(b.shift_left(bits, b.sub(b.const(4, held), shift)), 4)
    half = b.bit_and(b.shift_right(bits, shift), 15)
    return b.pure(Reinterpret(half, dtype=HELD[dtype])) if dtype.is_float else half


def packed(b: Builder, first: Value, second: Value, pairs: DType) -> Value:
    """The byte of two elements: the first in the low half."""
    low = b.bit_and(_bits(b, first), 15)
    high = b.shift_left(_bits(b, second), 4)
    return b.pure(Reinterpret(b.bit_or(low, high), dtype=pairs))


def _bits(b: Builder, held: Value) -> Value:
    if element_dtype(held).is_float:
        return b.pure(Reinterpret(held, dtype=u8))
    return b.cast(held, u8)


def narrowed(b: Builder, x: Value, dtype: DType) -> Value:
    """A value, or a tile, converted to 4-bit elements in bytes: of integers those from floats
    saturate, those from integers wrap around.
    """
    y = b.cast(x, HELD[dtype])
    if dtype.is_float:
        return y
    if element_dtype(x).is_float:
        return b.min(y, 15) if dtype == u4 else b.max(b.min(y, 7), -8)
    return b.bit_and(y, 15) if dtype == u4 else b.shift_right(b.shift_left(y, 4), 4)


def reread(b: Builder, x: Value, dtype: DType) -> Value:
    """The bits of a 4-bit element in a byte, or of a tile of them, read as another 4-bit dtype."""
    bits = b.bit_and(_bits(b, x), 15)
    if dtype.is_float:
        return b.pure(Reinterpret(bits, dtype=HELD[dtype]))
    return narrowed(b, bits, dtype)


def twice(element: float, dtype: DType) -> float:
    """A 4-bit number in both halves of a byte."""
    assert dtype in PAIRS
    number = np.array(element if dtype.is_float else int(element)).astype(dtype.numpy)
    return float(pack_pairs(np.stack([number, number]))[0])
