"""How a channel is kept: the table of protocols, and what each side of a channel does in it.

| writer -> reader | put | commit | get | free |
|---|---|---|---|---|
| same threads, registers | | proxy fence before wgmma | barrier | barrier |
| same threads, cp.async | | commit of the stage's group | cp.async wait, barrier | barrier |
| same threads, buffer_copy | | | wait for all but the last copies, barrier | barrier |
| TMA -> another role | wait empty, expect bytes | by the copy engine | wait full | arrivals on empty |
| cp.async -> another role | wait empty | an arrival behind each thread's copies | wait full, fence | the same |
| threads -> another role | wait empty | proxy fence, one arrive a warp | wait full | the same |

Freed by one arrive a warpgroup where only wgmma reads the buffer, and in every iteration (its own
wait orders it: all four warps have issued it), else by one arrive a warp after a warp sync: a warp
that lags behind by two phases would wait for ever. Channels with the same writer, reader and slots
share their pair of barriers (a bundle) if nothing is read between one's free and the other's.

What cp.async writes it writes as a thread would, in the generic proxy, and no thread of the producer waits
for it: so the reader fences, behind its wait, before an engine reads it (PTX ISA 8.0, 8.8: a proxy fence
along the causality order from the write to the read). A stage may bring some buffers by TMA and some by
cp.async: the first thread starts the one, all of them the other, and a phase is over when both are there.

A box may end with its tensor (clip_boxes.py): then fewer bytes are expected, and slots are zeroed before
the barrier behind which roles part, since what is behind the box stays as it was.

In a cluster a tile that blocks share comes to all of them in parts, one from each. So `full` is still
this block's own: one arrival, and all bytes of the tile, whoever brings them. But a slot is empty once
the readers of every block of the cluster have freed theirs: each arrives at the `empty` of all blocks.
Others use the barriers of a block as soon as they are made and as long as they load, so the blocks
meet after barriers are made and before they end.

Sources: PTX ISA 8.0, 9.7.13.15 (mbarrier), 9.7.13.4 (barrier.cluster), 9.7.9.25 (cp.async, bulk tensor
copies); CDNA4 ISA, 4.4 (vmcnt) and 9.1.9.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..ir.build import Builder
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Value, constant, walk
from ..ir.dtypes import i32, mbarrier
from ..ir.layout import SharedLayout, tma_boxes
from ..ir.ops.control import Launch, Role, ThreadId
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Flatten, Load, Slot, Store, memory_type
from ..ir.ops.nvidia import (
    WARP,
    WARPGROUP,
    ClusterBarrier,
    CpAsyncArrive,
    FenceProxyAsync,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierInit,
    MbarrierInitFence,
    MbarrierWait,
)
from ..ir.ops.pipeline import Channel, Free, Get, Put, Stage
from ..ir.ops.thread import Barrier, WarpSync
from ..ir.ops.tile import Copy, Fill
from ..ir.types import ChannelType, Dim, MemoryType, Space
from .coordinates import extent_value
from .dependence import writes
from .thread_copies import ThreadCopies, thread_copies

PERIOD_BYTES = 1024  # slots start at multiples of the widest swizzle's period


@dataclass(eq=False)
class Ring:
    """A channel of shared memory: its buffer, and who writes and reads it."""

    channel: Channel
    alloc: Alloc
    writer: Stage
    reader: Stage
    writer_role: Role | None
    reader_role: Role | None
    bundle: Bundle | None = None

    @property
    def slots(self) -> int:
        return self.channel.type.slots

    @property
    def crosses_roles(self) -> bool:
        return self.writer_role is not self.reader_role

    @property
    def landing(self) -> ThreadCopies | None:
        """How what threads copy into it asynchronously is awaited."""
        found = (thread_copies(op) for op in self._writers)
        return next((kind for kind in found if kind is not None), None)

    @property
    def by_tma(self) -> bool:
        return any(op.instruction == "tma" for op in self.loads)

    @property
    def loads(self) -> list[Copy]:
        """The copies that fill it."""
        return [op for op in self._writers if isinstance(op, Copy)]

    @property
    def _writers(self) -> list[Op]:
        """The statements that fill it."""
        handles = self._handles(Put)
        return [op for op in self.writer.body.ops if not handles.isdisjoint(writes(op))]

    @property
    def clipped(self) -> tuple[int, ...]:
        """The dimension along which boxes of a load end with the tensor: one that it allows, and of
        which the layout leaves the rest of a box where it was.
        """
        type_ = self.channel.type.memory
        if not isinstance(type_, MemoryType) or type_.layout is None:
            return ()
        boxes = tma_boxes(type_.layout, type_.dtype.bits)
        dims = (dim for op in self.loads for dim in op.clipped)
        return tuple(dim for dim in dims if boxes is not None and boxes.height == dim)

    @property
    def multicast(self) -> bool:
        """Whether blocks of a cluster bring it to each other."""
        return any(op.multicast for op in self.loads)

    @property
    def read_by_engine(self) -> bool:
        """Whether asynchronous matrix instructions read it."""
        return any(isinstance(op, Gemm) and op.asynchronous for op in self._readers)

    @property
    def read_by_engine_alone(self) -> bool:
        """Whether nothing else reads it."""
        readers = self._readers
        return self.read_by_engine and all(isinstance(o, Gemm) and o.asynchronous for o in readers)

    @property
    def _readers(self) -> list[Op]:
        """The ops that use it."""
        handles = self._handles(Get)
        return [op for op in walk(self.reader.body) if any(v in handles for v in op.inputs)]

    @property
    def freed_by_warpgroup(self) -> bool:
        """Whether one thread may free it for its warpgroup: a matrix instruction reads it in every
        iteration, and nothing else does.
        """
        handles = self._handles(Get)
        every = any(isinstance(op, Gemm) and {op.a, op.b} & handles for op in self.reader.body.ops)
        return self.read_by_engine_alone and every

    @property
    def freed_after(self) -> int:
        """How many of the reader's statements stand before the buffer is freed."""
        ops = self.reader.body.ops
        freed = (i for i, op in enumerate(ops) if _is_free(op, self.channel))
        return sum(not isinstance(op, (Get, Free)) for op in ops[: next(freed, len(ops))])

    def _handles(self, kind: type[Put] | type[Get]) -> set[Value]:
        stage = self.writer if kind is Put else self.reader
        return {
            op.result
            for op in walk(stage.body)
            if isinstance(op, kind) and op.channel is self.channel.result
        }

    @property
    def slot_bytes(self) -> int:
        type_ = self.channel.type.memory
        assert isinstance(type_, MemoryType)
        return self.bytes_of(type_.shape)

    def bytes_of(self, shape: Sequence[Dim]) -> int:
        """Bytes of a region of a slot."""
        type_ = self.channel.type.memory
        assert isinstance(type_, MemoryType)
        return math.prod(int(extent) for extent in shape) * type_.dtype.bytes

    def slot(self, b: Builder, index: Value) -> Value:
        """A handle of one slot."""
        type_ = self.channel.type.memory
        assert isinstance(type_, MemoryType)
        op = b.emit(Slot(self.alloc.result, index, layout_of_slot=type_.layout))
        op.result.hint = self.channel.label
        return op.result


