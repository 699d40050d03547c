"""Removes what has no consequence: unused results, loops and branches without effects, dead carried
values, memory that is only written.

Needs nothing; leaves the program's effects as they were. Before and after:

    %t = alloc <type = local f32[4]> : local f32[4]      |
    %x = load %A[%i] : f16                               |
    %n, %s = for 0, 8, 1, [0, 0] (%k, %n, %s) {          |  %n = for 0, 8, 1, [0] (%k, %n) {
      %n1 = add %n, %k : i32                             |    %n1 = add %n, %k : i32
      %s1 = mul %s, %k : i32                             |
      yield %n1, %s1                                     |    yield %n1
    } : i32, i32                                         |  } : i32
    store %n, %B[0]                                      |  store %n, %B[0]

What an op does is what it declares: one with a WRITE or SYNCHRONISE effect stays, and so does one
that has neither results nor regions. Liveness is optimistic: a carried value that only feeds itself
is dead.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.core import Access, Block, Effect, Op, Program, Value, walk, with_results
from ..ir.opaque import OpaqueOp
from ..ir.ops.control import For, If, Launch, Role, While
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Pipeline, Stage
from ..ir.types import MemoryType, Space
from .context import PassContext

_ALWAYS = (Launch, Role, While, OpaqueOp)
"""Kept whatever is in them: a loop may not end, a launch or role has a name that others know."""
_GIVING = (For, Pipeline, If, Stage)
"""Their results are what their regions yield, one by one."""


def remove_dead(program: Program, context: PassContext) -> Program:
    """The program without ops that have no consequence."""
    body = dead_code_removed(program.body)
    return program if body is program.body else program.with_body(body)


def dead_code_removed(block: Block) -> Block:
    """A block without ops that have no consequence; the block itself where there are none."""
    return _Liveness(block).rebuilt()


class _Liveness:
    """Marks from the ops with effects what they need, then rebuilds with that alone."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._needed: set[Op] = set()
        self._live: set[Value] = set()
        self._parents: dict[Op, Op] = {}
        self._makers: dict[Value, tuple[Op, int]] = {}  # result: (op, index)
        self._carried: dict[Value, tuple[Op, int]] = {}  # parameter of a loop: (loop, index)
        self._work: list[Value] = []
        self._index(block, None)
        self._mark()

    def _index(self, block: Block, parent: Op | None) -> None:
        for op in block.ops:
            if parent is not None:
                self._parents[op] = parent
            self._makers.update({value: (op, i) for i, value in enumerate(op.results)})
            if isinstance(op, (For, Pipeline)):
                params = op.body.params[1:]
                self._carried.update({value: (op, i) for i, value in enumerate(params)})
            for inner in op.regions:
                self._index(inner, op)

    def _mark(self) -> None:
        write_only = _write_only(self._block)
        end = self._block.terminator
        if end is not None:
            self._use(end.inputs)
        for op in walk(self._block):
            if not op.terminator and _has_effect(op, write_only):
                self._need(op)
        while self._work:
            value = self._work.pop()
            if value in self._makers:
                op, i = self._makers[value]
                self._need(op)
                self._need_result(op, i)
            elif value in self._carried:
                self._need_result(*self._carried[value])

    def _use(self, values: Sequence[Value]) -> None:
        for value in values:
            if value not in self._live:
                self._live.add(value)
                self._work.append(value)

    def _need(self, op: Op) -> None:
        """An op stays: its operands are live, and what encloses it stays."""
        while op not in self._needed:
            self._needed.add(op)
            match op:
                case For():
                    self._use((op.start, op.stop, op.step))
                case Pipeline():
                    self._use((op.start, op.stop))
                case If() | Stage():
                    self._use(op.inputs)
                case _:
                    self._use(op.inputs)
                    for block in op.regions:
                        if block.terminator is not None:
                            self._use(block.terminator.inputs)
            if op not in self._parents:
                return
            op = self._parents[op]

    def _need_result(self, op: Op, i: int) -> None:
        """What result or carried value `i` of an op is made of is live."""
        if isinstance(op, (For, Pipeline)):
            self._use((op.inits[i], op.body.params[1 + i], op.results[i]))
        if isinstance(op, _GIVING):
            for block in op.regions:
                if block.terminator is not None:
                    self._use((block.terminator.inputs[i],))

    # Rebuilding -----------------------------------------------------------------------------------

    def rebuilt(self) -> Block:
        """The block with what is needed alone."""
        return self._rebuild_block(self._block, None)

    def _rebuild_block(self, block: Block, kept: Sequence[int] | None) -> Block:
        """`kept` are the indices of the values that the terminator still yields (None: all)."""
        ops = []
        for op in block.ops:
            if op.terminator:
                if kept is not None and len(kept) < len(op.inputs):
                    op = op.replace(values=tuple(op.inputs[i] for i in kept))
                ops.append(op)
            elif op in self._needed:
                ops.append(self._rebuild(op))
        return block.with_ops(ops)

    def _rebuild(self, op: Op) -> Op:
        kept = [i for i, value in enumerate(op.results) if value in self._live]
        if len(kept) == len(op.results) or not isinstance(op, _GIVING):
            return op.map_regions(lambda b: self._rebuild_block(b, None))
        regions: dict[str, object] = {
            name: self._rebuild_block(getattr(op, name), kept)
            for name, kind in op.fields
            if kind == "region"
        }
        if isinstance(op, (For, Pipeline)):
            body = regions["body"]
            assert isinstance(body, Block)
            params = (body.params[0], *(body.params[1 + i] for i in kept))
            regions["body"] = Block(params, body.ops)
            regions["inits"] = tuple(op.inits[i] for i in kept)
        return with_results(op.replace(**regions), [op.results[i] for i in kept])


def _has_effect(op: Op, write_only: set[Value]) -> bool:
    if op.pure:
        return False
    if isinstance(op, _ALWAYS) or not (op.results or op.regions or op.effects()):
        return True
    strong = [e for e in op.effects() if e.access not in (Access.READ, Access.ALLOCATE)]
    if not op.results and not op.regions:
        # A statement: dead only if all it does is write memory that nobody reads.
        return not strong or not all(e.memory in write_only and _plain_write(e) for e in strong)
    return bool(strong)


def _plain_write(effect: Effect) -> bool:
    return effect.access is Access.WRITE and effect.proxy == "generic"


def _write_only(block: Block) -> set[Value]:
    """Allocated memory whose every use is a plain write by a statement that has no result."""
    found = {
        op.result
        for op in walk(block)
        if isinstance(op, Alloc)
        and isinstance(op.result.type, MemoryType)
        and op.result.type.space is not Space.GLOBAL
    }
    for op in walk(block):
        if found.isdisjoint(op.inputs):
            continue
        written = {e.memory for e in op.effects() if _plain_write(e)}
        others = {e.memory for e in op.effects() if not _plain_write(e)}
        if op.results or op.regions or op.terminator or None in others:
            written = set()
        found -= {v for v in op.inputs if v not in written or v in others}
    return found
