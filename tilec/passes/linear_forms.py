"""Integers as sums: what an index is a combination of, where none of its steps can wrap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..ir.core import Constant, Op, Value
from ..ir.dtypes import bool_
from ..ir.ops import arith
from ..ir.types import ScalarType
from .ranges import Range, bounds_of
from .value_ranges import Scope

MAX_TERMS = 16


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

    def range(self, scope: Scope) -> Range:
        """The range of the sum at a point."""
        total = Range.exactly(self.constant)
        for value, coefficient in self.terms:
            total = total.add(scope.of(value).mul(Range.exactly(coefficient)))
        return total


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
        op = self._scope.defined_by.get(value)
        if not isinstance(op, (arith.FloorDiv, arith.TruncDiv, arith.ShiftRight)):
            return None
        divisor = self._constant(op.y)
        if divisor is None or divisor < 0:
            return None
        if isinstance(op, arith.ShiftRight):
            return (op.x, 1 << divisor) if divisor < 32 else None
        if divisor == 0 or (isinstance(op, arith.TruncDiv) and self._scope.of(op.x).low < 0):
            return None
        return op.x, divisor

    def remainder(self, value: Value) -> tuple[Value, int] | None:
        """(x, c) where a value is x modulo c, c a positive constant."""
        op = self._scope.defined_by.get(value)
        if not isinstance(op, (arith.FloorMod, arith.TruncMod, arith.BitAnd)):
            return None
        number = self._constant(op.y)
        if number is None or number < 1:
            return None
        if isinstance(op, arith.BitAnd):
            mask = number & (number + 1) == 0 and op.x.type != _BOOL
            return (op.x, number + 1) if mask else None
        if isinstance(op, arith.TruncMod) and self._scope.of(op.x).low < 0:
            return None
        return op.x, number

    def _constant(self, value: Value) -> int | None:
        integer = isinstance(value, Constant) and isinstance(value.value, int)
        return int(value.value) if integer and isinstance(value, Constant) else None


_BOOL = ScalarType(bool_)
