"""Small tile-level programs with layouts by hand, lowered and run, for the tests of the
lowerings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.interpreter.programs import Sketch
from tests.passes.thread_machine import Machine
from tilec.ir.core import Level, Op, Program, Value, walk
from tilec.ir.dtypes import DType
from tilec.ir.layout import RegisterLayout, SharedLayout
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import LoadTile, StoreTile
from tilec.ir.types import MemoryType, Space
from tilec.ir.verify import verify
from tilec.passes.canonicalize import canonicalize
from tilec.passes.context import Assume, Facts, PassContext, Remark
from tilec.passes.flatten_memory import flatten_memory
from tilec.passes.lower_tiles import lower_tiles, register_lowerings
from tilec.passes.simplify_indices import simplify_indices
from tilec.passes.vectorize import vectorize
from tilec.target import TARGETS

SHORT = (lower_tiles, vectorize, flatten_memory)
FULL = (
    canonicalize,
    lower_tiles,
    simplify_indices,
    vectorize,
    flatten_memory,
    simplify_indices,
    canonicalize,
)


class Bench(Sketch):
    """A sketch with laid out shared memory, and tiles."""

    def laid_out(self, hint: str, dtype: DType, layout: SharedLayout) -> Value:
        value: Value = self.emit(
            Alloc(type=MemoryType(dtype, layout.shape, Space.SHARED, layout))
        ).result
        value.hint = hint
        return value

    def load_tile(
        self, source: Value, corner: Sequence[Value | int], layout: RegisterLayout, **options: Any
    ) -> Value:
        rank = len(corner)
        dims = options.pop("dims", tuple(range(rank - layout.rank, rank)))
        indices = tuple(self.value(i) for i in corner)
        result: Value = self.emit(
            LoadTile(source, indices, shape=layout.shape, dims=dims, layout=layout, **options)
        ).result
        return result

    def store_tile(
        self, tile: Value, target: Value, corner: Sequence[Value | int], **options: Any
    ) -> None:
        rank = len(tile.type.shape)  # type: ignore[attr-defined]
        dims = options.pop("dims", tuple(range(len(corner) - rank, len(corner))))
        self.emit(
            StoreTile(tile, target, tuple(self.value(i) for i in corner), dims=dims, **options)
        )

    def barrier(self) -> None:
        self.emit(Barrier())


class Lowered:
    """A program at thread level, its remarks and the facts that it asked for."""

    def __init__(
        self,
        program: Program,
        target: str = "cuda:sm_90a",
        passes: Sequence[Any] = SHORT,
        assume: bool = True,
    ) -> None:
        registry = builtin_registry()
        register_lowerings(registry)
        self.remarks: list[Remark] = []
        self.facts = Facts(Assume.ALL if assume else Assume.NOTHING)
        context = PassContext(TARGETS[target], registry, self.facts, self.remarks.append)
        verify(program, registry)
        for one in passes:
            program = one(program, context)
            verify(program, registry)
        assert program.level is Level.THREAD
        self.program = program

    @property
    def ops(self) -> list[Op]:
        return list(walk(self.program.body))

    def count(self, kind: type[Op]) -> int:
        return sum(isinstance(op, kind) for op in self.ops)

    def run(self, **tensors: Any) -> Machine:
        """Runs it on arrays, which it changes; symbols are taken from their shapes."""
        symbols: dict[str, int] = {}
        for param in self.program.params:
            if isinstance(param.type, MemoryType):
                for dim, extent in zip(
                    param.type.shape, np.shape(tensors[param.hint]), strict=True
                ):
                    assert isinstance(dim, str) or dim == extent
                    if isinstance(dim, str):
                        symbols[dim] = extent
        machine = Machine(self.program, tensors, symbols)
        machine.run()
        return machine


def random(dtype: DType, *shape: int, seed: int = 0) -> np.ndarray:
    """Small numbers that every dtype holds exactly."""
    numbers = np.random.default_rng(seed).integers(-16, 16, shape)
    return numbers.astype(dtype.numpy)
