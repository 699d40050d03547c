"""Scans of tiles: digit by digit of the dimension, innermost first.

A digit of the coordinate is one of the register's number, of the lane's or of the warp's
(plan_scan). When the digits inside it are done, every thread knows the totals of the blocks that
they make; the blocks before it are then joined to each block, and the totals with each other:

| digit of | how |
|---|---|
| the register's number | one after the other |
| the lane's | the scan of Hillis and Steele (CACM 29(12), 1986) by shuffles: log2 steps |
| the thread's otherwise | totals through shared memory, joined by every thread in order |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..ir.core import Value
from ..ir.dtypes import bool_
from ..ir.layout import ScanStep, plan_scan
from ..ir.ops.memory import Load, Store
from ..ir.ops.reduce import Scan
from ..ir.ops.thread import Shuffle
from .coordinates import apply_map, coordinates, primary

if TYPE_CHECKING:
    from .lower_tiles import Lowering


def lower_scan(op: Scan, lowering: Lowering) -> None:
    """Lowers a scan of a tile."""
    steps = plan_scan(lowering.layout(op.source), op.dim, lowering.context.target.warp_size)
    work = _Scanning(op, lowering)
    work.start()
    for number, step in enumerate(steps):
        last = number == len(steps) - 1
        match step.over:
            case "register":
                work.registers(step)
            case "lane":
                work.lanes(step, last)
            case "thread":
                work.threads(step)


class _Scanning:
    """One scan while it is lowered: `result` holds elements, `totals` those of blocks, each at the
    first register of its block.
    """

    def __init__(self, op: Scan, lowering: Lowering) -> None:
        self.op, self.lowering, self.b = op, lowering, lowering.b
        self.result = lowering.registers(op.result)
        self.count = lowering.layout(op.source).registers
        self.totals = lowering.scratch(op.dtype, self.count, "totals")

    def join(self, before: Value, x: Value) -> Value:
        return self.op.join(self.b.pure, before, x)

    def start(self) -> None:
        """Every element is a block."""
        source = self.lowering.registers(self.op.source)
        with self.b.unrolled(self.count, hint="r") as register:
            found = self.op.element(self.b.pure, self.b.read(source, register))
            self.b.write(found, self.result, register)
            self.b.write(found, self.totals, register)

    @contextmanager
    def _each(self, numbers: tuple[int, ...], hint: str) -> Iterator[Value]:
        with self.b.unrolled(len(numbers), hint=hint) as index:
            yield apply_map(self.b, index, numbers)

    def _prepend(self, step: ScanStep, block: Value, before: Value, applies: Value | None) -> None:
        """Joins `before` to all elements of a block, in threads where it applies."""
        with self._each(step.inside, "e") as element:
            place = self.b.add(block, element)
            x = self.b.read(self.result, place)
            joined = self.join(before, x)
            if applies is not None:
                joined = self.b.select(applies, joined, x)
            self.b.write(joined, self.result, place)

    def registers(self, step: ScanStep) -> None:
        """Blocks of one thread, one after the other; the total of all goes to the first's place."""
        b = self.b
        end = (step.extent - 1) * step.stride
        first, stride = (end, -step.stride) if self.op.reverse else (0, step.stride)
        with self._each(step.blocks, "r") as base:
            home = b.add(base, first)
            with b.unrolled(step.extent - 1, hint="d") as digit:
                block = b.add(home, b.mul(b.add(digit, 1), stride))
                before = self.b.read(self.totals, home)
                self._prepend(step, block, before, None)
                self.b.write(self.join(before, self.b.read(self.totals, block)), self.totals, home)
            if first:
                self.b.write(self.b.read(self.totals, home), self.totals, base)

    def lanes(self, step: ScanStep, last: bool) -> None:
        """Blocks of the lanes of a warp; the last step needs no totals."""
        b, lane = self.b, self.lowering.lane()
        digit = b.floormod(b.floordiv(lane, step.stride), step.extent)
        if self.op.reverse:
            digit = b.sub(step.extent - 1, digit)
        sign = 1 if self.op.reverse else -1
        with self._each(step.blocks, "r") as base:
            x = self.b.read(self.totals, base)
            distance = 1
            while distance < step.extent:
                other, applies = self._from(x, lane, digit, sign * step.stride, distance)
                x = b.select(applies, self.join(other, x), x)
                distance *= 2
            before, applies = self._from(x, lane, digit, sign * step.stride, 1)
            self._prepend(step, base, before, applies)
            if not last:
                ahead = b.mul(b.sub(step.extent - 1, digit), -sign * step.stride)
                self.b.write(b.emit(Shuffle(x, b.add(lane, ahead))).result, self.totals, base)

    def _from(
        self, x: Value, lane: Value, digit: Value, stride: int, distance: int
    ) -> tuple[Value, Value]:
        """x of the lane that is `distance` digits before, and whether there is one."""
        b = self.b
        applies = b.compare("ge", digit, distance)
        source = b.select(applies, b.add(lane, stride * distance), lane)
        return b.emit(Shuffle(x, source)).result, applies

    def threads(self, step: ScanStep) -> None:
        """Blocks of other warps: their totals through shared memory."""
        b, thread = self.b, self.lowering.thread()
        name = f"{self.op.source.hint or 'tile'}_totals"
        memory = b.exchange_buffer(self.op.dtype, step.partial.shape, name)
        if self.lowering.loops:
            self.lowering.barrier()  # the last round's reads are over
        writer = primary(b, step.partial, thread)
        writes = b.const(True, bool_) if writer is None else writer
        with b.when(writes), b.unrolled(len(step.blocks), hint="r") as number:
            place = coordinates(b, step.partial, thread, number)
            total = self.b.read(self.totals, apply_map(b, number, step.blocks))
            b.emit(Store(total, memory, place))
        self.lowering.barrier()
        with b.unrolled(len(step.blocks), hint="r") as number:
            *around, digit = coordinates(b, step.partial, thread, number)
            if self.op.reverse:
                digit = b.sub(step.extent - 1, digit)
            base = apply_map(b, number, step.blocks)
            before, total = self._joined(memory, tuple(around), digit, step.extent)
            self._prepend(step, base, before, b.compare("gt", digit, 0))
            self.b.write(total, self.totals, base)

    def _joined(
        self, memory: Value, place: tuple[Value, ...], digit: Value, extent: int
    ) -> tuple[Value, Value]:
        """All blocks before number `digit` joined, and all blocks."""
        b = self.b
        numbers = range(extent - 1, -1, -1) if self.op.reverse else range(extent)
        found = [b.emit(Load(memory, (*place, b.const(n)))).result for n in numbers]
        before = total = found[0]
        for n, x in enumerate(found[1:], start=1):
            total = self.join(total, x)
            before = b.select(b.compare("gt", digit, n), total, before)
        return before, total
