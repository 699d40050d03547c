"""Small tiles that TMA cannot load, as nests: scales beside the operands that they belong to.

One load that TMA cannot do, and a launch is run by one role, without wgmma. A column of scales, or
rows of a few bytes, are no reason for that: their nest gathers, by asynchronous copies of 4 bytes
where these can bring it, else by the consumers' threads.
"""

from __future__ import annotations

import math

from ..ir.build import Builder, scalar
from ..ir.core import Block, Op, Value, at
from ..ir.dtypes import i32
from ..ir.ops.control import Launch, Parallel, Yield
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.ops.pipeline import Stage
from ..ir.ops.tile import Copy
from .dependence import writes
from .engine_needs import start_refusal, tma_refusal
from .gathers import find_gather
from .value_ranges import ValueRanges

SMALL = 8  # times as much must TMA bring


def with_nests(launch: Launch, ranges: ValueRanges) -> Launch:
    """The launch with nests in place of such loads, in stages that load by TMA beside them; the launch
    itself where there are none.
    """

    def block(body: Block) -> Block:
        return body.with_ops([one(op) for op in body.ops])

    def one(op: Op) -> Op:
        return _stage(op, ranges) if isinstance(op, Stage) else op.map_regions(block)

    return launch.replace(body=block(launch.body))  # type: ignore[return-value]


def _stage(stage: Stage, ranges: ValueRanges) -> Op:
    if stage.label != "load":
        return stage
    loads = [op for op in stage.body.ops if isinstance(op, Copy)]
    boxes = [op for op in loads if _takes_tma(op, ranges)]
    small = sum(map(_bytes, boxes)) // SMALL
    nests: dict[Op, Parallel] = {}
    for load in loads:
        filling = [op for op in stage.body.ops if load.destination in writes(op)]
        if load not in boxes and _bytes(load) <= small and filling == [load]:
            nest = _nest(load)
            if find_gather(nest) is not None:
                nests[load] = nest
    ops = [nests.get(op, op) for op in stage.body.ops]
    return stage.replace(body=stage.body.with_ops(ops)) if nests else stage


def _takes_tma(load: Copy, ranges: ValueRanges) -> bool:
    """As far as the program alone tells."""
    return not (
        tma_refusal(load, load.source, load.source_dims, load.shape)
        or start_refusal(load.source, load.source_indices, ranges)
    )


def _bytes(load: Copy) -> int:
    return math.prod(load.shape) * memory_type(load.source).dtype.bytes


def _nest(load: Copy) -> Parallel:
    """What a copy does, element by element. Its last index runs along the buffer's rows, if only once."""
    last = len(memory_type(load.destination).shape) - 1
    source_dims, destination_dims, extents = load.source_dims, load.destination_dims, load.shape
    if destination_dims[-1] != last:
        outer = len(memory_type(load.source).shape) - 1
        source_dims = (*source_dims, outer) if source_dims[-1] != outer else source_dims
        destination_dims, extents = (*destination_dims, last), (*extents, 1)
    b = Builder()
    place = tuple(scalar(i32, f"i{n}") for n in range(len(extents)))

    def moved(indices: tuple[Value, ...], dims: tuple[int, ...]) -> tuple[Value, ...]:
        steps = dict(zip(dims, place, strict=False))
        return tuple(b.add(x, steps[n]) if n in steps else x for n, x in enumerate(indices))

    with at(load.loc):
        source = moved(load.source_indices, source_dims)
        element = b.emit(Load(load.source, source, safe_value=load.safe_value)).result
        destination = moved(load.destination_indices, destination_dims)
        b.emit(Store(element, load.destination, destination))
        b.emit(Yield(()))
        return Parallel((), (), Block(place, tuple(b.ops)), extents=extents)
