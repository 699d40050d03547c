"""The ways to do a gemm: instruction shapes, and arrangements of units over the tile.

A variant is `(family, m, n, k, rows, columns)`: instructions of m x n x k, units (warps for mma and
mfma, warpgroups for wgmma, threads for fma) arranged `rows` x `columns`. Units interleave: unit
(r, c) takes instruction tiles r, r + rows, ... down the rows and c, c + columns, ... along the
columns, so every unit spans the whole tile and slabs of columns need no exchange.

Family "fma" is no matrix instruction: a thread multiplies and adds elements, m x n of the tile and
k steps at a time. It serves any dtype and tile, so where there are more threads than elements,
units beyond `rows` x `columns` hold copies.

MFMA has a second form of each, with "swapped" as a seventh part: the instruction is given B as its
left operand and A as its right one, and so computes the transpose. A lane then holds consecutive
columns of one row, which is how the next product takes its operands from registers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..ir.dtypes import DTYPES, DType, f32, f64
from ..ir.layout import (
    RegisterLayout,
    mfma,
    mfma_accumulator,
    mma_m8n8,
    mma_m16n8,
    replicated,
    wgmma_a,
    wgmma_accumulator,
)
from ..ir.layout.fragments import Operand
from ..ir.ops.gemm import SIDES, Gemm, Side
from ..ir.types import InflightType, TileType
from ..target import MatrixInstruction, Target
from .role_registers import widest_wgmma

Variant = tuple[str, int, int, int, int, int] | tuple[str, int, int, int, int, int, str]

SWAPPED = "swapped"
ADDRESS_REGISTERS = 48  # what a thread needs beside accumulators and fragments
REGISTER_BITS = 32
MOST_ARRANGEMENTS = 8  # of threads that are offered to the choice of layouts
CONVERTED = {
    **dict.fromkeys(("e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz", "e2m3", "e3m2"), ("f16",)),
    "tf32": ("f32",),
}  # fmt: skip
"""The next dtypes that hold every value of one, narrowest first: where no instruction takes it."""


def unit_threads(family: str, target: Target) -> int:
    """Threads that issue one instruction together."""
    return {"wgmma": 128, "fma": 1}.get(family, target.warp_size)


def multiplied_dtype(gemm: Gemm, family: str, target: Target, side: Side = "a") -> DType | None:
    """The dtype in which instructions of `family` take an operand: its own, or the next wider one
    that both have, where the target has instructions that divide the gemm's K; else the first that has
    any, None where the target has none. By fma it is the dtype in which a thread computes.
    """
    names, total = _operand_names(gemm), accumulator_type(gemm).dtype
    if family == "fma":
        if not total.is_float:
            return total
        return f64 if 64 in (gemm.dtype_of("a").bits, total.bits) else f32
    wider = [CONVERTED.get(name, ()) for name in names]
    depth = gemm_shape(gemm)[2]
    first = None
    for pair in (names, *((name, name) for name in wider[0] if name in wider[1])):
        depths = [i.k for i in _instructions(family, pair, total.name, target)]
        dtype = DTYPES[pair[SIDES.index(side)]]
        if any(depth % k == 0 for k in depths):
            return dtype
        first = first or (dtype if depths else None)
    return first


def takes(gemm: Gemm, family: str, target: Target) -> bool:
    """Whether the target has instructions of `family` for operands as they are, of whatever shape."""
    total = accumulator_type(gemm).dtype.name
    return any(_instructions(family, _operand_names(gemm), total, target))


def is_converted(gemm: Gemm, family: str, target: Target) -> bool:
    """Whether instructions of `family` take an operand in another dtype than its own."""
    return any(multiplied_dtype(gemm, family, target, s) != gemm.dtype_of(s) for s in SIDES)


def _operand_names(gemm: Gemm) -> tuple[str, str]:
    return gemm.dtype_of("a").name, gemm.dtype_of("b").name


def read_by_matrices(gemm: Gemm, side: Side, dtype: DType) -> bool:
    """Whether ldmatrix gives mma an operand of shared memory that it takes as `dtype`: four bytes
    of consecutive k a lane, or elements of 16 bits transposed.
    """
    k_major = not gemm.transpose_a if side == "a" else gemm.transpose_b
    return dtype == gemm.dtype_of(side) and (dtype.bits <= 32 if k_major else dtype.bits == 16)


def variants_of(
    gemm: Gemm, family: str, threads: int, target: Target
) -> list[tuple[Variant, float]]:
    """Every variant of a gemm with instructions of `family`, cheapest first: what the program's
    tile and threads allow. The cost is what a thread reads of the operands, in registers: the unit of
    conversions, against which it is weighed.

    The policy "full_row" ("full_col") puts as many units as fit along the rows (columns).
    """
    if family == "fma":
        return _by_threads(gemm, threads, target)
    tile_m, tile_n, tile_k = gemm_shape(gemm)
    units = threads // unit_threads(family, target)
    left, right = (multiplied_dtype(gemm, family, target, side) for side in SIDES)
    found: list[tuple[Variant, float]] = []
    if left is None or right is None or threads % unit_threads(family, target):
        return found
    total = accumulator_type(gemm).dtype.name
    unit = tile_k * left.bits / (REGISTER_BITS * threads)  # a thread's registers for one row
    for i in _instructions(family, (left.name, right.name), total, target):
        m, n, k = i.m, i.n, i.k
        if gemm.scales and not i.scaled:
            continue
        # of equal ones that where a warpgroup has rows of its own, which it can store by itself
        for rows, columns in sorted(_arrangements(units), reverse=family == "wgmma"):
            if tile_m % (m * rows) or tile_k % k:
                continue
            width = n
            if family == "wgmma":
                most = widest_wgmma(threads, target)
                width = _widest(i.widths, most, tile_n, columns, gemm.transpose_b)
            if width == 0 or tile_n % (width * columns):
                continue
            if family == "wgmma":  # every instruction reads its operands from shared memory
                reads = tile_m // m * (tile_n // width) * float(m + width)
            else:  # a unit keeps what it read in registers
                reads = float(columns * tile_m + rows * tile_n)
            cost = unit * reads * (1.0 + 0.1 * _smallness(i, width)) + _bias(gemm, rows, columns)
            found.append(((family, m, width, k, rows, columns), cost))
            if family == "mfma":  # the plain form where nothing asks for the other
                found.append(((family, m, width, k, rows, columns, SWAPPED), cost + unit))
    return sorted(found, key=lambda pair: pair[1])


def _arrangements(units: int) -> Iterator[tuple[int, int]]:
    """Every rows x columns of all units."""
    for rows in range(1, units + 1):
        if units % rows == 0:
            yield rows, units // rows


def _bias(gemm: Gemm, rows: int, columns: int) -> float:
    return {"full_row": -rows, "full_col": -columns}.get(gemm.policy, 0) * 1e6


def _smallness(instruction: MatrixInstruction, width: int) -> float:
    """How far an instruction is from the largest of its family: fewer, larger ones are better."""
    if instruction.family == "mfma":
        return float(instruction.m * width < 512) + 1.0 / instruction.k
    return 16.0 / (instruction.m * instruction.k) if instruction.family == "mma" else 0.0


def gemm_shape(gemm: Gemm) -> tuple[int, int, int]:
    """M, N and K of a gemm."""
    tile = accumulator_type(gemm)
    return tile.shape[0], tile.shape[1], gemm.matrix("a").k


def accumulator_type(gemm: Gemm) -> TileType:
    """The type of a gemm's accumulator as a tile."""
    type_ = gemm.accumulator.type
    tile = type_.tile if isinstance(type_, InflightType) else type_
    assert isinstance(tile, TileType)
    return tile


