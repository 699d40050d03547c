"""Atomic changes of single elements: every lane's happens, one after the other, in no stated order."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import numpy as np

from ..ir.core import Op
from ..ir.ops.arith import extremum
from ..ir.ops.memory import Atomic
from ..ir.types import Space
from .addressing import chosen, locate, spread
from .blocks import again, note_order
from .frame import Frame, Waiting
from .hazards import note_update
from .memory import Memory, Storage
from .numbers import Array

_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add,
    "max": partial(extremum, np.fmax),
    "min": partial(extremum, np.fmin),
    "or": np.bitwise_or,
    "load": lambda held, _: held,
    "store": lambda _, given: given,
}


def run_atomic(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """Changes the element at the indices; outside global memory nothing."""
    assert isinstance(op, Atomic)
    memory = frame.memory(op.memory)
    if frame.run.order is not None and memory.space is Space.GLOBAL:
        yield from again(frame, op, memory.name)
    if op.order != "relaxed":
        frame.meet()
    _change(frame, op, memory)


def _change(frame: Frame, op: Atomic, memory: Memory) -> None:
    if memory.guard is not None:
        memory.guard.check(frame, memory, True)
    value, bad = frame.pair(op.value)
    dtype = memory.dtype.numpy
    lanes = frame.lanes.shape if frame.lanes is not None else ()
    before = np.zeros(lanes, dtype)
    access = locate(frame, memory, op.indices, op.predicate)
    if access is None:
        if op.results:
            frame.define(op.result, before)
        return
    if memory.space is Space.GLOBAL and bad is not None:
        live = bad if access.keep is None else np.asarray(bad & access.keep)
        frame.refuse_bad(live, f"global memory {memory.name!r}")
    index = spread(access.index, lanes, access.keep)
    numbers = frame.lanes.numbers if frame.lanes is not None else np.int32(0)
    note_update(frame, memory, index, chosen(numbers, lanes, access.keep), op.kind == "load")
    unknown = memory.storage.bad(index)
    values = np.asarray(chosen(value, lanes, access.keep), dtype)
    found = _apply(frame, op, memory.storage, index, values)
    if frame.run.order is not None:
        note_order(frame, op, memory.storage, index)
    poison = memory.storage.poison
    if poison is not None and op.kind != "load":
        held = np.False_ if op.kind == "store" else poison[index]
        poison[index] = held if bad is None else held | chosen(bad, lanes, access.keep)
    if not op.results:
        return
    shadow = None if unknown is None else np.zeros(lanes, np.bool_)
    kept = ... if access.keep is None else np.broadcast_to(access.keep, lanes)
    before[kept] = found
    if shadow is not None:
        shadow[kept] = unknown
    frame.define(op.result, before, shadow)


def _apply(frame: Frame, op: Atomic, storage: Storage, index: Any, values: Array) -> Array:
    """Combines each value with its element, in a random order; what each of them found there."""
    flat = np.ravel_multi_index(index, storage.shape).reshape(-1)
    order = frame.run.random.permutation(flat.size)
    order = order[np.argsort(flat[order], kind="stable")]  # equal elements side by side
    places = flat[order]
    first = np.flatnonzero(np.r_[True, places[1:] != places[:-1]][: places.size])
    turns = np.arange(places.size) - np.repeat(first, np.diff(np.r_[first, places.size]))
    data, own = storage.data, values.reshape(-1)[order]  # data may have gaps
    at = np.unravel_index(places, storage.shape)
    found = np.zeros(flat.size, values.dtype)
    with np.errstate(all="ignore"):
        for turn in range(int(turns.max(initial=-1)) + 1):
            mine = turns == turn
            here = tuple(axis[mine] for axis in at)
            seen = data[here]
            found[order[mine]] = seen
            data[here] = _COMBINE[op.kind](seen, own[mine]).astype(values.dtype)
    if op.kind == "load":
        return found.reshape(values.shape)
    storage.renew()
    changed = data[at].tobytes() != found[order].tobytes()
    if frame.run.order is not None and changed:
        frame.run.changes += 1
    return found.reshape(values.shape)
