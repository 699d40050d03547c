"""Conversions and functions of scalars: `T.cast`, `T.min`, `T.if_then_else`, …"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

from ..errors import LanguageError
from ..ir.bits import joined, part_of
from ..ir.core import Value, constant_of
from ..ir.dtypes import arithmetic_dtype, bool_, e4m3, e4m3fnuz, e5m2, e5m2fnuz, f32, i32, i64, u32
from ..ir.ops import arith
from .dtypes import element_type
from .extents import parse_extent, rounded_up
from .flags import flag
from .operand import (
    BY_ZERO,
    Operand,
    StatedInt,
    binary,
    common,
    computed,
    convert,
    is_number,
    plain,
    shift,
    unary,
    value_of,
    wrap,
)
from .trace import Trace, current, refuse, tracing


def cast(value: Any, dtype: object, round: str = "", sat: bool = True) -> Any:
    """`value` as `dtype`: floats round to nearest even; to integers they truncate, what does not
    fit gives the nearest that does, NaN 0. Integers wrap around.

    Args:
        round: "" or "rn", to nearest even.
        sat: what is out of the range of an 8-bit float, infinities too, gives its largest finite
            value; without it, an infinity (float8_e5m2) or NaN (the others). Floats of 6 and 4
            bits, which have neither, always give the largest (and 0 for NaN); other floats go to infinity.
    """
    trace = current("T.cast")
    with trace.here():
        if round not in ("", "rn"):
            raise LanguageError(
                "TLC0150",
                f"T.cast rounds to nearest even, not {round!r}",
                hint="leave it out; T.floor, T.ceil and T.trunc round before the cast",
            )
        target = element_type(dtype)
        source = value_of(plain(value) if is_number(value) else value)
        result = convert(source, target)
        if not flag("T.cast", "sat", sat) and result is not source:
            result = _unsaturated(trace, source, result)
        seen = wrap(trace, result)
        return StatedInt(seen) if type(seen) is int else seen


# A source that is this, or more, rounds to what is no finite value.
_OVERFLOW = {
    e4m3: ("gt", 464.0), e5m2: ("ge", 61440.0), e4m3fnuz: ("ge", 248.0), e5m2fnuz: ("ge", 61440.0),
}  # fmt: skip


def _unsaturated(trace: Trace, source: Value, result: Value) -> Value:
    """`result`, but where `source` is out of range what its 8-bit float has for that."""
    target = arith.element_dtype(result)
    if target not in _OVERFLOW:
        return result
    predicate, limit = _OVERFLOW[target]
    own = arithmetic_dtype(arith.element_dtype(source))
    wide = convert(source, own if own.is_float else f32)
    size = trace.pure(arith.Abs(wide))
    beyond = value_of(math.nan, target)
    if target.has_infinity:
        zero = value_of(0.0, arith.element_dtype(wide))
        negative = trace.pure(arith.Compare(wide, zero, predicate="lt"))
        infinities = (value_of(x, target) for x in (-math.inf, math.inf))
        beyond = trace.pure(arith.Select(negative, *infinities))
    bound = value_of(limit, arith.element_dtype(wide))
    outside = trace.pure(arith.Compare(size, bound, predicate=predicate))
    return trace.pure(arith.Select(outside, beyond, result))


def reinterpret_scalar(value: Any, dtype: object) -> Any:
    """The bits of `value` read as `dtype`, which has the same size."""
    trace = current("T.reinterpret")
    with trace.here():
        op = arith.Reinterpret(value_of(value), dtype=element_type(dtype))
        return wrap(trace, trace.pure(op))


def join_bits(parts: Sequence[Any], dtype: object) -> Any:
    """The value of `dtype` whose bits are those of `parts`, the lowest first."""
    trace = current("a view")
    whole = joined(trace.builder, [value_of(part) for part in parts], element_type(dtype))
    return wrap(trace, whole)


def part_of_bits(value: Any, number: Any, dtype: object) -> Any:
    """Number `number` of the values of `dtype` that the bits of `value` are, the lowest being 0."""
    trace = current("a view")
    part = part_of(trace.builder, value_of(value), value_of(number), element_type(dtype))
    return wrap(trace, part)


def if_then_else(condition: Any, x: Any, y: Any) -> Any:
    """x where condition holds, else y. In the text of a kernel or a T.macro the other is not evaluated
    where that could be at fault: a load outside of a buffer, a division by zero. T.Select evaluates both, as
    a plain Python function does. A ternary only ever evaluates one.
    """
    if not isinstance(condition, Operand):
        return x if condition else y
    trace = current("T.if_then_else")
    with trace.here():
        a, b = common(x, y)
        return wrap(trace, trace.pure(arith.Select(truth(condition), a, b)))


Select = if_then_else


def truth(condition: Any) -> Value:
    """A condition as a bool value: integers and floats are compared with 0."""
    value = value_of(condition)
    trace = current("a condition")
    value = convert(value, arithmetic_dtype(arith.element_dtype(value)))
    dtype = arith.element_dtype(value)
    if dtype == bool_:
        return value
    zero = value_of(0.0 if dtype.is_float else 0, dtype)
    return trace.pure(arith.Compare(value, zero, predicate="ne"))


def _numbers(*xs: Any) -> bool:
    return all(is_number(x) for x in xs)


def _scalars(what: str, result: Any) -> Any:
    if result is NotImplemented:
        raise refuse(
            "TLC0124",
            f"{what} takes scalars of the kernel and numbers",
            hint="of a buffer take elements, A[i, j], in T.Parallel for all of them",
        )
    return result


def min(x: Any, y: Any) -> Any:  # the name that users know
    """The smaller of two scalars; a NaN gives way to a number, and -0 is less than 0."""
    if _numbers(x, y):
        if x == y == 0:
            return x if math.copysign(1, x) < 0 else y
        return x if x <= y or y != y else y
    return _scalars("T.min", binary(arith.Min, x, y))


def max(x: Any, y: Any) -> Any:  # the name that users know
    """The larger of two scalars; a NaN gives way to a number, and 0 is more than -0."""
    if _numbers(x, y):
        if x == y == 0:
            return y if math.copysign(1, x) < 0 else x
        return x if x >= y or y != y else y
    return _scalars("T.max", binary(arith.Max, x, y))


def clamp(x: Any, low: Any, high: Any) -> Any:
    """x limited to low … high."""
    return min(max(x, low), high)


def is_wide(value: Value) -> bool:
    """Whether 32 bits may not hold an integer."""
    dtype = arith.element_dtype(value)
    return dtype.bits > 32 or dtype == u32


def narrowed(value: Value) -> Value:
    """An integer in 32 bits; what they do not hold becomes the nearest that they do."""
    if not is_wide(value):
        return convert(value, i32)
    limited = clamp(wrap(current("an index"), convert(value, i64)), -(2**31), 2**31 - 1)
    return convert(value_of(limited), i32)


def abs(x: Any) -> Any:  # the name that users know
    """The absolute value."""
    if _numbers(x):
        return operator.abs(x)
    return unary(arith.Abs, x)


def ceildiv(x: Any, y: Any) -> Any:
    """x / y of integers, rounded up. Works on Python numbers, and outside kernels too; x may also be
    the name of a dimension.
    """
    for number in (plain(z) for z in (x, y) if is_number(z)):
        if isinstance(number, float):
            hint = f"write {number:.0f}" if number.is_integer() else "T.ceil(x / y) of floats"
            raise refuse(
                "TLC0123", f"T.ceildiv is for integers, and {number} is a float", hint=hint
            )
    if isinstance(x, str) and isinstance(y, int):
        return rounded_up(parse_extent(x), y)
    if _numbers(x, y):
        if y == 0:
            raise refuse("TLC0123", "division by zero", hint=BY_ZERO)
        return -(plain(x) // -plain(y))
    if tracing() is None and isinstance(y, int):  # of an extent
        return (x + (y - 1)) // y
    trace = current("T.ceildiv")
    with trace.here():
        a, b = computed(x, y)
        if not arith.element_dtype(a).is_integer:
            raise LanguageError(
                "TLC0123", "T.ceildiv is for integers", hint="T.ceil(x / y) of floats"
            )
        if constant_of(b) == 0:
            raise LanguageError("TLC0123", "division by zero", hint=BY_ZERO)
        divisor = constant_of(b)
        if divisor is not None and divisor < 0:
            positive = value_of(-int(divisor), arith.element_dtype(a))
            return wrap(trace, trace.pure(arith.Neg(trace.pure(arith.FloorDiv(a, positive)))))
        dtype = arith.element_dtype(a)
        if dtype.kind == "int" and not _never_negative(trace, b):
            zero = value_of(0, dtype)
            floor = trace.pure(arith.FloorDiv(trace.pure(arith.Sub(zero, a)), b))
            return wrap(trace, trace.pure(arith.Sub(zero, floor)))
        above = trace.pure(arith.Add(a, trace.pure(arith.Sub(b, value_of(1, dtype)))))
        return wrap(trace, trace.pure(arith.FloorDiv(above, b)))


_KEEP_SIGN = (arith.Add, arith.Mul, arith.FloorDiv, arith.FloorMod, arith.Min, arith.Max)


def _never_negative(trace: Trace, value: Value) -> bool:
    """Whether an integer is made of dimensions, loops' indices and numbers so that it has no sign."""
    number = constant_of(value)
    if number is not None:
        return number >= 0
    if value in trace.extents or value in trace.symbols.values():
        return True
    op = trace.definitions.get(value)
    return isinstance(op, _KEEP_SIGN) and all(_never_negative(trace, v) for v in op.inputs)


