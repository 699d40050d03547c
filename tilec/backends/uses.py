"""Which values of a launch are used, how often, and in which loop: what decides on inlining."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.core import Block, Constant, Op, Value
from ..ir.ops.control import For, While
from ..ir.ops.memory import Alloc, Load


class Uses:
    """Uses of values by live ops. An op without effects whose results nobody uses is not live."""

    def __init__(self, ops: Sequence[Op]) -> None:
        self._counts: dict[Value, int] = {}
        self._use_loops: dict[
            Value, int
        ] = {}  # the loop of the last use seen: of the only one, where it is one
        self._loops: dict[Value, int] = {}
        self._loop_count = 0
        self._visit(ops, 0)

    def count(self, value: Value) -> int:
        return self._counts.get(value, 0)

    def is_live(self, op: Op) -> bool:
        """Whether the op does something: has an effect, or a result that is used."""
        idle = op.pure or isinstance(op, (Alloc, Load))
        return not idle or any(self.count(result) for result in op.results)

    def is_single(self, value: Value) -> bool:
        """Whether it has one use, and that runs as often as its definition."""
        return self.count(value) == 1 and self._use_loops[value] == self._loops[value]

    def _visit(self, ops: Sequence[Op], loop: int) -> None:
        for op in reversed(ops):
            for result in op.results:
                self._loops[result] = loop
            if not self.is_live(op):
                continue
            for block in op.regions:
                self._visit_region(op, block, loop)
            for value in op.inputs:
                if not isinstance(value, Constant):
                    self._counts[value] = self.count(value) + 1
                    self._use_loops[value] = loop

    def _visit_region(self, op: Op, block: Block, loop: int) -> None:
        inner = loop
        if isinstance(op, (For, While)):
            self._loop_count += 1
            inner = self._loop_count
        for param in block.params:
            self._loops[param] = inner
        self._visit(block.ops, inner)
