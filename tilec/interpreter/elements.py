"""Loads and stores of single elements, by the block, by threads or by iterations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ir.core import Op
from ..ir.ops.memory import Load, Store
from ..ir.types import Space
from .addressing import Access, chosen, locate, spread
from .frame import Frame
from .hazards import note_read, note_write
from .memory import Memory
from .numbers import Array, Bits, bits_of


def run_load(frame: Frame, op: Op) -> None:
    """The element at the indices; outside global memory the safe value."""
    assert isinstance(op, Load)
    memory = frame.memory(op.memory)
    if memory.guard is not None:
        memory.guard.check(frame, memory, False)
    safe = memory.dtype.numpy.type(op.safe_value)
    access = locate(frame, memory, op.indices, op.predicate)
    if access is None:
        frame.define(op.result, safe)
        return
    if memory.storage.lanes:
        data, bad = _load_private(frame, memory, access)
    else:
        data, bad = _load(frame, memory, access)
    if access.outside is not None:
        data = np.where(access.outside, safe, data)
        bad = None if bad is None else np.asarray(bad & ~access.outside)
    frame.define(op.result, data, bad)


def _load(frame: Frame, memory: Memory, access: Access) -> tuple[Any, Bits | None]:
    storage, lanes = memory.storage, frame.lanes
    note_read(frame, memory, access)
    if access.uniform:
        return storage.data[access.index], storage.bad(access.index)
    assert lanes is not None
    sliced = access.slices(lanes.shape)
    if sliced is None:
        return storage.data[access.index], storage.bad(access.index)
    index, shape, _ = sliced
    bad = storage.bad(index)
    data = np.array(storage.data[index]).reshape(shape)
    return data, None if bad is None else bad.reshape(shape)


def _load_private(frame: Frame, memory: Memory, access: Access) -> tuple[Any, Bits | None]:
    """From each lane's own copy."""
    storage, lanes = memory.storage, frame.lanes
    ahead: tuple[Any, ...]
    if storage.uniform:
        ahead = (0,) * len(storage.lanes)
    elif lanes is None or lanes.shape != storage.lanes:
        return _same_in_all(frame, memory, access)
    elif access.uniform:
        ahead = (slice(None),) * len(storage.lanes)
    else:
        ahead = lanes.indices()
    index = (*ahead, *access.index)
    data = storage.data[index]
    return (data if data.ndim == 0 else np.array(data)), storage.bad(index)


def _same_in_all(frame: Frame, memory: Memory, access: Access) -> tuple[Any, Bits | None]:
    """An element of private memory where no lane is asked for in particular: all must hold the
    same.
    """
    storage = memory.storage
    if not access.uniform:
        raise _unowned(frame, memory)
    index = ((slice(None),) * len(storage.lanes)) + access.index
    data, bad = storage.data[index], storage.bad(index)
    first = data.reshape(-1)[0]
    if bad is not None:
        return first, np.asarray(True)
    bits = bits_of(data).reshape(-1)
    if (bits != bits[0]).any():
        raise _unowned(frame, memory)
    return first, None


def _unowned(frame: Frame, memory: Memory) -> Exception:
    return frame.fault(
        "TLC0746",
        f"{memory.name!r} differs between threads, and no thread is named here",
        hint="per-thread values may be used by statements of the thread, not by tile statements",
    )


def run_store(frame: Frame, op: Op) -> None:
    """Sets the element at the indices; outside global memory nothing."""
    assert isinstance(op, Store)
    memory = frame.memory(op.memory)
    if memory.guard is not None:
        memory.guard.check(frame, memory, True)
    value, bad = frame.pair(op.value)
    access = locate(frame, memory, op.indices, op.predicate)
    if access is None:
        return
    if memory.storage.lanes:
        _store_private(frame, memory, access, value, bad)
        return
    if memory.space is Space.GLOBAL and bad is not None:
        live = bad if access.keep is None else np.asarray(bad & access.keep)
        frame.refuse_bad(live, f"global memory {memory.name!r}")
    if frame.lanes is None:
        if access.keep is None or bool(access.keep):
            note_write(frame, memory, access, access.index, value, 0, False)
            memory.storage.write(access.index, value, bad)
        return
    _store_lanes(frame, memory, access, value, bad)


def _store_lanes(frame: Frame, memory: Memory, access: Access, value: Any, bad: Any) -> None:
    storage, lanes = memory.storage, frame.lanes
    assert lanes is not None
    together = lanes.kind == "thread" and frame.mask is None
    if together and access.uniform and value.ndim == 0 and access.keep is None:
        note_write(frame, memory, access, access.index, value, 0, False)
        storage.write(access.index, value, bad)  # every thread writes the same
        return
    sliced = access.slices(lanes.shape) if access.keep is None else None
    if sliced is not None and sliced[2]:
        index = sliced[0]
        shape = tuple(p.stop - p.start for p in index if isinstance(p, slice))
        note_write(
            frame, memory, access, index, _shaped(value, lanes.shape, shape),
            lanes.numbers.reshape(shape), False,
        )  # fmt: skip
        storage.write(
            index,
            _shaped(value, lanes.shape, shape),
            None if bad is None else _shaped(bad, lanes.shape, shape),
        )
        return
    index = access.spread(lanes.shape)
    values = chosen(value, lanes.shape, access.keep)
    repeats = not (together and access.known_distinct(lanes.shape, storage.shape))
    note_write(
        frame,
        memory,
        access,
        index,
        values,
        chosen(lanes.numbers, lanes.shape, access.keep),
        repeats,
    )
    storage.write(index, values, None if bad is None else chosen(bad, lanes.shape, access.keep))


def _shaped(data: Any, lanes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    return np.asarray(data if np.ndim(data) == 0 else np.broadcast_to(data, lanes).reshape(shape))


def _store_private(frame: Frame, memory: Memory, access: Access, value: Any, bad: Any) -> None:
    """Into each lane's own copy."""
    storage, lanes = memory.storage, frame.lanes
    everywhere = (slice(None),) * len(storage.lanes)
    if (
        access.uniform
        and value.ndim == 0
        and access.keep is None
        and (bad is None or bad.ndim == 0)
    ):
        storage.write((*everywhere, *access.index), value, bad)
        return
    if lanes is None or lanes.shape != storage.lanes:
        raise _unowned(frame, memory)
    storage.uniform = False
    if access.uniform and access.keep is None:
        storage.write((*everywhere, *access.index), value, bad)
        return
    index = spread((*lanes.indices(), *access.index), lanes.shape, access.keep)
    values = chosen(value, lanes.shape, access.keep)
    storage.write(index, values, None if bad is None else chosen(bad, lanes.shape, access.keep))
