"""Which elements of a buffer the threads of a region touch, by enumeration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..ir.core import Access, Block, Op, Value, constant_of
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If, Parallel, Simt
from ..ir.ops.memory import Atomic, Load, Store
from ..ir.rewrite import in_order
from ..ir.types import ScalarType
from .ranges import bounds_of
from .value_ranges import integer_dtype

Array = np.ndarray[Any, Any]
MOST = 1 << 22  # iterations that are enumerated in reasonable time; more count as unknown


@dataclass(frozen=True)
class Accessed:
    """The coordinates (an array a dimension) that an access touches, the number of the thread (of
    the first index of a Parallel nest) that does, and the trip of the loops around a branch in which
    it does; all of shape (accesses,).
    """

    coordinates: tuple[Array, ...]
    thread: Array
    trip: Array

    def inside(self, shape: Sequence[int]) -> Accessed:
        """Those that lie in a buffer: what a condition keeps from happening may lie outside, and so may
        what a program does wrong."""
        kept = np.all(
            [(c >= 0) & (c < n) for c, n in zip(self.coordinates, shape, strict=True)], axis=0
        )
        coordinates = tuple(c[kept] for c in self.coordinates)
        return Accessed(coordinates, self.thread[kept], self.trip[kept])


def element_accesses(
    region: Simt | Parallel,
    buffer: Value,
    access: Access,
    defined_by: Mapping[Value, Op],
    *,
    certain: bool = True,
    branch: If | None = None,
) -> list[Accessed | None]:
    """Every load or store of `buffer` in the region (in one branch of it), enumerated over threads
    and loop indices.

    None stands for an access whose indices or repetition depend on anything else. One under a
    condition that cannot be enumerated is None too where only `certain` accesses are asked for;
    else it counts as if the condition held.
    """
    if isinstance(region, Simt):
        axes = [(region.body.params[0], np.arange(region.threads))]
    else:
        axes = [(p, np.arange(n)) for p, n in zip(region.body.params, region.extents, strict=False)]
    kind = Store if access is Access.WRITE else Load
    walk = _Enumeration(buffer, kind, defined_by, certain, branch, [])
    walk.block(region.body, _Path(tuple(axes), inside=branch is None))
    return walk.found


@dataclass(frozen=True)
class _Path:
    """How a statement is reached: the variables in force (at the positions `trips` those of loops
    around the branch that is asked for), the loops whose bounds follow from these, the conditions
    and how they went, whether that is all, and whether it is in the branch.
    """

    axes: tuple[tuple[Value, Array], ...]
    trips: tuple[int, ...] = ()
    bounded: tuple[For, ...] = ()
    conditions: tuple[tuple[Value, bool], ...] = ()
    known: bool = True
    inside: bool = True

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(len(values) for _, values in self.axes)

    def grid(self) -> dict[Value, Array]:
        """Every variable's values along its own axis."""
        return {v: self._along(n, values) for n, (v, values) in enumerate(self.axes)}

    def trip(self) -> Array:
        """The number of the trip."""
        number = np.zeros((1,) * len(self.axes), np.int64)
        for axis in self.trips:
            extent = self.sizes[axis]
            number = number * extent + self._along(axis, np.arange(extent))
        return number

    def _along(self, axis: int, values: Array) -> Array:
        shape = [1] * len(self.axes)
        shape[axis] = len(values)
        return values.reshape(shape).astype(np.int64)


