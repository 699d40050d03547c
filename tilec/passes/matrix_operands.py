"""A gemm cut into instructions: where each unit's blocks start, how its operands are stored, how
fragments are read.

Shared by the lowerings of all families. Rows and columns here are those of the product: `mn`
is a row of A or a column of B, `k` the other index of either. Indices are sums of a part that
follows the thread, computed once outside of all loops, and a part that follows unrolled loops,
which the C compiler folds into addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import LayoutConflict, TargetUnsupported
from ..ir.build import Builder
from ..ir.core import Value, constant_of
from ..ir.dtypes import DType, f32, i32, tf32, u32
from ..ir.layout import RegisterLayout, SharedLayout, WgmmaOperand, wgmma_operand
from ..ir.ops.arith import Reinterpret
from ..ir.ops.gemm import SIDES, Gemm, Matrix, Side
from ..ir.ops.memory import memory_type
from ..ir.ops.thread import ConvertRegisters, FillRegisters, VectorLoad
from ..ir.types import InflightType, TileType
from .coordinates import coordinates, register_loops, shifted
from .variants import (
    SWAPPED,
    Variant,
    copies_of,
    gemm_shape,
    multiplied_dtype,
    operand_layout,
)

if TYPE_CHECKING:
    from .lower_tiles import Lowering

WGMMA_STEP_BITS = 256  # of k that one wgmma multiplies
TRANSPOSED_BITS = 16  # of the elements of which wgmma takes matrices with k as the outer dimension
TF32_BITS = 0xFFFFE000  # of an f32 that a gemm declared tf32 reads


@dataclass(frozen=True)
class Tiling:
    """How a gemm of M x N x K is cut: instructions of m x n x k, `rows` x `columns` interleaved
    units (warps, waves or warpgroups), each with `row_blocks` x `column_blocks` instruction tiles,
    in `steps` of k.

    Block i of unit row r starts at row (i * rows + r) * m; columns likewise.
    """

    family: str
    m: int
    n: int
    k: int
    rows: int
    columns: int
    row_blocks: int
    column_blocks: int
    steps: int
    swapped: bool = False
    """Whether instructions compute the transpose, B on their left."""

    @classmethod
    def of(cls, op: Gemm) -> Tiling:
        """The tiling that a gemm's variant states. Raises LayoutConflict where it does not divide
        the tile.
        """
        family, *sizes = op.variant
        m, n, k, rows, columns = (s for s in sizes if isinstance(s, int))
        tile = product_type(op)
        extent_k = gemm_shape(op)[2]
        if tile.shape[0] % (m * rows) or tile.shape[1] % (n * columns) or extent_k % k:
            raise LayoutConflict(
                "TLC0420",
                f"a gemm of {tile.shape[0]} x {tile.shape[1]} x {extent_k} is not whole {family} "
                f"instructions of {m} x {n} x {k} over {rows} x {columns} units",
                loc=op.loc,
            )
        blocks = tile.shape[0] // (m * rows), tile.shape[1] // (n * columns)
        swapped = op.variant[-1] == SWAPPED
        return cls(str(family), m, n, k, rows, columns, *blocks, extent_k // k, swapped)

    def unit_place(self, b: Builder, unit: Value) -> tuple[Value, Value]:
        """Row and column of a unit in the arrangement."""
        row = b.floordiv(unit, self.columns) if self.rows > 1 else b.const(0)
        if self.columns == 1:
            return row, b.const(0)
        return row, b.floormod(unit, self.columns) if self.rows > 1 else unit

    def along(self, side: Side) -> tuple[int, int, int]:
        """Of the rows of A, or the columns of B: blocks of a unit, units, and extent of a block."""
        if side == "a":
            return self.row_blocks, self.rows, self.m
        return self.column_blocks, self.columns, self.n

    @property
    def accumulators(self) -> int:
        """Registers of one thread that one instruction tile takes."""
        threads = {"mma": 32, "mfma": 64, "wgmma": 128, "fma": 1}[self.family]
        return self.m * self.n // threads

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.m, self.n, self.k


def product_type(op: Gemm) -> TileType:
    """The type of a gemm's result."""
    type_ = op.result.type.tile if isinstance(op.result.type, InflightType) else op.result.type
    assert isinstance(type_, TileType)
    return type_


