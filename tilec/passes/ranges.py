"""What is known of an integer: an interval and a congruence, and how arithmetic carries them on.

`Range(low, high, modulus, residue)` is the set of n with low <= n <= high and n = residue modulo
modulus; modulus 0 says n is residue. The operations are those of unbounded integers; `wrapped` says
what is left when a result is cut to a dtype. Each is sound: if a and b hold for x and y, then
`a.add(b)` holds for x + y. (Granger's congruences, Int. J. Comp. Math. 30, 1989, with intervals.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

from ..ir.dtypes import DType

SYMBOL_LIMIT = 2**31 - 2**16
"""Extents are below this, so that `extent + tile - 1` is an i32 for every tile extent to 65536. The
launcher refuses larger ones."""
NO_PROMISES: Mapping[str, int] = MappingProxyType({})
"""What the symbols of a program are multiples of, where it does not say."""


def bounds_of(dtype: DType) -> tuple[int, int]:
    """The least and largest value of an integer dtype or bool."""
    if dtype.kind == "bool":
        return 0, 1
    if dtype.kind == "uint":
        return 0, (1 << dtype.bits) - 1
    return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1


@dataclass(frozen=True)
class Range:
    """A set of integers. Build one with `between`, `exactly` or `everything`."""

    low: int
    high: int
    modulus: int = 1
    residue: int = 0

    @classmethod
    @lru_cache(maxsize=4096)
    def exactly(cls, number: int) -> Range:
        """The set of one number."""
        return cls(number, number, 0, number)

    @classmethod
    def between(cls, low: int, high: int, modulus: int = 1, residue: int = 0) -> Range:
        """low ... high, those that are `residue` modulo `modulus`. An empty set is that of `low`:

        what is said of values that never are holds in any case.
        """
        if modulus == 0:
            return cls.exactly(residue)
        if modulus > 1:
            low += (residue - low) % modulus
            high -= (high - residue) % modulus
        if high <= low:
            return cls.exactly(low)
        return cls(low, high, modulus, residue % modulus)

    @classmethod
    def everything(cls, dtype: DType) -> Range:
        """All values of a dtype."""
        return cls(*bounds_of(dtype))

    @property
    def number(self) -> int | None:
        """The only element, or None."""
        return self.low if self.low == self.high else None

    def __contains__(self, number: int) -> bool:
        congruent = number == self.residue if self.modulus == 0 else (
            (number - self.residue) % self.modulus == 0
        )  # fmt: skip
        return self.low <= number <= self.high and congruent

    def is_multiple(self, divisor: int) -> bool:
        """Whether every element is a multiple of a positive number."""
        return self.modulus % divisor == 0 and self.residue % divisor == 0

    def inside(self, low: int, high: int) -> bool:
        """Whether every element is in low ... high."""
        return low <= self.low and self.high <= high

    def join(self, other: Range) -> Range:
        """A range that holds the elements of both."""
        modulus = math.gcd(self.modulus, other.modulus, self.residue - other.residue)
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Range.between(low, high, modulus, self.residue)

    def clipped(self, low: int, high: int) -> Range:
        """The elements in low ... high."""
        if self.modulus == 0:
            return self
        return Range.between(max(low, self.low), min(high, self.high), self.modulus, self.residue)

    def wrapped(self, dtype: DType) -> Range:
        """The values that the elements have in a dtype, which drops their upper bits."""
        low, high = bounds_of(dtype)
        if self.inside(low, high):
            return self
        if self.number is not None:
            return Range.exactly((self.number - low) % (1 << dtype.bits) + low)
        # Taking away multiples of 2**bits keeps the residue modulo what divides both.
        return Range.between(low, high, math.gcd(self.modulus, 1 << dtype.bits), self.residue)

    # Arithmetic -----------------------------------------------------------------------------------

    def add(self, other: Range) -> Range:
        modulus = math.gcd(self.modulus, other.modulus)
        low, high = self.low + other.low, self.high + other.high
        return Range.between(low, high, modulus, self.residue + other.residue)

    def neg(self) -> Range:
        return Range.between(-self.high, -self.low, self.modulus, -self.residue)

    def sub(self, other: Range) -> Range:
        return self.add(other.neg())

    def mul(self, other: Range) -> Range:
        corners = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        modulus = math.gcd(
            self.modulus * other.modulus, self.modulus * other.residue, other.modulus * self.residue
        )
        return Range.between(min(corners), max(corners), modulus, self.residue * other.residue)

    def floordiv(self, other: Range) -> Range | None:
        """None where the divisor may not be positive."""
        if other.low < 1:
            return None
        corners = [a // b for a in (self.low, self.high) for b in (other.low, other.high)]
        modulus, residue = 1, 0
        divisor = other.number
        if divisor is not None and self.modulus % divisor == 0:
            modulus, residue = self.modulus // divisor, self.residue // divisor
        return Range.between(min(corners), max(corners), modulus, residue)

    def floormod(self, other: Range) -> Range | None:
        """None where the divisor may not be positive."""
        if other.low < 1:
            return None
        divisor = other.number
        if divisor is None:
            high = other.high - 1 if self.low < 0 else min(self.high, other.high - 1)
            return self if self.low >= 0 and self.high < other.low else Range.between(0, high)
        modulus = math.gcd(self.modulus, divisor)
        low, high = 0, divisor - 1
        if self.low // divisor == self.high // divisor:
            low, high = self.low % divisor, self.high % divisor
        return Range.between(low, high, modulus, self.residue)

    def min(self, other: Range) -> Range:
        return self.join(other).clipped(min(self.low, other.low), min(self.high, other.high))

    def max(self, other: Range) -> Range:
        return self.join(other).clipped(max(self.low, other.low), max(self.high, other.high))

    def abs(self) -> Range:
        if self.low >= 0:
            return self
        return self.neg() if self.high <= 0 else Range.between(0, max(-self.low, self.high))

    def bit_and(self, other: Range) -> Range | None:
        """None where nothing is known."""
        if other.number is None:
            if self.number is not None:
                return other.bit_and(self)
            highs = [r.high for r in (self, other) if r.low >= 0]
            return Range.between(0, min(highs)) if highs else None
        mask = other.number
        if mask >= 0 and mask & (mask + 1) == 0:
            return self.floormod(Range.exactly(mask + 1))
        step = mask & -mask  # the lowest bit of the mask: all below it are cleared
        if mask >= 0:
            return Range.between(0, mask, step)
        if self.low >= 0:
            return Range.between(0, self.high, step)
        return Range.between(self.low + mask, self.high, step) if step > 1 else None

    def bit_or(self, other: Range) -> Range | None:
        """Also the exclusive or. None where nothing is known."""
        if self.low < 0 or other.low < 0:
            return None
        return Range.between(0, (1 << max(self.high.bit_length(), other.high.bit_length())) - 1)

    def shift_left(self, other: Range) -> Range | None:
        """None where the amount is not known."""
        amount = other.number
        return (
            self.mul(Range.exactly(1 << amount))
            if amount is not None and 0 <= amount < 64
            else None
        )

    def shift_right(self, other: Range) -> Range | None:
        """None where the amount is not known."""
        amount = other.number
        known = amount is not None and 0 <= amount < 64
        return self.floordiv(Range.exactly(1 << amount)) if known and amount is not None else None

    # Comparison -----------------------------------------------------------------------------------

    def compare(self, predicate: str, other: Range) -> bool | None:
        """What a comparison of any element with any of the other gives, where it is always one."""
        return _PREDICATES[predicate](self.sub(other))


def _always(yes: bool, no: bool) -> bool | None:
    return True if yes else False if no else None


_PREDICATES: dict[str, Callable[[Range], bool | None]] = {
    "lt": lambda d: _always(d.high < 0, d.low >= 0),
    "le": lambda d: _always(d.high <= 0, d.low > 0),
    "gt": lambda d: _always(d.low > 0, d.high <= 0),
    "ge": lambda d: _always(d.low >= 0, d.high < 0),
    "eq": lambda d: _always(d.number == 0, 0 not in d),
    "ne": lambda d: _always(0 not in d, d.number == 0),
}


def difference_decides(predicate: str, difference: Range) -> bool | None:
    """What `x predicate y` gives where x - y is in `difference`, if it is always one."""
    return _PREDICATES[predicate](difference)
