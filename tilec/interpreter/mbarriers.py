"""mbarriers, and the copies by the engine that complete on them: phases, arrivals, bytes.

A copy poisons its destination when it is started and lands when its phase ends: as late as the
program allows. A store by the engine reads its source when it is waited for, and finds out whether
that has changed since.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field

import numpy as np

from ..ir.core import Op, Value
from ..ir.ops.memory import Alloc
from ..ir.ops.nvidia import BulkCommit, BulkWait, MbarrierArrive, MbarrierExpect, MbarrierWait
from ..ir.ops.tile import Copy
from .clocks import Clock
from .frame import Frame, Waiting
from .numbers import Array, Bits, garbage_value
from .regions import Region, read_region, write_region


@dataclass(eq=False)
class Mbarrier:
    """One mbarrier: arrivals and bytes of the phase under way, and what ended phases made known."""

    name: str
    count: int
    phase: int = 0
    arrived: int = 0
    expected: int = 0
    brought: int = 0
    landing: list[Callable[[], None]] = field(default_factory=list)
    unseen: bool = False  # copies have landed, and nobody has waited for their phase
    clocks: list[Clock] = field(default_factory=list)
    known: list[Clock] = field(default_factory=list)

    def passed(self, parity: int) -> bool:
        """Whether a wait for this parity is over."""
        return self.phase % 2 != parity

    def describe(self) -> str:
        text = f"phase {self.phase}: {self.arrived} of {self.count} arrivals"
        if self.expected or self.brought:
            text += f", {self.brought} of {self.expected} bytes"
        return text

    def release(self, frame: Frame) -> None:
        """What the role has done so far is known to those who wait for the phase."""
        if frame.clock is not None:
            self.clocks.append(frame.clock.release())

    def arrive(self, frame: Frame, threads: int) -> None:
        if self.arrived + threads > self.count:
            raise frame.fault(
                "TLC0766",
                f"{self.arrived + threads} arrivals in phase {self.phase} of {self.name}, which was "
                f"made for {self.count}",
                hint="an arrival is a thread's: one of a warpgroup is under T.shuffle_elect(128)",
            )
        self.arrived += threads
        self.release(frame)

    def complete(self, frame: Frame) -> None:
        """Ends the phase if all that it waits for has come."""
        if self.arrived < self.count:
            return
        if self.brought > self.expected:
            raise frame.fault(
                "TLC0766",
                f"copies bring {self.brought} bytes in phase {self.phase} of {self.name}, where "
                f"{self.expected} are expected",
                hint="T.mbarrier_expect_tx the bytes of all copies that complete on it",
            )
        if self.brought < self.expected:
            return
        for land in self.landing:
            land()
            self.unseen = True
        self.phase += 1
        self.known, self.clocks, self.landing = [*self.known[-1:], *self.clocks], [], []
        if self.known:
            first = self.known[0].copy()
            first.join(*self.known[1:])
            self.known = [first]
        self.arrived = self.expected = self.brought = 0


@dataclass(eq=False)
class Mbarriers:
    """What an alloc of mbarriers gives."""

    name: str
    barriers: list[Mbarrier]


@dataclass(frozen=True, eq=False)
class BulkStore:
    """A store by the engine under way: what its source held when it was started."""

    op: Copy
    source: Region
    target: Region
    data: Array
    bad: Bits | None


def new_mbarriers(frame: Frame, op: Alloc) -> Mbarriers:
    """The barriers of an alloc, each in its phase 0."""
    name = op.result.hint or "mbarrier"
    made = [Mbarrier(f"{name}[{i}]", count) for i, count in enumerate(op.arrivals)]
    frame.run.mbarriers += made
    return Mbarriers(name, made)


def _chosen(frame: Frame, barriers: Value, index: Value) -> Iterator[tuple[Mbarrier, int]]:
    """The barriers that the active threads name, each with how many do."""
    ring = frame.value(barriers)
    assert isinstance(ring, Mbarriers)
    numbers, bad = frame.pair(index)
    frame.arrive(bad, "the number of an mbarrier")
    lanes = (frame.threads,) if frame.lanes is None else frame.lanes.shape
    active = np.broadcast_to(True if frame.mask is None else frame.mask, lanes)
    found, counts = np.unique(np.broadcast_to(numbers, lanes)[active], return_counts=True)
    for number, count in zip(found.tolist(), counts.tolist(), strict=True):
        if not 0 <= number < len(ring.barriers):
            raise frame.fault(
                "TLC0741",
                f"{ring.name}[{number}] is not one of the {len(ring.barriers)} barriers of {ring.name}",
                hint=f"{ring.name}[k % {len(ring.barriers)}] goes round the ring",
            )
        yield ring.barriers[number], count


def run_arrive(frame: Frame, op: Op) -> None:
    assert isinstance(op, MbarrierArrive)
    for barrier, threads in _chosen(frame, op.barriers, op.index):
        barrier.arrive(frame, threads)
        barrier.complete(frame)


def run_expect(frame: Frame, op: Op) -> None:
    assert isinstance(op, MbarrierExpect)
    size = frame.number(op.size, "the number of bytes of a phase")
    for barrier, threads in _chosen(frame, op.barriers, op.index):
        barrier.expected += threads * size
        if op.arrives:
            barrier.arrive(frame, threads)
        barrier.complete(frame)


def run_mbarrier_wait(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """Goes on once the phase of the parity is over, knowing what those did who arrived in it."""
    assert isinstance(op, MbarrierWait)
    parity = _parity(frame, op)
    for barrier, _ in list(_chosen(frame, op.barriers, op.index)):
        yield Waiting(
            frame,
            f"the phase of parity {parity} of {barrier.name}",
            lambda barrier=barrier: barrier.passed(parity),  # type: ignore[misc]
            op.loc,
            barrier.describe,
        )
        barrier.unseen = False
        if frame.clock is not None:
            frame.clock.join(*barrier.known)


def _parity(frame: Frame, op: MbarrierWait) -> int:
    value, bad = frame.pair(op.parity)
    frame.arrive(bad, "a parity")
    given = np.asarray(value)
    if given.ndim and frame.mask is not None:
        given = np.broadcast_to(given, frame.mask.shape)[frame.mask]
    found = np.unique(given).tolist()
    if found not in ([0], [1]):
        raise frame.fault(
            "TLC0766",
            f"the parity that is waited for is {', '.join(map(str, found))}",
            hint="phases are even or odd: 0 or 1, the same for all threads that come here",
        )
    return int(found[0])


# The copy engine ------------------------------------------------------------------------------


def start_load(frame: Frame, op: Copy, target: Region, size: int, move: Callable[[], None]) -> None:
    """A copy to shared memory that `move` does when its phase ends. Nobody may look before."""
    ((barrier, _),) = _chosen(frame, *op.barrier)
    garbage = np.full(target.shape, garbage_value(target.memory.dtype.numpy))
    write_region(frame, target, garbage, np.ones(target.shape, np.bool_))
    clock = frame.clock.copy() if frame.clock is not None else None

    def land() -> None:
        held, frame.clock = frame.clock, clock
        with frame.engine(op):
            move()
        frame.clock = held

    barrier.landing.append(land)
    barrier.brought += size
    barrier.release(frame)
    barrier.complete(frame)


def start_store(frame: Frame, op: Copy, source: Region, target: Region) -> None:
    """A copy from shared memory that is done when it is waited for."""
    data, bad = read_region(frame, source, 0.0)
    frame.open_stores.append(BulkStore(op, source, target, np.array(data), bad))


def _first_comes(frame: Frame) -> bool:
    """Whether the thread that starts copies is among the active ones."""
    return frame.mask is None or bool(frame.mask.reshape(-1)[0])


def run_bulk_commit(frame: Frame, op: Op) -> None:
    assert isinstance(op, BulkCommit)
    if _first_comes(frame):
        frame.stores.append(frame.open_stores)
        frame.open_stores = []


def run_bulk_wait(frame: Frame, op: Op) -> None:
    """Lets all but the last `pending` groups read their sources and write."""
    assert isinstance(op, BulkWait)
    while _first_comes(frame) and len(frame.stores) > op.pending:
        for store in frame.stores.pop(0):
            _land(frame, store)


def _land(frame: Frame, store: BulkStore) -> None:
    with frame.engine(store.op):
        data, bad = read_region(frame, store.source, 0.0)
        if not np.array_equal(data.view(np.uint8), store.data.view(np.uint8)):
            raise frame.fault(
                "TLC0767",
                f"shared {store.source.memory.name} is written while this store may still read it",
                hint="T.tma_store_arrive() behind the store, T.tma_store_wait(0) before the write",
            )
        write_region(frame, store.target, data, bad)


def check_idle(frame: Frame) -> None:
    """Raises ExecutionError where a role (a block) ends with work of engines under way."""
    stores = [*frame.open_stores, *(store for group in frame.stores for store in group)]
    for store in stores:
        frame.op = store.op
        raise frame.fault(
            "TLC0767",
            f"the threads end while this store may still read shared {store.source.memory.name}",
            hint="T.tma_store_arrive(), and T.tma_store_wait(0) at the end",
        )
    for group in frame.groups:
        frame.op = group.op
        raise frame.fault(
            "TLC0767",
            "the threads end while this product may still be under way",
            hint="T.wait_wgmma(0) behind the last T.wgmma_gemm",
        )


def check_landed(frame: Frame) -> None:
    """Raises ExecutionError where a block ends and nobody knows that its copies have landed."""
    for barrier in frame.run.mbarriers:
        if barrier.landing or barrier.unseen:
            state = f"{barrier.name} is in {barrier.describe()}"
            if not barrier.landing:
                state = f"no thread has waited for {barrier.name} since"
            raise frame.fault(
                "TLC0767",
                f"the block ends while copies may still write its memory: {state}",
                hint="wait for every load that is started",
            )
