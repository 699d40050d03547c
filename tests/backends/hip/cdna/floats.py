"""Floating-point operations of the vector unit that NumPy has not, on arrays of f32 and f64.

Exact where the hardware is: fused multiply-adds round once. Functions that the hardware
approximates to one unit in the last place are rounded correctly here. Source of the division steps:
CDNA3 ISA, V_DIV_SCALE_F32, V_DIV_FMAS_F32, V_DIV_FIXUP_F32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_TINY = np.float32(2.0**-126)  # the smallest normal f32


def fma32(a: Array, b: Array, c: Array) -> Array:
    """a b + c of f32, rounded once."""
    return _to_odd(a, b, c).astype(np.float32)


def _to_odd(a: Array, b: Array, c: Array) -> Array:
    """a b + c of f32, in f64.

    The product is exact there. Its sum with c is rounded to odd, which leaves enough to round to
    f32 as if from the exact sum (Boldo and Melquiond, "Emulation of a FMA and correctly rounded
    sums", 2008).
    """
    product = np.multiply(a, b, dtype=np.float64)
    wide = np.add(product, c, dtype=np.float64)
    error = _sum_error(product, np.asarray(c, np.float64), wide)
    bits = np.atleast_1d(wide).view(np.int64)
    inexact = (error != 0) & np.isfinite(wide) & np.isfinite(error) & (bits & 1 == 0)
    outward = (error > 0) == (wide > 0)
    odd = np.where(inexact, bits + np.where(outward, 1, -1), bits)
    return odd.view(np.float64)


def fma64(a: Array, b: Array, c: Array) -> Array:
    """a b + c of f64, with at most one unit in the last place of error: the product and the sum
    each with what their rounding lost (Dekker 1971; Knuth, "Seminumerical Algorithms", 4.2.2)."""
    product = a * b
    split = np.float64(2**27 + 1)
    a_high, b_high = (x * split - (x * split - x) for x in (a, b))
    a_low, b_low = a - a_high, b - b_high
    lost = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    total = product + c
    exact = total + (lost + _sum_error(product, c, total))
    return np.where(np.isfinite(exact), exact, total)


def _sum_error(a: Array, b: Array, total: Array) -> Array:
    """What rounding a + b to `total` lost."""
    part = total - a
    return (a - (total - part)) + (b - part)


def flushed(x: Array) -> Array:
    """Subnormal f32 as zeros of their sign."""
    return np.where(np.abs(x) < _TINY, np.copysign(np.float32(0), x), x)


def approximated(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """A function of one f32 as the hardware has it: of no subnormals, to no subnormals."""

    def compute(x: Array) -> Array:
        return flushed(function(flushed(x).astype(np.float64)).astype(np.float32))

    return compute


exp2 = approximated(np.exp2)
log2 = approximated(np.log2)
reciprocal = approximated(lambda x: 1 / x)
inverse_root = approximated(lambda x: 1 / np.sqrt(x))
sine = approximated(lambda x: np.sin(2 * np.pi * x))
cosine = approximated(lambda x: np.cos(2 * np.pi * x))


def to_integer(kind: str) -> Callable[[Array], Array]:
    """Conversion of floats to "i32" or "u32": towards zero, saturating, NaN to 0."""
    info = np.iinfo({"i32": np.int32, "u32": np.uint32}[kind])

    def convert(x: Array) -> Array:
        wide = np.nan_to_num(np.trunc(x.astype(np.float64)), nan=0.0)
        return np.clip(wide, info.min, info.max).astype(info.dtype)

    return convert


def _exponent(x: Array) -> Array:
    """The biased exponent of f32."""
    return (np.ascontiguousarray(x).view(np.uint32) >> 23 & 255).astype(np.int32)


def _is_subnormal(x: Array) -> Array:
    return (x != 0) & (np.abs(x) < _TINY)


def div_scale(value: Array, denominator: Array, numerator: Array) -> tuple[Array, Array]:
    """The first step of a division: one of its operands, scaled so that no later step leaves the
    range, and where the quotient must be scaled back."""
    value, denominator, numerator = np.broadcast_arrays(value, denominator, numerator)
    value, denominator, numerator = map(np.ascontiguousarray, (value, denominator, numerator))
    up, down = value * np.float32(2.0**64), value * np.float32(2.0**-64)
    quotient = np.divide(numerator, denominator, dtype=np.float32)
    inverse = np.divide(np.float32(1), denominator)
    of_denominator, of_numerator = value == denominator, value == numerator
    huge = _exponent(numerator) - _exponent(denominator) >= 96
    both = _is_subnormal(inverse) & _is_subnormal(quotient)
    cases = (
        ((numerator == 0) | (denominator == 0), np.float32(np.nan), False),
        (huge, np.where(of_denominator, up, value), True),
        (_is_subnormal(denominator), up, False),
        (both, np.where(of_denominator, up, value), True),
        (_is_subnormal(inverse), down, False),
        (_is_subnormal(quotient), np.where(of_numerator, up, value), True),
        (_exponent(numerator) <= 23, up, False),
    )
    conditions = [case[0] for case in cases]
    scaled = np.select(conditions, [case[1] for case in cases], value)
    back = np.select(conditions, [np.full(value.shape, case[2]) for case in cases], False)
    return scaled.astype(np.float32), back


def div_fmas(a: Array, b: Array, c: Array, scaled: Array) -> Array:
    """a b + c, scaled back where the first step said so, rounded once."""
    up = _exponent(np.atleast_1d(c)) > 127
    factor = np.where(scaled, np.where(up, 2.0**64, 2.0**-64), 1.0)
    return (_to_odd(a, b, c) * factor).astype(np.float32)


def div_fixup(quotient: Array, denominator: Array, numerator: Array) -> Array:
    """The quotient, with the special cases of division put right, and where the steps before left
    the range of f32 (a NaN of two numbers), what it overflows or underflows to."""
    quotient, denominator, numerator = np.broadcast_arrays(quotient, denominator, numerator)
    special = (
        ~np.isfinite(denominator) | ~np.isfinite(numerator) | (denominator == 0) | (numerator == 0)
    )
    negative = np.signbit(numerator) != np.signbit(denominator)
    beyond = np.where(_exponent(numerator) > _exponent(denominator), np.float32(np.inf), 0)
    size = np.where(np.isnan(quotient), beyond, np.abs(quotient))
    found = np.where(special, np.divide(numerator, denominator), np.where(negative, -size, size))
    return found.astype(np.float32)
