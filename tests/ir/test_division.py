"""Integer division to the bit: floor and C's, of 64-bit numbers too."""

from __future__ import annotations

import numpy as np
import pytest

from tilec.ir.core import constant
from tilec.ir.dtypes import i32, i64
from tilec.ir.ops.arith import FloorDiv, FloorMod, TruncDiv, TruncMod

NUMBERS = [-(2**63), -(2**31), -7, -6, -1, 0, 1, 6, 7, 2**31 - 1, 2**53 + 1, 2**63 - 1]
DIVISORS = [-7, -3, -2, 1, 2, 3, 7, 2**31]


@pytest.mark.parametrize("x", NUMBERS)
@pytest.mark.parametrize("y", DIVISORS)
def test_quotients_and_remainders(x: int, y: int) -> None:
    a, b = constant(1, i64), constant(1, i64)
    cut = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    expected = [(FloorDiv, x // y), (FloorMod, x % y), (TruncDiv, cut), (TruncMod, x - cut * y)]
    for cls, value in expected:
        got = cls(a, b).evaluate(np.int64(x), np.int64(y))
        assert (int(got), got.dtype) == (value, np.int64), cls.name


def test_division_by_zero_is_defined_here() -> None:
    a, b = constant(1, i32), constant(1, i32)
    for cls in (FloorDiv, TruncDiv):
        assert int(cls(a, b).evaluate(np.int32(3), np.int32(0))) == 0
