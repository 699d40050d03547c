"""Gemm by threads that multiply and add, where no matrix instruction takes the dtype or the tile.

    gemm %As, %Bs, %acc  ->  for kk {
                               for i { load_shared<4> a[4 i], %As[i * rows + row, kk * 4] }
                               for j { load_shared<4> b[4 j], %Bs[j * columns + column, kk * 4] }
                               for p, i, j (unrolled) {
                                 acc[i * blocks + j] += a[4 i + p] * b[4 j + p] } }

A thread's elements are spread over the tile: outer products of what it reads, so that each element
of shared memory is read once for every row or column of threads. Operands are widened to the dtype
in which the products are summed (f32 for narrower floats, f64, or the integers of the accumulator);
narrower accumulators are rounded after every addition. (Register blocking as in Volkov and Demmel,
"Benchmarking GPUs to tune dense linear algebra", 2008.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..ir.core import Value
from ..ir.dtypes import tf32
from ..ir.layout import RegisterLayout
from ..ir.ops.arith import element_dtype
from ..ir.ops.gemm import Gemm, Side
from ..ir.ops.memory import memory_type
from .matrix_operands import (
    Operand,
    Tiling,
    check_operand_tile,
    load_fragment,
    read_as_tf32,
    start_accumulator,
    taken_dtype,
)
from .variants import fragment_of

if TYPE_CHECKING:
    from .lower_tiles import Lowering

UNROLLED_STEPS = 2  # a loop of no more than these is no loop


def lower_fma(op: Gemm, lowering: Lowering) -> None:
    """Lowers a gemm whose instruction is "fma"."""
    b = lowering.b
    tiling = Tiling.of(op)
    accumulator = start_accumulator(op, lowering)
    units = tiling.rows * tiling.columns
    row, column = tiling.unit_place(b, b.floormod(lowering.thread(), units))
    a = _Fragments(op, "a", lowering, tiling, row)
    other = _Fragments(op, "b", lowering, tiling, column)
    indexed = a.operand.in_registers or other.operand.in_registers  # by constants alone
    unrolled = indexed or tiling.steps <= UNROLLED_STEPS
    with b.loop(0, tiling.steps, hint="kk", unroll=0 if unrolled else 1) as step:
        a.load(step)
        other.load(step)
        with (
            b.unrolled(tiling.k, "p") as p,
            b.unrolled(tiling.row_blocks, "i") as i,
            b.unrolled(tiling.m, "r") as r,
        ):
            left = a.element(i, r, step, p)
            with b.unrolled(tiling.column_blocks, "j") as j, b.unrolled(tiling.n, "c") as c:
                block = b.add(b.mul(i, tiling.column_blocks), j)
                inside = b.add(b.mul(r, tiling.n), c)
                place = b.add(b.mul(block, tiling.accumulators), inside)
                _add(lowering, accumulator, place, left, other.element(j, c, step, p))


def _add(lowering: Lowering, accumulator: Value, place: Value, left: Value, right: Value) -> None:
    """accumulator[place] += left * right."""
    b = lowering.b
    dtype = memory_type(accumulator).dtype
    product = b.mul(left, right)
    before = b.read(accumulator, place)
    total = b.add(b.cast(before, element_dtype(product)), product)
    b.write(b.cast(total, dtype), accumulator, place)


class _Fragments:
    """One operand's elements for one step of k: a tile that has them, or registers loaded from
    shared memory, in the dtype of the products.
    """

    def __init__(
        self, op: Gemm, side: Side, lowering: Lowering, tiling: Tiling, unit: Value
    ) -> None:
        self.lowering, self.tiling, self.side, self.unit = lowering, tiling, side, unit
        self.blocks, self.units, self.extent = tiling.along(side)
        self.stored, self.dtype = op.dtype_of(side), taken_dtype(op, side, lowering)
        self.fragment = fragment_of("fma", side, tiling.shape, self.dtype.bits)
        self.operand = Operand.of(op, side, lowering)
        if self.operand.in_registers:
            check_operand_tile(op, side, lowering)
            self.registers = lowering.registers(self.operand.value)
            return
        if not self.operand.k_major:  # registers in the order of the memory
            extents = self.fragment.shape
            self.fragment = RegisterLayout(extents, tuple((n,) for n in extents), (-1,), (1, 0))
        count = self.blocks * self.fragment.registers
        self.registers = lowering.scratch(self.dtype, count, f"{side}_frag")

    def load(self, step: Value) -> None:
        """Loads the elements of all blocks at one step of k."""
        if self.operand.in_registers:
            return
        b = self.lowering.b
        with b.unrolled(self.blocks, "i" if self.side == "a" else "j") as block:
            mn = b.mul(b.add(b.mul(block, self.units), self.unit), self.extent)
            offset = b.mul(block, self.fragment.registers)
            origin = (mn, b.mul(step, self.tiling.k))
            load_fragment(
                self.lowering, self.operand, self.fragment, self.registers, offset, origin,
                b.const(0),
            )  # fmt: skip

    def element(self, block: Value, inner: Value, step: Value, p: Value) -> Value:
        """Element `inner` of a block at the p-th k of the step."""
        b = self.lowering.b
        if self.operand.in_registers:
            block = b.add(b.mul(block, self.tiling.steps), step)
        m, k = self.fragment.shape
        k_inner = self.operand.k_major or self.operand.in_registers
        at = b.add(b.mul(inner, k), p) if k_inner else b.add(b.mul(p, m), inner)
        place = b.add(b.mul(block, self.fragment.registers), at)
        found = b.cast(b.read(self.registers, place), self.dtype)
        as_stored = self.stored == tf32 and self.operand.in_registers
        return read_as_tf32(b, found) if as_stored else found
