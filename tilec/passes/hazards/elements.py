"""Which elements of a buffer an access touches, thread by thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ...ir.core import Op, Value
from ...ir.ops.memory import Load, Store, memory_type
from ...ir.ops.tile import Copy, StoreTile
from ...ir.types import TileType
from .numbers import Number, Vector
from .records import Access, SyncAgent

Elements = tuple[Vector, Vector]
"""Linear indices, and the threads that touch them."""


def elements_of(agent: SyncAgent, op: Load | Store) -> tuple[np.ndarray, np.ndarray] | None:
    """(linear index, thread) of a load or store of the running threads, if indices are known."""
    shape = memory_type(op.memory).shape
    places = np.zeros((agent.sets.size, len(shape)), dtype=np.int64)
    inside = agent.threads.mask.copy()
    for column, index, extent in zip(places.T, op.indices, shape, strict=True):
        number = agent.number(index)
        if number is None:
            return None
        column[:] = number
        inside &= (column >= 0) & (column < int(extent))
    return _linear(places[inside], shape), np.flatnonzero(inside)


def by_parts(agent: SyncAgent, op: Op, access: Access) -> list[Access]:
    """An access by each set of threads that meets by itself, with its elements; the access as it is
    where they are not known, or not all running threads are in such a set.
    """
    found = list(_touched(agent, op, access))
    sets = [agent.sets.find(part.mask & agent.threads.mask) for part in agent.parts]
    if not found or sum(part.count for part in sets) != agent.threads.count:
        return [access]
    places, owners = (np.concatenate(column) for column in zip(*found, strict=True))
    accesses = []
    for part in sets:
        mine = part.mask[owners]
        accesses.append(replace(access, threads=part, elements=(places[mine], owners[mine])))
    return [access for access in accesses if access.threads.count]


def _touched(agent: SyncAgent, op: Op, access: Access) -> Iterator[Elements]:
    """What the running threads store of a tile, or have the copy engine read; nothing where that is
    not known.
    """
    if isinstance(op, StoreTile) and access.writes and isinstance(op.tile.type, TileType):
        layout, corner = op.tile.type.layout, [agent.uniform(index) for index in op.indices]
        if layout is None or None in corner or agent.sets.size != layout.threads:
            return
        coords = layout.coords()
        shape = memory_type(op.destination).shape
        at = np.zeros((*coords.shape[:2], len(shape)), dtype=np.int64) + np.array(corner)
        at[..., list(op.dims)] += coords
        owners = np.repeat(np.arange(agent.sets.size), coords.shape[1])
        running = agent.threads.mask[owners]
        elements = _linear(at.reshape(-1, len(shape)), shape)[running]
        yield _in_place(access, op.destination, elements, owners[running])
    elif isinstance(op, Copy) and access.engine and not access.writes:
        shape = memory_type(op.source).shape
        box = np.zeros((1, len(shape)), dtype=np.int64)
        for dim, extent in zip(op.source_dims, op.shape, strict=True):
            steps = np.zeros((extent, len(shape)), dtype=np.int64)
            steps[:, dim] = np.arange(extent)
            box = (box[:, None] + steps).reshape(-1, len(shape))
        places = []
        for thread in np.flatnonzero(agent.threads.mask):
            start = [_of_thread(agent.number(index), int(thread)) for index in op.source_indices]
            if None in start:
                return
            at = _linear(box + np.array(start), shape)
            places.append(_in_place(access, op.source, at, np.full(at.size, thread)))
        yield from places


def _in_place(access: Access, buffer: Value, elements: Vector, owners: Vector) -> Elements:
    """Elements of a buffer; of one that shares its place with others the bytes where they lie."""
    if access.place.alloc.place < 0:
        return elements, owners
    type_ = memory_type(buffer)
    size = type_.dtype.bytes
    if type_.layout is not None:
        elements = type_.layout.offsets().reshape(-1)[elements]
    return (elements[:, None] * size + np.arange(size)).reshape(-1), owners.repeat(size)


def _linear(places: Vector, shape: Sequence[int | str]) -> Vector:
    """Linear indices of coordinates, int [places, rank]."""
    linear = np.zeros(len(places), dtype=np.int64)
    for column, extent in zip(places.T, shape, strict=True):
        linear = linear * int(extent) + column
    return linear


def _of_thread(number: Number, thread: int) -> int | None:
    """What a scalar is in one thread, if it is known."""
    if isinstance(number, np.ndarray):
        return int(number[thread])
    return None if number is None else int(number)
