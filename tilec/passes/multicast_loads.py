"""Tiles that several blocks of a cluster load are brought once, to all of them.

Needs: instructions chosen; the blocks' indices still the launch's own parameters. Leaves: on each
such copy by TMA `multicast`, the dimensions of the cluster along which the tile stays the same. Every
block still means to load the whole tile; the machine has each bring a part to all. A launch where no
tile is shared, or the blocks' loads need not keep step, has no cluster any more, with a remark.

    launch %gx, %gy, 1 (%bx, %by, %bz) <cluster = [2, 1, 1]> {
      copy %A[%by * 128, %k * 64], %A_s <instruction = "tma">  ->  copy ... <..., multicast = [0]>
      copy %B[%bx * 256, %k * 64], %B_s <instruction = "tma"> }
"""

from __future__ import annotations

from ..errors import TargetUnsupported
from ..ir.core import Access, Block, Op, Program, walk
from ..ir.ops.control import NO_CLUSTER, For, If, Launch, While, map_launches
from ..ir.ops.pipeline import Pipeline, Stage
from ..ir.ops.tile import Copy
from .assign_roles import is_producer_stage
from .clusters import alike_along, sharers, unguarded_reads
from .context import PassContext, Remark
from .dependence import is_global, waits_for_blocks
from .uniformity import differing_between_blocks
from .value_ranges import ValueRanges, value_ranges


def multicast_loads(program: Program, context: PassContext) -> Program:
    """Marks shared loads. Raises TargetUnsupported (TLC0526) for a launch in clusters where the
    target has none.
    """
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, context, ranges))


def _launch(launch: Launch, context: PassContext, ranges: ValueRanges) -> Launch:
    if launch.cluster_blocks == 1:
        return launch
    if not context.target.clusters:
        raise TargetUnsupported(
            "TLC0526",
            f"{context.target.name} has no clusters of blocks",
            loc=launch.loc,
            hint="cluster=1 for this target: @tilec.heuristic knows it when it chooses",
        )
    shares = _Shares(launch)
    body = shares.marked(launch.body)
    reason = _refusal(launch, shares, ranges)
    if reason:
        context.remark(Remark("TLC0331", f"no cluster: {reason}", launch.loc))
        return launch.replace(cluster=NO_CLUSTER)  # type: ignore[return-value]
    brought = ", ".join(f"{name} to {n}" for name, n in shares.found.items())
    context.remark(Remark("TLC0332", f"blocks of a cluster load for others: {brought}", launch.loc))
    return launch.replace(body=body)  # type: ignore[return-value]


def _refusal(launch: Launch, shares: _Shares, ranges: ValueRanges) -> str:
    """Why blocks of a cluster cannot load for each other."""
    if launch.explicit:
        return "the program itself says what each block loads"
    if launch.persistent is False:
        return "the program forbids resident blocks (persistent=False)"
    if waits_for_blocks(launch.body):
        return "its blocks wait for each other"
    if not shares.found:
        return shares.reason or "no load by TMA is the same for neighbouring blocks"
    # A block without a tile of its own repeats its neighbour's loads while that one may be storing.
    ragged = not all(
        n == 1 or ranges.is_multiple(extent, n)
        for extent, n in zip(launch.grid, launch.cluster, strict=False)
    )
    if ragged:
        written = {
            e.memory for op in walk(launch.body) for e in op.effects() if e.access is Access.WRITE
        }
        for memory in unguarded_reads(launch.body):
            if not written.isdisjoint((memory, None)):
                name = memory.hint if memory is not None else "memory"
                return f"{name} is read and written, and the grid may be no multiple of it"
    return ""


class _Shares:
    """Which copies of a launch are the same in several blocks of a cluster."""

    def __init__(self, launch: Launch) -> None:
        self.cluster = launch.cluster
        self.axes = [axis for axis, extent in enumerate(launch.cluster) if extent > 1]
        indices = launch.body.params
        self.by_axis = {
            axis: differing_between_blocks(launch.body, (indices[axis],)) for axis in self.axes
        }
        self.found: dict[str, int] = {}  # tensors, and how many blocks get each tile of theirs
        self.reason = ""

    def marked(self, block: Block, inside: bool = True) -> Block:
        """A block with its copies marked. `inside`: all blocks of a cluster run it, and as often."""
        ops: list[Op] = []
        for op in block.ops:
            match op:
                case Stage() if inside and is_producer_stage(op):
                    body = op.body.with_ops([self._copy(inner) for inner in op.body.ops])
                    ops.append(op.replace(body=body))
                case For() | If() | While() | Pipeline():
                    alike = inside and self._alike(op)
                    ops.append(op.map_regions(lambda b, i=alike: self.marked(b, i)))  # type: ignore[misc]
                case _:
                    ops.append(op)
        return block.with_ops(ops)

    def _alike(self, op: Op) -> bool:
        """Whether the blocks of a cluster run the regions of an op alike."""
        decide = set(op.inputs) if not isinstance(op, For | Pipeline) else {op.start, op.stop}
        if isinstance(op, For):
            decide.add(op.step)
        if isinstance(op, While) and op.condition.terminator is not None:
            decide.update(op.condition.terminator.inputs)
        alike = all(decide.isdisjoint(differing) for differing in self.by_axis.values())
        if not alike:
            self.reason = f"how often the {op.name} at {op.loc} runs differs between its blocks"
        return alike

    def _copy(self, op: Op) -> Op:
        if not (isinstance(op, Copy) and op.instruction == "tma" and is_global(op.source)):
            return op
        shared = [axis for axis in self.axes if alike_along(op, self.by_axis[axis])]
        if shared:
            self.found[op.source.hint or "a tensor"] = sharers(self.cluster, shared)
        return op.replace(multicast=tuple(shared)) if shared else op
