"""Values of the kernel that Python code combines: operators on them build IR.

Python numbers adapt to the other operand's dtype. Where one does not fit, the operation is done in
the next integer type that holds both, so that a value is never changed silently. An integer plus, minus,
times or divided by a float is a float, whatever the float's value. T.int32(100) is a
number to Python, for extents and counts, and an int32 to the operand that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from ..errors import LanguageError, TypeMismatch
from ..ir.conversion import largest_finite
from ..ir.core import Constant, Value, constant, constant_of
from ..ir.dtypes import DType, arithmetic_dtype, bool_, f32, i32, i64, promote, u64
from ..ir.ops import arith
from ..ir.types import ScalarType
from .dtypes import ElementType
from .trace import Region, Trace, current, refuse

Number = bool | int | float
BY_ZERO = (
    "the divisor is a compile-time 0: give the call another value, or guard it with a Python if"
)
COMPUTED_DIMENSION = (
    "compute it in a kernel or a T.macro; a tensor's dimension follows from others by +, -, * and // "
    "of numbers and symbols"
)
_NUMBERS = (bool, int, float, np.integer, np.floating, np.bool_)


class Operand:
    """Base of everything that stands for one scalar of the running kernel."""

    __slots__ = ()
    __array_ufunc__ = None  # NumPy scalars on the left leave the operation to us

    def _value(self) -> Value:
        raise NotImplementedError

    @property
    def dtype(self) -> ElementType:
        """The element type."""
        return ElementType(arith.element_dtype(self._value()))

    def astype(self, dtype: object) -> Any:
        """The value converted to `dtype`."""
        from .arithmetic import cast

        return cast(self, dtype)

    def __repr__(self) -> str:
        return f"<a value of the kernel, {type(self).__name__.lower()}>"

    # Python asks for a number that is only known at run time -------------------------------------

    def __bool__(self) -> bool:
        raise refuse(
            "TLC0103",
            "Python asks whether this is true, and that is known only when the kernel runs",
            hint="in a kernel or a T.macro use if, and, or, not, a ternary, T.if_then_else, "
            "T.min or T.max",
        )

    def _no_number(self, what: str, instead: str = "") -> NoReturn:
        raise refuse(
            "TLC0125",
            f"Python asks for {what}, and this value is known only when the kernel runs",
            hint=f"{instead}shapes, counts of Python's loops, list indices and keys must be compile-time "
            "values",
        )

    def __index__(self) -> int:
        self._no_number("an integer")

    def __int__(self) -> int:
        self._no_number("an integer", 'T.cast(x, "int32") converts; ')

    def __float__(self) -> float:
        self._no_number("a float", 'T.cast(x, "float32") converts, and T.exp is math.exp; ')

    def __iter__(self) -> Any:
        instead = "one name takes one value: `with T.Kernel(n) as bx`, `for i in T.Parallel(n)`; "
        self._no_number("several values", instead)

    def __hash__(self) -> int:
        self._no_number("a key of a dict, or a member of a set")

    # Arithmetic ----------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Any:
        return binary(arith.Add, self, other)

    def __radd__(self, other: Any) -> Any:
        return binary(arith.Add, other, self)

    def __sub__(self, other: Any) -> Any:
        return binary(arith.Sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return binary(arith.Sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return binary(arith.Mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return binary(arith.Mul, other, self)

    def __truediv__(self, other: Any) -> Any:
        return binary(arith.Div, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return binary(arith.Div, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return binary(arith.FloorDiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return binary(arith.FloorDiv, other, self)

    def __mod__(self, other: Any) -> Any:
        return binary(arith.FloorMod, self, other)

    def __rmod__(self, other: Any) -> Any:
        return binary(arith.FloorMod, other, self)

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __and__(self, other: Any) -> Any:
        return binary(arith.BitAnd, self, other)

    def __rand__(self, other: Any) -> Any:
        return binary(arith.BitAnd, other, self)

    def __or__(self, other: Any) -> Any:
        return binary(arith.BitOr, self, other)

    def __ror__(self, other: Any) -> Any:
        return binary(arith.BitOr, other, self)

    def __xor__(self, other: Any) -> Any:
        return binary(arith.BitXor, self, other)

    def __rxor__(self, other: Any) -> Any:
        return binary(arith.BitXor, other, self)

    def __lshift__(self, other: Any) -> Any:
        return shift(arith.ShiftLeft, self, other)

    def __rlshift__(self, other: Any) -> Any:
        return shift(arith.ShiftLeft, other, self)

    def __rshift__(self, other: Any) -> Any:
        return shift(arith.ShiftRight, self, other)

    def __rrshift__(self, other: Any) -> Any:
        return shift(arith.ShiftRight, other, self)

    def __pow__(self, other: Any) -> Any:
        from .functions import pow as power

        return power(self, other) if are_scalars(other) else NotImplemented

    def __rpow__(self, other: Any) -> Any:
        from .functions import pow as power

        return power(other, self) if are_scalars(other) else NotImplemented

    def __neg__(self) -> Any:
        return unary(arith.Neg, self)

    def __pos__(self) -> Any:
        return self

    def __invert__(self) -> Any:
        return unary(arith.Not, self)

    def __abs__(self) -> Any:
        return unary(arith.Abs, self)

    def __lt__(self, other: Any) -> Any:
        return compare("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return compare("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return compare("gt", self, other)

    def __ge__(self, other: Any) -> Any:
        return compare("ge", self, other)

    def __eq__(self, other: object) -> Any:
        return compare("eq", self, other)

    def __ne__(self, other: object) -> Any:
        return compare("ne", self, other)


class Expr(Operand):
    """An SSA value of the kernel."""

    __slots__ = ("region", "value")

    def __init__(self, value: Value, region: Region) -> None:
        self.value = value
        self.region = region

    def _value(self) -> Value:
        if not self.region.open:
            name = f"`{self.value.hint}`" if self.value.hint else "this value"
            raise refuse(
                "TLC0107",
                f"{name} was made in a {self.region.kind} region that has ended",
                hint="a value that leaves a traced loop or branch needs T.alloc_var",
            )
        return self.value


class Poison(Operand):
    """What a name holds after the traced region that bound it."""

    __slots__ = ("name", "where")

    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.where = where

    def _value(self) -> Value:
        raise refuse(
            "TLC0106",
            f"`{self.name}` was bound inside {self.where}, and has no value after it",
            hint=f"use {self.name} = T.alloc_var(dtype) before it, and assign to that",
        )


class StatedInt(int):
    """A number that the program has called an int32."""


def is_number(x: object) -> bool:
    return isinstance(x, _NUMBERS)


def plain(x: Any) -> Number:
    """A Python number from a NumPy one."""
    return x.item() if isinstance(x, np.generic) else x  # type: ignore[no-any-return]


def known_number(x: object) -> Number | None:
    """The number that a Python number is, or a value known while tracing (-T.infinity("float32"));
    else None.
    """
    if is_number(x):
        return plain(x)
    return constant_of(x._value()) if isinstance(x, Expr) else None


def wrap(trace: Trace, value: Value) -> Any:
    """The user's view of a value: a Python number where an i32 or a bool is known."""
    if isinstance(value, Constant):
        assert isinstance(value.type, ScalarType)
        if value.type.dtype in (i32, bool_):
            return value.value
    return Expr(value, trace.region)


