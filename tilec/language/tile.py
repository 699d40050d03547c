"""Tile statements: `T.copy`, `T.fill`, `T.clear`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..errors import LanguageError
from ..ir.build import scalar
from ..ir.core import Block, Value, constant, constant_of
from ..ir.dtypes import i32
from ..ir.ops.control import For, Yield
from ..ir.ops.memory import Alloc
from ..ir.ops.tile import Copy, Fill
from ..ir.types import MemoryType, Space
from .areas import Area, area_of, in_memory, paired_areas
from .buffers import Buffer, name_buffer, stored_value
from .four_bits import check_region
from .linear import difference
from .nests import each_in_parallel, store_to_part
from .operand import convert
from .reshape import Reshaped, view
from .trace import Trace, current, refuse


def copy(
    src: Any,
    dst: Any,
    *,
    coalesced_width: int | None = None,
    disable_tma: bool = False,
    eviction_policy: str | None = None,
    prefer_instruction: str | None = None,
    annotations: Any = None,
    loop_layout: Any = None,
) -> None:
    """Copies a tile between two memories, converting the dtype; or within one, as if all of it were
    read before any is written.

    Args:
        src, dst: a buffer, a region `A[i : i + 64, k]`, or an element `A[i, j]` as the start
            address, the other side giving the extents. Dimensions of extent 1 are skipped where the
            two sides, or the start address and the extents, have not as many.
        coalesced_width, disable_tma, eviction_policy, prefer_instruction: hints on how it is done;
            they change no result, and tilec decides by itself.

    Raises:
        LanguageError: shapes that differ, an extent that is not a compile-time number.
    """
    trace = current("T.copy")
    if annotations or loop_layout is not None:
        raise refuse("TLC0117", "T.copy takes no annotations or layouts", hint="leave them out")
    trace.need_launch("T.copy")
    with trace.here():
        source, target = paired_areas(trace, "T.copy", src, dst)
        if source.buffer.elements == target.buffer.elements:
            source, target = replace(source, bits=True), replace(target, bits=True)
        if Space.LOCAL in (source.buffer.type.space, target.buffer.type.space):
            _copy_by_thread(trace, source, target)
            return
        trace.need_tile_level("T.copy")
        if isinstance(target.buffer, Reshaped) and target.buffer.shares > 1 and target.whole:
            _copy_parts(trace, source, target.buffer)
            return
        if isinstance(source.buffer, Reshaped) or isinstance(target.buffer, Reshaped):
            _copy_elements(trace, source, target)
            return
        if Space.FRAGMENT in (source.buffer.type.space, target.buffer.type.space):
            copy_fragment(trace, source, target)
        elif _overlap(trace, source, target):
            dims = source.kept or (len(source.indices) - 1,)
            copy(in_fragment(trace, source, dims), target)
        else:
            _emit_copy(
                trace,
                source,
                target,
                source.shape or (1,),
                source.kept or (len(source.indices) - 1,),
                target.kept or (len(target.indices) - 1,),
            )


def _overlap(trace: Trace, source: Area, target: Area) -> bool:
    """Whether an element that is read may be written with another one: all are read before then."""
    if source.memory is not target.memory:
        return False
    same = source.kept == target.kept
    for d, (first, second) in enumerate(zip(source.indices, target.indices, strict=True)):
        read, written = (source.extents or ())[d], (target.extents or ())[d]
        distance = difference(second, first, trace.definitions)
        if distance is None:
            same = same and read == written == 1  # the same row, or apart
        elif distance >= read or -distance >= written:
            return False
        else:
            same = same and distance == 0
    return not same


def _emit_copy(
    trace: Trace,
    source: Area,
    target: Area,
    shape: tuple[int, ...],
    source_dims: tuple[int, ...],
    target_dims: tuple[int, ...],
) -> None:
    check_region(source.buffer.type, source.indices, source_dims, shape)
    check_region(target.buffer.type, target.indices, target_dims, shape)
    trace.builder.emit(
        Copy(
            source.memory,
            source.indices,
            target.memory,
            target.indices,
            (),
            shape=shape,
            source_dims=source_dims,
            destination_dims=target_dims,
            safe_value=trace.safe_value(source.memory),
        )
    )


def copy_fragment(trace: Trace, source: Area, target: Area) -> None:
    """A copy of a fragment, all of whose dimensions take part, those of extent 1 too: of a region
    of the same rank, or element by element.
    """
    if source.extents == target.extents:
        dims = tuple(range(len(source.indices)))
        _emit_copy(trace, source, target, source.extents or (), dims, dims)
        return
    whole = [
        len(area.kept) == len(area.indices)
        for area in (source, target)
        if area.buffer.type.space is Space.FRAGMENT
    ]
    if all(whole):
        _emit_copy(trace, source, target, source.shape, source.kept, target.kept)
        return
    _copy_elements(trace, source, target)


def _copy_parts(trace: Trace, source: Area, target: Reshaped) -> None:
    """All elements of a view that are parts of its buffer's: joined in registers, since none can be
    written by itself.
    """
    shape = tuple(int(d) for d in target.type.shape)
    alloc = Alloc(type=MemoryType(target.type.dtype, shape, Space.FRAGMENT))
    value = trace.builder.emit(alloc).result
    parts = Buffer(value, trace.region, target.name, target.elements)
    copy(source, parts)
    copy(view(parts, target.source.type.shape, target.source.dtype), target.source)


def _copy_elements(trace: Trace, source: Area, target: Area) -> None:
    each_in_parallel(
        trace, source.shape, lambda indices: _move_element(trace, source, target, indices)
    )


def _move_element(trace: Trace, source: Area, target: Area, indices: tuple[Value, ...]) -> None:
    """One element of a copy, converted."""
    value = convert(source.load(trace, indices), target.buffer.type.dtype)
    target.store(trace, indices, value)


def in_fragment(trace: Trace, area: Area, dims: tuple[int, ...]) -> Buffer:
    """A fragment of its own that holds a region along some dimensions; it has extent 1 along all
    others.
    """
    buffer = area.buffer
    shape = tuple((area.extents or ())[d] for d in dims)
    type_ = MemoryType(buffer.type.dtype, shape, Space.FRAGMENT)
    value = trace.builder.emit(Alloc(type=type_)).result
    part = Buffer(value, trace.region, elements=buffer.elements)
    name_buffer(part, buffer.name)
    copy(area, part)
    return part


def _copy_by_thread(trace: Trace, source: Area, target: Area) -> None:
    """A copy that each thread does for itself, element by element."""
    for area in (source, target):
        if area.buffer.type.space is Space.FRAGMENT:
            raise LanguageError(
                "TLC0119",
                "T.copy between a fragment and a thread's own memory",
                hint="by way of shared memory; or make both fragments: T.alloc_fragment",
            )

    each_in_series(
        trace, source.shape, lambda indices: _move_element(trace, source, target, indices)
    )


def each_in_series(
    trace: Trace,
    shape: tuple[int, ...],
    body: Callable[[tuple[Value, ...]], None],
    kind: str = "serial",
) -> None:
    """`body` for every index of `shape`, in loops of a thread."""

    def level(indices: tuple[Value, ...]) -> None:
        if len(indices) == len(shape):
            body(indices)
            return
        index = scalar(i32, "ijkl"[len(indices)] if len(indices) < 4 else "i")
        with trace.builder.region() as ops:
            level((*indices, index))
        bounds = (constant(0, i32), constant(shape[len(indices)], i32), constant(1, i32))
        trace.builder.emit(For(*bounds, (), Block((index,), (*ops, Yield(()))), kind=kind))

    level(())


def fill(buffer: Any, value: Any) -> None:
    """Sets every element of a buffer, or of a region of one, to `value`.

    Raises:
        LanguageError: no buffer, or an extent that is known only at run time.
    """
    trace = current("T.fill")
    trace.need_launch("T.fill")
    with trace.here():
        area = in_memory(trace, area_of(trace, "T.fill", buffer), shaped=False)
        stored = stored_value(value, area.buffer.elements)
        area = replace(area, bits=True)
        if area.extents is None:
            raise LanguageError(
                "TLC0117", "T.fill of one element", hint="assign it: A[i, j] = value"
            )

        def write(indices: tuple[Value, ...]) -> None:
            area.store(trace, indices, stored)

        if area.buffer.type.space is Space.LOCAL:
            each_in_series(trace, area.shape, write)
            return
        trace.need_tile_level("T.fill")
        if area.whole and not isinstance(area.buffer, Reshaped):
            trace.builder.emit(Fill(area.memory, stored))
            return
        known = None not in map(constant_of, area.indices)
        if area.buffer.type.space is Space.FRAGMENT and known:
            store_to_part(trace, area.memory, area.indices, area.extents, stored)
            return
        each_in_parallel(trace, area.shape, write)


def clear(buffer: Any) -> None:
    """Sets every element of a buffer, or of a region of one, to 0."""
    fill(buffer, 0)