def _is_free(op: Op, channel: Channel) -> bool:
    return isinstance(op, Free) and op.channel is channel.result


@dataclass(eq=False)
class Bundle:
    """Rings that fill and drain together: one pair of mbarriers a slot, and each role's place in
    the ring.
    """

    rings: list[Ring]
    full: Alloc
    empty: Alloc
    blocks: int = 1  # of the cluster, where they bring each other tiles
    expected: Value | None = None  # bytes that TMA brings a phase, from `initialise` on
    places: dict[str, Place] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        return self.rings[0].slots

    @property
    def by_tma(self) -> bool:
        """Whether TMA fills some of the rings."""
        return any(ring.by_tma for ring in self.rings)

    @property
    def by_copies(self) -> bool:
        """Whether copies that threads start fill some of them."""
        return any(ring.landing for ring in self.rings)

    @property
    def read_by_engine(self) -> bool:
        """Whether an engine reads what threads write, or copy, into one of them."""
        return any(ring.read_by_engine and not ring.by_tma for ring in self.rings)

    @property
    def freeing_threads(self) -> int:
        """Of how many threads of the reader one arrives on `empty`."""
        by_warpgroup = all(ring.freed_by_warpgroup for ring in self.rings)
        return WARPGROUP if by_warpgroup else WARP

    @property
    def full_count(self) -> int:
        """Arrivals that complete a phase of `full`."""
        role = self.rings[0].writer_role
        assert role is not None
        if self.by_tma or self.by_copies:
            return self.by_tma + self.by_copies * role.threads
        return role.threads // WARP

    @property
    def empty_count(self) -> int:
        """Arrivals that complete a phase of `empty`."""
        role = self.rings[0].reader_role
        assert role is not None
        return role.threads // self.freeing_threads * self.blocks


@dataclass(frozen=True)
class Place:
    """Where a side of a bundle is: the slot it takes next, and the parity of its turn. Variables of
    the role.
    """

    slot: Value
    phase: Value


