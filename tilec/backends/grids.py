"""Grids as the launcher computes them: the scalar ops before a launch, as expressions of the
manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import UNKNOWN, TargetUnsupported
from ..ir.core import Constant, Op, Value
from ..ir.ops import arith
from ..ir.ops.control import Launch, Symbol
from .launcher.expressions import steps_in
from .manifest import MULTIPROCESSORS, Expr

_OPERATIONS: dict[type[Op], str] = {
    arith.Add: "add", arith.Sub: "sub", arith.Mul: "mul", arith.FloorDiv: "floordiv",
    arith.TruncDiv: "floordiv", arith.FloorMod: "mod", arith.TruncMod: "mod",
    arith.Min: "min", arith.Max: "max",
}  # fmt: skip

MOST_STEPS = 128
"""More operations than any grid takes; readers of a manifest nest as deep as its expressions."""


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
    of memory that the call allocates. Raises TargetUnsupported for one that the host cannot compute,
    or not in MOST_STEPS."""
    return _Expression(known).of(value)


class _Expression:
    """One expression in the making. It is a tree: a value that is used twice stands there twice, so
    that a few doublings would make it larger than memory; hence the limit."""

    def __init__(self, known: HostScalars) -> None:
        self.known = known
        self.steps = 0

    def of(self, value: Value) -> Expr:
        """The expression of a part."""
        if isinstance(value, Constant):
            return int(value.value)
        if value in self.known.names:
            return self.known.names[value]
        op = self.known.definitions.get(value)
        if isinstance(op, Symbol):
            derived = self.known.derived.get(op.label, op.label)
            self._count(steps_in(derived), op)
            return derived
        if isinstance(op, arith.Cast) and op.dtype.is_integer and op.dtype.bits >= 32:
            return self.of(op.x)
        return self._step(op, value)

    def _step(self, op: Op | None, value: Value) -> Expr:
        loc = op.loc if op else UNKNOWN
        if op is not None:
            self._count(1, op)
        if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)) and isinstance(op.y, Constant):
            word = "mul" if isinstance(op, arith.ShiftLeft) else "floordiv"
            return (word, self.of(op.x), 1 << int(op.y.value))
        if isinstance(op, arith.BitAnd) and (period := _period(op.y)) is not None:
            return ("mod", self.of(op.x), period)
        operation = _OPERATIONS.get(type(op)) if op is not None else None
        if operation is None or not isinstance(op, arith.Binary):
            what = f"{op.name} of an extent of a launch" if op else f"the extent {value!r}"
            raise TargetUnsupported(
                "TLC0516", f"{what} cannot be computed by the launcher", loc=loc
            )
        left = op.x
        if operation == "floordiv":
            numerator = _rounded_up(op, self.known.definitions)
            if numerator is not None:
                operation, left = "ceildiv", numerator
        return (operation, self.of(left), self.of(op.y))

    def _count(self, steps: int, op: Op) -> None:
        self.steps += steps
        if self.steps > MOST_STEPS:
            raise TargetUnsupported(
                "TLC0516",
                f"an extent of a launch takes the launcher more than {MOST_STEPS} operations",
                hint="what is used twice counts twice: compute less, or pass the number as a parameter",
                loc=op.loc,
            )


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
