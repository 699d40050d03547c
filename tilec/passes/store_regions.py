"""Where the statements of a launch store into tensors, and whether two of them meet in an element.

A region is a box: in each dimension a start, affine in the loops around the statement, and an
extent. Two statements are apart if some dimension parts them in one trip of every loop around, and
parts the trips, too: there the start moves by at least what all of a trip covers.

    for 0, %n, 1 (%k) {
      copy %F[0, 0], %Y[%k * 64, 0] <shape = [64, 8]>      64 rows further on in each trip: apart
      copy %F[0, 0], %Z[%k * 32, 0] <shape = [64, 8]> }    half of it is written again

Resident blocks take logical blocks in turn, and those are apart by what a grid means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace

from ..ir.core import Access, Block, Op, Value, constant_of, walk
from ..ir.ops.control import For, HardwareBlock, If, Launch, Parallel, Role, Simt, While
from ..ir.ops.memory import Load, Store
from ..ir.ops.tile import Copy, StoreTile
from ..ir.rewrite import defining_ops
from ..locks import cached_property
from .affine import Affine, affine, depends
from .dependence import is_global

Known = bool | None
"""None: not known."""


def _any(results: Iterable[Known]) -> Known:
    found = set(results)
    return True if True in found else None if None in found else False


def _all(results: Iterable[Known]) -> Known:
    found = set(results)
    return False if False in found else None if None in found else True


@dataclass(frozen=True)
class _Span:
    """In one dimension: `extent` elements from `start` + `low` on."""

    start: Affine
    low: int
    extent: int

    @cached_property
    def terms(self) -> tuple[frozenset[object], frozenset[object]]:
        """What the start is the sum of, but for the constant."""
        return frozenset(self.start.coefficients.items()), frozenset(self.start.rest)

    def distance(self, other: _Span) -> int | None:
        """How much further on the other one begins, in one trip."""
        if self.terms != other.terms:
            return None
        return other.start.constant + other.low - self.start.constant - self.low


_Box = tuple[_Span | None, ...]
"""A span in each dimension; None where it is not known."""


class StoreRegions:
    """The regions that a launch's statements store to."""

    def __init__(self, launch: Launch, differing: Set[Value]) -> None:
        """`differing`: the values that two threads may see differently."""
        self.defined_by = defining_ops(launch.body)
        self.differing = differing
        self.around: dict[Op, tuple[For | While, ...]] = {}
        self.arms: dict[Op, dict[Op, int]] = {}
        """Of the branches around a statement that all threads take alike: which arm it is in."""
        self._boxes: dict[tuple[Op, Value], tuple[_Box, ...]] = {}
        self._enter(launch.body, (), {})

    def _enter(self, block: Block, loops: tuple[For | While, ...], arms: dict[Op, int]) -> None:
        for op in block.ops:
            self.around[op], self.arms[op] = loops, arms
            inner = (*loops, op) if isinstance(op, (For, While)) else loops
            alike = isinstance(op, If) and op.condition not in self.differing
            for number, region in enumerate(op.regions):
                self._enter(region, inner, {**arms, op: number} if alike else arms)

    def apart(self, first: Op, second: Op, tensor: Value) -> Known:
        """Whether no element of a tensor is written by both, in the same trips of the loops around
        them or in different ones. Of one statement: whether its trips are apart.
        """
        if self.around[first] != self.around[second]:
            return None
        alone = first is second or self._one_is_taken(first, second)
        return _all(
            _all([alone or _in_a_trip(a, b), *self._from_trip_to_trip(a, b, first)])
            for a in self.boxes(first, tensor)
            for b in self.boxes(second, tensor)
        )

    def _one_is_taken(self, first: Op, second: Op) -> bool:
        """Whether two statements with the same loops around are in two arms of a branch."""
        arms = self.arms[second]
        return any(arms.get(branch, arm) != arm for branch, arm in self.arms[first].items())

    def unordered(self, first: Op, second: Op, tensor: Value) -> bool:
        """Whether two statements may write a tensor in any order, or one in any order of its trips:
        they touch no element both. Of engines that is taken for granted where one line starts them,
        unless it is known to be false: a program that starts them itself also waits for them.
        """
        apart = self.apart(first, second, tensor)
        if apart is not None:
            return apart
        return first.loc == second.loc and all(
            effect.proxy == "async"
            for statement in (first, second)
            for op in statement.walk()
            for effect in op.effects()
            if effect.memory is tensor and effect.access is Access.WRITE
        )

    def is_the_blocks(self, op: Op, tensor: Value) -> bool:
        """Whether an op of a simt region loads or stores an element of a tensor, the same whichever
        thread does.
        """
        if not isinstance(op, (Load, Store)) or op.memory is not tensor:
            return False
        return self.differing.isdisjoint(op.indices)

    def _from_trip_to_trip(self, a: _Box, b: _Box, statement: Op) -> Iterator[Known]:
        loops = self.around[statement]
        both = [_joined(x, y) for x, y in zip(a, b, strict=True)] if loops else []
        for depth, loop in enumerate(loops):
            if not self._takes_blocks(loop):
                yield _any(self._steps_over(loop, loops[depth + 1 :], span) for span in both)

    def _takes_blocks(self, loop: For | While) -> bool:
        """Whether a resident block takes a logical block in each trip."""
        return isinstance(loop, For) and any(
            isinstance(op, HardwareBlock)
            and depends(loop.start, frozenset(op.results), self.defined_by)
            for op in self.defined_by.values()
        )

    def _steps_over(
        self, loop: For | While, inner: tuple[For | While, ...], span: _Span | None
    ) -> Known:
        """Whether each trip of a loop moves a span beyond all that the last one covered of it."""
        if span is None or isinstance(loop, While):
            return None
        inside = {value for op in walk(loop.body) for value in op.results}
        inside.update(
            param for op in (loop, *walk(loop.body)) for r in op.regions for param in r.params
        )
        if any(self._varies(value, inside) for _, value in span.start.rest):
            return None
        covered = span.extent
        for other in (op for op in inner if isinstance(op, For)):
            factor = span.start.coefficients.get(_index(other), 0)
            trips = _trips(other)
            if factor and trips is None:
                return None
            covered += abs(factor) * ((trips or 1) - 1) * _step(other)
        return abs(span.start.coefficients.get(_index(loop), 0)) * _step(loop) >= covered

    def _varies(self, value: Value, inside: set[Value]) -> bool:
        """Whether a value may differ from trip to trip of a loop that defines `inside`."""
        pending, seen = [value], set[Value]()
        while pending:
            value = pending.pop()
            if value in seen or value not in inside:
                continue
            seen.add(value)
            op = self.defined_by.get(value)
            if op is None or not op.pure or op.regions:
                return True
            pending += op.inputs
        return False

    def boxes(self, statement: Op, tensor: Value) -> tuple[_Box, ...]:
        """Where a statement, and what is in its regions, stores into a tensor."""
        key = statement, tensor
        if key not in self._boxes:
            self._boxes[key] = tuple(self._find(statement, tensor))
        return self._boxes[key]

    def _find(self, statement: Op, tensor: Value) -> Iterator[_Box]:
        within = _extents(statement)
        for op in statement.walk():
            match op:
                case Copy() if op.destination is tensor:
                    shape = dict(zip(op.destination_dims, op.shape, strict=True))
                    indices = op.destination_indices
                case StoreTile() if op.destination is tensor:
                    shape, indices = dict(zip(op.dims, op.region, strict=True)), op.indices
                case Store() if op.memory is tensor:
                    shape, indices = {}, op.indices
                case _:
                    if any(effect.memory is tensor for effect in op.effects()):
                        yield (None,) * len(tensor.type.shape)  # type: ignore[attr-defined]
                    continue
            yield tuple(
                self._span(index, shape.get(d, 1), within, self.around[statement])
                for d, index in enumerate(indices)
            )

    def _span(
        self, index: Value, extent: int, within: dict[Value, int | None],
        loops: tuple[For | While, ...],
    ) -> _Span | None:  # fmt: skip
        """The indices from `index` on that a statement covers in one trip of the loops around it."""
        counters = [
            _index(loop) for loop in loops if isinstance(loop, For) and not self._takes_blocks(loop)
        ]
        form = affine(index, frozenset((*within, *counters)), self.defined_by)
        if form is None:
            return None
        fixed = {*form.coefficients, *(value for _, value in form.rest)} - within.keys()
        if fixed & self.differing:  # each thread has a region of its own
            return None
        low = 0
        for variable, count in within.items():
            factor = form.coefficients.get(variable, 0)
            if factor and count is None:
                return None
            reach = factor * ((count or 1) - 1)
            low, extent = low + min(reach, 0), extent + abs(reach)
        kept = {v: f for v, f in form.coefficients.items() if v not in within}
        return _Span(replace(form, coefficients=kept), low, extent)


