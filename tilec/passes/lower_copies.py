"""Copies between memories, and fills: TMA boxes, cp.async, buffer_copy, or vectors through
registers.

A copy is spread over the role's threads in vectors, consecutive threads along the inner dimension.
TMA copies are one thread's: they stand under its condition already.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ..errors import LayoutConflict
from ..ir.core import Value, constant_of
from ..ir.layout import SharedLayout, TmaBoxes, blocked, filled_by_waves, tma_boxes
from ..ir.ops.amd import COPY_BYTES, BufferCopy
from ..ir.ops.memory import Flatten, Load, Slot, Store, memory_type
from ..ir.ops.nvidia import CP_ASYNC_BYTES, CpAsync, TensorMap, TmaLoad, TmaStore
from ..ir.ops.thread import ConvertRegisters, FillRegisters, VectorStore
from ..ir.ops.tile import Copy, Fill
from ..ir.types import MemoryType, Space
from .clusters import sharers
from .coordinates import (
    add_up,
    both,
    coordinates,
    extent_value,
    guard,
    predicate_of,
    shifted,
    truth_of,
)
from .thread_copies import buffer_copies
from .vector_access import is_zeros

if TYPE_CHECKING:
    from .lower_tiles import Lowering

NOWHERE: Mapping[int, Value] = {}
UNROLL_LIMIT = 16  # iterations of a copy that are unrolled in full
BYTES_IN_FLIGHT = 64  # of a thread where there are more iterations


def lower_copy(op: Copy, lowering: Lowering) -> None:
    """A copy by its instruction; what that cannot do goes through registers."""
    source = memory_type(op.source)
    if op.instruction == "tma" and (op.barrier or source.space is Space.SHARED):
        _by_tma(op, lowering)
    elif op.instruction == "cp_async" and _cp_async_width(op, lowering):
        _by_cp_async(op, lowering, _cp_async_width(op, lowering))
    elif op.instruction == "buffer_copy":
        _by_buffer_copy(op, lowering)
    else:
        _through_registers(op, lowering)


# The copy engine ----------------------------------------------------------------------------------


def _by_tma(op: Copy, lowering: Lowering) -> None:
    """The boxes of a tile; of one that several blocks of a cluster share this block's part of each,
    for all of them. Where boxes cannot be cut one block brings them whole.
    """
    b = lowering.b
    load = memory_type(op.source).space is Space.GLOBAL
    tile, indices = (
        (op.destination, op.destination_indices) if load else (op.source, op.source_indices)
    )
    start = lowering.values(indices)
    boxes = _boxes(op, tile, start, lowering)
    if not op.multicast:
        _move_boxes(op, lowering, start, boxes)
        return
    number, mask = lowering.share(op.multicast)
    cut = boxes.cut(sharers(lowering.cluster, op.multicast))
    if cut is None:
        with b.when(b.compare("eq", number, 0)):
            _move_boxes(op, lowering, start, boxes, (mask,))
        return
    dim, part = cut
    _move_boxes(op, lowering, start, part, (mask,), {dim: b.mul(number, part.box[dim])})


def _move_boxes(
    op: Copy,
    lowering: Lowering,
    start_in_tile: Sequence[Value],
    boxes: TmaBoxes,
    mask: tuple[Value, ...] = (),
    first: Mapping[int, Value] = NOWHERE,
) -> None:
    """One copy a box, from `first` on in the region, to every block of the mask."""
    b = lowering.b
    load = memory_type(op.source).space is Space.GLOBAL
    tile, tensor = (op.destination, op.source) if load else (op.source, op.destination)
    indices, dims = (
        (op.source_indices, op.source_dims)
        if load
        else (op.destination_indices, op.destination_dims)
    )
    box = [1] * len(memory_type(tensor).shape)
    for dim, extent in zip(dims, boxes.box, strict=True):
        box[dim] = extent
    clipped = tuple(dims[dim] for dim in op.clipped)
    tensor_map = b.emit(
        TensorMap(lowering.value(tensor), box=tuple(box), swizzle=boxes.span, clipped=clipped)
    ).result
    tensor_map.hint = f"{tensor.hint}_map"
    start = lowering.values(indices)
    shared = lowering.value(tile)
    with _each_box(lowering, boxes) as box_corner:
        corner = tuple(b.add(x, first[d]) if d in first else x for d, x in enumerate(box_corner))
        at = list(start)
        for dim, offset in zip(dims, corner, strict=True):
            at[dim] = b.add(start[dim], offset)
        coords = tuple(reversed(at))
        place = tuple(b.add(i, offset) for i, offset in zip(start_in_tile, corner, strict=True))
        if load:
            barriers, slot = lowering.values(op.barrier)
            b.emit(TmaLoad(shared, place, tensor_map, barriers, slot, coords, mask))
        else:
            b.emit(TmaStore(tensor_map, shared, place, coords))


def _boxes(op: Copy, tile: Value, start: Sequence[Value], lowering: Lowering) -> TmaBoxes:
    """The boxes of a shared tile, or of a part of it. Raises LayoutConflict where its layout has
    none.
    """
    type_ = memory_type(tile)
    boxes = tma_boxes(type_.layout, type_.dtype.bits) if type_.layout is not None else None
    if boxes is None:
        raise LayoutConflict(
            "TLC0432",
            f"the layout of {tile.hint or 'a tile'} is not one that the copy engine can write",
            hint="leave the layout to the compiler, or use a swizzle of 32, 64 or 128 bytes",
        )
    for index, extent, whole in zip(start, op.shape, type_.shape, strict=True):
        if extent == whole:
            assert constant_of(index) == 0, "a tile starts where it starts"
        else:
            assert lowering.b.is_multiple(index, extent), "a part starts at multiples of its shape"
    part = boxes.part(op.shape)
    assert part is not None, "a part of a tile is boxes of it, or rows of them"
    return part


@contextmanager
def _each_box(lowering: Lowering, boxes: TmaBoxes) -> Iterator[tuple[Value, ...]]:
    """Loops over the boxes; gives the coordinates in the tile at which one starts."""
    b = lowering.b
    several = [dim for dim, count in enumerate(boxes.counts) if count > 1]
    corner: list[Value] = [b.const(0)] * len(boxes.box)
    if not several:
        yield tuple(corner)
        return
    count = math.prod(boxes.counts)
    with b.unrolled(count, hint="box") as box:
        rest = box
        for dim in reversed(several):
            inner = rest if dim == several[0] else b.floormod(rest, boxes.counts[dim])
            rest = b.floordiv(rest, boxes.counts[dim])
            corner[dim] = b.mul(inner, boxes.box[dim])
        yield tuple(corner)


# cp.async -----------------------------------------------------------------------------------------


def _cp_async_width(op: Copy, lowering: Lowering) -> int:
    """Elements that one cp.async may move; 0 where it cannot do this copy."""
    source, destination = memory_type(op.source), memory_type(op.destination)
    fits = (
        lowering.context.target.async_copy
        and source.dtype == destination.dtype
        and (source.space, destination.space) == (Space.GLOBAL, Space.SHARED)
        and is_zeros(op.safe_value)
    )
    if not fits:
        return 0
    width = _copy_width(op, lowering)
    legal = width * source.dtype.bytes in CP_ASYNC_BYTES
    return width if legal and lowering.access.whole(lowering.value(op.source), width) else 0


def _by_cp_async(op: Copy, lowering: Lowering, width: int) -> None:
    b = lowering.b
    source, destination = lowering.value(op.source), lowering.value(op.destination)
    size = width * memory_type(source).dtype.bytes
    with spread(lowering, op.shape, width) as place:
        at = shifted(b, lowering.values(op.source_indices), op.source_dims, place)
        to = shifted(b, lowering.values(op.destination_indices), op.destination_dims, place)
        inside = predicate_of(guard(b, source, at))
        b.emit(CpAsync(destination, to, source, at, inside, size=size))


# Buffers ------------------------------------------------------------------------------------------


def _by_buffer_copy(op: Copy, lowering: Lowering) -> None:
    """Every wave fills pieces of 1024 bytes of the buffer in turn. What lies at a lane's place there
    is told by the layout backwards: the swizzle chooses what a lane fetches, within the wave's piece.
    """
    b = lowering.b
    source, destination = lowering.value(op.source), lowering.value(op.destination)
    type_ = memory_type(destination)
    layout = type_.layout or SharedLayout.row_major(op.shape)
    assert filled_by_waves(layout, type_.dtype.bits), f"waves cannot fill {layout}"
    view = lowering.access.buffer(source)
    assert view is not None, "choose_instructions has asked for the size of the tensor"
    width = COPY_BYTES // type_.dtype.bytes
    wave = lowering.context.target.warp_size
    place, swizzle = b.mul(lowering.lane(), width), layout.swizzle
    if swizzle.bits:
        moved = b.bit_and(b.shift_right(place, swizzle.shift), swizzle.mask)
        place = b.bit_xor(place, moved)
    flat = b.emit(Flatten(destination)).result
    with b.unrolled(buffer_copies(op, lowering.threads)) as i:
        piece = b.mul(
            b.add(b.mul(i, lowering.threads // wave), lowering.uniform_warp()), wave * width
        )
        offset = b.add(piece, place)
        inside = [
            add_up(b, layout.coordinate_terms(dim), {0: offset}) for dim in range(layout.rank)
        ]
        at = shifted(b, lowering.values(op.source_indices), op.source_dims, inside)
        condition = guard(b, source, at)
        for exists in lowering.values(op.predicate):
            condition = both(b, condition, exists)
        b.emit(BufferCopy(flat, (piece,), view, at, truth_of(condition), count=width))


# Registers ----------------------------------------------------------------------------------------


def _through_registers(op: Copy, lowering: Lowering) -> None:
    b = lowering.b
    source, destination = lowering.value(op.source), lowering.value(op.destination)
    source_dtype, dtype = memory_type(source).dtype, memory_type(destination).dtype
    width = _run_width(op, lowering)
    own = Space.LOCAL in (memory_type(source).space, memory_type(destination).space)
    by = min(UNROLL_LIMIT, BYTES_IN_FLIGHT // (width * source_dtype.bytes))
    # Not all at once where each element takes a register, or a pipeline's tiles are live beside.
    narrow = width > _copy_width(op, lowering)
    pipelined = isinstance(lowering.definition(op.destination), Slot)
    limit = by if narrow or pipelined else UNROLL_LIMIT
    visit = _alone(lowering, op.shape) if own else spread(lowering, op.shape, width, limit, by)
    with visit as place:
        at = shifted(b, lowering.values(op.source_indices), op.source_dims, place)
        to = shifted(b, lowering.values(op.destination_indices), op.destination_dims, place)
        if width == 1:
            inside = predicate_of(guard(b, source, at))
            element = b.emit(
                Load(source, at, inside, safe_value=op.safe_value, in_bounds=True)
            ).result
            kept = predicate_of(guard(b, destination, to))
            b.emit(Store(b.cast(element, dtype), destination, to, kept, in_bounds=True))
            return
        zero = b.const(0)
        registers = lowering.scratch(source_dtype, width, "moved")
        lowering.access.load(registers, zero, source, at, width, safe_value=op.safe_value)
        if dtype != source_dtype:
            converted = lowering.scratch(dtype, width, "converted")
            b.emit(ConvertRegisters(converted, zero, registers, zero, count=width))
            registers = converted
        lowering.access.store(destination, to, registers, zero, width)


def _copy_width(op: Copy, lowering: Lowering) -> int:
    """Consecutive elements that both sides can move at once along the region's last dimension."""
    return min(_widths(op, lowering))


