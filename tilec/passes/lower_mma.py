"""Gemm by mma.sync: fragments from shared memory by ldmatrix, then the warp's instruction tiles.

    gemm %As, %Bs, %acc  ->  for kk (unrolled) {
                               for i { ldmatrix<4> a[8 i], %As[row, kk * 16 + column] }
                               for j { ldmatrix<4> b[8 j], %Bs[...] }      two blocks of 8 columns
                               for i, j { mma acc[(i * blocks + j) * 4], a[8 i], b[4 j] } }

ldmatrix gives lane l four bytes of row l / 4 of each matrix of 8 rows of 16 bytes, the (l % 4)-th;
with .trans, two elements of 16 bits of the transposed matrix. That is how a fragment of mma holds 8
rows (or columns of B) and 16 bytes of k, whatever the dtype, if it is of 32 bits or less. Lane l
states where row l % 8 of matrix l / 8 is. The matrices of A are (rows, k), (rows + 8, k), then the
next 16 bytes of k; those of B (columns, k), then the next 16 bytes; then those of the next block:
the order of registers in the fragments (PTX ISA, "ldmatrix" and "Matrix fragments for mma").

Lanes load elements where that does not serve: f64, operands of other than 16 bits with k not
contiguous, dtypes that are converted on the way, rows that are no multiples of 16 bytes.

A's fragment, twice the registers of B's, stays while j runs; every other i runs through j backwards,
so that each instruction has an operand in common with the one before it (docs/decisions.md 22).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..ir.build import Builder
from ..ir.core import Value
from ..ir.ops.gemm import Gemm, Side
from ..ir.ops.nvidia import LdMatrix, Mma
from .matrix_operands import (
    Operand,
    Tiling,
    check_operand_tile,
    load_fragment,
    registers_in,
    start_accumulator,
    taken_dtype,
)
from .variants import fragment_of, read_by_matrices

if TYPE_CHECKING:
    from .lower_tiles import Lowering

ROWS = 8  # of a matrix that ldmatrix loads
ROW_BITS = 128  # of one of its rows
LOADS = (4, 2, 1)  # matrices that one ldmatrix can load


def lower_mma(op: Gemm, lowering: Lowering) -> None:
    """Lowers a gemm whose instruction is "mma"."""
    b = lowering.b
    tiling = Tiling.of(op)
    accumulator = start_accumulator(op, lowering)
    row, column = tiling.unit_place(b, lowering.warp())
    a = _Fragments(op, "a", lowering, tiling, row)
    other = _Fragments(op, "b", lowering, tiling, column)
    with b.unrolled(tiling.steps, "kk") as step:
        other.load(step)  # the first row of products needs all of B's fragments, and one of A's
        a.load(step)
        with (
            b.unrolled(tiling.row_blocks, "i") as i,
            b.unrolled(tiling.column_blocks, "j") as forward,
        ):
            j = _back_and_forth(b, forward, tiling.column_blocks, i)
            block = b.add(b.mul(i, tiling.column_blocks), j)
            b.emit(
                Mma(
                    accumulator, b.mul(block, tiling.accumulators),
                    a.registers, a.offset(b, i, step), other.registers, other.offset(b, j, step),
                    m=tiling.m, n=tiling.n, k=tiling.k,
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
        self.blocks, self.units, self.extent = tiling.along(side)
        dtype = taken_dtype(op, side, lowering)
        self.fragment = fragment_of("mma", side, tiling.shape, dtype.bits)
        self.size = self.fragment.registers
        self.operand = Operand.of(op, side, lowering)
        if self.operand.in_registers:
            check_operand_tile(op, side, lowering)
            self.registers = registers_in(self.operand.value, dtype, lowering)
            return
        self.registers = lowering.scratch(dtype, self.blocks * self.size, f"{side}_frag")
        self.chunk = ROW_BITS // dtype.bits
        self.by_matrices = (
            lowering.context.target.ldmatrix
            and read_by_matrices(op, side, dtype)
            and self.operand.vector % self.chunk == 0
        )
        if self.by_matrices:
            self.parts = {n: self._lane_parts(n) for n in {n for n, _, _ in self._groups()}}

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
            return
        for matrices, first, count in self._groups():
            together = matrices // self.matrices
            with b.unrolled(count, "i" if self.side == "a" else "j") as group:
                self._load_matrices(b.add(b.mul(group, together), first), step, matrices)

    @property
    def matrices(self) -> int:
        """Matrices of one fragment."""
        return self.extent // ROWS * (self.tiling.k // self.chunk)

    def _groups(self) -> Iterator[tuple[int, int, int]]:
        """(matrices of a load, its first block, such loads): as many blocks at once as may be."""
        done = 0
        for matrices in LOADS:
            together = matrices // self.matrices
            count = (self.blocks - done) // together if together else 0
            if count:
                yield matrices, done, count
                done += count * together

    def _lane_parts(self, matrices: int) -> tuple[Value, Value]:
        """What the lane adds to mn and k of the row that it states in a load of so many matrices;
        the unit's first row or column is in mn.
        """
        b, lane = self.lowering.b, self.lowering.lane()
        inner = b.floormod(lane, ROWS)
        number = b.floormod(b.floordiv(lane, ROWS), matrices)
        halves = self.extent // ROWS
        block = b.floordiv(number, self.matrices)
        mn = b.add(b.mul(b.floormod(number, halves), ROWS), b.mul(block, self.extent * self.units))
        k = b.mul(b.floordiv(b.floormod(number, self.matrices), halves), self.chunk)
        start = b.mul(self.unit, self.extent)
        if self.operand.k_major:
            return b.add(start, b.add(mn, inner)), k
        return b.add(start, mn), b.add(k, inner)

    def _load_matrices(self, block: Value, step: Value, matrices: int) -> None:
        b = self.lowering.b
        mn_part, k_part = self.parts[matrices]
        mn = b.add(b.mul(block, self.units * self.extent), mn_part)
        k = b.add(b.mul(step, self.tiling.k), k_part)
        b.emit(
            LdMatrix(
                self.registers, b.mul(block, self.size),
                self.operand.value, self.operand.indices(b, mn, k),
                matrices=matrices, transposed=not self.operand.k_major,
            )
        )  # fmt: skip

    def _load_elements(self, step: Value) -> None:
        """Each lane its own elements."""
        b = self.lowering.b
        with b.unrolled(self.blocks, "i" if self.side == "a" else "j") as block:
            unit = b.add(b.mul(block, self.units), self.unit)
            origin = (b.mul(unit, self.extent), b.mul(step, self.tiling.k))
            offset = b.mul(block, self.size)
            load_fragment(
                self.lowering, self.operand, self.fragment, self.registers, offset, origin,
                self.lowering.lane(),
            )  # fmt: skip
