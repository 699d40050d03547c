"""A launch that TMA feeds is run by a few resident blocks, each taking several logical blocks in
turn.

Needs: copy instructions chosen. Leaves: launches with persistent_blocks > 0, their body a loop over
logical blocks whose order is the raster's; other launches keep one hardware block a logical block,
with the raster that the program asked for: those whose blocks wait for each other among them, since
a block that waits would keep its resident block from the others.

    launch %gx, %gy, 1 (%bx, %by, %bz) { ... }
      ->  launch %gx, %gy, 1 <persistent_blocks = 1> (...) {
            for %first, %total, %count (%tile) { %bx, %by = raster of %tile ; ... } }
"""

from __future__ import annotations

from ..ir.build import Builder, scalar
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at, constant_of, walk
from ..ir.dtypes import i32
from ..ir.ops.control import For, HardwareBlock, Launch, Yield, map_launches
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Channel, Pipeline
from ..ir.ops.tile import Copy
from .context import PassContext, Remark
from .dependence import is_global, waits_for_blocks
from .rasters import gathered_by_die, rasterize

PANEL = 16
"""Rows of a panel where the program asks for none: sqrt(multiprocessors * 256 / 128), rounded to a
power of 2."""


def make_persistent(program: Program, context: PassContext) -> Program:
    """Makes launches persistent where they have roles, and rasterizes the others that ask for it."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    fed_by_tma = any(isinstance(op, Copy) and op.instruction == "tma" for op in walk(launch.body))
    if launch.persistent and fed_by_tma and not waits_for_blocks(launch.body):
        context.remark(
            Remark("TLC0321", "resident blocks take the grid's blocks in turn", launch.loc)
        )
        return _persistent(launch)
    if launch.panel == 0 and _shares_operands(launch):
        launch = launch.replace(panel=PANEL)  # type: ignore[assignment]
    return _rasterized(launch, context.target.dies) if launch.panel else launch


def _shares_operands(launch: Launch) -> bool:
    """Whether pipelines load the same data in blocks of one row of the grid, and the same in blocks
    of one column, so that it matters in which order the plane is taken.
    """
    if constant_of(launch.grid[0]) == 1 or constant_of(launch.grid[1]) == 1:
        return False
    loads = [
        op
        for pipeline in walk(launch.body)
        if isinstance(pipeline, Pipeline)
        for op in pipeline.walk()
        if isinstance(op, Copy) and is_global(op.source)
    ]
    by_x, by_y = (_follows(launch.body, index) for index in launch.body.params[:2])
    return any(by_x.isdisjoint(op.source_indices) for op in loads) and any(
        by_y.isdisjoint(op.source_indices) for op in loads
    )


def _follows(block: Block, root: Value) -> set[Value]:
    """The values that are computed from `root`, itself included. What a region is given counts as
    computed from all that its op takes.
    """
    found = {root}
    for op in walk(block):
        if not found.isdisjoint(op.inputs):
            found.update(op.results)
            found.update(param for region in op.regions for param in region.params)
    return found


def _persistent(launch: Launch) -> Launch:
    memory = [op for op in launch.body.ops if isinstance(op, (Alloc, Channel))]
    rest = [op for op in launch.body.ops if not isinstance(op, (Alloc, Channel))]
    panel = launch.panel or (PANEL if _shares_operands(launch) else 0)
    b = Builder()
    with at(launch.loc):
        gx, gy, gz = launch.grid
        total = b.mul(b.mul(gx, gy), gz)
        first, count = b.emit(HardwareBlock()).result, b.emit(HardwareBlock(count=True)).result
        tile = scalar(i32, "tile")
        with b.region() as inner:
            indices = rasterize(b, tile, (gx, gy, gz), panel, launch.order)
            renaming: Renaming = dict(zip(launch.body.params, indices, strict=True))
            _name(launch.body.params, indices)
            for op in rest:
                if not isinstance(op, Yield):
                    b.emit(clone_op(op, renaming))
            b.emit(Yield(()))
        b.emit(For(first, total, count, (), Block((tile,), tuple(inner))))
        b.emit(Yield(()))
    body = Block(launch.body.params, (*memory, *b.ops))
    return launch.replace(body=body, persistent_blocks=1)  # type: ignore[return-value]


def _rasterized(launch: Launch, dies: int) -> Launch:
    b = Builder()
    with at(launch.loc):
        bx, by, bz = launch.body.params
        gx, gy, _ = launch.grid
        index = b.add(b.mul(b.add(b.mul(bz, gy), by), gx), bx)
        index = b.max(index, 0)  # which it is; so the analysis of ranges knows
        index = gathered_by_die(b, index, launch.grid, dies)  # type: ignore[arg-type]
        indices = rasterize(b, index, launch.grid, launch.panel, launch.order)  # type: ignore[arg-type]
        renaming: Renaming = dict(zip(launch.body.params, indices, strict=True))
        _name(launch.body.params, indices)
    ops: list[Op] = [*b.ops, *(clone_op(op, renaming) for op in launch.body.ops)]
    return launch.replace(body=Block(launch.body.params, tuple(ops)))  # type: ignore[return-value]


def _name(params: tuple[Value, ...], indices: tuple[Value, ...]) -> None:
    for param, index in zip(params, indices, strict=True):
        index.hint = index.hint or param.hint
