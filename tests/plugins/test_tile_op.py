"""A tile op from outside the package: its meaning, its layouts and its lowering are three entries in
tables of a registry, and it runs like tilec's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tilec.errors import TargetUnsupported
from tilec.interpreter import run_program
from tilec.ir.core import Level, Op, Program, Value, operand
from tilec.ir.layout.constraints import Constraint, Derived
from tilec.ir.registry import Registry
from tilec.ir.types import TileType, Type
from tilec.parser.text import parse_program
from tilec.passes.layout_constraints import demand, use
from tilec.runtime import emulator
from tilec.runtime.lowering import lower_program, standard_registry
from tilec.target import find_target

TEXT = """tilec.ir 1
program @turned(%A: global f32[32, 64], %B: global f32[64, 32]) <level = tile> {
  launch 1, 1, 1 <threads = 64> (%bx: i32, %by: i32, %bz: i32) {
    %x = load_tile %A, [0, 0] <shape = [32, 64], dims = [0, 1]> : tile f32[32, 64]
    %y = acme.transpose %x : tile f32[64, 32]
    %z = mul %y, %y : tile f32[64, 32]
    store_tile %z, %B, [0, 0] <dims = [0, 1]>
    yield
  }
}
"""


class Transpose(Op, name="acme.transpose", level=Level.TILE, pure=True):
    """The tile with its two dimensions exchanged."""

    tile: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        assert isinstance(type_, TileType)
        layout = None if type_.layout is None else type_.layout.transpose((1, 0))
        return (TileType(type_.dtype, type_.shape[::-1], layout),)


def interpret(frame: Any, op: Transpose) -> None:
    frame.define(op.result, frame.tile(op.tile).T)


def layouts(op: Transpose, group: Any) -> Iterator[Constraint]:
    """The same registers: no thread gives anything to another."""
    yield use(op, 0, op.tile)
    yield Derived(op.result, demand(op, 0), lambda layout: layout.transpose((1, 0)))


def lower(op: Transpose, lowering: Any) -> None:
    lowering.copy_registers(op.result, op.tile)


def registry() -> Registry:
    extended = standard_registry().copy()
    extended.register(Transpose)
    extended.table("interpret")[Transpose] = interpret
    extended.table("layouts")[Transpose] = layouts
    extended.table("lower")[Transpose] = lower
    return extended


def program(known: Registry) -> Program:
    return parse_program(TEXT, known)


def test_interpreter_and_emulator() -> None:
    known = registry()
    a = np.random.default_rng(0).integers(-8, 8, (32, 64)).astype(np.float32)
    for target in ("cuda:sm_80", "hip:gfx942"):
        interpreted, emulated = np.zeros((64, 32), np.float32), np.zeros((64, 32), np.float32)
        run_program(program(known), {"A": a, "B": interpreted}, registry=known)
        lowered = lower_program(program(known), find_target(target), known, checked=True)
        library = emulator.build(lowered.emulated_text)
        emulator.run(library, lowered.variant.launches[0], {"A": a, "B": emulated}, "late")
        assert np.array_equal(interpreted, (a * a).T)
        assert np.array_equal(emulated, (a * a).T)


def test_an_op_without_layouts_is_refused_by_name() -> None:
    known = registry()
    del known.table("layouts")[Transpose]
    with pytest.raises(TargetUnsupported, match=r"acme\.transpose") as caught:
        lower_program(program(known), find_target("cuda:sm_80"), known)
    assert caught.value.code == "TLC0408"
