"""Grids as the launcher computes them: the scalar ops before a launch, as expressions of the
manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class HostScalars:
    """What the launcher knows: the op of each value before the launches, the names of scalar
    parameters, and symbols that are computed from others.
    """

    definitions: Mapping[Value, Op]
    names: Mapping[Value, str]
    derived: Mapping[str, Expr] = field(default_factory=dict)


def launch_blocks(launch: Launch, known: HostScalars) -> tuple[Expr, Expr, Expr]:
    """The extents of the program's own grid."""
    x, y, z = (*(grid_expr(value, known) for value in launch.grid), 1, 1)[:3]
    return x, y, z


def launch_grid(launch: Launch, known: HostScalars) -> tuple[Expr, Expr, Expr]:
    """The grid of a launch.

    A persistent launch has as many blocks as are resident at once, but no more than logical ones,
    and always whole clusters. Raises TargetUnsupported for an extent that the host cannot compute.
    """
    x, y, z = launch_blocks(launch, known)
    if not launch.in_turn:
        return x, y, z
    resident = _product(MULTIPROCESSORS, launch.resident)
    blocks = launch.cluster_blocks
    if blocks == 1:
        return ("min", _product(_product(x, y), z), resident), 1, 1
    x, y, z = (
        extent if n == 1 else ("ceildiv", extent, n)
        for extent, n in zip((x, y, z), launch.cluster, strict=True)
    )
    at_once: Expr = ("max", ("floordiv", resident, blocks), 1)
    return _product(("min", _product(_product(x, y), z), at_once), blocks), 1, 1


def _product(a: Expr, b: Expr) -> Expr:
    if a == 1 or b == 1:
        return b if a == 1 else a
    return a * b if isinstance(a, int) and isinstance(b, int) else ("mul", a, b)


def grid_expr(value: Value, known: HostScalars) -> Expr:
    """The manifest's expression of an integer computed before a launch: an extent of its grid, or
    of memory that the call allocates."""
    if isinstance(value, Constant):
        return int(value.value)
    if value in known.names:
        return known.names[value]
    op = known.definitions.get(value)
    if isinstance(op, Symbol):
        return known.derived.get(op.label, op.label)
    if isinstance(op, arith.Cast) and op.dtype.is_integer and op.dtype.bits >= 32:
        return grid_expr(op.x, known)
    if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)) and isinstance(op.y, Constant):
        x = grid_expr(op.x, known)
        return ("mul" if isinstance(op, arith.ShiftLeft) else "floordiv", x, 1 << int(op.y.value))
    if isinstance(op, arith.BitAnd) and (period := _period(op.y)) is not None:
        return ("mod", grid_expr(op.x, known), period)
    operation = _OPERATIONS.get(type(op)) if op is not None else None
    if operation is None or not isinstance(op, arith.Binary):
        what = f"{op.name} of an extent of a launch" if op is not None else f"the extent {value!r}"
        raise TargetUnsupported(
            "TLC0516", f"{what} cannot be computed by the launcher", loc=op.loc if op else UNKNOWN
        )
    if operation == "floordiv" and (numerator := _rounded_up(op, known.definitions)) is not None:
        left, right = numerator, op.y
        return (
            "ceildiv",
            grid_expr(left, known),
            grid_expr(right, known),
        )
    return (operation, grid_expr(op.x, known), grid_expr(op.y, known))


def _period(mask: Value) -> int | None:
    """n, where x & mask is x modulo n."""
    if not isinstance(mask, Constant) or isinstance(mask.value, bool):
        return None
    n = int(mask.value) + 1
    return n if n > 0 and n & (n - 1) == 0 else None


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
