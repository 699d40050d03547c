"""The marked graph of a plan's channels, executed: puts, commits, gets and frees by each role, with
bounded slots.

Within a role the stages of a pipeline are interleaved by their leads: step s runs iteration s +
lead of each stage in turn, from the largest lead below zero on. Across roles nothing orders but the
channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.core import Block, Op, Value, walk
from ...ir.ops.control import Launch, Role, Simt
from ...ir.ops.gemm import Gemm
from ...ir.ops.pipeline import (
    Channel,
    Commit,
    Free,
    Get,
    Pipeline,
    Put,
    Receive,
    Send,
    Stage,
    Wait,
)
from .cases import Case
from .slicing import Slice
from .walking import Agent, Blocked, Machine, Steps, run_together


@dataclass(eq=False)
class _Ring:
    """How far the two ends of a channel are."""

    label: str
    slots: int
    puts: int = 0
    commits: int = 0
    gets: int = 0
    frees: int = 0
    alone: bool = False  # one role both writes and reads it


@dataclass(frozen=True)
class _Buffer:
    """The buffer of a ring that was got as number `turn`."""

    ring: _Ring
    turn: int


@dataclass(eq=False)
class _Owed:
    """A free that a deferral leaves for later: of `count` buffers."""

    ring: _Ring
    count: int
    op: Free


class PlanAgent(Agent):
    """A role with the matrix instructions that it has in flight, and the frees that it owes."""

    def __init__(self, label: str, index: int, size: int, first: int, warp: int) -> None:
        super().__init__(label, index, size, first, warp)
        self.gemms: list[tuple[Gemm, list[_Buffer]]] = []
        self.owed: list[_Owed] = []
        self.starts: dict[_Ring, int] = {}  # gets before the current pipeline
        self.deferred: dict[_Ring, Free] = {}
        self.in_stage = False


class PlanMachine(Machine):
    """One launch with the sizes of one case."""

    def __init__(self, part: Slice, case: Case, launch: Launch, warp: int) -> None:
        super().__init__(part, case, launch)
        self.warp = warp
        self.rings: dict[Value, _Ring] = {}
        self.roles = [op for op in launch.body.ops if isinstance(op, Role)]

    def run(self, prefix: list[Op]) -> None:
        """Runs all roles to their ends. Raises HazardError."""
        size = self.launch.launched_threads or self.launch.threads
        everyone = PlanAgent("the block", 0, size, 0, self.warp)
        self.begin(everyone, prefix)
        run_together({everyone: self._before_roles(everyone)}, self.case)
        agents = [everyone]
        if self.roles:
            agents = []
            for number, role in enumerate(self.roles, start=1):
                agent = PlanAgent(role.label, number, role.threads, role.first_thread, self.warp)
                agent.env = dict(everyone.env)
                agents.append(agent)
            pairs = zip(agents, self.roles, strict=True)
            programs: dict[Agent, Steps] = {a: self.block(a, role.body) for a, role in pairs}
            run_together(programs, self.case)
        self._at_end(agents)

    def _before_roles(self, everyone: PlanAgent) -> Steps:
        yield from self.outside_of_roles(everyone)
        self._pay(everyone)

    def _at_end(self, agents: list[PlanAgent]) -> None:
        for agent in agents:
            for gemm, _ in agent.gemms:
                raise self.error("TLC0359", f"{agent.label} ends with a gemm in flight", gemm)
        for ring in self.rings.values():
            counts = f"{ring.puts} puts, {ring.gets} gets and {ring.frees} frees"
            if not ring.puts == ring.commits == ring.gets == ring.frees:
                raise self.error("TLC0350", f"{ring.label} ends after {counts}", self.launch)

    # Pipelines ------------------------------------------------------------------------------------

    def block(self, agent: Agent, block: Block) -> Steps:
        """A block; what is owed when it ends is freed then."""
        assert isinstance(agent, PlanAgent)
        yield from super().block(agent, block)
        if not agent.in_stage:
            self._pay(agent)

    def pipeline(self, agent: Agent, op: Pipeline) -> Steps:
        """Steps of the stages that this role runs."""
        assert isinstance(agent, PlanAgent)
        start, stop = agent.number(op.start), agent.number(op.stop)
        if not isinstance(start, int) or not isinstance(stop, int):
            start, stop = 0, self.case.unknown()
        stages = [s for s in self.part.ops[op.body] if isinstance(s, Stage)]
        agent.starts = {ring: ring.gets for ring in self.rings.values()}
        agent.deferred = {}
        agent.in_stage = True
        for step in range(-max((s.lead for s in stages), default=0), stop - start):
            for stage in stages:
                iteration = step + stage.lead
                if 0 <= iteration < stop - start:
                    agent.env[op.body.params[0]] = start + iteration
                    yield from self.block(agent, stage.body)
        agent.in_stage = False
        for ring, free in agent.deferred.items():
            left = min(free.defer, ring.gets - agent.starts.get(ring, 0))
            agent.owed.append(_Owed(ring, left, free))

    def simt(self, agent: Agent, op: Simt) -> Steps:
        """Thread-level code neither puts nor gets (plan_rules.py)."""
        return iter(())

    # Statements -----------------------------------------------------------------------------------

    def statement(self, agent: Agent, op: Op) -> Blocked | None:
        assert isinstance(agent, PlanAgent)
        match op:
            case Channel():
                ring = _Ring(op.label or op.result.hint, op.type.slots)
                ring.alone = self._users(op.result) == 1
                self.rings[op.result] = ring
            case Put() | Send():
                return self._put(agent, op)
            case Commit():
                self.rings[op.channel].commits += 1
            case Get() | Receive():
                return self._get(agent, op)
            case Free():
                self._free(agent, op)
            case Gemm() if op.asynchronous:
                buffers = [agent.env.get(v) for v in (op.a, op.b)]
                agent.gemms.append((op, [b for b in buffers if isinstance(b, _Buffer)]))
            case Wait():
                agent.gemms = agent.gemms[max(0, len(agent.gemms) - op.pending) :]
                if op.pending == 0:
                    self._pay(agent)
        return None

    def resumed(self, agent: Agent, op: Op) -> None:
        match op:
            case Put():
                self.rings[op.channel].puts += 1
            case Send():
                ring = self.rings[op.channel]
                ring.puts += 1
                ring.commits += 1
            case Get():
                ring = self.rings[op.channel]
                agent.env[op.result] = _Buffer(ring, ring.gets)
                ring.gets += 1
            case Receive():
                ring = self.rings[op.channel]
                ring.gets += 1
                ring.frees += 1

    def _users(self, channel: Value) -> int:
        """How many roles use a channel."""
        bodies = [role.body for role in self.roles] or [self.launch.body]
        return sum(any(channel in op.inputs for op in walk(body)) for body in bodies)

    def _put(self, agent: PlanAgent, op: Put | Send) -> Blocked:
        ring = self.rings[op.channel]

        def ready() -> bool:
            return ring.puts - ring.frees < ring.slots

        if ring.alone and not ready():
            what = (
                f"{op.name} number {ring.puts} of {ring.label} overwrites what has not been freed"
            )
            raise self.error(
                "TLC0352", f"{what}: {ring.slots} slots, {ring.frees} frees so far", op
            )
        return self._waiting(
            ring, ready, f"room in {ring.label} (all {ring.slots} slots taken)", op
        )

    def _get(self, agent: PlanAgent, op: Get | Receive) -> Blocked:
        ring = self.rings[op.channel]

        def ready() -> bool:
            return ring.commits > ring.gets

        if ring.alone and not ready():
            what = f"{op.name} number {ring.gets} of {ring.label} comes before its put"
            raise self.error("TLC0351", f"{what}: {ring.commits} commits so far", op)
        return self._waiting(ring, ready, f"data in {ring.label}", op)

    def _waiting(self, ring: _Ring, ready: Callable[[], bool], what: str, op: Op) -> Blocked:
        def describe() -> str:
            return f"{what} after {ring.puts} puts, {ring.gets} gets, {ring.frees} frees"

        return Blocked(ready, describe, op.loc)

    def _free(self, agent: PlanAgent, op: Free) -> None:
        ring = self.rings[op.channel]
        if op.defer:
            agent.deferred[ring] = op
        if ring.gets - op.defer > agent.starts.get(ring, 0):
            self._release(agent, ring, op)

    def _pay(self, agent: PlanAgent) -> None:
        """The frees that deferrals left over."""
        owed, agent.owed = agent.owed, []
        for debt in owed:
            for _ in range(debt.count):
                self._release(agent, debt.ring, debt.op)

    def _release(self, agent: PlanAgent, ring: _Ring, op: Free) -> None:
        """One more buffer of the ring may be put: nothing may still read it."""
        for gemm, buffers in agent.gemms:
            if any(b.ring is ring and b.turn <= ring.frees for b in buffers):
                message = (
                    f"{ring.label} is freed while the gemm at {gemm.loc} may still be reading it"
                )
                raise self.error("TLC0352", message, op)
        ring.frees += 1
