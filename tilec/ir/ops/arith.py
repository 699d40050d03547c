"""Elementwise ops: on scalars, and on tiles element by element (a scalar operand is broadcast).

`text` is the op in the prelude's C, its operands by field name; `precedence` is C's, so that the
emitter can leave out parentheses that are not needed. Integers wrap around; division and remainder
are Python's (floor).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ...errors import TypeMismatch
from ..conversion import convert_array, reinterpret_array
from ..core import Op, Value, attribute, constant_of, operand
from ..dtypes import DType, arithmetic_dtype, bool_
from ..types import ScalarType, TileType, Type

CALL = 100  # precedence of a call or a name


class Elementwise(Op):
    """Base: results and operands are scalars, or tiles of one shape."""

    text: ClassVar[str] = ""
    precedence: ClassVar[int] = CALL
    computed_in_f32: ClassVar[bool] = False  # the prelude has it for f32 alone
    known_in_f64: ClassVar[bool] = False  # but by another name for f64, too


def element_dtype(value: Value) -> DType:
    """The dtype of a scalar or of a tile's elements."""
    type_ = value.type
    if isinstance(type_, (ScalarType, TileType)):
        return type_.dtype
    raise TypeMismatch(
        "TLC0201", f"a {type_} cannot be computed with", hint="load an element of it first"
    )


def elementwise_type(operands: tuple[Value, ...], dtype: DType) -> Type:
    """The type of an elementwise result: a tile if any operand is one. Its layout is theirs where
    they agree.
    """
    tiles = [v.type for v in operands if isinstance(v.type, TileType)]
    if not tiles:
        return ScalarType(dtype)
    if len({t.shape for t in tiles}) > 1:
        raise TypeMismatch(
            "TLC0202", "tiles of different shapes: " + ", ".join(str(t) for t in tiles)
        )
    layouts = {t.layout for t in tiles}
    return TileType(dtype, tiles[0].shape, layouts.pop() if len(layouts) == 1 else None)


class Binary(Elementwise):
    """Two operands of one dtype; the result has it too."""

    accepts: ClassVar[tuple[str, ...]] = ("float", "int", "uint")
    x: Value
    y: Value

    def infer(self) -> tuple[Type, ...]:
        dx, dy = element_dtype(self.x), element_dtype(self.y)
        if dx != dy:
            raise TypeMismatch("TLC0203", f"{self.name} of {dx} and {dy}", hint="cast one of them")
        _check_defined(self, dx)
        return (elementwise_type((self.x, self.y), self.result_dtype(dx)),)

    def result_dtype(self, dtype: DType) -> DType:
        return dtype


_KINDS = {
    "float": "floats", "int": "signed integers", "uint": "unsigned integers", "bool": "bools",
}  # fmt: skip


def _check_defined(op: Binary | Unary, dtype: DType) -> None:
    if dtype.kind not in op.accepts:
        kinds = " and ".join(_KINDS[kind] for kind in op.accepts)
        raise TypeMismatch(
            "TLC0204", f"{op.name} is not defined for {dtype}", hint=f"it is for {kinds}: cast it"
        )
    if not dtype.computes:
        wide = arithmetic_dtype(dtype)
        raise TypeMismatch("TLC0204", f"{dtype} has no {op.name}", hint=f"cast it to {wide}")


def _wrapping(function: Any, x: Any, y: Any) -> Any:
    with np.errstate(all="ignore"):
        result = function(x, y)
    return result.astype(np.asarray(x).dtype) if hasattr(result, "astype") else result


def extremum(ufunc: np.ufunc, x: Any, y: Any) -> Any:
    """fmin, fmax, minimum or maximum of NumPy, with an order of zeros: which of them those give is
    not stated."""
    found = ufunc(x, y)
    if found.dtype.kind in "iub" or not np.any(zeros := np.equal(found, 0)):
        return found
    least = ufunc in (np.fmin, np.minimum)
    negative = (np.logical_or if least else np.logical_and)(np.signbit(x), np.signbit(y))
    signed = np.where(negative, -0.0, 0.0).astype(found.dtype)
    return np.where(zeros & np.equal(x, y), signed, found)[()]


class Add(Binary, name="add", pure=True):
    """x + y."""

    text, precedence = "{x} + {y}", 12
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.add, *inputs)


