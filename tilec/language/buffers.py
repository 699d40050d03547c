"""Handles of memory, and what indexing them gives: elements and regions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Constant, Value
from ..ir.dtypes import PAIRS, DType, i32, i64, u32, u64
from ..ir.ops.arith import element_dtype
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.types import MemoryType, Space
from .dtypes import ElementType, StoredType
from .four_bits import check_element_store
from .nests import store_to_part
from .operand import Expr, Operand, convert, value_of
from .shown import shown_to_all
from .trace import Region, Trace, current, refuse


class Buffer:
    """A handle of memory: a tensor parameter, or what T.alloc_* gave."""

    __slots__ = ("elements", "name", "region", "value")

    def __init__(
        self, value: Value, region: Region, name: str = "", elements: DType | None = None
    ) -> None:
        self.value = value
        self.region = region
        self.name = name
        self.elements = elements or self.type.dtype  # a StoredType, or what memory holds

    @property
    def type(self) -> MemoryType:
        return memory_type(self.value)

    @property
    def dtype(self) -> ElementType:
        """The element type."""
        return ElementType(self.elements)

    @property
    def shape(self) -> tuple[Any, ...]:
        """The extents: ints, and symbols as values of the kernel."""
        trace = current("the shape of a buffer")
        return tuple(
            wrap_symbol(trace, dim) if isinstance(dim, str) else dim for dim in self.type.shape
        )

    @property
    def strides(self) -> tuple[Any, ...]:
        """The strides of a tensor in elements: ints, and symbols as values of the kernel."""
        trace = current("the strides of a buffer")
        strides = self.type.strides
        if strides is None:
            found: list[Any] = [1]
            for extent in reversed(self.shape[1:]):
                found.append(found[-1] * extent)
            return tuple(found[::-1][-self.ndim :])
        return tuple(wrap_symbol(trace, s) if isinstance(s, str) else s for s in strides)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.type.shape)

    def scope(self) -> str:
        """The memory space: global, shared, local or fragment."""
        return self.type.space.value

    def handle(self, bits: bool = False) -> Value:
        """The IR value. Raises LanguageError once the region that allocated it has ended, and,
        unless the caller means the `bits` of elements, for a dtype that is stored in another.
        """
        if isinstance(self.elements, StoredType) and not bits:
            raise refuse(
                "TLC0139",
                f"{self.label} holds {self.elements}, stored as {self.elements.storage}: this would "
                "take the bits for values",
                hint="read and write its elements in T.Parallel, or T.copy it to the same dtype",
            )
        if not self.region.open:
            raise refuse(
                "TLC0107",
                f"{self.label} was allocated in a {self.region.kind} region that has ended",
                hint="allocate it before that region",
            )
        return self.value

    @property
    def label(self) -> str:
        return f"`{self.name}`" if self.name else f"a {self.type.space.value} buffer"

    def __getitem__(self, key: Any) -> Any:
        trace = current("an element of a buffer")
        with trace.here():
            keys = key if isinstance(key, tuple) else (key,)
            keys = full_keys(self, keys)
            if any(isinstance(k, slice) for k in keys):
                return Slice(self, keys)
            return self.element(trace, keys)

    def element(self, trace: Trace, keys: tuple[Any, ...]) -> Element:
        """The element at some indices."""
        return Element(trace, self, keys)

    def __setitem__(self, key: Any, value: Any) -> None:
        trace = current("an assignment to a buffer")
        with trace.here():
            keys = full_keys(self, key if isinstance(key, tuple) else (key,))
            if any(isinstance(k, slice) for k in keys):
                raise LanguageError(
                    "TLC0128",
                    f"a region of {self.label} is assigned to",
                    hint="use T.copy, T.fill, or a T.Parallel nest over its elements",
                )
            store(trace, self, indices_of(self, keys), value)

    def __iter__(self) -> Iterator[Any]:
        raise refuse(
            "TLC0125",
            f"Python asks for the elements of {self.label} one by one",
            hint="for i in T.Parallel(n), or T.serial(n), and A[i]",
        )

    def __bool__(self) -> bool:
        raise refuse(
            "TLC0103",
            f"{self.label} is a buffer, and no condition",
            hint="compare one of its elements: if A[i] > 0",
        )

    def __eq__(self, other: object) -> bool:
        if other is self or not isinstance(other, (Buffer, Operand, int, float)):
            return other is self
        raise refuse(
            "TLC0103",
            f"{self.label} is a buffer, and compared as a whole",
            hint="compare its elements, A[i, j], in T.Parallel",
        )

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<buffer {self.name or '?'}: {self.type}>"


def wrap_symbol(trace: Trace, name: str) -> Any:
    with trace.here():
        return Expr(trace.symbol(name), trace.regions[0])


class Element(Operand):
    """An element: a value, loaded where it is written, that T.copy can also take as an address.

    A load that turns out to be unused is dropped when the kernel is complete.
    """

    __slots__ = ("buffer", "indices", "loaded", "refusal")

    def __init__(self, trace: Trace, buffer: Buffer, keys: tuple[Any, ...]) -> None:
        self.buffer = buffer
        self.indices = indices_of(buffer, keys)
        self.loaded: Expr | None = None
        self.refusal = element_refusal(trace, buffer, self.indices)
        if self.refusal is None:
            memory, indices = buffer.handle(bits=True), self.indices
            if _is_spread(trace, buffer):
                memory, indices = shown_to_all(trace, memory, indices)
            load = Load(memory, indices, safe_value=trace.safe_value(memory))
            op = trace.builder.emit(load)
            self.loaded = Expr(op.result, trace.region)
            if isinstance(buffer.elements, StoredType):
                self.loaded = buffer.elements.decode(self.loaded)

    def _value(self) -> Value:
        if self.loaded is None:
            assert self.refusal is not None
            raise self.refusal
        return self.loaded._value()


class Slice:
    """A region of a buffer, `A[i : i + 64, k]`: for T.copy and T.fill."""

    __slots__ = ("buffer", "keys")

    def __init__(self, buffer: Buffer, keys: tuple[Any, ...]) -> None:
        self.buffer = buffer
        self.keys = keys

    def __bool__(self) -> bool:
        raise refuse(
            "TLC0103",
            f"a region of {self.buffer.label} is no condition",
            hint="compare one of its elements: if A[i] > 0",
        )

    def __getitem__(self, key: Any) -> Any:
        raise self._indexed()

    def __setitem__(self, key: Any, value: Any) -> None:
        raise self._indexed()

    def _indexed(self) -> LanguageError:
        return refuse(
            "TLC0115",
            f"an index into a region of {self.buffer.label}",
            hint="index the buffer itself, from where the region starts: S[start + i, j]",
        )

    def __repr__(self) -> str:
        return f"<a region of {self.buffer.name}>"


class Variable(Operand):
    """What T.alloc_var gives: a scalar of each thread that can be assigned to."""

    __slots__ = ("buffer", "fresh")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.fresh = True  # until it has a name

    def _value(self) -> Value:
        return self.load()._value()

    def load(self) -> Element:
        """The value that it has now."""
        element = self.buffer[0]
        assert isinstance(element, Element)
        return element

    def store(self, value: Any) -> None:
        """Assigns."""
        self.buffer[0] = value

    def name_it(self, name: str) -> None:
        self.fresh = False
        name_buffer(self.buffer, name)


def name_buffer(buffer: Buffer, name: str) -> None:
    """Gives a buffer the name of the Python variable that first held it."""
    if not buffer.name:
        buffer.name = name
        buffer.value.hint = name


def element_refusal(
    trace: Trace, buffer: Buffer, indices: tuple[Value, ...]
) -> LanguageError | None:
    """Why the element of the buffer at these indices cannot be read or written here, if so."""
    if trace.launch is None:
        return refuse(
            "TLC0118",
            f"an element of {buffer.label} stands outside of `with T.Kernel(...)`",
            hint="put it inside; extents of tensors are known before: A.shape[0]",
        )
    known = all(isinstance(index, Constant) for index in indices)
    if _is_spread(trace, buffer) and not (known and buffer.type.dtype not in PAIRS):
        return refuse(
            "TLC0119",
            f"{buffer.label} is a fragment, spread over the threads: outside of T.Parallel its "
            "elements are at compile-time indices",
            hint="for i, j in T.Parallel(...): …; or T.copy it to shared memory",
        )
    return None


def _is_spread(trace: Trace, buffer: Buffer) -> bool:
    """Whether each thread has some elements, and this is said for all of them."""
    return buffer.type.space is Space.FRAGMENT and not trace.inside("parallel")


def store(trace: Trace, buffer: Buffer, indices: tuple[Value, ...], value: Any) -> None:
    """Emits a store, converting the value to the buffer's dtype. What all threads say of an element
    of a fragment is done by those that have it.
    """
    refusal = element_refusal(trace, buffer, indices)
    if refusal is not None:
        raise refusal
    check_element_store(trace, buffer.type)
    stored, memory = stored_value(value, buffer.elements), buffer.handle(bits=True)
    if not _is_spread(trace, buffer):
        trace.builder.emit(Store(stored, memory, indices))
        return
    store_to_part(trace, memory, indices, (1,) * len(indices), stored)


def stored_value(value: Any, dtype: DType) -> Value:
    """A value as an element of the dtype: numbers must fit, values are cast."""
    if isinstance(dtype, StoredType):
        return stored_value(dtype.encode(value), dtype.storage)
    return value_of(value, dtype)


def full_keys(buffer: Buffer, keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Keys for every dimension, an Ellipsis replaced by full slices."""
    dots = [i for i, key in enumerate(keys) if key is Ellipsis]
    if len(dots) == 1:
        at = dots[0]
        missing = buffer.ndim - len(keys) + 1
        keys = keys[:at] + (slice(None),) * missing + keys[at + 1 :]
    if len(keys) != buffer.ndim:
        one = "index" if len(keys) == 1 else "indices"
        raise LanguageError(
            "TLC0115",
            f"{len(keys)} {one} into {buffer.label}, which has {buffer.ndim} "
            f"dimension{'s' * (buffer.ndim != 1)}: {buffer.type}",
            hint=f"one index for each: {buffer.name or 'buffer'}"
            f"[{', '.join('ijklmnop'[: buffer.ndim])}]",
        )
    return keys


