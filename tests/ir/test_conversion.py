"""Conversions between element types against ml_dtypes, exhaustively where a source has 8 or 16
bits, and against exact fractions where ml_dtypes rounds twice."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tilec.ir.conversion import LARGEST, convert_array, largest_finite, without_padding
from tilec.ir.core import constant
from tilec.ir.dtypes import (
    DTYPES,
    PAIRS,
    DType,
    bf16,
    e2m1,
    e2m1b,
    e2m3,
    e3m2,
    e4m3,
    e4m3fnuz,
    e5m2,
    e5m2fnuz,
    f16,
    f32,
    f64,
    i4,
    tf32,
    u4,
)

RANDOM = np.random.default_rng(3)
FLOAT8 = (e4m3, e5m2, e4m3fnuz, e5m2fnuz)
SMALL = (*FLOAT8, e2m3, e3m2, e2m1b)
# Digits of the significand, smallest exponent.
DIGITS = {
    bf16: (8, -133), e4m3: (4, -9), e5m2: (3, -16), e4m3fnuz: (4, -10), e5m2fnuz: (3, -17),
    e2m3: (4, -3), e3m2: (3, -4), e2m1b: (2, -1),
}  # fmt: skip
NAN = {e4m3.numpy: 0x7F, e5m2.numpy: 0x7F, e4m3fnuz.numpy: 0x80, e5m2fnuz.numpy: 0x80}
# About the limits of every integer type, and what has no integer.
EDGES = [
    sign * 2.0**b + d
    for b in (7, 8, 15, 16, 31, 32, 63, 64)
    for d in (-1, 0, 1)
    for sign in (1, -1)
]
EDGES += [0.0, -0.0, 0.9, -0.9, 1.5, np.nan, np.inf, -np.inf, 1e300, -1e300]
INTEGERS = tuple(d for d in DTYPES.values() if d.is_integer and d not in PAIRS.values())


def every_pattern(dtype: DType) -> NDArray[Any]:
    """All values of a type of 4, 6, 8 or 16 bits, NaNs and subnormals among them."""
    kind = np.uint16 if dtype.bits == 16 else np.uint8
    bits = dtype.code_bits
    return np.arange(1 << bits).astype(kind).view(dtype.numpy)


def saturated(x: NDArray[Any], target: DType) -> NDArray[Any]:
    """By ml_dtypes, which rounds f32 to nearest even, but does not saturate."""
    limit = np.float32(LARGEST[target])
    with np.errstate(all="ignore"):
        wide = np.clip(x.astype(np.float32), -limit, limit)
        # Where there is no NaN it becomes 0: ml_dtypes gives a zero of the other sign.
        return np.where(np.isnan(wide) & (target not in FLOAT8), 0, wide).astype(target.numpy)


def check_bits(got: NDArray[Any], expected: NDArray[Any], canonical: bool = False) -> None:
    """Equal bits; a NaN for a NaN, `canonical` by one form of it."""
    assert got.dtype == expected.dtype and got.shape == expected.shape
    nan = np.isnan(expected.astype(np.float64))
    raw = got.view(f"u{got.itemsize}"), expected.view(f"u{got.itemsize}")
    np.testing.assert_array_equal(np.isnan(got.astype(np.float64)), nan)
    np.testing.assert_array_equal(raw[0][~nan], raw[1][~nan])
    assert not (canonical and nan.any()) or (raw[0][nan] == NAN[got.dtype]).all()


@pytest.mark.parametrize("target", SMALL, ids=str)
@pytest.mark.parametrize("source", [f16, bf16, *SMALL], ids=str)
def test_to_eight_bits_or_fewer_exhaustively(source: DType, target: DType) -> None:
    x = every_pattern(source)
    got = convert_array(x, target)
    if source == target:
        assert got is x
        return
    check_bits(got, saturated(x, target), canonical=True)
    assert np.abs(got[np.isinf(x.astype(np.float32))].astype(np.float32)).tolist() == [
        LARGEST[target]
    ] * int(np.isinf(x.astype(np.float32)).sum())


@pytest.mark.parametrize("target", [f16, bf16, f32, tf32, f64], ids=str)
@pytest.mark.parametrize("source", [*SMALL, f16, bf16], ids=str)
def test_from_sixteen_bits_or_fewer(source: DType, target: DType) -> None:
    x = every_pattern(source)
    with np.errstate(all="ignore"):
        check_bits(convert_array(x, target), x.astype(np.float32).astype(target.numpy))


def nearest(value: float | int, target: DType) -> float:
    """`value` rounded once to nearest even, in exact arithmetic; saturated, or an infinity."""
    digits, smallest = DIGITS[target]
    exact = Fraction(value)
    if exact == 0:
        return 0.0
    exponent = 0
    while abs(exact) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(exact) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    rounded = round(exact / unit) * unit
    limit = largest_finite(target)
    if abs(rounded) > limit:
        rounded = Fraction(limit) if target in LARGEST else Fraction(0)
        return float(rounded or "inf") * (1 if exact > 0 else -1)
    return float(rounded)


@pytest.mark.parametrize("target", [bf16, *SMALL], ids=str)
def test_wide_sources_round_once(target: DType) -> None:
    digits = DIGITS[target][0]
    ties = (1 + (2 * np.arange(1 << digits) + 1) * 2.0**-digits) * 2.0 ** RANDOM.integers(
        -12, 9, 1 << digits
    )
    beside = [ties * (1 + sign * 2.0**-30) for sign in (-1, 0, 1)]
    x = np.concatenate([*beside, -ties, RANDOM.standard_normal(300) * 100, [1e300, -1e39, 3.4e38]])
    got = convert_array(x, target).astype(np.float64)
    assert got.tolist() == [nearest(float(v), target) for v in x]


@pytest.mark.parametrize("kind", ["i32", "u32", "i64", "u64"])
def test_wide_integers_to_bf16_round_once(kind: str) -> None:
    dtype = DTYPES[kind]
    info = np.iinfo(dtype.numpy)
    values = [(2 * k + 1 << s) + d for k in (128, 131, 200) for s in range(56) for d in (-1, 0, 1)]
    values += [-v for v in values] + [info.min, info.max, 0, 1, -1, -3]
    kept = [v for v in values if info.min <= v <= info.max]
    got = convert_array(np.array(kept, dtype.numpy), bf16).astype(np.float64)
    assert got.tolist() == [nearest(v, bf16) for v in kept]


@pytest.mark.parametrize("target", INTEGERS, ids=str)
@pytest.mark.parametrize("source", [f16, bf16, *SMALL, f32, f64], ids=str)
def test_floats_to_integers_truncate_and_saturate(source: DType, target: DType) -> None:
    x = convert_array(np.array(EDGES), source)
    low = -(1 << (target.bits - 1)) if target.kind == "int" else 0
    high = low + (1 << target.bits) - 1
    expected = [
        0
        if np.isnan(v)
        else high
        if v == np.inf
        else low
        if v == -np.inf
        else max(low, min(high, int(v)))
        for v in x.astype(np.float64).tolist()
    ]
    assert convert_array(x, target).tolist() == expected


def test_bool() -> None:
    x = np.array([0.0, -0.0, np.nan, 2.0**-9, -1])
    for source in (f16, bf16, *SMALL, f32, f64):
        got = convert_array(convert_array(x, source), DTYPES["bool"])
        small = source.has_nan  # the others have nothing as small, either
        assert got.tolist() == [False, False, small, small, True], source


def test_integers_wrap() -> None:
    x = np.array([300, -1, 1 << 40], np.int64)
    assert convert_array(x, DTYPES["u8"]).tolist() == [44, 255, 0]
    assert convert_array(x, DTYPES["i8"]).tolist() == [44, -1, 0]


def test_four_bits() -> None:
    x = np.arange(-40, 300)
    assert convert_array(x, u4).tolist() == (x % 16).tolist()
    assert convert_array(x, i4).tolist() == ((x + 8) % 16 - 8).tolist()
    assert convert_array(np.array([True, False]), i4).tolist() == [1, 0]
    every = np.arange(-8, 8).astype(np.int8)
    for target in (f16, bf16, f32, e4m3, e5m2, DTYPES["i8"]):
        got = convert_array(convert_array(every, i4), target)
        assert got.astype(np.float64).tolist() == every.tolist()


def test_floats_of_four_bits() -> None:
    """The packed type and the one that registers hold are the same numbers: those of ml_dtypes."""
    every = np.arange(16, dtype=np.uint8)
    found = convert_array(every.view(e2m1.numpy), f32)
    magnitudes = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert found.tolist() == magnitudes + [-x for x in magnitudes]
    assert np.signbit(found).tolist() == [False] * 8 + [True] * 8
    for source in (f16, bf16, *FLOAT8):
        x = every_pattern(source)
        check_bits(convert_array(x, e2m1), saturated(x, e2m1))
    assert convert_array(np.array([-9, -5, 2, 5, 7, 1 << 40]), e2m1).astype(float).tolist() == [
        -6, -4, 2, 4, 6, 6,
    ]  # fmt: skip
    assert [constant(x, e2m1).value for x in (0.3, -100, float("nan"))] == [0.5, -6.0, 0.0]


@pytest.mark.parametrize("source", [e2m3, e3m2], ids=str)
@pytest.mark.parametrize("target", [f16, bf16, f32, tf32, f64, *SMALL, DTYPES["i8"]], ids=str)
def test_six_bits_of_a_byte_are_read(source: DType, target: DType) -> None:
    """Whatever the two above them hold; what only moves keeps them."""
    every = np.arange(256).astype(np.uint8)
    clean, whole = (every & 63).view(source.numpy), every.view(source.numpy)
    expected = whole if source == target else convert_array(clean, target)
    assert convert_array(whole, target).tobytes() == expected.tobytes()
    assert without_padding(whole).tobytes() == clean.tobytes()
    assert whole.tobytes() == every.tobytes(), "the array itself is as it was"


def test_floats_of_six_bits() -> None:
    """What ml_dtypes has, and what a conversion does where there is no such number."""
    for dtype, largest, smallest in ((e2m3, 7.5, 0.125), (e3m2, 28.0, 0.0625)):
        x = np.array([np.nan, -np.nan, np.inf, -np.inf, 1e30, smallest, smallest / 2, -0.0])
        found = convert_array(x, dtype)
        assert found.astype(float).tolist() == [0, 0, largest, -largest, largest, smallest, 0, 0]
        assert found.view(np.uint8).tolist()[:2] == [0, 0] and found.view(np.uint8)[-1] == 32
        assert (dtype.bits, dtype.code_bits, dtype.bytes) == (8, 6, 1)
        assert not dtype.has_nan and not dtype.has_infinity and not dtype.computes


def test_constants_convert_as_values_do() -> None:
    assert constant(1000.0, e4m3).value == 448.0 and constant(-1e9, e5m2).value == -57344.0
    assert constant(0.3, e4m3).value == 0.3125 and constant(float("inf"), e4m3fnuz).value == 240.0
    assert constant(1 + 2.0**-8 + 2.0**-40, bf16).value == 1 + 2.0**-7
    assert constant(float("inf"), f16).value == float("inf")


def test_ml_dtypes_is_the_source_of_the_types() -> None:
    assert e4m3.numpy == ml_dtypes.float8_e4m3fn and e5m2.numpy == ml_dtypes.float8_e5m2
    assert tf32.numpy == np.float32
    assert e4m3fnuz.numpy == ml_dtypes.float8_e4m3fnuz
    assert e5m2fnuz.numpy == ml_dtypes.float8_e5m2fnuz
    assert e2m3.numpy == ml_dtypes.float6_e2m3fn and e3m2.numpy == ml_dtypes.float6_e3m2fn
    assert e2m1.numpy == e2m1b.numpy == ml_dtypes.float4_e2m1fn
    assert [largest_finite(d) for d in (f16, bf16, *SMALL)] == [
        float(ml_dtypes.finfo(d.numpy).max) for d in (f16, bf16, *SMALL)
    ]
