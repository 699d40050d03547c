"""Scalar expressions as C: constants, operators with only the parentheses that they need, calls of
the prelude.

C computes narrow integers as `int`, and on the CPU a float literal is not the prelude's f32. An
Expression says whether its C type is exactly that of its value, for the places where it matters:
templates that deduce it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import TargetUnsupported
from ..ir.core import Constant, Op
from ..ir.dtypes import DType, bf16, bool_, e4m3, e4m3fnuz, e5m2, e5m2fnuz, f16, f32, f64, tf32
from ..ir.ops import arith
from ..ir.ops.arith import CALL, element_dtype
from ..ir.types import ScalarType
from .spelling import spell

UNARY, MULTIPLY, COMPARE, LOGICAL_AND, LOGICAL_OR, TERNARY = 15, 13, 9, 5, 4, 3
_BITWISE = (
    6,
    7,
    8,
    11,
)  # |, ^, & and shifts: their place among the operators is not what readers expect

TRIVIAL_COLUMNS = 14
_TRIVIAL = re.compile(r"\w+ (?:[-+*&|^]|<<|>>) \w+")


@dataclass(frozen=True)
class Expression:
    """A value as C text. `reads`: it loads memory; `place`: it is just an element of memory,
    `A[i]`."""

    text: str
    precedence: int = CALL
    exact: bool = True
    reads: bool = False
    place: bool = False

    @property
    def atomic(self) -> bool:
        """Whether it is a name or a number, and so costs nothing to evaluate again."""
        return self.text.replace("_", "").replace(".", "").lstrip("-").isalnum()

    @property
    def trivial(self) -> bool:
        """Whether it is one cheap operation on names and numbers, as short as a name."""
        return len(self.text) <= TRIVIAL_COLUMNS and _TRIVIAL.fullmatch(self.text) is not None

    def within(self, precedence: int) -> str:
        """The text as an operand of an operator that binds as tightly as `precedence`, in
        parentheses where needed."""
        return self.text if self.precedence > precedence else f"({self.text})"

    def typed(self, dtype: DType) -> str:
        """The text, of exactly the C type of `dtype`."""
        return self.text if self.exact else f"convert<{dtype}>({self.text})"


def is_narrow(dtype: DType) -> bool:
    """Whether C computes with it as `int`."""
    return dtype.kind == "bool" or (dtype.is_integer and dtype.bits < 32)


_INFINITY = {
    f16: 0x7C00, bf16: 0x7F80, f32: 0x7F800000, tf32: 0x7F800000, f64: 0x7FF0000000000000,
    e4m3: 0x78, e5m2: 0x7C, e4m3fnuz: 0x80, e5m2fnuz: 0x80,
}  # fmt: skip
_QUIET = {
    f16: 0x0200, bf16: 0x0040, f32: 0x00400000, tf32: 0x00400000, f64: 0x0008000000000000,
    e4m3: 0x07, e5m2: 0x03, e4m3fnuz: 0, e5m2fnuz: 0,
}  # fmt: skip
"""What makes a NaN of an infinity's bits. Where there is none, the two together are the NaN."""


def constant_expression(value: Constant) -> Expression:
    """A constant, exactly."""
    assert isinstance(value.type, ScalarType)
    dtype, number = value.type.dtype, value.value
    if dtype.kind == "bool":
        return Expression("true" if number else "false")
    if dtype.is_float:
        return _float_constant(float(number), dtype)
    if not dtype.is_integer:
        raise TargetUnsupported("TLC0511", f"a constant of type {dtype} cannot be written")
    return _integer_constant(int(number), dtype)


def _integer_constant(number: int, dtype: DType) -> Expression:
    suffix = {"i64": "ll", "u32": "u", "u64": "ull"}.get(dtype.name, "")
    if number < 0 and number == -(1 << (dtype.bits - 1)) and dtype.bits >= 32:
        return Expression(
            f"{number + 1}{suffix} - 1", 12
        )  # C has no negative literals: -2^31 would be a long
    return Expression(
        f"{number}{suffix}", UNARY if number < 0 else CALL, exact=not is_narrow(dtype)
    )


def _float_constant(number: float, dtype: DType) -> Expression:
    if not math.isfinite(number):
        return _special_constant(number, dtype)
    if dtype == f64:
        return Expression(
            repr(number), UNARY if math.copysign(1, number) < 0 else CALL, exact=False
        )
    text = f"{np.float32(number)!s}f"
    if dtype in (f32, tf32):
        return Expression(text, UNARY if text.startswith("-") else CALL, exact=False)
    return Expression(f"convert<{dtype}>({text})")


def _special_constant(number: float, dtype: DType) -> Expression:
    if dtype not in _INFINITY or math.isinf(number) and not dtype.has_infinity:
        raise TargetUnsupported("TLC0511", f"{dtype} has no {number}")
    bits = _INFINITY[dtype]
    bits |= _QUIET[dtype] if math.isnan(number) else 0
    bits |= 1 << (dtype.bits - 1) if number < 0 else 0
    if dtype.bits < 32:
        return Expression(f"reinterpret<{dtype}>(convert<u{dtype.bits}>({bits:#x}))")
    return Expression(f"reinterpret<{dtype}>({bits:#x}{'ull' if dtype == f64 else 'u'})")


