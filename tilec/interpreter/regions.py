"""Regions of memory, moved as wholes by the block: the part inside, and the part outside global
memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..ir.core import Constant, Value
from ..ir.types import Space
from .conflicts import Index
from .frame import Frame, element
from .hazards import note_region
from .memory import Memory, Storage
from .numbers import Array, Bits, bits_of


class Region(NamedTuple):
    """`part` addresses the part inside the memory, `window` where that part lies in the region.

    `inside`: all of it. `empty`: none of it. `entire`: it is the whole memory.
    """

    memory: Memory
    shape: tuple[int, ...]
    part: Index
    window: Index
    inside: bool
    empty: bool
    entire: bool


def whole(memory: Memory) -> Region:
    """All of a memory."""
    shape = memory.shape
    everything = tuple([slice(0, n) for n in shape])
    return Region(memory, shape, everything, (), True, 0 in shape, True)


def region(
    frame: Frame,
    v: Value,
    indices: tuple[Value, ...],
    dims: tuple[int, ...],
    shape: tuple[int, ...],
) -> Region:
    """The region of a memory. Raises ExecutionError where it leaves memory that is not global."""
    memory = frame.memory(v)
    extents = memory.shape
    key = (indices, dims, shape, extents)
    fixed = frame.run.regions.get(key)
    if fixed is not None:
        return Region(memory, shape, fixed, (), True, 0 in shape, shape == extents)
    lengths = [1] * len(extents)
    for dim, length in zip(dims, shape, strict=True):
        lengths[dim] = length
    starts: list[int] = []
    index: list[Any] = []
    inside = True
    for dim, i in enumerate(indices):
        start = frame.number(i, "an index of a region")
        length = lengths[dim]
        starts.append(start)
        index.append(slice(start, start + length) if dim in dims else start)
        inside = inside and 0 <= start <= extents[dim] - length
    if inside:
        if all(isinstance(i, Constant) for i in indices):
            frame.run.regions[key] = tuple(index)
        return Region(memory, shape, tuple(index), (), True, 0 in shape, shape == extents)
    if memory.space is not Space.GLOBAL:
        raise frame.fault(
            "TLC0741",
            f"the region of {lengths} at {memory.name}{element(starts)} is not inside "
            f"{memory.space.value} {list(extents)}",
            hint="only regions of tensors may reach outside: make the buffer larger, or the region smaller",
        )
    return _clipped(memory, starts, lengths, dims, shape)


def _clipped(
    memory: Memory,
    starts: list[int],
    lengths: list[int],
    dims: tuple[int, ...],
    shape: tuple[int, ...],
) -> Region:
    index: list[Any] = []
    window: list[Any] = []
    empty = False
    for dim, (start, length, extent) in enumerate(zip(starts, lengths, memory.shape, strict=True)):
        low, high = max(start, 0), min(start + length, extent)
        empty = empty or high <= low
        if dim in dims:
            index.append(slice(low, high))
            window.append(slice(low - start, high - start))
        else:
            index.append(low)
    return Region(memory, shape, tuple(index), tuple(window), False, empty, False)


def read_region(frame: Frame, place: Region, safe_value: float) -> tuple[Array, Bits | None]:
    """The elements of a region, a view where it can be one, and their shadow bits. Outside: the
    safe value.
    """
    memory, storage = place.memory, place.memory.storage
    if memory.guard is not None:
        memory.guard.check(frame, memory, False)
    if storage.lanes:
        _require_same(frame, memory, storage)
        index = (*((0,) * len(storage.lanes)), *place.part)
        return storage.data[index], storage.bad(index)
    if place.inside:
        if storage.blocks is not None or storage.clocks is not None:
            note_region(frame, memory, place.part, False)
        return storage.data[place.part], storage.bad(place.part)
    data = np.full(place.shape, safe_value, memory.dtype.numpy)
    if place.empty:
        return data, None
    note_region(frame, memory, place.part, False)
    data[place.window] = storage.data[place.part]
    bad = storage.bad(place.part)
    if bad is None:
        return data, None
    full = np.zeros(place.shape, np.bool_)
    full[place.window] = bad
    return data, full


def write_region(frame: Frame, place: Region, data: Any, bad: Bits | None) -> None:
    """Sets the part of a region that is inside."""
    memory, storage = place.memory, place.memory.storage
    if memory.guard is not None:
        memory.guard.check(frame, memory, True)
    if place.empty:
        return
    if bad is not None:
        bad = np.asarray(np.broadcast_to(bad, place.shape))
    if not place.inside:
        data = np.broadcast_to(data, place.shape)[place.window]
        bad = bad[place.window] if bad is not None else None
    if bad is not None and memory.space is Space.GLOBAL:
        frame.refuse_bad(bad, f"global memory {memory.name!r}")
    if storage.lanes:
        everywhere = (slice(None),) * len(storage.lanes)
        storage.write((*everywhere, *place.part), data, bad)
        return
    if storage.blocks is not None or storage.clocks is not None:
        note_region(frame, memory, place.part, True, data)
    storage.write(place.part, data, bad, place.entire)


def _require_same(frame: Frame, memory: Memory, storage: Storage) -> None:
    if storage.uniform:
        return
    bits = bits_of(storage.data.reshape(-1, *storage.shape))
    if (bits != bits[:1]).any():
        raise frame.fault(
            "TLC0746",
            f"{memory.name!r} differs between threads, and this moves one copy of it",
            hint="move elements, for each thread by itself, or make the memory shared",
        )
