"""The abstract machine of exchanges: shared memory that lower_tiles itself takes, for reductions and
scans across warps and for tiles that change their layout.

It runs thread-level programs, and follows for every element of these buffers which thread wrote and
which read it since the threads of the role last met. All other memory was followed at the tile
level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...ir.core import Op, Program, Value, walk
from ...ir.ops.control import If, Launch, Role
from ...ir.ops.memory import Alloc, Load, Store, memory_type
from ...ir.ops.thread import Barrier, VectorLoad, VectorStore
from ...ir.rewrite import uses
from ...ir.types import Space
from .cases import Case
from .numbers import Vector
from .slicing import Slice, is_space
from .walking import Agent, Blocked, Machine, Steps, run_together

ElementAccess = (Load, Store, VectorLoad, VectorStore)
_NOBODY, _SEVERAL = -1, -2


def exchange_buffers(program: Program) -> frozenset[Value]:
    """The shared buffers that passes made and threads alone touch, element by element."""
    used = uses(program.body)
    made = [
        op.result
        for op in walk(program.body)
        if isinstance(op, Alloc) and op.managed and is_space(op.result, Space.SHARED)
    ]
    return frozenset(
        v for v in made if all(isinstance(op, ElementAccess) for op in used.get(v, ()))
    )


def exchange_slice(program: Program, buffers: frozenset[Value]) -> Slice:
    """What decides which thread touches which element of these buffers, and when."""

    def matters(op: Op) -> bool:
        if isinstance(op, ElementAccess):
            return op.memory in buffers
        return isinstance(op, (Barrier, Role))

    return Slice(program.body, matters)


@dataclass
class _Buffer:
    """Who touched each element since all threads met: a thread, nobody, or several readers."""

    writer: Vector
    reader: Vector
    written: Vector  # at any time
    last: dict[bool, Op]  # the last access of each kind, to be named

    @classmethod
    def of(cls, memory: Value) -> _Buffer:
        size = math.prod(int(n) for n in memory_type(memory).shape)
        nobody = np.full(size, _NOBODY)
        return cls(nobody, nobody.copy(), np.zeros(size, dtype=np.bool_), {})

    def met(self) -> None:
        self.writer[:] = _NOBODY
        self.reader[:] = _NOBODY


class ExchangeMachine(Machine):
    """One launch with the sizes of one case."""

    def __init__(
        self, part: Slice, case: Case, launch: Launch, warp: int, buffers: frozenset[Value]
    ) -> None:
        super().__init__(part, case, launch)
        self.warp, self.buffers = warp, buffers
        self.state: dict[Value, _Buffer] = {}

    def run(self, prefix: list[Op]) -> None:
        """Runs the launch; its roles one after the other, since none sees another's exchanges."""
        everyone = self._agent("the block", 0, self.launch.launched_threads or self.launch.threads)
        self.begin(everyone, prefix)
        run_together({everyone: self.outside_of_roles(everyone)}, self.case)
        roles = [op for op in self.part.ops[self.launch.body] if isinstance(op, Role)]
        for number, role in enumerate(roles, start=1):
            agent = self._agent(role.label, number, role.threads, role.first_thread)
            agent.env.update(everyone.env)
            self.state = {}
            run_together({agent: self.block(agent, role.body)}, self.case)

    def _agent(self, label: str, number: int, size: int, first: int = 0) -> Agent:
        agent = Agent(label, number, size, first, self.warp)
        agent.simt = True
        return agent

    def _if(self, agent: Agent, op: If) -> Steps:
        """Where a barrier stands inside, all threads go one way, known or not."""
        unknown = agent.number(op.condition) is None
        if unknown and any(isinstance(inner, Barrier) for inner in op.walk()):
            chosen = op.then if self.case.unknown() else op.orelse
            yield from self.block(agent, chosen)
            self._results(agent, op.results, self._yielded(agent, chosen))
            return
        yield from super()._if(agent, op)

    def statement(self, agent: Agent, op: Op) -> Blocked | None:
        match op:
            case Barrier():
                if not agent.full:
                    size = agent.sets.size
                    who = f"{agent.threads.count} of the {size} threads of {agent.label}"
                    raise self.error("TLC0356", f"{who} come to a barrier of all", op)
                for buffer in self.state.values():
                    buffer.met()
            case Load() | VectorLoad() if op.memory in self.buffers:
                self._read(agent, op)
            case Store() | VectorStore() if op.memory in self.buffers:
                self._write(agent, op)
        return None

    def _read(self, agent: Agent, op: Load | VectorLoad) -> None:
        buffer, places, threads = self._touched(agent, op)
        if not buffer.written[places].all():
            message = f"{op.name} reads what nothing has been written to of {self._name(op)}"
            raise self.error("TLC0351", message, op)
        self._check(agent, op, buffer.writer[places], threads, buffer.last.get(True))
        others = (buffer.reader[places] != _NOBODY) & (buffer.reader[places] != threads)
        buffer.reader[places] = np.where(others, _SEVERAL, threads)
        # Several threads that read one element at once: all are remembered.
        twice = places[buffer.reader[places] != threads]
        buffer.reader[twice] = _SEVERAL
        buffer.last[False] = op

    def _write(self, agent: Agent, op: Store | VectorStore) -> None:
        buffer, places, threads = self._touched(agent, op)
        self._check(agent, op, buffer.writer[places], threads, buffer.last.get(True))
        self._check(agent, op, buffer.reader[places], threads, buffer.last.get(False))
        buffer.writer[places] = threads
        self._check(agent, op, buffer.writer[places], threads, op)
        buffer.written[places] = True
        buffer.last[True] = op

    def _touched(
        self, agent: Agent, op: Load | VectorLoad | Store | VectorStore
    ) -> tuple[_Buffer, Vector, Vector]:
        """The buffer of an access, and its elements with the thread of each."""
        buffer = self.state.setdefault(op.memory, _Buffer.of(op.memory))
        linear = np.zeros(agent.sets.size, dtype=np.int64)
        for index, extent in zip(op.indices, memory_type(op.memory).shape, strict=True):
            number = agent.number(index)
            if number is None:
                message = f"where {op.name} touches {self._name(op)} is not known"
                raise self.error("TLC0358", message, op)
            linear = linear * int(extent) + np.asarray(number, dtype=np.int64)
        mask = agent.threads.mask
        for predicate in op.predicate:
            allowed = agent.number(predicate)
            mask = mask & (True if allowed is None else np.asarray(allowed, dtype=np.bool_))
        threads = np.flatnonzero(mask)
        count = op.count if isinstance(op, (VectorLoad, VectorStore)) else 1
        places = (linear[threads][:, None] + np.arange(count)).ravel()
        return buffer, places, np.repeat(threads, count)

    def _check(
        self, agent: Agent, op: Op, found: Vector, threads: Vector, earlier: Op | None
    ) -> None:
        if bool(((found == _NOBODY) | (found == threads)).all()) or earlier is None:
            return
        verb = "writes" if isinstance(op, (Store, VectorStore)) else "reads"
        made = f"{earlier.name} at {earlier.loc}"
        done = "wrote" if isinstance(earlier, (Store, VectorStore)) else "read"
        message = f"{op.name} in {agent.label} {verb} {self._name(op)} with no barrier since {made} {done} it"
        raise self.error("TLC0353", message, op)

    def _name(self, op: Op) -> str:
        assert isinstance(op, ElementAccess)
        return op.memory.hint or "an exchange buffer"
