"""Boxes of TMA loads that are no higher than their tensor.

Needs: loads chosen and shared ones marked; the blocks' indices still the launch's own parameters. Leaves:
on each load by TMA `clipped`, the dimensions along which its boxes may end with the tensor. lower_pipelines
keeps the one that the layout allows, expects so many bytes, and zeroes the slots once if the tensor is lower
than the tile; the host, which knows the tensor, encodes the lower box.

    %s = put %A_s                                                     (A has M rows)
    copy %A[%m, %k], %s <shape = [128, 64], instruction = "tma">  ->  copy ... <..., clipped = [0]>

The engine takes several times as long for a line outside of a tensor, which it fills with zeros, as for
one inside (decisions.md 81). A box of h = min(extent, rows) lines that starts at line c >= 0 brings all
that there is: c + h lies at the tensor's end or behind it, or h is the whole tile. What lies behind the
box stays zero, for as long as the launch runs: only that load writes the channel's buffer.

Only the outermost dimension of a box may end early, else what follows would lie elsewhere. Boxes stay
whole where c may be negative, in clusters, whose blocks bring each other parts, and in programs that start
the engine themselves: these say how many bytes they expect.
"""

from __future__ import annotations

from ..ir.core import Access, Block, Op, Program, Value, walk
from ..ir.ops.control import Launch, map_launches
from ..ir.ops.memory import memory_type
from ..ir.ops.pipeline import Get, Put
from ..ir.ops.tile import Copy
from ..ir.rewrite import transform
from .context import PassContext
from .dependence import is_global
from .value_ranges import ValueRanges, value_ranges

_LAST = 2**31 - 1
"""The last coordinate that TMA takes (PTX ISA, cp.async.bulk.tensor: .s32)."""


def clip_boxes(program: Program, context: PassContext) -> Program:
    """Marks the loads of every launch."""
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, context, ranges))


def _launch(launch: Launch, context: PassContext, ranges: ValueRanges) -> Launch:
    if launch.cluster_blocks > 1:
        return launch
    clipped: dict[Op, Op] = {}
    for op in _only_writers(launch.body):
        dims = tuple(d for d in range(len(op.shape) - 1) if _may_end(op, d, context, ranges))
        if dims:
            clipped[op] = op.replace(clipped=dims)
    return launch.replace(body=transform(launch.body, clipped.get))  # type: ignore[return-value]


def _only_writers(body: Block) -> list[Copy]:
    """Loads by TMA into buffers of channels that nothing else writes."""
    channels = {op.result: op.channel for op in walk(body) if isinstance(op, (Put, Get))}
    writers: dict[Value, list[Op]] = {}
    for op in walk(body):
        for effect in op.effects():
            if effect.access is Access.WRITE and effect.memory in channels:
                writers.setdefault(channels[effect.memory], []).append(op)
    alone = [ops[0] for ops in writers.values() if len(ops) == 1]
    return [
        op
        for op in alone
        if isinstance(op, Copy) and op.instruction == "tma" and is_global(op.source)
    ]


def _may_end(op: Copy, dim: int, context: PassContext, ranges: ValueRanges) -> bool:
    """Whether a tensor that has lines may have fewer of them than the region along a dimension, and
    a region always starts where there could be one.
    """
    rows, along = op.shape[dim], op.source_dims[dim]
    extent = memory_type(op.source).shape[along]
    if isinstance(extent, int):
        lower = extent < rows
    else:
        lower = extent != "*" and context.multiples.get(extent, 1) % rows != 0
    return lower and ranges.of(op.source_indices[along]).inside(0, _LAST)
