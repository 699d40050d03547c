"""Other shapes and element types of the same memory: `T.reshape`, `T.view`.

A reshaped buffer is a way of indexing, not memory of its own: its element [i, j] is the element of
the buffer that stands at the same place in row-major order. Dimensions that both shapes have stay
as they are; the others are made one number and taken apart again, which is affine where dimensions
are only split or merged evenly. An index outside of a dimension must not come to mean an element of
the next row, so where it is not known to be inside it selects one that is outside of the buffer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Constant, Value, constant_of
from ..ir.ops import arith
from ..ir.types import Dim
from .arithmetic import if_then_else, reinterpret
from .buffers import Buffer, wrap_symbol
from .dtypes import ElementType, element_type
from .operand import Operand, value_of, wrap
from .tensors import Dynamic
from .trace import Trace, current, refuse

Group = tuple[range, range]
"""Dimensions of the new shape, and those of the buffer that have the same elements."""


class Reshaped:
    """What T.reshape and T.view give. Its elements are read and written in T.Parallel and in
    serial code, as a buffer's."""

    def __init__(self, source: Buffer, shape: tuple[Dim, ...], dtype: ElementType) -> None:
        self._source = source
        self._shape = shape
        self.dtype = dtype
        self._groups = tuple(_groups(shape, source.type.shape))

    @property
    def shape(self) -> tuple[Any, ...]:
        """The extents: ints, and symbols as values of the kernel."""
        trace = current("the shape of a buffer")
        return tuple(wrap_symbol(trace, d) if isinstance(d, str) else d for d in self._shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self._shape)

    def __getitem__(self, key: Any) -> Any:
        trace = current("an element of a buffer")
        with trace.here():
            # A value, and no start address: T.copy would walk along the buffer's own dimensions.
            element = wrap(trace, value_of(self._source[self._indices(trace, key)]))
            same = self.dtype == self._source.dtype
            return element if same else reinterpret(element, self.dtype)

    def __setitem__(self, key: Any, value: Any) -> None:
        trace = current("an assignment to a buffer")
        with trace.here():
            if self.dtype != self._source.dtype:
                value = reinterpret(self.dtype(value), self._source.dtype)
            self._source[self._indices(trace, key)] = value

    def __iter__(self) -> Iterator[Any]:
        raise refuse("TLC0125", f"Python asks for the elements of {self!r} one by one")

    def __bool__(self) -> bool:
        raise refuse("TLC0103", f"{self!r} is a buffer, and no condition")

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self._shape))
        return f"{self._source.label} as {self.dtype}[{shape}]"

    def _indices(self, trace: Trace, key: Any) -> tuple[Any, ...]:
        keys = key if isinstance(key, tuple) else (key,)
        if len(keys) != self.ndim or not all(
            isinstance(k, Operand | int | np.integer) for k in keys
        ):
            raise LanguageError(
                "TLC0115",
                f"{self!r} takes {self.ndim} indices, each an integer",
                hint="tile operations take the buffer itself; in T.Parallel take its elements",
            )
        found: list[Any] = []
        for new, old in self._groups:
            extents = [self._source.shape[d] for d in old]
            parts = [(keys[d], self.shape[d]) for d in new]
            if len(old) == 1 and len(new) == 1:
                found.append(parts[0][0])
            else:
                found += _split(_joined(trace, parts), extents)
        return tuple(found)


def _joined(trace: Trace, parts: Sequence[tuple[Any, Any]]) -> Any:
    """The row-major number of an index; below 0 where an index but the first is outside."""
    number: Any = 0
    inside: Any = True
    for place, (index, extent) in enumerate(parts):
        number = number * extent + index if place else index
        if place and not _is_inside(trace, index, extent):
            here = (index >= 0) & (index < extent)
            inside = here if inside is True else inside & here
    return number if inside is True else if_then_else(inside, number, -1)


def _split(number: Any, extents: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for extent in reversed(extents[1:]):
        found.append(number % extent)
        number = number // extent
    return [number, *reversed(found)] if extents else []


def _is_inside(trace: Trace, index: Any, extent: Any) -> bool:
    if not isinstance(extent, int):
        return False
    low, high = _span(trace, value_of(index))
    return low is not None and high is not None and low >= 0 and high < extent


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


def _groups(new: Sequence[Dim], old: Sequence[Dim]) -> Iterator[Group]:
    """The shortest runs of dimensions, from the left, that have as many elements in both."""
    i = j = 0
    while i < len(new) or j < len(old):
        first, second = i, j
        i, j = min(i + 1, len(new)), min(j + 1, len(old))
        while _count(new[first:i]) != _count(old[second:j]):
            fewer = _numbers(new[first:i]) <= _numbers(old[second:j])
            if i < len(new) and (fewer or j == len(old)):
                i += 1
            elif j < len(old):
                j += 1
            else:
                return  # the shapes were compared: not reached
        if j == len(old):
            i = len(new)  # what is left has one element, and its index must be inside too
        yield range(first, i), range(second, j)


def _count(dims: Sequence[Dim]) -> tuple[int, tuple[str, ...]]:
    return _numbers(dims), tuple(sorted(d for d in dims if isinstance(d, str)))


def _numbers(dims: Sequence[Dim]) -> int:
    product = 1
    for dim in dims:
        product *= dim if isinstance(dim, int) else 1
    return product


def reshape(src: Buffer, shape: Any) -> Reshaped:
    """`src` under another shape: the same elements in row-major order, nothing is moved.

    Args:
        src: a tensor, or a shared, local or fragment buffer.
        shape: extents, ints and symbols; as many elements as `src` has.

    Raises:
        LanguageError: another number of elements, or symbols that `src` does not have.
    """
    return view(src, shape)


def view(src: Buffer, shape: Any = None, dtype: Any = None) -> Reshaped:
    """`src` under another shape, and its elements' bits as another dtype of the same size.

    Raises:
        LanguageError: another number of elements, or elements of another size.
    """
    trace = current("T.view")
    with trace.here():
        if not isinstance(src, Buffer):
            raise LanguageError("TLC0117", f"a view of {src!r}, which is no buffer")
        dims = src.type.shape if shape is None else tuple(map(_dim, _listed(shape)))
        kind = src.dtype if dtype is None else ElementType(element_type(dtype))
        if kind.bits != src.dtype.bits:
            raise LanguageError(
                "TLC0117",
                f"a view of {src.label} as {kind}, whose elements have {kind.bits} bits: it has "
                f"{src.dtype} of {src.dtype.bits}",
                hint="a view keeps the size of elements; T.cast converts them",
            )
        if _count(dims) != _count(src.type.shape):
            raise LanguageError(
                "TLC0117",
                f"{src.label} of shape ({', '.join(map(str, src.type.shape))}) has not the elements "
                f"of ({', '.join(map(str, dims))})",
            )
        return Reshaped(src, dims, kind)


def _listed(shape: Any) -> tuple[Any, ...]:
    return tuple(shape) if isinstance(shape, tuple | list) else (shape,)


def _dim(dim: Any) -> Dim:
    if isinstance(dim, Dynamic):
        return dim.name
    if isinstance(dim, Operand):
        trace = current("T.view")
        value = value_of(dim)
        named = (name for name, known in trace.symbols.items() if known is value)
        found = next(named, None)
        if found is not None:
            return found
    elif isinstance(dim, str):
        return dim
    elif isinstance(dim, int | np.integer) and not isinstance(dim, bool) and dim > 0:
        return int(dim)
    raise LanguageError(
        "TLC0129",
        f"{dim!r} is no extent of a view",
        hint="extents are ints, and symbols of tensors",
    )
