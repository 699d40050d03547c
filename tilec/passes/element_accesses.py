"""Which elements of a buffer the threads of a region touch, by enumeration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..ir.core import Access, Block, Op, Value, constant_of
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If, Parallel, Simt
from ..ir.ops.memory import Atomic, Load, Store

Array = np.ndarray[Any, Any]
MOST = 1 << 22  # iterations that are enumerated in reasonable time; more count as unknown


@dataclass(frozen=True)
class Accessed:
    """The coordinates (an array a dimension) that an access touches, and the number of the thread
    (of the first index of a Parallel nest) that does; all of shape (accesses,).
    """

    coordinates: tuple[Array, ...]
    thread: Array


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
    walk = _Enumeration(buffer, kind, defined_by, certain, [])
    block = region.body if branch is None else Block((), (branch,))
    walk.block(block, _Path(tuple(axes)))
    return walk.found


@dataclass(frozen=True)
class _Path:
    """How a statement is reached: the variables in force, the conditions and how they went, and
    whether that is all.
    """

    axes: tuple[tuple[Value, Array], ...]
    conditions: tuple[tuple[Value, bool], ...] = ()
    known: bool = True


@dataclass
class _Enumeration:
    buffer: Value
    kind: type[Load] | type[Store]
    defined_by: Mapping[Value, Op]
    certain: bool
    found: list[Accessed | None]

    def block(self, block: Block, path: _Path) -> None:
        for op in block.ops:
            match op:
                case Load() | Store() if isinstance(op, self.kind) and op.memory is self.buffer:
                    self.found.append(self.access(op.indices, path))
                case Atomic() if op.memory is self.buffer:
                    self.found.append(None)  # whose element it is, is not the question
                case For():
                    bounds = [constant_of(v) for v in (op.start, op.stop, op.step)]
                    known = path.known and all(b is not None for b in bounds)
                    index = np.arange(*(int(b or 0) for b in bounds)) if known else np.arange(0)
                    axes = (*path.axes, (op.body.params[0], index))
                    self.block(op.body, replace(path, axes=axes, known=known))
                case If():
                    for inner, holds in ((op.then, True), (op.orelse, False)):
                        taken = (*path.conditions, (op.condition, holds))
                        self.block(inner, replace(path, conditions=taken))
                case _:
                    for inner in op.regions:
                        self.block(inner, replace(path, known=path.known and not self.certain))

    def access(self, indices: tuple[Value, ...], path: _Path) -> Accessed | None:
        sizes = tuple(len(values) for _, values in path.axes)
        if not path.known or np.prod(sizes) > MOST:
            return None
        grid: dict[Value, Array] = {}
        for position, (variable, values) in enumerate(path.axes):
            shape = [1] * len(sizes)
            shape[position] = len(values)
            grid[variable] = values.reshape(shape).astype(np.int64)
        happens = np.ones(sizes, dtype=bool)
        for condition, holds in path.conditions:
            outcome = self.evaluate(condition, grid)
            if outcome is not None:
                happens &= outcome == holds
            elif self.certain:
                return None
        evaluated = [self.evaluate(index, grid) for index in indices]
        if any(e is None for e in evaluated):
            return None
        thread = np.broadcast_to(grid[path.axes[0][0]], sizes)[happens]
        return Accessed(
            tuple(np.broadcast_to(np.asarray(e), sizes)[happens] for e in evaluated), thread
        )

    def evaluate(self, value: Value, grid: dict[Value, Array]) -> Array | None:
        """The value over the whole grid, or None where it depends on anything else."""
        if value in grid:
            return grid[value]
        number = constant_of(value)
        if number is not None:
            return np.asarray(number)
        op = self.defined_by.get(value)
        if not isinstance(op, Elementwise):
            return None
        inputs = [self.evaluate(v, grid) for v in op.inputs]
        if any(i is None for i in inputs):
            return None
        result = np.asarray(op.evaluate(*inputs))
        grid[value] = result
        return result
