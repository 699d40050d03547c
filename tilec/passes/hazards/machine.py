"""The abstract machine of lowered programs: shared memory, copies that threads start, copy engines,
mbarriers, named barriers.

A statement of the tile level is an access by all running threads of its role to whole slots; which
thread touches which element is followed only in simt regions. Time is the order of one
interleaving; what it does not order counts as unordered (records.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ...ir.core import Access as Kind
from ...ir.core import Op, Value, walk
from ...ir.ops.amd import COPY_BYTES, BufferCopyWait
from ...ir.ops.control import Launch, Parallel, Role, Simt
from ...ir.ops.gemm import Gemm
from ...ir.ops.memory import Alloc, Flatten, Load, Slot, Store, memory_type
from ...ir.ops.nvidia import (
    BulkCommit,
    BulkWait,
    ClusterBarrier,
    CpAsyncArrive,
    CpAsyncCommit,
    CpAsyncWait,
    FenceProxyAsync,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierInit,
    MbarrierInitFence,
    MbarrierWait,
)
from ...ir.ops.pipeline import Wait
from ...ir.ops.thread import Barrier, WarpSync
from ...ir.ops.tile import Copy
from ...ir.types import Space
from .cases import Case
from .clusters import Meeting, sharing
from .elements import by_parts, elements_of
from .mbarriers import Mbarrier
from .records import Access, Memory, Place, SyncAgent, is_in_flight, resolve
from .slicing import Slice, is_space, synchronises
from .threads import Threads
from .walking import Agent, Blocked, Machine, Steps, run_together

Settled = set[tuple[Simt, tuple[int | None, ...]]]
"""Simt regions whose own accesses were checked, with the integers that they take from outside."""


class SyncMachine(Machine):
    """One launch with the sizes of one case."""

    def __init__(
        self, part: Slice, case: Case, launch: Launch, warp: int, settled: Settled
    ) -> None:
        super().__init__(part, case, launch)
        self.warp = warp
        self.memory = Memory(case)
        self.mbarriers: dict[tuple[int, Alloc, int], Mbarrier] = {}
        self.places: dict[int, Alloc] = {}  # of buffers in one place the one that stands for all
        self.named: dict[tuple[int, int], tuple[SyncAgent, Threads]] = {}
        self.shared: dict[tuple[int, int], Mbarrier] = {}  # named barriers of several roles
        self.settled = settled
        self.arriving: list[Access] = []  # copies that threads started, which end with an arrival
        self.rings = {op.ring for op in walk(launch.body) if isinstance(op, Slot)}
        self.roles = [op for op in launch.body.ops if isinstance(op, Role)]
        self.size = launch.launched_threads or launch.threads
        self.meeting = Meeting(self.size * launch.cluster_blocks)

    def run(self, prefix: list[Op]) -> None:
        """Runs the blocks of one cluster: what stands before the roles by all threads, then the roles
        together."""
        blocks = [self._block(rank, prefix) for rank in range(self.launch.cluster_blocks)]
        run_together({block: self.outside_of_roles(block) for block in blocks}, self.case)
        agents = blocks
        if self.roles:
            programs: dict[Agent, Steps] = {}
            for block in blocks:
                for number, role in enumerate(self.roles, start=1):
                    agent = self._agent(role, number, block)
                    programs[agent] = self.block(agent, role.body)
            agents = [agent for agent in programs if isinstance(agent, SyncAgent)]
            run_together(programs, self.case)
        for agent in agents:
            self._at_end(agent)
        for barrier in self.mbarriers.values():
            barrier.check_parities(self.case)
            barrier.check_end([a for a in agents if a.rank == barrier.rank], self.case)

    def _block(self, rank: int, prefix: list[Op]) -> SyncAgent:
        """All threads of one block."""
        label = "the block" if self.launch.cluster_blocks == 1 else f"block {rank}"
        everyone = SyncAgent(label, rank * (1 + len(self.roles)), self.size, 0, self.warp, rank)
        self.begin(everyone, prefix)
        return everyone

    def _agent(self, role: Role, number: int, block: SyncAgent) -> SyncAgent:
        label = role.label if self.launch.cluster_blocks == 1 else f"{role.label} of {block.label}"
        index, first = block.index + number, role.first_thread
        agent = SyncAgent(label, index, role.threads, first, self.warp, block.rank)
        agent.env = dict(block.env)
        met = {("threads", block.index, t.number): block.barrier_time for t in block.sets.known}
        agent.learn(agent.sets.all, {**block.views[0][1], **met})
        return agent

    def _at_end(self, agent: SyncAgent) -> None:
        if agent.gemms:
            op = agent.gemms[0][1][0].op if agent.gemms[0][1] else self.launch
            raise self.error(
                "TLC0359",
                f"{agent.label} ends with a {op.name} in flight that nobody waits for",
                op,
            )
        for group in (*(g for _, g in agent.stores), agent.open_stores):
            for access in group:
                name = access.place.name
                message = f"{agent.label} ends while a copy engine may still be reading {name}"
                raise self.error("TLC0359", message, access.op)
        for access in self.memory.unlanded():
            key, phase = access.landing or ((), 0)
            if access.agent is agent and not any(
                w.phase >= phase for w in self._barrier(key).waits
            ):
                message = f"what {access.op.name} brings to {access.place.name} is never waited for"
                raise self.error("TLC0351", message, access.op)

    def _barrier(self, key: tuple[object, ...]) -> Mbarrier:
        return next(b for b in self.mbarriers.values() if b.key == key)

    # Statements -----------------------------------------------------------------------------------

    def statement(self, agent: Agent, op: Op) -> Blocked | None:
        assert isinstance(agent, SyncAgent)
        match op:
            case Slot() | Flatten():
                agent.env[op.result] = (
                    self._slot(agent, op) if isinstance(op, Slot) else resolve(agent, op.memory)
                )
            case Alloc():
                if is_space(op.result, Space.SHARED):
                    here = op if op.place < 0 else self.places.setdefault(op.place, op)
                    agent.env[op.result] = Place(here, block=agent.rank)
            case Barrier():
                return self._meet(agent, op)
            case ClusterBarrier():
                self._need_all(agent, op)
                phase = self.meeting.arrive(agent)
                agent.meetings = phase + 1
                return Blocked(lambda: self.meeting.over(phase), self.meeting.describe, op.loc)
            case WarpSync():
                agent.meet_warps()
            case CpAsyncCommit():
                agent.copies.append(agent.open_copies)
                agent.open_copies = []
            case CpAsyncArrive():
                self._arrive_behind_copies(agent, op)
            case CpAsyncWait() | BufferCopyWait():
                self._land(agent, op)
            case FenceProxyAsync():
                self._show(agent)
            case BulkCommit():
                agent.stores.append((agent.threads, agent.open_stores))
                agent.open_stores = []
            case BulkWait():
                self._wait_stores(agent, op)
            case Wait():
                self._wait_gemms(agent, op)
            case (
                MbarrierInit()
                | MbarrierInitFence()
                | MbarrierArrive()
                | MbarrierExpect()
                | MbarrierWait()
            ):
                return self._mbarrier(agent, op)
            case _:
                self._accesses(agent, op)
        return None

    def resumed(self, agent: Agent, op: Op) -> None:
        assert isinstance(agent, SyncAgent)
        match op:
            case Barrier():
                agent.learn(agent.sets.all, self.shared[agent.rank, op.barrier].views[-1])
            case ClusterBarrier():
                agent.learn(agent.sets.all, self.meeting.views[agent.meetings - 1])
            case MbarrierWait():
                self._find(agent, op.barriers, op.index, op).wait(agent, op)

    def simt(self, agent: Agent, op: Simt) -> Steps:
        """Thread-level code: one statement, once its own accesses are checked, if nothing syncs."""
        assert isinstance(agent, SyncAgent)
        key = (op, tuple(agent.uniform(v) for v in self.part.free(op)))
        if key in self.settled:
            self._accesses(agent, op)
            return
        yield from super().simt(agent, op)
        if not synchronises(op) and not self.part.sets_variables(op):
            self.settled.add(key)

    def _slot(self, agent: SyncAgent, op: Slot) -> Place:
        ring = resolve(agent, op.ring)
        assert ring is not None
        slots = int(memory_type(op.ring).shape[0])
        index = agent.uniform(op.index)
        if index is None or not 0 <= index < slots:
            what = "not known" if index is None else str(index)
            name = ring.alloc.result.hint
            raise self.error("TLC0358", f"the slot of {name} is {what}, and it has {slots}", op)
        return Place(ring.alloc, index, agent.rank, op, agent.tick())

    def _need_all(self, agent: SyncAgent, op: Op) -> None:
        if not agent.full:
            who = f"{agent.threads.count} of the {agent.sets.size} threads of {agent.label}"
            message = f"{who} come to a barrier of all"
            raise self.error("TLC0356", message, op)

    def _meet(self, agent: SyncAgent, op: Barrier) -> Blocked | None:
        size = agent.sets.size
        if op.barrier and op.threads == agent.threads.count < size:
            self._own(agent, op)
            agent.meet_part()
            return None
        self._need_all(agent, op)
        if op.barrier == 0 and size < self.size:
            message = (
                f"{agent.label} waits at the block's barrier, to which the other roles do not come"
            )
            raise self.error("TLC0356", message, op)
        if op.barrier and op.threads > size:
            return self._meet_roles(agent, op)
        if op.barrier and op.threads != size:
            message = (
                f"barrier {op.barrier} is for {op.threads} threads, and {agent.label} has {size}"
            )
            raise self.error("TLC0356", message, op)
        self._own(agent, op)
        agent.meet()
        return None

    def _own(self, agent: SyncAgent, op: Barrier) -> None:
        """A barrier is used by one set of threads only."""
        other, threads = self.named.setdefault((agent.rank, op.barrier), (agent, agent.threads))
        if op.barrier and other is not agent:
            message = f"{agent.label} and {other.label} both use barrier {op.barrier}"
            raise self.error("TLC0356", message, op)
        if op.barrier and threads is not agent.threads:
            message = f"two sets of {op.threads} threads of {agent.label} use barrier {op.barrier}"
            raise self.error("TLC0356", message, op)

    def _meet_roles(self, agent: SyncAgent, op: Barrier) -> Blocked:
        """A named barrier of several roles: all that are to come are seen by all that came."""
        name = f"barrier {op.barrier}"
        key = (agent.rank, op.barrier)
        made = Mbarrier(("named", *key), name, op.threads, agent, agent.threads, agent.rank)
        barrier = self.shared.setdefault(key, made)
        if barrier.count != op.threads:
            message = f"{name} is for {op.threads} threads here, and elsewhere for {barrier.count}"
            raise self.error("TLC0356", message, op)
        agent.meet()
        phase = barrier.phase
        barrier.arrive(agent, op, self.case)
        return Blocked(
            lambda: barrier.phase > phase,
            lambda: f"{name} ({barrier.arrived} of {barrier.count} threads have come)",
            op.loc,
        )

    # Accesses -------------------------------------------------------------------------------------

    def _accesses(self, agent: SyncAgent, op: Op) -> None:
        found: dict[tuple[Place, bool, bool, bool], Access] = {}
        for inner in op.walk() if isinstance(op, (Simt, Parallel)) else (op,):
            for effect in inner.effects():
                if effect.memory is None or effect.access not in (Kind.READ, Kind.WRITE):
                    continue
                writes, engine = effect.access is Kind.WRITE, effect.proxy == "async"
                for place in self._places(agent, effect.memory):
                    key = (place, writes, engine, bool(effect.atomic))
                    if key not in found:
                        access = Access(agent, agent.threads, inner, writes, engine, None, place)
                        access.atomic = bool(effect.atomic)
                        found[key] = access
        accesses = list(found.values())
        now = agent.tick()
        for access in accesses:
            access.done = None if is_in_flight(op, access) else now
        if agent.simt and isinstance(op, (Load, Store)):
            for access in accesses:
                access.elements = elements_of(agent, op)
        elif agent.in_parts:
            accesses = [part for access in accesses for part in by_parts(agent, op, access)]
        if isinstance(op, Copy) and op.instruction == "tma" and op.barrier:
            self._bring(agent, op, accesses)
            return
        self.memory.touch(accesses)
        self._launch_engines(agent, op, accesses, now)

    def _places(self, agent: SyncAgent, handle: Value) -> list[Place]:
        """What a handle of shared memory stands for: of a whole ring, all slots."""
        place = resolve(agent, handle)
        if place is None:
            return []
        if place.slot >= 0 or place.alloc.result not in self.rings:
            return [place]
        slots = range(int(place.alloc.type.shape[0]))
        return [dataclasses.replace(place, slot=slot) for slot in slots]

    def _launch_engines(self, agent: SyncAgent, op: Op, accesses: list[Access], now: int) -> None:
        agent.unshown += [a for a in accesses if a.writes and not a.engine]
        if isinstance(op, (Copy, Parallel)) and op.instruction == "cp_async":
            agent.open_copies += [a for a in accesses if a.writes]
        elif isinstance(op, Copy) and op.instruction == "buffer_copy":
            size = memory_type(op.destination).dtype.bytes * int(np.prod(op.shape))
            copies = size // (COPY_BYTES * agent.threads.count)  # of a thread, each for itself
            agent.copies += [*([] for _ in range(copies - 1)), [a for a in accesses if a.writes]]
        elif isinstance(op, Gemm) and op.asynchronous:
            for access in accesses:
                access.grouped = access.engine
            agent.gemms.append((now, [a for a in accesses if a.engine]))
        else:
            agent.open_stores += [a for a in accesses if a.engine and not a.writes]

    def _bring(self, agent: SyncAgent, op: Copy, accesses: list[Access]) -> None:
        """A TMA load: by each running thread if some were chosen, else by one that it chooses."""
        blocks = sharing(self.launch.cluster, agent.rank, op.multicast)
        ring, slot = op.barrier
        barriers = [self._find(agent, ring, slot, op, rank) for rank in blocks]
        part = blocks.index(agent.rank) if op.multicast else None
        size, whole = self._brought(op), int(np.prod(op.shape))
        partial = size < whole * memory_type(op.destination).dtype.bytes
        landing = []
        for barrier in barriers:
            for access in accesses:
                place = dataclasses.replace(access.place, block=barrier.rank)
                there = dataclasses.replace(access, place=place, part=part)
                there.landing = (barrier.key, barrier.phase) if access.writes else None
                there.partial = access.writes and partial
                landing.append(there)
        self.memory.touch(landing)
        for barrier in barriers:
            if op.multicast:
                barrier.bring_part(agent, op, self.case)
            barrier.bring(size // len(blocks) * (1 if agent.full else agent.threads.count))

    def _brought(self, op: Copy) -> int:
        """The bytes of all boxes of a TMA load. Clipped ones end with the tensor, behind one row at least."""
        shape = list(op.shape)
        for dim in op.clipped:
            extent = memory_type(op.source).shape[op.source_dims[dim]]
            known = extent if isinstance(extent, int) else self.case.sizes["symbol", extent]
            shape[dim] = max(1, min(shape[dim], known))
        return memory_type(op.destination).dtype.bytes * int(np.prod(shape))

    def _land(self, agent: SyncAgent, op: CpAsyncWait | BufferCopyWait) -> None:
        now = agent.tick()
        keep = len(agent.copies) - op.pending
        for group in agent.copies[: max(0, keep)]:
            for access in group:
                access.done = now
        agent.copies = agent.copies[max(0, keep) :]

    def _arrive_behind_copies(self, agent: SyncAgent, op: CpAsyncArrive) -> None:
        """Arrivals that come when all that their threads have started to copy has landed."""
        barrier = self._find(agent, op.barriers, op.index, op)
        for access in (*agent.open_copies, *(a for group in agent.copies for a in group)):
            access.landing = (barrier.key, barrier.phase)
            self.arriving.append(access)
        agent.open_copies, agent.copies = [], []
        barrier.arrive(agent, op, self.case)

    def _show(self, agent: SyncAgent) -> None:
        """A proxy fence shows what the threads that run it wrote before, and what they know to have
        landed of others' copies.
        """
        now = agent.tick()
        for access in self.arriving:
            key, phase = access.landing or ((), 0)
            if agent.seen(key) > phase and not access.is_shown_to(agent, agent.threads):
                access.shown_to.append((agent, agent.threads))
        later = []
        for access in agent.unshown:
            if access.done is not None and access.threads.inside(agent.threads):
                access.shown = now
            else:
                later.append(access)
        agent.unshown = later

    def _wait_gemms(self, agent: SyncAgent, op: Wait) -> None:
        now = agent.tick()
        keep = max(0, len(agent.gemms) - op.pending)
        for issued, reads in agent.gemms[:keep]:
            agent.gemm_time = issued
            for access in reads:
                access.done = now
        agent.gemms = agent.gemms[keep:]

    def _wait_stores(self, agent: SyncAgent, op: BulkWait) -> None:
        """Groups belong to the thread that closed them: others wait for nothing."""
        now = agent.tick()
        mine = [group for group in agent.stores if group[0].inside(agent.threads)]
        over = mine[: max(0, len(mine) - op.pending)]
        for _, group in over:
            for access in group:
                access.done = now
        agent.stores = [group for group in agent.stores if group not in over]

    # mbarriers ------------------------------------------------------------------------------------

    def _mbarrier(self, agent: SyncAgent, op: Op) -> Blocked | None:
        match op:
            case MbarrierInit():
                self._initialise(agent, op)
            case MbarrierInitFence():
                now = agent.shown_time = agent.tick()
                for barrier in self.mbarriers.values():
                    if barrier.shown_at is None and barrier.made_by is agent:
                        barrier.shown_at = now
            case MbarrierArrive():
                self._arrive(agent, op)
            case MbarrierExpect():
                barrier = self._find(agent, op.barriers, op.index, op)
                size = agent.uniform(op.size)
                if size is None:
                    message = (
                        f"the bytes that {agent.label} expects on {barrier.name} are not known"
                    )
                    raise self.error("TLC0355", message, op)
                barrier.announce(agent.threads.count * size)
                if op.arrives:
                    barrier.arrive(agent, op, self.case)
            case MbarrierWait():
                return self._wait(agent, op)
        return None

    def _initialise(self, agent: SyncAgent, op: MbarrierInit) -> None:
        place, index = resolve(agent, op.barriers), agent.uniform(op.index)
        assert place is not None
        slots = int(memory_type(op.barriers).shape[0])
        if index is None or not 0 <= index < slots:
            raise self.error("TLC0358", f"barrier {index} of {slots} is made", op)
        if agent.threads.count != 1:
            raise self.error("TLC0355", f"{agent.threads.count} threads make one mbarrier", op)
        name = f"{op.barriers.hint or 'mbarrier'}[{index}]"
        key = ("phase", agent.rank, place.alloc, index)
        self.mbarriers[agent.rank, place.alloc, index] = Mbarrier(
            key, name, op.count, agent, agent.threads, agent.rank
        )

    def _arrive(self, agent: SyncAgent, op: MbarrierArrive) -> None:
        """Arrivals of the running threads, each at the barrier of the block that it names."""
        if not op.block:
            self._find(agent, op.barriers, op.index, op).arrive(agent, op, self.case)
            return
        running, number = agent.threads, agent.number(op.block[0])
        ranks = np.broadcast_to(np.asarray(-1 if number is None else number), running.mask.shape)
        for rank in sorted(set(ranks[running.mask].tolist())):
            if not 0 <= rank < self.launch.cluster_blocks:
                which = "not known" if number is None else str(rank)
                message = f"the block at whose {op.barriers.hint} {agent.label} arrives is {which}"
                raise self.error("TLC0355", message, op)
            agent.threads = agent.sets.split(running, ranks == rank)[0]
            self._find(agent, op.barriers, op.index, op, rank).arrive(agent, op, self.case)
        agent.threads = running

    def _find(
        self, agent: SyncAgent, barriers: Value, index: Value, op: Op, rank: int | None = None
    ) -> Mbarrier:
        """The mbarrier an op uses, of its own block or that of a rank, once it is known to be made and
        seen."""
        place, number = resolve(agent, barriers), agent.uniform(index)
        assert place is not None
        block = agent.rank if rank is None else rank
        found = self.mbarriers.get((block, place.alloc, number)) if number is not None else None
        if found is None:
            raise self.error(
                "TLC0355", f"{op.name} uses {barriers.hint}[{number}], which nobody has made", op
            )
        seen = agent.barrier_time
        if found.made_by is not agent:
            seen = agent.seen(("threads", found.made_by.index, found.made_threads.number))
        seen = max(seen, agent.seen(("made", found.made_by.index)))
        if found.shown_at is None or seen < found.shown_at:
            raise self.error(
                "TLC0355", f"{op.name} may use {found.name} before {agent.label} sees it made", op
            )
        return found

    def _wait(self, agent: SyncAgent, op: MbarrierWait) -> Blocked:
        barrier = self._find(agent, op.barriers, op.index, op)
        parity = agent.uniform(op.parity)
        if parity not in (0, 1):
            raise self.error("TLC0355", f"the parity waited for on {barrier.name} is {parity}", op)
        return Blocked(lambda: barrier.passed(parity), lambda: barrier.describe(parity), op.loc)
