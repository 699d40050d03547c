"""Which tile, threads, stages and parts of K a product of given extents gets on a target.

A pure function, by an estimate: of each tile that the target's instructions favour, and of each
number of parts, the clocks of a multiprocessor, which the busiest one needs for

    waves * (steps * max(arithmetic, operands from shared memory, tiles from the L2, lines by TMA)
             + start and end)

and never less than memory takes for every byte once; parts add their sums and a launch. The least
wins, so that large products get the tile with the most arithmetic for a byte, others the width that
fills most of the last wave, those of few tiles smaller ones, and those of few rows as many blocks
as it takes to stream B at the memory's rate. Of the product and the transposed one (`swapped`) the
one is computed whose tiles fit better. Few rows are the columns of a tile, which may be as few as
eight, while its rows are 64: TMA is slow to fill what lies outside of a matrix. Blocks are in a
cluster, and load for each other, where TMA is slow to load lines that start anywhere. The constants
were fitted to times of 2000 candidates (docs/decisions.md 74, 75, 89, 101), and last to those of
1318 at 186 shapes on H200s, from which the estimates of a shape differ by 4 % (108).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, gcd, inf

from ..ir.dtypes import find_dtype
from ..locks import cached_property
from ..passes.cluster_gains import (
    ALSO,
    ASTRAY,
    LINE,
    LINE_BYTES,
    MULTIPLIES,
    SECTOR_BYTES,
    blocks_at_once,
    cluster_sizes,
)
from ..passes.fit_resources import ALIGNMENT
from ..passes.last_wave import LastWave, Numbers, leaves_few
from ..passes.slabs import slab_columns
from ..target import Target

# What a multiprocessor of an H200 does in a clock, beside what clusters go by too; others differ by a
# factor that is alike for all tiles, so that the order of the candidates hardly changes.
_DOUBLES = {8: 64, 16: 128}  # products of f64, by the rows of the largest instruction
_WAITING = 1.2  # times as long by one block alone, which waits at every step for its fragments
_LARGE_ALONE, _SMALL_ALONE = 1.07, 1.55  # times as long by one warpgroup
_SHARED, _BY_THREE = 94, 98  # bytes that matrix instructions read from shared memory
_L2 = 86  # bytes from the L2 cache
_MEMORY = 15.3  # bytes from memory, where all ask: 3.6 TB/s
_TURNED, _BY_MEMORY = 1.005, 1.12  # times as long, by transposed tiles of more than 64 columns
_ALONE = 60  # bytes from memory, where few ask: a quarter of all get as much as all
_OUTSIDE = 5  # the TMA unit, for a line outside of the matrix, which it fills: all multiprocessors,
_OWN = 5  # and besides the one whose tile it is in
_BESIDE = 0.14  # of work or memory, what takes less time, is not hidden behind the other,
_AGREED = 1.02  # times as long, where three warpgroups of each of several blocks free a stage
_START = 7700  # before the first product: launch, descriptors, first loads
_END = 500  # after the last one, beside the stores:
_SLAB = 15  # of a slab: its barriers, and the wait for the one before
_STORED = 0.5  # of a line that is stored, whole or in part
_STEP = 26  # of a step: its barriers
_LAUNCH = 7000  # a second launch, with what its blocks wait for
_CLEARED = 7200  # a launch that only clears counters
_PART = 35  # bytes of a part that its owner adds, written and read
_TORN = 17000  # a helper whose steps are not those of whole tiles starts and leaves once more
_SUMS = 14.6  # bytes of parts that a second launch adds, each written and read
TILE_UNIT = 16
"""Elements at a multiple of which tiles begin: there TMA may store one of any dtype."""
_SWIZZLES = (128, 64, 32)
_STAGES = 12
_SLABS = ((128, 5), (64, 4), (32, 0))  # widths in bytes, and how many stages are enough beside them
_BARRIERS = 1024  # bytes

_PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
_TILE = ("block_M", "block_N", "block_K", "stages", "threads")


@dataclass(frozen=True)
class Problem:
    """`batch` products of M x K by K x N. `a` and `b` say where the unit strides are: "rows",
    "columns" or "any". The dtype is a short name. `exact`: there are two sets of sums.
    `whole`: K is not cut, nor do tiles overlap. `astray`: those of A and B whose lines start anywhere
    in a sector. `in_place`: no element is read by two blocks, so that tiles do not overlap.
    `out_bytes`: of an element of the result."""

    M: int
    N: int
    K: int
    dtype: str = "f16"
    a: str = "rows"
    b: str = "columns"
    batch: int = 1
    exact: bool = False
    whole: bool = False
    astray: str = ""
    in_place: bool = False
    out_bytes: int = 2

    @cached_property
    def item_bytes(self) -> int:
        """Bytes of an element of A or B."""
        return find_dtype(self.dtype).bytes

    @property
    def sum_bytes(self) -> int:
        """Bytes of a partial sum."""
        return 8 if self.dtype == "f64" else 4

    @cached_property
    def swapped(self) -> Problem:
        """The transposed product: B's columns by A's rows."""
        flipped = {"rows": "columns", "columns": "rows", "any": "any"}
        astray = self.astray.translate(str.maketrans("AB", "BA"))
        return replace(
            self, M=self.N, N=self.M, a=flipped[self.b], b=flipped[self.a], astray=astray
        )

    def tiles(self, rows: int, columns: int) -> int:
        """How many tiles of so many rows and columns all products have."""
        return ceil(self.M / rows) * ceil(self.N / columns) * self.batch

    @property
    def along_k(self) -> bool:
        """Whether both operands are contiguous along K."""
        return self.a == "rows" and self.b == "columns"


@dataclass(frozen=True)
class Schedule:
    """The compile-time parameters of the kernel. K is cut into `split` parts. Neighbouring tiles,
    `cluster_M` along M by `cluster_N` along N, are of one cluster (`T.Kernel`).
    With `workers`, so many blocks take all tiles in turn and share the last of them (`stream_k` of T.Kernel);
    `split` and clusters are 1 then. `swapped`: the transposed product is computed, M and N of tiles
    and clusters are its rows and columns.
    """

    block_M: int
    block_N: int
    block_K: int
    stages: int
    threads: int
    split: int = 1
    cluster_M: int = 1
    cluster_N: int = 1
    workers: int = 0
    swapped: bool = False


def choose_schedule(target: Target, problem: Problem) -> Schedule:
    """The schedule with the lowest estimate; among equals the first, which has the larger tile."""
    best, least = None, inf
    for schedule in candidates(target, problem):
        if _products(target, problem, schedule) < least:
            clocks = estimate(target, problem, schedule)
            if clocks < least:
                best, least = schedule, clocks
    assert best is not None
    return best


def choose_tile(target: Target, M: int, N: int, K: int, dtype: str = "float16") -> dict[str, int]:
    """The tile, stages and threads of a program whose main work is C[M, N] = A[M, K] @ B[N, K].T of a
    dtype, as a heuristic gives them (`tilec.heuristic`): block_M, block_N, block_K, stages, threads.

    The estimate is that of `matmul`. The program is to have a block for each tile of C, a sum of all of
    K in each, and to leave the rest to the compiler, which shares last waves and makes clusters.
    """
    of = find_dtype(dtype)
    astray = "AB" if K * of.bits % (8 * SECTOR_BYTES) else ""
    problem = Problem(max(M, 1), max(N, 1), K, of.name, astray=astray)
    apart = replace(problem, whole=True)  # tiles do not overlap
    found = min(
        (s for s in _of_orientation(target, problem, False) if s.split == 1),
        key=lambda s: estimate(target, apart, s),
    )
    return {name: getattr(found, name) for name in _TILE}


def candidates(target: Target, problem: Problem) -> Iterator[Schedule]:
    """Every schedule that is considered: tiles from large to small, parts from few to many."""
    yield from _of_orientation(target, problem, False)
    if problem.M != problem.N and _by_wgmma(target, problem):
        yield from _of_orientation(target, problem.swapped, True)


def _of_orientation(target: Target, problem: Problem, swapped: bool) -> Iterator[Schedule]:
    """Those of a product as it is, or of one that was turned."""
    for tile in _tiles(target, problem):
        rows, columns, depth, threads = tile
        if rows > 64 and rows >= 2 * problem.M:
            continue  # half of the instructions would multiply nothing
        if columns < 32 and columns < problem.N:
            continue  # A would be read from memory more than once
        if not swapped and columns * problem.out_bytes % 16:
            continue  # TMA could not store a row
        stages = 2  # enough where products take long, and several blocks share a multiprocessor
        if target.asynchronous and problem.dtype == "f64":
            stages = _stages_of_two(target, problem, tile)
        elif target.asynchronous and problem.dtype != "f32":
            stages = _stages(target, problem, tile)
        steps = ceil(problem.K / depth)
        tiles = problem.tiles(rows, columns)
        for split in _PARTS[: 1 if problem.whole else None]:
            # A part of few steps is all start and end; many tiles fill their waves without, and parts
            # fill them whatever the width.
            many = steps < 8 * split or tiles * split > 3 * target.multiprocessors
            if split == 1 or not (many or columns % 32 and columns > 32):
                for cluster in _clusters(target, problem, tile, split):
                    yield Schedule(
                        rows, columns, depth, stages, threads, split, *cluster, swapped=swapped
                    )
        if not swapped and _shares_last_wave(target, problem, tile):
            workers = target.multiprocessors
            yield Schedule(rows, columns, depth, stages, threads, workers=workers)


def _stages(target: Target, problem: Problem, tile: tuple[int, int, int, int]) -> int:
    """As many as fit beside two slabs of the tile on its way to memory; narrow slabs, where few do."""
    rows, columns, depth, _ = tile
    stage = (rows + columns) * depth * problem.item_bytes
    fit = 0
    for widest, enough in _SLABS:
        *_, taken = _slabs(rows, columns, 8 * problem.out_bytes, widest)
        fit = max(fit, (target.shared_bytes - taken) // stage)
        if fit >= enough:
            break
    return max(2, min(_STAGES, fit))


@lru_cache(maxsize=4096)
def _slabs(rows: int, columns: int, bits: int, widest: int) -> tuple[int, int, int]:
    """How many slabs of at most `widest` bytes store a tile of elements of `bits`, their width in
    bytes, and what two of them and the barriers take of shared memory."""
    width = slab_columns(columns, bits, widest)[0] or columns
    taken = ceil(rows * width * bits // 8 / ALIGNMENT) * ALIGNMENT
    return ceil(columns / width), width * bits // 8, 2 * taken + _BARRIERS


def _stages_of_two(target: Target, problem: Problem, tile: tuple[int, int, int, int]) -> int:
    """As many, up to 4, as leave room for a second block, which multiplies while one waits."""
    rows, columns, depth, _ = tile
    stage = (rows + columns) * depth * problem.item_bytes
    return max(2, min(4, (target.multiprocessor_shared_bytes // 2 - _BARRIERS) // stage))


def _shares_last_wave(target: Target, problem: Problem, tile: tuple[int, int, int, int]) -> bool:
    """Whether the last wave of such tiles can be shared: by blocks that are alone on their
    multiprocessor, after a whole wave, and where no helper has more than two tiles to help with.
    With two sets of sums (`exact`), or by three warpgroups, it was no faster."""
    rows, columns, _, threads = tile
    if problem.whole or problem.exact or threads != 256 or not _by_wgmma(target, problem):
        return False
    waves, rest = divmod(problem.tiles(rows, columns), target.multiprocessors)
    return waves > 0 and rest > 0 and leaves_few(rest, target.multiprocessors)


def _clusters(
    target: Target, problem: Problem, tile: tuple[int, int, int, int], split: int
) -> list[tuple[int, int]]:
    """The clusters that are considered, none first: those of two tiles, and of as many tiles as fill
    one wave larger ones."""
    shared = problem.astray and not problem.in_place
    if not (shared and target.clusters and _by_wgmma(target, problem)):
        return [(1, 1)]
    down, across = ceil(problem.M / tile[0]), ceil(problem.N / tile[1])
    sizes = cluster_sizes(problem.tiles(*tile[:2]), target)
    sizes = [(m, n) for m, n in sizes if m * n <= 2 or split == 1]
    return [(m, n) for m, n in sizes if down > m // 2 and across > n // 2]


def _products(target: Target, problem: Problem, s: Schedule) -> float:
    """What an estimate is not less than: the clocks of the products, and of adding parts."""
    tile = (s.block_N, s.block_M) if s.swapped else (s.block_M, s.block_N)
    processors = target.multiprocessors or 1
    tiles = problem.tiles(*tile) * s.split
    waves = tiles / processors if s.workers else ceil(tiles / processors)
    work = s.block_M * s.block_N * s.block_K * problem.item_bytes / MULTIPLIES
    return waves * ceil(problem.K / s.block_K / s.split) * work + _sums_clocks(target, problem, s)


def estimate(target: Target, problem: Problem, schedule: Schedule) -> float:
    """The clocks that a product takes; its terms are in the head of this file."""
    p, s = problem.swapped if schedule.swapped else problem, schedule
    size, processors = p.item_bytes, target.multiprocessors or 1
    tiles = _tiles_along(p.M, s.block_M, s.cluster_M) * _tiles_along(p.N, s.block_N, s.cluster_N)
    tiles *= p.batch * s.split
    waves = ceil(tiles / blocks_at_once(target, s.cluster_M * s.cluster_N))
    steps = ceil(p.K / s.block_K / s.split)
    alone = tiles <= processors
    step = _step_clocks(target, p, s, alone) + _STEP
    end = _end_clocks(target, p, s)
    # The last tile along M or N is slowest where it is not full, and some block has it last.
    slowest = _step_clocks(target, p, s, alone, last=True) + _STEP
    busy = waves * (steps * step + end) + steps * (slowest - step) + _START
    if s.workers:
        rest = tiles % s.workers
        wave = LastWave.of(Numbers(), rest, steps, s.workers)
        busy += _CLEARED - wave.given * step
        if wave.given:
            busy += wave.for_each * s.block_M * s.block_N * p.sum_bytes / _PART
            busy += _TORN * wave.torn
    once = p.batch * ((p.M * p.K + p.K * p.N) * size + p.M * p.N * p.out_bytes)
    memory = once / min(_MEMORY * processors, _ALONE * max(1, tiles)) + _START
    if s.swapped and p.N > 64:
        busy, memory = busy * _TURNED, memory * _BY_MEMORY
    busy = max(busy, memory) + _BESIDE * min(busy, memory)
    return busy + _sums_clocks(target, p, s)


def _sums_clocks(target: Target, p: Problem, s: Schedule) -> float:
    """What a second launch takes that adds the parts."""
    if s.split == 1:
        return 0
    sums = p.batch * p.M * p.N * (s.split * p.sum_bytes + p.out_bytes)
    return _LAUNCH + sums / _SUMS / (target.multiprocessors or 1)


def _end_clocks(target: Target, p: Problem, s: Schedule) -> float:
    """What stores of a tile take, or those of a part's sums: by slabs as wide as stages leave room for,
    or, of a transposed tile, its columns. Each row of a slab is a line, or parts of two."""
    item = p.sum_bytes if s.split > 1 else p.out_bytes
    staged = s.stages * (s.block_M + s.block_N) * s.block_K * p.item_bytes
    rows, run, row = s.block_M, s.block_N * item, p.N * item
    if s.swapped:
        rows, run, row = s.block_N, s.block_M * item, p.M * item
        slabs, width = ceil(run / LINE_BYTES), min(run, LINE_BYTES)
    else:
        for widest, _ in _SLABS:
            slabs, width, taken = _slabs(s.block_M, s.block_N, 8 * item, widest)
            if staged + taken <= target.shared_bytes:
                break
    lines = rows * slabs * (1 + (width - gcd(run, row, LINE_BYTES)) / LINE_BYTES)
    return _END + s.block_M * s.block_N * item / _L2 + _SLAB * slabs + _STORED * lines


def _tiles_along(extent: int, block: int, cluster: int) -> int:
    """Tiles along a dimension, with those that fill up the last cluster."""
    return ceil(ceil(extent / block) / cluster) * cluster


def _step_clocks(target: Target, p: Problem, s: Schedule, alone: bool, last: bool = False) -> float:
    """What a step along K takes a multiprocessor, but for its barriers; of the last tile or others.
    `alone`: of a block that shares its multiprocessor with no other."""
    if p.dtype == "f64":
        return _step_of_doubles(target, p, s, alone)
    arithmetic = s.block_M * s.block_N * s.block_K * p.item_bytes / MULTIPLIES
    if p.exact:  # a thread adds a product in each clock
        arithmetic += s.block_M * s.block_N / 128
    if s.threads <= 128:
        # One warpgroup alone leaves the tensor cores waiting where it waits.
        arithmetic *= _LARGE_ALONE if s.block_M * s.block_N > 64 * 64 else _SMALL_ALONE
    # Each instruction reads its 64 rows, and its columns, of which it has 256 at most.
    read = 64 * ceil(s.block_N / 256) + s.block_N
    read *= ceil(s.block_M / 64) * s.block_K * p.item_bytes
    operands = read / (_BY_THREE if s.threads > 256 else _SHARED)
    fills = _fills(p, s)
    terms = (arithmetic, operands, fills, _tma_clocks(p, s, last) if target.tma else 0)
    agreed = _AGREED if s.threads > 256 and s.cluster_M * s.cluster_N > 1 else 1
    return agreed * (max(terms) + ALSO * sum(terms))


def _step_of_doubles(target: Target, p: Problem, s: Schedule, alone: bool) -> float:
    """The same of f64, by instructions of warps that stand two by two: no TMA, no warpgroups."""
    rows = max((i.m for i in target.matrix if i.operand == p.dtype), default=8)
    arithmetic = s.block_M * s.block_N * s.block_K / _DOUBLES[rows] * (_WAITING if alone else 1)
    operands = 2 * (s.block_M + s.block_N) * s.block_K * p.item_bytes / _SHARED
    terms = (arithmetic, operands, _fills(p, s))
    return max(terms) + ALSO * sum(terms)


def _fills(p: Problem, s: Schedule) -> float:
    """What the L2 takes for a step's tiles."""
    filled = min(s.block_M, p.M) / s.cluster_N + min(s.block_N, p.N) / s.cluster_M
    return filled * s.block_K * p.item_bytes / _L2