@dataclass(frozen=True)
class Operand:
    """A or B of a gemm as a lowering reads it: the handle of shared memory (or the tile) that it
    lies in now, and where it starts there.
    """

    value: Value
    side: Side
    matrix: Matrix
    origin: tuple[Value, ...]
    """One index for each dimension of a handle."""
    vector: int
    """Elements that always lie together, aligned, counted from the origin: consecutive k, or m or n
    where these do not lie together.
    """
    k_major: bool
    """Whether consecutive k lie together."""

    @classmethod
    def of(cls, op: Gemm, side: Side, lowering: Lowering) -> Operand:
        """One side of `op`."""
        b, matrix = lowering.b, op.matrix(side)
        if isinstance(matrix.value.type, TileType):
            return cls(matrix.value, side, matrix, (), 1, matrix.k_major)
        value = lowering.value(matrix.value)
        origin = tuple(b.cast(i, i32) for i in lowering.values(matrix.indices))
        origin = origin or (b.const(0),) * len(memory_type(value).shape)
        stored, inner = stored_layout(value), max(matrix.mn_dim, matrix.k_dim)
        if op.instruction == "mfma" and stored.vector_width(matrix.k_dim) > 1:
            inner = matrix.k_dim  # in chunks of k, though rows run along m or n
        vector = stored.vector_width(inner)
        while vector > 1 and not b.is_multiple(origin[inner], vector):
            vector //= 2
        return cls(value, side, matrix, origin, vector, inner == matrix.k_dim)

    @property
    def in_registers(self) -> bool:
        return isinstance(self.value.type, TileType)

    def indices(self, b: Builder, mn: Value, k: Value) -> tuple[Value, ...]:
        """One index for each dimension of the handle."""
        return shifted(b, self.origin, (self.matrix.mn_dim, self.matrix.k_dim), (mn, k))


def stored_layout(memory: Value) -> SharedLayout:
    """The layout of a handle; row-major where it has none."""
    type_ = memory_type(memory)
    return type_.layout or SharedLayout.row_major(tuple(int(d) for d in type_.shape))


