"""Nests that gather: what a Parallel nest brings from anywhere in a tensor to a shared buffer, unchanged.

    parallel (%i, %j) <extents = [64, 64]> {
      %r = load %rows[%i]                          // index arithmetic and tables, as the program likes
      %p = compare %r, 0 <predicate = "ge">
      %x = load %X[%r, %j] ; %y = select %p, %x, 0.0
      store %y, %s[%i, %j] }

Such a nest does what a copy does, but for where its rows begin and which of them there are. Where the
elements of a run of iterations lie side by side on both sides, and are all there or all zeros, an asynchronous
copy can bring the run. Branches that only choose values, as an if_then_else makes them whose arms may be at
fault, are seen as what they choose: an arm computes the same where it does not count, if its divisions cannot fail.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Op, Value, at, constant_of, with_results
from ..ir.ops import arith
from ..ir.ops.arith import Select, is_harmless
from ..ir.ops.control import If, Parallel, Yield
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.rewrite import defining_ops
from .affine import depends
from .context import PassContext
from .dependence import is_global, is_shared
from .index_builder import IndexBuilder
from .lift_copies import find_corner
from .value_ranges import ValueRanges
from .vector_access import VectorAccess, is_zeros

COPY_BYTES = (4, 8, 16)  # that some machine copies at once


@dataclass(frozen=True)
class Gather:
    """The one load and the one store of a nest that gathers. An element is the tensor's where all
    `conditions` go as said, else zero.
    """

    load: Load
    store: Store
    conditions: tuple[tuple[Value, bool], ...]


def find_gather(nest: Op) -> Gather | None:
    """What a nest gathers; None where it does anything else."""
    if not isinstance(nest, Parallel) or nest.reads or nest.updates:
        return None
    ops = [op for op in nest.body.ops if not isinstance(op, Yield)]
    stores = [op for op in ops if isinstance(op, Store)]
    if len(stores) != 1 or any(op.regions for op in ops):
        return None
    if not all(op.pure or isinstance(op, Load) or op is stores[0] for op in ops):
        return None
    store, made_by = stores[0], defining_ops(nest.body)
    found = _moved(store.value, made_by)
    if found is None or store.predicate or not is_shared(store.memory):
        return None
    load, conditions = found
    tables = [op for op in ops if isinstance(op, Load) and op is not load]
    if not all(is_global(op.memory) and not op.predicate for op in (load, *tables)):
        return None
    if memory_type(load.memory).dtype != memory_type(store.memory).dtype:
        return None
    if not is_zeros(load.safe_value) or not _fills(store, nest, made_by):
        return None
    needed = (*load.indices, *(value for value, _ in conditions))
    moved = frozenset({load.result})
    if any(depends(value, moved, made_by) for value in needed):
        return None
    return Gather(load, store, conditions)


def straight(nest: Op, ranges: ValueRanges) -> Op:
    """The nest without branches, where these only choose values; else the nest as it is."""
    if not isinstance(nest, Parallel) or not any(op.regions for op in nest.body.ops):
        return nest
    b = Builder()
    known = ranges.without(defining_ops(nest.body))  # whose ranges are those where an arm counts
    chosen = all(_chosen(op, b, known, False) for op in nest.body.ops)
    return nest.replace(body=nest.body.with_ops(b.ops)) if chosen else nest


def _chosen(op: Op, b: Builder, ranges: ValueRanges, in_arm: bool) -> bool:
    """Emits an op, a branch as its arms and the values that it chooses; whether that can be."""
    if in_arm and not (op.pure or isinstance(op, (If, Load))):
        return False
    with at(op.loc):
        if not isinstance(op, If):
            b.emit(_total(op, b, ranges) if in_arm else op)
            return not op.regions
        for arm in (op.then, op.orelse):
            if not all(_chosen(inner, b, ranges, True) for inner in arm.ops[:-1]):
                return False
        ends = (op.then.ops[-1].inputs, op.orelse.ops[-1].inputs)
        for result, x, y in zip(op.results, *ends, strict=True):
            b.emit(with_results(Select(op.condition, x, y), (result,)))
        return bool(op.results)


def _total(op: Op, b: Builder, ranges: ValueRanges) -> Op:
    """A division that does not fail."""
    if not isinstance(op, arith.DIVISIONS) or is_harmless(op) or ranges.of(op.y).low > 0:
        return op
    return divided(op, op.y, ranges.of(op.y).low, b)


def divided(op: Op, divisor: Value, least: int, b: Builder) -> Op:
    """A division by `divisor`, which is `least` or more, or by 1 where that is 0."""
    if least >= 0:
        return op.replace(y=b.max(divisor, 1))
    return op.replace(y=b.select(b.compare("eq", divisor, 0), 1, divisor))


def _moved(
    value: Value, made_by: dict[Value, Op]
) -> tuple[Load, tuple[tuple[Value, bool], ...]] | None:
    """The load that a value is unless it is zero, and when it is."""
    match made_by.get(value):
        case Load() as load:
            return load, ()
        case Select(condition=condition, x=x, y=y):
            for kept, other, holds in ((x, y, True), (y, x, False)):
                number = constant_of(other)
                if number is not None and is_zeros(float(number)):
                    found = _moved(kept, made_by)
                    return found and (found[0], (*found[1], (condition, holds)))
    return None


def _fills(store: Store, nest: Parallel, made_by: dict[Value, Op]) -> bool:
    """Whether a nest stores to a box of its buffer, from numbers on, its last index along rows."""
    shape = [int(d) for d in memory_type(store.memory).shape]
    corner = find_corner(store.indices, nest.body.params, made_by)
    if corner is None:
        return False
    along, forms = corner
    extents = dict(zip(nest.body.params, nest.extents, strict=True))
    if any(variable not in along and extent != 1 for variable, extent in extents.items()):
        return False
    if along.get(nest.body.params[-1]) != len(shape) - 1:
        return False
    return all(
        not form.rest
        and form.constant >= 0
        and form.constant + math.prod(extents[v] for v in form.coefficients) <= whole
        for form, whole in zip(forms, shape, strict=True)
    )


# Runs ---------------------------------------------------------------------------------------------


def brings_runs(nest: Op, ranges: ValueRanges) -> bool:
    """Whether a nest gathers, and elements lie side by side in runs of 4 bytes or more, as far as its
    indices go.
    """
    nest = straight(nest, ranges)
    gather = find_gather(nest)
    return gather is not None and any(_runs(gather, nest, ranges, COPY_BYTES))


def run_of(nest: Op, ranges: ValueRanges, context: PassContext, sizes: Collection[int]) -> int:
    """Iterations along the last index that one copy of `sizes` bytes brings, of a nest without
    branches: as many as it can; 0 where none can. Asks for facts of the tensor only where the rest allows it.
    """
    gather = find_gather(nest)
    if gather is None:
        return 0
    access = VectorAccess(IndexBuilder(context.multiples), context)
    source = gather.load.memory
    for count in _runs(gather, nest, ranges, sizes):
        if access.limit(source) % count == 0 and access.whole(source, count):
            return count
    return 0


def _runs(gather: Gather, nest: Op, ranges: ValueRanges, sizes: Collection[int]) -> Iterator[int]:
    """The elements that copies of some sizes bring at once, the most first."""
    assert isinstance(nest, Parallel)
    buffer, along = memory_type(gather.store.memory), nest.extents[-1]
    together = buffer.layout.vector_width() if buffer.layout is not None else along
    for count in sorted({size // buffer.dtype.bytes for size in sizes} - {0}, reverse=True):
        if together % count == 0 == along % count and _Runs(nest, count, ranges).hold(gather):
            yield count


class _Runs:
    """What values are over a run of `count` iterations of a nest's last index, from a multiple of it
    on: the same in all; a `walk`, which begins at a multiple of it and goes up by one; or unknown.
    """

    def __init__(self, nest: Parallel, count: int, ranges: ValueRanges) -> None:
        self.count = count
        self.ranges = ranges
        self.walks: set[Value] = {nest.body.params[-1]}
        self.unknown: set[Value] = set()
        for op in nest.body.ops:
            self._op(op)

    def hold(self, gather: Gather) -> bool:
        """Whether a run of a gather is one copy."""
        *rows, last = gather.load.indices
        same = (*rows, *(value for value, _ in gather.conditions))
        if self.count == 1:  # elements of 4 bytes, from anywhere
            return True
        side_by_side = last in self.walks and gather.store.indices[-1] in self.walks
        return side_by_side and all(map(self._same, same))

    def _same(self, value: Value) -> bool:
        return value not in self.walks and value not in self.unknown

    def _multiple(self, value: Value) -> bool:
        return self._same(value) and self.ranges.is_multiple(value, self.count)

    def _divisor(self, value: Value) -> bool:
        return self._multiple(value) and self.ranges.of(value).low >= 0

    def _op(self, op: Op) -> None:
        if len(op.results) == 1 and not all(map(self._same, op.inputs)) and not self._stays(op):
            (self.walks if self._goes_on(op) else self.unknown).add(op.results[0])

    def _goes_on(self, op: Op) -> bool:
        """Whether an op makes a walk of a walk."""
        match op:
            case arith.Add(x=x, y=y):
                return any(a in self.walks and self._multiple(b) for a, b in ((x, y), (y, x)))
            case arith.Sub(x=x, y=y):
                return x in self.walks and self._multiple(y)
            case arith.FloorMod(x=x, y=y):
                return x in self.walks and self._divisor(y)
            case arith.Cast(x=x, dtype=dtype):
                wider = dtype.is_integer and dtype.bits >= arith.element_dtype(x).bits
                return x in self.walks and wider
        return False

    def _stays(self, op: Op) -> bool:
        """Whether an op makes of a walk what is the same all along it."""
        match op:
            case arith.FloorDiv(x=x, y=y):
                return x in self.walks and self._divisor(y)
            case arith.Compare(x=x, y=y) if op.predicate in ("lt", "ge"):
                return x in self.walks and self._multiple(y)
            case arith.Compare(x=x, y=y) if op.predicate in ("gt", "le"):
                return y in self.walks and self._multiple(x)
        return False
