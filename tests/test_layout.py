"""The public names for layouts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tilec.layout import (
    Fragment,
    Layout,
    make_linear_layout,
    make_padded_layout,
    make_swizzle_layout,
    make_swizzled_layout,
)


@dataclass
class Element:
    bits: int


@dataclass
class Buffer:
    shape: tuple[object, ...]
    dtype: Element


HALF = Element(16)


def test_swizzle_is_the_widest_that_divides_a_row() -> None:
    assert make_swizzle_layout(Buffer((64, 64), HALF)) == Layout.swizzled((64, 64), 16, 128)
    assert make_swizzled_layout(Buffer((64, 32), HALF)) == Layout.swizzled((64, 32), 16, 64)
    assert make_swizzle_layout(Buffer((64, 10), HALF)) == Layout.row_major((64, 10))


def test_width_may_stand_on_the_buffer() -> None:
    @dataclass
    class Plain:
        shape: tuple[int, ...] = (8, 128)
        bits: int = 8

    assert make_swizzle_layout(Plain()) == Layout.swizzled((8, 128), 8, 128)


def test_linear_and_padded() -> None:
    buffer = Buffer((8, 64), HALF)
    assert make_linear_layout(buffer) == Layout.row_major((8, 64))
    assert make_padded_layout(buffer) == Layout.row_major((8, 64), pad=8)
    assert make_padded_layout(buffer, 2) == Layout.row_major((8, 64), pad=2)


@pytest.mark.parametrize("buffer", [object(), Buffer(("M", 64), HALF), Buffer((), HALF)])
def test_unknown_shapes_are_refused(buffer: object) -> None:
    with pytest.raises(ValueError, match="shape"):
        make_linear_layout(buffer)


def test_unknown_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="width"):
        make_swizzle_layout(Buffer((8, 8), None))  # type: ignore[arg-type]


def test_fragment_is_a_register_layout() -> None:
    assert Fragment((4,), ((4,),), (0,), ()).threads == 4
