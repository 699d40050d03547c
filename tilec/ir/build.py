"""Building IR: a cursor that collects ops, with the arithmetic folded as it is built.

b = Builder()
with at(loc):
    row = b.add(b.mul(by, 128), i)     # ints stand for i32 constants; constants fold
    with b.region(index) as body: ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .core import Block, Constant, Op, Value, constant, constant_of
from .dtypes import DType, bool_, i32
from .ops import arith
from .ops.arith import element_dtype
from .ops.control import For, If, Yield
from .types import ScalarType, Type

OpT = TypeVar("OpT", bound=Op)
Number = Value | int
"""An operand of index arithmetic: a value, or an int that stands for a constant of the other's
dtype (i32).
"""


class Builder:
    """Collects ops in order. `block()` gives what was collected; `region()` nests."""

    def __init__(self) -> None:
        self._stack: list[list[Op]] = [[]]

    def emit(self, op: OpT) -> OpT:
        """Appends an op and returns it."""
        self._stack[-1].append(op)
        return op

    def emit_outside(self, op: OpT) -> OpT:
        """Appends an op to what stands around all open regions."""
        self._stack[0].append(op)
        return op

    @property
    def outermost(self) -> tuple[Op, ...]:
        """What stands around all open regions so far."""
        return tuple(self._stack[0])

    def extend(self, ops: Sequence[Op]) -> None:
        self._stack[-1].extend(ops)

    @property
    def ops(self) -> tuple[Op, ...]:
        """What the innermost open region holds so far."""
        return tuple(self._stack[-1])

    def block(self, *params: Value) -> Block:
        """What was collected so far, as a block."""
        return Block(tuple(params), tuple(self._stack[-1]))

    @contextmanager
    def region(self) -> Iterator[list[Op]]:
        """Collects into a list of its own until the context ends."""
        inner: list[Op] = []
        self._stack.append(inner)
        try:
            yield inner
        finally:
            self._stack.pop()

    # Arithmetic

    def const(self, value: bool | int | float, dtype: DType = i32) -> Constant:
        return constant(value, dtype)

    def value(self, x: Number, dtype: DType = i32) -> Value:
        return x if isinstance(x, Value) else constant(x, dtype)

    def _pair(self, x: Number, y: Number) -> tuple[Value, Value]:
        dtype = next((element_dtype(v) for v in (x, y) if isinstance(v, Value)), i32)
        return self.value(x, dtype), self.value(y, dtype)

    def pure(self, op: OpT) -> Value:
        """Appends a pure op of one result, folded where its operands are constants or the result is
        an operand.
        """
        folded = fold(op)
        return folded if folded is not None else self.emit(op).result

    def add(self, x: Number, y: Number) -> Value:
        return self.pure(arith.Add(*self._pair(x, y)))

    def sub(self, x: Number, y: Number) -> Value:
        return self.pure(arith.Sub(*self._pair(x, y)))

    def mul(self, x: Number, y: Number) -> Value:
        return self.pure(arith.Mul(*self._pair(x, y)))

    def floordiv(self, x: Number, y: Number) -> Value:
        return self.pure(arith.FloorDiv(*self._pair(x, y)))

    def floormod(self, x: Number, y: Number) -> Value:
        return self.pure(arith.FloorMod(*self._pair(x, y)))

    def ceildiv(self, x: Number, y: Number) -> Value:
        a, b = self._pair(x, y)
        return self.floordiv(self.add(a, self.sub(b, 1)), b)

    def min(self, x: Number, y: Number) -> Value:
        return self.pure(arith.Min(*self._pair(x, y)))

    def max(self, x: Number, y: Number) -> Value:
        return self.pure(arith.Max(*self._pair(x, y)))

    def bit_and(self, x: Number, y: Number) -> Value:
        return self.pure(arith.BitAnd(*self._pair(x, y)))

    def bit_or(self, x: Number, y: Number) -> Value:
        return self.pure(arith.BitOr(*self._pair(x, y)))

    def bit_xor(self, x: Number, y: Number) -> Value:
        return self.pure(arith.BitXor(*self._pair(x, y)))

    def shift_left(self, x: Number, y: Number) -> Value:
        return self.pure(arith.ShiftLeft(*self._pair(x, y)))

    def shift_right(self, x: Number, y: Number) -> Value:
        return self.pure(arith.ShiftRight(*self._pair(x, y)))

    def compare(self, predicate: str, x: Number, y: Number) -> Value:
        a, b = self._pair(x, y)
        return self.pure(arith.Compare(a, b, predicate=predicate))

    def both(self, x: Value, y: Value) -> Value:
        """Logical and of two bools."""
        return self.pure(arith.BitAnd(x, y))

    def select(self, condition: Value, x: Number, y: Number) -> Value:
        a, b = self._pair(x, y)
        return self.pure(arith.Select(condition, a, b))

    def cast(self, x: Value, dtype: DType) -> Value:
        return x if element_dtype(x) == dtype else self.pure(arith.Cast(x, dtype=dtype))

    # Control

    @contextmanager
    def loop(
        self,
        start: Number,
        stop: Number,
        step: Number = 1,
        *,
        hint: str = "i",
        kind: str = "serial",
        unroll: int = 1,
    ) -> Iterator[Value]:
        """A loop without carried values; the context's body is its body."""
        index = Value(ScalarType(i32), hint)
        with self.region() as ops:
            yield index
        body = Block((index,), (*ops, Yield(())))
        self.emit(
            For(
                self.value(start),
                self.value(stop),
                self.value(step),
                (),
                body,
                kind=kind,
                unroll=unroll,
            )
        )

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """A conditional without results. A condition known to be true is left out, one known to be
        false drops the body.
        """
        with self.region() as ops:
            yield
        known = constant_of(condition)
        if known is None:
            self.emit(If(condition, Block((), (*ops, Yield(()))), Block((), (Yield(()),))))
        elif known:
            self.extend(ops)


