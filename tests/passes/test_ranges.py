"""Ranges: every operation holds what the operation of two elements gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.dtypes import bool_, i8, i32, u8
from tilec.passes.ranges import Range, bounds_of, difference_decides

small = st.integers(-40, 40)


@st.composite
def ranges(draw: st.DrawFn) -> tuple[Range, int]:
    """A range and one of its elements."""
    start, step, count = draw(small), draw(st.integers(1, 12)), draw(st.integers(1, 6))
    members = [start + step * i for i in range(count)]
    found = Range.between(members[0], members[-1], step, start)
    if draw(st.booleans()):  # looser bounds, same congruence
        found = Range.between(members[0] - draw(st.integers(0, 9)), members[-1], step, start)
    return found, draw(st.sampled_from(members))


@given(ranges(), ranges())
@settings(deadline=None, max_examples=400)
def test_arithmetic_is_sound(left: tuple[Range, int], right: tuple[Range, int]) -> None:
    (a, x), (b, y) = left, right
    assert x in a and y in b
    cases: list[tuple[Range | None, int | None]] = [
        (a.add(b), x + y),
        (a.sub(b), x - y),
        (a.mul(b), x * y),
        (a.neg(), -x),
        (a.abs(), abs(x)),
        (a.min(b), min(x, y)),
        (a.max(b), max(x, y)),
        (a.join(b), x),
        (a.join(b), y),
        (a.floordiv(b), x // y if b.low >= 1 else None),
        (a.floormod(b), x % y if b.low >= 1 else None),
        (a.bit_and(b), x & y),
        (a.bit_or(b), x | y),
        (a.bit_or(b), x ^ y),
        (a.shift_left(b), x << y if y >= 0 else None),
        (a.shift_right(b), x >> y if y >= 0 else None),
        (a.clipped(x - 3, x + 2), x),
    ]
    for found, value in cases:
        if found is not None and value is not None:
            assert value in found, (a, b, x, y, found, value)


@given(ranges(), st.sampled_from([i8, u8, i32]), st.integers(-4, 4))
@settings(deadline=None, max_examples=300)
def test_wrapping_is_sound(pair: tuple[Range, int], dtype: object, factor: int) -> None:
    a, x = pair
    low, high = bounds_of(dtype)  # type: ignore[arg-type]
    scaled, y = a.mul(Range.exactly(17 * factor)), x * 17 * factor
    span = high - low + 1
    wrapped = scaled.wrapped(dtype)  # type: ignore[arg-type]
    assert (y - low) % span + low in wrapped
    assert wrapped.inside(low, high)


COMPARE: dict[str, Callable[[int, int], bool]] = {
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
}


@given(ranges(), ranges())
@settings(deadline=None, max_examples=300)
def test_comparisons_are_sound(left: tuple[Range, int], right: tuple[Range, int]) -> None:
    (a, x), (b, y) = left, right
    for predicate, holds in COMPARE.items():
        known = a.compare(predicate, b)
        assert known in (None, holds(x, y))
        assert difference_decides(predicate, a.sub(b)) == known


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Range.between(0, 127).mul(Range.exactly(128)), (0, 127 * 128, 128, 0)),
        (Range.between(0, 127, 8).add(Range.exactly(3)), (3, 123, 8, 3)),
        (Range.between(0, 1023, 64).floordiv(Range.exactly(32)), (0, 30, 2, 0)),
        (Range.between(-5, 200).floormod(Range.exactly(16)), (0, 15, 1, 0)),
        (Range.between(0, 1023, 64).floormod(Range.exactly(48)), (0, 32, 16, 0)),
        (Range.between(35, 37).floormod(Range.exactly(16)), (3, 5, 1, 0)),
        (Range.between(0, 99).bit_and(Range.exactly(-8)), (0, 96, 8, 0)),
        (Range.between(0, 200).wrapped(i8), (-128, 127, 1, 0)),
        (Range.between(0, 512, 64).wrapped(u8), (0, 192, 64, 0)),
        (Range.exactly(200).wrapped(i8), (-56, -56, 0, -56)),
        (Range.exactly(4).join(Range.exactly(10)), (4, 10, 6, 4)),
        (Range.between(3, 8, 10, 5), (5, 5, 0, 5)),
        (Range.everything(bool_), (0, 1, 1, 0)),
    ],
)
def test_precision(found: Range, expected: tuple[int, int, int, int]) -> None:
    assert (found.low, found.high, found.modulus, found.residue) == expected


def test_what_is_decided() -> None:
    assert Range.between(0, 7).compare("lt", Range.exactly(8)) is True
    assert Range.between(0, 8).compare("lt", Range.exactly(8)) is None
    assert Range.between(0, 96, 8).compare("eq", Range.exactly(9)) is False
    assert Range.between(0, 96, 8).compare("ne", Range.exactly(16)) is None
    assert Range.exactly(3).compare("eq", Range.exactly(3)) is True