class Sub(Binary, name="sub", pure=True):
    """x - y."""

    text, precedence = "{x} - {y}", 12
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.subtract, *inputs)


class Mul(Binary, name="mul", pure=True):
    """x * y."""

    text, precedence = "{x} * {y}", 13
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.multiply, *inputs)


class Div(Binary, name="div", pure=True):
    """x / y of floats."""

    text, precedence = "{x} / {y}", 13
    accepts = ("float",)
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.divide, *inputs)


def _floor_divide(x: Any, y: Any) -> Any:
    safe = np.where(np.equal(y, 0), np.ones_like(y), y)
    return np.where(np.equal(y, 0), np.zeros_like(y), np.floor_divide(x, safe))


class FloorDiv(Binary, name="floordiv", pure=True):
    """Integer x / y rounded towards minus infinity. Division by zero is undefined; here it gives
    0.
    """

    text, precedence = "floordiv({x}, {y})", CALL
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(_floor_divide, *inputs)


class FloorMod(Binary, name="floormod", pure=True):
    """x - floordiv(x, y) * y: has the sign of y."""

    text, precedence = "floormod({x}, {y})", CALL
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        x, y = inputs
        return _wrapping(lambda a, b: a - _floor_divide(a, b) * b, x, y)


def _truncating_divide(x: Any, y: Any) -> Any:
    floor = _floor_divide(x, y)  # in integers: a float quotient of i64 would not be exact
    inexact = np.not_equal(floor * y, x) & np.not_equal(y, 0)
    return np.where(inexact & (np.less(x, 0) != np.less(y, 0)), floor + 1, floor)


class TruncDiv(Binary, name="truncdiv", pure=True):
    """x / y as C has it. Made only by simplify_indices, where both are known not negative."""

    text, precedence = "{x} / {y}", 13
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(_truncating_divide, *inputs)


class TruncMod(Binary, name="truncmod", pure=True):
    """x % y as C has it. Made only by simplify_indices, where both are known not negative."""

    text, precedence = "{x} % {y}", 13
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.fmod, *inputs)


DIVISIONS = (FloorDiv, FloorMod, TruncDiv, TruncMod)


def is_harmless(op: Op) -> bool:
    """Whether `op` may be run where it need not be: pure, and no division by what may be zero."""
    if not op.pure or op.regions:
        return False
    return not isinstance(op, DIVISIONS) or bool(constant_of(op.y))


class Min(Binary, name="min", pure=True):
    """The smaller. For floats a NaN gives way to a number, and -0 is less than 0."""

    text = "min({x}, {y})"
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return extremum(np.fmin, *inputs)


class Max(Binary, name="max", pure=True):
    """The larger. For floats a NaN gives way to a number, and 0 is more than -0."""

    text = "max({x}, {y})"
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return extremum(np.fmax, *inputs)


class BitAnd(Binary, name="bit_and", pure=True):
    """x & y; for bools the logical and, both sides evaluated."""

    text, precedence = "{x} & {y}", 8
    accepts = ("int", "uint", "bool")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.bitwise_and(*inputs)


class BitOr(Binary, name="bit_or", pure=True):
    """x | y; for bools the logical or, both sides evaluated."""

    text, precedence = "{x} | {y}", 6
    accepts = ("int", "uint", "bool")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.bitwise_or(*inputs)


class BitXor(Binary, name="bit_xor", pure=True):
    """x ^ y."""

    text, precedence = "{x} ^ {y}", 7
    accepts = ("int", "uint", "bool")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.bitwise_xor(*inputs)


class ShiftLeft(Binary, name="shift_left", pure=True):
    """x << y. Amounts outside 0 ... bits-1 shift everything out: 0."""

    text, precedence = "{x} << {y}", 11
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.left_shift, *inputs)


class ShiftRight(Binary, name="shift_right", pure=True):
    """x >> y: arithmetic for signed x, logical for unsigned. Amounts outside 0 ... bits-1 shift
    everything out: 0, or -1 for what is negative.
    """

    text, precedence = "{x} >> {y}", 11
    accepts = ("int", "uint")
    x: Value = operand()
    y: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return _wrapping(np.right_shift, *inputs)


_COMPARE = {
    "eq": ("==", np.equal), "ne": ("!=", np.not_equal), "lt": ("<", np.less),
    "le": ("<=", np.less_equal), "gt": (">", np.greater), "ge": (">=", np.greater_equal),
}  # fmt: skip


