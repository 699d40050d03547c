"""A launch that TMA feeds is run by a few resident blocks, each taking several logical blocks in
turn.

Needs: copy instructions chosen. Leaves: launches whose blocks run in turn, their body a loop over
logical blocks whose order is the raster's; other launches keep one hardware block a logical block,
with the raster that the program asked for. Among them are those whose blocks wait for each other,
since a block that waits would keep its resident block from the others, and those whose blocks differ
in work, where turns that are fixed ahead would leave multiprocessors without any (docs/decisions.md
84).

Blocks of a cluster take neighbouring blocks of the grid, in turns of whole clusters. Where the grid
is no multiple, some have none: they load what their neighbour does, and leave out all effects.

    launch %gx, %gy, 1 (%bx, %by, %bz) { ... }
      ->  launch %gx, %gy, 1 <in_turn, resident = 1> (...) {
            for %first, %total, %count (%tile) { %bx, %by = raster of %tile ; ... } }
"""

from __future__ import annotations

from ..ir.build import Builder, scalar
from ..ir.clone import clone_op
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.dtypes import i32
from ..ir.ops.control import For, HardwareBlock, If, Launch, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Channel, Pipeline
from ..ir.ops.tile import Copy
from .clusters import block_rank, place_in_cluster, without_effects
from .context import PassContext, Remark
from .dependence import follows, waits_for_blocks
from .rasters import PANEL_OF_ONE_WAVE, as_block, gathered_by_die, panel_of, rasterize
from .value_ranges import ValueRanges, value_ranges


def make_persistent(program: Program, context: PassContext) -> Program:
    """Makes launches persistent where they have roles, and rasterizes the others that ask for it."""
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, context, ranges))


def _launch(launch: Launch, context: PassContext, ranges: ValueRanges) -> Launch:
    fed_by_tma = any(isinstance(op, Copy) and op.instruction == "tma" for op in walk(launch.body))
    if launch.persistent is not False and fed_by_tma and not waits_for_blocks(launch.body):
        uneven = None if launch.persistent or launch.cluster_blocks > 1 else _uneven(launch)
        if uneven is None:
            message = "resident blocks take the grid's blocks in turn"
            context.remark(Remark("TLC0321", message, launch.loc))
            return _persistent(launch, ranges)
        message = "the GPU gives out blocks one by one, since the work in this loop differs"
        context.remark(Remark("TLC0337", message, uneven.loc))
    if launch.panel == 0:
        launch = launch.replace(panel=panel_of(launch))  # type: ignore[assignment]
    return _rasterized(launch, context.target.dies) if launch.panel else launch


def _uneven(launch: Launch) -> Op | None:
    """A loop with products or loads whose trips, or whether it runs at all, follow from which block
    it is."""
    of_block = follows(launch.body, launch.body.params)
    for op in walk(launch.body):
        loops: list[Op] = []
        if isinstance(op, (For, Pipeline)) and not of_block.isdisjoint((op.start, op.stop)):
            loops = [op]
        elif isinstance(op, If) and op.condition in of_block:
            loops = [inner for inner in op.walk() if isinstance(inner, (For, Pipeline))]
        for loop in loops:
            if any(isinstance(inner, (Copy, Gemm)) for inner in loop.walk()):
                return loop
    return None


def _persistent(launch: Launch, ranges: ValueRanges) -> Launch:
    memory = [op for op in launch.body.ops if isinstance(op, (Alloc, Channel))]
    rest = [op for op in launch.body.ops if not isinstance(op, (Alloc, Channel, Yield))]
    b = Builder()
    with at(launch.loc):
        gx, gy, gz = _in_clusters(b, launch)
        total = b.mul(b.mul(gx, gy), gz)
        first, count = b.emit(HardwareBlock()).result, b.emit(HardwareBlock(count=True)).result
        if launch.cluster_blocks > 1:  # at least one, which is not seen after the division
            first = b.floordiv(first, launch.cluster_blocks)
            count = b.max(b.floordiv(count, launch.cluster_blocks), 1)
        tile = scalar(i32, "tile")
        panel = _panel(b, launch, b.compare("le", total, count))
        with b.region() as inner:
            indices = rasterize(b, tile, (gx, gy, gz), panel, launch.order)
            indices, inside = _within_cluster(b, launch, indices, ranges)
            renaming = as_block(launch, indices)
            body = Block((), tuple(clone_op(op, renaming) for op in rest))
            b.extend((body if inside is None else without_effects(body, inside)).ops)
            b.emit(Yield(()))
        b.emit(For(first, total, count, (), Block((tile,), tuple(inner))))
        b.emit(Yield(()))
    body = Block(launch.body.params, (*memory, *b.ops))
    return launch.replace(body=body, in_turn=True, resident=1)  # type: ignore[return-value]


def _panel(b: Builder, launch: Launch, one_wave: Value) -> Value | None:
    """Rows of a panel, in clusters; None where the order does not matter."""
    rows = launch.cluster[1 if launch.order == "row" else 0]
    if launch.panel:
        return b.const(-(-launch.panel // rows))
    most = panel_of(launch)
    if not most:
        return None
    of_one, of_many = (b.const(-(-panel // rows)) for panel in (PANEL_OF_ONE_WAVE, most))
    panel = b.select(one_wave, of_one, of_many)
    panel.hint = "panel"
    return panel


def _in_clusters(b: Builder, launch: Launch) -> tuple[Value, Value, Value]:
    """The extents of the grid in clusters, the last of which may reach beyond it."""
    gx, gy, gz = (
        b.floordiv(b.add(extent, n - 1), n)
        for extent, n in zip(launch.grid, launch.cluster, strict=True)
    )
    return gx, gy, gz


def _within_cluster(
    b: Builder, launch: Launch, cluster: tuple[Value, Value, Value], ranges: ValueRanges
) -> tuple[tuple[Value, Value, Value], Value | None]:
    """The indices of this block of the cluster at these indices, and whether it is one of the grid
    (None: it always is). One that is not goes through its neighbour's motions, since the others of
    its cluster wait for what it loads.
    """
    if launch.cluster_blocks == 1:
        return cluster, None
    place = place_in_cluster(b, block_rank(b, launch.cluster), launch.cluster)
    found: list[Value] = []
    inside: Value | None = None
    for index, n, own, extent in zip(cluster, launch.cluster, place, launch.grid, strict=True):
        block = b.add(b.mul(index, n), own)
        if n > 1 and not ranges.is_multiple(extent, n):
            exists = b.compare("lt", block, extent)
            inside = exists if inside is None else b.bit_and(inside, exists)
            block = b.min(block, b.sub(b.max(extent, 1), 1))
        found.append(block)
    return (found[0], found[1], found[2]), inside


def _rasterized(launch: Launch, dies: int) -> Launch:
    b = Builder()
    with at(launch.loc):
        bx, by, bz = launch.body.params
        gx, gy, _ = launch.grid
        index = b.add(b.mul(b.add(b.mul(bz, gy), by), gx), bx)
        index = b.max(index, 0)  # which it is; so the analysis of ranges knows
        index = gathered_by_die(b, index, launch.grid, dies)  # type: ignore[arg-type]
        indices = rasterize(b, index, launch.grid, b.const(launch.panel), launch.order)  # type: ignore[arg-type]
        renaming = as_block(launch, indices)
    ops: list[Op] = [*b.ops, *(clone_op(op, renaming) for op in launch.body.ops)]
    return launch.replace(body=Block(launch.body.params, tuple(ops)))  # type: ignore[return-value]
