"""Layouts as grids that a person can read: which thread and register holds each element of a tile,
and which bank each part of a shared buffer begins in.

    acc: f32[64, 64] in registers of 128 threads, 32 each
               0-1      2-3      4-5      6-7
          0   t0.0     t1.0     t2.0     t3.0
          1   t4.0     t5.0     t6.0     t7.0
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..ir.core import Program, Value, walk
from ..ir.layout.banks import BANK_BYTES
from ..ir.layout.register import RegisterLayout
from ..ir.layout.shared import SharedLayout
from ..ir.types import InflightType, MemoryType, TileType
from ..passes.context import Facts, PassContext
from ..passes.pipeline import run_pipeline
from ..runtime.lowering import standard_registry
from ..target import Target

BANKS = 32
CHUNK_BYTES = 16  # of the bank map: the widest access of a thread
CELLS = 8  # across a grid


def draw_layouts(program: Program, target: Target, rows: int) -> Iterator[str]:
    """The layout of every tile and shared buffer once, in the order of the program, as they stand
    when layouts are final. `rows`: how many of each grid.
    """
    context = PassContext(target, standard_registry(), Facts())
    planned = run_pipeline(program, context, after="infer_layouts")
    yield f"{program.name} for {target.name}"
    drawn: set[tuple[object, ...]] = set()
    for value in _values(planned):
        type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
        layout = getattr(type_, "layout", None)
        name = value.hint or "a tile"
        if layout is None or (name, layout) in drawn:
            continue
        drawn.add((name, layout))
        yield ""
        if isinstance(type_, TileType) and isinstance(layout, RegisterLayout):
            yield from draw_registers(name, type_.dtype.name, layout, rows)
        elif isinstance(type_, MemoryType) and isinstance(layout, SharedLayout):
            yield from draw_banks(name, type_.dtype.name, type_.dtype.bits, layout, rows)


def _values(program: Program) -> Iterator[Value]:
    for op in walk(program.body):
        yield from op.results
        for block in op.regions:
            yield from block.params


def draw_registers(name: str, dtype: str, layout: RegisterLayout, rows: int) -> Iterator[str]:
    """A register layout: each cell `tT.R` is as many consecutive elements as a thread holds in
    consecutive registers, the first of them in register R of thread T.
    """
    copies = f", every element in {layout.replication} of them" if layout.replication > 1 else ""
    yield (
        f"{name}: {dtype}{list(layout.shape)} in registers of {layout.threads} threads, "
        f"{layout.registers} each{copies}"
    )
    step = layout.vector_width()
    grid = _indices(layout.shape, step)
    thread, register = layout.owner(grid)
    cells = np.char.add(np.char.add("t", thread.astype(str)), ".")
    yield from _grid(np.char.add(cells, register.astype(str)), step, rows, layout.shape)


def draw_banks(name: str, dtype: str, bits: int, layout: SharedLayout, rows: int) -> Iterator[str]:
    """A shared layout: each cell is the bank of 4 bytes in which 16 bytes of a row begin, or one
    element where so many do not lie together.
    """
    yield (f"{name}: {dtype}{list(layout.shape)} in shared memory, {layout.size * bits // 8} bytes")
    step = max(1, min(layout.vector_width(), CHUNK_BYTES * 8 // bits))
    grid = _indices(layout.shape, step)
    offsets = layout.offsets()[tuple(np.moveaxis(grid, -1, 0))]
    banks = offsets * bits // 8 // BANK_BYTES % BANKS
    cells = np.char.add("bank ", banks.astype(str))
    yield from _grid(cells, step, rows, layout.shape)


def _indices(shape: tuple[int, ...], step: int) -> np.ndarray:
    """The first coordinate of each cell, as a grid of rows and columns: leading dimensions are
    folded into the rows."""
    extents = [np.arange(n) for n in shape[:-1]] + [np.arange(0, shape[-1], step)]
    mesh = np.stack(np.meshgrid(*extents, indexing="ij"), axis=-1)
    return mesh.reshape(-1, len(extents[-1]), len(shape))


def _grid(cells: np.ndarray, step: int, rows: int, shape: tuple[int, ...]) -> Iterator[str]:
    shown = cells[:rows, :CELLS]
    heads = [
        str(c * step) if step == 1 else f"{c * step}-{c * step + step - 1}"
        for c in range(shown.shape[1])
    ]
    width = max(len(text) for text in (*heads, *shown.reshape(-1))) + 2
    more = " …" if cells.shape[1] > CELLS else ""
    yield " " * 8 + "".join(head.rjust(width) for head in heads) + more
    for number, row in enumerate(shown):
        place = np.unravel_index(number, shape[:-1]) if len(shape) > 1 else ()
        label = ",".join(str(int(i)) for i in place)
        yield f"{label:>8}" + "".join(str(cell).rjust(width) for cell in row) + more
    if len(cells) > rows:
        yield f"{'…':>8}  rows {rows} to {len(cells) - 1} likewise (--rows shows more)"
