"""Fragments of which a Parallel nest accesses other elements than its iterations own go through
shared memory.

Needs: a program as the frontend leaves it, fragments as handles. Leaves: loads and stores of
fragments at loop variables, each along the whole of a dimension: the owner of an element runs the
iteration that is at it, and no other thread sees its registers. Other loads are from a copy in shared
memory; where there are other stores, the fragment is in shared memory throughout the nest.

                                             %s = alloc : shared i8[32, 32]
    parallel <extents = [32, 64]> {          copy %B[0, 0], %s[0, 0] <shape = [32, 32], …>
      %h = floordiv %j, 2                    parallel <extents = [32, 64]> {
      %x = load %B[%i, %h]            ->       %h = floordiv %j, 2
      … }                                      %x = load %s[%i, %h]
                                               … }

A fragment that the nest writes stays (and is refused where a layout is sought) unless each element is
seen to be written, and what it was to be read, by one iteration: iterations have no order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import LayoutConflict
from ..ir.core import Access, Block, Op, Program, Value, at, constant, walk
from ..ir.dtypes import i32
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Alloc, Load, Store, View, memory_type
from ..ir.ops.tile import Copy
from ..ir.rewrite import defining_ops
from ..ir.types import MemoryType, Space
from .context import PassContext
from .dependence import covers, reads
from .element_accesses import Accessed, element_accesses
from .fragment_tiles import Tiles, is_fragment
from .nest_accesses import along


def publish_fragments(program: Program, context: PassContext) -> Program:
    """Rewrites the nests of a program that read fragments so."""
    publisher = _Publisher(program)
    return program.with_body(publisher.block(program.body)) if publisher.copies else program


class _Publisher:
    """A program's fragments that are published, each with the alloc of its copy."""

    def __init__(self, program: Program) -> None:
        self.defined_by = defining_ops(program.body)
        views = {value: op for value, op in self.defined_by.items() if isinstance(op, View)}
        self.tiles = Tiles({}, views)
        self.copies: dict[Value, Alloc] = {}
        for nest in walk(program.body):
            if isinstance(nest, Parallel):
                for access in self.of_others(nest):
                    self.copies[access.memory] = _alloc(access.memory)

    def of_others(self, nest: Parallel) -> list[Load | Store]:
        """Accesses that go to shared memory: loads of what an iteration's thread may not hold, and
        all of a fragment that is stored to so."""
        by_fragment: dict[Value, list[Load | Store]] = {}
        for op in walk(nest.body):
            if isinstance(op, (Load, Store)) and is_fragment(op.memory):
                by_fragment.setdefault(self.tiles.fragment(op.memory), []).append(op)
        found: list[Load | Store] = []
        for accesses in by_fragment.values():
            others = [op for op in accesses if not _is_own(op, nest)]
            if not any(isinstance(op, Store) for op in accesses):
                found += others
            elif others and self.are_apart(nest, accesses):
                found += accesses
        return found

    def are_apart(self, nest: Parallel, accesses: Sequence[Load | Store]) -> bool:
        """Whether each element is written by one iteration, and read by no other."""
        stores = [op for op in accesses if isinstance(op, Store)]
        (memory, *others) = {op.memory for op in accesses}
        if others or not {op.indices for op in accesses} <= {op.indices for op in stores}:
            return False
        found = element_accesses(nest, memory, Access.WRITE, self.defined_by, certain=False)
        if len(found) != len(stores):  # there are atomics
            return False
        shape = tuple(int(n) for n in memory_type(memory).shape)
        count = np.zeros(shape, dtype=np.int64)
        for accessed in {op.indices: x for op, x in zip(stores, found, strict=True)}.values():
            if accessed is None or not _inside(accessed, shape):
                return False
            np.add.at(count, accessed.coordinates, 1)
        return bool((count <= 1).all())

    def block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if isinstance(op, Parallel):
                ops += self.nest(op)
            else:
                ops.append(op.map_regions(self.block))
            ops += [self.copies[result] for result in op.results if result in self.copies]
        return block.with_ops(ops)

    def nest(self, nest: Parallel) -> list[Op]:
        """The nest on copies, which are made before it, and loaded behind it where it writes them."""
        accesses = self.of_others(nest)
        copies = {id(op): self.copies[op.memory].result for op in accesses}

        def on_copies(block: Block) -> Block:
            return block.with_ops([one(op) for op in block.ops])

        def one(op: Op) -> Op:
            copy = copies.get(id(op))
            return op.map_regions(on_copies) if copy is None else op.replace(memory=copy)

        fragments = dict.fromkeys(op.memory for op in accesses)
        written = dict.fromkeys(op.memory for op in accesses if isinstance(op, Store))
        whole = {f for f in written if f not in reads(nest) and covers([nest], f, self.defined_by)}
        with at(nest.loc):
            before = [_copy(f, self.copies[f].result) for f in fragments if f not in whole]
            after = [_copy(self.copies[f].result, f) for f in written]
        return [*before, nest.replace(body=on_copies(nest.body)), *after]


def _inside(accessed: Accessed, shape: tuple[int, ...]) -> bool:
    return all(((x >= 0) & (x < n)).all() for x, n in zip(accessed.coordinates, shape, strict=True))


def _is_own(access: Load | Store, nest: Parallel) -> bool:
    try:
        along(access, nest)
    except LayoutConflict:
        return False
    return True


def _alloc(fragment: Value) -> Alloc:
    """Shared memory for a copy of a fragment."""
    type_ = memory_type(fragment)
    alloc = Alloc(type=MemoryType(type_.dtype, type_.shape, Space.SHARED))
    alloc.result.hint = fragment.hint
    return alloc


def _copy(source: Value, destination: Value) -> Copy:
    shape = tuple(int(extent) for extent in memory_type(source).shape)
    start, dims = (constant(0, i32),) * len(shape), tuple(range(len(shape)))
    return Copy(
        source, start, destination, start, shape=shape, source_dims=dims, destination_dims=dims
    )