NEGATED = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt", "eq": "ne", "ne": "eq"}
"""The predicate of the opposite comparison, of numbers that are not NaN."""


class Compare(Binary, name="compare", pure=True):
    """x `predicate` y as bool; predicate is eq, ne, lt, le, gt or ge."""

    text, precedence = "{x} {symbol} {y}", 9
    accepts = ("int", "uint", "float", "bool")
    x: Value = operand()
    y: Value = operand()
    predicate: str = attribute()

    def infer(self) -> tuple[Type, ...]:
        if self.predicate not in _COMPARE:
            raise TypeMismatch("TLC0205", f"there is no comparison {self.predicate!r}")
        return super().infer()

    def result_dtype(self, dtype: DType) -> DType:
        return bool_

    @property
    def symbol(self) -> str:
        return _COMPARE[self.predicate][0]

    def evaluate(self, *inputs: Any) -> Any:
        return _COMPARE[self.predicate][1](*inputs)


class Unary(Elementwise):
    """One operand; the result has its dtype."""

    accepts: ClassVar[tuple[str, ...]] = ("float", "int", "uint")
    x: Value

    def infer(self) -> tuple[Type, ...]:
        dtype = element_dtype(self.x)
        _check_defined(self, dtype)
        return (elementwise_type((self.x,), dtype),)


class Neg(Unary, name="neg", pure=True):
    """-x."""

    text, precedence = "-{x}", 15
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.negative(inputs[0])


class Not(Unary, name="not", pure=True):
    """Logical not of a bool, bitwise complement of an integer."""

    text, precedence = "{sign}{x}", 15
    accepts = ("int", "uint", "bool")
    x: Value = operand()

    @property
    def sign(self) -> str:
        return "!" if element_dtype(self.x).kind == "bool" else "~"

    def evaluate(self, *inputs: Any) -> Any:
        return np.invert(inputs[0])


class Abs(Unary, name="abs", pure=True):
    """The absolute value."""

    text = "abs({x})"
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return np.abs(inputs[0])


class Select(Elementwise, name="select", pure=True):
    """x where condition, else y. Both are evaluated."""

    text, precedence = "{condition} ? {x} : {y}", 3
    condition: Value = operand()
    x: Value = operand()
    y: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        dx, dy = element_dtype(self.x), element_dtype(self.y)
        if element_dtype(self.condition) != bool_ or dx != dy:
            raise TypeMismatch("TLC0203", f"select of {dx} and {dy} by {self.condition.type}")
        return (elementwise_type((self.condition, self.x, self.y), dx),)

    def evaluate(self, *inputs: Any) -> Any:
        return np.where(*inputs)


class Cast(Elementwise, name="cast", pure=True):
    """x as `dtype`: conversion.py says how."""

    text = "convert<{dtype}>({x})"
    x: Value = operand()
    dtype: DType = attribute()

    def infer(self) -> tuple[Type, ...]:
        element_dtype(self.x)
        return (elementwise_type((self.x,), self.dtype),)

    def evaluate(self, *inputs: Any) -> Any:
        return convert_array(np.asarray(inputs[0]), self.dtype)


class Reinterpret(Elementwise, name="reinterpret", pure=True):
    """The bits of x read as `dtype`, which has the same size."""

    text = "reinterpret<{dtype}>({x})"
    x: Value = operand()
    dtype: DType = attribute()

    def infer(self) -> tuple[Type, ...]:
        dtype = element_dtype(self.x)
        if dtype.bits != self.dtype.bits:
            raise TypeMismatch(
                "TLC0206",
                f"{dtype} and {self.dtype} differ in size",
                hint="a cast converts a value; T.view sees a buffer as elements of another size",
            )
        return (elementwise_type((self.x,), self.dtype),)

    def evaluate(self, *inputs: Any) -> Any:
        return reinterpret_array(inputs[0], self.dtype)


OPS: tuple[type[Op], ...] = (
    Add, Sub, Mul, Div, FloorDiv, FloorMod, TruncDiv, TruncMod, Min, Max, BitAnd, BitOr, BitXor, ShiftLeft,
    ShiftRight, Compare, Neg, Not, Abs, Select, Cast, Reinterpret,
)  # fmt: skip
