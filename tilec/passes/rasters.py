"""In which order logical blocks are taken: a bijection from 0 ... total-1 to block indices."""

from __future__ import annotations

from math import log2, prod

from ..ir.build import Builder
from ..ir.clone import Renaming
from ..ir.core import Value, constant_of, walk
from ..ir.ops.control import Launch
from ..ir.ops.memory import memory_type
from ..ir.ops.pipeline import Pipeline
from ..ir.ops.tile import Copy
from .dependence import follows, is_global

_LEAST, _MOST = (
    3,
    4,
)  # of a panel's rows, as exponents of 2: what was measured (docs/decisions.md 108)

TOGETHER = 132
"""Blocks that run at once: the multiprocessors of an H100. Others have as many within a factor that
hardly matters here."""
PANEL_OF_ONE_WAVE = 8
"""Rows of a panel where all blocks run at once, so that it only matters which of them are neighbours on the
machine (docs/decisions.md 78)."""


def gathered_by_die(b: Builder, index: Value, grid: tuple[Value, Value, Value], dies: int) -> Value:
    """The number of hardware block `index`, which runs on die index % dies: a bijection by which
    each die takes consecutive numbers, so that blocks that share operands share an L2 cache
    ("HipKittens", arXiv 2511.08083).

    An MI300X has eight XCDs, each with an L2 cache of its own (AMD, "Deep dive into the MI300 compute
    and memory partition modes"); workgroups go to them in turn there (Composable Kernel, pull request
    3652) and on MI350 (iree-org/wave, pull request 1001). Where that does not hold (the six XCDs of an
    MI300A, a partition of a device) locality is lost and nothing else.
    """
    if dies == 1:
        return index
    gx, gy, gz = (b.max(extent, 1) for extent in grid)  # as below
    total = b.mul(b.mul(gx, gy), gz)
    share, rest = b.floordiv(total, dies), b.floormod(total, dies)
    die, place = b.floormod(index, dies), b.floordiv(index, dies)
    return b.add(b.add(b.mul(die, share), b.min(die, rest)), place)


def rasterize(
    b: Builder, index: Value, grid: tuple[Value, Value, Value], panel: Value | None, order: str
) -> tuple[Value, Value, Value]:
    """The block (x, y, z) of number `index`.

    Without a `panel`: x fastest. Else blocks go in panels of `panel` rows (order "row": down the rows
    of a panel, then to its next column) or `panel` columns ("column"), so that blocks that run
    together share operands in L2.
    """
    gx, gy, gz = (b.max(extent, 1) for extent in grid)  # so that divisors are known to be positive
    if constant_of(gz) == 1:
        z: Value = b.const(0)
        inner = index
    else:
        plane = b.mul(gx, gy)
        z = b.floordiv(index, plane)
        inner = b.floormod(index, plane)
    if panel is None:
        return b.floormod(inner, gx), b.floordiv(inner, gx), z
    across, along = (gx, gy) if order == "row" else (gy, gx)
    size = b.mul(across, panel)
    first = b.mul(b.floordiv(inner, size), panel)
    rows = b.max(b.min(b.sub(along, first), panel), 1)
    within = b.floormod(inner, size)
    row = b.add(first, b.floormod(within, rows))
    column = b.floordiv(within, rows)
    return (column, row, z) if order == "row" else (row, column, z)


def as_block(launch: Launch, indices: tuple[Value, Value, Value]) -> Renaming:
    """What stands for the indices of the launch's blocks where these are a block's, named alike."""
    for param, index in zip(launch.body.params, indices, strict=True):
        index.hint = index.hint or param.hint
    return dict(zip(launch.body.params, indices, strict=True))


def panel_of(launch: Launch) -> int:
    """Rows of a panel where the program asks for none: so many that blocks which run at once load
    least, as a power of 2; 0 where it does not matter in which order blocks are taken.

    It matters where pipelines load the same data in blocks of one row of the grid, and the same in
    blocks of one column. Panels of p rows then load p * rows + TOGETHER / p * columns.
    """
    if constant_of(launch.grid[0]) == 1 or constant_of(launch.grid[1]) == 1:
        return 0
    loads = [
        op
        for pipeline in walk(launch.body)
        if isinstance(pipeline, Pipeline)
        for op in pipeline.walk()
        if isinstance(op, Copy) and is_global(op.source)
    ]
    of_row, of_column = (
        sum(_bytes(op) for op in loads if by.isdisjoint(op.source_indices))
        for by in (follows(launch.body, (index,)) for index in launch.body.params[:2])
    )
    if not (of_row and of_column):
        return 0
    exponent = round(log2(TOGETHER * of_column / of_row) / 2)
    return 1 << max(_LEAST, min(exponent, _MOST))


def _bytes(load: Copy) -> int:
    return prod(load.shape) * memory_type(load.source).dtype.bits // 8
