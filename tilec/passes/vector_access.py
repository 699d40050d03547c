"""Runs of consecutive elements between memory and registers: how wide an access may be, and the
access.

A vector is legal where its address is a multiple of its size: the tensor's base and rows are (a
fact of the launch), the index is (by its form), and a shared layout keeps the run together. Outside
a tensor loads give a safe value and stores are dropped: a whole vector at a time only where rows
are multiples of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from ..ir.core import Value
from ..ir.ops import arith
from ..ir.ops.amd import BufferLoad, BufferStore, MakeBuffer
from ..ir.ops.memory import Atomic, Load, Store, memory_type
from ..ir.ops.thread import FillRegisters, VectorAtomic, VectorLoad, VectorStore
from ..ir.types import Dim, MemoryType, Space
from .context import PassContext
from .coordinates import both, extent_value, guard, left_of_row, predicate_of, truth_of
from .index_builder import IndexBuilder

FACT_BYTES = 16  # the alignment that is asked of tensors whose rows are not known
LIMIT_BYTES = 1 << 31  # what 32-bit offsets reach


@dataclass
class VectorAccess:
    """Emits loads and stores of runs. `at_top` runs a builder function where what it makes is seen
    everywhere.
    """

    b: IndexBuilder
    context: PassContext
    at_top: Callable[[Callable[[], Value]], Value] | None = None
    _alignments: dict[Value, int] = field(default_factory=dict)
    _buffers: dict[Value, Value] = field(default_factory=dict)

    # Widths ---------------------------------------------------------------------------------------

    def limit(self, memory: Value) -> int:
        """Most consecutive elements along the last dimension that one access may take."""
        type_ = memory_type(memory)
        widest = max(1, self.context.target.vector_bytes // type_.dtype.bytes)
        if not type_.shape:
            return 1
        if type_.space is Space.SHARED and type_.layout is not None:
            return min(widest, type_.layout.vector_width())
        if type_.space is Space.SHARED and len(type_.shape) == 1:
            return widest  # in the order of the bytes, from the start of a buffer
        if not type_.unit_stride:
            return 1
        if type_.space is Space.GLOBAL:
            return min(widest, max(1, self.alignment(memory) // type_.dtype.bytes))
        return 1

    def width(self, memory: Value, indices: Sequence[Value], run: int) -> int:
        """The widest legal access to `run` consecutive elements from `indices` on: a power of two
        that divides it.
        """
        if not indices:
            return 1
        found = math.gcd(run & -run, self.limit(memory))
        while found > 1 and not self.b.is_multiple(indices[-1], found):
            found //= 2
        return found

    def atomic_width(self, memory: Value, indices: Sequence[Value], run: int) -> int:
        """The widest atomic addition to `run` consecutive elements."""
        type_ = memory_type(memory)
        if type_.space is not Space.GLOBAL:
            return 1
        widest = dict(self.context.target.atomic_widths).get(type_.dtype.name, 1)
        return min(widest, self.width(memory, indices, run))

    def alignment(self, memory: Value) -> int:
        """Bytes of which the base and the rows of a tensor are multiples: asked once, or else an
        element's.
        """
        if memory not in self._alignments:
            self._alignments[memory] = self._ask(memory)
        return self._alignments[memory]

    def _ask(self, memory: Value) -> int:
        type_ = memory_type(memory)
        size = type_.dtype.bytes
        if not memory.hint or type_.shape[-1] == "*":
            return size
        wanted = FACT_BYTES
        for count in rows_of(type_):
            if isinstance(count, int):
                wanted = math.gcd(wanted, count * size)
        promised = math.gcd(wanted, promised_elements(type_, self.context) * size)
        for bytes_ in (wanted, promised):
            if bytes_ > size and is_aligned(memory, bytes_, self.context):
                return bytes_
        return size

    def whole(self, memory: Value, width: int) -> bool:
        """Whether a vector of `width`, aligned to itself, is inside a tensor where its first
        element is.
        """
        return is_whole(memory, width, self.context)

    def _ends_whole(self, memory: Value, width: int) -> bool:
        """As `whole`, as a fact of the launch."""
        size = width * memory_type(memory).dtype.bytes
        return self.context.facts.whole(memory.hint, size)

    # Accesses -------------------------------------------------------------------------------------

    def load(
        self,
        registers: Value,
        offset: Value,
        memory: Value,
        indices: Sequence[Value],
        run: int,
        predicate: Value | None = None,
        safe_value: float = 0.0,
    ) -> None:
        """Loads `run` elements to registers from `offset` on; outside, or where `predicate` is
        false, the safe value.
        """
        width = self.width(memory, indices, run)
        self._runs(
            memory,
            indices,
            run,
            width,
            predicate,
            lambda at, step, p: self._load(
                registers, self.b.add(offset, step), memory, at, width, p, safe_value
            ),
            lambda at, step, p: self._load_element(
                registers, self.b.add(offset, step), memory, at, p, safe_value
            ),
            branch_from=3,  # two loads under predicates, which the C compiler may move, for a branch
        )

    def store(
        self,
        memory: Value,
        indices: Sequence[Value],
        registers: Value,
        offset: Value,
        run: int,
        predicate: Value | None = None,
    ) -> None:
        """Stores `run` registers from `offset` on; what is outside, or where `predicate` is false,
        is dropped.
        """
        width = self.width(memory, indices, run)
        self._runs(
            memory,
            indices,
            run,
            width,
            predicate,
            lambda at, step, p: self._store(
                memory, at, registers, self.b.add(offset, step), width, p
            ),
            lambda at, step, p: self._store_element(
                memory, at, registers, self.b.add(offset, step), p
            ),
        )

    def add(
        self,
        memory: Value,
        indices: Sequence[Value],
        registers: Value,
        offset: Value,
        run: int,
        predicate: Value | None = None,
    ) -> None:
        """Adds `run` registers atomically; what is outside, or where `predicate` is false, is
        dropped.
        """
        b = self.b
        width = self.atomic_width(memory, indices, run)

        def vector(at: tuple[Value, ...], step: Value, p: Value | None) -> None:
            place = b.add(offset, step)
            b.emit(VectorAtomic(memory, at, registers, place, predicate_of(p), count=width))

        def element(at: tuple[Value, ...], step: Value, p: Value | None) -> None:
            value = b.read(registers, b.add(offset, step))
            b.emit(Atomic(value, memory, at, predicate_of(p), kind="add", in_bounds=True))

        self._runs(memory, indices, run, width, predicate, vector, element)

    def _runs(
        self,
        memory: Value,
        indices: Sequence[Value],
        run: int,
        width: int,
        predicate: Value | None,
        vector: _Access,
        element: _Access,
        branch_from: int = 2,
    ) -> None:
        """A run in vectors; vectors that cross the end of a tensor by elements. All that may cross
        by elements where they have fewer than `branch_from`, unless none does, as a fact of the
        launch.
        """
        b = self.b
        left = left_of_row(b, memory, indices, run) if width == 1 else None
        with b.unrolled(run // width, hint="v") as index:
            step = b.mul(index, width)
            at = _moved(b, indices, step)
            whole = width == 1 or self.whole(memory, width)
            inside = None if whole else guard(b, memory, at, _spans(at, width))
            if inside is None or (width < branch_from and self._ends_whole(memory, width)):
                counted = None if left is None else (index, left)
                condition = both(b, guard(b, memory, at, counted=counted), predicate)
                (element if width == 1 else vector)(at, step, condition)
                return
            by_elements: AbstractContextManager[None] = nullcontext()
            if width >= branch_from:
                with b.when(inside), b.assuming(inside):
                    vector(at, step, predicate)
                by_elements = b.when(b.pure(arith.Not(inside)))
            with by_elements, b.unrolled(width, hint="e") as e:
                position = _moved(b, at, e)
                element(position, b.add(step, e), both(b, guard(b, memory, position), predicate))

    # One access -----------------------------------------------------------------------------------

    def _load(
        self,
        registers: Value,
        offset: Value,
        memory: Value,
        at: tuple[Value, ...],
        width: int,
        p: Value | None,
        safe: float,
    ) -> None:
        b, buffer = self.b, self.buffer(memory)
        if p is not None and (not is_zeros(safe) or memory_type(memory).space is Space.SHARED):
            # Predicated accesses give zeros, and those of shared memory have no predicate.
            value = b.const(safe, memory_type(memory).dtype)
            b.emit(FillRegisters(registers, offset, value, count=width))
            with b.when(p):
                self._load(registers, offset, memory, at, width, None, 0)
        elif buffer is not None:
            b.emit(BufferLoad(registers, offset, buffer, at, truth_of(p), count=width))
        else:
            b.emit(VectorLoad(registers, offset, memory, at, predicate_of(p), count=width))

    def _store(
        self,
        memory: Value,
        at: tuple[Value, ...],
        registers: Value,
        offset: Value,
        width: int,
        p: Value | None,
    ) -> None:
        b, buffer = self.b, self.buffer(memory)
        if buffer is not None:
            b.emit(BufferStore(buffer, at, registers, offset, truth_of(p), count=width))
        elif p is not None and memory_type(memory).space is Space.SHARED:
            with b.when(p):
                b.emit(VectorStore(memory, at, registers, offset, (), count=width))
        else:
            b.emit(VectorStore(memory, at, registers, offset, predicate_of(p), count=width))

    def _load_element(
        self,
        registers: Value,
        offset: Value,
        memory: Value,
        at: tuple[Value, ...],
        p: Value | None,
        safe: float,
    ) -> None:
        b = self.b
        element = Load(memory, at, predicate_of(p), safe_value=safe, in_bounds=True)
        b.write(b.emit(element).result, registers, offset)

    def _store_element(
        self, memory: Value, at: tuple[Value, ...], registers: Value, offset: Value, p: Value | None
    ) -> None:
        b = self.b
        element = b.read(registers, offset)
        b.emit(Store(element, memory, at, predicate_of(p), in_bounds=True))

    def buffer(self, memory: Value) -> Value | None:
        """The bounds-checked view of a tensor, on machines that have one and where 32-bit offsets
        reach its end.
        """
        type_ = memory_type(memory)
        if (
            self.at_top is None
            or not self.context.target.buffer_loads
            or type_.space is not Space.GLOBAL
        ):
            return None
        if "*" in type_.shape or not is_below(memory, self.context):
            return None
        if memory not in self._buffers:
            self._buffers[memory] = self.at_top(lambda: self._make_buffer(memory))
        return self._buffers[memory]

    def _make_buffer(self, memory: Value) -> Value:
        b = self.b
        type_ = memory_type(memory)
        count: Value = b.const(1)
        if type_.strides is None:
            for dim in type_.shape:
                count = b.mul(count, extent_value(b, dim))
        else:
            for dim, stride in zip(type_.shape, type_.strides, strict=True):
                reach = b.mul(b.sub(extent_value(b, dim), 1), extent_value(b, stride))
                count = b.add(count, b.max(reach, 0))
        buffer = b.emit(MakeBuffer(memory, count)).result
        buffer.hint = f"{memory.hint}_buffer"
        return buffer


_Access = Callable[[tuple[Value, ...], Value, "Value | None"], None]
"""Emits the access at the given indices, for the registers `step` further, under a condition."""


def is_zeros(number: float) -> bool:
    """Whether all bits of a safe value are zero, as the machine's own is: those of -0.0 are not."""
    return number == 0 and math.copysign(1, number) > 0