def indices_of(buffer: Buffer, keys: tuple[Any, ...]) -> tuple[Value, ...]:
    """Index values. Raises LanguageError for constants that are outside."""
    return tuple(index_value(buffer, d, key) for d, key in enumerate(keys))


def index_value(buffer: Buffer, dimension: int, key: Any) -> Value:
    """One index as an i32 or i64 value."""
    if not (isinstance(key, Operand | int | np.integer)) or isinstance(key, bool):
        raise LanguageError(
            "TLC0115",
            f"{key!r} is no index into {buffer.label}",
            hint="`with T.Kernel(m, n) as (bx, by)` gives each index a name of its own"
            if isinstance(key, tuple)
            else "indices are integers",
        )
    value = value_of(key)
    dtype = element_dtype(value)
    if not dtype.is_integer:
        raise LanguageError(
            "TLC0115",
            f"index {dimension} of {buffer.label} is a {dtype}, not an integer",
            hint="T.cast it to int32",
        )
    if isinstance(value, Constant):
        _check_constant(buffer, dimension, int(value.value))
    if dtype in (i32, i64):
        return value
    # What 32 bits do not hold would else seem to be an index that there is.
    return convert(value, i64 if dtype in (u32, u64) else i32)


def _check_constant(buffer: Buffer, dimension: int, index: int) -> None:
    extent = buffer.type.shape[dimension]
    if index < 0:
        raise LanguageError(
            "TLC0116",
            f"index {dimension} of {buffer.label} is {index}: indices count from the front",
            hint=f"the last element is at {extent} - 1",
        )
    if isinstance(extent, int) and index >= extent and buffer.type.space is not Space.GLOBAL:
        raise LanguageError(
            "TLC0116",
            f"index {dimension} of {buffer.label} is {index}, its extent is {extent}",
            hint=f"the last element is at {extent - 1}",
        )
