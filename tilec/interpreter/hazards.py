"""Accesses that no order relates: between lanes, between blocks, between roles. Each is checked as
it happens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ExecutionError
from .addressing import Access, chosen, spread
from .conflicts import AccessLog, Index
from .frame import Frame, element
from .memory import Memory, Storage
from .numbers import Array, Bits, bits_of


def note_read(frame: Frame, memory: Memory, access: Access) -> None:
    """A load of elements by one, some or all lanes."""
    storage = memory.storage
    if frame.lanes is None:
        note_region(frame, memory, access.index, False)
        return
    if _watched(frame, storage):
        lanes = frame.lanes
        index = access.spread(lanes.shape)
        party = spread((lanes.numbers,), lanes.shape, access.keep)[0]
        log = storage.lane_log(frame.run.episode, lanes.count)
        clash = log.read(index, party, True)
        if clash.any():
            raise _conflict(frame, memory, log, index, party, clash, "reads", "writes")
        _refuse_updated(frame, memory, log, index, party, "reads")
    if _between_meetings(frame, storage):
        index = access.spread(frame.lanes.shape)
        party = chosen(frame.lanes.numbers, frame.lanes.shape, access.keep)
        log, others = storage.threads_log(frame.stretch, frame.lanes.count, access.uniform)
        for other in others:
            clash = other.written(index, party)
            if clash.any():
                raise _conflict(frame, memory, other, index, party, clash, "reads", "writes")
            _refuse_updated(frame, memory, other, index, party, "reads")
        log.read(index, party, True)
    if storage.blocks is not None or storage.clocks is not None:
        index = access.index
        if access.keep is not None:
            index = spread(access.index, frame.lanes.shape, access.keep)
        note_region(frame, memory, index, False, repeats=True)


def note_write(
    frame: Frame,
    memory: Memory,
    access: Access,
    index: Index,
    value: Any,
    party: Array | int,
    repeats: bool,
) -> None:
    """A store of `value` at `index` (as `party` orders it), before it happens."""
    storage, lanes = memory.storage, frame.lanes
    together = lanes is not None and lanes.kind == "thread" and frame.mask is None
    if lanes is not None and isinstance(party, np.ndarray) and not (together and not repeats):
        episode = frame.run.next_episode() if together else frame.run.episode
        log = storage.lane_log(episode, lanes.count)
        _check_write(frame, memory, log, index, value, party, repeats)
    if lanes is not None and _between_meetings(frame, storage):
        if not isinstance(party, np.ndarray):  # all of them write the same
            index, party = access.spread(lanes.shape), lanes.numbers
        log, others = storage.threads_log(frame.stretch, lanes.count, access.uniform)
        for other in others:
            _check_order(frame, memory, other, index, value, party)
        _note_change(memory, log, index, value, party)
        log.write(index, party)
    if storage.blocks is not None or storage.clocks is not None:
        note_region(frame, memory, index, True, value, repeats)


def note_update(
    frame: Frame, memory: Memory, index: Index, party: Array | int, only_reads: bool
) -> None:
    """An atomic on elements by lanes: no conflict with other atomics, but with all else; if it only
    reads, with writes."""
    storage, lanes = memory.storage, frame.lanes
    if only_reads:
        _check_atomic_read(frame, memory, index, party)
        return
    if lanes is not None and not (lanes.kind == "thread" and frame.mask is None):
        log = storage.lane_log(frame.run.episode, lanes.count)
        _check_update(frame, memory, log, index, party)
    if lanes is not None and _between_meetings(frame, storage):
        log, others = storage.threads_log(frame.stretch, lanes.count, False)
        for other in others:
            found = (other.written(index, party), other.touched(index, party))
            for clash, before in zip(found, ("writes", "reads"), strict=True):
                if clash.any():
                    raise _conflict(frame, memory, other, index, party, clash, "changes", before)
        log.update(index, party)
    if storage.clocks is not None and frame.clock is not None:
        storage.clocks.note(frame, memory, index, True)
    if storage.blocks is not None and frame.place is not None:
        _check_names(frame, memory, index, True)
        storage.blocks.enter(frame.launch, frame.place.count)
        _check_update(frame, memory, storage.blocks, index, frame.place.number)


def _between_meetings(frame: Frame, storage: Storage) -> bool:
    """Whether threads access a tensor that their region writes, which nothing orders until they meet."""
    lanes = frame.lanes
    return (
        lanes is not None
        and lanes.kind == "thread"
        and frame.written is not None
        and storage.identity in frame.written
    )


def _check_order(
    frame: Frame, memory: Memory, log: AccessLog, index: Index, value: Any, party: Array
) -> None:
    """A write beside what other threads did that nothing orders with it."""
    _refuse_updated(frame, memory, log, index, party, "writes")
    readers = log.touched(index, party)
    if readers.any():
        raise _conflict(frame, memory, log, index, party, readers, "writes", "reads")
    _refuse_changed(frame, memory, log, index, party)
    before = log.written(index, party)
    if before.any():
        old = memory.storage.data[index]
        _same_or_conflict(frame, memory, log, index, party, before, old, value)


def _check_atomic_read(frame: Frame, memory: Memory, index: Index, party: Array | int) -> None:
    storage, lanes = memory.storage, frame.lanes
    if lanes is not None and not (lanes.kind == "thread" and frame.mask is None):
        log = storage.lane_log(frame.run.episode, lanes.count)
        clash = log.written(index, party)
        if clash.any():
            raise _conflict(frame, memory, log, index, party, clash, "reads", "writes")
    if storage.clocks is not None and frame.clock is not None:
        storage.clocks.note(frame, memory, index, False)
    if storage.blocks is not None and frame.place is not None:
        storage.blocks.enter(frame.launch, frame.place.count)
        clash = storage.blocks.written(index, frame.place.number)
        if clash.any():
            number = frame.place.number
            raise _conflict(frame, memory, storage.blocks, index, number, clash, "reads", "writes")


def _check_update(
    frame: Frame, memory: Memory, log: AccessLog, index: Index, party: Array | int
) -> None:
    for clash, before in zip(log.update(index, party), ("writes", "reads"), strict=True):
        if clash.any():
            raise _conflict(frame, memory, log, index, party, clash, "changes", before)


def _refuse_updated(
    frame: Frame, memory: Memory, log: AccessLog, index: Index, party: Array | int, now: str
) -> None:
    """Raises where another party's atomic has changed what is read or written now."""
    clash = log.updated(index, party)
    if clash is not None and clash.any():
        raise _conflict(frame, memory, log, index, party, clash, now, "changes by an atomic")