cdiv = ceildiv


def floordiv(x: Any, y: Any) -> Any:
    """x // y."""
    return x // y if _numbers(x, y) else _scalars("T.floordiv", binary(arith.FloorDiv, x, y))


def floormod(x: Any, y: Any) -> Any:
    """x % y, with the sign of y."""
    return x % y if _numbers(x, y) else _scalars("T.floormod", binary(arith.FloorMod, x, y))


def shift_left(x: Any, y: Any) -> Any:
    """x << y. A number of bits outside of x's width shifts all of x out: 0."""
    return x << y if _numbers(x, y) else _scalars("T.shift_left", shift(arith.ShiftLeft, x, y))


def shift_right(x: Any, y: Any) -> Any:
    """x >> y: arithmetic for signed x, logical for unsigned. A number of bits outside of x's width
    shifts all of x out: 0, or -1 for a negative x.
    """
    return x >> y if _numbers(x, y) else _scalars("T.shift_right", shift(arith.ShiftRight, x, y))


def bitwise_and(x: Any, y: Any) -> Any:
    """x & y."""
    return x & y if _numbers(x, y) else _scalars("T.bitwise_and", binary(arith.BitAnd, x, y))


def bitwise_or(x: Any, y: Any) -> Any:
    """x | y."""
    return x | y if _numbers(x, y) else _scalars("T.bitwise_or", binary(arith.BitOr, x, y))


def bitwise_xor(x: Any, y: Any) -> Any:
    """x ^ y."""
    return x ^ y if _numbers(x, y) else _scalars("T.bitwise_xor", binary(arith.BitXor, x, y))


def likely(condition: Any) -> Any:
    """The condition itself: a hint to compilers that tilec has no use for."""
    return condition
