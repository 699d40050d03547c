"""Index arithmetic as the abstract machine does it.

A number is an int (the same in every thread), an array of one int a thread, or None: not known.
Booleans are numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...ir.core import Op
from ...ir.ops import arith
from ...ir.ops.control import WarpUniform

Vector = NDArray[Any]
Number = int | float | Vector | None


def _floordiv(x: Any, y: Any) -> Any:
    if isinstance(y, np.ndarray):
        return np.where(y == 0, 0, x // np.where(y == 0, 1, y))
    return x // y if y else 0


def _floormod(x: Any, y: Any) -> Any:
    return x - _floordiv(x, y) * y


def _truncdiv(x: Any, y: Any) -> Any:
    quotient = _floordiv(abs(x), abs(y))
    same_sign = (x < 0) == (y < 0)
    if isinstance(same_sign, np.ndarray):
        return np.where(same_sign, quotient, -quotient)
    return quotient if same_sign else -quotient


def _truncmod(x: Any, y: Any) -> Any:
    return x - _truncdiv(x, y) * y


def _min(x: Any, y: Any) -> Any:
    return np.minimum(x, y) if _vector(x, y) else min(x, y)


def _max(x: Any, y: Any) -> Any:
    return np.maximum(x, y) if _vector(x, y) else max(x, y)


def _vector(*values: Any) -> bool:
    return any(isinstance(v, np.ndarray) for v in values)


_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt,
    "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def function_of(op: Op) -> Callable[..., Any] | None:
    """What computes a pure scalar op from numbers; None for ops that the machine does not compute.

    Where an operand is not known, neither is the result; `select` and `bit_and` take None
    themselves.
    """
    if isinstance(op, arith.Compare):
        return _COMPARE[op.predicate]
    if isinstance(op, arith.Cast):
        return _CAST.get(op.dtype.kind)
    return _FUNCTIONS.get(type(op))


def compute(op: Op, inputs: Sequence[Number]) -> Number:
    """The result of a pure scalar op. What is not known, or not computed, is None."""
    function = function_of(op)
    if function is None or (any(v is None for v in inputs) and function not in TAKES_UNKNOWN):
        return None
    result: Number = function(*inputs)
    return result


def _select(condition: Number, x: Number, y: Number) -> Number:
    if condition is None:
        return None
    if isinstance(condition, np.ndarray):
        if x is None or y is None:
            return None
        chosen: Vector = np.where(condition, np.asarray(x), np.asarray(y))
        return chosen
    return x if condition else y


def _invert(x: Number) -> Number:
    if isinstance(x, bool):
        return not x
    return ~x if isinstance(x, (int, np.ndarray)) else None


def _to_int(x: Any) -> Any:
    return x.astype(np.int64) if isinstance(x, np.ndarray) else int(x)


def _both(x: Number, y: Number) -> Number:
    if x is None or y is None:
        return False if x is False or y is False else None
    return x & y  # type: ignore[operator]


def merge(condition: Vector, x: Number, y: Number) -> Number:
    """x in the threads where the condition holds, y elsewhere."""
    return _select(condition, x, y)


_CAST: dict[str, Callable[[Any], Any]] = {
    "int": _to_int,
    "uint": _to_int,
    "bool": lambda x: x != 0,
    "float": lambda x: x,
}
_FUNCTIONS: dict[type[Op], Callable[..., Any]] = {
    arith.Add: operator.add,
    arith.Sub: operator.sub,
    arith.Mul: operator.mul,
    arith.FloorDiv: _floordiv,
    arith.FloorMod: _floormod,
    arith.TruncDiv: _truncdiv,
    arith.TruncMod: _truncmod,
    arith.Min: _min,
    arith.Max: _max,
    arith.BitAnd: _both,
    arith.BitOr: operator.or_,
    arith.BitXor: operator.xor,
    arith.ShiftLeft: operator.lshift,
    arith.ShiftRight: operator.rshift,
    arith.Neg: operator.neg,
    arith.Not: _invert,
    arith.Abs: abs,
    arith.Select: _select,
    WarpUniform: lambda x: x,
}
TAKES_UNKNOWN = frozenset({_both, _select})