def _run_width(op: Copy, lowering: Lowering) -> int:
    """Consecutive elements that a thread copies together. Of a tensor that is read element by
    element they are what shared memory takes at once: they have one address and one store.
    """
    into_shared = memory_type(op.destination).space is Space.SHARED
    from_tensor = memory_type(op.source).space is Space.GLOBAL
    widths = _widths(op, lowering)
    return max(widths) if into_shared and from_tensor else min(widths)


def _widths(op: Copy, lowering: Lowering) -> tuple[int, int]:
    """Consecutive elements that the source and the destination give and take at once."""
    widths = []
    for memory, indices, dims in (
        (op.source, op.source_indices, op.source_dims),
        (op.destination, op.destination_indices, op.destination_dims),
    ):
        type_ = memory_type(memory)
        if not dims or dims[-1] != len(type_.shape) - 1:
            return 1, 1
        run = op.shape[-1]
        widths.append(lowering.access.width(lowering.value(memory), lowering.values(indices), run))
    return widths[0], widths[1]


# Spreading over threads ---------------------------------------------------------------------------


@contextmanager
def spread(
    lowering: Lowering,
    shape: Sequence[int],
    vector: int,
    limit: int = UNROLL_LIMIT,
    by: int = 4,
) -> Iterator[tuple[Value, ...]]:
    """Loops in which the role's threads visit every run of `vector` elements once; its start.
    Loops of more than `limit` iterations are unrolled `by` at a time.
    """
    b, thread = lowering.b, lowering.thread()
    if not shape:
        with b.when(b.compare("eq", thread, 0)):
            yield ()
        return
    runs = math.prod(shape) // vector
    layout = blocked(shape, lowering.threads, vector)
    if layout.replication == 1:
        with b.unrolled(runs // lowering.threads, limit=limit, by=by) as i:
            yield coordinates(b, layout, thread, b.mul(i, vector))
        return
    count = -(-runs // lowering.threads)
    with b.unrolled(count, limit=limit, by=by) as i:
        number = b.add(thread, b.mul(i, lowering.threads))
        inside = b.compare("lt", number, runs)
        if b.range_of(number).high < runs:
            inside = b.compare("eq", 0, 0)
        with b.when(inside), b.assuming(inside):
            yield _unravelled(lowering, number, shape, vector)


@contextmanager
def _alone(lowering: Lowering, shape: Sequence[int]) -> Iterator[tuple[Value, ...]]:
    """Loops in which every thread visits all elements by itself: one side is its own array."""
    with ExitStack() as stack:
        yield tuple(stack.enter_context(lowering.b.unrolled(extent)) for extent in shape)


def _unravelled(
    lowering: Lowering, number: Value, shape: Sequence[int], vector: int
) -> tuple[Value, ...]:
    """The coordinates of run `number` in row-major order."""
    b = lowering.b
    found: list[Value] = []
    extents = [*shape[:-1], shape[-1] // vector]
    for position, extent in reversed(list(enumerate(extents))):
        found.insert(0, b.floormod(number, extent) if position else number)
        number = b.floordiv(number, extent)
    return (*found[:-1], b.mul(found[-1], vector))


# Fill ---------------------------------------------------------------------------------------------


def lower_fill(op: Fill, lowering: Lowering) -> None:
    """Every element set: by all threads together, or in local memory by each."""
    type_ = memory_type(op.memory)
    if type_.space is Space.LOCAL:
        _fill_local(op, lowering)
    elif any(not isinstance(d, int) for d in type_.shape):
        _fill_tensor(op, lowering)
    else:
        _fill_spread(op, lowering, type_)


def _fill_local(op: Fill, lowering: Lowering) -> None:
    memory, value = lowering.value(op.memory), lowering.value(op.value)
    b = lowering.b
    shape = [int(d) for d in memory_type(memory).shape]
    if len(shape) == 1:
        b.emit(FillRegisters(memory, b.const(0), value, count=shape[0]))
        return
    places = itertools.product(*(range(n) for n in shape))
    if math.prod(shape) > UNROLL_LIMIT:
        rows = lowering.b.emit(Flatten(memory)).result
        b.emit(FillRegisters(rows, b.const(0), value, count=math.prod(shape)))
        return
    for place in places:
        b.write(value, memory, *(b.const(i) for i in place))


def _fill_tensor(op: Fill, lowering: Lowering) -> None:
    """A tensor whose extents the launch knows, one element a thread at a time."""
    memory, value = lowering.value(op.memory), lowering.value(op.value)
    b = lowering.b
    type_ = memory_type(memory)
    extents = [extent_value(b, dim) for dim in type_.shape]
    count = functools.reduce(b.mul, extents, b.value(1))
    if type_.strides is None:
        memory = b.emit(Flatten(memory)).result
        extents = [count]
    with b.loop(lowering.thread(), count, lowering.threads) as index:
        place: list[Value] = []
        for extent in reversed(extents[1:]):
            place.append(b.floormod(index, extent))
            index = b.floordiv(index, extent)
        b.write(value, memory, index, *reversed(place))


def _fill_spread(op: Fill, lowering: Lowering, type_: MemoryType) -> None:
    memory, value = lowering.value(op.memory), lowering.value(op.value)
    b = lowering.b
    shape = tuple(int(d) for d in type_.shape)
    zero = b.const(0)
    origin = tuple(zero for _ in shape)
    width = lowering.access.width(memory, origin, shape[-1]) if shape else 1
    if width == 1:
        with spread(lowering, shape, 1) as place:
            b.write(value, memory, *place)
        return
    array = lowering.scratch(type_.dtype, width, "fill")
    b.emit(FillRegisters(array, zero, value, count=width))
    with spread(lowering, shape, width) as place:
        b.emit(VectorStore(memory, place, array, zero, (), count=width))