def _check_write(
    frame: Frame,
    memory: Memory,
    log: AccessLog,
    index: Index,
    value: Any,
    party: Array,
    repeats: bool,
) -> None:
    _refuse_updated(frame, memory, log, index, party, "writes")
    _refuse_changed(frame, memory, log, index, party)
    _note_change(memory, log, index, value, party)
    before, readers = log.write(index, party)
    if readers.any():
        raise _conflict(frame, memory, log, index, party, readers, "writes", "reads")
    if before.any():
        _same_or_conflict(
            frame, memory, log, index, party, before, memory.storage.data[index], value
        )
    if not repeats:
        return
    doubled = log.outdone(index, party)
    if doubled.any():
        last = _last_written(memory.storage, index, value)
        _same_or_conflict(frame, memory, log, index, party, doubled, last, value)


def _note_change(
    memory: Memory, log: AccessLog, index: Index, value: Any, party: Array | int
) -> None:
    """Notes where a party is about to write other bits than it wrote there before."""
    again = log.again(index, party)
    if again.any():
        old = memory.storage.data[index]
        differs = again & (
            bits_of(old) != bits_of(np.broadcast_to(np.asarray(value, old.dtype), old.shape))
        )
        if differs.any():
            log.change(index, party, np.asarray(differs))


def _refuse_changed(
    frame: Frame, memory: Memory, log: AccessLog, index: Index, party: Array | int
) -> None:
    """Raises where another party has written several values to what is written now, of which one at
    most is this one: writers who agree need no order, but these do not."""
    clash = log.changed(index, party)
    if clash is not None and clash.any():
        raise _conflict(frame, memory, log, index, party, clash, "writes", "writes other values to")


def _last_written(storage: Storage, index: Index, value: Any) -> Array:
    """What the elements would hold after this store, in its order."""
    kept = storage.data[index]
    storage.data[index] = value
    last = storage.data[index]
    storage.data[index] = kept
    return last


def _same_or_conflict(
    frame: Frame,
    memory: Memory,
    log: AccessLog,
    index: Index,
    party: Any,
    where: Bits,
    old: Array,
    new: Any,
) -> None:
    """Two writes of one element: a remark if their bits are equal, else an error."""
    data = np.broadcast_to(np.asarray(new, old.dtype), old.shape)
    differ = where & (bits_of(old) != bits_of(data))
    if np.any(differ):
        raise _conflict(frame, memory, log, index, party, np.asarray(differ), "writes", "writes")
    frame.remark(
        "TLC0745", f"several {_kind(frame, log, memory)}s write equal bits to {memory.name!r}"
    )


