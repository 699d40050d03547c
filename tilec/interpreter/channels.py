"""Rings of buffers between stages, with every rule of their protocol checked.

A slot is put (written), committed, got (read) and freed, in that order. Asynchronous copies into it
land only when it is got, and the contents of a ring of several slots are undefined from the put on,
so that whatever reads too early sees it. Where several roles read a channel, each gets every
buffer, and a slot is free once all have freed it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from ..ir.core import Op, Value, walk
from ..ir.ops.control import Role
from ..ir.ops.pipeline import Channel, Commit, Free, Get, Put, Receive, Send
from ..ir.types import MemoryType, TileType
from .clocks import Clock, Clocks
from .frame import Frame, Pair, Waiting
from .memory import Memory, Storage, undefined


@dataclass(eq=False)
class Reader:
    """How far one role has read: buffers got and freed."""

    got: int = 0
    freed: int = 0


@dataclass(eq=False)
class Ring:
    """The state of a channel: `put` and `committed` count buffers, `readers` by role."""

    op: Channel
    slots: tuple[Storage, ...]
    readers: dict[str, Reader]
    put: int = 0
    committed: int = 0
    landing: dict[int, list[Callable[[], None]]] = field(default_factory=dict)
    committed_at: dict[int, Clock] = field(default_factory=dict)
    freed_at: dict[int, list[Clock]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.op.label or self.op.result.hint or "channel"

    def reader(self, role: str) -> Reader:
        return self.readers.setdefault(role, Reader())

    def may_put(self) -> bool:
        freed = min((r.freed for r in self.readers.values()), default=0)
        return self.put - freed < len(self.slots)

    def may_get(self, role: str) -> bool:
        return self.reader(role).got < self.committed

    def handle(self, number: int, guard: RingGuard) -> Memory:
        type_ = self.op.type.memory
        assert isinstance(type_, MemoryType)
        return Memory(
            self.name, type_.dtype, type_.space, self.slots[number % len(self.slots)], guard
        )


@dataclass(frozen=True, eq=False)
class RingGuard:
    """The right to use buffer `number` of a ring: to write it between put and commit, to read it
    between get and free.
    """

    ring: Ring
    number: int
    writes: bool
    role: str

    def check(self, frame: Frame, memory: Memory, write: bool) -> None:
        ring = self.ring
        if self.writes:
            if self.number < ring.committed:
                raise frame.fault(
                    "TLC0752", f"a buffer of {memory.name!r} is used by its writer after its commit"
                )
            return
        if write:
            raise frame.fault(
                "TLC0752", f"a buffer of {memory.name!r} is written by the stage that reads it"
            )
        if self.number < ring.reader(self.role).freed:
            raise frame.fault(
                "TLC0752",
                f"a buffer of {memory.name!r} is read after its free, when it may be overwritten",
                hint="free it after its last reader, or defer the free",
            )

    def defer(self, copy: Callable[[], None]) -> None:
        """Has a copy land when the buffer is got."""
        self.ring.landing.setdefault(self.number, []).append(copy)


@dataclass(eq=False)
class Queue:
    """A channel of tiles that stay in registers: what was sent and not yet received."""

    name: str
    slots: int
    tiles: deque[Pair] = field(default_factory=deque)


def run_send(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """Appends a tile, once there is room."""
    assert isinstance(op, Send)
    queue = frame.value(op.channel)
    assert isinstance(queue, Queue), f"{op.channel!r} is not a channel of tiles"
    tile = (frame.tile(op.tile), frame.shadow.get(op.tile))
    what = f"room for a tile in {queue.name!r}"
    yield Waiting(frame, what, lambda: len(queue.tiles) < queue.slots, op.loc)
    queue.tiles.append(tile)


def run_receive(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """The tile that was sent first."""
    assert isinstance(op, Receive)
    queue = frame.value(op.channel)
    assert isinstance(queue, Queue), f"{op.channel!r} is not a channel of tiles"
    yield Waiting(frame, f"a tile to be sent to {queue.name!r}", lambda: bool(queue.tiles), op.loc)
    frame.define(op.result, *queue.tiles.popleft())


def run_channel(frame: Frame, op: Op) -> None:
    assert isinstance(op, Channel)
    memory = op.type.memory
    if isinstance(memory, TileType):
        frame.define(op.result, Queue(op.label or op.result.hint or "channel", op.type.slots))
        return
    shape = tuple(int(d) for d in memory.shape)
    slots = tuple(undefined(shape, memory.dtype) for _ in range(op.type.slots))
    readers: dict[str, Reader] = {}
    if frame.run.roles:
        for storage in slots:
            storage.clocks = Clocks(shape)
        readers = {role.label: Reader() for role in frame.run.roles if _reads(role, op.result)}
    frame.define(op.result, Ring(op, slots, readers))


def _reads(role: Role, channel: Value) -> bool:
    return any(isinstance(op, Get) and op.channel is channel for op in walk(role.body))


def _ring(frame: Frame, v: Value) -> Ring:
    found = frame.value(v)
    assert isinstance(found, Ring), f"{v!r} is not a channel"
    return found


def run_put(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """The next buffer to write, once it is free."""
    assert isinstance(op, Put)
    ring = _ring(frame, op.channel)
    if ring.put != ring.committed:
        raise frame.fault("TLC0753", f"{ring.name!r} is put twice without a commit between")
    yield Waiting(frame, f"a free buffer of {ring.name!r} to put", ring.may_put, op.loc)
    frame.op = op
    number = ring.put
    ring.put += 1
    storage = ring.slots[number % len(ring.slots)]
    if len(ring.slots) > 1:
        storage.forget()
    if frame.clock is not None:
        frame.clock.join(*ring.freed_at.pop(number - len(ring.slots), ()))
    frame.define(op.result, ring.handle(number, RingGuard(ring, number, True, frame.role)))


def run_commit(frame: Frame, op: Op) -> None:
    """Ends the writing of what was put last."""
    assert isinstance(op, Commit)
    ring = _ring(frame, op.channel)
    if ring.put == ring.committed:
        raise frame.fault("TLC0753", f"{ring.name!r} is committed without a put")
    if frame.clock is not None:
        ring.committed_at[ring.committed] = frame.clock.release()
    ring.committed += 1


def run_get(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """The oldest buffer not yet got, once it was committed; its asynchronous copies land."""
    assert isinstance(op, Get)
    ring, role = _ring(frame, op.channel), frame.role
    yield Waiting(
        frame, f"a buffer of {ring.name!r} to be committed", lambda: ring.may_get(role), op.loc
    )
    frame.op = op
    reader = ring.reader(role)
    number = reader.got
    reader.got += 1
    for copy in ring.landing.pop(number, ()):
        _land(ring, number, copy)
    if frame.clock is not None and number in ring.committed_at:
        frame.clock.join(ring.committed_at[number])
    frame.define(op.result, ring.handle(number, RingGuard(ring, number, False, role)))


def _land(ring: Ring, number: int, copy: Callable[[], None]) -> None:
    """Completes a copy: its writer's right to the buffer is that of the time it was issued."""
    committed, ring.committed = ring.committed, number
    copy()
    ring.committed = committed


def run_free(frame: Frame, op: Op) -> None:
    """Gives back the buffer that was got `defer` gets ago."""
    assert isinstance(op, Free)
    ring = _ring(frame, op.channel)
    reader = ring.reader(frame.role)
    number = reader.got - 1 - op.defer
    if number < 0:
        return
    if number < reader.freed or number >= reader.got:
        raise frame.fault("TLC0753", f"{ring.name!r} is freed without a get")
    handle = ring.handle(number, RingGuard(ring, number, False, frame.role))
    if any(group.reads(handle) for group in frame.groups):
        raise frame.fault(
            "TLC0754",
            f"a buffer of {ring.name!r} is freed while a gemm in flight still reads it",
            hint="wait for the gemm first, or defer the free",
        )
    reader.freed = number + 1
    if frame.clock is not None:
        ring.freed_at.setdefault(number, []).append(frame.clock.release())
