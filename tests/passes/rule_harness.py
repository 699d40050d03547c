"""One lowering rule at a time: what a rule is given, without the driver, and its result run in
lockstep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.passes.lockstep import Machine
from tilec.ir.core import Block, Op, Value
from tilec.ir.dtypes import DType
from tilec.ir.layout import RegisterLayout
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import Role, ThreadId
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.thread import Barrier
from tilec.ir.types import InflightType, MemoryType, Space, TileType
from tilec.passes.context import PassContext, Remark
from tilec.passes.index_builder import IndexBuilder
from tilec.passes.ranges import Range
from tilec.target import find_target

Array = np.ndarray[Any, Any]


class RuleLowering:
    """The interface of `Lowering` for a role of `threads` threads whose tiles all have registers of
    their own.
    """

    def __init__(self, target: str, threads: int, *, loops: int = 0) -> None:
        self.b = IndexBuilder()
        self.remarks: list[Remark] = []
        self.context = PassContext(
            find_target(target), builtin_registry(), remark=self.remarks.append
        )
        self.threads = threads
        self.loops = loops
        self.role = Role(Block(), label="test", first_thread=0, threads=threads)
        self.definitions: dict[Value, Op] = {}
        self._registers: dict[Value, Value] = {}
        self._thread = self.b.emit(ThreadId()).result
        self.b.assume(self._thread, Range.between(0, threads - 1))

    def thread(self) -> Value:
        return self._thread

    def lane(self) -> Value:
        return self.b.floormod(self._thread, self.context.target.warp_size)

    def warp(self) -> Value:
        return self.b.floordiv(self._thread, self.context.target.warp_size)

    def layout(self, value: Value) -> RegisterLayout:
        type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
        assert isinstance(type_, TileType) and type_.layout is not None
        return type_.layout

    def registers(self, value: Value) -> Value:
        if value not in self._registers:
            type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
            assert isinstance(type_, TileType)
            self._registers[value] = self.scratch(
                type_.dtype, self.layout(value).registers, value.hint
            )
        return self._registers[value]

    def share(self, first: Value, second: Value) -> None:
        """One array for two values, as coalescing does."""
        self._registers[second] = self.registers(first)

    def value(self, value: Value) -> Value:
        return value

    def values(self, values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(values)

    def definition(self, value: Value) -> Op | None:
        return self.definitions.get(value)

    def scratch(self, dtype: DType, count: int, hint: str) -> Value:
        array = self.b.emit(Alloc(type=MemoryType(dtype, (count,), Space.LOCAL))).result
        array.hint = hint
        return array

    def at_top(self, make: Callable[[], Value]) -> Value:
        return make()

    def barrier(self) -> None:
        self.b.emit(Barrier())


def machine_for(lowering: RuleLowering) -> Machine:
    return Machine(lowering.threads, lowering.context.target.warp_size)


def put_tile(machine: Machine, lowering: RuleLowering, value: Value, contents: Array) -> None:
    """Gives every thread its registers of a tile."""
    coords = lowering.layout(value).coords()
    registers = lowering.registers(value)
    machine.allocate(registers)[:] = contents[tuple(np.moveaxis(coords, -1, 0))]


def get_tile(machine: Machine, lowering: RuleLowering, value: Value) -> Array:
    """The tile that the threads hold; fails where copies of an element differ."""
    layout = lowering.layout(value)
    coords = tuple(np.moveaxis(layout.coords(), -1, 0))
    held = machine.memory[lowering.registers(value)]
    tile = np.zeros(layout.shape, held.dtype)
    tile[coords] = held
    assert np.array_equal(tile[coords], held, equal_nan=held.dtype.kind == "f"), (
        "copies of an element differ"
    )
    return tile