def shared_tensors(launch: Launch, regions: StoreRegions) -> set[Value]:
    """The tensors of which a statement of the launch writes elements that another one, or itself in
    another trip of a loop, reads or writes; those of atomics alone where they are of several kinds.
    In a simt region each store that all threads do alike is such a statement, too."""
    reads: set[Value] = set()
    updates: dict[Value, set[str]] = {}
    stores: dict[Value, list[Op]] = {}
    for op in _statements(launch.body):
        for inner in op.walk():
            for effect in inner.effects():
                memory = effect.memory
                if memory is None or not is_global(memory):
                    continue
                if effect.atomic:
                    updates.setdefault(memory, set()).add(effect.atomic)
                elif effect.access is Access.READ:
                    reads.add(memory)
                elif effect.access is Access.WRITE and op not in stores.setdefault(memory, []):
                    stores[memory].append(op)
    alike = [
        (tensor, [op for op in _stores(region) if regions.is_the_blocks(op, tensor)])
        for tensor, statements in stores.items()
        for region in statements
        if isinstance(region, Simt)
    ]
    others = reads | stores.keys()
    mixed = {tensor for tensor, kinds in updates.items() if tensor in others or len(kinds) > 1}
    return mixed | {
        tensor
        for tensor, writers in (*stores.items(), *alike)
        if tensor in reads
        or not all(
            regions.unordered(a, b, tensor) for n, a in enumerate(writers) for b in writers[n:]
        )
    }


