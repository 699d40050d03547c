"""Fragments of which a Parallel nest reads other elements than its iterations own go through shared
memory.

Needs: a program as the frontend leaves it, fragments as handles. Leaves: no load of a fragment that
its nest does not write but at loop variables, each along the whole of a dimension: the owner of an
element runs the iteration that is at it, and no other thread sees its registers. Other loads are
from a copy in shared memory.

                                             %s = alloc : shared i8[32, 32]
    parallel <extents = [32, 64]> {          copy %B[0, 0], %s[0, 0] <shape = [32, 32], …>
      %h = floordiv %j, 2                    parallel <extents = [32, 64]> {
      %x = load %B[%i, %h]            ->       %h = floordiv %j, 2
      … }                                      %x = load %s[%i, %h]
                                               … }

A fragment that the nest writes, too, stays: what another iteration finds there has no order.
"""

from __future__ import annotations

from ..errors import LayoutConflict
from ..ir.core import Block, Op, Program, Value, at, constant, walk
from ..ir.dtypes import i32
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Alloc, Load, View, memory_type
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space
from .context import PassContext
from .dependence import writes
from .fragment_tiles import Tiles, is_fragment
from .nest_accesses import along


def publish_fragments(program: Program, context: PassContext) -> Program:
    """Rewrites the nests of a program that read fragments so."""
    publisher = _Publisher(program)
    return program.with_body(publisher.block(program.body)) if publisher.copies else program


class _Publisher:
    """A program's fragments that are published, each with the alloc of its copy."""

    def __init__(self, program: Program) -> None:
        self.tiles = Tiles({}, {op.result: op for op in walk(program.body) if isinstance(op, View)})
        self.copies: dict[Value, Alloc] = {}
        for nest in walk(program.body):
            if isinstance(nest, Parallel):
                for load in self.from_others(nest):
                    self.copies[load.memory] = _alloc(load.memory)

    def from_others(self, nest: Parallel) -> list[Load]:
        """Loads of what an iteration's thread may not hold, from fragments that the nest only
        reads."""
        written = {self.tiles.fragment(memory) for memory in writes(nest)}
        return [
            op
            for op in walk(nest.body)
            if isinstance(op, Load)
            and is_fragment(op.memory)
            and self.tiles.fragment(op.memory) not in written
            and not _is_own(op, nest)
        ]

    def block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if isinstance(op, Parallel):
                ops += self.nest(op)
            else:
                ops.append(op.map_regions(self.block))
            ops += [self.copies[result] for result in op.results if result in self.copies]
        return block.with_ops(ops)

    def nest(self, nest: Parallel) -> list[Op]:
        """The nest on copies, which are made before it."""
        loads = self.from_others(nest)
        copies = {id(load): self.copies[load.memory].result for load in loads}

        def on_copies(block: Block) -> Block:
            return block.with_ops([one(op) for op in block.ops])

        def one(op: Op) -> Op:
            copy = copies.get(id(op))
            return op.map_regions(on_copies) if copy is None else op.replace(memory=copy)

        with at(nest.loc):
            made = [_copy(fragment, self.copies[fragment].result)
                    for fragment in dict.fromkeys(load.memory for load in loads)]  # fmt: skip
        return [*made, nest.replace(body=on_copies(nest.body))]


def _is_own(load: Load, nest: Parallel) -> bool:
    try:
        along(load, nest)
    except LayoutConflict:
        return False
    return True


def _alloc(fragment: Value) -> Alloc:
    """Shared memory for a copy of a fragment."""
    type_ = memory_type(fragment)
    alloc = Alloc(type=MemoryType(type_.dtype, type_.shape, Space.SHARED))
    alloc.result.hint = fragment.hint
    return alloc


def _copy(fragment: Value, copy: Value) -> Copy:
    shape = tuple(int(extent) for extent in memory_type(fragment).shape)
    start, dims = (constant(0, i32),) * len(shape), tuple(range(len(shape)))
    return Copy(fragment, start, copy, start, shape=shape, source_dims=dims, destination_dims=dims)
