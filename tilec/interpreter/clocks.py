"""Order between roles: vector clocks, as in FastTrack (Flanagan and Freund, PLDI 2009), one of them
a role.

A role's clock says up to which of its own steps and of the others' steps everything has happened
before. Commit and free publish a clock, get and put take it over; two accesses of one element, one
a write, must be ordered that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .memory import Memory
from .numbers import Array


@dataclass(eq=False)
class Clock:
    """What role `number` knows to have happened: `seen[r]` steps of role r."""

    number: int
    seen: list[int]

    def release(self) -> Clock:
        """A copy of what is known now, for others; the role goes on to its next step."""
        self.seen[self.number] += 1
        return self.copy()

    def copy(self) -> Clock:
        return Clock(self.number, list(self.seen))

    def join(self, *others: Clock) -> None:
        for other in others:
            self.seen = [max(a, b) for a, b in zip(self.seen, other.seen, strict=True)]


class Clocks:
    """For every element of a shared memory: who wrote it last and when, and when each role read it
    last.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.writer = np.full(shape, -1, np.int16)
        self.written = np.zeros(shape, np.int32)
        self.read: dict[int, Array] = {}

    def part(self, number: int) -> Clocks:
        """Those of one slot of a ring."""
        return _Part(self, number)

    def note(self, frame: Any, memory: Memory, index: tuple[Any, ...], write: bool) -> None:
        """Notes an access by the frame's role. Raises ExecutionError if another role's is not
        ordered with it.
        """
        clock: Clock = frame.clock
        writer, written = self.writer[index], self.written[index]
        for role, seen in enumerate(clock.seen):
            if role == clock.number:
                continue
            clash = np.any((writer == role) & (written >= seen))
            if write and not clash and role in self.read:
                clash = np.any(self.read[role][index] > seen)
            if clash:
                done = "written" if write else "read"
                raise frame.fault(
                    "TLC0758",
                    f"shared {memory.name} is {done} here while another role uses it",
                    hint="no channel and no barrier orders the two accesses",
                )
        now = clock.seen[clock.number]
        if write:
            self.writer[index] = clock.number
            self.written[index] = now
        else:
            self.reads_of(clock.number)[index] = now + 1

    def reads_of(self, role: int) -> Array:
        """When a role read each element last."""
        if role not in self.read:
            self.read[role] = np.zeros(self.shape, np.int32)
        return self.read[role]


class _Part(Clocks):
    """The clocks of one slot, which are also the ring's."""

    def __init__(self, ring: Clocks, number: int) -> None:
        self.ring, self.number = ring, number
        self.shape = ring.shape[1:]
        self.writer, self.written = ring.writer[number], ring.written[number]
        self.read = {role: read[number] for role, read in ring.read.items()}

    def reads_of(self, role: int) -> Array:
        if role not in self.read:
            self.read[role] = self.ring.reads_of(role)[self.number]
        return self.read[role]