def ring_type(type_: MemoryType, slots: int) -> MemoryType:
    """The type of a whole ring: the slots outermost, each starting at a multiple of the swizzle's
    period.
    """
    assert type_.layout is not None
    whole = type_.layout.stacked(slots, PERIOD_BYTES * 8 // type_.dtype.bits)
    return MemoryType(type_.dtype, (slots, *type_.shape), Space.SHARED, whole)


def bundle_rings(rings: list[Ring], cluster_blocks: int = 1) -> list[Bundle]:
    """Rings that cross roles, grouped by writer, reader, slots and when they are freed, with
    barriers allocated.
    """
    groups: dict[tuple[int, int, int, int], list[Ring]] = {}
    for ring in rings:
        if ring.crosses_roles:
            key = (id(ring.writer), id(ring.reader), ring.slots, ring.freed_after)
            groups.setdefault(key, []).append(ring)
    bundles = []
    for group in groups.values():
        type_ = MemoryType(
            mbarrier, (group[0].slots,), Space.SHARED, SharedLayout.row_major((group[0].slots,))
        )
        full, empty = Alloc(type=type_, managed=True), Alloc(type=type_, managed=True)
        full.result.hint, empty.result.hint = "full", "empty"
        shared = any(ring.multicast for ring in group)
        bundle = Bundle(group, full, empty, cluster_blocks if shared else 1)
        for ring in group:
            ring.bundle = bundle
        bundles.append(bundle)
    return bundles


@contextmanager
def making_barriers(b: Builder, in_cluster: bool = False) -> Iterator[None]:
    """What is emitted inside makes mbarriers: by one thread of the launched block, shown to all of
    it, or of its cluster.
    """
    first = b.emit(ThreadId(launched=True)).result
    with b.when(b.compare("eq", first, 0)):
        yield
        b.emit(MbarrierInitFence())
    b.emit(ClusterBarrier() if in_cluster else Barrier())


def initialise(b: Builder, bundles: list[Bundle]) -> None:
    """Makes the barriers of bundles; what boxes that end with their tensor leave of a slot is zeroed."""
    for bundle in bundles:
        for ring in bundle.rings:
            _zero_rest(b, ring)
        if bundle.by_tma:
            brought = [_brought(b, ring) for ring in bundle.rings if ring.by_tma]
            bundle.expected = functools.reduce(b.add, brought)
    with making_barriers(b, any(bundle.blocks > 1 for bundle in bundles)):
        for bundle in bundles:
            with b.loop(0, bundle.slots, hint="slot") as slot:
                b.emit(MbarrierInit(bundle.full.result, slot, count=bundle.full_count))
                b.emit(MbarrierInit(bundle.empty.result, slot, count=bundle.empty_count))


def _zero_rest(b: Builder, ring: Ring) -> None:
    """Zeroes all slots where the tensor is lower than the tile: by all threads, and once, since nothing
    but the load writes there.
    """
    for extent, rows in _heights(b, ring):
        with b.when(b.compare("lt", extent, rows)):
            flat = b.emit(Flatten(ring.alloc.result)).result
            b.emit(Fill(flat, constant(0, memory_type(flat).dtype)))
            b.emit(FenceProxyAsync())


def _brought(b: Builder, ring: Ring) -> Value:
    """The bytes that TMA brings to a slot, by one load or by several of its rows: of a box that ends with
    its tensor so many rows, one at least.
    """
    size: Value = b.const(sum(ring.bytes_of(load.shape) for load in ring.loads))
    for extent, rows in _heights(b, ring):
        size = b.mul(b.min(b.max(extent, 1), rows), ring.slot_bytes // rows)
    return size


def _heights(b: Builder, ring: Ring) -> list[tuple[Value, int]]:
    """The extents of the tensor and of the tile along the dimension that boxes end in, if they do."""
    return [
        (extent_value(b, memory_type(load.source).shape[load.source_dims[dim]]), load.shape[dim])
        for load in ring.loads
        for dim in ring.clipped
    ]


def open_place(b: Builder, bundle: Bundle, label: str) -> Place:
    """Declares a role's place in a bundle, at slot 0 and phase 0."""
    variables = []
    for hint in (f"{label}_slot", f"{label}_phase"):
        alloc = b.emit(Alloc(type=MemoryType(i32, (), Space.LOCAL)))
        alloc.result.hint = hint
        b.emit(Store(b.const(0), alloc.result, ()))
        variables.append(alloc.result)
    place = Place(*variables)
    bundle.places[label] = place
    return place


def advance(b: Builder, bundle: Bundle, place: Place) -> None:
    """Takes the next slot; at the end of the ring the first, in the other phase."""
    following = b.add(b.emit(Load(place.slot, ())).result, 1)
    wraps = b.compare("eq", following, bundle.slots)
    b.emit(Store(b.select(wraps, 0, following), place.slot, ()))
    with b.when(wraps):
        b.emit(Store(b.bit_xor(b.emit(Load(place.phase, ())).result, 1), place.phase, ()))


def wait_empty(b: Builder, bundle: Bundle, place: Place, slot: Value) -> None:
    """Waits until the slot is free."""
    phase = b.emit(Load(place.phase, ())).result
    b.emit(MbarrierWait(bundle.empty.result, slot, b.bit_xor(phase, 1)))


def expect(b: Builder, bundle: Bundle, slot: Value) -> None:
    """Announces what TMA will bring: by the thread that starts it."""
    if bundle.expected is not None:
        b.emit(MbarrierExpect(bundle.full.result, slot, bundle.expected))


@contextmanager
def by_first(b: Builder, alone: bool) -> Iterator[None]:
    """What is emitted inside is done by the role's first thread, where not the first `alone` runs."""
    if not alone:
        yield
        return
    with b.when(b.compare("eq", b.emit(ThreadId()).result, 0)):
        yield


def wait_full(b: Builder, bundle: Bundle, place: Place, slot: Value) -> None:
    """Waits until the slot's data is there, and shows engines what threads have copied."""
    b.emit(MbarrierWait(bundle.full.result, slot, b.emit(Load(place.phase, ())).result))
    if bundle.by_copies and bundle.read_by_engine:
        b.emit(FenceProxyAsync())


def announce(b: Builder, bundle: Bundle, slot: Value) -> None:
    """What threads wrote may be read: by engines after a fence, by other roles after the arrivals; what
    they copied once it has landed.
    """
    if bundle.by_copies:
        b.emit(CpAsyncArrive(bundle.full.result, slot))
        return
    if bundle.by_tma:
        return
    if bundle.read_by_engine:
        b.emit(FenceProxyAsync())
    _arrive(b, bundle.full.result, slot, WARP)


def release(b: Builder, bundle: Bundle, slot: Value) -> None:
    """The slot may be written again."""
    _arrive(b, bundle.empty.result, slot, bundle.freeing_threads, bundle.blocks)


def _arrive(b: Builder, barriers: Value, slot: Value, group: int, blocks: int = 1) -> None:
    """One arrival for every `group` threads, a warp's after its threads have met; in a cluster on
    the barrier of each block, by a thread of its own.
    """
    if group == WARP:
        b.emit(WarpSync())
    number = b.floormod(b.emit(ThreadId()).result, group)
    if blocks == 1:
        with b.when(b.compare("eq", number, 0)):
            b.emit(MbarrierArrive(barriers, slot))
        return
    with b.when(b.compare("lt", number, blocks)):
        b.emit(MbarrierArrive(barriers, slot, (number,)))


def find_rings(launch_body: Block, channels: list[Channel]) -> list[Ring]:
    """Every channel of shared memory with the stages and roles at its ends."""
    rings = []
    for channel in channels:
        memory = channel.type.memory
        if not isinstance(memory, MemoryType):
            continue
        writer, writer_role = _end(launch_body, channel, Put)
        reader, reader_role = _end(launch_body, channel, Get)
        alloc = Alloc(type=ring_type(memory, channel.type.slots), managed=True)
        alloc.result.hint = channel.label
        rings.append(Ring(channel, alloc, writer, reader, writer_role, reader_role))
    return rings


def _end(body: Block, channel: Channel, kind: type[Put] | type[Get]) -> tuple[Stage, Role | None]:
    for outer in body.ops:
        for op in outer.walk():
            if isinstance(op, Stage) and any(
                isinstance(i, kind) and i.channel is channel.result for i in op.body.ops
            ):
                return op, outer if isinstance(outer, Role) else None
    raise AssertionError(f"channel {channel.label} has no {kind.name}")


def with_slots(launch: Launch, slots: dict[Channel, int]) -> Launch:
    """The launch with other channels of the same names (their types say the slots)."""
    renaming: Renaming = {}
    ops: list[Op] = []
    for op in launch.body.ops:
        if isinstance(op, Channel) and op in slots:
            new = op.replace(type=ChannelType(op.type.memory, slots[op]))
            renaming[op.result] = new.result
            op = new
        elif renaming:
            op = clone_op(op, renaming)
        ops.append(op)
    return launch.replace(body=Block(launch.body.params, tuple(ops)))  # type: ignore[return-value]
