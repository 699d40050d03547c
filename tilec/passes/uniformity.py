"""Which values may differ between the threads of a block, or between the blocks of a launch.

A thread's number differs, and what an atomic gives it, or a matrix instruction, of which each thread
holds a part; so does what is computed from a value that differs, what is kept in a thread's own memory
under a condition that differs, and what a loop or branch with such a bound or condition gives. A load
from shared or global memory is the same for all threads if its indices are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..ir.core import Access, Block, Op, Value, walk
from ..ir.effects import space_of
from ..ir.ops.amd import LoadTransposed
from ..ir.ops.control import For, HardwareBlock, If, Parallel, Simt, ThreadId, While
from ..ir.ops.memory import Atomic
from ..ir.ops.nvidia import LdMatrix, MatrixStatement
from ..ir.ops.pipeline import Pipeline
from ..ir.ops.wgmma import Wgmma, WgmmaRegisters
from ..ir.types import Space

BY_THREAD = (ThreadId, Atomic, LdMatrix, LoadTransposed, MatrixStatement, Wgmma, WgmmaRegisters)
"""What gives each thread something else, whatever it is given."""


def differing(block: Block) -> set[Value]:
    """The values of a block, and the local memories, that two threads may see differently."""
    return _Closure(lambda op: isinstance(op, BY_THREAD)).of(block, ())


def differing_between_blocks(body: Block, indices: Iterable[Value]) -> set[Value]:
    """The values of a launch's body, and the memories, that two blocks may see differently which
    agree in all indices but these. Each has shared memory of its own, and reads what blocks write at
    a time of its own.
    """
    ops = list(walk(body))
    written = {e.memory for op in ops for e in op.effects() if e.access is Access.WRITE}
    memories = {v for op in ops for v in op.inputs if space_of(v) not in (None, Space.LOCAL)}
    seeds = memories if None in written else memories & written

    def differs(op: Op) -> bool:
        own = any(space_of(v) is Space.SHARED for v in op.inputs)
        return own or isinstance(op, HardwareBlock | Atomic)

    return _Closure(differs).of(body, {*indices, *seeds})


class _Closure:
    """What the ops that `differs` says of give, and what follows from that."""

    def __init__(self, differs: Callable[[Op], bool]) -> None:
        self.differs = differs
        self.found: set[Value] = set()

    def of(self, block: Block, seeds: Iterable[Value]) -> set[Value]:
        self.found = set(seeds)
        while True:
            before = len(self.found)
            self._visit(block, False)
            if len(self.found) == before:
                return self.found

    def _visit(self, block: Block, diverged: bool) -> None:
        """One round; `diverged`: not all may run this block."""
        found = self.found
        for op in block.ops:
            differs = self.differs(op) or self._takes(op)
            if differs:
                found.update(op.results)  # of a load too: its memory is an operand
            if differs or diverged:
                found.update(_kept_by(op))
            match op:
                case Simt() | Parallel():
                    found.update(op.body.params)
                    self._visit(op.body, diverged)
                case For() | Pipeline():
                    step = (op.step,) if isinstance(op, For) else ()
                    parts = any(v in found for v in (op.start, op.stop, *step))
                    self._loop(op, op.body.params[1:], op.body, diverged or parts)
                    if parts:
                        found.add(op.body.params[0])
                case While():
                    self._visit(op.condition, diverged)
                    end = op.condition.terminator
                    parts = end is not None and self._takes(end)
                    self._loop(op, op.body.params, op.body, diverged or parts)
                    pairs = zip(op.condition.params, op.body.params, strict=True)
                    found.update(tested for tested, carried in pairs if carried in found)
                case If():
                    parts = op.condition in found
                    for inner in op.regions:
                        self._visit(inner, diverged or parts)
                        self._results(op, inner)
                    if parts:
                        found.update(op.results)
                case _:
                    for inner in op.regions:
                        self._visit(inner, diverged)
                        self._results(op, inner)

    def _loop(
        self, op: For | While | Pipeline, params: tuple[Value, ...], body: Block, diverged: bool
    ) -> None:
        found = self.found
        end = body.terminator
        given = end.inputs if end is not None else ()
        for param, init, again in zip(params, op.inits, given, strict=False):
            if init in found or again in found:
                found.add(param)
        self._visit(body, diverged)
        self._results(op, body)
        if diverged:
            found.update(op.results)

    def _results(self, op: Op, body: Block) -> None:
        end = body.terminator
        for result, value in zip(op.results, end.inputs if end is not None else (), strict=False):
            if value in self.found:
                self.found.add(result)

    def _takes(self, op: Op) -> bool:
        return any(v in self.found for v in op.inputs)


def _kept_by(op: Op) -> Iterator[Value]:
    """A thread's own memories that an op writes."""
    for effect in op.effects():
        memory = effect.memory
        if effect.access is Access.WRITE and memory and space_of(memory) is Space.LOCAL:
            yield memory
