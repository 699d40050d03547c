"""Stores of 4-bit elements in Parallel nests go through a fragment.

Needs: a program as the frontend leaves it. Leaves: no store of 4-bit elements to global or shared
memory in a nest whose indices are `base + loop variable`: two of them share a byte, which a copy of
a fragment writes whole.

    parallel (%i, %j) <extents = [32, 64]> {    %f = alloc : fragment i4[32, 64]
      %r = add %row, %i                         parallel (%i, %j) <extents = [32, 64]> {
      store %v, %Q[%r, %j] : i4            ->     store %v, %f[%i, %j]
    }                                           }
                                                copy %f[0, 0], %Q[%row, 0] <shape = [32, 64], …>
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at
from ..ir.dtypes import PAIRS
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Alloc, Store, memory_type
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space
from .affine import depends
from .context import PassContext
from .lift_copies import find_corner


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
    defined_by = {result: op for op in nest.body.ops for result in op.results}
    variables = frozenset(nest.body.params)
    body: list[Op] = []
    changed = False
    for op in nest.body.ops:
        if isinstance(op, Store) and in_pairs(op.memory) and not op.predicate:
            with at(op.loc):
                gathered = _gather(op, nest, defined_by, b, after)
            changed |= gathered is not None
            body.append(gathered or op)
        else:
            body.append(op)
    if not changed:
        return (nest,)
    # What the copies' corners are computed from stands before the nest.
    outside = [
        op for op in body
        if op.pure and not any(depends(r, variables, defined_by) for r in op.results)
    ]  # fmt: skip
    kept = [op for op in body if op not in outside]
    return (*b.ops, *outside, nest.replace(body=nest.body.with_ops(kept)), *after.ops)


def _gather(
    store: Store, nest: Parallel, defined_by: Mapping[Value, Op], b: Builder, after: Builder
) -> Store | None:
    """The store to a fragment in place of `store`, or None where the elements do not lie so."""
    variables = nest.body.params
    corner = find_corner(store.indices, variables, defined_by)
    if corner is None:
        return None
    along, forms = corner
    extents = dict(zip(variables, nest.extents, strict=True))
    if any(extents[v] != 1 for v in variables if v not in along):
        return None
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