def descriptors_of(
    matrix: Matrix, layout: SharedLayout, is_multiple: Callable[[Value, int], bool]
) -> WgmmaOperand | str:
    """How wgmma's descriptors address the memory of an operand, which has `layout`; or why none can
    start where the operand does. `is_multiple` says what is known of its indices.

    A descriptor starts at the first row of a block that the swizzle leaves in place, and along k
    where an instruction may (PTX ISA, 9.7.15.5.1).
    """
    dtype = memory_type(matrix.value).dtype
    bits = dtype.bits
    if not matrix.k_major and bits != TRANSPOSED_BITS:
        return f"of {dtype} it takes only matrices in which consecutive k lie side by side"
    dims = sorted((matrix.mn_dim, matrix.k_dim))
    found = wgmma_operand(layout.along(dims), "k" if matrix.k_major else "mn", bits)
    if found is None:
        return "no matrix descriptor describes its layout in shared memory"
    units = {matrix.mn_dim: found.mn_unit, matrix.k_dim: WGMMA_STEP_BITS // bits}
    for dim, index in enumerate(matrix.indices):
        if dim in units and not is_multiple(index, units[dim]):
            return f"a descriptor starts at a multiple of {units[dim]} in dimension {dim}"
        if dim not in units and layout.step(dim) * bits % (found.atom * 8):
            return f"its matrices do not lie at multiples of {found.atom} bytes"
    return found


def load_fragment(
    lowering: Lowering,
    operand: Operand,
    fragment: RegisterLayout,
    registers: Value,
    offset: Value,
    origin: tuple[Value, Value],
    lane: Value,
) -> None:
    """One fragment [mn, k] from shared memory at `origin` (mn, k), with vectors as wide as both
    layouts allow.

    `fragment` is over the lanes of one unit; its registers go to `registers` from `offset` on, in
    their dtype.
    """
    b = lowering.b
    stored, dtype = memory_type(operand.value).dtype, memory_type(registers).dtype
    inner = 1 if operand.k_major else 0
    width = min(fragment.vector_width(inner), operand.vector, 128 // stored.bits)
    with register_loops(b, fragment, width) as register:
        inside = coordinates(b, fragment, lane, register)
        mn, k = (b.add(start, at) for start, at in zip(origin, inside, strict=True))
        indices = operand.indices(b, mn, k)
        place = b.add(offset, register)
        if stored == dtype:
            b.emit(VectorLoad(registers, place, operand.value, indices, (), count=width))
        else:
            raw, zero = lowering.scratch(stored, width, "raw"), b.const(0)
            b.emit(VectorLoad(raw, zero, operand.value, indices, (), count=width))
            _convert(lowering, registers, place, raw, width)


def taken_dtype(op: Gemm, side: Side, lowering: Lowering) -> DType:
    """The dtype in which the instructions of a gemm take an operand. Raises TargetUnsupported
    where the target has no such instruction.
    """
    target = lowering.context.target
    tiling = Tiling.of(op)
    dtype = multiplied_dtype(op, tiling.family, target, side)
    exists = any(
        (i.family, i.operands[SIDES.index(side)], i.m, i.k)
        == (tiling.family, dtype.name, tiling.m, tiling.k)
        and tiling.n in i.widths
        for i in target.matrix
        if dtype is not None
    )
    if dtype is None or not (exists or tiling.family == "fma"):
        raise TargetUnsupported(
            "TLC0422",
            f"{target.name} has no {tiling.family} of {tiling.m} x {tiling.n} x {tiling.k} on "
            f"{op.dtype_of(side)}",
            loc=op.loc,
        )
    return dtype


def check_operand_tile(op: Gemm, side: Side, lowering: Lowering) -> None:
    """Raises LayoutConflict where the tile on a side of `op` is not laid out as its instructions
    take it.
    """
    value = op.a if side == "a" else op.b
    variant: Variant = op.variant  # type: ignore[assignment]
    copies = copies_of(variant, lowering.threads, lowering.context.target)
    wanted = operand_layout(op, variant, side, taken_dtype(op, side, lowering).code_bits, copies)
    if lowering.layout(value) != wanted:
        raise LayoutConflict(
            "TLC0421",
            f"{value.hint or side}, a gemm's operand in registers, is not laid out for "
            f"{op.instruction}",
            loc=op.loc,
            hint="copy it to shared memory",
        )


def registers_in(tile: Value, dtype: DType, lowering: Lowering) -> Value:
    """The registers of a tile, converted where it is of another dtype than `dtype`."""
    registers, count = lowering.registers(tile), lowering.layout(tile).registers
    if memory_type(registers).dtype == dtype:
        return registers
    converted = lowering.scratch(dtype, count, tile.hint)
    _convert(lowering, converted, lowering.b.const(0), registers, count)
    return converted


def _convert(lowering: Lowering, to: Value, place: Value, registers: Value, count: int) -> None:
    """Registers from `place` on become the first `count` of others, as an instruction of their
    dtype takes them.
    """
    b = lowering.b
    if memory_type(registers).dtype != tf32:
        b.emit(ConvertRegisters(to, place, registers, b.const(0), count=count))
        return
    with b.unrolled(count, "e") as element:
        x = b.read(registers, element)
        index = b.add(place, element)
        b.write(read_as_tf32(b, b.cast(x, f32)), to, index)


def read_as_tf32(b: Builder, x: Value) -> Value:
    """An f32 without the bits that a gemm declared tf32 does not read."""
    bits = b.bit_and(b.pure(Reinterpret(x, dtype=u32)), b.const(TF32_BITS, u32))
    return b.pure(Reinterpret(bits, dtype=f32))


def start_accumulator(op: Gemm, lowering: Lowering) -> Value:
    """The accumulator's registers, set to zero where the gemm does not add to what they hold."""
    b = lowering.b
    registers = lowering.registers(op.result)
    zero = b.const(0, product_type(op).dtype)
    count = lowering.layout(op.result).registers
    if op.clear:
        b.emit(FillRegisters(registers, b.const(0), zero, count=count))
        return registers
    for adds in op.accumulate:
        condition = lowering.value(adds)
        if constant_of(condition) is True:
            continue
        with b.when(b.compare("eq", condition, False)):
            b.emit(FillRegisters(registers, b.const(0), zero, count=count))
    return registers