@dataclass
class _Enumeration:
    buffer: Value
    kind: type[Load] | type[Store]
    defined_by: Mapping[Value, Op]
    certain: bool
    branch: If | None
    found: list[Accessed | None]

    def block(self, block: Block, path: _Path) -> None:
        for op in block.ops:
            inside = path.inside or op is self.branch
            if not inside and not (op.regions and any(x is self.branch for x in op.walk())):
                continue
            here = path if inside == path.inside else replace(path, inside=inside)
            match op:
                case Load() | Store() if isinstance(op, self.kind) and op.memory is self.buffer:
                    self.found.append(self.access(op.indices, here))
                case Atomic() if op.memory is self.buffer:
                    self.found.append(None)  # whose element it is, is not the question
                case For():
                    self.block(op.body, self.loop(op, here))
                case If():
                    for inner, holds in ((op.then, True), (op.orelse, False)):
                        taken = (*here.conditions, (op.condition, holds))
                        self.block(inner, replace(here, conditions=taken))
                case _:
                    unknown = inside and self.certain
                    for inner in op.regions:
                        self.block(inner, replace(here, known=here.known and not unknown))

    def loop(self, op: For, path: _Path) -> _Path:
        """The path into a loop. The index of one around the branch may stay unknown."""
        grid, step = path.grid(), constant_of(op.step)
        start, stop = self.evaluate(op.start, grid), self.evaluate(op.stop, grid)
        if not path.known or step is None or start is None or stop is None:
            return replace(path, known=path.known and not path.inside)
        follows = start.size != 1 or stop.size != 1
        index = np.arange(0)
        if start.size and stop.size:
            index = np.arange(start.min(), stop.max(), 1 if follows else step)
        trips = path.trips if path.inside else (*path.trips, len(path.axes))
        axes = (*path.axes, (op.body.params[0], index))
        bounded = (*path.bounded, op) if follows else path.bounded
        return replace(path, axes=axes, trips=trips, bounded=bounded)

    def access(self, indices: tuple[Value, ...], path: _Path) -> Accessed | None:
        sizes = path.sizes
        if not path.known or np.prod(sizes) > MOST:
            return None
        grid = path.grid()
        happens = np.ones(sizes, dtype=bool)
        for op in path.bounded:
            start, stop = self.evaluate(op.start, grid), self.evaluate(op.stop, grid)
            index, step = grid[op.body.params[0]], constant_of(op.step)
            assert start is not None and stop is not None and step is not None
            happens &= (index >= start) & (index < stop) & ((index - start) % step == 0)
        for condition, holds in path.conditions:
            outcome = self.evaluate(condition, grid)
            if outcome is not None:
                happens &= outcome == holds
            elif self.certain:
                return None
        evaluated = [self.evaluate(index, grid) for index in indices]
        if any(e is None for e in evaluated):
            return None
        coordinates = tuple(np.broadcast_to(np.asarray(e), sizes)[happens] for e in evaluated)
        thread = np.broadcast_to(grid[path.axes[0][0]], sizes)[happens]
        return Accessed(coordinates, thread, np.broadcast_to(path.trip(), sizes)[happens])

    def evaluate(self, value: Value, grid: dict[Value, Array]) -> Array | None:
        """The value over the whole grid, or None where it depends on anything else."""
        return evaluated(value, grid, self.defined_by)


def evaluated(
    value: Value, grid: dict[Value, Array], defined_by: Mapping[Value, Op]
) -> Array | None:
    """What a value is where the grid's variables have the values that it says; None where it depends
    on anything else, or an integer that it is computed of wraps. What is found goes to the grid.
    """
    known: dict[Value, Array | None] = {**grid}

    def needs(value: Value) -> tuple[Value, ...]:
        op = defined_by.get(value)
        return op.inputs if isinstance(op, Elementwise) else ()

    for one in in_order(value, known, needs):
        op, number = defined_by.get(one), constant_of(one)
        known[one] = np.asarray(number) if number is not None else None
        inputs = [known[v] for v in needs(one)]
        if isinstance(op, Elementwise) and all(i is not None for i in inputs):
            found = np.asarray(op.evaluate(*inputs))
            if not wraps(one, found):
                known[one] = grid[one] = found
    return known[value]


def wraps(value: Value, found: Array) -> bool:
    """Whether numbers are no integers of the value's type."""
    if not integer_dtype(value) or found.size == 0:
        return False
    assert isinstance(value.type, ScalarType)
    low, high = bounds_of(value.type.dtype)
    return bool(found.min() < low or found.max() > high)