def fits(number: Number, dtype: DType) -> bool:
    """Whether a Python number is a value of the dtype (for floats: up to rounding)."""
    if dtype.kind == "bool":
        return isinstance(number, bool)
    if dtype.is_float:
        return abs(number) <= largest_finite(dtype) or _is_special(number, dtype)
    if isinstance(number, float):
        if not number.is_integer():
            return False
        number = int(number)
    low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
    return low <= number < low + (1 << dtype.bits)


def _is_special(number: Number, dtype: DType) -> bool:
    """Whether it is a NaN, or an infinity where the dtype has those."""
    return dtype.has_nan if math.isnan(number) else math.isinf(number) and dtype.has_infinity


def number_value(number: Number, dtype: DType) -> Constant:
    """The constant of a number in a dtype. Raises TypeMismatch where it does not fit."""
    if dtype.kind == "bool" and not isinstance(number, bool) and number in (0, 1):
        number = bool(number)
    if not fits(number, dtype):
        raise TypeMismatch("TLC0138", f"{number!r} is no {dtype}", hint="say what is meant: T.cast")
    return constant(number, dtype)


def default_dtype(number: Number) -> DType:
    """The dtype of a number that stands alone: bool, f32, or the first of i32, i64 and u64 that holds
    it."""
    if isinstance(number, bool):
        return bool_
    if isinstance(number, float):
        return f32
    return next((dtype for dtype in (i32, i64, u64) if fits(number, dtype)), i64)


