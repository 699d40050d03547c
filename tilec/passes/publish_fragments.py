"""Fragments of which a Parallel nest reads other elements than its iterations own go through shared
memory.

Needs: a program as the frontend leaves it, fragments as handles. Leaves: no nest that only reads a
fragment and does so other than at its loop variables, each along the whole of a dimension: the
owner of an element runs the iteration that is at it, and no other thread sees its registers. Such a
nest reads a copy in shared memory.

                                             %s = alloc : shared i8[32, 32]
    parallel <extents = [32, 64]> {          copy %B[0, 0], %s[0, 0] <shape = [32, 32], …>
      %h = floordiv %j, 2                    parallel <extents = [32, 64]> {
      %x = load %B[%i, %h]            ->       %h = floordiv %j, 2
      … }                                      %x = load %s[%i, %h]
                                               … }

A fragment that the nest writes, too, stays: what another iteration finds there has no order.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import LayoutConflict
from ..ir.core import Block, Op, Program, Value, at, constant, walk
from ..ir.dtypes import i32
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space
from .context import PassContext
from .dependence import reads, writes
from .fragment_tiles import is_fragment
from .nest_accesses import accessed_along


def publish_fragments(program: Program, context: PassContext) -> Program:
    """Rewrites the nests of a program that read fragments so."""
    nests = [op for op in walk(program.body) if isinstance(op, Parallel)]
    copies = {
        memory: _alloc(memory)
        for nest in nests
        for memory in reads(nest)
        if is_fragment(memory) and _is_published(nest, memory)
    }
    return program.with_body(_block(program.body, copies)) if copies else program


def _is_published(nest: Parallel, fragment: Value) -> bool:
    """Whether an iteration reads what its thread may not hold, and the nest does no more than read."""
    if fragment in writes(nest):
        return False
    try:
        accessed_along(nest, fragment)
    except LayoutConflict:
        return True
    return False


def _alloc(fragment: Value) -> Alloc:
    """Shared memory for a copy of a fragment."""
    type_ = memory_type(fragment)
    alloc = Alloc(type=MemoryType(type_.dtype, type_.shape, Space.SHARED))
    alloc.result.hint = fragment.hint
    return alloc


def _block(block: Block, copies: Mapping[Value, Alloc]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Parallel):
            ops += _nest(op, copies)
        else:
            ops.append(op.map(lambda v: v, lambda inner: _block(inner, copies)))
        ops += [copies[result] for result in op.results if result in copies]
    return block.with_ops(ops)


def _nest(nest: Parallel, copies: Mapping[Value, Alloc]) -> list[Op]:
    """The nest on copies, which are made before it."""
    own = {
        memory: copies[memory].result
        for memory in reads(nest)
        if memory in copies and _is_published(nest, memory)
    }

    def on_copies(block: Block) -> Block:
        return block.with_ops([op.map(lambda v: own.get(v, v), on_copies) for op in block.ops])

    with at(nest.loc):
        made = [_copy(fragment, copy) for fragment, copy in own.items()]
    return [*made, nest.replace(body=on_copies(nest.body))]


def _copy(fragment: Value, copy: Value) -> Copy:
    shape = tuple(int(extent) for extent in memory_type(fragment).shape)
    start, dims = (constant(0, i32),) * len(shape), tuple(range(len(shape)))
    return Copy(fragment, start, copy, start, shape=shape, source_dims=dims, destination_dims=dims)
