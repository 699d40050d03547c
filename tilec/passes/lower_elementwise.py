"""Elementwise ops on tiles, and moves between tiles: loops over registers, unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import LayoutConflict
from ..ir.bits import joined, part_of
from ..ir.core import Op, Value
from ..ir.dtypes import ELEMENTS
from ..ir.layout import RegisterLayout
from ..ir.ops.arith import Cast, Elementwise, element_dtype
from ..ir.ops.thread import ConvertRegisters, FillRegisters, UndefinedRegisters
from ..ir.ops.tile import (
    ExtractTile,
    InsertTile,
    PackTile,
    RegroupTile,
    ReshapeTile,
    Splat,
    Undefined,
    UnpackTile,
)
from .coordinates import apply_map
from .dependence import is_tile
from .nibbles import packed, unpacked

if TYPE_CHECKING:
    from .lower_tiles import Lowering


def lower_elementwise(op: Elementwise, lowering: Lowering) -> None:
    """Register by register; whole conversions at once."""
    b = lowering.b
    layout = lowering.layout(op.result)
    for value in op.inputs:
        assert not is_tile(value) or lowering.layout(value) == layout, f"{op.name} of two layouts"
    count = layout.registers
    result = lowering.registers(op.result)
    if isinstance(op, Cast) and op.x not in lowering.splats and element_dtype(op.x).kind != "bool":
        zero = b.const(0)
        words = lowering.is_multiplied(op.result)
        source = lowering.registers(op.x)
        b.emit(ConvertRegisters(result, zero, source, zero, count=count, words=words))
        return
    with b.unrolled(count, hint="r") as register:

        def element(value: Value) -> Value:
            if value in lowering.splats:
                return lowering.splats[value]
            if not is_tile(value):
                return lowering.value(value)
            return b.read(lowering.registers(value), register)

        scalar = b.pure(_scalar(op, [element(v) for v in op.inputs]))
        b.write(scalar, result, register)


def _scalar(op: Elementwise, operands: Sequence[Value]) -> Elementwise:
    """The op on one element of each operand."""
    elements = iter(operands)
    values = {
        name: next(elements) if kind == "operand" else getattr(op, name) for name, kind in op.fields
    }
    new: Op = type(op).build(values, op)
    assert isinstance(new, Elementwise)
    return new


def lower_splat(op: Splat, lowering: Lowering) -> None:
    """All registers set. Elementwise users take the scalar itself."""
    b, value = lowering.b, lowering.value(op.value)
    lowering.splats[op.result] = value
    count = lowering.layout(op.result).registers
    b.emit(FillRegisters(lowering.registers(op.result), b.const(0), value, count=count))


def lower_undefined(op: Undefined, lowering: Lowering) -> None:
    """In a loop, word that the registers' last contents are not needed; else nothing at all."""
    if lowering.loops:
        count = lowering.layout(op.result).registers
        zero = lowering.b.const(0)
        lowering.b.emit(UndefinedRegisters(lowering.registers(op.result), zero, count=count))


def lower_insert(op: InsertTile, lowering: Lowering) -> None:
    """Some registers of the result, which holds `into` already, take those of the tile."""
    whole, part = lowering.layout(op.result), lowering.layout(op.tile)
    extents = part.shape
    numbers = _selected(op, whole, part, op.offsets, extents)
    move_registers(
        lowering, lowering.registers(op.result), numbers, lowering.registers(op.tile), None
    )


def lower_extract(op: ExtractTile, lowering: Lowering) -> None:
    """Some registers of the tile."""
    whole, part = lowering.layout(op.tile), lowering.layout(op.result)
    numbers = _selected(op, whole, part, op.offsets, op.shape)
    move_registers(
        lowering, lowering.registers(op.result), None, lowering.registers(op.tile), numbers
    )


def _selected(
    op: Op,
    whole: RegisterLayout,
    part: RegisterLayout,
    offsets: Sequence[int],
    extents: Sequence[int],
) -> tuple[int, ...]:
    """For each register of a region's layout, the register of the whole that it is."""
    layout, numbers = whole, tuple(range(whole.registers))
    for dim, (start, extent) in enumerate(zip(offsets, extents, strict=True)):
        found = layout.slice_registers(dim, start, extent)
        if found is None:
            raise LayoutConflict(
                "TLC0435",
                f"{op.name} takes a region that other threads hold a part of",
                hint="take whole rows or columns of threads, or go through shared memory",
            )
        layout, chosen = found
        numbers = tuple(numbers[r] for r in chosen)
    assert layout == part, f"{op.name}: {part} is not the region's layout {layout}"
    return numbers


def lower_reshape(op: ReshapeTile, lowering: Lowering) -> None:
    """The same registers, copied where both tiles are needed."""
    if lowering.registers(op.result) is not lowering.registers(op.tile):
        lowering.copy_registers(op.result, op.tile)


def lower_regroup(op: RegroupTile, lowering: Lowering) -> None:
    """Each register cut into several, or made of them."""
    b, source, target = lowering.b, lowering.registers(op.tile), lowering.registers(op.result)
    larger = op.result if op.joins else op.tile
    with b.unrolled(lowering.layout(larger).registers, hint="r") as register:
        places = [b.add(b.mul(register, op.parts), number) for number in range(op.parts)]
        if op.joins:
            parts = [b.read(source, place) for place in places]
            b.write(joined(b, parts, op.dtype), target, register)
            return
        whole = b.read(source, register)
        for number, place in enumerate(places):
            part = part_of(b, whole, number, op.dtype)
            b.write(part, target, place)


def lower_unpack(op: UnpackTile, lowering: Lowering) -> None:
    """Each byte's halves to two registers."""
    b, pairs = lowering.b, lowering.registers(op.tile)
    dtype = ELEMENTS[element_dtype(op.tile)]
    with b.unrolled(lowering.layout(op.tile).registers, hint="r") as register:
        pair = b.read(pairs, register)
        for half in (0, 1):
            place = b.add(b.mul(register, 2), half)
            part = unpacked(b, pair, half, dtype)
            b.write(part, lowering.registers(op.result), place)


def lower_pack(op: PackTile, lowering: Lowering) -> None:
    """Two registers to a byte."""
    b, elements = lowering.b, lowering.registers(op.tile)
    with b.unrolled(lowering.layout(op.result).registers, hint="r") as register:
        places = (b.add(b.mul(register, 2), half) for half in (0, 1))
        first, second = (b.read(elements, place) for place in places)
        pair = packed(b, first, second, op.dtype)
        b.write(pair, lowering.registers(op.result), register)


def move_registers(
    lowering: Lowering,
    destination: Value,
    to: Sequence[int] | None,
    source: Value,
    of: Sequence[int] | None,
) -> None:
    """destination[to[i]] = source[of[i]] for all i, in runs, by unrolled loops; None stands for i
    itself.
    """
    numbers = tuple(to if to is not None else of or ())
    b = lowering.b
    run = _run_length(numbers)
    heads = numbers[::run]
    with b.unrolled(len(heads), hint="r") as index:
        own, other = b.mul(index, run), apply_map(b, index, heads)
        there, here = (other, own) if to is not None else (own, other)
        b.emit(ConvertRegisters(destination, there, source, here, count=run))


def _run_length(numbers: Sequence[int]) -> int:
    """The longest run of consecutive numbers into which all of them can be cut."""
    size = len(numbers)
    for run in sorted((n for n in range(1, size + 1) if size % n == 0), reverse=True):
        if all(numbers[i] == numbers[i - i % run] + i % run for i in range(size)):
            return run
    return 1
