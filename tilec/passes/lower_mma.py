"""Gemm by mma.sync: fragments from shared memory by ldmatrix, then the warp's instruction tiles.

    gemm %As, %Bs, %acc  ->  for kk (unrolled) {
                               for i { ldmatrix<4> a[8 i], %As[row, kk * 16 + column] }
                               for j { ldmatrix<4> b[8 j], %Bs[...] }      two blocks of 8 columns
                               for i, j { mma acc[(i * blocks + j) * 4], a[8 i], b[4 j] } }

ldmatrix gives lane l two elements of row l / 4 of each 8x8 matrix, columns 2 (l % 4) and the next;
with .trans, of the transposed matrix. Lane l states where row l % 8 of matrix l / 8 is. The
matrices of A are (rows, k), (rows + 8, k), (rows, k + 8), (rows + 8, k + 8); of two blocks of B (k,
columns), (k + 8, columns), then those of the second block: the order of registers in the fragments
of mma.m16n8k16 (PTX ISA, "ldmatrix" and "Matrix fragments for mma.m16n8k16").

A's fragment, twice the registers of B's, stays while j runs; every other i runs through j backwards,
so that each instruction has an operand in common with the one before it (docs/decisions.md 22).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import TargetUnsupported
from ..ir.build import Builder
from ..ir.core import Value
from ..ir.layout import mma_m16n8
from ..ir.ops.nvidia import LdMatrix, Mma
from ..ir.ops.tile import Gemm
from .matrix_operands import (
    Operand,
    Tiling,
    check_operand_tile,
    load_fragment,
    start_accumulator,
)
from .variants import Side

if TYPE_CHECKING:
    from .lower_tiles import Lowering

ROW = 8  # elements of a row of an 8x8 matrix: 16 bytes
A_FRAGMENT, B_FRAGMENT, C_FRAGMENT = 8, 4, 4  # registers of one instruction's operands


def lower_mma(op: Gemm, lowering: Lowering) -> None:
    """Lowers a gemm whose instruction is "mma"."""
    b = lowering.b
    tiling = Tiling.of(op)
    if (tiling.m, tiling.n, tiling.k) != (16, 8, 16) or op.operand_dtype.bits != 16:
        raise TargetUnsupported(
            "TLC0422",
            f"there is no mma of {tiling.m} x {tiling.n} x {tiling.k} on {op.operand_dtype}",
            loc=op.loc,
        )
    accumulator = start_accumulator(op, lowering)
    row, column = tiling.unit_place(b, lowering.warp())
    a = _Fragments(op, "a", lowering, tiling, row)
    other = _Fragments(op, "b", lowering, tiling, column)
    with b.unrolled(tiling.steps, "kk") as step:
        a.load(step)
        other.load(step)
        with (
            b.unrolled(tiling.row_blocks, "i") as i,
            b.unrolled(tiling.column_blocks, "j") as forward,
        ):
            j = _back_and_forth(b, forward, tiling.column_blocks, i)
            block = b.add(b.mul(i, tiling.column_blocks), j)
            b.emit(
                Mma(
                    accumulator, b.mul(block, C_FRAGMENT),
                    a.registers, a.offset(b, i, step), other.registers, other.offset(b, j, step),
                    m=16, n=8, k=16,
                )
            )  # fmt: skip


def _back_and_forth(b: Builder, index: Value, count: int, turn: Value) -> Value:
    """`index` of `count` in even turns, counted from the end in odd ones."""
    odd = b.floormod(turn, 2)
    return b.add(index, b.mul(odd, b.sub(count - 1, b.mul(index, 2))))


class _Fragments:
    """One operand's fragments for one step of k: a tile that has them, or registers loaded from
    shared memory.
    """

    def __init__(
        self, op: Gemm, side: Side, lowering: Lowering, tiling: Tiling, unit: Value
    ) -> None:
        self.lowering, self.tiling, self.side, self.unit = lowering, tiling, side, unit
        self.blocks, self.units, self.extent, self.size = (
            (tiling.row_blocks, tiling.rows, tiling.m, A_FRAGMENT)
            if side == "a"
            else (tiling.column_blocks, tiling.columns, tiling.n, B_FRAGMENT)
        )
        source = op.a if side == "a" else op.b
        self.operand = Operand.of(op, side, source)
        if self.operand.in_registers:
            check_operand_tile(op, side, lowering)
            self.registers = lowering.registers(source)
            return
        self.operand = Operand.of(op, side, lowering.value(source))
        self.registers = lowering.scratch(op.operand_dtype, self.blocks * self.size, f"{side}_frag")
        self.by_matrices = lowering.context.target.ldmatrix and self.operand.vector % ROW == 0
        self.lane_parts = self._lane_parts(paired=side == "a" or self.blocks > 1)
        odd = side == "b" and self.blocks % 2 and self.blocks > 1
        self.tail_parts = self._lane_parts(paired=False) if odd else self.lane_parts

    def offset(self, b: Builder, block: Value, step: Value) -> Value:
        """Where the fragment of a block is in the registers, in elements."""
        if self.operand.in_registers:
            block = b.add(b.mul(block, self.tiling.steps), step)
        return b.mul(block, self.size)

    def load(self, step: Value) -> None:
        """Loads the fragments of all blocks at one step of k."""
        if self.operand.in_registers:
            return
        b = self.lowering.b
        if not self.by_matrices:
            self._load_elements(step)
        elif self.side == "a":
            with b.unrolled(self.blocks, "i") as block:
                self._load_matrices(block, step, 4, self.lane_parts)
        else:
            if self.blocks > 1:
                with b.unrolled(self.blocks // 2, "j") as pair:
                    self._load_matrices(b.mul(pair, 2), step, 4, self.lane_parts)
            if self.blocks % 2:
                self._load_matrices(b.const(self.blocks - 1), step, 2, self.tail_parts)

    def _lane_parts(self, paired: bool) -> tuple[Value, Value]:
        """What the lane adds to mn and k of the row that it states; the unit's first row or column
        is in mn.
        """
        b, lane = self.lowering.b, self.lowering.lane()
        inner = b.floormod(lane, ROW)
        second = b.floormod(b.floordiv(lane, ROW), 2)
        fourth = b.floordiv(lane, 2 * ROW) if paired else b.const(0)
        if self.side == "a":
            mn_half, k_half = second, fourth
            mn: Value = b.mul(mn_half, ROW)
        else:  # the second half of the lanes states the next block of this unit
            k_half = second
            mn = b.mul(fourth, ROW * self.units)
        start = b.mul(self.unit, self.extent)
        if self.operand.k_major:
            return b.add(start, b.add(mn, inner)), b.mul(k_half, ROW)
        return b.add(start, mn), b.add(b.mul(k_half, ROW), inner)

    def _load_matrices(
        self, block: Value, step: Value, matrices: int, parts: tuple[Value, Value]
    ) -> None:
        b = self.lowering.b
        mn = b.add(b.mul(block, self.units * self.extent), parts[0])
        k = b.add(b.mul(step, self.tiling.k), parts[1])
        b.emit(
            LdMatrix(
                self.registers, b.mul(block, self.size),
                self.operand.value, self.operand.indices(b, mn, k),
                matrices=matrices, transposed=not self.operand.k_major,
            )
        )  # fmt: skip

    def _load_elements(self, step: Value) -> None:
        """Where rows of 16 bytes do not lie together: each lane its own elements."""
        b = self.lowering.b
        fragment = mma_m16n8(self.side, self.tiling.k, 16)
        with b.unrolled(self.blocks, "i" if self.side == "a" else "j") as block:
            unit = b.add(b.mul(block, self.units), self.unit)
            origin = (b.mul(unit, self.extent), b.mul(step, self.tiling.k))
            offset = b.mul(block, self.size)
            load_fragment(self.lowering, self.operand, fragment, self.registers, offset, origin)