def value_of(x: Any, dtype: DType | None = None) -> Value:
    """The IR value of an operand or number; with `dtype`, converted to it."""
    x = typed(x)
    if isinstance(x, Operand):
        value = x._value()
        return value if dtype is None else convert(value, dtype)
    number = _number(x)
    return number_value(number, dtype or default_dtype(number))


def _number(x: Any) -> Number:
    """A number of Python's or NumPy's."""
    if not is_number(x):
        raise LanguageError(
            "TLC0124",
            f"{_describe(x)} is not a scalar of the kernel or a number",
            hint="of a buffer take elements, A[i, j], in T.Parallel for all of them",
        )
    return plain(x)


def convert(value: Value, dtype: DType) -> Value:
    """`value` cast to `dtype` where it has another."""
    if arith.element_dtype(value) == dtype:
        return value
    return current("a cast").pure(arith.Cast(value, dtype=dtype))


def operand_dtype(dtype: DType, number: Number) -> DType:
    """The dtype in which a value of `dtype` and a number meet: `dtype` where the number fits."""
    if fits(number, dtype):
        return dtype
    if isinstance(number, float) and not dtype.is_float:
        return f32
    if dtype.kind == "bool":
        return default_dtype(number)
    if dtype.is_integer:
        for wider in (i32, i64):
            span = (1 << (dtype.bits - 1 if dtype.kind == "int" else dtype.bits)) - 1
            if fits(number, wider) and fits(span, wider):
                return wider
    raise TypeMismatch("TLC0138", f"{number!r} is no {dtype}", hint="cast one of the operands")


def common(x: Any, y: Any) -> tuple[Value, Value]:
    """Both operands as values of one dtype."""
    return _meet(x, y, lambda dtype: dtype)


def computed(x: Any, y: Any) -> tuple[Value, Value]:
    """Both operands as values of the dtype in which arithmetic on them is done."""
    return _meet(x, y, arithmetic_dtype)


def typed(x: Any) -> Any:
    """`x`, an operand where it is a number of a stated type."""
    if not isinstance(x, StatedInt):
        return x
    return Expr(constant(int(x), i32), current("a number").region)


def _meet(x: Any, y: Any, widen: Callable[[DType], DType]) -> tuple[Value, Value]:
    x, y = typed(x), typed(y)
    if isinstance(x, Operand) and isinstance(y, Operand):
        a, b = x._value(), y._value()
        dtype = widen(promote(arith.element_dtype(a), arith.element_dtype(b)))
        return convert(a, dtype), convert(b, dtype)
    if isinstance(x, Operand):
        a, number = x._value(), _number(y)
        dtype = operand_dtype(widen(arith.element_dtype(a)), number)
        return convert(a, dtype), number_value(number, dtype)
    if isinstance(y, Operand):
        b, a = _meet(y, x, widen)
        return a, b
    first, second = _number(x), _number(y)
    dtype = promote(default_dtype(first), default_dtype(second))
    return number_value(first, dtype), number_value(second, dtype)


