"""Where a thread's registers lie in a tile, and whether indices lie in a tensor, as index
arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache

import numpy as np

from ..ir.build import Builder, Number
from ..ir.core import Value, constant, constant_of
from ..ir.dtypes import bool_, i32, i64, u32
from ..ir.layout import RegisterLayout, Term
from ..ir.ops.arith import element_dtype
from ..ir.ops.control import Symbol
from ..ir.ops.memory import memory_type
from ..ir.types import Dim, Space
from .index_builder import IndexBuilder
from .ranges import bounds_of


def coordinates(
    b: Builder, layout: RegisterLayout, thread: Value, register: Value | int
) -> tuple[Value, ...]:
    """The coordinates, one i32 a dimension, of a register of a thread. Numbers fold."""
    return tuple(
        add_up(b, layout.coordinate_terms(dim), {"thread": thread, "register": register})
        for dim in range(layout.rank)
    )


def add_up(b: Builder, terms: Sequence[Term], sources: dict[object, Number]) -> Value:
    """The sum of terms, with what they read given by `sources`."""
    total: Value = b.const(0)
    for term in terms:
        part = b.value(sources[term.source])
        if term.divisor != 1:
            part = b.floordiv(part, term.divisor)
        if term.modulus is not None:
            part = b.floormod(part, term.modulus)
        total = b.add(total, b.mul(part, term.scale))
    return total


def primary(b: Builder, layout: RegisterLayout, thread: Value) -> Value | None:
    """The bool that this thread holds the first copy of its part of a tile; None where there is one
    copy.
    """
    terms = layout.replica_terms()
    return b.compare("eq", add_up(b, terms, {"thread": thread}), 0) if terms else None


def shifted(
    b: Builder, start: Sequence[Value], dims: Sequence[int], place: Sequence[Value]
) -> tuple[Value, ...]:
    """Indices of the element at `place` of a region that runs along `dims` from `start`."""
    found = [index if element_dtype(index).bits >= 32 else b.cast(index, i32) for index in start]
    for dim, offset in zip(dims, place, strict=True):
        found[dim] = b.add(found[dim], b.cast(offset, element_dtype(found[dim])))
    return tuple(found)


# Bounds -------------------------------------------------------------------------------------------


def extent_value(b: Builder, dim: Dim) -> Value:
    """An extent as an i32."""
    return b.const(dim) if isinstance(dim, int) else b.emit(Symbol(label=dim)).result


def guard(
    b: IndexBuilder,
    memory: Value,
    indices: Sequence[Value],
    extents: Sequence[int] = (),
    counted: Counted | None = None,
) -> Value | None:
    """The bool that an access is inside a global tensor; None where that is proved, and for other
    memory.

    `extents`, one a dimension (1 where not given), is how many elements from the index on are
    accessed. `counted` says it of an element of a run in place of its last index.
    """
    type_ = memory_type(memory)
    if type_.space is not Space.GLOBAL:
        return None
    found: Value | None = None
    for position, (index, dim) in enumerate(zip(indices, type_.shape, strict=True)):
        span = extents[position] if extents else 1
        if counted is not None and position == len(indices) - 1:
            found = both(b, found, b.compare("lt", *counted))
            continue
        for condition in _inside(b, index, dim, span):
            found = both(b, found, condition)
    return found


Counted = tuple[Value, Value]
"""Which element of a run it is, and how many elements of its row there are from the run's first on."""


def left_of_row(b: IndexBuilder, memory: Value, first: Sequence[Value], run: int) -> Value | None:
    """How many elements of a row of a tensor there are from `first` on, by which each of a `run` of
    elements can be guarded: one number for all, where the index of each would be kept from the load
    of a tile to its store. None where nothing is to be guarded, or the number might overflow.
    """
    type_ = memory_type(memory)
    if type_.space is not Space.GLOBAL or not first or type_.shape[-1] == "*":
        return None
    index, dim = first[-1], type_.shape[-1]
    known = b.range_of(index)
    proved = isinstance(dim, int) and known.high + run <= dim
    if run == 1 or proved or known.low < 0 or element_dtype(index) != i32:
        return None
    return b.sub(extent_value(b, dim), index)


