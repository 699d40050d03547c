"""What the statements of a loop body read and write, and how they hang together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TypeGuard

import numpy as np

from ..ir.core import Access, Block, Op, Value, constant_of, walk
from ..ir.effects import space_of, touched
from ..ir.ops.control import Assume, For, If, Parallel, Simt, While, Yield
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Atomic, Load, Store, memory_type
from ..ir.ops.thread import MemoryFence
from ..ir.ops.tile import Copy, Fill, StoreTile
from ..ir.types import InflightType, Space, TileType
from .element_accesses import element_accesses


def reads(op: Op) -> dict[Value, None]:
    """Memory that `op` reads."""
    return touched(op, Access.READ)


def writes(op: Op) -> dict[Value, None]:
    """Memory that `op` writes."""
    return touched(op, Access.WRITE)


def orders(op: Op) -> TypeGuard[Atomic | MemoryFence]:
    """Whether `op` orders other memory as all blocks see it."""
    return isinstance(op, MemoryFence) or (isinstance(op, Atomic) and op.order != "relaxed")


def still_memory(op: Op) -> set[Value]:
    """The memory that stays as it is while `op`, which reads it, runs: nothing in it writes there, or waits
    for others who do."""
    return set() if any(map(orders, op.walk())) else {*reads(op)} - {*writes(op)}


def waits_for_blocks(block: Block) -> bool:
    """Whether there is a loop that only another block can end."""
    return any(
        isinstance(inner, Atomic) and bool(inner.results)
        for op in walk(block)
        if isinstance(op, While)
        for inner in op.walk()
    )


def is_statement(op: Op) -> bool:
    """Whether `op` does more than compute scalars from scalars and memory: it writes, waits, or
    makes a tile.
    """
    return any(
        (not inner.pure and not isinstance(inner, (Yield, Load, For, If, Assume)))
        or any(map(is_tile, inner.results))
        for inner in op.walk()
    )


def invariant_ops(body: Block, still: Container[Value] = ()) -> tuple[list[Op], list[Op]]:
    """The pure ops of a nest's body that no iteration changes, which can stand before it, and the others.
    Loads of memory that is `still` meanwhile count as pure."""
    inside: set[Value] = set(body.params)
    before: list[Op] = []
    rest: list[Op] = []
    for op in body.ops:
        pure = op.pure or (isinstance(op, Load) and op.memory in still)
        if pure and inside.isdisjoint(op.inputs):
            before.append(op)
        else:
            rest.append(op)
            inside.update(op.results)
    return before, rest


def computes_alone(op: Op) -> bool:
    """Whether `op`, but for what its regions hold, does what any thread can for itself: it makes
    scalars, keeps them in variables, or says what else runs.
    """
    if isinstance(op, Store):
        return is_local(op.memory)
    if isinstance(op, (For, If, While, Simt, Yield, Assume)):
        return True
    scalar = not any(map(is_tile, (*op.inputs, *op.results)))
    return scalar and (op.pure or isinstance(op, Load))


def is_shared(value: Value) -> bool:
    return space_of(value) is Space.SHARED


def is_global(value: Value) -> bool:
    return space_of(value) is Space.GLOBAL


def is_local(value: Value) -> bool:
    return space_of(value) is Space.LOCAL


def is_tile(value: Value) -> bool:
    """Whether a value lies in registers of all threads: a tile, or one in flight."""
    return isinstance(value.type, (TileType, InflightType))


def tile_type(value: Value) -> TileType:
    """The tile that a value is or will be."""
    type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
    assert isinstance(type_, TileType), f"{value!r} is no tile"
    return type_


def used_values(op: Op) -> set[Value]:
    """Every value that `op` or an op in its regions takes as an operand."""
    return {v for inner in op.walk() for v in inner.inputs}


def follows(block: Block, roots: Iterable[Value]) -> set[Value]:
    """The values that are computed from any of `roots`, themselves included. What a region is given
    counts as computed from all that its op takes.
    """
    found = set(roots)
    for op in walk(block):
        if not found.isdisjoint(op.inputs):
            found.update(op.results)
            found.update(param for region in op.regions for param in region.params)
    return found


def slice_of(targets: Iterable[Op], body: tuple[Op, ...]) -> list[Op]:
    """The ops of `body` that `targets` (some of them) need, themselves included, in order."""
    defined_by = {result: op for op in body for result in op.results}
    needed: dict[int, None] = {}
    work = list(targets)
    while work:
        op = work.pop()
        if id(op) in needed:
            continue
        needed[id(op)] = None
        work.extend(defined_by[v] for v in used_values(op) if v in defined_by)
    return [op for op in body if id(op) in needed]


def covers(ops: Sequence[Op], buffer: Value, defined_by: Mapping[Value, Op]) -> bool:
    """Whether `ops` together write every element of `buffer` each time they run, for all that is known
    at compile time.
    """
    seen = np.zeros([int(d) for d in memory_type(buffer).shape], dtype=bool)
    for op in ops:
        match op:
            case Fill() if op.memory is buffer:
                seen[:] = True
            case Copy():
                _mark(seen, op.destination_indices, op.destination_dims, op.shape)
            case StoreTile():
                _mark(seen, op.indices, op.dims, op.region)
            case Simt() | Parallel():
                for accessed in element_accesses(op, buffer, Access.WRITE, defined_by):
                    if accessed is None:
                        break
                    seen[accessed.inside(seen.shape).coordinates] = True
    return bool(seen.all())


def _mark(
    seen: np.ndarray, start: Sequence[Value], dims: Sequence[int], region: Sequence[int]
) -> None:
    """Marks a region of a buffer, if it starts at numbers."""
    corner = [constant_of(i) for i in start]
    if None not in corner:
        extents = dict(zip(dims, region, strict=True))
        starts = [int(c or 0) for c in corner]
        ends = [c + extents.get(d, 1) for d, c in enumerate(starts)]
        seen[tuple(slice(max(c, 0), max(e, 0)) for c, e in zip(starts, ends, strict=True))] = True


def allocations(block: Block) -> dict[Value, Alloc]:
    """Every alloc in the block and its regions, by its handle."""
    return {op.result: op for op in walk(block) if isinstance(op, Alloc)}


def reads_asynchronously(op: Op) -> bool:
    """Whether some machine runs `op` on an engine that reads shared memory by itself (a matrix
    instruction).
    """
    return isinstance(op, Gemm)