def _watched(frame: Frame, storage: Storage) -> bool:
    """Whether reads by these lanes can clash with a write: in a nest that writes it, or under
    divergence.
    """
    assert frame.lanes is not None
    if storage.lanes or storage.settled:
        return False
    if frame.lanes.kind == "thread":
        return frame.mask is not None
    return frame.written is not None and storage.identity in frame.written


def note_region(
    frame: Frame,
    memory: Memory,
    index: Index,
    write: bool,
    value: Any = None,
    repeats: bool = False,
) -> None:
    """An access by the block as a whole (`value` is what a write stores): against other blocks and
    other roles.
    """
    storage = memory.storage
    if storage.clocks is not None and frame.clock is not None:
        storage.clocks.note(frame, memory, index, write)
    log = storage.blocks
    if log is None or frame.place is None:
        return
    _check_names(frame, memory, index, write)
    log.enter(frame.launch, frame.place.count)
    party = frame.place.number
    frame.run.changes += write
    _refuse_updated(frame, memory, log, index, party, "writes" if write else "reads")
    if not write:
        clash = log.read(index, party, repeats)
        if clash.any():
            raise _conflict(frame, memory, log, index, party, clash, "reads", "writes")
        return
    _refuse_changed(frame, memory, log, index, party)
    _note_change(memory, log, index, value, party)
    before, readers = log.write(index, party)
    if readers.any():
        raise _conflict(frame, memory, log, index, party, readers, "writes", "reads")
    if before.any():
        _same_or_conflict(frame, memory, log, index, party, before, storage.data[index], value)


def _check_names(frame: Frame, memory: Memory, index: Index, write: bool) -> None:
    """Refuses an element that was written by another parameter's name: the compiler, which knows
    parameters apart, orders nothing between the two.
    """
    names = memory.storage.names
    if names is None:
        return
    clash = names.others(memory.name, index)
    if clash.any():
        first = tuple(int(i) for i in np.argwhere(clash)[0]) if clash.ndim else ()
        at = _element_of(index, first, memory.shape)
        other = names.writer(memory.name, at)
        as_what = f"{other}{element(at)}" if memory.storage.common is None else f"part of {other}"
        raise frame.fault(
            "TLC0744",
            f"{memory.name}{element(at)} is {'written' if write else 'read'} here, and was written as "
            f"{as_what}, with no order between them: one array is passed for both",
            hint="pass a copy; or write and read it by one name",
        )
    if write:
        names.write(memory.name, index)


def _kind(frame: Frame, log: AccessLog, memory: Memory) -> str:
    if log is memory.storage.blocks:
        return "block"
    return frame.lanes.kind if frame.lanes is not None else "thread"


def _conflict(
    frame: Frame,
    memory: Memory,
    log: AccessLog,
    index: Index,
    party: Any,
    where: Bits,
    now: str,
    before: str,
) -> ExecutionError:
    """The error for the first element of `where` (in the shape of what `index` selects)."""
    first = tuple(int(i) for i in np.argwhere(where)[0]) if where.ndim else ()
    at = _element_of(index, first, memory.shape)
    between_blocks = log is memory.storage.blocks
    if between_blocks:
        me = other = "another block"
        me = str(frame.place)
        if before != now:
            at_log = log.other(at)
            other = f"block {at_log}" if at_log >= 0 else other
    else:
        assert frame.lanes is not None
        number = int(np.broadcast_to(party, where.shape)[first])
        me, other = frame.lanes.describe(number), f"another {frame.lanes.kind}"
    verb = f"{now} too" if now == before else before
    place = f"{memory.space.value} {memory.name}{element(at)}"
    hint = "an atomic, or one writer for each element"
    if between_blocks:
        hint += "; a second T.Kernel for what needs all of the first"
    elif frame.lanes is not None and frame.lanes.kind == "thread":
        hint += "; or T.sync_threads() between the two, where all threads come"
    return frame.fault(
        "TLC0747" if between_blocks else "TLC0744",
        f"{me} {now} {place}, which {other} {verb}, with no order between them",
        hint=hint,
    )


def _element_of(index: Index, first: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The element that position `first` of the selection `index` names."""
    if any(isinstance(i, np.ndarray) and i.ndim for i in index):
        arrays = np.broadcast_arrays(*[np.asarray(i) for i in index])
        return tuple(int(a[first]) for a in arrays)
    axes = iter(first)
    return tuple(
        (i.indices(n)[0] + next(axes)) if isinstance(i, slice) else int(i)
        for i, n in zip(index, shape, strict=True)
    )