def _statements(block: Block) -> Iterator[Op]:
    """The ops of a block, those in control flow in its place."""
    for op in block.ops:
        if isinstance(op, (For, While, If, Role)):
            for region in op.regions:
                yield from _statements(region)
        else:
            yield op


def _stores(statement: Op) -> Iterator[Op]:
    return (op for op in statement.walk() if isinstance(op, Store))


def _extents(statement: Op) -> dict[Value, int | None]:
    """The variables of nests, threads and loops in a statement, with how many values they take from 0
    on (None: not known)."""
    found: dict[Value, int | None] = {}
    for op in statement.walk():
        match op:
            case Parallel():
                found |= dict(zip(op.body.params, op.extents, strict=False))
            case Simt():
                found[op.body.params[0]] = op.threads
            case For():
                from_zero = constant_of(op.start) == 0 and _step(op) == 1
                found |= dict.fromkeys(op.body.params)
                found[_index(op)] = _trips(op) if from_zero else None
            case While():
                found |= dict.fromkeys((*op.condition.params, *op.body.params))
    return found


def _in_a_trip(a: _Box, b: _Box) -> Known:
    def parted(x: _Span | None, y: _Span | None) -> Known:
        distance = None if x is None or y is None else x.distance(y)
        if x is None or y is None or distance is None:
            return None
        return distance >= x.extent or -distance >= y.extent

    return _any(parted(x, y) for x, y in zip(a, b, strict=True))


def _joined(a: _Span | None, b: _Span | None) -> _Span | None:
    """The span of both."""
    distance = None if a is None or b is None else a.distance(b)
    if a is None or b is None or distance is None:
        return None
    first = min(0, distance)
    return _Span(a.start, a.low + first, max(a.extent, distance + b.extent) - first)


def _index(loop: For) -> Value:
    return loop.body.params[0]


def _step(loop: For) -> int:
    """How far the index moves from trip to trip, at least."""
    return abs(int(constant_of(loop.step) or 1))


def _trips(loop: For) -> int | None:
    """How many trips a loop takes; None where that is not known."""
    start, stop, step = map(constant_of, (loop.start, loop.stop, loop.step))
    if start is None or stop is None or not step:
        return None
    return len(range(int(start), int(stop), int(step)))
