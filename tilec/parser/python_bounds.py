"""Loads that cannot be at fault wherever they stand, as far as a trace tells."""

from __future__ import annotations

from .. import config
from ..ir.core import Op, Value, constant_of
from ..ir.ops import arith
from ..ir.ops.arith import is_harmless
from ..ir.ops.memory import Load, memory_type
from ..ir.types import Space
from ..language.trace import Trace

Reach = tuple[int, int]


def cannot_fail(trace: Trace, op: Op) -> bool:
    """Whether an op may be run where nobody asks for its result: it is harmless, or it loads from a
    tensor (outside of which there are zeros, but where TILEC_CHECK=bounds makes that an error), or
    plainly from inside other memory.
    """
    if not isinstance(op, Load):
        return is_harmless(op)
    type_ = memory_type(op.memory)
    total = type_.space is Space.GLOBAL and "bounds" not in config.current().check
    return total or all(
        isinstance(extent, int) and _is_inside(trace, index, extent)
        for index, extent in zip(op.indices, type_.shape, strict=True)
    )


def _is_inside(trace: Trace, index: Value, extent: int) -> bool:
    reach = _reach(trace, index)
    return reach is not None and reach[0] >= 0 and reach[1] < extent


def _reach(trace: Trace, value: Value) -> Reach | None:
    """The least and the largest number of an index made of loops' indices and constants."""
    known = constant_of(value)
    if known is not None:
        return int(known), int(known)
    if value in trace.extents:
        return 0, trace.extents[value] - 1
    op = trace.definitions.get(value)
    if not isinstance(op, arith.Binary):
        return None
    x, y, divisor = _reach(trace, op.x), _reach(trace, op.y), constant_of(op.y)
    match op:
        case arith.FloorMod() if divisor is not None and divisor > 0:
            return 0, int(divisor) - 1
        case arith.BitAnd() if divisor is not None and divisor >= 0:
            return 0, int(divisor)
        case arith.Add() if x and y:
            return x[0] + y[0], x[1] + y[1]
        case arith.Sub() if x and y:
            return x[0] - y[1], x[1] - y[0]
        case arith.Mul() if x and y:
            corners = [a * b for a in x for b in y]
            return min(corners), max(corners)
        case arith.FloorDiv() if x and divisor is not None and divisor > 0:
            return x[0] // int(divisor), x[1] // int(divisor)
    return None