def _tma_clocks(problem: Problem, schedule: Schedule, last: bool) -> float:
    """What the TMA unit takes for a step: each block of a cluster loads its part of what is shared.
    A line is a row of a box, which is as wide as the swizzle, and no higher than the matrix. Those
    outside of it hold up all multiprocessors: each is charged the mean of all tiles, and who has
    them, in the last tile along M or N, some more. Of fewer rows than a tile has, the first block
    of a cluster loads most or all, and what the others load is outside."""
    p, s = problem, schedule

    def rows(name: str, block: int, extent: int, along_k: bool, sharers: int) -> float:
        if extent > block:
            # The last tile ends with the matrix, unless tiles may not overlap.
            unit = block if p.in_place or p.whole or s.workers else gcd(block, TILE_UNIT)
            outside = (block - extent) % unit
            inside = block - outside * last
        else:
            inside = extent
            outside = sharers * min(block // sharers, extent) - extent
        lines = inside * (ASTRAY if name in p.astray else LINE)
        lines += outside * (_OUTSIDE / max(1, ceil(extent / block)) + _OWN * last)
        lines /= sharers
        return lines if along_k else lines * _SWIZZLES[0] / _span(block * p.item_bytes)

    a = rows("A", s.block_M, p.M, p.a == "rows", s.cluster_N)
    b = rows("B", s.block_N, p.N, p.b == "columns", s.cluster_M)
    return s.block_K * p.item_bytes / _SWIZZLES[0] * (a + b)


def _span(size: int) -> int:
    """The widest swizzle, in bytes, that divides rows of a size."""
    return next((span for span in _SWIZZLES if size % span == 0), _SWIZZLES[-1])


def _by_wgmma(target: Target, problem: Problem) -> bool:
    """Whether wgmma multiplies: tiles are in shared memory, operands of 8 bits along K."""
    families = {i.family for i in target.matrix if i.operand == problem.dtype}
    return "wgmma" in families and (problem.item_bytes == 2 or problem.along_k)


def _tiles(target: Target, problem: Problem) -> list[tuple[int, int, int, int]]:
    """Tiles as rows, columns, depth along K, and threads."""
    families = {i.family for i in target.matrix if i.operand == problem.dtype}
    size = problem.item_bytes
    if _by_wgmma(target, problem):
        depth = 128 // size  # the span of a swizzle
        # Of many widths, some tile fills most of the last wave.
        large = [(128, 256), (256, 128), *((256, n) for n in range(160, 88, -8) if n != 128)]
        large += [(128, n) for n in range(304, 256, -16)]
        large += [(m, n) for m, most in ((128, 248), (192, 208)) for n in range(most, 64, -8)]
        large = [(128, 192), (128, 128)] if problem.exact else large
        small = [(64, n) for n in (*range(256, 48, -16), 32)]
        if problem.b == "rows":  # B's boxes are as wide as a swizzle, and narrow ones cost as much
            large, small = ([t for t in s if t[1] * size % 128 == 0] for s in (large, small))
        deep, narrow = [(64, 64), (64, 32)], [(64, 16), (64, 8)]
        return [
            *((m, n, depth, 2 * m) if m == 192 else (m, n, depth, 256) for m, n in large),
            *((m, n, depth, 128) for m, n in small),
            *((m, n, 2 * depth, 128) for m, n in deep),
            *((m, n, 4 * depth, 128) for m, n in narrow),
        ]
    if not families & {"wgmma", "mma", "mfma"} or size > 2:
        least = (32, 32, 64 // size, 64)
        if target.backend == "cuda" and problem.dtype == "f64":  # rows of 16 are whole lines
            # Sums take two registers each: of larger tiles a multiprocessor holds one block alone.
            tiles = [(128, 64, 16, 128), (64, 128, 16, 128), (64, 64, 16, 128), (32, 32, 16, 64)]
            return tiles if families else tiles[2:]
        # Threads that multiply and add read most of all: by the largest tile 4096^3 took 0.72 of the
        # time on one H200 (0.82 of cuBLAS's speed).
        by_threads = problem.dtype == "f32" and not families
        return [*[(64, 128, 32, 128)] * by_threads, (64, 64, 64 // size, 128), least]
    depth = 64 // size
    if target.backend == "hip":
        return [(128, 128, depth, 256), (64, 64, depth, 256), (32, 32, depth, 64)]
    by_warps = [(128, 256, 256), (128, 128, 128), (64, 128, 128), (64, 64, 128)]
    return [
        *((m, n, _depth_of_warps(target, size, m + n), threads) for m, n, threads in by_warps),
        (32, 64, 128 // size, 64),
    ]


def _depth_of_warps(target: Target, size: int, rows: int) -> int:
    """How deep the steps of mma.sync are, which loads so many rows of elements of a size: 128 bytes,
    where copies run beside the products and three stages fit, else 64. 4096^3 by 128 x 256 takes
    1.05 times as long by 64, on one H200, 5000^3 1.25 times (docs/decisions.md 113)."""
    fits = target.shared_bytes >= 3 * rows * 128 + _BARRIERS
    return (128 if target.asynchronous and fits else 64) // size
