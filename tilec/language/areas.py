"""What the arguments of tile statements name: a whole buffer, a region of one, a start address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import LanguageError
from ..ir.core import Value, constant, constant_of
from ..ir.dtypes import i32
from ..ir.ops.arith import Add
from ..ir.ops.memory import Load, Slot, Store
from ..ir.types import Space
from .arithmetic import narrowed
from .buffers import Buffer, Element, Slice, index_value
from .linear import difference
from .operand import convert, value_of, wrap
from .reshape import Reshaped
from .trace import Trace


@dataclass(frozen=True)
class Area:
    """One side of a copy. `extents` is None for an element, which is a start address."""

    buffer: Buffer
    indices: tuple[Value, ...]
    extents: tuple[int, ...] | None
    bits: bool = False  # the bits of elements are moved, whatever they mean

    @property
    def memory(self) -> Value:
        return self.buffer.handle(bits=self.bits)

    def load(self, trace: Trace, offsets: tuple[Value, ...]) -> Value:
        """The element at `offsets` along the area's shape."""
        place = shifted(trace, self, offsets)
        if isinstance(self.buffer, Reshaped):
            return value_of(self.buffer[tuple(wrap(trace, i) for i in place)])
        op = Load(self.memory, place, safe_value=trace.safe_value(self.memory))
        return trace.builder.emit(op).result

    def store(self, trace: Trace, offsets: tuple[Value, ...], value: Value) -> None:
        """Sets that element."""
        place = shifted(trace, self, offsets)
        if isinstance(self.buffer, Reshaped):
            self.buffer[tuple(wrap(trace, i) for i in place)] = wrap(trace, value)
        else:
            trace.builder.emit(Store(value, self.memory, place))

    @property
    def whole(self) -> bool:
        """Whether it is all of its buffer."""
        starts = map(constant_of, self.indices)
        return self.extents == self.buffer.type.shape and not any(n != 0 for n in starts)

    @property
    def kept(self) -> tuple[int, ...]:
        """The dimensions along which it has more than one element."""
        return tuple(d for d, n in enumerate(self.extents or ()) if n != 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents along those."""
        return tuple((self.extents or ())[d] for d in self.kept)


def area_of(trace: Trace, what: str, x: Any) -> Area:
    if isinstance(x, Area):
        return x
    if isinstance(x, Element):
        return Area(x.buffer, tuple(map(narrowed, x.indices)), None)
    if isinstance(x, Buffer):
        zeros = tuple(constant(0, i32) for _ in x.type.shape)
        extents = tuple(_static(x, dim) for dim in x.type.shape)
        return Area(x, zeros, extents)
    if isinstance(x, Slice):
        return region_area(trace, x)
    raise LanguageError(
        "TLC0117",
        f"{what} takes a buffer, a region of one or an element of one, not {x!r}",
        hint="T.fill(B, 3) gives every element a value",
    )


def _static(buffer: Buffer, dim: int | str) -> int:
    if isinstance(dim, int):
        return dim
    raise LanguageError(
        "TLC0117",
        f"the extent {dim} of {buffer.label} is known only at run time: a tile has a fixed shape",
        hint=f"give the start, {buffer.name or 'A'}[{', '.join('ijklmnop'[: buffer.ndim])}], where another "
        "side gives the extents, or a region: i : i + 64",
    )


def region_area(trace: Trace, region: Slice) -> Area:
    indices: list[Value] = []
    extents: list[int] = []
    buffer = region.buffer
    for d, (key, dim) in enumerate(zip(region.keys, buffer.type.shape, strict=True)):
        if not isinstance(key, slice):
            indices.append(narrowed(index_value(buffer, d, key)))
            extents.append(1)
            continue
        if key.step is not None and not (isinstance(key.step, int) and key.step == 1):
            raise LanguageError(
                "TLC0117",
                f"a slice of {buffer.label} has a step",
                hint="for each n-th element a T.Parallel nest: B[i] = A[start + i * step]",
            )
        first = 0 if key.start is None else key.start
        indices.append(narrowed(index_value(buffer, d, first)))
        extents.append(_extent(trace, buffer, d, dim, value_of(first), key.stop))
    return Area(buffer, tuple(indices), tuple(extents))


def _extent(
    trace: Trace, buffer: Buffer, dimension: int, dim: int | str, start: Value, stop: Any
) -> int:
    if stop is None and not isinstance(dim, int):
        raise LanguageError(
            "TLC0117",
            f"the slice in dimension {dimension} of {buffer.label} ends with it, at {dim}, which is known "
            "only at run time: a tile has a fixed shape",
            hint=f'write it as [start : start + extent], or give {dim} by T.const("{dim}")',
        )
    last = value_of(dim if stop is None else stop)
    extent = difference(last, start, trace.definitions)
    if extent is None:
        raise LanguageError(
            "TLC0117",
            f"the extent of the slice in dimension {dimension} of {buffer.label} is not a "
            "compile-time number",
            hint="write it as [start : start + extent]",
        )
    if extent < 1:
        raise LanguageError(
            "TLC0117",
            f"a slice of {buffer.label} has an extent of {extent}",
            hint="[start : stop] has stop - start elements, 1 or more; ends do not count from behind",
        )
    first = constant_of(start) or 0
    if isinstance(dim, int) and first + extent > dim and buffer.type.space is not Space.GLOBAL:
        raise LanguageError(
            "TLC0116",
            f"a slice of {extent} elements from {first} on in dimension {dimension} of "
            f"{buffer.label}, whose extent is {dim}",
            hint=f"it ends at {dim} at most: only tensors have zeros behind their end",
        )
    return extent


def _from_other(what: str, area: Area, other: Area) -> Area:
    """An element as the area of the other side's extents, aligned from the last dimension. Those
    of 1 count, A[i, j] for a tile of (8, 1) being a column, unless there are too many dimensions.
    """
    rank = len(area.indices)
    shape = other.extents or (1,)
    if len(shape) > rank:
        shape = other.shape or (1,)
    if len(shape) > rank:
        raise LanguageError(
            "TLC0117",
            f"{what} of {len(shape)} dimensions {times(shape)} to or from an element of "
            f"{area.buffer.label}, which has {rank}",
            hint="an index that the element lacks, or a region of fewer dimensions: A_s[slot, :, :]",
        )
    return Area(area.buffer, area.indices, (1,) * (rank - len(shape)) + shape)


def times(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ")"


def in_memory(trace: Trace, area: Area, shaped: bool = True) -> Area:
    """A region of a view as the region of memory that it is; as it stands where it is none. Unless
    it is to be `shaped` as it was, all of a view is all of its buffer.
    """
    view, extents = area.buffer, area.extents
    if not isinstance(view, Reshaped) or extents is None or view.source.elements != view.elements:
        return area
    if area.whole and not shaped:
        return area_of(trace, "a view", view.source)
    found = view.region_in_source(trace, area.indices, extents)
    return area if found is None else Area(view.source, *found)


def slot_of(trace: Trace, area: Area) -> Value | None:
    """The area as one buffer of a ring, `A_s[slot, :, :]`, where it is that; None for other regions."""
    buffer, extents = area.buffer, area.extents or ()
    shape = buffer.type.shape
    starts = [constant_of(i) for i in area.indices[1:]]
    whole = extents[1:] == shape[1:] and all(n == 0 for n in starts)
    if buffer.type.space is not Space.SHARED or len(shape) < 3 or extents[0] != 1 or not whole:
        return None
    op = trace.builder.emit(Slot(area.memory, area.indices[0]))
    op.result.hint = buffer.name
    return op.result


def paired_areas(trace: Trace, what: str, src: Any, dst: Any) -> tuple[Area, Area]:
    """Both sides of a move, an element being given the extents of the other side."""
    source, target = area_of(trace, what, src), area_of(trace, what, dst)
    if source.extents is None and target.extents is None:
        raise LanguageError(
            "TLC0117",
            f"{what} between two elements has no extent",
            hint="give a buffer or a slice on one side, or assign the element",
        )
    if source.extents is None:
        source = _from_other(what, source, target)
    elif target.extents is None:
        target = _from_other(what, target, source)
    if source.shape != target.shape:
        raise LanguageError(
            "TLC0117",
            f"{what} of {times(source.extents or ())} from {source.buffer.label} to "
            f"{times(target.extents or ())} of {target.buffer.label}",
            hint="dimensions of extent 1 aside, both sides must have the same shape",
        )
    return in_memory(trace, source), in_memory(trace, target)


def shifted(trace: Trace, area: Area, offsets: tuple[Value, ...]) -> tuple[Value, ...]:
    """The indices of the element of an area at `offsets` along its `shape`."""
    indices = list(area.indices)
    for d, offset in zip(area.kept, offsets, strict=True):
        indices[d] = trace.pure(Add(indices[d], convert(offset, i32)))
    return tuple(indices)
