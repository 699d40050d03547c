"""How many registers the tiles of a launch take at once, before layouts are known.

An estimate: a thread holds its share of every tile that is live, and of a gemm what one step of k
needs of the operands that lie in shared memory. Ops that change a tile in place, and elementwise
ops, write the registers they read. Liveness is that of structured control flow, as in `coalesce`;
constant tiles are made at their use and count for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ..ir.core import Block, Op, Value, walk
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, Launch, While
from ..ir.ops.gemm import Gemm
from ..ir.ops.pipeline import Pipeline
from ..ir.ops.tile import Splat, Undefined
from ..ir.types import MemoryType
from ..target import Target
from .coalesce import outer_tiles, tied_pairs, tiles_used
from .dependence import is_tile, tile_type
from .variants import REGISTER_BITS, gemm_shape, multiplied_dtype, unit_threads, variants_of

VECTOR_COPIES = 4  # of a row's element: lanes that share a row of an accumulator each have one


def live_registers(launch: Launch, target: Target) -> int:
    """The most 32-bit registers a thread that tiles of the launch and operands of its gemms take at
    once. Instructions of gemms must be chosen, or the cheapest of the target are taken.
    """
    constants = {op.results[0] for op in walk(launch.body) if isinstance(op, (Splat, Undefined))}
    count = _Count(launch.threads, target, constants)
    count.block(launch.body, set())
    return count.most


@dataclass
class _Count:
    """`most` is the largest number met so far."""

    threads: int
    target: Target
    constants: set[Value]
    most: int = 0

    def block(self, block: Block, after: set[Value]) -> set[Value]:
        """What is live at the start of a block at whose end `after` is."""
        live = set(after)
        for op in reversed(block.ops):
            if any(is_tile(v) for region in op.regions for v in _made_in(region)):
                live = self._control(op, live)
            else:
                live = self._leaf(op, live)
        return live - set(block.params)

    def _control(self, op: Op, after: set[Value]) -> set[Value]:
        after = after - set(op.results)
        if isinstance(op, (For, While, Pipeline)):  # what a loop reads is live in all of it
            after |= {v for region in op.regions for v in outer_tiles(region)}
        before = {v for v in op.inputs if is_tile(v)}
        return before.union(*(self.block(region, after) for region in op.regions))

    def _leaf(self, op: Op, after: set[Value]) -> set[Value]:
        read, written = tiles_used(op), {v for v in op.results if is_tile(v)}
        before = (after - written) | read
        if isinstance(op, Elementwise):
            self._note(after | written)
            self._note(before)
        else:
            self._note(after | written | (read - {old for old, _ in tied_pairs(op)}), op)
        return before

    def _note(self, live: Iterable[Value], op: Op | None = None) -> None:
        held = sum(self._registers(v) for v in live if v not in self.constants)
        if isinstance(op, Gemm):
            held += _fragments(op, self.threads, self.target)
        self.most = max(self.most, held)

    def _registers(self, value: Value) -> int:
        type_ = tile_type(value)
        copies = VECTOR_COPIES if len(type_.shape) == 1 else 1
        elements = -(-math.prod(type_.shape) * copies // self.threads)
        return -(-elements * type_.dtype.bits // REGISTER_BITS)


def _made_in(block: Block) -> Iterable[Value]:
    return (*block.params, *(v for op in walk(block) for v in op.results))


def _fragments(gemm: Gemm, threads: int, target: Target) -> int:
    """Registers a thread for one step of k of the operands in shared memory; wgmma reads them
    there.
    """
    family = gemm.instruction
    dtype = multiplied_dtype(gemm, family, target)
    ways = variants_of(gemm, family, threads, target)
    if family == "wgmma" or dtype is None or not ways:
        return 0
    (_, _, _, step, rows, columns, *_), _ = ways[0]
    m, n, _ = gemm_shape(gemm)
    sides = ((gemm.a, m // rows), (gemm.b, n // columns))
    elements = sum(extent * step for side, extent in sides if isinstance(side.type, MemoryType))
    return -(-elements * dtype.bits // (REGISTER_BITS * unit_threads(family, target)))
