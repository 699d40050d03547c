"""A Parallel nest that only moves elements becomes a copy.

Needs: a tile-level program. Leaves: `copy` for every nest whose body is one load and one store with
indices `base + loop variable`, each variable along one dimension of both sides, in the same order,
over the whole extent. A nest that does more is relieved of the moves that would be such nests by
themselves, from a tensor to a shared buffer that nothing else in it touches: loops can be pipelined
whose nests fill several tiles.

    parallel (%i, %j) <extents = [128, 32]> {
      %r = add %row, %i ; %c = add %col, %j               copy %B[%row, %col], %Bs[0, 0]
      %v = load %B[%r, %c]                         ->        <shape = [128, 32], ...>
      store %v, %Bs[%i, %j]
    }
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..ir.build import Builder
from ..ir.clone import clone_block
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.arith import Cast
from ..ir.ops.control import Parallel, Yield
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.ops.tile import Copy
from ..ir.rewrite import defining_ops, transform
from ..ir.types import Space
from .affine import Affine, affine
from .context import PassContext
from .dependence import (
    invariant_ops,
    is_global,
    is_shared,
    is_statement,
    orders,
    reads,
    slice_of,
    writes,
)


def lift_copies(program: Program, context: PassContext) -> Program:
    """Replaces element-moving Parallel nests by copies."""
    return program.with_body(transform(program.body, _lift))


def _lift(op: Op) -> tuple[Op, ...] | None:
    """What stands for a nest that moves elements, or None."""
    if not isinstance(op, Parallel):
        return None
    return _as_copy(op) or _relieved(op)


def _relieved(nest: Parallel) -> tuple[Op, ...] | None:
    """A nest's loads of shared buffers as copies, before the rest of it; None where it has none."""
    ops = nest.body.ops
    if any(map(orders, walk(nest.body))):
        return None  # what is loaded behind an acquire is not there before
    indices = nest.body.params[: len(nest.extents)]
    copies: list[Op] = []
    lifted: set[Value] = set()
    for op in ops:
        if not isinstance(op, Store) or not is_shared(op.memory):
            continue
        with at(op.loc):
            body = clone_block(Block(indices, (*slice_of([op], ops), Yield(()))), {})
            move = Parallel((), (), body, extents=nest.extents)
        sources = list(reads(move))
        if len(sources) == 1 and is_global(sources[0]) and not _meets(nest, op, sources[0]):
            copy = _as_copy(move)
            if copy is not None:
                copies.extend(copy)
                lifted.add(op.memory)
    if not copies:
        return None
    rest = tuple(op for op in ops if not (isinstance(op, Store) and op.memory in lifted))
    kept = [op for op in rest if is_statement(op)]
    if kept:
        body = nest.body.with_ops(slice_of([*kept, ops[-1]], rest))
        copies.append(nest.replace(body=body))
    return tuple(copies)


def _meets(nest: Parallel, store: Store, source: Value) -> bool:
    """Whether anything else in a nest touches what a store writes, or what it was loaded from."""
    ends = {store.memory, source}
    touching = [op for op in walk(nest.body) if ends & {*reads(op), *writes(op)}]
    return len(touching) != 2


def _as_copy(nest: Parallel) -> tuple[Op, ...] | None:
    """The ops that do the same as a nest (index arithmetic, then a copy), or None."""
    effectful = [op for op in walk(nest.body) if not op.pure and not isinstance(op, Yield)]
    if nest.reads or nest.updates or len(effectful) != 2 or any(op.regions for op in nest.body.ops):
        return None
    load, store = effectful
    if not isinstance(load, Load) or not isinstance(store, Store):
        return None
    defined_by = defining_ops(nest.body)
    value = store.value
    cast = defined_by.get(value)
    if isinstance(cast, Cast):
        value = cast.x
    if value is not load.result or load.memory is store.memory:
        return None
    if load.predicate or store.predicate:
        return None
    if (
        memory_type(store.memory).space is Space.LOCAL
        or memory_type(load.memory).space is Space.LOCAL
    ):
        return None
    variables = nest.body.params
    source = find_corner(load.indices, variables, defined_by)
    destination = find_corner(store.indices, variables, defined_by)
    if source is None or destination is None or [*source[0]] != [*destination[0]]:
        return None
    return _copy(nest, load, store, source, destination)


Corner = tuple[dict[Value, int], list[Affine]]
"""Which dimension each loop variable runs along, in the order of dimensions; the indices as sums."""


def find_corner(
    indices: tuple[Value, ...], variables: tuple[Value, ...], defined_by: Mapping[Value, Op]
) -> Corner | None:
    """`indices` as base + loop variable, each variable along one dimension; or None."""
    along: dict[Value, int] = {}
    forms: list[Affine] = []
    for dim, index in enumerate(indices):
        form = affine(index, frozenset(variables), defined_by)
        if form is None or len(form.coefficients) > 1:
            return None
        forms.append(form)
        for variable, factor in form.coefficients.items():
            if factor != 1 or variable in along:
                return None
            along[variable] = dim
    return along, forms


def is_looked_up(forms: Iterable[Affine], inside: Iterable[Op]) -> bool:
    """Whether a corner takes what ops make that have to stay inside of the nest."""
    made = {result for op in inside for result in op.results}
    return any(value in made for form in forms for _, value in form.rest)


def _copy(
    nest: Parallel, load: Load, store: Store, source: Corner, destination: Corner
) -> tuple[Op, ...] | None:
    variables = nest.body.params
    extents = dict(zip(variables, nest.extents, strict=True))
    if any(v not in source[0] and extents[v] != 1 for v in variables):
        return None  # an iteration variable that moves nothing: many writes to one place
    before, inside = invariant_ops(nest.body)
    if is_looked_up([*source[1], *destination[1]], inside):
        return None
    moving = [*source[0]]
    builder = Builder()
    with at(nest.loc):
        builder.extend(before)
        corners = [
            tuple(form.base(builder) for form in forms) for _, forms in (source, destination)
        ]
        builder.emit(
            Copy(
                load.memory,
                corners[0],
                store.memory,
                corners[1],
                (),
                shape=tuple(extents[v] for v in moving),
                source_dims=tuple(source[0][v] for v in moving),
                destination_dims=tuple(destination[0][v] for v in moving),
                safe_value=load.safe_value,
            )
        )
    return builder.ops
