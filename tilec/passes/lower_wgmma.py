"""Gemm by wgmma: descriptors of the operands in shared memory, one group of asynchronous
instructions, its wait.

    %x = gemm %As, %Bs, %acc, [%p]  ->  a_desc = make_descriptor<128>(ring, 0, lbo, sbo)
                                        a_own = a_desc + warpgroup * block_units
                                        hold_registers acc    (where it is not in flight yet)
                                        wgmma_fence
                                        for kk (unrolled)
                                          wgmma_ss acc, a_own + (slot * slot_units + kk * 2), ...,
                                                   p | kk > 0
                                        wgmma_commit

A slot of a ring is addressed from the descriptor of slot 0: only a multiple of the slot's size is
added in a loop, so that the descriptor itself is the same in all iterations and is kept in uniform
registers. Sources: PTX ISA, 9.7.15 (matrix descriptors, wgmma.mma_async); the distances are those
of tilec.ir.layout.wgmma_operand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import LayoutConflict
from ..ir.build import Number
from ..ir.core import Value, constant_of
from ..ir.dtypes import bool_
from ..ir.layout import WgmmaOperand
from ..ir.ops.control import WarpUniform
from ..ir.ops.gemm import Gemm, Side
from ..ir.ops.memory import Slot, memory_type
from ..ir.ops.nvidia import WARPGROUP
from ..ir.ops.pipeline import InFlight, Wait
from ..ir.ops.thread import HoldRegisters
from ..ir.ops.wgmma import (
    AdvanceDescriptor,
    MakeDescriptor,
    Wgmma,
    WgmmaCommit,
    WgmmaFence,
    WgmmaRegisters,
    WgmmaWait,
)
from ..ir.types import TileType
from .coordinates import add_up, apply_map
from .matrix_operands import (
    Operand,
    Tiling,
    check_operand_tile,
    descriptors_of,
    stored_layout,
)
from .ranges import Range

if TYPE_CHECKING:
    from .lower_tiles import Lowering

UNIT = 16  # bytes that one unit of a descriptor's address stands for
SPANS = {0: 0, 1: 128, 2: 64, 3: 32}  # bytes of the swizzle by its code in a descriptor


def lower_wgmma(op: Gemm, lowering: Lowering) -> None:
    """Lowers a gemm whose instruction is "wgmma". One that is not asynchronous is waited for at
    once.
    """
    b = lowering.b
    tiling = Tiling.of(op)
    accumulator = lowering.registers(op.result)
    warpgroup: Value = b.const(0)
    if lowering.threads > WARPGROUP:
        warpgroup = lowering.at_top(lambda: _warpgroup(lowering))
    # at the top, as what is made of them there
    row = lowering.at_top(lambda: tiling.unit_place(b, warpgroup)[0])
    column = lowering.at_top(lambda: tiling.unit_place(b, warpgroup)[1])
    a = _Source(op, "a", lowering, tiling, row)
    other = _Source(op, "b", lowering, tiling, column)
    if isinstance(op.accumulator.type, TileType) and not op.clear:
        # words that were loaded are else turned into floats behind the fence (ptxas C7519)
        b.emit(HoldRegisters(accumulator))
    b.emit(WgmmaFence(() if a.registers is None else (a.registers,)))
    with (
        b.unrolled(tiling.row_blocks, "i") as i,
        b.unrolled(tiling.column_blocks, "j") as j,
        b.unrolled(tiling.steps, "kk") as step,
    ):
        block = b.add(b.mul(i, tiling.column_blocks), j)
        offset = b.mul(block, tiling.accumulators)
        adds = _accumulates(op, lowering, step)
        right = other.descriptor(j, step)
        transposed = not other.operand.k_major
        if a.registers is not None:
            fragment = tiling.m * tiling.k // WARPGROUP
            at = b.mul(b.add(b.mul(i, tiling.steps), step), fragment)
            b.emit(
                WgmmaRegisters(
                    accumulator, offset, a.registers, at, right, adds,
                    n=tiling.n, b_dtype=op.dtype_of("b"), transpose_b=transposed,
                )
            )  # fmt: skip
        else:
            b.emit(
                Wgmma(
                    accumulator, offset, a.descriptor(i, step), right, adds,
                    n=tiling.n, a_dtype=op.dtype_of("a"), b_dtype=op.dtype_of("b"),
                    transpose_a=not a.operand.k_major, transpose_b=transposed,
                )
            )  # fmt: skip
    b.emit(WgmmaCommit())
    if not op.asynchronous:
        b.emit(WgmmaWait((accumulator,), pending=0))


def _warpgroup(lowering: Lowering) -> Value:
    """The number of this thread's warpgroup in the role, told to be uniform."""
    b, count = lowering.b, lowering.threads // WARPGROUP
    value = b.emit(WarpUniform(b.floordiv(lowering.thread(), WARPGROUP))).result
    value.hint = "group"
    b.assume(value, Range.between(0, count - 1))
    return value


def lower_wait(op: Wait, lowering: Lowering) -> None:
    """Lowers the wait for a tile in flight."""
    lowering.b.emit(WgmmaWait((lowering.registers(op.result),), pending=op.pending))


def lower_in_flight(op: InFlight, lowering: Lowering) -> None:
    """The registers are the tile's, which were copied where it is needed besides."""
    lowering.b.emit(HoldRegisters(lowering.registers(op.result)))


def _accumulates(op: Gemm, lowering: Lowering, step: Value) -> Value:
    """Whether an instruction adds to the accumulator: always, but at the first step of a gemm that
    starts from zero.
    """
    b = lowering.b
    if not op.clear and not op.accumulate:
        return b.const(True, bool_)
    later = b.compare("gt", step, 0)
    return later if op.clear else b.bit_or(lowering.value(op.accumulate[0]), later)