def elementwise_expression(op: arith.Elementwise, operands: Sequence[Expression]) -> Expression:
    """A scalar elementwise op of operands that are already printed, in order of its fields."""
    assert isinstance(op.result.type, ScalarType)
    dtype = op.result.type.dtype
    reads = any(e.reads for e in operands)
    match op:
        case arith.Cast():
            found = _cast(op, operands[0])
        case arith.Reinterpret():
            found = Expression(f"reinterpret<{dtype}>({operands[0].typed(element_dtype(op.x))})")
        case arith.Select():
            condition, x, y = (e.within(TERNARY) for e in operands)
            arms = [e.exact for e in operands[1:]]
            exact = any(arms) if dtype.is_float else all(arms)  # a literal becomes what x is
            found = Expression(f"{condition} ? {x} : {y}", TERNARY, exact)
        case arith.Binary():
            found = _binary(op, operands)
        case _:
            found = _by_text(op, operands)
    if is_narrow(dtype) and dtype != bool_ and _may_overflow(op):
        found = Expression(f"convert<{dtype}>({found.text})")
    return replace(found, reads=reads)


def _cast(op: arith.Cast, operand: Expression) -> Expression:
    if element_dtype(op.x) == op.dtype:
        return replace(operand, place=False)
    return Expression(f"convert<{op.dtype}>({operand.text})")


def _may_overflow(op: Op) -> bool:
    """Whether C's `int` can hold a result of it that a narrow type cannot."""
    safe = (
        arith.BitAnd, arith.BitOr, arith.BitXor, arith.ShiftRight, arith.TruncMod, arith.FloorMod,
        arith.Min, arith.Max, arith.Compare, arith.Select, arith.Cast, arith.Reinterpret,
    )  # fmt: skip
    return not isinstance(op, safe)


def _binary(op: arith.Binary, operands: Sequence[Expression]) -> Expression:
    x, y = operands
    dtype = element_dtype(op.x)
    symbol, precedence = _operator(op, dtype)
    if not symbol:
        return _by_text(op, operands)
    if (
        isinstance(op, arith.Add)
        and isinstance(op.y, Constant)
        and y.text.startswith("-")
        and y.precedence == UNARY
    ):
        symbol, y = "-", Expression(y.text[1:])  # the same number, of floats too
    if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)) and isinstance(op.y, Constant):
        y = Expression(str(int(op.y.value)))
    exact = precedence in (COMPARE, LOGICAL_AND, LOGICAL_OR) or not is_narrow(dtype)
    chains = precedence != COMPARE  # a < b < c is C, but nobody's meaning
    left = _operand(
        x, precedence, x.precedence > precedence or (chains and x.precedence == precedence)
    )
    right = _operand(y, precedence, y.precedence > precedence)
    return Expression(f"{left} {symbol} {right}", precedence, exact)


def _operand(operand: Expression, precedence: int, bare: bool) -> str:
    """An operand, in parentheses where C needs them or a reader of bitwise operators does."""
    mixed = (
        precedence in _BITWISE and operand.precedence < UNARY and operand.precedence != precedence
    )
    mixed |= precedence == LOGICAL_OR and operand.precedence == LOGICAL_AND
    return operand.text if bare and not mixed else f"({operand.text})"


def _operator(op: arith.Binary, dtype: DType) -> tuple[str, int]:
    """The infix operator and its precedence, or ("", 0) for a call."""
    if dtype == bool_ and isinstance(op, arith.BitAnd):
        return "&&", LOGICAL_AND  # the operands are pure: evaluating the second or not is the same
    if dtype == bool_ and isinstance(op, arith.BitOr):
        return "||", LOGICAL_OR
    if dtype == bool_ and isinstance(op, arith.BitXor):
        return "!=", COMPARE
    if dtype.kind == "uint" and isinstance(op, arith.FloorDiv):
        return "/", MULTIPLY
    if dtype.kind == "uint" and isinstance(op, arith.FloorMod):
        return "%", MULTIPLY
    if isinstance(op, arith.Compare):
        return op.symbol, op.precedence
    words = op.text.split()
    return (words[1], op.precedence) if op.text.startswith("{x} ") and len(words) == 3 else ("", 0)


def _by_text(op: arith.Elementwise, operands: Sequence[Expression]) -> Expression:
    """By the op's own text: a call, or a prefix operator."""
    expressions = dict(zip(_operand_fields(op), operands, strict=True))
    if op.precedence < CALL:
        text = spell(
            op.text, op, lambda v: "", {n: e.within(op.precedence) for n, e in expressions.items()}
        )
        exact = not is_narrow(element_dtype(op.result)) or element_dtype(op.result) == bool_
        return Expression(text, op.precedence, exact)
    return _call(op, expressions)


def _operand_fields(op: Op) -> list[str]:
    return [name for name, kind in op.fields if kind == "operand"]


def _call(op: arith.Elementwise, operands: dict[str, Expression]) -> Expression:
    dtypes = {name: element_dtype(getattr(op, name)) for name in operands}
    result = element_dtype(op.result)
    wide = op.computed_in_f32 and result != f32
    if wide and result == f64:
        if not op.known_in_f64:
            raise TargetUnsupported(
                "TLC0512",
                f"{op.name} is computed in f32; its operand is f64",
                loc=op.loc,
                hint="cast it to f32",
            )
        text = op.text.replace("(", "<f64>(", 1)
        typed = {name: e.typed(dtypes[name]) for name, e in operands.items()}
        return Expression(spell(text, op, lambda v: "", typed), CALL)
    literal = not any(e.exact for e in operands.values())  # which overload is meant?
    texts = {
        name: f"convert<f32>({e.text})"
        if wide and dtypes[name].is_float
        else e.typed(dtypes[name])
        if literal
        else e.text
        for name, e in operands.items()
    }
    text = spell(op.text, op, lambda v: "", texts)
    return Expression(
        f"convert<{result}>({text})" if wide else text, CALL, wide or not is_narrow(result)
    )
