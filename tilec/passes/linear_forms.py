"""Integers as sums of multiples, and divisions by constants however they are spelled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..ir.core import Constant, Op, Value, constant_of
from ..ir.dtypes import bool_
from ..ir.ops import arith
from ..ir.types import ScalarType
from .ranges import Range, bounds_of
from .value_ranges import RangeOf, Scope

MAX_TERMS = 16
_BOOL = ScalarType(bool_)


@dataclass(frozen=True)
class Linear:
    """sum(coefficient * value) + constant, over unbounded integers. No coefficient is 0."""

    terms: tuple[tuple[Value, int], ...] = ()
    constant: int = 0

    def plus(self, other: Linear, factor: int = 1) -> Linear:
        """self + factor * other."""
        coefficients = dict(self.terms)
        for value, coefficient in other.terms:
            coefficients[value] = coefficients.get(value, 0) + factor * coefficient
        terms = tuple((v, c) for v, c in coefficients.items() if c)
        return Linear(terms, self.constant + factor * other.constant)

    def times(self, factor: int) -> Linear:
        """self * factor."""
        return Linear().plus(self, factor)

    def split(self, divisor: int) -> tuple[Linear, Linear]:
        """(q, r) with self = q * divisor + r: r has what `divisor` does not divide, 0 <= its
        constant < divisor."""
        whole = tuple((v, c // divisor) for v, c in self.terms if c % divisor == 0)
        rest = tuple((v, c) for v, c in self.terms if c % divisor)
        quotient, remainder = divmod(self.constant, divisor)
        return Linear(whole, quotient), Linear(rest, remainder)

    def where(self, divisor: int, *, divides: bool) -> Linear:
        """The terms whose coefficients `divisor` divides (or does not), without the constant."""
        return Linear(tuple(term for term in self.terms if (term[1] % divisor == 0) == divides))

    def over(self, divisor: int) -> Linear:
        """The sum divided by a divisor of all its numbers."""
        return Linear(tuple((v, c // divisor) for v, c in self.terms), self.constant // divisor)

    def factor_of(self, value: Value) -> int:
        """How often `value` itself is counted."""
        return dict(self.terms).get(value, 0)

    def range(self, of: RangeOf) -> Range:
        """The range of the sum, where `of` tells that of a value."""
        total = Range.exactly(self.constant)
        for value, coefficient in self.terms:
            total = total.add(of(value).mul(Range.exactly(coefficient)))
        return total


def division_of(op: Op | None, of: RangeOf) -> tuple[Value, int] | None:
    """(x, c) where an op is floor(x / c), c a positive constant: a division or a shift."""
    divisor = constant_of(op.y) if isinstance(op, arith.Binary) else None
    match op:
        case arith.FloorDiv() if divisor is not None and divisor > 0:
            return op.x, int(divisor)
        case arith.TruncDiv() if divisor is not None and divisor > 0 <= of(op.x).low:
            return op.x, int(divisor)
        case arith.ShiftRight() if divisor is not None and 0 <= divisor < 31:
            return op.x, 1 << int(divisor)
    return None


def remainder_of(op: Op | None, of: RangeOf) -> tuple[Value, int] | None:
    """(x, c) where an op is x modulo c, c a positive constant: a remainder or a mask."""
    number = constant_of(op.y) if isinstance(op, arith.Binary) else None
    if number is None or number < 1:
        return None
    match op:
        case arith.FloorMod():
            return op.x, int(number)
        case arith.TruncMod() if of(op.x).low >= 0:
            return op.x, int(number)
        case arith.BitAnd() if int(number) & (int(number) + 1) == 0 and op.x.type != _BOOL:
            return op.x, int(number) + 1
    return None


class Forms:
    """The linear forms of the values that a pass has met."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._forms: dict[Value, Linear] = {}

    def of(self, value: Value) -> Linear:
        """The form of an integer: equal to it as an unbounded integer; at worst itself, once."""
        if isinstance(value, Constant):
            return Linear((), int(value.value))
        return self._forms.get(value) or Linear(((value, 1),))

    def learn(self, op: Op) -> None:
        """Takes in a new op."""
        form = self._form(op)
        if form is not None and len(form.terms) <= MAX_TERMS:
            self._forms[op.result] = form

    def _form(self, op: Op) -> Linear | None:
        if not isinstance(op, (arith.Add, arith.Sub, arith.Mul, arith.ShiftLeft)):
            return None
        type_ = op.result.type
        if not isinstance(type_, ScalarType) or not type_.dtype.is_integer:
            return None
        exact = self._scope.exact(op)
        if exact is None or not exact.inside(*bounds_of(type_.dtype)):
            return None
        x, y = self.of(op.x), self.of(op.y)
        match op:
            case arith.Add():
                return x.plus(y)
            case arith.Sub():
                return x.plus(y, -1)
            case arith.ShiftLeft():
                return x.times(1 << y.constant) if not y.terms else None
        return x.times(y.constant) if not y.terms else y.times(x.constant) if not x.terms else None

    def whole(self, form: Linear) -> Linear:
        """`form` with (x // c) * c * k + (x % c) * k as x * k, wherever it occurs."""
        while True:
            found = next(self._rejoined(form), None)
            if found is None:
                return form
            form = found

    def _rejoined(self, form: Linear) -> Iterator[Linear]:
        for quotient, outer in form.terms:
            division = self.division(quotient)
            if division is None:
                continue
            for remainder, inner in form.terms:
                if outer == inner * division[1] and self.remainder(remainder) == division:
                    parts = Linear(((quotient, outer), (remainder, inner)))
                    yield form.plus(parts, -1).plus(self.of(division[0]), inner)

    def division(self, value: Value) -> tuple[Value, int] | None:
        """(x, c) where a value is floor(x / c), c a positive constant."""
        return division_of(self._scope.defined_by.get(value), self._scope.of)

    def remainder(self, value: Value) -> tuple[Value, int] | None:
        """(x, c) where a value is x modulo c, c a positive constant."""
        return remainder_of(self._scope.defined_by.get(value), self._scope.of)
