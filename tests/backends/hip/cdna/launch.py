"""A launch of a kernel's machine code: code made ready to run, a grid of blocks, the registers that
the hardware sets before the first instruction.

Source: LLVM, "User Guide for AMDGPU Backend": "Initial Kernel Execution State", "Kernel Dispatch".
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tests.backends.hip.cdna.accesses import memory_step, registers_read
from tests.backends.hip.cdna.decode import EXEC, Code, Instruction, IsaError
from tests.backends.hip.cdna.matrix import matrix_step
from tests.backends.hip.cdna.memory import GlobalMemory, SharedMemory
from tests.backends.hip.cdna.registers import LANE, LANES
from tests.backends.hip.cdna.scalar import BRANCHES, branch_target, scalar_step
from tests.backends.hip.cdna.vector import vector_step
from tests.backends.hip.cdna.waves import Mode, ProgramStep, Step, Wave

Order = Literal["forward", "reverse", "random"]
ORDERS: tuple[Order, ...] = ("forward", "reverse", "random")
# Scalar registers that a kernel may ask for, in their order, and how many; those of other names
# must not be asked for.
_USER_REGISTERS = (
    ("user_sgpr_private_segment_buffer", 4), ("user_sgpr_kernarg_segment_ptr", 2),
)  # fmt: skip
_UNKNOWN = (
    "user_sgpr_dispatch_ptr", "user_sgpr_queue_ptr", "user_sgpr_dispatch_id",
    "user_sgpr_flat_scratch_init", "user_sgpr_private_segment_size",
    "user_sgpr_kernarg_preload_length", "enable_private_segment", "system_sgpr_workgroup_info",
    "system_vgpr_workitem_id",
)  # fmt: skip


def make_program(code: Code) -> list[ProgramStep]:
    """Code ready to run. Raises IsaError for an instruction that no table knows."""
    program: list[ProgramStep] = []
    for instruction in code.instructions:
        step = _make_step(instruction, code)
        program.append((instruction, registers_read(instruction), step))
    return program


def _make_step(instruction: Instruction, code: Code) -> Step | None:
    name = instruction.name
    if name in ("s_barrier", "s_endpgm"):
        return None
    if name == "s_waitcnt":
        counts = {counter: int(count) for counter, count in instruction.modifiers.items()}
        return lambda wave: wave.wait(counts.get("vmcnt"), counts.get("lgkmcnt"))
    if name in BRANCHES:
        taken, target = BRANCHES[name], branch_target(instruction, code.labels)

        def branch(wave: Wave) -> None:
            if taken(wave):
                wave.next = target

        return branch
    step = memory_step(instruction) or matrix_step(instruction, code.arch)
    if step is None:
        make = vector_step if name.startswith("v_") else scalar_step
        step = make(instruction)
    if step is None:
        raise IsaError(f"{instruction}: unknown instruction {instruction.mnemonic}")
    return step


def run_block(waves: Sequence[Wave], program: Sequence[ProgramStep], order: Sequence[int]) -> None:
    """Runs the waves of a block, each in its turn up to its next barrier. A wave that has ended is
    not waited for, as in the hardware."""
    running = {i: waves[i].run(program) for i in order}
    ended = object()
    while running:
        running = {i: wave for i, wave in running.items() if next(wave, ended) is not ended}


@dataclass(frozen=True)
class Launch:
    """A grid of blocks of one kernel. `shared_bytes` is dynamic shared memory; `arguments` the
    values of the parameters in order, as bytes."""

    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    arguments: tuple[bytes, ...]
    mode: Mode = "late"
    order: Order = "forward"
    seed: int = 0

    def run(self, code: Code, memory: GlobalMemory) -> None:
        """Executes every block in turn. Raises IsaError."""
        program = make_program(code)
        asked = [name for name in _UNKNOWN if code.directives.get(name, 0)]
        if asked:
            raise IsaError(f"{code.name} asks for {', '.join(asked)}")
        kernarg = memory.add("the kernel's arguments", self._pack(code), writable=False)
        draws = random.Random(self.seed)
        blocks = list(itertools.product(*(range(extent) for extent in self.grid[::-1])))
        with np.errstate(all="ignore"):
            for block in self._ordered(blocks, draws):
                shared = SharedMemory(
                    self.shared_bytes + code.directives["group_segment_fixed_size"]
                )
                count = -(-self.threads // LANES)
                waves = [
                    self._wave(code, memory, shared, kernarg, block[::-1], number)
                    for number in range(count)
                ]
                run_block(waves, program, self._ordered(list(range(count)), draws))

    def _ordered(self, items: list, draws: random.Random) -> list:
        if self.order == "random":
            draws.shuffle(items)
        return items[::-1] if self.order == "reverse" else items

    def _pack(self, code: Code) -> np.ndarray:
        """The arguments where the metadata has them."""
        places = [(o, size) for o, size, kind in code.arguments if not kind.startswith("hidden")]
        if len(places) != len(code.arguments) or len(places) != len(self.arguments):
            raise IsaError(f"{code.name} takes other arguments: {code.arguments}")
        # in whole pieces of 16 bytes: clang widens a load of the last ones to that
        packed = np.full(-(-code.directives["kernarg_size"] // 16) * 16, 0xA5, np.uint8)
        for (offset, size), value in zip(places, self.arguments, strict=True):
            if len(value) != size:
                raise IsaError(f"{code.name}: {len(value)} bytes for an argument of {size}")
            packed[offset : offset + size] = np.frombuffer(value, np.uint8)
        return packed

    def _wave(
        self,
        code: Code,
        memory: GlobalMemory,
        shared: SharedMemory,
        kernarg: int,
        block: tuple[int, ...],
        number: int,
    ) -> Wave:
        """A wave about to execute its first instruction."""
        wave = Wave(memory, shared, self.mode, self.seed)
        first = 0
        for name, count in _USER_REGISTERS:
            if code.directives.get(name, 0):
                if name == "user_sgpr_kernarg_segment_ptr":
                    wave.set_pair(first, kernarg)
                first += count
        if first != code.directives["user_sgpr_count"]:
            raise IsaError(f"{code.name}: {code.directives['user_sgpr_count']} scalar registers")
        for axis, position in zip("xyz", block, strict=True):
            if code.directives[f"system_sgpr_workgroup_id_{axis}"]:
                wave.scalar[first] = position
                first += 1
        thread = number * LANES + LANE
        wave.vector[0] = thread
        wave.set_pair(EXEC, (1 << min(LANES, self.threads - number * LANES)) - 1)
        return wave
