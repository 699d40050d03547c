"""Where element accesses go: indices checked against the bounds, turned into slices where they are
plain ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.core import Value
from ..ir.types import Space
from .conflicts import Index
from .frame import ONE_VALUE, Frame, element
from .memory import Memory
from .numbers import Array, Bits


@dataclass(frozen=True, eq=False)
class Access:
    """The elements that an op touches.

    `index` addresses the storage without its lanes. `keep` marks the lanes that are active and
    inside (None: all). `uniform`: every index is one number. `outside` marks the lanes whose index
    was outside (and is now clipped).
    """

    index: Index
    keep: Bits | None
    uniform: bool
    outside: Bits | None = None
    memo: dict[str, Any] | None = None  # present where the access is met again and again

    def slices(self, lanes: tuple[int, ...]) -> tuple[Index, tuple[int, ...], bool] | None:
        """What `as_slices` gives for the index."""
        if self.memo is None:
            return as_slices(self.index, lanes)
        if "slices" not in self.memo:
            self.memo["slices"] = as_slices(self.index, lanes)
        found: tuple[Index, tuple[int, ...], bool] | None = self.memo["slices"]
        return found

    def spread(self, lanes: tuple[int, ...]) -> Index:
        """What `spread` gives for the index and the lanes that are kept."""
        if self.memo is None:
            return spread(self.index, lanes, self.keep)
        if "spread" not in self.memo:
            self.memo["spread"] = spread(self.index, lanes, self.keep)
        found: Index = self.memo["spread"]
        return found

    def known_distinct(self, lanes: tuple[int, ...], shape: tuple[int, ...]) -> bool:
        """Whether no two lanes have one element. False where finding out would not pay."""
        if self.memo is None:
            return False
        if "distinct" not in self.memo:
            flat = np.ravel_multi_index(self.spread(lanes), shape).reshape(-1)
            self.memo["distinct"] = bool(np.unique(flat).size == flat.size)
        return bool(self.memo["distinct"])


def locate(
    frame: Frame, memory: Memory, indices: tuple[Value, ...], predicate: tuple[Value, ...]
) -> Access | None:
    """Evaluates indices; None if nothing is to be touched.

    Raises ExecutionError for uninitialised indices and for those outside, where that is an error.
    """
    allowed: Any = None
    if predicate:
        allowed, bad = frame.pair(predicate[0])
        frame.arrive(bad, f"the predicate of an access to {memory.name!r}")
        if allowed.ndim == 0:
            if not allowed:
                return None
            allowed = None
    env = frame.env
    found = [env[v] if v in env else frame.value(v) for v in indices]
    shape = memory.storage.shape
    key: Any = None
    if allowed is None and frame.mask is None:
        lanes = frame.lanes
        key = (tuple(map(id, found)), shape, None if lanes is None else lanes.shape)
        known: Access | None = frame.run.accesses.get(key)
        if known is not None:
            return known
    if frame.shadow:
        for v in indices:
            frame.arrive(frame.shadow.get(v), f"an index of {memory.name!r}")
    uniform = not any(i.ndim for i in found)
    if not uniform and frame.lanes is None:
        raise frame.fault(
            "TLC0746", f"an index of {memory.name!r} differs between threads here", hint=ONE_VALUE
        )
    if allowed is not None:
        return _outside(frame, memory, found, uniform, allowed)
    if not all([_inside(i, n) for i, n in zip(found, shape, strict=True)]):
        return _outside(frame, memory, found, uniform, None)
    index = tuple([int(i) for i in found]) if uniform else tuple(found)
    if key is None or not all([i in frame.run.lasting for i in found]):
        return Access(index, frame.mask, uniform)
    access = frame.run.accesses[key] = Access(index, None, uniform, memo={})
    return access


def _inside(index: Any, extent: int) -> bool:
    if index.ndim == 0:
        return 0 <= int(index) < extent
    return index.size == 0 or (int(index.min()) >= 0 and int(index.max()) < extent)


def _outside(
    frame: Frame, memory: Memory, found: list[Any], uniform: bool, allowed: Bits | None
) -> Access | None:
    """An access some of whose lanes are outside, or not allowed by its predicate; None where all
    are, since there is no element.
    """
    outside: Any = np.False_
    active = frame.mask
    if allowed is not None:
        active = allowed if active is None else np.asarray(active & allowed)
    for index, extent in zip(found, memory.shape, strict=True):
        outside = outside | (index < 0) | (index >= extent)
    wrong = outside if active is None else outside & active
    if wrong.any():
        _refuse(frame, memory, found, wrong)
    if any(n == 0 for n in memory.shape):
        return None
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(found, memory.shape, strict=True)]
    keep = ~outside if active is None else ~outside & active
    if allowed is not None:
        outside = outside | ~allowed
    index = tuple(int(i) for i in clipped) if uniform else tuple(clipped)
    return Access(index, np.asarray(keep), uniform, np.asarray(outside))


def _refuse(frame: Frame, memory: Memory, found: list[Any], wrong: Any) -> None:
    """Raises for an access outside memory where that is an error."""
    is_global = memory.space is Space.GLOBAL
    if is_global and not frame.run.check_bounds:
        return
    arrays = np.broadcast_arrays(*found, wrong)
    first = tuple(np.argwhere(arrays[-1])[0])
    at = element([a[first] for a in arrays[:-1]])
    who = ""
    if frame.lanes is not None and arrays[-1].ndim:
        full = np.broadcast_to(wrong, frame.lanes.shape)
        who = f" in {frame.lanes.describe(int(np.flatnonzero(full)[0]))}"
    raise frame.fault(
        "TLC0742" if is_global else "TLC0741",
        f"{memory.name}{at} is outside {memory.space.value} {list(memory.shape)}{who}",
        hint="guard it by an `if`: TILEC_CHECK=bounds allows none outside of tensors"
        if is_global
        else "only tensors may be indexed outside: guard it by an `if`, or make the buffer larger",
    )


def as_slices(index: Index, lanes: tuple[int, ...]) -> tuple[Index, tuple[int, ...], bool] | None:
    """An index whose parts are numbers or ranges that run along rising lane axes, as slices.

    Gives the slices, the shape in which what they select broadcasts to the lanes, and whether every
    lane has an element of its own. None if the index is not of that form.
    """
    parts: list[Any] = []
    shape = [1] * len(lanes)
    last = -1
    for i in index:
        if getattr(i, "ndim", 0) == 0 or i.size == 1:
            parts.append(int(i if getattr(i, "ndim", 0) == 0 else i.reshape(())))
            continue
        axis = next((a for a, n in enumerate(i.shape) if n != 1), -1)
        if i.size != i.shape[axis] or axis <= last or i.ndim != len(lanes):
            return None
        row = i.reshape(-1)
        first = int(row[0])
        if int(row[-1]) - first != i.size - 1 or (i.size > 2 and not (np.diff(row) == 1).all()):
            return None
        parts.append(slice(first, first + i.size))
        shape[axis] = i.size
        last = axis
    covers = all(s == n for s, n in zip(shape, lanes, strict=True))
    return tuple(parts), tuple(shape), covers


def spread(index: Index, lanes: tuple[int, ...], keep: Bits | None) -> Index:
    """One index array of every dimension for each lane that is kept."""
    arrays = [np.broadcast_to(np.asarray(i), lanes) for i in index]
    if keep is None:
        return tuple(arrays)
    chosen = np.broadcast_to(keep, lanes)
    return tuple(a[chosen] for a in arrays)


def chosen(data: Any, lanes: tuple[int, ...], keep: Bits | None) -> Array:
    """The values of the lanes that are kept, as `spread` orders them."""
    full = np.broadcast_to(data, lanes)
    return full if keep is None else full[np.broadcast_to(keep, lanes)]
