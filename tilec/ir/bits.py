"""Values and tiles as the bits that they are: cut into parts, or made of parts, the lowest first."""

from __future__ import annotations

from collections.abc import Sequence

from .build import Builder, Number
from .core import Value
from .dtypes import UNSIGNED, DType
from .ops.arith import Reinterpret, element_dtype


def reinterpreted(b: Builder, x: Value, dtype: DType) -> Value:
    """The bits of x as a value of `dtype`, which has as many."""
    return x if element_dtype(x) == dtype else b.pure(Reinterpret(x, dtype=dtype))


def joined(b: Builder, parts: Sequence[Value], dtype: DType) -> Value:
    """The value of `dtype` whose bits are those of `parts`, all of one dtype."""
    word, size = UNSIGNED[dtype.bits], element_dtype(parts[0]).bits
    bits: Value | None = None
    for number, part in enumerate(parts):
        piece = b.cast(reinterpreted(b, part, UNSIGNED[size]), word)
        moved = b.shift_left(piece, number * size) if number else piece
        bits = moved if bits is None else b.bit_or(bits, moved)
    assert bits is not None
    return reinterpreted(b, bits, dtype)


def part_of(b: Builder, x: Value, number: Number, dtype: DType) -> Value:
    """Number `number` (i32) of the values of `dtype` that the bits of x are."""
    word = UNSIGNED[element_dtype(x).bits]
    bits, at = reinterpreted(b, x, word), b.cast(b.mul(b.value(number), dtype.bits), word)
    part = b.cast(b.shift_right(bits, at), UNSIGNED[dtype.bits])
    return reinterpreted(b, part, dtype)
