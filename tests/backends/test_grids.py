"""Grids as the launcher computes them: how much of it there may be."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tilec.backends.emitter import EmittedProgram, emit_program
from tilec.backends.grids import MOST_STEPS
from tilec.backends.launcher.expressions import evaluate, steps_in
from tilec.backends.manifest import Manifest
from tilec.errors import TargetUnsupported
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Level, Program, Value
from tilec.ir.dtypes import i32
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import Define, Launch, Symbol
from tilec.target import find_target


def launched(
    grow: Callable[[Builder, Value], Value], steps: int, defines: int = 0
) -> EmittedProgram:
    """A launch whose grid grows so many steps, and behind it so many symbols that grow once."""
    b, n = Builder(), Symbol(label="N")
    b.extend((n,))
    x = n.result
    for _ in range(steps):
        x = grow(b, x)
    labels = [f"S{i}" for i in range(defines)]
    for label in labels:
        b.extend((Define(grow(b, x), label=label),))
        x = b.emit(Symbol(label=label)).result
    launch = Launch((x,), Block(tuple(scalar(i32) for _ in range(3)), ()), threads=32)
    program = Program("grid", (), Block((), (*b.ops, launch)), ("N", *labels), Level.THREAD)
    return emit_program(program, find_target("cuda:sm_80"), builtin_registry())


def halved(b: Builder, x: Value) -> Value:
    return b.floordiv(x, 2)


def doubled(b: Builder, x: Value) -> Value:
    return b.add(x, x)


def test_the_largest_grid_is_written_and_read() -> None:
    manifest = launched(halved, MOST_STEPS).manifest()
    (launch,) = Manifest.from_json(manifest.to_json()).variants[0].launches
    assert steps_in(launch.grid[0]) == MOST_STEPS
    assert evaluate(launch.grid[0], {"N": 3 << MOST_STEPS}) == 3


@pytest.mark.parametrize(
    ("grow", "steps", "defines"),
    [(halved, MOST_STEPS + 1, 0), (halved, 1000, 0), (doubled, 40, 0), (doubled, 0, 40)],
)
def test_more_than_that_is_refused(
    grow: Callable[[Builder, Value], Value], steps: int, defines: int
) -> None:
    with pytest.raises(TargetUnsupported, match=r"TLC0516.*more than 128 operations"):
        launched(grow, steps, defines)
