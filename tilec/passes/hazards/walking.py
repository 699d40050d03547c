"""One role's program, executed as a coroutine that stops where it must wait for another role.

Control flow is concrete: loops run as often as the case says, conditions that depend on the thread
split the role's threads. What the statements do is the business of a subclass of `Machine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import HazardError, Loc
from ...ir.core import Block, Constant, Op, Value
from ...ir.ops.control import (
    For,
    HardwareBlock,
    If,
    Launch,
    Role,
    Simt,
    Symbol,
    ThreadId,
    While,
    Yield,
)
from ...ir.ops.memory import Load, Store
from ...ir.ops.pipeline import Pipeline
from ...ir.types import Space
from .cases import Case
from .numbers import Number, merge
from .slicing import Scalar, Slice, is_space
from .threads import Threads, ThreadSets


@dataclass(frozen=True)
class Blocked:
    """What a role waits for: whether it has come, and how to say it."""

    ready: Callable[[], bool]
    describe: Callable[[], str]
    loc: Loc


Steps = Iterator[Blocked]


_PLAIN = frozenset({Yield, Symbol, ThreadId, HardwareBlock, Load, Store})


class Agent:
    """A role (or the whole block) as it runs: its values, its variables, its threads."""

    def __init__(
        self, label: str, index: int, size: int, first: int, warp: int, rank: int = 0
    ) -> None:
        self.label, self.index, self.first = label, index, first
        self.rank = rank  # of its block in the cluster
        self.sets = ThreadSets(size, warp)
        self.env: dict[Value, Any] = {}
        self.threads = self.sets.all  # those that run now
        self.variables: dict[tuple[Value, tuple[int, ...]], list[tuple[Threads, Number]]] = {}
        self.simt = False

    @property
    def full(self) -> bool:
        return self.threads is self.sets.all

    def number(self, value: Value) -> Number:
        """What a scalar is now. None: not known, or not computed."""
        if isinstance(value, Constant):
            return value.value
        found = self.env.get(value)
        return found if isinstance(found, (int, float, np.ndarray)) else None

    def uniform(self, value: Value) -> int | None:
        """The one integer that a scalar is in all running threads, if it is known to be one."""
        number = self.number(value)
        if isinstance(number, np.ndarray):
            mine = number[self.threads.mask]
            number = int(mine[0]) if mine.size and bool((mine == mine[0]).all()) else None
        return int(number) if number is not None else None


class Machine:
    """Executes the kept ops of a launch, role by role."""

    def __init__(self, part: Slice, case: Case, launch: Launch) -> None:
        self.part, self.case, self.launch = part, case, launch

    # What a subclass says -------------------------------------------------------------------------

    def statement(self, agent: Agent, op: Op) -> Blocked | None:
        """An op without control flow. What it gives is waited for, then `resumed` is called."""
        raise NotImplementedError

    def resumed(self, agent: Agent, op: Op) -> None:
        """After a wait of `op` has come to its end."""

    def pipeline(self, agent: Agent, op: Pipeline) -> Steps:
        raise HazardError("TLC0350", "a pipeline stands in a lowered program", loc=op.loc)

    def error(self, code: str, message: str, op: Op) -> HazardError:
        """A hazard at an op, with the sizes that show it."""
        return HazardError(code, message, loc=op.loc, hint=f"found with {self.case}")

    # Control flow ---------------------------------------------------------------------------------

    def outside_of_roles(self, agent: Agent) -> Steps:
        """Runs what stands in the launch itself."""
        for op in self.part.ops[self.launch.body]:
            if not isinstance(op, Role):
                yield from self.one(agent, op)

    def block(self, agent: Agent, block: Block) -> Steps:
        """Runs a block."""
        scalars, env = self.part.scalars, agent.env
        for op in self.part.ops[block]:
            known = scalars.get(op)
            if known is not None:
                env[known[0]] = computed(known, env)
            else:
                yield from self.one(agent, op)

    def one(self, agent: Agent, op: Op) -> Steps:
        """Runs one op."""
        match op:
            case If():
                yield from self._if(agent, op)
            case For():
                yield from self._for(agent, op)
            case While():
                yield from self._while(agent, op)
            case Pipeline():
                yield from self.pipeline(agent, op)
            case Simt():
                yield from self.simt(agent, op)
            case Role():
                raise HazardError(
                    "TLC0350", f"role {op.label} stands inside other code", loc=op.loc
                )
            case _:
                if not self.scalar(agent, op):
                    waiting = self.statement(agent, op)
                    if waiting is not None:
                        while not waiting.ready():
                            yield waiting
                        self.resumed(agent, op)

    def begin(self, agent: Agent, prefix: Sequence[Op]) -> None:
        """What an agent knows from the start: numbers that count trips, what stands before the launch,
        its block.
        """
        agent.env.update(self.case.parameters)
        for op in prefix:
            self.scalar(agent, op)
        for axis, param in enumerate(self.launch.body.params):
            agent.env[param] = self.case.sizes["block", str(axis)]

    def simt(self, agent: Agent, op: Simt) -> Steps:
        """Runs thread-level code."""
        agent.env[op.body.params[0]] = np.arange(agent.sets.size)
        agent.simt = True
        yield from self.block(agent, op.body)
        agent.simt = False

    def _if(self, agent: Agent, op: If) -> Steps:
        condition = agent.number(op.condition)
        if isinstance(condition, np.ndarray):
            yield from self._divided(agent, op, condition)
            return
        if condition is None:
            if agent.simt:  # each thread by itself: both arms may run
                yield from self.block(agent, op.then)
                yield from self.block(agent, op.orelse)
                return
            condition = self.case.unknown() != 0
        chosen = op.then if condition else op.orelse
        yield from self.block(agent, chosen)
        self._results(agent, op.results, self._yielded(agent, chosen))

    def _divided(self, agent: Agent, op: If, condition: Any) -> Steps:
        before = agent.threads
        yes, no = agent.sets.split(before, condition.astype(np.bool_))
        outcomes: list[list[Any]] = []
        for threads, block in ((yes, op.then), (no, op.orelse)):
            agent.threads = threads
            if threads.count:
                yield from self.block(agent, block)
            outcomes.append(self._yielded(agent, block))
        agent.threads = before
        merged = (
            [merge(condition, x, y) for x, y in zip(*outcomes, strict=True)] if op.results else []
        )
        self._results(agent, op.results, merged)

    def _for(self, agent: Agent, op: For) -> Steps:
        start, stop, step = (agent.number(v) for v in (op.start, op.stop, op.step))
        if stop is None or start is None or step is None:
            start, stop, step = 0, self.case.unknown(), 1
        if int(np.min(step)) <= 0:
            raise HazardError("TLC0357", f"a loop that steps by {step} has no end", loc=op.loc)
        vectors = isinstance(start, np.ndarray) or isinstance(stop, np.ndarray)
        params = op.body.params[1:]
        carried = [self._value(agent, v) for v in op.inits]
        before = agent.threads
        for index in range(int(np.min(start)), int(np.max(stop)), int(np.min(step))):
            if vectors:
                agent.threads = agent.sets.split(
                    before, np.asarray((start <= index) & (index < stop))
                )[0]
            agent.env[op.body.params[0]] = index
            self._results(agent, params, carried)
            yield from self.block(agent, op.body)
            carried = self._yielded(agent, op.body)
        agent.threads = before
        self._results(agent, op.results, carried)

    def _while(self, agent: Agent, op: While) -> Steps:
        carried = [self._value(agent, v) for v in op.inits]
        turns = 0
        while True:
            self._results(agent, op.condition.params, carried)
            yield from self.block(agent, op.condition)
            (going,) = self._yielded(agent, op.condition)
            if going is None or isinstance(going, np.ndarray):
                going = turns < self.case.unknown()
            if not going:
                break
            turns += 1
            self._results(agent, op.body.params, carried)
            yield from self.block(agent, op.body)
            carried = self._yielded(agent, op.body)
        self._results(agent, op.results, carried)

    # Scalars --------------------------------------------------------------------------------------

    def scalar(self, agent: Agent, op: Op) -> bool:
        """Computes an op that has nothing to do with shared memory. False if it has."""
        if type(op) not in _PLAIN and op not in self.part.scalars:
            return False
        match op:
            case Yield():
                return True
            case Symbol():
                agent.env[op.result] = self.case.sizes["symbol", op.label]
            case ThreadId():
                first = agent.first if op.launched else 0
                agent.env[op.result] = first + np.arange(agent.sets.size)
            case HardwareBlock():
                count = self.case.sizes["clusters", ""] * self.launch.cluster_blocks
                agent.env[op.result] = count if op.count else agent.rank
            case Load() if not is_space(op.memory, Space.SHARED):
                agent.env[op.result] = self._load(agent, op)
            case Store() if not is_space(op.memory, Space.SHARED):
                self._store(agent, op)
            case _ if op in self.part.scalars:
                known = self.part.scalars[op]
                agent.env[known[0]] = computed(known, agent.env)
            case _:
                return False
        return True

    def _load(self, agent: Agent, op: Load) -> Number:
        indices = [agent.number(i) for i in op.indices]
        if is_space(op.memory, Space.GLOBAL):
            return self.case.element(indices) if not agent.simt else None
        place = _place(op.memory, indices)
        for threads, number in reversed(agent.variables.get(place, [])) if place else ():
            if agent.threads.inside(threads):
                return number
            if bool((agent.threads.mask & threads.mask).any()):
                return None
        return None

    def _store(self, agent: Agent, op: Store) -> None:
        if not is_space(op.memory, Space.LOCAL):
            return
        place = _place(op.memory, [agent.number(i) for i in op.indices])
        if place is None:
            for known in [p for p in agent.variables if p[0] is op.memory]:
                del agent.variables[known]
            return
        number = agent.number(op.value) if not op.predicate else None
        kept = [e for e in agent.variables.get(place, []) if not e[0].inside(agent.threads)]
        agent.variables[place] = [*kept, (agent.threads, number)]

    def _value(self, agent: Agent, value: Value) -> Any:
        return value.value if isinstance(value, Constant) else agent.env.get(value)

    def _yielded(self, agent: Agent, block: Block) -> list[Any]:
        end = block.terminator
        return [self._value(agent, v) for v in end.inputs] if end is not None else []

    def _results(self, agent: Agent, results: Sequence[Value], numbers: Sequence[Any]) -> None:
        for result, number in zip(results, numbers, strict=True):
            agent.env[result] = number


def computed(scalar: Scalar, env: dict[Value, Any]) -> Number:
    """A scalar from the values so far."""
    _, function, inputs, takes_unknown = scalar
    numbers = [env.get(v) if isinstance(v, Value) else v for v in inputs]
    if function is None:
        return None
    if not takes_unknown:
        for number in numbers:
            if number is None:
                return None
    result: Number = function(*numbers)
    return result


def _place(memory: Value, indices: list[Number]) -> tuple[Value, tuple[int, ...]] | None:
    """A variable, or an element of a local array at known indices."""
    known = [i for i in indices if isinstance(i, int)]
    return (memory, tuple(known)) if len(known) == len(indices) else None


def run_together(programs: dict[Agent, Steps], case: Case) -> None:
    """Runs the roles to their ends. Raises HazardError (TLC0357) where none of them can go on."""
    waiting: dict[Agent, Blocked] = {}
    while programs:
        progress = False
        for agent, steps in list(programs.items()):
            if agent in waiting and not waiting[agent].ready():
                continue
            progress = True
            blocked = next(steps, None)
            if blocked is None:
                del programs[agent]
                waiting.pop(agent, None)
            else:
                waiting[agent] = blocked
        if not progress:
            who = [f"{agent.label} waits for {waiting[agent].describe()}" for agent in programs]
            loc = next(iter(waiting.values())).loc
            raise HazardError(
                "TLC0357", "deadlock: " + "; ".join(who), loc=loc, hint=f"found with {case}"
            )