def _instructions(
    family: str, operands: tuple[str, str], accumulator: str, target: Target
) -> Iterator[MatrixInstruction]:
    for i in target.matrix:
        if (i.family, i.operands, i.accumulator) == (family, operands, accumulator):
            yield i


def _widest(widths: tuple[int, ...], most: int, tile_n: int, columns: int, k_major: bool) -> int:
    """The widest wgmma that divides a warpgroup's columns, up to `most`; 0 if there is none.

    A multiple of 64 where B lies with its columns contiguous and the tile takes several (an
    instruction begins at a block of 128 bytes, PTX ISA 9.7.15.5.1).
    """
    for n in widths:
        if n <= most and tile_n % (n * columns) == 0 and (k_major or n == tile_n or n % 64 == 0):
            return n
    return 0


# Threads that multiply and add


def _by_threads(gemm: Gemm, threads: int, target: Target) -> list[tuple[Variant, float]]:
    """The arrangements of threads whose elements and fragments fit registers, cheapest first.

    A thread reads vectors: of consecutive k where an operand is stored with k contiguous, else of
    consecutive rows (columns). Elements are interleaved otherwise, since lanes that read
    consecutive rows of a swizzled tile find them in different banks.
    """
    tile_m, tile_n, tile_k = gemm_shape(gemm)
    total = accumulator_type(gemm).dtype
    wide = multiplied_dtype(gemm, "fma", target)
    assert wide is not None
    vector = target.vector_bytes // gemm.dtype_of("a").bytes
    limit = min(target.max_registers, target.registers // threads)
    found: list[tuple[Variant, float]] = []
    for units in range(1, threads + 1):
        if threads % units:
            continue
        for rows, columns in _arrangements(units):
            if tile_m % rows or tile_n % columns:
                continue
            down, across = tile_m // rows, tile_n // columns
            m = math.gcd(down, vector) if gemm.transpose_a else 1
            n = 1 if gemm.transpose_b else math.gcd(across, vector)
            held = -(-down * across * total.bits // REGISTER_BITS) + ADDRESS_REGISTERS
            fragment = (down + across) * -(-wide.bits // REGISTER_BITS)
            k = math.gcd(tile_k, vector)
            while k > 1 and held + k * fragment > limit * 3 // 4:
                k //= 2
            if held + k * fragment > limit:
                continue
            loads = down / (m if gemm.transpose_a else k) + across / (k if gemm.transpose_b else n)
            cost = 1e3 * down * across + loads + _bias(gemm, rows, columns)
            found.append((("fma", m, n, k, rows, columns), cost))
    return sorted(found, key=lambda pair: pair[1])[:MOST_ARRANGEMENTS]


# Layouts


def fragment_of(
    family: str, operand: Operand, shape: tuple[int, int, int], bits: int
) -> RegisterLayout:
    """What one unit holds of an operand of one instruction, m x n x k in `shape`: "a" [m, k],
    "b" [n, k] or "c" [m, n]. `bits` of an element of the operand: of A and B those that tell its value, as multiplied.

    Raises:
        ValueError: there is no such instruction.
    """
    m, n, k = shape
    if family == "fma":
        return replicated({"a": (m, k), "b": (n, k), "c": (m, n)}[operand], 1)
    if family == "mfma":
        return mfma_accumulator(m, n, bits) if operand == "c" else mfma(operand, m, n, k, bits)
    if family == "wgmma":
        return wgmma_accumulator(n) if operand == "c" else wgmma_a(k)
    if operand == "c":  # the same for every k and dtype
        return mma_m8n8("c", 16, 8) if m == 8 else mma_m16n8("c", 16, 16)
    return mma_m8n8(operand, k, bits) if m == 8 else mma_m16n8(operand, k, bits)


def copies_of(variant: Variant, threads: int, target: Target) -> int:
    """How many units hold the same part of the accumulator: 1 but for "fma"."""
    rows, columns = variant[4:6]
    return threads // (unit_threads(variant[0], target) * rows * columns)


def accumulator_layout(
    variant: Variant, m: int, n: int, copies: int = 1, bits: int = 32
) -> RegisterLayout:
    """The register layout of an m x n accumulator, `copies` of it in further units; `bits` of an
    element.
    """
    family, im, in_, k, rows, columns, *swapped = variant
    if swapped:
        fragment = fragment_of(family, "c", (in_, im, k), bits).transpose((1, 0))
    else:
        fragment = fragment_of(family, "c", (im, in_, k), bits)
    layout = fragment.repeat((rows, columns), over="thread").repeat(
        (m // (im * rows), n // (in_ * columns)), over="register"
    )
    return layout.replicate(copies) if copies > 1 else layout


def operand_layout(
    gemm: Gemm, variant: Variant, side: Side, bits: int = 0, copies: int = 1
) -> RegisterLayout:
    """The layout that a tile must have to be an operand of `gemm` in registers: fragments (block,
    step), steps inner. `bits` of an element as it is multiplied, if not those of the operand.

    Units beside each other that need the same rows hold copies; all of it has `copies`. Its shape
    is the tile's, stored order included.
    """
    family, im, in_, ik, rows, columns = variant[:6]
    m, n, k = gemm_shape(gemm)
    # Fragments of both sides are alike where a variant may be swapped: that makes no difference.
    fragment = fragment_of(family, side, (im, in_, ik), bits or gemm.dtype_of(side).code_bits)
    if side == "a":
        fragment = fragment.replicate(columns).repeat((rows, 1), "thread")
        blocks = m // (im * rows)
    else:
        fragment = fragment.repeat((columns, 1), "thread").replicate(rows)
        blocks = n // (in_ * columns)
    layout = fragment.repeat((blocks, k // ik), "register")
    layout = layout.replicate(copies) if copies > 1 else layout
    k_first = gemm.transpose_a if side == "a" else not gemm.transpose_b
    return layout.transpose((1, 0)) if k_first else layout
