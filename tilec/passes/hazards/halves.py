"""The abstract machine of waves that alternate: halves of a block that come to their barriers in
different places.

It runs thread-level programs, each half a coroutine with its own count of barriers. An access to a
buffer, or to a slot of a ring, lasts from its issue to its end, both in barriers of its half: a copy
that lands by itself ends at the wait that counts it. A half that has passed b barriers knows that the
other has come to b as well, so one access is before another where it ends with fewer barriers than
the other begins with. Which thread touches which element is not followed: what one statement writes,
and what nobody writes, is no conflict.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import HazardError
from ...ir.core import Access as Kind
from ...ir.core import Op, Program, Value, walk
from ...ir.ops.amd import BufferCopy, BufferCopyWait
from ...ir.ops.control import If, Launch, Role, ThreadId
from ...ir.ops.memory import Alloc, Flatten, Slot, memory_type
from ...ir.ops.thread import Barrier
from ...ir.types import Space
from .cases import Case
from .records import Place
from .slicing import Slice, is_space
from .walking import Agent, Blocked, Machine, run_together


def alternates(launch: Launch) -> bool:
    """Whether some waves of a launch pass the block's barrier by themselves."""
    return any(
        isinstance(op, If)
        and any(isinstance(inner, Barrier) and not inner.barrier for inner in op.then.ops)
        for op in walk(launch.body)
    )


def halves_slice(program: Program, made: frozenset[Value]) -> Slice:
    """What touches shared memory but for what lower_tiles `made`, what meets, and what decides it."""

    def matters(op: Op) -> bool:
        if isinstance(op, (Alloc, Slot, Flatten)):
            return is_space(op.results[0], Space.SHARED)
        if isinstance(op, (Barrier, BufferCopyWait, Role)):
            return True
        return any(is_space(e.memory, Space.SHARED) and e.memory not in made for e in op.effects())

    return Slice(program.body, matters)


@dataclass(eq=False)
class _Use:
    """One access by a half: `first` and `last` are how many barriers it had passed."""

    half: _Half
    op: Op
    place: Place
    writes: bool
    first: int
    last: float


class _Half(Agent):
    """Half of the waves: the barriers that it has come to, and its copies under way."""

    def __init__(self, label: str, index: int, size: int, warp: int) -> None:
        super().__init__(label, index, size, index * size, warp)
        self.arrivals = 0
        self.copies: list[_Use] = []


class HalvesMachine(Machine):
    """One launch with the sizes of one case."""

    def __init__(self, part: Slice, case: Case, launch: Launch, warp: int) -> None:
        super().__init__(part, case, launch)
        size = launch.threads // 2
        self.halves = [
            _Half("the first half", 0, size, warp),
            _Half("the second half", 1, size, warp),
        ]
        self.uses: dict[Place, list[_Use]] = {}

    def run(self, prefix: list[Op]) -> None:
        """Runs both halves to their ends, then compares what they did.

        Raises HazardError: TLC0353 (no barrier between two accesses), TLC0357 (a half waits for
        ever).
        """
        for half in self.halves:
            self.begin(half, prefix)
        run_together({half: self.block(half, self.launch.body) for half in self.halves}, self.case)
        for uses in self.uses.values():
            self._compare(uses)

    def scalar(self, agent: Agent, op: Op) -> bool:
        if isinstance(op, ThreadId):
            agent.env[op.result] = agent.first + np.arange(agent.sets.size)
            return True
        return super().scalar(agent, op)

    def statement(self, agent: Agent, op: Op) -> Blocked | None:
        assert isinstance(agent, _Half)
        match op:
            case Alloc():
                agent.env[op.result] = Place(op)
            case Flatten():
                agent.env[op.result] = agent.env[op.memory]
            case Slot():
                ring = agent.env[op.ring]
                assert isinstance(ring, Place)
                index = agent.uniform(op.index)
                if index is None or not 0 <= index < int(memory_type(op.ring).shape[0]):
                    message = f"which slot of {ring.name} is taken is not known"
                    raise self.error("TLC0358", message, op)
                agent.env[op.result] = Place(ring.alloc, index)
            case Barrier():
                return self._meet(agent, op)
            case BufferCopyWait():
                while len(agent.copies) > op.pending:
                    agent.copies.pop(0).last = agent.arrivals
            case _:
                self._note(agent, op)
        return None

    def _meet(self, half: _Half, op: Op) -> Blocked:
        if not half.full:
            message = f"some threads of {half.label} come to a barrier and others do not"
            raise self.error("TLC0356", message, op)
        half.arrivals += 1
        own, other = half.arrivals, self.halves[1 - half.index]
        ready: Callable[[], bool] = lambda: other.arrivals >= own  # noqa: E731
        return Blocked(ready, lambda: f"the other half at its barrier number {own}", op.loc)

    def _note(self, half: _Half, op: Op) -> None:
        for effect in op.effects():
            place = half.env.get(effect.memory) if effect.memory is not None else None
            if effect.access not in (Kind.READ, Kind.WRITE) or not isinstance(place, Place):
                continue
            writes, flies = effect.access is Kind.WRITE, isinstance(op, BufferCopy)
            last = math.inf if flies else half.arrivals
            use = _Use(half, op, place, writes, half.arrivals, last)
            self.uses.setdefault(place, []).append(use)
            if flies:
                half.copies.append(use)

    def _compare(self, uses: list[_Use]) -> None:
        for number, use in enumerate(uses):
            for other in uses[:number]:
                together = use.first <= other.last and other.first <= use.last
                same = use.writes and other.writes and use.op.loc == other.op.loc
                if together and (use.writes or other.writes) and not same:
                    raise self._conflict(other, use)

    def _conflict(self, one: _Use, other: _Use) -> HazardError:
        verbs = ["writes" if use.writes else "reads" for use in (other, one)]
        message = (
            f"{other.op.name} in {other.half.label} {verbs[0]} {other.place.name}, and no barrier "
            f"orders that with {one.op.name} in {one.half.label} at {one.op.loc}, which {verbs[1]} it"
        )
        return self.error("TLC0353", message, other.op)
