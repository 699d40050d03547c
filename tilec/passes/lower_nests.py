"""Parallel nests and simt regions: code of single elements, run by the thread of its layout.

parallel %i, %j <layout = #l> {        for 0, 4, 1 (%r) <unroll = 0> {     // digits of #l
  %x = load %acc[%i, %j]         ->      for 0, 8, 1 (%v) <kind = "vectorized"> {
  store (mul %x, %s), %C[%i, %j]           %x = load %acc[%r * 8 + %v]
}                                          store (mul %x, %s), %C[..., ... + %v] } }
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..errors import LayoutConflict
from ..ir.core import Block, Op, Value, at, walk
from ..ir.layout import RegisterLayout
from ..ir.ops.arith import Not
from ..ir.ops.control import For, If, Parallel, Print, Simt, While, Yield
from ..ir.ops.memory import Atomic, ElementAccess, Load, Store, memory_type
from ..ir.ops.nvidia import CP_ASYNC_BYTES, CpAsync
from ..ir.types import Space
from .coordinates import apply_map, both, coordinates, guard, predicate_of, primary, register_loops
from .default_layouts import nest_vector
from .dependence import follows
from .gathers import find_gather
from .lower_copies import spread

if TYPE_CHECKING:
    from .lower_tiles import Lowering


def lower_simt(op: Simt, lowering: Lowering) -> None:
    """The body as it is, for this thread."""
    lowering.rename(op.body.params[0], lowering.thread())
    for inner in op.body.ops:
        if not isinstance(inner, Yield):
            lowering.nested(inner)


def lower_parallel(op: Parallel, lowering: Lowering) -> None:
    """The iterations of this thread, in loops over the registers of the nest's layout; of a nest that
    gathers asynchronously, runs of them.
    """
    if op.instruction:
        _by_cp_async(op, lowering)
        return
    rank = len(op.extents)
    tiles = dict(zip(op.body.params[rank:], (*op.reads, *op.results), strict=True))
    with _iterations(op, lowering, bool(tiles)) as (register, place, primary_copy):
        for param, index in zip(op.body.params[:rank], place, strict=True):
            lowering.rename(param, index)
        body = _Body(lowering, op, tiles, register, primary_copy)
        body.ops(op.body)


def _by_cp_async(op: Parallel, lowering: Lowering) -> None:
    """A copy for every run: from where its first element is, zeros where it has none. Neighbouring
    runs, and the same rows a step later, are often of the same lines, so these stay in L1.
    """
    gather, b = find_gather(op), lowering.b
    assert gather is not None and op.instruction == "cp_async", f"a nest by {op.instruction!r}"
    buffer = memory_type(gather.store.memory)
    together = buffer.layout.vector_width() if buffer.layout is not None else op.run
    run = math.gcd(op.run, together)
    size = run * buffer.dtype.bytes
    assert size in CP_ASYNC_BYTES, f"{buffer} keeps only {together} elements of a row together"
    moved = follows(op.body, (gather.load.result,))
    source, destination = lowering.values((gather.load.memory, gather.store.memory))
    with spread(lowering, op.extents, run) as place:
        for param, index in zip(op.body.params, place, strict=True):
            lowering.rename(param, index)
        for inner in op.body.ops:
            if inner not in (gather.load, gather.store) and moved.isdisjoint(inner.results):
                if not isinstance(inner, Yield):
                    lowering.nested(inner)
        at, to = lowering.values(gather.load.indices), lowering.values(gather.store.indices)
        inside = guard(b, source, at)
        for condition, holds in gather.conditions:
            value = lowering.value(condition)
            inside = both(b, inside, value if holds else b.pure(Not(value)))
        b.emit(CpAsync(destination, to, source, at, predicate_of(inside), size=size, reused=True))


@contextmanager
def _iterations(
    op: Parallel, lowering: Lowering, fragments: bool
) -> Iterator[tuple[Value, tuple[Value, ...], Value | None]]:
    """Loops over this thread's iterations: the register of the nest's layout, its indices, and
    whether to store, where copies of this thread's iterations run too.

    Copies are there to fill their own registers. A nest that fills none is run by the first alone:
    the others would read memory that this one is writing.
    """
    b, layout = lowering.b, op.layout
    if layout is None:
        assert not fragments, "a nest that uses tiles has a layout"
        vector = nest_vector(op, lowering.threads)
        with spread(lowering, op.extents, vector) as place:
            if vector == 1:
                yield b.const(0), place, None
                return
            with b.loop(0, vector, hint="v", kind="vectorized", unroll=0) as v:
                yield b.const(0), (*place[:-1], b.add(place[-1], v)), None
        return
    thread = lowering.thread()
    vector = _vector(op, layout)
    first = primary(b, layout, thread)
    alone = first is not None and not op.results
    if first is not None and not alone:
        _need_apart(op)
    with (
        b.when(first) if alone and first is not None else nullcontext(),
        register_loops(b, layout, vector) as start,
    ):
        stores = None if alone else first
        if vector == 1:
            yield start, coordinates(b, layout, thread, start), stores
            return
        with b.loop(0, vector, hint="v", kind="vectorized", unroll=0) as v:
            register = b.add(start, v)
            yield register, coordinates(b, layout, thread, register), stores


def _need_apart(op: Parallel) -> None:
    """Refuses a nest of several copies that reads memory which one of them writes."""
    stored = {
        i.memory
        for i in walk(op.body)
        if isinstance(i, (Store, Atomic))
        and memory_type(i.memory).space in (Space.GLOBAL, Space.SHARED)
    }
    for inner in walk(op.body):
        if isinstance(inner, Load) and inner.memory in stored:
            name = inner.memory.hint or "memory"
            raise LayoutConflict(
                "TLC0412",
                f"several threads run each iteration of this nest, as its fragments lie: one of them "
                f"writes {name}, and the others may read that before or after",
                loc=inner.loc,
                hint=f"fill the fragment in a nest of its own, before or after the one that writes "
                f"{name}; what {name} held before can be kept in a fragment",
            )


def _vector(op: Parallel, layout: RegisterLayout) -> int:
    """Iterations that are consecutive along the last index, where the nest touches memory that has
    vectors.
    """
    bits = [
        memory_type(inner.memory).dtype.bits
        for inner in walk(op.body)
        if isinstance(inner, ElementAccess)
        and memory_type(inner.memory).space in (Space.GLOBAL, Space.SHARED)
    ]
    if not bits:
        return 1
    return math.gcd(layout.vector_width(), max(1, 128 // min(bits)))


class _Body:
    """The body of a nest, with fragments as registers."""

    def __init__(
        self,
        lowering: Lowering,
        nest: Parallel,
        tiles: dict[Value, Value],
        register: Value,
        primary_copy: Value | None,
    ) -> None:
        self.lowering = lowering
        self.nest = nest
        self.tiles = tiles
        self.register = register
        self.primary = primary_copy
        self.indices = nest.body.params[: len(nest.extents)]

    def ops(self, block: Block) -> None:
        for op in block.ops:
            with at(op.loc), op.loc:
                self._op(op)

    def _op(self, op: Op) -> None:
        b = self.lowering.b
        match op:
            case Yield() if op is self.nest.body.terminator:
                return
            case Load() if op.memory in self.tiles:
                found = b.read(*self._register(op))
                found.hint = op.result.hint
                self.lowering.rename(op.result, found)
            case Store() if op.memory in self.tiles:
                b.write(self.lowering.value(op.value), *self._register(op))
            case Atomic() if self.primary is not None and op.fetch:
                raise LayoutConflict(
                    "TLC0409",
                    "several threads run each iteration of this nest, as its fragments lie, and "
                    "only one of them knows what an atomic gives",
                    loc=op.loc,
                    hint="do without return_prev, or read through shared memory",
                )
            case Store() | Atomic() if (
                self.primary is not None and memory_type(op.memory).space is not Space.LOCAL
            ):
                own = self.lowering.value(op.predicate[0]) if op.predicate else None
                self.lowering.nested(op.replace(predicate=predicate_of(both(b, own, self.primary))))
            case Print() if self.primary is not None:
                with b.when(self.primary):
                    self.lowering.nested(op)
            case For() | If() | While() if any(
                m in self.tiles for i in walk(op_block(op)) for m in i.inputs
            ):
                self._region(op)
            case For() | If() | While() if self.primary is not None:
                self._region(op)
            case _:
                self.lowering.nested(op)

    def _region(self, op: Op) -> None:
        """Control flow inside the nest, whose ops are treated as the nest's own."""
        lowering, b = self.lowering, self.lowering.b

        def inner(block: Block) -> Block:
            with b.region() as ops:
                self.ops(block)
            return Block(block.params, tuple(ops))

        if isinstance(op, For):
            start, stop, step = lowering.values((op.start, op.stop, op.step))
            b.assume(op.body.params[0], b.index_range(start, stop, step))
        new = op.map(lowering.value, inner)
        b.emit(new)
        for old, result in zip(op.results, new.results, strict=True):
            lowering.rename(old, result)

    def _register(self, op: Load | Store) -> tuple[Value, Value]:
        """The registers of a fragment, and which of them is the element that `op` accesses: the nest's
        register, mapped where the fragment has other dimensions.
        """
        assert self.nest.layout is not None
        tile = self.tiles[op.memory]
        dims = tuple(self.indices.index(i) if i in self.indices else None for i in op.indices)
        numbers = register_map(self.nest.layout, self.lowering.layout(tile), dims)
        return self.lowering.registers(tile), apply_map(self.lowering.b, self.register, numbers)


def op_block(op: Op) -> Block:
    """A block that holds just `op`."""
    return Block((), (op,))


@lru_cache(maxsize=512)
def register_map(
    nest: RegisterLayout, tile: RegisterLayout, dims: tuple[int | None, ...]
) -> tuple[int, ...]:
    """For each register of a nest's layout, the register of a tile that holds the element at
    indices `dims` of it (None: at 0).

    By enumeration: every thread must hold the elements of its own iterations, all in the same
    registers.
    """
    coords = nest.coords()
    zero = np.zeros(coords.shape[:-1], coords.dtype)
    places = np.stack([zero if d is None else coords[..., d] for d in dims], axis=-1)
    _, numbers = tile.owner(places)
    assert (numbers == numbers[:1]).all(), f"threads hold {tile} in different registers for {nest}"
    held = np.take_along_axis(tile.coords(), numbers[..., None], axis=1)
    assert np.array_equal(held, places), f"{tile} does not hold what iterations of {nest} use"
    return tuple(int(n) for n in numbers[0])