_FIELD = (arith.Add, arith.Sub, arith.Mul, arith.Div)


def _as_floats(x: Any, y: Any) -> tuple[Any, Any]:
    """An integer as a float32 where it meets a float of Python's, as it does in Python: also one like 2.0,
    which an integer type holds, but maybe not the result.
    """
    if isinstance(x, Operand) and is_number(y) and isinstance(plain(y), float):
        value = x._value()
        floats = arith.element_dtype(value).is_float
        return (x if floats else Expr(convert(value, f32), current("a cast").region)), y
    if isinstance(y, Operand) and is_number(x):
        b, a = _as_floats(y, x)
        return a, b
    return x, y


def are_scalars(*xs: object) -> bool:
    """Whether all are scalars of the kernel or numbers."""
    return all(isinstance(x, Operand) or is_number(x) for x in xs)


def binary(op: type[arith.Binary], x: Any, y: Any) -> Any:
    """x `op` y, or NotImplemented for what is no scalar."""
    if not are_scalars(x, y):
        return NotImplemented
    trace = current(f"{op.name} of values of a kernel", COMPUTED_DIMENSION)
    with trace.here():
        a, b = computed(*_as_floats(x, y)) if op in _FIELD else computed(x, y)
        dtype = arith.element_dtype(a)
        if dtype == bool_ and op not in (arith.BitAnd, arith.BitOr, arith.BitXor):
            a, b = convert(a, i32), convert(b, i32)
        if op is arith.Div and not dtype.is_float:
            raise LanguageError(
                "TLC0123",
                f"/ of two integers ({dtype}) is left out on purpose",
                hint="use // for the floor, or convert one side to a float",
            )
        if op in (arith.FloorDiv, arith.FloorMod):
            if isinstance(b, Constant) and b.value == 0:
                raise LanguageError("TLC0123", "division by zero", hint=BY_ZERO)
            if dtype.is_float:
                instead = "T.fmod(x, y)" if op is arith.FloorMod else "T.floor(x / y)"
                told = f"{op.name} is for integers, not {dtype}"
                raise LanguageError("TLC0123", told, hint=f"of floats {instead}")
        return wrap(trace, trace.pure(op(a, b)))


def shift(op: type[arith.Binary], x: Any, y: Any) -> Any:
    """x shifted by y: the result has the dtype of x."""
    if not are_scalars(x, y):
        return NotImplemented
    trace = current("a shift of values of a kernel")
    with trace.here():
        a = value_of(x)
        dtype = arithmetic_dtype(arith.element_dtype(a))
        a = convert(a, dtype)
        amount = plain(y) if is_number(y) else None
        if amount is not None and not 0 <= amount < dtype.bits:
            raise LanguageError(
                "TLC0123",
                f"a shift of {dtype} by {amount}",
                hint=f"by 0 to {dtype.bits - 1}: a wider element takes more, T.cast(x, 'int64')",
            )
        return wrap(trace, trace.pure(op(a, value_of(y, dtype))))


def compare(predicate: str, x: Any, y: Any) -> Any:
    """x `predicate` y as a bool of the kernel."""
    if not are_scalars(x, y):
        return NotImplemented
    trace = current("a comparison of values of a kernel")
    with trace.here():
        a, b = computed(x, y)
        return wrap(trace, trace.pure(arith.Compare(a, b, predicate=predicate)))


def unary(op: type[arith.Unary], x: Any) -> Any:
    """`op` of one operand."""
    trace = current(f"{op.name} of a value of a kernel")
    with trace.here():
        value = value_of(x)
        dtype = arithmetic_dtype(arith.element_dtype(value))
        return wrap(trace, trace.pure(op(convert(value, dtype))))


def _describe(x: object) -> str:
    text = repr(x)
    return text if len(text) <= 40 else f"a {type(x).__name__}"
