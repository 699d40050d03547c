"""Regions of memory, moved as wholes by the block: the part inside, and the part outside global memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.types import Space
from .conflicts import Index
from .frame import Frame, element
from .hazards import note_region
from .memory import Memory, Storage
from .numbers import Array, Bits


@dataclass(frozen=True, eq=False)
class Region:
    """`index` addresses the part inside the memory, `window` where that part lies in the region.

    `inside`: all of it. `empty`: none of it. `whole`: it is the entire memory.
    """

    memory: Memory
    shape: tuple[int, ...]
    index: Index
    window: Index
    inside: bool
    empty: bool
    whole: bool


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
    starts = [frame.number(i, f"an index of {memory.name!r}") for i in indices]
    lengths = [1] * len(extents)
    for dim, length in zip(dims, shape, strict=True):
        lengths[dim] = length
    if all([s >= 0 and s + n <= e for s, n, e in zip(starts, lengths, extents, strict=True)]):
        index = tuple(
            [
                slice(s, s + n) if d in dims else s
                for d, (s, n) in enumerate(zip(starts, lengths, strict=True))
            ]
        )
        whole = all([n == e for n, e in zip(lengths, extents, strict=True)])
        return Region(memory, shape, index, (), True, False, whole)
    if memory.space is not Space.GLOBAL:
        raise frame.fault(
            "TLC0741",
            f"the region of {lengths} at {memory.name}{element(starts)} is not inside "
            f"{memory.space.value} {list(extents)}",
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
    """The elements of a region, a view where it can be one, and their shadow bits. Outside: the safe value."""
    memory, storage = place.memory, place.memory.storage
    if memory.guard is not None:
        memory.guard.check(frame, memory, False)
    if storage.lanes:
        _require_same(frame, memory, storage)
        index = (*((0,) * len(storage.lanes)), *place.index)
        return storage.data[index], storage.bad(index)
    if place.inside:
        if storage.blocks is not None or storage.clocks is not None:
            note_region(frame, memory, place.index, False)
        return storage.data[place.index], storage.bad(place.index)
    data = np.full(place.shape, safe_value, memory.dtype.numpy)
    if place.empty:
        return data, None
    note_region(frame, memory, place.index, False)
    data[place.window] = storage.data[place.index]
    bad = storage.bad(place.index)
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
        storage.write((*everywhere, *place.index), data, bad)
        return
    if storage.blocks is not None or storage.clocks is not None:
        note_region(frame, memory, place.index, True, data)
    storage.write(place.index, data, bad, place.whole)


def _require_same(frame: Frame, memory: Memory, storage: Storage) -> None:
    if storage.uniform:
        return
    rows = storage.data.reshape(-1, *storage.shape)
    raw = rows.view(np.uint8).reshape(rows.shape[0], -1)
    if not (raw == raw[:1]).all():
        raise frame.fault(
            "TLC0746", f"{memory.name!r} differs between threads, and this moves one copy of it"
        )
