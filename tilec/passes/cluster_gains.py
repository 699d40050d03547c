"""In which clusters the blocks of a launch gain by loading for each other (multicast_loads), at the
sizes of a call.

TMA takes four times as long for a line of 128 bytes that starts within a sector of the cache, and
then loads take longer than what is done with them (docs/decisions.md 46, 73). Of a launch with
products, the clocks of a step of its pipelined loops are those of the slower of the two; a cluster
divides the lines of what its blocks share, at the price of blocks beyond the grid, and of
multiprocessors on which no cluster of so many finds a place. Lines that start with sectors need no
cluster: then products take longer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..ir.core import Value, walk
from ..ir.ops.control import NO_CLUSTER, For, Launch
from ..ir.ops.gemm import Gemm
from ..ir.ops.nvidia import ASYNC_BYTES
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space
from ..target import Target
from .call_numbers import CallNumbers
from .clusters import Extents, alike_along
from .dependence import is_global
from .uniformity import differing_between_blocks

# What a multiprocessor of an H200 does in a clock of 1.76 GHz; others differ by a factor that is
# alike for all.
MULTIPLIES = 4096
"""Products of operands of one byte; of two bytes half as many, of four a quarter."""
LINE, ASTRAY = 0.88, 3.5
"""Clocks of the TMA unit for a line, and for one that starts within a sector."""
ALSO = 0.06
"""So much of all that a step needs is not hidden behind what takes longest."""
LINE_BYTES, SECTOR_BYTES = 128, 32
"""Of the L2 cache."""
_UNUSED = {4: 12, 8: 12}  # multiprocessors that clusters of so many leave: GPCs have 14, 16 or 18
_FEW, _MANY = 0.6, 0.95  # parts of one wave that larger clusters fill well
_WORTH_IT = 1.03


def blocks_at_once(target: Target, cluster: int) -> int:
    """How many blocks run at once, each alone on a multiprocessor, in clusters of so many."""
    processors = target.multiprocessors or 1
    if cluster <= 2:
        return processors
    if target.resident_clusters is not None:
        return max(target.resident_clusters(cluster), 1) * cluster
    return max(processors - _UNUSED[cluster], 1)


def cluster_sizes(tiles: int, target: Target) -> list[tuple[int, int]]:
    """The clusters that are considered for so many tiles, none first: those of two, and of as many
    tiles as fill one wave larger ones."""
    one_wave = _FEW < tiles / (target.multiprocessors or 1) < _MANY
    return [(1, 1), (2, 1), (1, 2), *[(2, 2), (4, 2), (2, 4)] * one_wave]


def may_be_clustered(launch: Launch, target: Target) -> bool:
    """Whether the launch leaves its clusters to the compiler, has products in pipelined loops, and the
    target brings tiles to several blocks at once."""
    if not target.tma or not target.clusters:
        return False
    if launch.alone or launch.cluster_blocks > 1 or launch.explicit or launch.stream_k:
        return False
    if launch.persistent is False or launch.cooperative:
        return False
    return any(True for _ in _multiplying(launch))


def _multiplying(launch: Launch) -> Iterator[tuple[For, list[Gemm]]]:
    """The pipelined loops with products, and their gemms."""
    for loop in walk(launch.body):
        if isinstance(loop, For) and loop.kind == "pipelined":
            gemms = [op for op in loop.walk() if isinstance(op, Gemm)]
            if gemms:
                yield loop, gemms


def cluster_gain(
    launch: Launch, numbers: CallNumbers, target: Target
) -> tuple[tuple[int, int, int], float]:
    """The cluster by which the launch gains most, and how many times as long it takes without;
    NO_CLUSTER and 1 where none is worth it or possible, or not all is known."""
    grid = [numbers.of(extent) for extent in launch.grid]
    if not may_be_clustered(launch, target) or None in grid or 0 in grid:
        return NO_CLUSTER, 1.0
    extents = [extent or 0 for extent in grid]
    loops = list(_loops(launch, numbers))
    if not any(load.clocks == ASTRAY for loop in loops for load in loop.loads):
        return NO_CLUSTER, 1.0
    best, alone = NO_CLUSTER, _clocks(loops, extents, NO_CLUSTER, target)
    least = alone
    for pair in cluster_sizes(math.prod(extents), target):
        cluster = (*pair, 1)
        if all(extent > n // 2 for extent, n in zip(extents, cluster, strict=True)):
            clocks = _clocks(loops, extents, cluster, target)
            if clocks < least:
                best, least = cluster, clocks
    gain = alone / max(least, 1)
    return (best, gain) if gain > _WORTH_IT else (NO_CLUSTER, 1.0)


@dataclass(frozen=True)
class _Load:
    """A tile that a step loads: its lines that are in the tensor, of how many, what TMA takes for
    each, and along which dimensions of the grid neighbours load the same."""

    lines: int
    tile: int
    clocks: float
    shared: tuple[int, ...]

    def taken(self, cluster: Extents) -> float:
        """What TMA takes for the part of the tile's rows that the first block of a cluster brings."""
        part = self.tile / math.prod(cluster[axis] for axis in self.shared)
        return min(self.lines, part) * self.clocks


