"""Grids as the launcher computes them: the scalar ops before a launch, as expressions of the
manifest."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import UNKNOWN, TargetUnsupported
from ..ir.core import Constant, Op, Value
from ..ir.ops import arith
from ..ir.ops.control import Launch, Symbol
from .manifest import MULTIPROCESSORS, Expr

_OPERATIONS: dict[type[Op], str] = {
    arith.Add: "add", arith.Sub: "sub", arith.Mul: "mul", arith.FloorDiv: "floordiv",
    arith.TruncDiv: "floordiv", arith.FloorMod: "mod", arith.TruncMod: "mod",
    arith.Min: "min", arith.Max: "max",
}  # fmt: skip


def launch_grid(
    launch: Launch, definitions: Mapping[Value, Op], scalars: Mapping[Value, str]
) -> tuple[Expr, Expr, Expr]:
    """The grid of a launch. `definitions`: the op of each value before it; `scalars`: names of
    scalar parameters.

    A persistent launch has as many blocks as are resident at once, but no more than logical ones.
    Raises TargetUnsupported for an extent that the host cannot compute.
    """
    extents = [grid_expr(value, definitions, scalars) for value in launch.grid]
    x, y, z = (*extents, 1, 1)[:3]
    if not launch.persistent_blocks:
        return x, y, z
    resident = _product(MULTIPROCESSORS, launch.persistent_blocks)
    return ("min", _product(_product(x, y), z), resident), 1, 1


def _product(a: Expr, b: Expr) -> Expr:
    if a == 1 or b == 1:
        return b if a == 1 else a
    return a * b if isinstance(a, int) and isinstance(b, int) else ("mul", a, b)


def grid_expr(value: Value, definitions: Mapping[Value, Op], scalars: Mapping[Value, str]) -> Expr:
    """The manifest's expression of an integer computed before a launch."""
    if isinstance(value, Constant):
        return int(value.value)
    if value in scalars:
        return scalars[value]
    op = definitions.get(value)
    if isinstance(op, Symbol):
        return op.label
    if isinstance(op, arith.Cast) and op.dtype.is_integer and op.dtype.bits >= 32:
        return grid_expr(op.x, definitions, scalars)
    if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)) and isinstance(op.y, Constant):
        x = grid_expr(op.x, definitions, scalars)
        return ("mul" if isinstance(op, arith.ShiftLeft) else "floordiv", x, 1 << int(op.y.value))
    operation = _OPERATIONS.get(type(op)) if op is not None else None
    if operation is None or not isinstance(op, arith.Binary):
        what = f"{op.name} of a launch's grid" if op is not None else f"the grid extent {value!r}"
        raise TargetUnsupported(
            "TLC0516", f"{what} cannot be computed by the launcher", loc=op.loc if op else UNKNOWN
        )
    if operation == "floordiv" and (numerator := _rounded_up(op, definitions)) is not None:
        left, right = numerator, op.y
        return (
            "ceildiv",
            grid_expr(left, definitions, scalars),
            grid_expr(right, definitions, scalars),
        )
    return (operation, grid_expr(op.x, definitions, scalars), grid_expr(op.y, definitions, scalars))


def _rounded_up(division: arith.Binary, definitions: Mapping[Value, Op]) -> Value | None:
    """n, where the division is of n + (d - 1) by d."""
    add = definitions.get(division.x)
    if not isinstance(add, arith.Add):
        return None
    divisor, rest = division.y, add.y
    if isinstance(divisor, Constant) and isinstance(rest, Constant):
        return add.x if rest.value == divisor.value - 1 else None
    less_one = definitions.get(rest)
    if not isinstance(less_one, (arith.Add, arith.Sub)) or less_one.x is not divisor:
        return None
    step = less_one.y.value if isinstance(less_one.y, Constant) else 0
    return add.x if step == (1 if isinstance(less_one, arith.Sub) else -1) else None
