"""Reductions of tiles: in a thread's registers, over the lanes of a warp, then over warps.

    %m = reduce %x <kind = "max", dim = 1> : tile f32[64]   // of a tile that 4 lanes hold a row of

    for 0, 2, 1 (%r) <unroll = 0> { ... %m[%r] = the larger of %x[...] ... }
    for 0, 2, 1 (%r) <unroll = 0> { %m[%r] = max %m[%r], shuffle_xor %m[%r] <mask = 1> }
    for 0, 2, 1 (%r) <unroll = 0> { %m[%r] = max %m[%r], shuffle_xor %m[%r] <mask = 2> }

Which lanes and which warps hold parts of one element is read off the layout (plan_reduction), which
proves that each element counts once. Lanes meet in a butterfly, so all of them get the same bits.
Parts in different warps go through shared memory, and every thread joins them in the same order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..ir.core import Value
from ..ir.dtypes import bool_
from ..ir.layout import VECTOR_BITS, ReductionPlan, RegisterLayout, plan_reduction
from ..ir.ops.reduce import Reduce
from ..ir.ops.thread import ShuffleXor, VectorLoad, VectorStore
from .coordinates import apply_map, coordinates, primary, register_loops

if TYPE_CHECKING:
    from .lower_tiles import Lowering

CHAINS = 4  # of joins that a thread runs side by side, so that one need not wait for the last


def lower_reduce(op: Reduce, lowering: Lowering) -> None:
    """Lowers a reduction of a tile."""
    plan = plan_reduction(lowering.layout(op.source), op.dim, lowering.context.target.warp_size)
    work = _Reducing(op, lowering, plan)
    work.fold()
    for mask in plan.masks:
        work.exchange(mask)
    if plan.groups > 1:
        work.through_shared()


class _Reducing:
    """One reduction while it is lowered: registers of the result hold what is joined so far."""

    def __init__(self, op: Reduce, lowering: Lowering, plan: ReductionPlan) -> None:
        self.op, self.lowering, self.plan = op, lowering, plan
        self.b = lowering.b
        self.source = lowering.registers(op.source)
        self.result = lowering.registers(op.result)
        self.layout: RegisterLayout = lowering.layout(op.result)

    def join(self, x: Value, y: Value) -> Value:
        return self.op.join(self.b.pure, x, y)

    def fold(self) -> None:
        """Every thread's own registers, in CHAINS chains where there are enough."""
        first = tuple(folded[0] for folded in self.plan.folds)
        steps = tuple(register - first[0] for register in self.plan.folds[0])
        chains = math.gcd(len(steps), CHAINS) if len(steps) > CHAINS else 1
        parts = self.result
        if chains > 1:
            parts = self.lowering.scratch(self.op.dtype, chains, "parts")
        with register_loops(self.b, self.layout) as register:
            start = apply_map(self.b, register, first)
            with self.b.unrolled(chains, hint="c") as chain:
                home = chain if chains > 1 else register
                self.b.write(self._element(start, steps, chain), parts, home)
            if len(steps) > chains:
                self._fold_rest(parts, register, start, steps, chains)
            if chains > 1:
                found = [self.b.read(parts, self.b.const(c)) for c in range(chains)]
                self.b.write(self._tree(found), self.result, register)

    def _fold_rest(
        self, parts: Value, register: Value, start: Value, steps: tuple[int, ...], chains: int
    ) -> None:
        b = self.b
        with (
            b.unrolled(len(steps) // chains - 1, hint="f") as f,
            b.unrolled(chains, hint="c") as chain,
        ):
            home = chain if chains > 1 else register
            place = b.add(b.mul(b.add(f, 1), chains), chain)
            found = self._element(start, steps, place)
            self.b.write(self.join(self.b.read(parts, home), found), parts, home)

    def _element(self, start: Value, steps: tuple[int, ...], place: Value) -> Value:
        """Element `place` of those that fold into one, as it is joined."""
        register = self.b.add(start, apply_map(self.b, place, steps))
        return self.op.element(self.b.pure, self.b.read(self.source, register))

    def _tree(self, found: list[Value]) -> Value:
        while len(found) > 1:
            pairs = [self.join(x, y) for x, y in zip(found[::2], found[1::2], strict=False)]
            found = pairs + found[len(pairs) * 2 :]
        return found[0]

    def exchange(self, mask: int) -> None:
        """Joins every register with that of the lane across."""
        with register_loops(self.b, self.layout) as register:
            mine = self.b.read(self.result, register)
            other = self.b.emit(ShuffleXor(mine, mask=mask)).result
            self.b.write(self.join(mine, other), self.result, register)

    def through_shared(self) -> None:
        """The parts of all groups to shared memory, side by side; then every thread joins them."""
        b, lowering, groups = self.b, self.lowering, self.plan.groups
        name = f"{self.op.source.hint or 'tile'}_parts"
        memory = b.exchange_buffer(self.op.dtype, self.plan.partial.shape, name)
        if lowering.loops:
            lowering.barrier()  # the last round's reads are over
        writer = primary(b, self.plan.partial, lowering.thread())
        writes = b.const(True, bool_) if writer is None else writer
        with b.when(writes), register_loops(b, self.layout) as register:
            place = coordinates(b, self.plan.partial, lowering.thread(), register)
            b.emit(VectorStore(memory, place, self.result, register, (), count=1))
        lowering.barrier()
        width = math.gcd(groups, VECTOR_BITS // self.op.dtype.bits)
        gathered = lowering.scratch(self.op.dtype, groups, "groups")
        whole = self.plan.partial.reduce(-1)
        with register_loops(b, self.layout) as register:
            place = coordinates(b, whole, lowering.thread(), register)
            with b.unrolled(groups // width, hint="g") as g:
                start = b.mul(g, width)
                b.emit(VectorLoad(gathered, start, memory, (*place, start), (), count=width))
            found = [self.b.read(gathered, b.const(g)) for g in range(groups)]
            self.b.write(self._tree(found), self.result, register)
