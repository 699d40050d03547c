"""Blocks of a cluster: which one this is, what they share, who is given it, and what a block without
a tile of its own leaves out.

A launch in clusters is persistent, and its hardware grid a row: a cluster is `cluster_blocks`
neighbours in it. The rank of a block is its number among them, with the cluster's first dimension
fastest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence, Set

from ..ir.build import Builder
from ..ir.clone import Renaming
from ..ir.core import Access, Block, Op, Value, at, constant_of
from ..ir.ops.control import DeviceAssert, HardwareBlock, If, Parallel, Print, Yield
from ..ir.ops.pipeline import Pipeline, Stage
from ..ir.ops.tile import Copy
from ..ir.types import ScalarType
from .dependence import is_global

Extents = Sequence[int]


def alike_along(copy: Copy, differing: Set[Value]) -> bool:
    """Whether blocks copy the same that see only the values `differing` differently."""
    needs = {copy.source, *(i for i in copy.source_indices if constant_of(i) is None)}
    return needs.isdisjoint(differing)


def block_rank(b: Builder, cluster: Extents) -> Value:
    """This block's number in its cluster."""
    rank = b.floormod(b.emit(HardwareBlock()).result, math.prod(cluster))
    rank.hint = "rank"
    return rank


def place_in_cluster(b: Builder, rank: Value, cluster: Extents) -> tuple[Value, ...]:
    """A block's place along each dimension of its cluster."""
    found: list[Value] = []
    for extent, stride in zip(cluster, strides_of(cluster), strict=True):
        if extent == 1:
            found.append(b.const(0))
            continue
        place = b.floordiv(rank, stride)
        last = stride * extent == math.prod(cluster)
        found.append(place if last else b.floormod(place, extent))
    return tuple(found)


def strides_of(cluster: Extents) -> tuple[int, ...]:
    """How far ranks of neighbours along each dimension are apart."""
    return tuple(math.prod(cluster[:axis]) for axis in range(len(cluster)))


def sharers(cluster: Extents, axes: Sequence[int]) -> int:
    """How many blocks have a tile in common that stays the same along `axes`."""
    return math.prod(cluster[axis] for axis in axes)


def share_of(b: Builder, cluster: Extents, axes: Sequence[int]) -> tuple[Value, Value]:
    """This block's number among those that share a tile along `axes`, and the mask of their ranks:
    bit r says that block r is one of them (PTX ISA, "cp.async.bulk.tensor": ctaMask).
    """
    rank = block_rank(b, cluster)
    place, strides = place_in_cluster(b, rank, cluster), strides_of(cluster)
    number: Value = b.const(0)
    first: Value = rank  # of those that share: at place 0 along the axes
    mask, count = 1, 1
    for axis in axes:
        number = b.add(number, b.mul(place[axis], count))
        first = b.sub(first, b.mul(place[axis], strides[axis]))
        count *= cluster[axis]
        mask = sum(mask << i * strides[axis] for i in range(cluster[axis]))
    if count == math.prod(cluster):
        return rank, b.const(mask)
    return number, b.shift_left(b.const(mask), first)


# Blocks beyond the grid ---------------------------------------------------------------------------


def without_effects(block: Block, inside: Value, names: Renaming | None = None) -> Block:
    """`block` with all that can be seen from outside done where `inside` holds, and nowhere else.

    `names` says what became of values, and learns what becomes of those of the block.
    """
    names = {} if names is None else names
    ops: list[Op] = []
    for op in block.ops:
        if _is_skipped(op):
            new: Op = _where(inside, op.map(lambda v: names.get(v, v)))
        else:
            new = op.map(
                lambda v: names.get(v, v), lambda inner: without_effects(inner, inside, names)
            )
        names.update((o, n) for o, n in zip(op.results, new.results, strict=True) if o is not n)
        ops.append(new)
    return block.with_ops(ops)


def unguarded_reads(block: Block) -> Iterator[Value | None]:
    """Global memory that is read also where `without_effects` leaves effects out; None: unknown."""
    for op in block.ops:
        if _is_skipped(op):
            continue
        for effect in op.effects():
            memory = effect.memory
            if effect.access is Access.READ and (memory is None or is_global(memory)):
                yield memory
        for inner in op.regions:
            yield from unguarded_reads(inner)


def _is_skipped(op: Op) -> bool:
    """Whether `op` is left out as a whole: it acts on the outside, and the cluster's pipelines, and
    the stages that they consist of, stay as they are.
    """
    acts = any(_acts(inner) for inner in op.walk())
    plain = not op.results or isinstance(op, Parallel) or not op.regions
    return acts and plain and not any(isinstance(i, Pipeline | Stage) for i in op.walk())


def _acts(op: Op) -> bool:
    return isinstance(op, DeviceAssert | Print) or any(
        effect.access is Access.WRITE and (effect.memory is None or is_global(effect.memory))
        for effect in op.effects()
    )


def _where(condition: Value, op: Op) -> If:
    """`op` where the condition holds; elsewhere its tiles stay and its scalars are 0."""
    b = Builder()
    instead = list(op.updates) if isinstance(op, Parallel) else []
    for result in op.results[len(instead) :]:
        assert isinstance(result.type, ScalarType)
        instead.append(b.const(0, result.type.dtype))
    with at(op.loc):
        then = Block((), (op, Yield(op.results)))
        return If(condition, then, Block((), (Yield(tuple(instead)),)))
