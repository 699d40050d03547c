"""What a conversion between element types gives, on NumPy arrays: the meaning of `cast`.

Conversions round once, to nearest even. Out of range, a float becomes an infinity in f16, bf16, f32
and f64, and the largest finite value of its sign in the floats of 8 bits and fewer. NaN is 0x7f in the
8-bit ones (0x80 in the fnuz types) and becomes 0 where there is none, in those of 6 and 4 bits and in
integers. A float that becomes an integer is truncated, and is the nearest that there is where it
lies outside.
Integers wrap around. f32 and tf32 are the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dtypes import DType, bf16, e2m1, e2m1b, e2m3, e3m2, e4m3, e4m3fnuz, e5m2, e5m2fnuz, long_name

Array = NDArray[Any]

LARGEST = {
    e4m3: 448.0, e5m2: 57344.0, e4m3fnuz: 240.0, e5m2fnuz: 57344.0, e2m3: 7.5, e3m2: 28.0,
    e2m1: 6.0, e2m1b: 6.0,
}  # fmt: skip
"""The largest finite values of the types that saturate."""
_NAN = {e4m3: 0x7F, e5m2: 0x7F, e4m3fnuz: 0x80, e5m2fnuz: 0x80}  # others have none: 0
_SIX_BITS = tuple(long_name(dtype.name) for dtype in (e2m3, e3m2))


def largest_finite(dtype: DType) -> float:
    """The largest finite value of a float dtype."""
    if dtype in LARGEST:
        return LARGEST[dtype]
    if dtype == bf16:
        return (2 - 2.0**-7) * 2.0**127
    return float(np.finfo(dtype.numpy).max)


def convert_array(x: Array, target: DType) -> Array:
    """x in `target`: an array of `target.numpy`, of the shape of x. x itself where that is so."""
    whole = target.is_float or target.bits != 4
    if x.dtype == target.numpy and whole:
        return x
    x = without_padding(x)
    with np.errstate(all="ignore"):
        if target.is_integer and x.dtype.kind not in "iub":
            return _to_integer(x.astype(np.float64), target)
        if not whole:
            return _to_four_bits(x, target)
        if target == bf16:
            return _to_odd(x).astype(target.numpy)
        if target in LARGEST:
            return _to_small_float(_to_odd(x), target)
        return x.astype(target.numpy)


def without_padding(x: Array) -> Array:
    """x with zeros in the two bits of a byte that are none of a 6-bit float's: they are ignored, and
    ml_dtypes would read them.
    """
    if x.dtype.name not in _SIX_BITS:
        return x
    codes: Array = (np.ascontiguousarray(x).view(np.uint8) & np.uint8(63)).view(x.dtype)
    return codes


def _to_integer(x: Array, target: DType) -> Array:
    """f64 truncated; limited to what `target` holds; NaN gives 0."""
    least = -(1 << (target.bits - 1)) if target.kind == "int" else 0
    most = least + (1 << target.bits) - 1
    whole = np.trunc(x)
    high, low = whole > float(most), whole < float(least)  # in f64, most + 1 stands for most
    high |= (whole == float(most)) & (target.bits == 64)
    inside: Array = np.where(high | low | np.isnan(whole), 0, whole).astype(target.numpy)
    inside[high], inside[low] = most, least
    return inside


def _to_four_bits(x: Array, target: DType) -> Array:
    """The low bits of integers, read as the target has them."""
    low = x.astype(np.uint8) & np.uint8(15)
    signed: Array = (low ^ np.uint8(8)).astype(np.int8) - np.int8(8)
    return signed if target.kind == "int" else low


def _of_low_half(bits: Array, dtype: DType) -> Array:
    """The 4-bit elements whose bits are the low halves of bytes, uint8."""
    if dtype.is_float:
        found: Array = (bits & np.uint8(15)).view(dtype.numpy)
        return found
    return _to_four_bits(bits, dtype)


def reinterpret_array(x: Array, target: DType) -> Array:
    """The bits of x read as `target`; of a 4-bit one, those of the low half of a byte."""
    held = np.asarray(x, order="C")
    return (
        _of_low_half(held.view(np.uint8), target) if target.bits == 4 else held.view(target.numpy)
    )


def unpack_pairs(raw: Array, dtype: DType) -> Array:
    """Bytes [..., N / 2] as 4-bit elements [..., N] of `dtype`, the low half of a byte first."""
    halves = np.stack([raw.view(np.uint8), raw.view(np.uint8) >> 4], axis=-1)
    return _of_low_half(halves.reshape(*raw.shape[:-1], 2 * raw.shape[-1]), dtype)


def pack_pairs(elements: Array) -> Array:
    """4-bit elements [..., N] as bytes [..., N / 2], uint8. N is even."""
    low = np.ascontiguousarray(elements).view(np.uint8) & np.uint8(15)
    packed: Array = low[..., 0::2] | low[..., 1::2] << np.uint8(4)
    return packed


def _to_small_float(x: Array, target: DType) -> Array:
    limit = np.float32(LARGEST[target])
    bits = np.clip(x, -limit, limit).astype(target.numpy).view(np.uint8)
    result: Array = np.where(np.isnan(x), np.uint8(_NAN.get(target, 0)), bits).view(target.numpy)
    return result


def _to_odd(x: Array) -> Array:
    """x in f32, rounded to odd: the next rounding, to 8 digits or fewer, is as if it were the only
    one (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008, section 2).
    """
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8:
        large = np.abs(x.astype(np.float64)) >= 2.0**48  # below, f64 holds it
        x = np.where(large, (x >> 11 | ((x & 0x7FF) != 0)) * 2.0**11, x)
    if x.dtype.itemsize < 4 or x.dtype == np.float32:
        return x.astype(np.float32)
    wide = x.astype(np.float64)
    y = wide.astype(np.float32)
    back = y.astype(np.float64)
    inexact = (back != wide) & ~np.isnan(wide)
    bits = y.view(np.uint32)
    nearer_zero = bits - (np.abs(back) > np.abs(wide)).astype(np.uint32)
    odd: Array = np.where(inexact, nearer_zero | np.uint32(1), bits).view(np.float32)
    return odd
