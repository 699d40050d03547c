"""Differences of index expressions: the extents of slices such as `A[i * 64 : (i + 1) * 64]`."""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.core import Op, Value, constant_of
from ..ir.ops import arith

Linear = dict[Value | None, int]
"""Coefficients by value; the constant under None."""


def difference(stop: Value, start: Value, definitions: Mapping[Value, Op]) -> int | None:
    """stop - start where it is one number for all values of the variables in them."""
    terms = _sum(_linear(stop, definitions), _linear(start, definitions), -1)
    rest = {value for value, factor in terms.items() if factor and value is not None}
    return None if rest else terms.get(None, 0)


def _linear(value: Value, definitions: Mapping[Value, Op]) -> Linear:
    number = constant_of(value)
    if number is not None:
        return {None: int(number)}
    match definitions.get(value):
        case arith.Add(x=x, y=y):
            return _sum(_linear(x, definitions), _linear(y, definitions), 1)
        case arith.Sub(x=x, y=y):
            return _sum(_linear(x, definitions), _linear(y, definitions), -1)
        case arith.Mul(x=x, y=y):
            a, b = _linear(x, definitions), _linear(y, definitions)
            for terms, other in ((a, b), (b, a)):
                if set(terms) <= {None}:
                    return {v: f * terms.get(None, 0) for v, f in other.items()}
    return {value: 1}


def _sum(a: Linear, b: Linear, sign: int) -> Linear:
    return {v: a.get(v, 0) + sign * b.get(v, 0) for v in {**a, **b}}
