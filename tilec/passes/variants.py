"""The ways to do a gemm: instruction shapes, and arrangements of warps (or warpgroups) over the
tile.

A variant is `(family, m, n, k, rows, columns)`: instructions of m x n x k, units (warps for mma and
mfma, warpgroups for wgmma) arranged `rows` x `columns`. Units interleave: unit (r, c) takes
instruction tiles r, r + rows, ... down the rows and c, c + columns, ... along the columns, so every
unit spans the whole tile and slabs of columns need no exchange.

MFMA has a second form of each, with "swapped" as a seventh part: the instruction is given B as its
left operand and A as its right one, and so computes the transpose. A lane then holds consecutive
columns of one row, which is how the next product takes its operands from registers.
"""

from __future__ import annotations

from typing import Literal

from ..ir.layout import RegisterLayout, mfma, mma_m16n8, wgmma_a, wgmma_accumulator
from ..ir.ops.tile import Gemm
from ..ir.types import InflightType, MemoryType, TileType
from ..target import Target

Variant = tuple[str, int, int, int, int, int] | tuple[str, int, int, int, int, int, str]
Side = Literal["a", "b"]

SWAPPED = "swapped"
WGMMA_COLUMNS = 256  # widest wgmma


def unit_threads(family: str, target: Target) -> int:
    """Threads that issue one instruction together."""
    return 128 if family == "wgmma" else target.warp_size


def variants_of(
    gemm: Gemm, family: str, threads: int, target: Target
) -> list[tuple[Variant, float]]:
    """Every variant of a gemm with instructions of `family`, cheapest first: what the program's
    tile and threads allow. The cost is operand rows and columns read for one step of k.

    The policy "full_row" ("full_col") puts as many units as fit along the rows (columns).
    """
    tile_m, tile_n, tile_k = gemm_shape(gemm)
    units = threads // unit_threads(family, target)
    found: list[tuple[Variant, float]] = []
    for m, n, k in _shapes(family, gemm.operand_dtype.name, target):
        for rows in range(1, units + 1):
            columns = units // rows
            if rows * columns != units or tile_m % (m * rows) or tile_k % k:
                continue
            width = _widest(n, tile_n, columns, gemm.transpose_b) if family == "wgmma" else n
            if width == 0 or tile_n % (width * columns):
                continue
            if family == "wgmma":  # every instruction reads its operands from shared memory
                reads = tile_m // m * (tile_n // width) * float(m + width)
            else:  # a unit keeps what it read in registers
                reads = float(columns * tile_m + rows * tile_n)
            preference = {"full_row": -rows, "full_col": -columns}.get(gemm.policy, 0) * 1e6
            small = 1.0 + 0.1 * (m * width < 512 and family == "mfma")  # fewer, larger instructions
            cost = reads * small + preference
            found.append(((family, m, width, k, rows, columns), cost))
            if family == "mfma":  # the plain form where nothing asks for the other
                found.append(((family, m, width, k, rows, columns, SWAPPED), cost + 1.0))
    return sorted(found, key=lambda pair: pair[1])


def gemm_shape(gemm: Gemm) -> tuple[int, int, int]:
    """M, N and K of a gemm."""
    type_ = gemm.accumulator.type
    tile = type_.tile if isinstance(type_, InflightType) else type_
    a = gemm.a.type
    assert isinstance(tile, TileType) and isinstance(a, (MemoryType, TileType))
    return tile.shape[0], tile.shape[1], int(a.shape[0] if gemm.transpose_a else a.shape[1])


def _shapes(family: str, dtype: str, target: Target) -> list[tuple[int, int, int]]:
    return [(i.m, i.n, i.k) for i in target.matrix if i.family == family and i.operand == dtype]


def _widest(most: int, tile_n: int, columns: int, k_major: bool) -> int:
    """The widest wgmma that divides a warpgroup's columns, up to `most`; 0 if there is none.

    A multiple of 8; of 64 where B lies with its columns contiguous and the tile takes several (an
    instruction begins at a block of 128 bytes, PTX ISA 9.7.15.5.1).
    """
    if tile_n % (8 * columns):
        return 0
    width = tile_n // columns
    for n in range(min(most, width) // 8 * 8, 0, -8):
        if width % n == 0 and (k_major or n == tile_n or n % 64 == 0):
            return n
    return 0


def accumulator_layout(variant: Variant, m: int, n: int) -> RegisterLayout:
    """The register layout of an m x n accumulator."""
    family, im, n_, k, rows, columns, *swapped = variant
    if family == "wgmma":
        fragment = wgmma_accumulator(n_)
    elif family == "mma":
        fragment = mma_m16n8("c", k, 16)
    elif swapped:
        fragment = mfma("c", n_, im, k, 16).transpose((1, 0))
    else:
        fragment = mfma("c", im, n_, k, 16)
    return fragment.repeat((rows, columns), over="thread").repeat(
        (m // (im * rows), n // (n_ * columns)), over="register"
    )


def operand_layout(gemm: Gemm, variant: Variant, side: Side) -> RegisterLayout:
    """The layout that a tile must have to be an operand of `gemm` in registers: fragments (block,
    step), steps inner.

    Units beside each other that need the same rows hold copies. Its shape is the tile's, stored
    order included.
    """
    family, im, n_, ik, rows, columns = variant[:6]
    m, n, k = gemm_shape(gemm)
    bits = gemm.operand_dtype.bits
    if family == "wgmma":
        fragment = wgmma_a(ik)
    elif family == "mma":
        fragment = mma_m16n8(side, ik, bits)
    else:  # the fragments of both sides are alike: swapped or not makes no difference
        fragment = mfma(side, im, n_, ik, bits)
    if side == "a":
        fragment = fragment.replicate(columns).repeat((rows, 1), "thread")
        blocks = m // (im * rows)
    else:
        fragment = fragment.repeat((columns, 1), "thread").replicate(rows)
        blocks = n // (n_ * columns)
    layout = fragment.repeat((blocks, k // ik), "register")
    k_first = gemm.transpose_a if side == "a" else not gemm.transpose_b
    return layout.transpose((1, 0)) if k_first else layout