def _inside(b: IndexBuilder, index: Value, dim: Dim, span: int) -> Iterator[Value]:
    if dim == "*":
        return  # a view that the compiler made, with its own checks
    wide = i64 if element_dtype(index).bits > 32 or element_dtype(index) == u32 else i32
    known = b.range_of(index)
    index = b.cast(index, wide)
    if known.low < 0:
        yield b.compare("ge", index, 0)
    if isinstance(dim, int) and known.high + span <= dim:
        return
    if span == 1:
        yield b.compare("lt", index, b.cast(extent_value(b, dim), wide))
    elif known.high + span > bounds_of(wide)[1] and b.is_data(index):  # the sum might wrap
        yield b.compare("le", index, b.sub(b.cast(extent_value(b, dim), wide), span))
    else:
        yield b.compare("le", b.add(index, span), b.cast(extent_value(b, dim), wide))


def both(b: Builder, x: Value | None, y: Value | None) -> Value | None:
    """Logical and, where None is true."""
    if x is None or y is None:
        return y if x is None else x
    return b.both(x, y)


def within(b: IndexBuilder, place: Sequence[Value], extents: Sequence[int]) -> Value | None:
    """The bool that a place lies in a region of `extents`, if any are given; None where it does."""
    found: Value | None = None
    for index, extent in zip(place, extents, strict=False):
        if b.range_of(index).high >= extent:
            found = both(b, found, b.compare("lt", index, extent))
    return found


def predicate_of(condition: Value | None) -> tuple[Value, ...]:
    """A predicate operand: nothing where the condition always holds."""
    return () if condition is None or constant_of(condition) is True else (condition,)


def truth_of(condition: Value | None) -> Value:
    """A condition, where None is true."""
    return constant(True, bool_) if condition is None else condition


# Registers ----------------------------------------------------------------------------------------


@contextmanager
def register_loops(b: IndexBuilder, layout: RegisterLayout, vector: int = 1) -> Iterator[Value]:
    """Unrolled loops over the registers of a layout in runs of `vector`; gives the first register
    of the run.

    One loop a digit of the register index, so that coordinates are sums of multiples of loop
    variables.
    """
    total: Value = b.const(0)
    with ExitStack() as stack:
        for extent, stride in register_digits(layout, vector):
            index = stack.enter_context(b.unrolled(extent, hint="r"))
            total = b.add(total, b.mul(index, stride))
        yield total


@lru_cache(maxsize=1024)
def register_digits(layout: RegisterLayout, vector: int = 1) -> tuple[tuple[int, int], ...]:
    """(extent, stride) of the digits of the register index, outermost first, in units of `vector`
    registers.
    """
    digits = [d for dim in range(layout.rank) for d in layout.digits(dim) if d.source == "register"]
    found = []
    for digit in sorted(digits, key=lambda d: -d.stride):
        extent, stride = digit.extent, digit.stride
        if stride == 1 and vector > 1:
            assert extent % vector == 0, f"runs of {vector} registers in {layout}"
            extent, stride = extent // vector, vector
        if extent > 1:
            found.append((extent, stride))
    return tuple(found)


def apply_map(b: Builder, register: Value, numbers: Sequence[int]) -> Value:
    """numbers[register], as sums of digits of `register` times constants.

    `numbers` comes from layouts, whose modes make such a sum; checked for every register.
    """
    terms = mapping_terms(tuple(numbers))
    return b.add(add_up(b, terms, {"register": register}), numbers[0])


@lru_cache(maxsize=1024)
def mapping_terms(numbers: tuple[int, ...]) -> tuple[Term, ...]:
    """Terms over "register" whose sum is numbers[register] - numbers[0]."""
    terms: list[Term] = []
    divisor, size = 1, len(numbers)
    while divisor < size:
        step = numbers[divisor] - numbers[0]
        extent = size // divisor
        while extent > 1 and (
            size % (divisor * extent) or not _runs(numbers, divisor, extent, step)
        ):
            extent -= 1
        assert extent > 1, f"registers {numbers} are no sum of digits"
        last = divisor * extent == size
        terms.append(Term("register", divisor, None if last else extent, step))
        divisor *= extent
    register = np.arange(size)
    total = np.full(size, numbers[0])
    for term in terms:
        total = total + term.value(register)
    assert np.array_equal(total, np.asarray(numbers)), f"registers {numbers} are no sum of digits"
    return tuple(term for term in terms if term.scale)


def _runs(numbers: tuple[int, ...], divisor: int, extent: int, step: int) -> bool:
    return all(numbers[divisor * i] == numbers[0] + i * step for i in range(extent))
