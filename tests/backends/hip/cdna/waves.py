"""Waves that execute code, blocks of waves that meet at barriers, and what of a wave's memory
accesses is still on its way.

A wave is a coroutine: it runs until a barrier, or its end. Its loads, stores and LDS operations are
issued in order and land as late as its waits allow (or, in mode early, at once). A register that a
load is on its way to must not be touched before a wait says that it is there: that is an IsaError,
so that a wait which is missing, or too weak, shows in every run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.backends.hip.cdna.decode import Instruction, IsaError
from tests.backends.hip.cdna.memory import GlobalMemory, SharedMemory
from tests.backends.hip.cdna.registers import Registers

Mode = Literal["late", "early"]
Unit = Literal["vector", "shared", "scalar"]
SCALARS = 1000  # a scalar register's number among those that are on their way
LIMIT = 2_000_000  # instructions of a wave: more is a loop without end


@dataclass
class _Access:
    unit: Unit
    registers: frozenset[int]
    land: Callable[[], None] | None


class Wave(Registers):
    """One wave's registers, memory and accesses under way."""

    def __init__(self, memory: GlobalMemory, shared: SharedMemory, mode: Mode, seed: int) -> None:
        super().__init__(seed)
        self.memory, self.shared, self.mode = memory, shared, mode
        self.next = 0  # the instruction that comes next
        self.coming: frozenset[int] = frozenset()  # registers that loads are on their way to
        self._vector: deque[_Access] = deque()  # counted by vmcnt
        self._others: deque[_Access] = deque()  # counted by lgkmcnt

    def issue(self, unit: Unit, registers: frozenset[int], land: Callable[[], None]) -> None:
        """Starts an access: `land` is its effect, `registers` are those that it writes. Others on
        their way to the same ones must be of the same unit, where the last to start is the last
        to land."""
        for access in (*self._vector, *self._others):
            if access.unit != unit or unit == "scalar":
                if not access.registers.isdisjoint(registers):
                    raise IsaError("its result is still being loaded by another unit")
        queue = self._vector if unit == "vector" else self._others
        if self.mode == "early":
            land()
            queue.append(_Access(unit, registers, None))
        else:
            queue.append(_Access(unit, registers, land))
        self.coming |= registers

    def wait(self, vector: int | None, others: int | None) -> None:
        """At most so many accesses stay under way. Those of the vector unit return in order, so
        do those of the LDS; a scalar load may be the last of all to return, so that only a wait
        for none is a wait for it (CDNA3 ISA, "Data dependency resolution")."""
        if vector is not None:
            while len(self._vector) > vector:
                self._land(self._vector.popleft())
        if others is not None:
            shared = sum(access.unit == "shared" for access in self._others)
            staying: deque[_Access] = deque()
            for access in self._others:
                if access.unit == "shared":
                    done = shared > others
                    shared -= 1
                else:
                    done = others == 0
                if done:
                    self._land(access)
                else:
                    staying.append(access)
            self._others = staying
        self.coming = frozenset().union(*(a.registers for a in (*self._vector, *self._others)))

    @staticmethod
    def _land(access: _Access) -> None:
        if access.land is not None:
            access.land()

    def run(self, program: Sequence[ProgramStep]) -> Iterator[None]:
        """Executes until the end, with a pause at each barrier."""
        for _ in range(LIMIT):
            instruction, registers, step = program[self.next]
            self.next += 1
            if self.coming and not self.coming.isdisjoint(registers):
                raise IsaError(f"{instruction}: an operand is still being loaded")
            if step is not None:
                try:
                    step(self)
                except IsaError as error:
                    raise IsaError(f"{instruction}: {error}") from error
            elif instruction.name == "s_barrier":
                yield
            else:
                self.wait(0, 0)
                return
        raise IsaError(f"a wave has not ended after {LIMIT} instructions")


Step = Callable[[Wave], None]
"""What an instruction does to a wave."""

ProgramStep = tuple[Instruction, frozenset[int], Step | None]
"""An instruction, the registers that must be there when it is issued (scalar ones from SCALARS on),
and what it does; None for s_barrier and s_endpgm."""
