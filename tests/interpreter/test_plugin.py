"""Ops from outside the package: pure ones run by their `evaluate`, others by an added rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, tensor
from tilec.errors import ExecutionError
from tilec.interpreter import Frame, run_program
from tilec.ir.core import Access, Effect, Level, Op, Value, attribute, operand
from tilec.ir.dtypes import f32, i32
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.arith import Unary
from tilec.ir.ops.tile import Fill
from tilec.ir.types import ScalarType, Type


class Cube(Unary, name="acme.cube", pure=True):
    """x to the third."""

    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return inputs[0] ** 3


class Halves(Op, name="acme.halves", pure=True):
    """x // 2 and the rest."""

    x: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (self.x.type, ScalarType(i32))

    def evaluate(self, *inputs: Any) -> Any:
        return inputs[0] // 2, inputs[0] % 2


class Double(Op, name="acme.double", level=Level.TILE):
    """Doubles every element of a memory."""

    memory: Value = operand()
    times: int = attribute(default=1)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.memory),)


def program(s: Sketch, a: Value) -> Any:
    with s.launch(1):
        mine = s.shared("S", f32, 8)
        with s.parallel(8) as (i,):
            half, rest = s.emit(Halves(i)).results
            x = s.emit(Cube(s.load(a, s.add(s.mul(half, 2), rest)))).result
            s.store(x, mine, i)
        s.emit(Double(mine, times=2))
        s.copy(mine, (0,), a, (0,), (8,))
    return s.program(a)


def test_a_pure_op_needs_nothing_and_an_effectful_one_a_rule() -> None:
    registry = builtin_registry()
    a, x = tensor("A", f32, 8), np.arange(8, dtype=np.float32)
    with pytest.raises(
        ExecutionError, match=r"acme.double has no meaning at the tile level"
    ) as error:
        run_program(program(Sketch(), a), {"A": x.copy()}, registry=registry)
    assert error.value.code == "TLC0740"

    def double(frame: Frame, op: Op) -> None:
        assert isinstance(op, Double)
        storage = frame.memory(op.memory).storage
        storage.write((...,), storage.data * 2**op.times, None)

    registry.table("interpret")[Double] = double
    run_program(program(Sketch(), a), {"A": x}, registry=registry)
    assert np.array_equal(x, 4 * np.arange(8) ** 3)


def test_a_rule_of_a_user_wins_over_tilecs() -> None:
    registry = builtin_registry()
    calls: list[Op] = []
    registry.table("interpret")[Fill] = lambda frame, op: calls.append(op)
    s, a = Sketch(), tensor("A", f32, 8)
    with s.launch(2):
        s.fill(a, 3)
    x = np.zeros(8, np.float32)
    run_program(s.program(a), {"A": x}, registry=registry)
    assert len(calls) == 2 and (x == 0).all()
