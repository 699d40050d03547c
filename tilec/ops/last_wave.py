"""A product whose last tiles are shared among all blocks.

As many blocks as run at once take the tiles in waves; where the number of tiles is no multiple of
theirs, the last wave leaves blocks idle. Here each tile of that wave is one block's, its owner's,
and the blocks without a tile help: they take the last steps along K of each such tile, and leave
sums that the owner adds to its own, in one order, so that equal inputs give equal bits. That is
Stream-K (Osama et al., "Stream-K: Work-centric Parallel Decomposition for Dense Matrix-Matrix
Multiplication on the GPU", 2023) for the last wave alone, and with all owners walking along K
together: they load the same rows of A and B at the same time, which the L2 cache then reads once.

Helpers come first in the grid and wait for nobody, so owners wait only for blocks that have started:
there is no deadlock, however few blocks run at once.
"""

from __future__ import annotations

from typing import Any, no_type_check

from .. import language as T
from .forms import Form
from .schedules import HELPERS, LastWave

_PANEL = 16  # rows of tiles that are taken together, as in resident blocks
_THREADS = 128


def _in_panels(tile: Any, rows: Any, columns: Any) -> tuple[Any, Any]:
    """Row and column of the `tile`-th tile of a plane, which is taken in panels, column by column."""
    panel = columns * _PANEL
    first = tile // panel * _PANEL
    height = T.max(T.min(rows - first, _PANEL), 1)
    return first + tile % panel % height, tile % panel // height


@T.macro
@no_type_check
def leave(sums, parts, place, arrived, tile):
    """A helper's sums for a tile. Its threads store them as they hold them: by TMA they would need
    a buffer, and that takes a stage of the operands."""
    place = T.max(T.min(place, parts.shape[0] - 1), 0)
    for i, j in T.Parallel(*sums.shape):
        parts[place, i, j] = sums[i, j]
    if T.get_thread_binding() == 0:
        T.atomic_add(arrived[tile], 1, memory_order="release")


@T.macro
@no_type_check
def take(sums, parts, place, count, arrived, tile):
    """The owner's sums and those of `count` helpers, in their order."""
    if T.get_thread_binding() == 0:
        while T.atomic_load(arrived[tile], "acquire") < count:
            pass
    for part in T.unroll(HELPERS):
        if part < count:
            at = T.min(place + part, parts.shape[0] - 1)
            for i, j in T.Parallel(*sums.shape):
                sums[i, j] += parts[at, i, j]


def sharing(form: Form, sum_up: Any, finish: Any) -> Any:
    """A macro: the launches of a product by `workers` blocks, which share the last wave."""

    @T.macro
    @no_type_check
    def share_last_wave(A, B, C, M, N, K, batch, extras, block_M, block_N, block_K, stages,
                        threads, workers):  # fmt: skip
        rows, columns = T.max(T.ceildiv(M, block_M), 1), T.max(T.ceildiv(N, block_N), 1)
        plane_tiles = rows * columns
        tiles = plane_tiles * batch
        waves, rest = tiles // workers, tiles % workers
        steps = T.max(T.ceildiv(K, block_K), 1)
        wave = LastWave.of(rest, steps, workers)
        helpers, own, given, share = wave.helpers, wave.own, wave.given, wave.share
        places = T.max(wave.for_each, 2)  # for the parts of a tile
        parts = T.alloc_global((2 * workers, block_M, block_N), form.sums)
        arrived = T.alloc_global((workers,), "int32")
        with T.Kernel(T.ceildiv(workers, _THREADS), threads=_THREADS) as block:
            arrived[block * _THREADS + T.get_thread_binding()] = 0
        with T.Kernel(workers, threads=threads) as worker:
            # What a helper does of the steps that are given, and the first tile of that.
            begin = T.min(worker * share, rest * given)
            end = T.min((worker + 1) * share, rest * given)
            head = begin // T.max(given, 1)
            owned = worker - helpers  # among the last tiles; below 0 for a helper
            helped = T.ceildiv(end, T.max(given, 1)) - head
            last_items = T.if_then_else(owned < 0, helped, T.if_then_else(owned < rest, 1, 0))
            for item in T.serial(waves + last_items):
                whole = item < waves
                helps = owned < 0 and not whole
                late = T.if_then_else(owned < 0, head + item - waves, owned)
                late = T.max(T.min(late, workers - 1), 0)
                first = T.if_then_else(helps, own + T.max(begin - late * given, 0), 0)
                last = T.if_then_else(helps, own + T.min(end - late * given, given), own)
                last = T.if_then_else(whole, steps, last)
                tile = T.max(
                    T.if_then_else(whole, worker + item * workers, waves * workers + late), 0
                )
                z, plane = 0, tile
                if "C" in form.batched:
                    z, plane = tile // plane_tiles, tile % plane_tiles
                row, column = _in_panels(plane, rows, columns)
                m, n = row * block_M, column * block_N
                sums = T.alloc_fragment((block_M, block_N), form.sums)
                T.clear(sums)
                sum_up(A, B, sums, block_K, stages, z, m, n, last - first, first, 1)
                helper = late * given // share  # the first of this tile
                if helps:
                    leave(sums, parts, late * places + worker - helper, arrived, late)
                else:
                    if not whole and given > 0:
                        count = ((late + 1) * given - 1) // share - helper + 1
                        take(sums, parts, late * places, count, arrived, late)
                    finish(sums, C, extras, z, m, n)

    return share_last_wave
