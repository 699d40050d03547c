"""What a launch, a nest or a region writes."""

from __future__ import annotations

from ..ir.core import Access, Block, Value, walk
from ..ir.ops.memory import Flatten, Slot, View
from .blocks import OrderedLog
from .conflicts import AccessLog, Names
from .frame import Frame
from .memory import Memory
from .shared_bytes import BytesLog, BytesNames


def settle(frame: Frame, body: Block) -> None:
    """Finds out which global memory the launch writes: only there can blocks be in conflict."""
    groups: dict[int, list[Memory]] = {}
    for memory in frame.run.globals_.values():
        groups.setdefault(memory.storage.identity, []).append(memory)
    written = {m.storage.identity for m in memories(frame, written_by(frame, body))}
    unknown = any(
        e.access is Access.WRITE and e.memory is None for o in walk(body) for e in o.effects()
    )
    for identity, held in groups.items():
        settled = not unknown and identity not in written
        for memory in held:
            memory.storage.settled = settled
            memory.storage.blocks = memory.storage.names = None
            memory.storage.renew()
        if not settled:
            _watch(frame, held)


def _watch(frame: Frame, held: list[Memory]) -> None:
    """Gives memory that is written the logs of who accesses it, and by which of several names."""
    first = held[0].storage
    shape = first.shape if first.common is None else first.common.shape
    order = frame.run.order
    log = AccessLog(shape) if order is None else OrderedLog(shape, order)
    names = Names(shape, [m.name for m in held]) if len(held) > 1 else None
    for memory in held:
        storage = memory.storage
        if storage.common is None:
            storage.blocks, storage.names = log, names
            continue
        places = storage.common.places(storage.data)
        storage.blocks = BytesLog(log, places)
        storage.names = None if names is None else BytesNames(names, places)


def written_by(frame: Frame, block: Block) -> frozenset[Value]:
    """The handles from outside that ops of a block, or of regions in it, write or have other
    handles on.
    """
    cache = frame.run.writes
    if block not in cache:
        found: set[Value] = set()
        own: set[Value] = set()
        for op in walk(block):
            own.update(op.results)
            if isinstance(op, (Slot, Flatten, View)):
                found.update(op.inputs)
            found.update(
                e.memory for e in op.effects() if e.access is Access.WRITE and e.memory is not None
            )
        cache[block] = frozenset(found - own)
    return cache[block]


def memories(frame: Frame, values: frozenset[Value]) -> list[Memory]:
    return [m for m in (frame.env.get(v) for v in values) if isinstance(m, Memory)]
