"""Mathematical functions of scalars: `T.exp`, `T.atan2`, `T.clz`, …

Integers are converted to float32 where a float is meant: not where they are rounded, or raised to a
number of 0 or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import LanguageError
from ..ir.core import Op, Value, constant
from ..ir.dtypes import DType, arithmetic_dtype, bf16, f16, f32, f64, promote
from ..ir.ops import functions
from ..ir.ops.arith import element_dtype
from .arithmetic import ceildiv, if_then_else, narrowed
from .dtypes import element_type
from .operand import Expr, convert, is_number, value_of, wrap
from .trace import current, refuse

_F = TypeVar("_F", bound=Callable[..., Any])

# What each of a family takes and gives.
_OF_A_FLOAT = """Of a float, whose dtype the result has; of an integer, and of a float of 8 bits or fewer,
    in float32. Outside of its domain the result is NaN."""
_OF_TWO_FLOATS = """Of two floats, in the wider of their dtypes; of integers, and of floats of 8 bits or
    fewer, in float32.

    Raises:
        TypeMismatch: float16 with bfloat16."""
_OF_A_NUMBER = "Of a float, whose dtype the result has; an integer stays as it is."
_OF_BITS = """Of an integer of 32 or 64 bits; the result is an int32.

    Raises:
        TypeMismatch: other dtypes."""


def _float(x: Any) -> Value:
    value = value_of(x)
    dtype = element_dtype(value)
    return value_of(x, arithmetic_dtype(dtype) if dtype.is_float else f32)


def _unary(op: type[functions.Function]) -> Callable[[Any], Any]:
    """The function that makes `op` of a float."""

    def function(x: Any) -> Any:
        trace = current(f"T.{op.name}")
        with trace.here():
            return wrap(trace, trace.pure(op(_float(x))))

    return _named(function, op, _OF_A_FLOAT)


def _binary(op: type[functions.Function2]) -> Callable[[Any, Any], Any]:
    """The function that makes `op` of two floats."""

    def function(x: Any, y: Any) -> Any:
        trace = current(f"T.{op.name}")
        with trace.here():
            return wrap(trace, trace.pure(op(*_floats(x, y))))

    return _named(function, op, _OF_TWO_FLOATS)


def _rounding(op: type[functions.Function]) -> Callable[[Any], Any]:
    """The function that makes `op` of a float; an integer is rounded already."""
    of_float = _unary(op)

    def function(x: Any) -> Any:
        trace = current(f"T.{op.name}")
        with trace.here():
            return wrap(trace, value_of(x)) if _is_integer(x) else of_float(x)

    return _named(function, op, _OF_A_NUMBER)


def _of_bits(op: type[functions.BitFunction]) -> Callable[[Any], Any]:
    """The function that makes `op` of an integer."""

    def function(x: Any) -> Any:
        trace = current(f"T.{op.name}")
        with trace.here():
            return wrap(trace, trace.pure(op(value_of(x))))

    return _named(function, op, _OF_BITS)


def _named(function: _F, op: type[Op], takes: str) -> _F:
    function.__name__ = function.__qualname__ = op.name
    function.__doc__ = f"{op.__doc__}\n\n    {takes}\n    "
    return function


def _is_integer(x: Any) -> bool:
    return not element_dtype(value_of(x)).is_float


def _floats(x: Any, y: Any) -> tuple[Value, Value]:
    """Two floats of one dtype: a number takes the other's."""
    a, b = _float(x), _float(y)
    if is_number(y):
        return a, value_of(y, element_dtype(a))
    if is_number(x):
        return value_of(x, element_dtype(b)), b
    dtype = promote(element_dtype(a), element_dtype(b))
    return convert(a, dtype), convert(b, dtype)


exp = _unary(functions.Exp)
exp2 = _unary(functions.Exp2)
exp10 = _unary(functions.Exp10)
log = _unary(functions.Log)
log2 = _unary(functions.Log2)
log10 = _unary(functions.Log10)
log1p = _unary(functions.Log1p)
sqrt = _unary(functions.Sqrt)
rsqrt = _unary(functions.Rsqrt)
sigmoid = _unary(functions.Sigmoid)
erf = _unary(functions.Erf)
sin = _unary(functions.Sin)
cos = _unary(functions.Cos)
tan = _unary(functions.Tan)
asin = _unary(functions.Asin)
acos = _unary(functions.Acos)
atan = _unary(functions.Atan)
sinh = _unary(functions.Sinh)
cosh = _unary(functions.Cosh)
tanh = _unary(functions.Tanh)
fast_tanh = _unary(functions.FastTanh)
asinh = _unary(functions.Asinh)
acosh = _unary(functions.Acosh)
atanh = _unary(functions.Atanh)
floor = _rounding(functions.Floor)
ceil = _rounding(functions.Ceil)
round = _rounding(functions.Round)
trunc = _rounding(functions.Trunc)
nearbyint = round
atan2 = _binary(functions.Atan2)
hypot = _binary(functions.Hypot)
fmod = _binary(functions.Fmod)
copysign = _binary(functions.Copysign)
nextafter = _binary(functions.Nextafter)
clz = _of_bits(functions.Clz)
popcount = _of_bits(functions.Popcount)

