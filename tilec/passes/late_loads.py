"""Tiles that are loaded for one nest, which reads each element once, are loaded by the nest itself.

Whole, such a tile takes its registers beside all that the nest changes. Of loads that stand in the nest, the
C compiler starts as many before their use as registers are free.

    %part = load_tile %P[%w, 0, 0] <shape = [64, 64]>       parallel [], [%sum] (%i, %j, %s) {
    parallel [%part], [%sum] (%i, %j, %p, %s) {               %x = load %P[%w, %i, %j]
      %x = load %p[%i, %j] ; ... }                     ->     ... }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Op, Value, at
from ..ir.ops.arith import Cast
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Load
from ..ir.ops.tile import LoadTile
from ..ir.rewrite import Answer, Replacement, transform, uses
from .coordinates import shifted
from .dependence import is_global, still_memory


def load_late(block: Block) -> Block:
    """The block with tiles loaded by the nests that alone read them, where nothing is written between."""
    return _within(block, uses(block))


def _within(block: Block, used: dict[Value, list[Op]]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Parallel):
            ops = _merged(ops, op, used)
        else:
            ops.append(op.map(lambda value: value, lambda inner: _within(inner, used)))
    return block.with_ops(ops)


@dataclass(frozen=True)
class _Late:
    """A tile that a nest reads, and how it is loaded: for some as another dtype."""

    tile: Value
    load: LoadTile
    cast: Cast | None = None

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.load,) if self.cast is None else (self.load, self.cast)


def _merged(before: list[Op], nest: Parallel, used: dict[Value, list[Op]]) -> list[Op]:
    """The ops before a nest and the nest, which has taken in those that load for it."""
    for tile in nest.reads:
        late = _late(tile, before, used)
        taken = None if late is None else _taken_in(nest, late)
        if late is not None and taken is not None:
            nest, before = taken, [op for op in before if op not in late.ops]
    return [*before, nest]


def _late(tile: Value, before: Sequence[Op], used: dict[Value, list[Op]]) -> _Late | None:
    """How a tile is loaded, if that is for its one use and could happen as late."""
    wanted, cast = tile, None
    for op in reversed(before):
        if wanted in op.results:
            if len(used[wanted]) != 1:
                return None
            if isinstance(op, LoadTile):
                plain = is_global(op.source) and not (op.predicate or op.within or op.layout)
                return _Late(tile, op, cast) if plain else None
            if not isinstance(op, Cast) or cast is not None:
                return None
            wanted, cast = op.x, op
        elif not (op.pure or isinstance(op, LoadTile)):
            return None
    return None


def _taken_in(nest: Parallel, late: _Late) -> Parallel | None:
    """The nest with the load of one of its tiles in its body, or None where it reads more of it than its
    own element, or changes no tile that has the same threads hold the elements."""
    rank, number = len(nest.extents), nest.reads.index(late.tile)
    variables, handle = nest.body.params[:rank], nest.body.params[rank + number]
    loads = uses(nest.body).get(handle, [])
    own = [op for op in loads if isinstance(op, Load) and op.indices == variables]
    whole = late.load.shape == nest.extents and bool(nest.updates) and not nest.instruction
    if len(loads) != 1 or len(own) != 1 or not whole:
        return None

    def taken(op: Op) -> Answer:
        if not isinstance(op, Load) or op.memory is not handle:
            return None
        b = Builder()
        with at(op.loc):
            place = shifted(b, late.load.indices, late.load.dims, variables)
            load = Load(late.load.source, place, op.predicate, safe_value=late.load.safe_value)
            element = b.emit(load).result
            if late.cast is not None:
                element = b.cast(element, late.cast.dtype)
        return Replacement(b.ops, (element,))

    params = tuple(param for param in nest.body.params if param is not handle)
    body = Block(params, transform(nest.body, taken).ops)
    reads = (*nest.reads[:number], *nest.reads[number + 1 :])
    new = nest.replace(reads=reads, body=body)
    assert isinstance(new, Parallel)
    return new if late.load.source in still_memory(new) else None
