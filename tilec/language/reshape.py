"""Other shapes and element types of the same memory: `T.reshape`, `T.view`.

A reshaped buffer is a way of indexing, not memory of its own: its element [i, j] is the element of
the buffer that stands at the same place in row-major order. Dimensions that both shapes have stay
as they are; the others are made one number and taken apart again, which is affine where dimensions
are only split or merged evenly. An index outside of a dimension must not come to mean an element of
the next row, so where it is not known to be inside it selects one that is outside of the buffer.

Elements of another width are parts of the buffer's, or made of parts that are: whichever are the
larger have one more dimension, the lowest bits first. Memory itself keeps the elements it was
allocated with, so that nothing behind the frontend knows of two names for a byte: what is shadowed,
ordered, proved and laid out is those elements. A part cannot be written by itself: threads that
write parts of one element would race.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Constant, Value, constant_of
from ..ir.dtypes import DType
from ..ir.ops import arith
from ..ir.ops.memory import View
from ..ir.types import Dim, MemoryType, Space
from .arithmetic import (
    if_then_else,
    join_bits,
    part_of_bits,
    reinterpret_scalar,
)
from .arithmetic import max as larger
from .buffers import Buffer, Element, full_keys, indices_of
from .dtypes import ElementType, element_type, storage_of
from .global_memory import extent
from .operand import Operand, value_of, wrap
from .trace import Trace, current, refuse

Factors = tuple[int, tuple[str, ...]]
"""What a dimension is the product of: a number, and symbols in order."""

Group = tuple[range, range]
"""Dimensions of the new shape, and those of the buffer that have the same elements."""


class Reshaped(Buffer):
    """What T.reshape and T.view give of a tensor and of shared or local memory. Its elements are
    read and written as a buffer's; T.copy, T.fill, T.gemm and reductions take it and its regions.

    `parts`: how many elements of the source make one of the view; `shares`: how many of the view
    make one of the source. One of them is 1.
    """

    __slots__ = ("_groups", "_type", "parts", "shares", "source")

    def __init__(self, source: Buffer, shape: tuple[Dim, ...], dtype: ElementType) -> None:
        self._type = MemoryType(storage_of(dtype.ir), shape, source.type.space)
        self.source = source
        self.parts = max(dtype.bits // source.dtype.bits, 1)
        self.shares = max(source.dtype.bits // dtype.bits, 1)
        new, old = _cut(shape, self.parts), _cut(source.type.shape, self.shares)
        trace = current("T.view")
        self._groups = tuple(_groups(_factors(trace, new), _factors(trace, old)))
        super().__init__(source.value, source.region, source.name, dtype.ir)

    @property
    def type(self) -> MemoryType:
        return self._type

    @property
    def label(self) -> str:
        shape = ", ".join(map(str, self.type.shape))
        return f"{self.source.label} as {self.dtype}[{shape}]"

    def handle(self, bits: bool = False) -> Value:
        raise refuse(
            "TLC0117",
            f"{self.label} is a view, and has no memory of its own",
            hint=f"pass {self.source.label} itself, or copy the view to a buffer",
        )

    def element(self, trace: Trace, keys: tuple[Any, ...]) -> Element:
        return _ReshapedElement(trace, self, keys)

    def __setitem__(self, key: Any, value: Any) -> None:
        trace = current("an assignment to a buffer")
        with trace.here():
            keys = full_keys(self, key if isinstance(key, tuple) else (key,))
            if self.shares > 1:
                raise LanguageError(
                    "TLC0117",
                    f"{self.label} is written, whose elements are parts of {self.source.dtype}: threads "
                    "that write parts of one element would race",
                    hint=f"allocate {self.source.name or 'the buffer'} as {self.dtype}, and see that as "
                    f"{self.source.dtype}",
                )
            if self.dtype != self.source.dtype:
                value = self.dtype(value)
            if self.parts > 1:
                for number in range(self.parts):
                    part = part_of_bits(value, number, self.source.dtype)
                    self.source[self.places(trace, (*keys, number))] = part
            elif self.dtype != self.source.dtype:
                self.source[self.places(trace, keys)] = reinterpret_scalar(value, self.source.dtype)
            else:
                self.source[self.places(trace, keys)] = value

    def __repr__(self) -> str:
        return f"<view {self.label}>"

    def places(self, trace: Trace, keys: Sequence[Any]) -> tuple[Any, ...]:
        """The indices of an element in the source: of a part, the last key, where it has parts; with
        the number of the element's share behind them where it is one.
        """
        if not all(isinstance(k, Operand | int | np.integer) for k in keys):
            raise LanguageError(
                "TLC0115",
                f"{self.label} is assigned at {list(keys)!r}",
                hint="use T.copy or T.fill",
            )
        found: list[Any] = []
        shape, inner = _cut(self.shape, self.parts), _cut(self.source.shape, self.shares)
        for new, old in self._groups:
            extents = [inner[d] for d in old]
            parts = [(keys[d], shape[d]) for d in new]
            if len(old) == 1 and len(new) == 1:
                found.append(parts[0][0])
            else:
                found += _split(_joined(trace, parts), extents)
        return tuple(found)

    def region_in_source(
        self, trace: Trace, indices: tuple[Value, ...], extents: tuple[int, ...]
    ) -> tuple[tuple[Value, ...], tuple[int, ...]] | None:
        """Where a region of the view starts in the source, and its extents there, with the same ones
        but for those of 1; None where it is no region there, or not known to be one.
        """
        starts: list[Any] = []
        sizes: list[int] = []
        for new, old in self._groups:
            inner = [self.source.type.shape[d] for d in old]
            if len(new) == len(old) == 1:
                starts.append(wrap(trace, indices[new[0]]))
                sizes.append(extents[new[0]])
                continue
            length = _run([(extents[d], self.type.shape[d]) for d in new])
            parts = [(wrap(trace, indices[d]), self.shape[d]) for d in new]
            ends = [(wrap(trace, indices[d]) + (extents[d] - 1), self.shape[d]) for d in new]
            inside = all(_is_inside(trace, *p) for p in (*parts[1:], *ends[1:]))
            number = _joined(trace, parts) if inside else None
            if length is None or number is None or not _in_one_row(number, length, inner):
                return None
            starts += _split(number, [self.source.shape[d] for d in old])
            sizes += [1] * (len(old) - 1) + [length] if inner else []
        return indices_of(self.source, tuple(starts)), tuple(sizes)


class _ReshapedElement(Element):
    """An element of a view: a value, or the address of a region of the view."""

    def __init__(self, trace: Trace, buffer: Reshaped, keys: tuple[Any, ...]) -> None:
        self.buffer = buffer
        self.indices = indices_of(buffer, keys)
        self.refusal = None
        self.loaded = wrap(trace, value_of(self._read(trace, buffer, keys)))

    @staticmethod
    def _read(trace: Trace, buffer: Reshaped, keys: tuple[Any, ...]) -> Any:
        source = buffer.source
        if buffer.parts > 1:
            every = [buffer.places(trace, (*keys, part)) for part in range(buffer.parts)]
            return join_bits([source[place] for place in every], buffer.dtype)
        places = buffer.places(trace, keys)
        if buffer.shares > 1:
            return part_of_bits(source[places[:-1]], places[-1], buffer.dtype)
        if buffer.dtype == source.dtype:
            return source[places]
        return reinterpret_scalar(source[places], buffer.dtype)


def _run(parts: Sequence[tuple[int, Dim]]) -> int | None:
    """How many elements a region (extent, of how many, a dimension) has that are one run; None where
    they are not, or run along two dimensions.
    """
    long = [d for d, (extent, _) in enumerate(parts) if extent > 1]
    if not long:
        return 1
    (first, *more) = long
    alone = not more and all(size == 1 for _, size in parts[first + 1 :])
    return parts[first][0] if alone else None


def _in_one_row(number: Any, length: int, inner: Sequence[Dim]) -> bool:
    """Whether a run from an element on stays in one row of dimensions of these extents."""
    if length == 1 or len(inner) == 1:
        return True
    start = constant_of(value_of(number))
    row = inner[-1] if inner else 0
    return isinstance(row, int) and start is not None and int(start) % row + length <= row


def _joined(trace: Trace, parts: Sequence[tuple[Any, Any]]) -> Any:
    """The row-major number of an index; below 0 where an index but the first is outside."""
    number: Any = 0
    inside: Any = True
    for place, (index, size) in enumerate(parts):
        number = number * size + index if place else index
        if place and not _is_inside(trace, index, size):
            here = (index >= 0) & (index < size)
            inside = here if inside is True else inside & here
    return number if inside is True else if_then_else(inside, number, -1)


def _split(number: Any, extents: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for size in reversed(extents[1:]):
        divisor = size if isinstance(size, int) else larger(size, 1)
        found.append(number % divisor)  # of no elements none is inside, whatever the divisor
        number = number // divisor
    return [number, *reversed(found)] if extents else []


def _is_inside(trace: Trace, index: Any, size: Any) -> bool:
    if not isinstance(size, int):
        return False
    low, high = _span(trace, value_of(index))
    return low is not None and high is not None and low >= 0 and high < size


def _span(trace: Trace, value: Value) -> tuple[int | None, int | None]:
    """Least and greatest value, of what is made of constants and indices of loops that count from 0
    to a number."""
    if isinstance(value, Constant):
        return int(value.value), int(value.value)
    if value in trace.extents:
        return 0, trace.extents[value] - 1
    op = trace.definitions.get(value)
    if not isinstance(op, arith.Add | arith.Mul | arith.FloorDiv | arith.FloorMod):
        return None, None
    by = constant_of(op.y)
    if isinstance(op, arith.FloorMod):
        return (0, int(by) - 1) if by is not None and by > 0 else (None, None)
    (a, b), (c, d) = _span(trace, op.x), _span(trace, op.y)
    if a is None or b is None or c is None or d is None or a < 0 or c < 0:
        return None, None
    if isinstance(op, arith.FloorDiv):
        return (a // d, b // c) if c > 0 else (None, None)
    return (a + c, b + d) if isinstance(op, arith.Add) else (a * c, b * d)


# Shapes -------------------------------------------------------------------------------------------


def _factors(trace: Trace, dims: Sequence[Dim]) -> tuple[Factors, ...]:
    """Of each dimension the number and the symbols that it is the product of."""
    return tuple(
        _of_value(trace, trace.symbols.get(d), d) if isinstance(d, str) else (d, ()) for d in dims
    )


def _of_value(trace: Trace, value: Value | None, name: str) -> Factors:
    if isinstance(value, Constant):
        return int(value.value), ()
    op = None if value is None else trace.definitions.get(value)
    if isinstance(op, arith.Mul):
        return _count([_of_value(trace, x, _name_of(trace, x)) for x in (op.x, op.y)])
    return 1, (name,)


def _name_of(trace: Trace, value: Value) -> str:
    """The symbol that a value is, or a name that no symbol has."""
    named = (name for name, known in trace.symbols.items() if known is value)
    return next(named, f"%{id(value)}")


def _groups(new: Sequence[Factors], old: Sequence[Factors]) -> Iterator[Group]:
    """The shortest runs of dimensions, from the left, that have as many elements in both."""
    i = j = 0
    while i < len(new) or j < len(old):
        first, second = i, j
        i, j = min(i + 1, len(new)), min(j + 1, len(old))
        while _count(new[first:i]) != _count(old[second:j]):
            fewer = _size(new[first:i]) <= _size(old[second:j])
            if i < len(new) and (fewer or j == len(old)):
                i += 1
            elif j < len(old):
                j += 1
            else:
                return  # the shapes were compared: not reached
        if j == len(old):
            i = len(new)  # what is left has one element, and its index must be inside too
        yield range(first, i), range(second, j)


def _cut(shape: tuple[Any, ...], parts: int) -> tuple[Any, ...]:
    """A shape whose elements are cut into parts, one more dimension."""
    return (*shape, parts) if parts > 1 else shape


def _products(trace: Trace, dims: Sequence[Dim]) -> str:
    """The dimensions, those that were computed as what they are the products of."""
    shown = []
    for dim, (number, names) in zip(dims, _factors(trace, dims), strict=True):
        plain = len(names) < 2 or any(name.startswith("%") for name in names)
        shown.append(dim if plain else " * ".join([str(number)] * (number > 1) + list(names)))
    return _times(shown)


def _times(dims: Sequence[Dim]) -> str:
    return f"({', '.join(map(str, dims))})"


def _count(dims: Sequence[Factors]) -> Factors:
    """What the dimensions are together."""
    names = sorted(name for _, factors in dims for name in factors)
    return math.prod(number for number, _ in dims), tuple(names)


def _size(dims: Sequence[Factors]) -> tuple[int, int]:
    """What tells which of two runs of dimensions is to be longer: symbols, then the number."""
    number, names = _count(dims)
    return len(names), number


def reshape(src: Buffer, shape: Any) -> Buffer:
    """`src` under another shape: the same elements in row-major order, nothing is moved.

    Args:
        src: a tensor, or a shared, local or fragment buffer.
        shape: extents, ints, symbols and their products; as many elements as `src` has.

    Raises:
        LanguageError: another number of elements, or symbols that `src` does not have.
    """
    return view(src, shape)


def view(src: Buffer, shape: Any = None, dtype: Any = None) -> Buffer:
    """`src` under another shape, and its bits as elements of another dtype, in row-major order, the
    lowest bits first. What is written through it is written to `src`.

    Args:
        src: a tensor, or a shared, local or fragment buffer.
        shape: extents, ints, symbols and their products, with as many bits as `src`; by default those
            of `src`, the last one as many times larger as the elements are smaller.
        dtype: of the elements; by default that of `src`. Elements smaller than those of `src` can only
            be read, or all be copied to, but for a fragment's.

    Raises:
        LanguageError: another number of bits; of a fragment, elements of 4 bits and of more, or rows
            that end within rows of `src`.
    """
    trace = current("T.view")
    with trace.here():
        if not isinstance(src, Buffer):
            raise LanguageError(
                "TLC0117",
                f"a view of {src!r}, which is no buffer",
                hint="T.view sees all of a buffer: T.view(S, (64, 32)); of a value, T.reinterpret",
            )
        kind = src.dtype if dtype is None else ElementType(element_type(dtype))
        _check_width(src, kind)
        parts, shares = max(kind.bits // src.dtype.bits, 1), max(src.dtype.bits // kind.bits, 1)
        listed = None if shape is None else _listed(shape)
        dims = _scaled(src, kind) if listed is None else tuple(_dim(trace, d) for d in listed)
        given, held = (_cut(dims, parts), _cut(src.type.shape, shares))
        if _count(_factors(trace, given)) != _count(_factors(trace, held)):
            raise LanguageError(
                "TLC0117",
                f"{src.label} of shape {_times(src.type.shape)} has not the elements of "
                f"{_products(trace, dims)}"
                + (f", {src.dtype} seen as {kind}" if parts * shares > 1 else ""),
                hint="a view has as many bits; a part is a region: S[0:5, 0:5]",
            )
        if src.type.space is Space.FRAGMENT:
            return _of_fragment(trace, src, dims, kind)
        memory = src.source if isinstance(src, Reshaped) else src  # a view of a view is one of it
        _check_width(memory, kind)
        return Reshaped(memory, dims, kind)


def _check_width(src: Buffer, kind: ElementType) -> None:
    """Raises LanguageError unless elements of one dtype are elements of the other, or parts of them."""
    small, large = sorted((kind.bits, src.dtype.bits))
    if small == large:
        return
    plain = (isinstance(d, DType) and (d.is_integer or d.is_float) for d in (kind.ir, src.elements))
    in_registers = src.type.space is Space.FRAGMENT and small < 8
    if large % small or in_registers or not all(plain):
        raise LanguageError(
            "TLC0117",
            f"a view of {src.label} as {kind}: {src.dtype} is neither made of such elements nor a "
            "part of one" + (" in registers, where each has a byte" if in_registers else ""),
            hint="copy it to shared memory, and take the view of that"
            if in_registers
            else "T.cast converts values",
        )


def _scaled(src: Buffer, kind: ElementType) -> tuple[Dim, ...]:
    """The shape of `src` with the last extent in elements of `kind`."""
    *outer, last = src.type.shape
    if kind.bits == src.dtype.bits:
        return src.type.shape
    if isinstance(last, str) or last * src.dtype.bits % kind.bits:
        raise LanguageError(
            "TLC0117",
            f"a view of {src.label} as {kind}: rows of {last} {src.dtype} are no whole number of such "
            "elements that is known",
            hint="give the shape of the view",
        )
    return (*outer, last * src.dtype.bits // kind.bits)


def _of_fragment(trace: Trace, src: Buffer, dims: tuple[Dim, ...], kind: ElementType) -> Buffer:
    """A handle that tile operations take as any fragment."""
    shape = tuple(int(d) for d in dims)
    parts, shares = max(kind.bits // src.dtype.bits, 1), max(src.dtype.bits // kind.bits, 1)
    held = tuple(int(d) for d in src.type.shape)
    if not _cut_evenly(_cut(shape, parts), _cut(held, shares)):
        raise LanguageError(
            "TLC0117",
            f"{src.label} of shape {_times(src.type.shape)} is a fragment, and cannot be seen as "
            f"{_times(shape)}: rows of one end within rows of the other",
            hint="copy it to shared memory, and take the view of that",
        )
    op = trace.builder.emit(View(src.handle(bits=True), shape=shape, dtype=storage_of(kind.ir)))
    op.result.hint = src.name
    return Buffer(op.result, trace.region, src.name, kind.ir)


def _cut_evenly(new: tuple[int, ...], old: tuple[int, ...]) -> bool:
    """Whether of the numbers of elements after which either shape begins a new row, each divides the
    next. Registers and threads hold digits of the row-major number of an element then.
    """
    rows = sorted({math.prod(shape[d:]) for shape in (new, old) for d in range(len(shape))})
    return all(longer % row == 0 for row, longer in pairwise(rows))


def reinterpret(value: Any, dtype: object) -> Any:
    """The bits of `value` read as `dtype`, which has the same size: of one value, or of all elements
    of a fragment or another buffer, of which it is a view then.
    """
    return (
        view(value, dtype=dtype) if isinstance(value, Buffer) else reinterpret_scalar(value, dtype)
    )


def _listed(shape: Any) -> tuple[Any, ...]:
    return tuple(shape) if isinstance(shape, tuple | list) else (shape,)


def _dim(trace: Trace, dim: Any) -> Dim:
    """An extent of a view: a number, a symbol, or one made of what was computed before the launches."""
    if isinstance(dim, str):
        return dim
    if isinstance(dim, Operand) or isinstance(dim, int | np.integer) and dim > 0:
        return extent(trace, "T.view", dim)
    raise LanguageError(
        "TLC0129",
        f"{dim!r} is no extent of a view",
        hint="extents are positive ints, symbols of tensors, and products of these",
    )
