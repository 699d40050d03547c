"""mbarriers of the abstract machine: phases, arrivals, bytes; what an ended phase makes known."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import HazardError
from ...ir.core import Op
from ...ir.ops.tile import Copy
from .cases import Case
from .records import NEVER, Key, SyncAgent, View, join
from .threads import Threads


@dataclass(eq=False)
class _Arrival:
    """Arrivals of some threads, and how far their role was by then.

    `barrier`, `warp` and `gemm` are the times of its last barrier, of the last sync of their warps,
    and of the issue of the last matrix instruction that is known to be complete.
    """

    agent: SyncAgent
    threads: Threads
    time: int
    barrier: int
    warp: int
    gemm: int

    def covers(self, threads: Threads) -> int:
        """The time up to which these arrivals stand for what `threads` did."""
        if threads.inside(self.threads):
            return self.time
        time = self.barrier
        if self.warp > time and threads.inside_warps(self.threads):
            time = self.warp
        if self.gemm > time and threads.inside_groups(self.threads):
            time = self.gemm
        return time

    def covers_engine(self, threads: Threads) -> int:
        """The time up to which they stand for the matrix instructions of `threads`."""
        return self.time if threads.inside_groups(self.threads) else self.barrier


@dataclass(eq=False)
class _Wait:
    agent: SyncAgent
    threads: Threads
    phase: int
    time: int
    op: Op


@dataclass(eq=False)
class _Visit:
    """An arrival from another block: after so many meetings of the cluster."""

    agent: SyncAgent
    threads: Threads
    time: int
    meetings: int
    op: Op


@dataclass(eq=False)
class Mbarrier:
    """One mbarrier. `views[n]` is what the end of phase n makes known."""

    key: Key
    name: str
    count: int
    made_by: SyncAgent
    made_threads: Threads
    rank: int  # of its block
    shown_at: int | None = None
    arrived: int = 0
    bytes: int = 0  # expected and not yet brought
    expected: int = 0
    brought: int = 0
    known: View = field(default_factory=dict)
    parts: list[_Arrival] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    waits: list[_Wait] = field(default_factory=list)
    from_others: list[_Visit] = field(default_factory=list)
    tiles: dict[Op, tuple[int | None, ...]] = field(default_factory=dict)  # of which parts come

    @property
    def phase(self) -> int:
        return len(self.views)

    def announce(self, size: int) -> None:
        """Bytes that copy engines will bring in this phase."""
        self.bytes += size
        self.expected += size

    def arrive(self, agent: SyncAgent, op: Op, case: Case) -> None:
        """One arrival of every running thread of a role."""
        count = agent.threads.count
        if self.arrived + count > self.count:
            many = f"{self.arrived + count} arrivals in one phase of {self.name}"
            raise HazardError(
                "TLC0355",
                f"{many}, which was made for {self.count}",
                loc=op.loc,
                hint=f"found with {case}",
            )
        if agent.rank != self.rank:
            visit = _Visit(agent, agent.threads, agent.tick(), agent.meetings, op)
            self.from_others.append(visit)
        self.arrived += count
        self.parts.append(_arrival(agent))
        join(self.known, agent.knowledge())
        self._complete()

    def bring(self, size: int) -> None:
        """A copy engine's bytes."""
        self.bytes -= size
        self.brought += size
        self._complete()

    def bring_part(self, agent: SyncAgent, op: Copy, case: Case) -> None:
        """A part of a tile, which begins where the other parts say that it does. Raises HazardError
        (TLC0360)."""
        start = tuple(agent.uniform(index) for index in op.source_indices)
        other = self.tiles.setdefault(op, start)
        if other != start:
            tensor = op.source.hint or "a tensor"
            message = f"{agent.label} brings a part of the tile of {tensor} at {start}, another the one at {other}"
            raise HazardError("TLC0360", message, loc=op.loc, hint=f"found with {case}")

    def passed(self, parity: int) -> bool:
        """Whether a wait for this parity is over."""
        return (self.phase & 1) != parity

    def wait(self, agent: SyncAgent, op: Op) -> None:
        """A wait that is over: the running threads know what the phase made known."""
        self.waits.append(_Wait(agent, agent.threads, self.phase - 1, agent.tick(), op))
        if self.phase:
            agent.learn(agent.threads, self.views[-1])

    def _complete(self) -> None:
        if self.arrived != self.count or self.bytes:
            return
        view = self.known
        for part in self.parts:
            index = part.agent.index
            for threads in part.agent.sets.known:
                _raise(view, ("threads", index, threads.number), part.covers(threads))
                _raise(view, ("engine", index, threads.number), part.covers_engine(threads))
        view[self.key] = self.phase + 1
        self.views.append(view)
        self.known, self.parts, self.tiles = {}, [], {}
        self.arrived = self.bytes = self.expected = self.brought = 0

    def check_parities(self, case: Case) -> None:
        """No phase may end before all who wait for the one before have seen that one end.

        They would find the barrier two phases on, with the parity that says "not yet". Raises
        HazardError (TLC0355).
        """
        for wait in self.waits:
            if wait.phase + 1 >= self.phase:
                continue
            view = self.views[wait.phase + 1]
            if view.get(("threads", wait.agent.index, wait.threads.number), NEVER) < wait.time:
                who = f"{wait.agent.label} may find {self.name} two phases on when it waits"
                raise HazardError(
                    "TLC0355",
                    f"{who}: nothing holds the next phase back until it has seen this one",
                    loc=wait.op.loc,
                    hint=f"found with {case}",
                )

    def check_end(self, owners: list[SyncAgent], case: Case) -> None:
        """No block may end before the arrivals of others at its barrier. Raises HazardError
        (TLC0359)."""
        for visit in self.from_others:
            key = ("threads", visit.agent.index, visit.threads.number)
            if all(o.seen(key) < visit.time and o.meetings <= visit.meetings for o in owners):
                who = f"block {self.rank} may end before {visit.agent.label}"
                raise HazardError(
                    "TLC0359",
                    f"{who} arrives at its {self.name}",
                    loc=visit.op.loc,
                    hint=f"found with {case}",
                )

    def describe(self, parity: int) -> str:
        parts = f"{self.arrived} of {self.count} arrivals"
        if self.expected or self.brought:
            parts += f", {self.brought} of {self.expected} bytes"
        return f"{self.name} (parity {parity}, phase {self.phase}: {parts})"


def _raise(view: View, key: Key, time: int) -> None:
    if time > view.get(key, NEVER):
        view[key] = time


def _arrival(agent: SyncAgent) -> _Arrival:
    threads = agent.threads
    whole = agent.sets.find(threads.warps)
    warp = max((time for met, time in agent.warps_met if whole.inside(met)), default=NEVER)
    return _Arrival(agent, threads, agent.tick(), agent.barrier_time, warp, agent.gemm_time)