class _Source:
    """One operand of a gemm: a tile's registers, or descriptors of its blocks in shared memory."""

    def __init__(
        self, op: Gemm, side: Side, lowering: Lowering, tiling: Tiling, unit: Value
    ) -> None:
        self.lowering = lowering
        self.operand = Operand.of(op, side, lowering)
        self.registers: Value | None = None
        if self.operand.in_registers:
            if side == "b":
                raise LayoutConflict(
                    "TLC0421",
                    f"{self.operand.value.hint or 'b'}, the right operand of wgmma, is in registers",
                    loc=op.loc,
                    hint="copy it to shared memory",
                )
            check_operand_tile(op, side, lowering)
            self.registers = lowering.registers(self.operand.value)
            return
        units, extent = (tiling.rows, tiling.m) if side == "a" else (tiling.columns, tiling.n)
        blocks = self.operand.matrix.mn // extent
        self.canonical = self._canonical(op, extent if blocks > 1 else 0)
        one = self.canonical.mn_offset(extent) // UNIT if blocks > 1 else 0
        self.block_units = one * units
        self.step_units = tuple(o // UNIT for o in self.canonical.k_offsets)
        self.steps = tiling.steps
        self.first_step, origin = self._origin(tiling.k)
        self.base, self.slot_units = self._base(unit, one, origin)

    def _canonical(self, op: Gemm, extent: int) -> WgmmaOperand:
        """How descriptors address the operand, of which blocks start at multiples of `extent`."""
        operand = self.operand
        layout = stored_layout(operand.value)
        found = descriptors_of(operand.matrix, layout, self._is_multiple)
        try:
            if isinstance(found, WgmmaOperand):
                found.mn_offset(extent)
                return found
            reason = found
        except ValueError as error:
            reason = str(error)
        raise LayoutConflict(
            "TLC0423",
            f"wgmma cannot read {operand.value.hint or operand.side}: {reason}",
            loc=op.loc,
            hint="leave its layout to the compiler, or use one of TMA's swizzles",
        )

    def _is_multiple(self, index: Value, divisor: int) -> bool:
        return self.lowering.b.is_multiple(self.lowering.value(index), divisor)

    def _origin(self, k: int) -> tuple[Value, Value]:
        """Where the operand starts in its memory: the step of k, and the units along all other
        dimensions.
        """
        b, matrix = self.lowering.b, self.operand.matrix
        places: dict[object, Number] = dict(enumerate(self.operand.origin))
        first = b.floordiv(self.operand.origin[matrix.k_dim], k)
        places[matrix.k_dim] = 0
        scale = memory_type(self.operand.value).dtype.bytes
        elements = add_up(b, stored_layout(self.operand.value).offset_terms(), places)
        return first, b.floordiv(b.mul(elements, scale), UNIT)

    def _base(self, unit: Value, one: int, origin: Value) -> tuple[Value, Value]:
        """The descriptor of the unit's first block in slot 0, and how far the block in use is from
        there.
        """
        b, lowering = self.lowering.b, self.lowering
        slot = lowering.definition(self.operand.matrix.value)
        if not isinstance(slot, Slot):
            return self._describe(self.operand.value, b.mul(unit, one)), origin
        ring = lowering.value(slot.ring)
        distance = b.mul(lowering.value(slot.index), slot_bytes(ring) // UNIT)
        distance = b.add(distance, origin)
        if lowering.role is None:
            return self._describe(ring, b.mul(unit, one)), distance
        # rings are allocated before all roles: their descriptors can be made at the role's start
        return lowering.at_top(lambda: self._describe(ring, b.mul(unit, one))), distance

    def _describe(self, memory: Value, start: Value) -> Value:
        """The descriptor of what starts `start` units after the first element of `memory`."""
        b = self.lowering.b
        indices = tuple(b.const(0) for _ in memory_type(memory).shape)
        descriptor = b.emit(
            MakeDescriptor(
                memory, indices, swizzle=SPANS[self.canonical.swizzle],
                lbo=self.canonical.lbo, sbo=self.canonical.sbo,
            )
        ).result  # fmt: skip
        if constant_of(start) != 0:
            descriptor = b.emit(AdvanceDescriptor(descriptor, start)).result
        descriptor.hint = f"{self.operand.side}_desc"
        return descriptor

    def descriptor(self, block: Value, step: Value) -> Value:
        """The descriptor of a block of this unit at a step of k."""
        b = self.lowering.b
        inside = b.add(b.mul(block, self.block_units), self._along_k(step))
        units = b.add(self.slot_units, inside)
        if constant_of(units) == 0:
            return self.base
        descriptor = b.emit(AdvanceDescriptor(self.base, units)).result
        descriptor.hint = self.operand.side
        return descriptor

    def _along_k(self, step: Value) -> Value:
        """Units along k from the start of the memory to a step."""
        b, first = self.lowering.b, constant_of(self.first_step)
        if first is None:
            return apply_map(b, b.add(self.first_step, step), self.step_units)
        return apply_map(b, step, self.step_units[int(first) :][: self.steps])


def slot_bytes(ring: Value) -> int:
    """Bytes from one slot of a ring to the next; 0 where it has only one."""
    layout = stored_layout(ring)
    if layout.shape[0] == 1:
        return 0
    return int(layout.offsets()[(1, *[0] * (layout.rank - 1))]) * memory_type(ring).dtype.bytes