@dataclass(frozen=True)
class _Loop:
    """A pipelined loop: how many steps it has, the clocks that a step's products take, its loads."""

    steps: int
    products: float
    loads: tuple[_Load, ...]

    def clocks(self, cluster: Extents) -> float:
        """What the loop takes in such clusters."""
        tma = sum(load.taken(cluster) for load in self.loads)
        return self.steps * (max(tma, self.products) + ALSO * (tma + self.products))


def _clocks(loops: list[_Loop], grid: list[int], cluster: Extents, target: Target) -> float:
    """What all blocks take, but for their starts and ends."""
    tiles = math.prod(-(-extent // n) * n for extent, n in zip(grid, cluster, strict=True))
    waves = -(-tiles // blocks_at_once(target, math.prod(cluster)))
    return waves * sum(loop.clocks(cluster) for loop in loops)


def _loops(launch: Launch, numbers: CallNumbers) -> Iterator[_Loop]:
    """The pipelined loops with products."""
    by_axis = {
        axis: differing_between_blocks(launch.body, (index,))
        for axis, index in enumerate(launch.body.params)
    }
    for loop, gemms in _multiplying(launch):
        products = sum(op.products * op.dtype_of("a").bits / 8 / MULTIPLIES for op in gemms)
        start, stop = numbers.of(loop.start), numbers.of(loop.stop)
        steps = 1 if start is None or stop is None else max(stop - start, 0)
        copies = [op for op in walk(loop.body) if isinstance(op, Copy)]
        loads = [_load(op, loop, by_axis, numbers) for op in copies]
        yield _Loop(steps, products, tuple(load for load in loads if load is not None))


def _load(
    copy: Copy, loop: For, by_axis: dict[int, set[Value]], numbers: CallNumbers
) -> _Load | None:
    """What a copy loads; None for one that TMA would not."""
    source, tile = copy.source.type, copy.destination.type
    if not (is_global(copy.source) and isinstance(source, MemoryType)):
        return None
    if not (isinstance(tile, MemoryType) and tile.space is Space.SHARED and source.unit_stride):
        return None
    strides = [numbers.stride(source, d) for d in range(len(source.shape) - 1)]
    pitches = [n * source.dtype.bits // 8 for n in strides if n is not None]
    if any(pitch % ASYNC_BYTES for pitch in pitches):
        return None
    row = copy.shape[-1] * source.dtype.bits // 8
    extents = [numbers.of_dim(source.shape[d]) for d in copy.source_dims[:-1]]
    rows = [n if e is None else min(n, e) for n, e in zip(copy.shape[:-1], extents, strict=True)]
    of_row = max(-(-row // LINE_BYTES), 1)
    astray = any(pitch % SECTOR_BYTES for pitch in pitches)
    bounds = {loop.start, loop.stop, loop.step}
    shared = tuple(
        axis
        for axis, differing in by_axis.items()
        if alike_along(copy, differing) and differing.isdisjoint(bounds)
    )
    inside, whole = math.prod(rows) * of_row, math.prod(copy.shape[:-1]) * of_row
    return _Load(inside, whole, ASTRAY if astray else LINE, shared)
