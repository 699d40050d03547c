"""An index as a sum: coefficients of chosen variables, and a rest that does not depend on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Constant, Op, Value, constant_of
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, Mul, Sub, element_dtype
from ..ir.rewrite import in_order


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
    forms: dict[Value, Affine | None] = {}
    depending = set(variables)

    def needs(value: Value) -> Sequence[Value]:
        return () if value in variables else _used(defined_by.get(value))

    for value in in_order(index, forms, needs):
        if not depending.isdisjoint(needs(value)):
            depending.add(value)
        forms[value] = _form(value, defined_by.get(value), forms, variables, value in depending)
    return forms[index]


def _form(
    value: Value,
    op: Op | None,
    forms: Mapping[Value, Affine | None],
    variables: frozenset[Value],
    depends: bool,
) -> Affine | None:
    """The form of a value, given those of its operands."""
    number = constant_of(value)
    if number is not None:
        return Affine({}, (), int(number))
    if value in variables:
        return Affine({value: 1}, (), 0)
    match op:
        case (
            Add(x=x, y=y) | Sub(x=x, y=y)
        ):  # also free of the variables: so constants come together
            a, b = forms[x], forms[y]
            return _sum(a, b, -1 if isinstance(op, Sub) else 1) if a and b else None
        case Mul(x=x, y=y) if depends:
            if isinstance(x, Constant):
                x, y = y, x
            inner, factor = forms[x], constant_of(y)
            return _scale(inner, int(factor)) if inner and factor is not None else None
    return None if depends else Affine({}, ((1, value),), 0)


def depends(value: Value, variables: frozenset[Value], defined_by: Mapping[Value, Op]) -> bool:
    """Whether `value` is computed from one of the variables."""
    seen: set[Value] = set()
    work = [value]
    while work:
        current = work.pop()
        if current in variables:
            return True
        if current not in seen:
            seen.add(current)
            work.extend(_used(defined_by.get(current)))
    return False


def _used(op: Op | None) -> Sequence[Value]:
    """What an op takes, also in its regions."""
    if op is None or not op.regions:
        return () if op is None else op.inputs
    return [value for inner in op.walk() for value in inner.inputs]


def _sum(a: Affine, b: Affine, sign: int) -> Affine:
    coefficients = dict(a.coefficients)
    for variable, factor in b.coefficients.items():
        coefficients[variable] = coefficients.get(variable, 0) + sign * factor
    rest = {value: factor for factor, value in a.rest}
    for factor, value in b.rest:
        rest[value] = rest.get(value, 0) + sign * factor
    return Affine(
        {v: f for v, f in coefficients.items() if f},
        tuple((f, v) for v, f in rest.items() if f),
        a.constant + sign * b.constant,
    )


def _scale(a: Affine, factor: int) -> Affine:
    return Affine(
        {v: f * factor for v, f in a.coefficients.items() if factor},
        tuple((f * factor, v) for f, v in a.rest if factor),
        a.constant * factor,
    )
