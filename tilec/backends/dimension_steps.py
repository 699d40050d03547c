"""Arithmetic on dimensions that 32 bits may not hold, as expressions that the launcher checks.

A kernel computes `T.ceildiv(M * N * K, 64)` in 32 bits, step by step. Each dimension is below
`SYMBOL_LIMIT`, their product need not be: a call whose sizes make it so is refused, at the line.
Single dimensions, and what tiles make of them, never are, and nothing is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath

from ..ir.core import Block, Constant, Op, Program, Value, walk
from ..ir.dtypes import i32
from ..ir.ops import arith
from ..ir.ops.control import Launch, Symbol
from ..ir.types import ScalarType
from .grids import MOST_STEPS, HostScalars, grid_expr
from .launcher.expressions import OPERATIONS, steps_in
from .launcher.limits import INDEX_LIMIT, SYMBOL_LIMIT
from .manifest import Step

_MAY_GROW = (arith.Add, arith.Sub, arith.Mul)
_KNOWN = (*_MAY_GROW, arith.FloorDiv, arith.FloorMod, arith.Min, arith.Max)
Bounds = tuple[int, int]
_MOST_STEPS = MOST_STEPS // 2
"""What takes more is no extent, but a hash or the like."""
_ANY = (-INDEX_LIMIT, INDEX_LIMIT - 1)


def dimension_steps(program: Program, host: HostScalars) -> tuple[Step, ...]:
    """The steps in the launches of a program, as the frontend leaves it, that are made of dimensions
    alone and may not fit; of steps within steps the outermost."""
    definitions = {result: op for op in walk(program.body) for result in op.results}
    known = HostScalars(definitions, {}, host.derived)
    steps_of: dict[Value, int] = {}
    bounds: dict[Value, Bounds] = {}
    found: dict[Value, Op] = {}
    used = _used_in_launches(program.body)
    for op in walk(program.body):
        if not _is_of_dimensions(op, steps_of):
            continue
        made = host.derived.get(op.label) if isinstance(op, Symbol) else None
        steps_of[op.result] = 1 + steps_in(made) + sum(steps_of.get(v, 0) for v in op.inputs)
        exact = _bounds_of(op, bounds)
        bounds[op.result] = max(exact[0], _ANY[0]), min(exact[1], _ANY[1])
        if exact != bounds[op.result] and op.result in used:
            found[op.result] = op
    inner = {part for op in found.values() for part in _parts(op, definitions)}
    steps = {
        grid_expr(value, known): _place(op) for value, op in found.items() if value not in inner
    }
    return tuple(Step(place, expression) for expression, place in steps.items())


def _is_of_dimensions(op: Op, steps_of: dict[Value, int]) -> bool:
    if len(op.results) != 1 or op.results[0].type != ScalarType(i32):
        return False
    if isinstance(op, Symbol) or not isinstance(op, _KNOWN):
        return isinstance(op, Symbol)
    known = all(isinstance(v, Constant) or v in steps_of for v in op.inputs)
    return known and sum(steps_of.get(v, 0) for v in op.inputs) < _MOST_STEPS


def _bounds_of(op: Op, known: dict[Value, Bounds]) -> Bounds:
    """The least and the largest that an op's exact result may be."""
    if isinstance(op, Symbol):
        return 0, SYMBOL_LIMIT - 1
    assert isinstance(op, arith.Binary)
    (a, b), (c, d) = (
        (int(v.value),) * 2 if isinstance(v, Constant) else known[v] for v in (op.x, op.y)
    )
    match op:
        case arith.Add():
            return a + c, b + d
        case arith.Sub():
            return a - d, b - c
        case arith.Mul() | arith.Min() | arith.Max():
            each = [OPERATIONS[op.name](x, y) for x in (a, b) for y in (c, d)]
            return min(each), max(each)
        case arith.FloorMod() if c > 0:
            return 0, d - 1
        case arith.FloorDiv() if c > 0:
            corners = [x // y for x in (a, b) for y in (c, d)]
            return min(corners), max(corners)
    return _ANY


def _used_in_launches(body: Block) -> set[Value]:
    """What ops in launches have for operands."""
    launches = (op for op in body.ops if isinstance(op, Launch))
    return {v for launch in launches for op in walk(launch.body) for v in op.inputs}


def _parts(op: Op, definitions: dict[Value, Op]) -> Iterator[Value]:
    """What an op is computed from."""
    for value in op.inputs:
        if value in definitions:
            yield value
            yield from _parts(definitions[value], definitions)


def _place(op: Op) -> str:
    return f"{PurePath(op.loc.file).name}:{op.loc.line}" if op.loc.known else op.name
