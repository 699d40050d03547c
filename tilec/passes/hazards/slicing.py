"""Which ops of a launch the abstract machine executes: what touches shared memory or synchronises,
and the scalars and variables that decide which of it happens, on which slot, in which phase.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir.core import Access, Block, Constant, Op, Value
from ...ir.ops.arith import Elementwise
from ...ir.ops.control import For, If, Launch, Role, Simt, WarpUniform, While
from ...ir.ops.memory import Alloc, Load, Slot, Store
from ...ir.ops.nvidia import (
    CpAsyncArrive,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierInit,
    MbarrierWait,
)
from ...ir.ops.pipeline import Channel, Pipeline, Stage
from ...ir.ops.thread import VectorLoad, VectorStore
from ...ir.ops.tile import Copy, Fill
from ...ir.rewrite import free_values
from ...ir.types import MemoryType, ScalarType, Space
from .numbers import TAKES_UNKNOWN, function_of

_FOLLOWED = (CpAsyncArrive, MbarrierArrive, MbarrierExpect, MbarrierInit, MbarrierWait, Fill)
"""Ops of which every operand matters."""


def is_space(value: Value | None, space: Space) -> bool:
    return value is not None and isinstance(value.type, MemoryType) and value.type.space is space


def matters(op: Op) -> bool:
    """Whether the op itself touches shared memory or synchronises."""
    for effect in op.effects():
        if effect.access is Access.SYNCHRONISE:
            return True
        if effect.access in (Access.READ, Access.WRITE) and is_space(effect.memory, Space.SHARED):
            return True
    if isinstance(op, Alloc):
        return is_space(op.result, Space.SHARED)
    return isinstance(op, (Role, Pipeline, Stage, Slot, Channel))


class Slice:
    """The kept ops of a launch's blocks (and of the blocks around it, `outer`), in order: those that
    `matter`, and what decides them."""

    def __init__(self, outer: Block, matter: Callable[[Op], bool] = matters) -> None:
        self._parent: dict[Op, Op] = {}
        self._of_param: dict[Value, tuple[Op, Block, int]] = {}
        self._defined_by: dict[Value, Op] = {}
        self._stores: dict[Value, list[Store]] = {}
        self._kept: set[Op] = set()
        self._values: set[Value] = set()
        self._work: list[Value] = []
        self._blocks: list[Block] = []
        self._free: dict[Simt, tuple[Value, ...]] = {}
        self.loops: list[For | Pipeline] = []
        every = self._index(outer, None)
        for op in every:
            if matter(op):
                self._keep(op)
        while self._work:
            self._follow(self._work.pop())
        self.ops = {b: tuple(op for op in b.ops if op in self._kept) for b in self._blocks}
        self.scalars = {op: _scalar(op) for op in self._kept if _is_scalar(op)}
        self.loops = [op for op in every if isinstance(op, (For, Pipeline)) and op in self._kept]

    def definition(self, value: Value) -> Op | None:
        """The op that defines a value. None for parameters."""
        return self._defined_by.get(value)

    def loop_of(self, value: Value) -> For | Pipeline | None:
        """The loop whose index the value is."""
        op, _, position = self._of_param.get(value, (None, None, 1))
        return op if isinstance(op, (For, Pipeline)) and position == 0 else None

    def enclosing(self, op: Op) -> list[Op]:
        """The ops around an op, innermost first."""
        found = []
        while op in self._parent:
            op = self._parent[op]
            found.append(op)
        return found

    def free(self, region: Simt) -> tuple[Value, ...]:
        """The computed scalars that a simt region takes from outside."""
        if region not in self._free:
            outside = free_values(region.body)
            self._free[region] = tuple(v for v in outside if isinstance(v.type, ScalarType))
        return self._free[region]

    def sets_variables(self, region: Simt) -> bool:
        """Whether a simt region sets, for what comes after it, what decides something."""
        own = {op.result for op in region.walk() if isinstance(op, Alloc)}
        return any(
            isinstance(op, Store)
            and is_space(op.memory, Space.LOCAL)
            and op.memory not in own
            and op in self._kept
            for op in region.walk()
        )

    def _index(self, block: Block, parent: Op | None) -> list[Op]:
        found: list[Op] = []
        self._blocks.append(block)
        for op in block.ops:
            found.append(op)
            if parent is not None:
                self._parent[op] = parent
            self._defined_by.update(dict.fromkeys(op.results, op))
            if isinstance(op, Store) and is_space(op.memory, Space.LOCAL):
                self._stores.setdefault(op.memory, []).append(op)
            for inner in op.regions:
                for position, param in enumerate(inner.params):
                    self._of_param[param] = (op, inner, position)
                found += self._index(inner, op)
        return found

    def _need(self, *values: Value) -> None:
        for value in values:
            if not isinstance(value, Constant) and value not in self._values:
                self._values.add(value)
                self._work.append(value)

    def _keep(self, op: Op) -> None:
        """Keeps an op, all around it, and needs what decides them."""
        if op in self._kept:
            return
        self._kept.add(op)
        if op in self._parent:
            self._keep(self._parent[op])
        match op:
            case If():
                self._need(op.condition)
            case For():
                self._need(op.start, op.stop, op.step)
            case Pipeline():
                self._need(op.start, op.stop)
            case While():
                for inner in op.condition.ops:
                    self._need(*inner.inputs)
            case Launch():
                self._need(*op.grid)
            case Slot():
                self._need(op.index, op.ring)
            case Copy():
                start = (
                    op.source_indices if op.multicast else ()
                )  # of the tile, equal in all blocks
                self._need(*op.barrier[1:], op.source, op.destination, *start)
                if op.instruction == "tma" and is_space(op.source, Space.SHARED):
                    self._need(*op.source_indices)  # each thread may have its own
            case Load() | Store() | VectorLoad() | VectorStore():
                self._need(*op.indices, *op.predicate)
                if isinstance(op, Store) and is_space(op.memory, Space.LOCAL):
                    self._need(op.value)
            case _ if isinstance(op, _FOLLOWED) or (op.pure and not op.regions):
                self._need(*op.inputs)

    def _follow(self, value: Value) -> None:
        if value in self._of_param:
            op, _, position = self._of_param[value]
            self._keep(op)
            carried = position if isinstance(op, While) else position - 1
            if isinstance(op, (For, Pipeline, While)) and carried >= 0:
                self._need(op.inits[carried])
                self._need_yield(op.body, carried)
            return
        definition = self._defined_by.get(value)
        if definition is None:
            return
        self._keep(definition)
        position = definition.results.index(value)
        match definition:
            case If():
                self._need_yield(definition.then, position)
                self._need_yield(definition.orelse, position)
            case For() | While() | Pipeline():
                self._need(definition.inits[position])
                self._need_yield(definition.body, position)
            case Stage():
                self._need_yield(definition.body, position)
            case Load() if is_space(definition.memory, Space.LOCAL):
                for store in self._stores.get(definition.memory, ()):
                    self._keep(store)

    def _need_yield(self, block: Block, position: int) -> None:
        end = block.terminator
        if end is not None:
            self._kept.add(end)
            self._need(end.inputs[position])


def synchronises(region: Simt) -> bool:
    """Whether a simt region has a barrier, wait or fence inside."""
    return any(
        effect.access is Access.SYNCHRONISE for op in region.walk() for effect in op.effects()
    )


Scalar = tuple[Value, Callable[..., Any] | None, tuple[Any, ...], bool]
"""The result of a pure scalar op, its function, its operands with constants as numbers, and whether
the function takes None."""


def _is_scalar(op: Op) -> bool:
    return (
        op.pure
        and not op.regions
        and isinstance(op, (Elementwise, WarpUniform))
        and isinstance(op.results[0].type, ScalarType)
    )


def _scalar(op: Op) -> Scalar:
    inputs = tuple(v.value if isinstance(v, Constant) else v for v in op.inputs)
    function = function_of(op)
    return op.results[0], function, inputs, function in TAKES_UNKNOWN