def is_aligned(memory: Value, size: int, context: PassContext) -> bool:
    """Whether a tensor's base and rows are multiples of `size` bytes, as a fact of the launch."""
    type_ = memory_type(memory)
    promised = promised_elements(type_, context) * type_.dtype.bytes
    return context.facts.aligned(memory.hint, size, promised > 0 and promised % size == 0)


def is_whole(memory: Value, width: int, context: PassContext) -> bool:
    """Whether a vector of `width`, aligned to itself, is inside a tensor (whose rows are aligned to
    it too) where its first element is.
    """
    type_ = memory_type(memory)
    inner = type_.shape[-1]
    if type_.space is not Space.GLOBAL or width == 1:
        return True
    if isinstance(inner, int):
        return inner % width == 0
    if len(type_.shape) > 1:
        return True  # its rows are aligned, so its extent is a multiple
    return context.multiples.get(inner, 1) % width == 0


def promised_elements(type_: MemoryType, context: PassContext) -> int:
    """What the rows of a tensor are known to be multiples of, in elements, where the program makes a
    promise of one of its extents; else 0.
    """
    rows = rows_of(type_) or type_.shape
    counts = [d if isinstance(d, int) else context.multiples.get(d, 1) for d in rows]
    promises = any(isinstance(d, str) and d in context.multiples for d in rows)
    return math.gcd(*counts) if promises else 0


