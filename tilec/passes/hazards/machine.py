"""The abstract machine of lowered programs: shared memory, copies that threads start, copy engines,
mbarriers, named barriers.

A statement of the tile level is an access by all running threads of its role to whole slots; which
thread touches which element is followed only in simt regions. Time is the order of one
interleaving; what it does not order counts as unordered (records.py).
"""

from __future__ import annotations

import numpy as np

from ...errors import HazardError
from ...ir.core import Access as Kind
from ...ir.core import Op, Value
from ...ir.ops.amd import COPY_BYTES, BufferCopyWait
from ...ir.ops.control import Launch, Parallel, Role, Simt
from ...ir.ops.memory import Alloc, Flatten, Load, Slot, Store, memory_type
from ...ir.ops.nvidia import (
    BulkCommit,
    BulkWait,
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
from ...ir.ops.tile import Copy, Gemm
from ...ir.types import Space
from .cases import Case
from .elements import by_parts, elements_of
from .mbarriers import Mbarrier
from .records import Access, Memory, Place, SyncAgent, resolve
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
        super().__init__(part, case)
        self.launch, self.warp = launch, warp
        self.memory = Memory(case)
        self.mbarriers: dict[tuple[Alloc, int], Mbarrier] = {}
        self.named: dict[int, tuple[SyncAgent, Threads]] = {}
        self.shared: dict[int, Mbarrier] = {}  # named barriers on which several roles meet
        self.settled = settled
        self.roles = [op for op in launch.body.ops if isinstance(op, Role)]

    def run(self, prefix: list[Op]) -> None:
        """Runs the launch: what stands before the roles by all threads, then the roles together."""
        size = self.launch.launched_threads or self.launch.threads
        everyone = SyncAgent("the block", 0, size, 0, self.warp)
        for op in prefix:
            self.scalar(everyone, op)
        for axis, param in enumerate(self.launch.body.params):
            everyone.env[param] = self.case.sizes["block", str(axis)]
        run_together({everyone: self._before_roles(everyone)}, self.case)
        agents = [everyone]
        if self.roles:
            agents = [
                self._agent(role, number, everyone)
                for number, role in enumerate(self.roles, start=1)
            ]
            run_together(
                {a: self.block(a, role.body) for a, role in zip(agents, self.roles, strict=True)},
                self.case,
            )
        for agent in agents:
            self._at_end(agent)
        for barrier in self.mbarriers.values():
            barrier.check_parities(self.case)

    def _before_roles(self, everyone: SyncAgent) -> Steps:
        for op in self.part.ops[self.launch.body]:
            if not isinstance(op, Role):
                yield from self.one(everyone, op)

    def _agent(self, role: Role, number: int, everyone: SyncAgent) -> SyncAgent:
        agent = SyncAgent(role.label, number, role.threads, role.first_thread, self.warp)
        agent.env = dict(everyone.env)
        met = {("threads", 0, t.number): everyone.barrier_time for t in everyone.sets.known}
        agent.learn(agent.sets.all, {**everyone.views[0][1], **met})
        return agent

    def _at_end(self, agent: SyncAgent) -> None:
        if agent.gemms:
            op = agent.gemms[0][1][0].op if agent.gemms[0][1] else self.launch
            raise self._error(
                "TLC0359",
                f"{agent.label} ends with a {op.name} in flight that nobody waits for",
                op,
            )
        for group in (*(g for _, g in agent.stores), agent.open_stores):
            for access in group:
                name = access.place.name
                message = f"{agent.label} ends while a copy engine may still be reading {name}"
                raise self._error("TLC0359", message, access.op)
        for access in self.memory.unlanded():
            key, phase = access.landing or ((), 0)
            if access.agent is agent and not any(
                w.phase >= phase for w in self._barrier(key).waits
            ):
                message = f"what {access.op.name} brings to {access.place.name} is never waited for"
                raise self._error("TLC0351", message, access.op)

    def _barrier(self, key: tuple[object, ...]) -> Mbarrier:
        return next(b for b in self.mbarriers.values() if b.key == key)

    def _error(self, code: str, message: str, op: Op) -> HazardError:
        return HazardError(code, message, loc=op.loc, hint=f"found with {self.case}")

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
                    agent.env[op.result] = Place(op)
            case Barrier():
                return self._meet(agent, op)
            case WarpSync():
                agent.meet_warps()
            case CpAsyncCommit():
                agent.copies.append(agent.open_copies)
                agent.open_copies = []
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
        if isinstance(op, Barrier):
            agent.learn(agent.sets.all, self.shared[op.barrier].views[-1])
            return
        assert isinstance(op, MbarrierWait)
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
            raise self._error("TLC0358", f"the slot of {name} is {what}, and it has {slots}", op)
        return Place(ring.alloc, index, op, agent.tick())

    def _meet(self, agent: SyncAgent, op: Barrier) -> Blocked | None:
        size = agent.sets.size
        if op.barrier and op.threads == agent.threads.count < size:
            self._own(agent, op)
            agent.meet_part()
            return None
        if not agent.full:
            who = f"{agent.threads.count} of the {size} threads of {agent.label}"
            message = f"{who} come to a barrier of all"
            raise self._error("TLC0356", message, op)
        if op.barrier == 0 and self.roles and agent.index:
            message = (
                f"{agent.label} waits at the block's barrier, to which the other roles do not come"
            )
            raise self._error("TLC0356", message, op)
        if op.barrier and op.threads > size:
            return self._meet_roles(agent, op)
        if op.barrier and op.threads != size:
            message = (
                f"barrier {op.barrier} is for {op.threads} threads, and {agent.label} has {size}"
            )
            raise self._error("TLC0356", message, op)
        self._own(agent, op)
        agent.meet()
        return None

    def _own(self, agent: SyncAgent, op: Barrier) -> None:
        """A barrier is used by one set of threads only."""
        other, threads = self.named.setdefault(op.barrier, (agent, agent.threads))
        if op.barrier and other is not agent:
            message = f"{agent.label} and {other.label} both use barrier {op.barrier}"
            raise self._error("TLC0356", message, op)
        if op.barrier and threads is not agent.threads:
            message = f"two sets of {op.threads} threads of {agent.label} use barrier {op.barrier}"
            raise self._error("TLC0356", message, op)

    def _meet_roles(self, agent: SyncAgent, op: Barrier) -> Blocked:
        """A named barrier of several roles: all that are to come are seen by all that came."""
        name = f"barrier {op.barrier}"
        made = Mbarrier(("named", op.barrier), name, op.threads, agent, 0, agent.threads)
        barrier = self.shared.setdefault(op.barrier, made)
        if barrier.count != op.threads:
            message = f"{name} is for {op.threads} threads here, and elsewhere for {barrier.count}"
            raise self._error("TLC0356", message, op)
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
                place = resolve(agent, effect.memory) if effect.memory is not None else None
                if place is None or effect.access not in (Kind.READ, Kind.WRITE):
                    continue
                writes, engine = effect.access is Kind.WRITE, effect.proxy == "async"
                key = (place, writes, engine, effect.atomic)
                if key not in found:
                    found[key] = Access(agent, agent.threads, inner, writes, engine, None, place)
                    found[key].atomic = effect.atomic
        accesses = list(found.values())
        now = agent.tick()
        for access in accesses:
            access.done = None if _in_flight(op, access) else now
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

    def _launch_engines(self, agent: SyncAgent, op: Op, accesses: list[Access], now: int) -> None:
        agent.unshown += [a for a in accesses if a.writes and not a.engine]
        if isinstance(op, Copy) and op.instruction == "cp_async":
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
        barrier = self._find(agent, op.barrier[0], op.barrier[1], op)
        for access in accesses:
            if access.writes:
                access.landing = (barrier.key, barrier.phase)
        self.memory.touch(accesses)
        size = memory_type(op.destination).dtype.bytes * int(np.prod(op.shape))
        barrier.bring(size * (1 if agent.full else agent.threads.count))

    def _land(self, agent: SyncAgent, op: CpAsyncWait | BufferCopyWait) -> None:
        now = agent.tick()
        keep = len(agent.copies) - op.pending
        for group in agent.copies[: max(0, keep)]:
            for access in group:
                access.done = now
        agent.copies = agent.copies[max(0, keep) :]

    def _show(self, agent: SyncAgent) -> None:
        """A proxy fence shows what the threads that run it wrote before."""
        now = agent.tick()
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
                now = agent.tick()
                for barrier in self.mbarriers.values():
                    if barrier.shown_at is None and barrier.made_by is agent:
                        barrier.shown_at = now
            case MbarrierArrive():
                self._find(agent, op.barriers, op.index, op).arrive(agent, op, self.case)
            case MbarrierExpect():
                barrier = self._find(agent, op.barriers, op.index, op)
                barrier.announce(agent.threads.count * op.size)
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
            raise self._error("TLC0358", f"barrier {index} of {slots} is made", op)
        if agent.threads.count != 1:
            raise self._error("TLC0355", f"{agent.threads.count} threads make one mbarrier", op)
        name = f"{op.barriers.hint or 'mbarrier'}[{index}]"
        key = ("phase", place.alloc, index)
        self.mbarriers[place.alloc, index] = Mbarrier(
            key, name, op.count, agent, agent.tick(), agent.threads
        )

    def _find(self, agent: SyncAgent, barriers: Value, index: Value, op: Op) -> Mbarrier:
        """The mbarrier an op uses, once it is known to be made and seen."""
        place, number = resolve(agent, barriers), agent.uniform(index)
        assert place is not None
        found = self.mbarriers.get((place.alloc, number)) if number is not None else None
        if found is None:
            raise self._error(
                "TLC0355", f"{op.name} uses {barriers.hint}[{number}], which nobody has made", op
            )
        seen = agent.barrier_time
        if found.made_by is not agent:
            seen = agent.seen(("threads", found.made_by.index, found.made_threads.number))
        if found.shown_at is None or seen < found.shown_at:
            raise self._error(
                "TLC0355", f"{op.name} may use {found.name} before {agent.label} sees it made", op
            )
        return found

    def _wait(self, agent: SyncAgent, op: MbarrierWait) -> Blocked:
        barrier = self._find(agent, op.barriers, op.index, op)
        parity = agent.uniform(op.parity)
        if parity not in (0, 1):
            raise self._error("TLC0355", f"the parity waited for on {barrier.name} is {parity}", op)
        return Blocked(lambda: barrier.passed(parity), lambda: barrier.describe(parity), op.loc)


def _in_flight(op: Op, access: Access) -> bool:
    """Whether the access is still going on when the statement is done."""
    if isinstance(op, Copy) and op.instruction in ("cp_async", "buffer_copy"):
        return access.writes
    return access.engine
