"""Stores of 4-bit elements in Parallel nests go through a fragment.

Needs: a program as the frontend leaves it. Leaves: no store of 4-bit elements to global or shared
memory in a nest whose indices are `base + loop variable`, and that does not read it again: two of them
share a byte, which a copy of a fragment writes whole.

    parallel (%i, %j) <extents = [32, 64]> {    %f = alloc : fragment i4[32, 64]
      %r = add %row, %i                         parallel (%i, %j) <extents = [32, 64]> {
      store %v, %Q[%r, %j] : i4            ->     store %v, %f[%i, %j]
    }                                           }
                                                copy %f[0, 0], %Q[%row, 0] <shape = [32, 64], …>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at
from ..ir.dtypes import PAIRS
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Alloc, Store, memory_type
from ..ir.ops.tile import Copy
from ..ir.rewrite import defining_ops
from ..ir.types import MemoryType, Space
from .context import PassContext
from .dependence import invariant_ops, reads, still_memory
from .lift_copies import Corner, find_corner, is_looked_up


def gather_pairs(program: Program, context: PassContext) -> Program:
    """Rewrites the nests that it can; pack_elements refuses the rest."""
    return program.with_body(_block(program.body))


def in_pairs(memory: Value) -> bool:
    """Whether it is memory whose elements share bytes."""
    type_ = memory_type(memory)
    return type_.dtype in PAIRS and type_.space in (Space.GLOBAL, Space.SHARED)


def _block(block: Block) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Parallel):
            ops.extend(_nest(op))
        else:
            ops.append(op.map_regions(_block))
    return block.with_ops(ops)


def _nest(nest: Parallel) -> tuple[Op, ...]:
    b, after = Builder(), Builder()
    before, inside = invariant_ops(nest.body, still_memory(nest))
    last_read = {memory: n for n, op in enumerate(inside) for memory in reads(op)}
    defined_by = defining_ops(nest.body)
    body: list[Op] = []
    for n, op in enumerate(inside):
        gathered = None
        if isinstance(op, Store) and in_pairs(op.memory) and not op.predicate:
            with at(op.loc):
                corner = _corner(op, nest, inside, defined_by)
                if corner is not None and last_read.get(op.memory, -1) < n:
                    gathered = _gather(op, nest, corner, b, after)
        body.append(gathered or op)
    if not b.ops:
        return (nest,)
    return (*b.ops, *before, nest.replace(body=nest.body.with_ops(body)), *after.ops)


def _corner(
    store: Store, nest: Parallel, inside: Sequence[Op], defined_by: Mapping[Value, Op]
) -> Corner | None:
    """Where a store's elements lie, or None where that is no corner plus loop variables."""
    variables = nest.body.params
    corner = find_corner(store.indices, variables, defined_by)
    if corner is None or is_looked_up(corner[1], inside):
        return None
    extents = dict(zip(variables, nest.extents, strict=True))
    return None if any(extents[v] != 1 for v in variables if v not in corner[0]) else corner


def _gather(store: Store, nest: Parallel, corner: Corner, b: Builder, after: Builder) -> Store:
    """The store to a fragment in place of `store`."""
    along, forms = corner
    extents = dict(zip(nest.body.params, nest.extents, strict=True))
    shape = tuple(extents[v] for v in along)
    alloc = b.emit(Alloc(type=MemoryType(memory_type(store.memory).dtype, shape, Space.FRAGMENT)))
    alloc.result.hint = store.memory.hint
    start = tuple(form.base(after) for form in forms)
    zero = after.const(0)
    after.emit(
        Copy(
            alloc.result, (zero,) * len(shape), store.memory, start, shape=shape,
            source_dims=tuple(range(len(shape))), destination_dims=tuple(along.values()),
        )
    )  # fmt: skip
    return Store(store.value, alloc.result, tuple(along))