def is_below(memory: Value, context: PassContext) -> bool:
    """Whether a tensor takes less than 2^31 bytes: by its extents, or as a fact of the launch."""
    type_ = memory_type(memory)
    if all(isinstance(d, int) for d in (*type_.shape, *(type_.strides or ()))):
        return static_bytes(type_) < LIMIT_BYTES
    return context.facts.below(memory.hint, LIMIT_BYTES)


def static_bytes(type_: MemoryType) -> int:
    """The bytes of a memory whose extents and strides are all numbers."""
    extents = [int(d) for d in type_.shape]
    if type_.strides is None or 0 in extents:
        return math.prod(extents) * type_.dtype.bytes
    reach = sum((n - 1) * int(s) for n, s in zip(extents, type_.strides, strict=True))
    return (reach + 1) * type_.dtype.bytes


def rows_of(type_: MemoryType) -> tuple[Dim, ...]:
    """What must be multiples of a vector's elements for the rows of a tensor to be: its last
    extent, and the strides of the others.
    """
    if len(type_.shape) < 2:
        return ()
    return (type_.shape[-1], *(type_.strides or ())[:-1])


def _moved(b: IndexBuilder, indices: Sequence[Value], step: Value) -> tuple[Value, ...]:
    return (*indices[:-1], b.add(indices[-1], step)) if indices else ()


def _spans(indices: Sequence[Value], run: int) -> tuple[int, ...]:
    return (*(1 for _ in indices[:-1]), run)
