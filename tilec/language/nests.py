"""Parallel nests that statements of the language stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..ir.build import scalar
from ..ir.core import Block, Value, constant, constant_of
from ..ir.dtypes import bool_, i32
from ..ir.ops.arith import BitAnd, Compare
from ..ir.ops.control import If, Parallel, Yield
from ..ir.ops.memory import Store, memory_type
from .trace import Trace


def each_in_parallel(
    trace: Trace, shape: tuple[int, ...], body: Callable[[tuple[Value, ...]], None]
) -> None:
    """`body` for every index of `shape`, in a Parallel nest."""
    extents = shape or (1,)
    indices = tuple(scalar(i32, name) for name, _ in zip("ijklmnop", extents, strict=False))
    with trace.builder.region() as ops:
        body(indices if shape else ())
    trace.builder.emit(Parallel((), (), Block(indices, (*ops, Yield(()))), extents=extents))


def store_to_part(
    trace: Trace, memory: Value, corner: Sequence[Value], extents: Sequence[int], value: Value
) -> None:
    """Sets a part of a fragment, from a corner of constant indices on, by a nest over all of it: an
    iteration has the element that it is at.
    """
    starts = [int(number) for number in map(constant_of, corner) if number is not None]
    shape = tuple(int(n) for n in memory_type(memory).shape)

    def where_inside(indices: tuple[Value, ...]) -> None:
        inside: Value = constant(True, bool_)
        for index, start, extent, size in zip(indices, starts, extents, shape, strict=True):
            for bound, predicate in ((start, "ge"), (start + extent, "lt")):
                if bound not in (0, size):
                    within = Compare(index, constant(bound, i32), predicate=predicate)
                    inside = trace.pure(BitAnd(inside, trace.pure(within)))
        with trace.builder.region() as ops:
            trace.builder.emit(Store(value, memory, indices))
        end = (Yield(()),)
        trace.builder.emit(If(inside, Block((), (*ops, *end)), Block((), end)))

    each_in_parallel(trace, shape, where_inside)
