"""The GEMM's configurations on three machines, and how the tests run one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tests.backends.emulation import every_schedule
from tests.kernels import programs
from tests.kernels.programs import STAGES, TILES, Tile
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator import Mode, Order
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")
DTYPES = ("float16", "bfloat16")
SCHEDULES = tuple(every_schedule())
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Case:
    """One configuration of the GEMM on one target."""

    target: str
    tile: Tile
    dtype: str
    transpose_b: bool
    stages: int
    cluster: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        tile, order = self.tile, "NT" if self.transpose_b else "NN"
        shape = f"{tile.m}x{tile.n}x{tile.k}"
        blocks = "" if self.cluster == (1, 1) else f"-{self.cluster[0]}x{self.cluster[1]}"
        return f"{self.target.partition(':')[2]}-{shape}-{self.dtype}-{order}-{self.stages}{blocks}"

    @property
    def draws(self) -> random.Random:
        """Choices of this case's own, the same in every run."""
        return random.Random(str(self))

    def lower(self) -> CompiledKernel:
        """The kernel with both launch classes: aligned first, then the general one."""
        kernel = programs.gemm(self.dtype, self.transpose_b)
        constants = self.tile.constants(self.stages, self.cluster)
        lowered = lower(kernel, (), self.target, constants)
        lowered.add_general()
        return lowered

    def operands(self, size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return programs.operands(*size, self.dtype, self.transpose_b, seed=sum(size))

    def emulate(self, size: Size, mode: Mode = "late", order: Order = "forward") -> np.ndarray:
        """The product of `operands(size)` as the emulated text computes it."""
        a, b, c = self.operands(size)
        EmulatorDevice(self.target, "a test", mode, order, seed=7).run(self.lower(), (a, b, c))
        return c


@cache
def interpret(tile: Tile, dtype: str, transpose_b: bool, stages: int, size: Size) -> Any:
    """The product of the same operands as the program means it; one for all targets."""
    case = Case(TARGETS[0], tile, dtype, transpose_b, stages)
    a, b, c = case.operands(size)
    InterpreterDevice("", "a test").run(case.lower(), (a, b, c))
    return c


def every_case() -> Iterator[Case]:
    """Every tile, dtype, order of B and number of stages on every target."""
    for values in itertools.product(TARGETS, TILES, DTYPES, (True, False), STAGES):
        yield Case(*values)


def covering_cases() -> Iterator[Case]:
    """18 cases a target in which any two values of tile, dtype, order of B and stages meet."""
    for shift, target in enumerate(TARGETS):
        for i, tile in enumerate(TILES):
            for stages in STAGES:
                dtype = DTYPES[(i + stages + shift) % 2]
                yield Case(target, tile, dtype, i == (stages + shift) % 3, stages)


def trip_sizes(tile: Tile, stages: int) -> list[Size]:
    """Trip counts 1, 2, stages - 1 and stages of whole and of ragged tiles; none for a row, and for
    a tile.
    """
    found: list[Size] = [(1, tile.n + 8, 0), (tile.m, tile.n, 0)]
    for trips in sorted({1, 2, stages - 1, stages} - {-1, 0}):
        found.append((tile.m + 1, tile.n - 8, trips * tile.k))
        found.append((tile.m - 1, 9, trips * tile.k - 5))
    return found
