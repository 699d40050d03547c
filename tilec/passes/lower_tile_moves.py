"""Tiles loaded from memory and stored to it: every thread the registers that its layout gives it,
in vectors.

Where registers lie as the 8x8 matrices of ldmatrix and stmatrix (two elements of a row a lane, four
lanes a row, or that transposed), four matrices are moved at once and lane 8 m + r gives the address
of row r of matrix m. Sources: PTX ISA, ldmatrix and stmatrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..ir.core import Value
from ..ir.layout import RegisterLayout
from ..ir.ops.memory import memory_type
from ..ir.ops.nvidia import WARP, LdMatrix, StMatrix
from ..ir.ops.thread import GatherRegisters, VectorStore
from ..ir.ops.tile import LoadTile, StoreTile
from ..ir.types import Space
from .coordinates import (
    both,
    coordinates,
    primary,
    register_digits,
    register_loops,
    shifted,
    within,
)

if TYPE_CHECKING:
    from .lower_tiles import Lowering

ROW = 8  # elements of a row of a matrix, and rows


def lower_load_tile(op: LoadTile, lowering: Lowering) -> None:
    """Every thread its own registers; ldmatrix where the layout is its."""
    b = lowering.b
    registers, layout = lowering.registers(op.result), lowering.layout(op.result)
    source = lowering.value(op.source)
    orientation = "" if op.within else _matrices(op.source, op.indices, op.dims, layout, lowering)
    if orientation and lowering.context.target.ldmatrix:
        _by_matrices(
            op.source,
            op.indices,
            op.dims,
            op.result,
            orientation == "transposed",
            lowering,
            load=True,
        )
        return
    run = _run(op.source, op.indices, op.dims, op.region, layout, lowering)
    with register_loops(b, layout, run) as register:
        place = coordinates(b, layout, lowering.thread(), register)
        at = shifted(b, lowering.values(op.indices), op.dims, place)
        there = both(
            b, next(iter(lowering.values(op.predicate)), None), within(b, place, op.within)
        )
        lowering.access.load(registers, register, source, at, run, there, op.safe_value)


def lower_store_tile(op: StoreTile, lowering: Lowering) -> None:
    """Every thread its own registers, copies of them once; stmatrix where the layout is its."""
    b = lowering.b
    registers, layout = lowering.registers(op.tile), lowering.layout(op.tile)
    orientation = (
        "" if op.within else _matrices(op.destination, op.indices, op.dims, layout, lowering)
    )
    if orientation and lowering.context.target.stmatrix and layout.replication == 1:
        _by_matrices(
            op.destination,
            op.indices,
            op.dims,
            op.tile,
            orientation == "transposed",
            lowering,
            load=False,
        )
        return
    destination = lowering.value(op.destination)
    columns = None if op.within else _columns(op, layout, lowering)
    if columns is not None:
        _store_columns(op, columns, lowering)
        return
    run = _run(op.destination, op.indices, op.dims, op.region, layout, lowering)
    first = primary(b, layout, lowering.thread())
    own = b.compare("eq", 0, 0) if first is None else first
    with b.when(own), register_loops(b, layout, run) as register:
        place = coordinates(b, layout, lowering.thread(), register)
        at = shifted(b, lowering.values(op.indices), op.dims, place)
        inside = within(b, place, op.within)
        lowering.access.store(destination, at, registers, register, run, inside)


def _run(
    memory: Value,
    indices: Sequence[Value],
    dims: Sequence[int],
    extents: Sequence[int],
    layout: RegisterLayout,
    lowering: Lowering,
) -> int:
    """Registers that lie consecutively in the memory as in the thread, as many as one access may
    move, or all where a tensor is accessed by elements; all in a region of `extents` or none.
    """
    if not dims or dims[-1] != len(memory_type(memory).shape) - 1:
        return 1
    handle, start = lowering.value(memory), lowering.values(indices)
    run = math.gcd(layout.vector_width(), extents[-1])
    width = lowering.access.width(handle, start, run)
    by_elements = width == 1 and memory_type(memory).space is Space.GLOBAL
    return run if by_elements else width


# Columns ------------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """Runs of `length` registers, `stride` apart, that lie together in memory."""

    length: int
    stride: int


def _columns(op: StoreTile, layout: RegisterLayout, lowering: Lowering) -> _Columns | None:
    """Runs along another dimension than the last, where memory keeps nothing together along that;
    None where a thread has no two elements of one.
    """
    stored = memory_type(op.destination).layout
    if stored is None or stored.vector_width() > 1 or layout.replication > 1:
        return None
    widest = lowering.context.target.vector_bytes // memory_type(op.destination).dtype.bytes
    for position, dim in enumerate(op.dims[:-1]):
        for digit in layout.digits(position):
            count = math.gcd(stored.vector_width(dim), digit.extent, widest)
            ours = (digit.scale, digit.source) == (1, "register") and count > 1
            if ours and lowering.b.is_multiple(op.indices[dim], count):
                return _Columns(count, digit.stride)
    return None


def _store_columns(op: StoreTile, columns: _Columns, lowering: Lowering) -> None:
    """Every run put together and stored as one vector."""
    b, layout, registers = lowering.b, lowering.layout(op.tile), lowering.registers(op.tile)
    count, apart = columns
    with ExitStack() as loops:
        first: Value = b.const(0)
        for extent, stride in register_digits(layout):
            if stride == apart:
                extent, stride = extent // count, stride * count
            index = loops.enter_context(b.unrolled(extent, hint="r"))
            first = b.add(first, b.mul(index, stride))
        zero, together = b.const(0), lowering.scratch(memory_type(registers).dtype, count, "column")
        b.emit(GatherRegisters(together, zero, registers, first, count=count, stride=apart))
        place = coordinates(b, layout, lowering.thread(), first)
        at = shifted(b, lowering.values(op.indices), op.dims, place)
        b.emit(VectorStore(lowering.value(op.destination), at, together, zero, (), count=count))


# Matrices -----------------------------------------------------------------------------------------


def _matrices(
    memory: Value,
    indices: Sequence[Value],
    dims: Sequence[int],
    layout: RegisterLayout,
    lowering: Lowering,
) -> str:
    """ "rows" or "transposed" where the registers are 8x8 matrices whose rows are runs in shared
    memory; else "".
    """
    type_ = memory_type(memory)
    if type_.space is not Space.SHARED or type_.dtype.bits != 16 or len(dims) != 2:
        return ""
    if (
        dims[-1] != len(type_.shape) - 1
        or lowering.threads % WARP
        or layout.threads != lowering.threads
    ):
        return ""
    handle, start = lowering.value(memory), lowering.values(indices)
    if lowering.access.limit(handle) % ROW or not lowering.b.is_multiple(start[-1], ROW):
        return ""
    return matrix_orientation(layout)


@lru_cache(maxsize=256)
def matrix_orientation(layout: RegisterLayout) -> str:
    """ "rows" where each pair of registers is lane / 4, 2 (lane % 4) of an 8x8 matrix, "transposed"
    if crosswise.
    """
    if layout.rank != 2 or layout.threads % WARP or layout.registers % 2:
        return ""
    coords = layout.coords().reshape(layout.threads // WARP, WARP, layout.registers // 2, 2, 2)
    first = coords[:, :1, :, :1]
    if (first[..., -1] % ROW).any() or (first[..., 0] % ROW).any():
        return ""
    lane = np.arange(WARP)
    along = 2 * (lane % 4)[:, None] + np.arange(2)
    across = np.broadcast_to((lane // 4)[:, None], along.shape)
    moved = coords - first
    for name, dims in (("rows", (across, along)), ("transposed", (along, across))):
        expected = np.stack(dims, axis=-1)[None, :, None]
        if np.array_equal(moved, np.broadcast_to(expected, moved.shape)):
            return name
    return ""


def _by_matrices(
    memory: Value,
    indices: Sequence[Value],
    dims: Sequence[int],
    tile: Value,
    transposed: bool,
    lowering: Lowering,
    *,
    load: bool,
) -> None:
    """Four matrices (or two, or one) at a time."""
    b, layout = lowering.b, lowering.layout(tile)
    registers, handle = lowering.registers(tile), lowering.value(memory)
    matrices = next(n for n in (4, 2, 1) if (layout.registers // 2) % n == 0)
    lane = lowering.lane()
    warp_start = b.mul(lowering.warp(), WARP)
    own = b.floormod(b.floordiv(lane, ROW), matrices)  # the matrix whose row this lane gives
    with b.unrolled(layout.registers // (2 * matrices), hint="m") as group:
        offset = b.mul(group, 2 * matrices)
        row, column = coordinates(b, layout, warp_start, b.add(offset, b.mul(own, 2)))
        # In memory a matrix's rows run along the last dimension: the lane's row is the other one.
        place = (b.add(row, b.floormod(lane, ROW)), column)
        at = shifted(b, lowering.values(indices), dims, place)
        if load:
            b.emit(
                LdMatrix(registers, offset, handle, at, matrices=matrices, transposed=transposed)
            )
        else:
            b.emit(
                StMatrix(handle, at, registers, offset, matrices=matrices, transposed=transposed)
            )