# Names for approximations: the functions above are as fast as their error allows.
__exp = exp
__exp10 = exp10
__log = log
__log2 = log2
__log10 = log10
__sin = sin
__cos = cos
__tan = tan


FEW_FACTORS = 4  # a float to such a power is a product: sooner computed, and no less exact


def pow(x: Any, y: Any) -> Any:
    """x to the y; of integers an integer, whose products wrap, where `y` is a number of 0 or more.

    Raises:
        LanguageError: an integer to the power of one that is known only when the kernel runs.
    """
    trace = current("T.pow")
    with trace.here():
        integers = _is_integer(x) and _is_integer(y)
        if integers and not is_number(y):
            raise refuse(
                "TLC0123",
                "an integer is raised to a power that is known only when the kernel runs",
                hint="2 to the n is T.shift_left(1, n), or T.exp2(n) as a float; T.cast makes a float of x",
            )
        if is_number(y) and (y >= 0 if integers else y in range(FEW_FACTORS + 1)):
            return _product(wrap(trace, value_of(x) if integers else _float(x)), int(y))
        return wrap(trace, trace.pure(functions.Pow(*_floats(x, y))))


def _product(x: Any, count: int) -> Any:
    """`count` times x, multiplied."""
    if count == 0:
        return Expr(constant(1, element_dtype(value_of(x))), current("T.pow").region)
    half = _product(x, count // 2) if count > 1 else None
    square = x if half is None else half * half
    return square * x if half is not None and count % 2 else square


def ldexp(x: Any, exponent: Any) -> Any:
    """x times 2 to the `exponent`, an integer; a float of the dtype of x, or float32 of an integer."""
    trace = current("T.ldexp")
    with trace.here():
        by = value_of(exponent)
        if element_dtype(by).is_integer:
            by = narrowed(by)
        return wrap(trace, trace.pure(functions.Ldexp(_float(x), by)))


def fast_rcp(x: Any) -> Any:
    """1 / x of a float."""
    return 1.0 / _operand("T.fast_rcp", x)


def isnan(x: Any) -> Any:
    """Whether a float is no number; an integer always is one."""
    return _operand("T.isnan", x) != _operand("T.isnan", x)


def isinf(x: Any) -> Any:
    """Whether a float is infinite."""
    return abs(_operand("T.isinf", x)) == math.inf


def isfinite(x: Any) -> Any:
    """Whether a float is neither infinite nor a NaN."""
    return abs(_operand("T.isfinite", x)) < math.inf


def _operand(what: str, x: Any) -> Expr:
    trace = current(what)
    with trace.here():
        return Expr(_float(x), trace.region)


def truncdiv(x: Any, y: Any) -> Any:
    """x / y of integers without the fraction, as C has it."""
    return if_then_else(_is_cut_up(x, y), x // y + 1, x // y)


def truncmod(x: Any, y: Any) -> Any:
    """What truncdiv leaves: it has the sign of x."""
    return if_then_else(_is_cut_up(x, y), x % y - y, x % y)


def _is_cut_up(x: Any, y: Any) -> Any:
    """Whether x / y is below zero, and no integer: then its floor is one below it without the fraction."""
    return ((x < 0) != (y < 0)) & (x % y != 0)


def align_up(x: Any, multiple: Any) -> Any:
    """The least multiple not below x."""
    return ceildiv(x, multiple) * multiple


def infinity(dtype: object = "float32") -> Any:
    """The infinite value of float16, bfloat16, float32 or float64.

    Raises:
        LanguageError: another dtype.
    """
    trace = current("T.infinity")
    with trace.here():
        if element_type(dtype) not in (f16, bf16, f32, f64):
            raise LanguageError(
                "TLC0123",
                f"{element_type(dtype)} has no infinity",
                hint="T.max_value of it is its greatest number",
            )
        return wrap(trace, constant(math.inf, element_type(dtype)))


def max_value(dtype: object) -> Any:
    """The greatest finite value of a dtype of numbers, as that dtype; of bool true."""
    return _limit("T.max_value", element_type(dtype), True)


def min_value(dtype: object) -> Any:
    """The least finite value of a dtype of numbers, as that dtype: below zero but for unsigned integers; of
    bool false."""
    return _limit("T.min_value", element_type(dtype), False)


def limit(dtype: DType, greatest: bool) -> bool | int | float:
    """The greatest or least finite value of a dtype."""
    if dtype.kind == "bool":
        return greatest
    if dtype.is_float:
        import ml_dtypes  # which takes longer to import than a kernel without it to trace

        info: Any = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
        return float(info.max if greatest else info.min)
    bits = dtype.bits - (dtype.kind == "int")
    return (1 << bits) - 1 if greatest else -(1 << bits) if dtype.kind == "int" else 0


def _limit(what: str, dtype: DType, greatest: bool) -> Any:
    trace = current(what)
    with trace.here():
        return wrap(trace, constant(limit(dtype, greatest), dtype))