def scalar(dtype: DType, hint: str = "") -> Value:
    """A fresh scalar value, for block parameters."""
    return Value(ScalarType(dtype), hint)


def fresh(type_: Type, hint: str = "") -> Value:
    """A fresh value of any type, for block parameters."""
    return Value(type_, hint)


def fold(op: Op) -> Value | None:
    """What a pure scalar op is known to give without running: a constant, or one of its operands.
    Else None.
    """
    if not isinstance(op, arith.Elementwise) or not op.pure or len(op.results) != 1:
        return None
    type_ = op.results[0].type
    if not isinstance(type_, ScalarType):
        return None
    numbers = [constant_of(v) for v in op.inputs]
    if None not in numbers:
        arrays: list[Any] = [
            element_dtype(v).numpy.type(n) for v, n in zip(op.inputs, numbers, strict=True)
        ]
        return constant(op.evaluate(*arrays).item(), type_.dtype)
    return _identity(op, numbers)


def _identity(  # noqa: C901  one case an op
    op: Op, numbers: Sequence[bool | int | float | None]
) -> Value | None:
    """Integer and bool identities: x + 0, x * 1, x * 0, x // 1, x % 1, min(x, x), true & x,
    select(c, x, x), …
    """
    if isinstance(op, arith.Select):
        if numbers[0] is not None:
            return op.x if numbers[0] else op.y
        return op.x if op.x is op.y else None
    if isinstance(op, arith.Cast):
        return op.x if element_dtype(op.x) == op.dtype else None
    if not isinstance(op, arith.Binary) or element_dtype(op.x).is_float:
        return None
    x, y, dtype = op.x, op.y, element_dtype(op.x)
    a, b = numbers
    if a is None and b is None and x is not y:
        return None  # nothing is known of either
    match op:
        case arith.Add():
            return x if b == 0 else y if a == 0 else None
        case arith.Sub():
            return x if b == 0 else constant(0, dtype) if x is y else None
        case arith.Mul():
            if a == 0 or b == 0:
                return constant(0, dtype)
            return x if b == 1 else y if a == 1 else None
        case arith.FloorDiv() | arith.TruncDiv():
            return x if b == 1 else constant(0, dtype) if a == 0 else None
        case arith.FloorMod() | arith.TruncMod():
            return constant(0, dtype) if b == 1 or a == 0 else None
        case arith.Min() | arith.Max():
            return x if x is y else None
        case arith.BitAnd():
            return _identity_and(x, y, a, b, dtype)
        case arith.BitOr() | arith.BitXor() | arith.ShiftLeft() | arith.ShiftRight():
            if dtype == bool_ and isinstance(op, arith.BitOr) and (a is True or b is True):
                return constant(True, bool_)
            return (
                x
                if b == 0
                else y
                if a == 0 and not isinstance(op, (arith.ShiftLeft, arith.ShiftRight))
                else None
            )
        case arith.Compare() if x is y and not dtype.is_float:
            return constant(op.predicate in ("eq", "le", "ge"), bool_)
    return None


def _identity_and(
    x: Value, y: Value, a: bool | int | float | None, b: bool | int | float | None, dtype: DType
) -> Value | None:
    if a == 0 or b == 0:
        return constant(0, dtype)
    if dtype == bool_:
        return x if b else y if a else x if x is y else None
    return x if x is y or b == -1 else None
