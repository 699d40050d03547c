"""An index as a sum: coefficients of chosen variables, and a rest that does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Constant, Op, Value, constant_of
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, Mul, Sub, element_dtype


@dataclass(frozen=True)
class Affine:
    """sum(coefficient * variable) + sum(factor * value) + constant."""

    coefficients: Mapping[Value, int]
    rest: tuple[tuple[int, Value], ...]
    constant: int

    def base(self, builder: Builder) -> Value:
        """The part without the variables, as IR."""
        dtype = next((element_dtype(value) for _, value in self.rest), i32)  # as all have it
        total: Value = builder.const(self.constant, dtype)
        for factor, value in self.rest:
            total = builder.add(builder.mul(value, factor), total)
        return total


def affine(
    index: Value, variables: frozenset[Value], defined_by: Mapping[Value, Op]
) -> Affine | None:
    """`index` as an Affine over `variables`, or None where it depends on one of them otherwise.

    `defined_by` maps values to their ops, as far as they may be looked through.
    """
    if index in variables:
        return Affine({index: 1}, (), 0)
    number = constant_of(index)
    if number is not None:
        return Affine({}, (), int(number))
    op = defined_by.get(index)
    if not depends(index, variables, defined_by):
        return _opaque(index, op, variables, defined_by)
    match op:
        case Add(x=x, y=y) | Sub(x=x, y=y):
            a, b = affine(x, variables, defined_by), affine(y, variables, defined_by)
            return _sum(a, b, -1 if isinstance(op, Sub) else 1) if a and b else None
        case Mul(x=x, y=y):
            if isinstance(x, Constant):
                x, y = y, x
            inner = affine(x, variables, defined_by)
            factor = constant_of(y)
            return _scale(inner, int(factor)) if inner and factor is not None else None
    return None


def _opaque(
    index: Value, op: Op | None, variables: frozenset[Value], defined_by: Mapping[Value, Op]
) -> Affine:
    """A part free of the variables: split at additions, so that constants come together."""
    if isinstance(op, (Add, Sub)):
        a, b = affine(op.x, variables, defined_by), affine(op.y, variables, defined_by)
        if a and b:
            return _sum(a, b, -1 if isinstance(op, Sub) else 1)
    return Affine({}, ((1, index),), 0)


def depends(value: Value, variables: frozenset[Value], defined_by: Mapping[Value, Op]) -> bool:
    """Whether `value` is computed from one of the variables."""
    seen: set[Value] = set()
    work = [value]
    while work:
        current = work.pop()
        if current in variables:
            return True
        op = defined_by.get(current)
        if op is not None and current not in seen:
            seen.add(current)
            work.extend(op.inputs)
    return False


def _sum(a: Affine, b: Affine, sign: int) -> Affine:
    coefficients = dict(a.coefficients)
    for variable, factor in b.coefficients.items():
        coefficients[variable] = coefficients.get(variable, 0) + sign * factor
    rest = (*a.rest, *((sign * f, v) for f, v in b.rest))
    return Affine(
        {v: f for v, f in coefficients.items() if f}, rest, a.constant + sign * b.constant
    )


def _scale(a: Affine, factor: int) -> Affine:
    return Affine(
        {v: f * factor for v, f in a.coefficients.items() if factor},
        tuple((f * factor, v) for f, v in a.rest if factor),
        a.constant * factor,
    )
