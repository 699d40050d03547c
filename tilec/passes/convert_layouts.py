"""Lowers convert_layout: the same tile, held by other threads and registers.

Three ways, by what the two layouts need (tilec.ir.layout.classify), cheapest first:

| kind | when | how |
|---|---|---|
| permute | every thread holds what it needs | register moves |
| shuffle | its warp does | one shuffle (or select) for each register of the result and source |
| shared | another warp does | through shared memory, between two barriers of the role |

The last is told in a remark, inside a loop as a warning: it is right everywhere and fast nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ..ir.core import Value
from ..ir.dtypes import u32, u64
from ..ir.layout import VECTOR_BITS, RegisterLayout, ShuffleStep, classify
from ..ir.ops.memory import Load, Store
from ..ir.ops.thread import ConvertRegisters, Shuffle, VectorLoad, VectorStore
from ..ir.ops.tile import ConvertLayout
from ..ir.types import MemoryType
from .context import Remark
from .coordinates import add_up, coordinates, primary, register_loops
from .dependence import tile_type

if TYPE_CHECKING:
    from .lower_tiles import Lowering

BANK_SHIFT_BYTES = 16  # added to rows, so that columns spread over the banks


def lower_convert_layout(op: ConvertLayout, lowering: Lowering) -> None:
    """Lowers a conversion of layouts."""
    source, wanted = lowering.layout(op.tile), lowering.layout(op.result)
    conversion = classify(source, wanted, lowering.context.target.warp_size)
    if conversion.kind in ("same", "permute"):
        _permute(op, lowering, conversion.registers)
    elif conversion.kind == "shuffle":
        for step in conversion.steps:
            _shuffle(op, lowering, step)
    else:
        _through_shared(op, lowering)


# Registers --------------------------------------------------------------------------------------


def _permute(op: ConvertLayout, lowering: Lowering, registers: tuple[int, ...]) -> None:
    b = lowering.b
    source, destination = lowering.registers(op.tile), lowering.registers(op.result)
    if source is destination:
        return
    loops = nested_strides(registers)
    if loops is None:  # as many statements as registers, but right
        for start, origin in enumerate(registers):
            b.emit(ConvertRegisters(destination, b.const(start), source, b.const(origin), count=1))
        return
    count = loops[-1][0] if loops and loops[-1][1] == 1 else 1
    with ExitStack() as stack:
        to: Value = b.const(0)
        source_at: Value = b.const(registers[0])
        place = len(registers)
        for extent, stride in loops[:-1] if count > 1 else loops:
            place //= extent
            index = stack.enter_context(b.unrolled(extent, hint="r"))
            to = b.add(to, b.mul(index, place))
            source_at = b.add(source_at, b.mul(index, stride))
        b.emit(ConvertRegisters(destination, to, source, source_at, count=count))


def nested_strides(entries: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """(extent, stride) of loops, outermost first, in which `entries` come in order from the first
    on; None where there are none.
    """
    loops: list[tuple[int, int]] = []
    while len(entries) > 1:
        step = entries[1] - entries[0]
        extent = next(
            (
                n
                for n in range(len(entries), 1, -1)
                if len(entries) % n == 0 and _even(entries, n, step)
            ),
            None,
        )
        if extent is None:
            return None
        loops.insert(0, (extent, step))
        entries = entries[::extent]
    return tuple(loops)


def _even(entries: tuple[int, ...], extent: int, step: int) -> bool:
    """Whether every run of `extent` entries goes up by `step`."""
    return all(e - entries[i - i % extent] == i % extent * step for i, e in enumerate(entries))


# Shuffles ---------------------------------------------------------------------------------------


def _shuffle(op: ConvertLayout, lowering: Lowering, step: ShuffleStep) -> None:
    """One register of the result, in the lanes that take it from one register of the source."""
    b, lane = lowering.b, lowering.lane()
    source, destination = lowering.registers(op.tile), lowering.registers(op.result)
    value: Value = b.emit(Load(source, (b.const(step.src_register),))).result
    if step.moves:
        peer = b.add(add_up(b, step.terms, {"thread": lane}), step.base)
        value = b.emit(Shuffle(value, peer)).result
    width = min(lowering.context.target.warp_size, lowering.threads)
    with _in_lanes(lowering, lane, step.lanes, width):
        b.emit(Store(value, destination, (b.const(step.dst_register),)))


@contextmanager
def _in_lanes(lowering: Lowering, lane: Value, lanes: int, width: int) -> Iterator[None]:
    """Only in the lanes whose bits are set in `lanes`."""
    b = lowering.b
    if lanes == (1 << width) - 1:
        yield
        return
    word = u64 if width > 32 else u32
    shifted = b.shift_right(b.const(lanes, word), b.cast(lane, word))
    with b.when(b.compare("eq", b.bit_and(shifted, b.const(1, word)), b.const(1, word))):
        yield


# Shared memory ----------------------------------------------------------------------------------


def _through_shared(op: ConvertLayout, lowering: Lowering) -> None:
    b = lowering.b
    tile = tile_type(op.result)
    name = op.tile.hint or "a tile"
    lowering.context.remark(
        Remark(
            "TLC0424",
            f"{name} goes through shared memory from one layout to another"
            + (", in a loop" if lowering.loops else ""),
            op.loc,
            warning=lowering.loops > 0,
        )
    )
    pad = BANK_SHIFT_BYTES * 8 // tile.dtype.bits
    own = f"{name}_exchange" if op.tile.hint else "exchange"
    memory = b.exchange_buffer(tile.dtype, tile.shape, own, pad)
    lowering.barrier()  # the last round's reads are over
    source = lowering.layout(op.tile)
    first = primary(b, source, lowering.thread())
    if first is None:
        _move(lowering, source, lowering.registers(op.tile), memory, store=True)
    else:
        with b.when(first):
            _move(lowering, source, lowering.registers(op.tile), memory, store=True)
    lowering.barrier()
    wanted = lowering.layout(op.result)
    _move(lowering, wanted, lowering.registers(op.result), memory, store=False)


def _move(
    lowering: Lowering, layout: RegisterLayout, registers: Value, memory: Value, *, store: bool
) -> None:
    """All registers of this thread to or from the exchange buffer, in vectors of the layout's
    width.
    """
    b = lowering.b
    type_ = memory.type
    assert isinstance(type_, MemoryType) and type_.layout is not None
    width = min(layout.vector_width(), type_.layout.vector_width(), VECTOR_BITS // type_.dtype.bits)
    with register_loops(b, layout, width) as register:
        indices = coordinates(b, layout, lowering.thread(), register)
        if store:
            b.emit(VectorStore(memory, indices, registers, register, (), count=width))
        else:
            b.emit(VectorLoad(registers, register, memory, indices, (), count=width))
