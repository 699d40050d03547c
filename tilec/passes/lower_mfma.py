"""Gemm by MFMA: fragments from LDS in wide reads, then the wave's instruction tiles.

    gemm %As, %Bs, %acc  ->  for kk (unrolled) {
                               for i { load_shared<8> a[8 i], %As[row, kk * 16 + 8 * (lane / 32)] }
                               for j { load_shared<8> b[8 j], %Bs[...] }
                               for p in 0, 1: for i, j {
                                 mfma acc[(i * blocks + j) * 16], a[8 i + 4 p], b[8 j + 4 p] } }

One instruction takes m k / 64 consecutive k from each lane, 8 bytes where LDS is read best by 16.
So two steps of k are read as one: lane group g holds k = 8 g ... 8 g + 7 of both, the first
instruction takes the first half of every group and the second the rest. That permutes k in A and B
alike, and the sum over k does not mind.

An operand in rows of m or n is read by columns where the machine transposes: four k of a column a
lane, for 16 columns at once. Elsewhere its k lie together in chunks (packed_operands.py), where
registers fill it and nothing else reads it; what is left is read by elements.

Of a gemm with scales, each lane reads the byte of its row (column) and 32 k for each instruction.
Of 4-bit elements fragments are bytes, as their memory is; of 6-bit ones a byte holds one, and the
prelude packs what an instruction takes.

A swapped variant hands the fragments over the other way round: the fragments of A and B are alike,
so that this gives the transpose of each instruction tile, and nothing else differs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..ir.core import Value
from ..ir.dtypes import PAIRS, u8
from ..ir.layout import RegisterLayout, mfma
from ..ir.layout.pairs import packed_layout
from ..ir.ops.amd import LoadTransposed, Mfma
from ..ir.ops.gemm import SCALED, SIDES, Gemm, Side
from ..ir.ops.memory import memory_type
from .matrix_operands import (
    Operand,
    Tiling,
    check_operand_tile,
    load_fragment,
    registers_in,
    start_accumulator,
    taken_dtype,
)

if TYPE_CHECKING:
    from .lower_tiles import Lowering

WAVE = 64
READ_BYTES = 16  # the widest read of LDS by a lane
COLUMNS, ROWS = 16, 4  # of the matrix that 16 lanes read transposed


def lower_mfma(op: Gemm, lowering: Lowering) -> None:
    """Lowers a gemm whose instruction is "mfma"."""
    b = lowering.b
    tiling = Tiling.of(op)
    accumulator = start_accumulator(op, lowering)
    row, column = tiling.unit_place(b, lowering.warp())
    pack = _steps_in_a_read(op, tiling, lowering)
    a = _Fragments(op, "a", lowering, tiling, pack, row)
    other = _Fragments(op, "b", lowering, tiling, pack, column)
    with b.unrolled(tiling.steps // pack, "kk") as step:
        a.load(step)
        other.load(step)
        with (
            b.unrolled(pack, "p") as part,
            b.unrolled(tiling.row_blocks, "i") as i,
            b.unrolled(tiling.column_blocks, "j") as j,
        ):
            block = b.add(b.mul(i, tiling.column_blocks), j)
            left = a.registers, a.offset(i, step, part)
            right = other.registers, other.offset(j, step, part)
            operands = (*right, *left) if tiling.swapped else (*left, *right)
            m, n = (tiling.n, tiling.m) if tiling.swapped else (tiling.m, tiling.n)
            offset = b.mul(block, tiling.accumulators)
            scales = (*a.scale(i), *other.scale(j))
            scales = (*scales[2:], *scales[:2]) if tiling.swapped else scales
            b.emit(Mfma(accumulator, offset, *operands, m=m, n=n, k=tiling.k, scales=scales))


def _steps_in_a_read(op: Gemm, tiling: Tiling, lowering: Lowering) -> int:
    """Steps of k that one wide read of both operands covers; 1 where an operand has its k apart, or
    in registers.
    """
    operands = [Operand.of(op, "a", lowering), Operand.of(op, "b", lowering)]
    if any(o.in_registers for o in operands) or not any(o.k_major for o in operands):
        return 1
    held = tiling.m * tiling.k // WAVE
    widest = max(o.vector for o in operands if o.k_major)
    read = READ_BYTES * 8 // op.dtype_of("a").bits
    pack = math.gcd(min(read, widest), tiling.steps * held) // held
    return max(1, pack)


def packed_fragment(side: Side, tiling: Tiling, bits: int, pack: int) -> RegisterLayout:
    """[mn, k * pack] over the lanes of a wave, each with `pack` times as many consecutive k."""
    fragment = mfma(side, tiling.m, tiling.n, tiling.k, bits)
    if pack == 1:
        return fragment
    extent = fragment.shape[0]
    groups = WAVE // extent
    return RegisterLayout(
        (extent, tiling.k * pack), ((extent,), (groups, tiling.k * pack // groups)), (1, 0), (2,)
    )


class _Fragments:
    """One operand's fragments for `pack` steps of k: a tile that has them, or registers loaded from
    shared memory.
    """

    def __init__(
        self, op: Gemm, side: Side, lowering: Lowering, tiling: Tiling, pack: int, unit: Value
    ) -> None:
        self.lowering, self.tiling, self.pack, self.unit = lowering, tiling, pack, unit
        self.blocks, self.units, _ = tiling.along(side)
        dtype = taken_dtype(op, side, lowering)
        fragment = packed_fragment(side, tiling, dtype.code_bits, pack)
        if dtype in PAIRS:
            dtype, pairs = PAIRS[dtype], packed_layout(fragment)
            assert pairs is not None, "a lane has both elements of a byte"
            fragment = pairs
        self.fragment = fragment
        self.size = self.fragment.registers // pack
        self.operand = Operand.of(op, side, lowering)
        self.scales: Value | None = None  # a byte a block, in registers
        if op.scales:
            self.stored_scales = lowering.value(op.scales[SIDES.index(side)])
            self.scales = lowering.scratch(u8, self.blocks, f"{side}_scale")
        self.in_registers = self.operand.in_registers
        if self.in_registers:
            check_operand_tile(op, side, lowering)
            self.registers = registers_in(self.operand.value, dtype, lowering)
            return
        count = self.blocks * self.fragment.registers
        self.registers = lowering.scratch(dtype, count, f"{side}_frag")
        self.transposed = (
            lowering.context.target.transposed_reads
            and not self.operand.k_major
            and memory_type(self.operand.value).dtype == dtype
            and dtype.bits == 16
            and self.operand.vector % ROWS == 0
        )

    def offset(self, block: Value, step: Value, part: Value) -> Value:
        """Where the fragment of a block for one instruction is in the registers, in elements."""
        b = self.lowering.b
        if self.in_registers:
            return b.mul(b.add(b.mul(block, self.tiling.steps), step), self.size)
        return b.add(b.mul(block, self.size * self.pack), b.mul(part, self.size))

    def scale(self, block: Value) -> tuple[Value, ...]:
        """Where the scales of a block are: registers and offset; nothing where there are none."""
        return () if self.scales is None else (self.scales, block)

    def _load_scales(self, step: Value) -> None:
        """The scale of each block for the row (column) and the 32 k that the instruction takes from this
        lane.
        """
        if self.scales is None:
            return
        b, lane = self.lowering.b, self.lowering.lane()
        extent, depth = self.fragment.shape[0], self.tiling.k * self.pack
        k = b.add(b.mul(step, depth // SCALED), b.floordiv(lane, extent))
        with b.unrolled(self.blocks, "s") as block:
            first = b.mul(b.add(b.mul(block, self.units), self.unit), extent)
            row = b.add(first, b.floormod(lane, extent))
            scale = b.read(self.stored_scales, row, k)
            b.write(scale, self.scales, block)

    def load(self, step: Value) -> None:
        """Loads the fragments of all blocks, and their scales, from `step` packs of k on."""
        self._load_scales(step)
        if self.in_registers:
            return
        b = self.lowering.b
        extent, depth = self.fragment.shape
        with b.unrolled(self.blocks, "i" if self.operand.side == "a" else "j") as block:
            mn = b.mul(b.add(b.mul(block, self.units), self.unit), extent)
            offset = b.mul(block, self.fragment.registers)
            origin = (mn, b.mul(step, depth))
            if self.transposed:
                self._load_columns(offset, origin)
            else:
                load_fragment(
                    self.lowering, self.operand, self.fragment, self.registers, offset, origin,
                    self.lowering.lane(),
                )  # fmt: skip

    def _load_columns(self, offset: Value, origin: tuple[Value, Value]) -> None:
        """One block's fragment, a lane's consecutive k four at a time. Lane l receives those of the
        column that the fragment gives it; it hands in four columns of a row for 16 lanes.
        """
        b, lane = self.lowering.b, self.lowering.lane()
        extent, held = self.fragment.shape[0], self.fragment.registers
        column = b.mul(b.floordiv(b.floormod(lane, extent), COLUMNS), COLUMNS)
        column = b.add(column, b.mul(b.floormod(lane, COLUMNS // ROWS), ROWS))
        row = b.mul(b.floordiv(lane, extent), held)
        row = b.add(row, b.floordiv(b.floormod(lane, COLUMNS), COLUMNS // ROWS))
        with b.unrolled(held // ROWS, "r") as part:
            first = b.mul(part, ROWS)
            mn, k = b.add(origin[0], column), b.add(origin[1], b.add(row, first))
            indices = self.operand.indices(b, mn, k)
            place = b.add(offset, first)
            b.emit(LoadTransposed(self.registers, place, self.operand.value, indices))
