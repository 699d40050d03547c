"""Sizes of a program's arguments that give its loops the trip counts at which plans go wrong.

An input is a symbol, a scalar parameter, an index of the block or the number of launched clusters.
The trip count of a loop is a function of the inputs, computed along the definitions of its bounds;
the value of an input that gives a wanted count is found by bisection, trip counts being monotone in
each. Counts that no input gives are left out: they cannot occur, as with constant bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...ir.core import Constant, Program, Value, constant_of
from ...ir.ops.control import For, HardwareBlock, Launch, Symbol
from ...ir.ops.pipeline import Pipeline
from ...ir.types import ScalarType
from .numbers import Number, compute
from .slicing import Slice

Input = tuple[str, str]
"""("symbol", "K"), ("parameter", "n"), ("block", "0"), ("clusters", "")."""
Sizes = dict[Input, int]

LARGEST = 1 << 24
TILES = (1, 2, 3)


ALTERNATING, VARIED = -1, -2


@dataclass
class Case:
    """One run of the abstract machine: the inputs, and what stands for numbers in global memory.

    `data` is what every element is, or by its position: ALTERNATING between 0 and 1, or VARIED up
    to `most`. `uses_data` is set by the machine when it asks.
    """

    sizes: Sizes
    parameters: Mapping[Value, int]  # those of the program's that count trips, as `sizes` has them
    data: int = 0
    most: int = 2
    uses_data: bool = field(default=False, compare=False)

    def element(self, indices: list[Number]) -> int:
        """The number at a place in global memory: the same in every role that reads it."""
        self.uses_data = True
        if self.data >= 0:
            return self.data
        position = sum(i if isinstance(i, int) else 0 for i in indices)
        return position % 2 if self.data == ALTERNATING else (3 * position + 1) % (self.most + 1)

    def unknown(self) -> int:
        """What stands for a number that the machine cannot follow."""
        return self.element([])

    def __str__(self) -> str:
        shown = [
            f"{name or kind} = {value}"
            for (kind, name), value in self.sizes.items()
            if kind != "block"
        ]
        if self.uses_data:
            names = {ALTERNATING: "0, 1, 0, ...", VARIED: f"numbers up to {self.most}"}
            shown.append(f"arrays of {names.get(self.data, self.data)}")
        return ", ".join(shown) or "any sizes"


def parameters_of(program: Program) -> dict[Value, Input]:
    """The program's scalar parameters as inputs."""
    return {
        param: ("parameter", param.hint or str(position))
        for position, param in enumerate(program.params)
        if isinstance(param.type, ScalarType)
    }


def input_of(program: Program, launch: Launch, part: Slice, value: Value) -> Input | None:
    """Which input a value is, if it is one."""
    op = part.definition(value)
    if isinstance(op, Symbol):
        return ("symbol", op.label)
    if isinstance(op, HardwareBlock):
        return ("clusters", "") if op.count else None
    if value in launch.body.params:
        return ("block", str(launch.body.params.index(value)))
    return parameters_of(program).get(value)


class Bounds:
    """Trip counts of the loops of a launch as functions of the inputs."""

    def __init__(self, program: Program, launch: Launch, part: Slice) -> None:
        self._program, self._launch, self._part = program, launch, part

    def default(self) -> Sizes:
        """Every symbol, parameter and count 1, block 0."""
        sizes: Sizes = {("symbol", name): 1 for name in self._program.symbols}
        sizes |= dict.fromkeys(parameters_of(self._program).values(), 1)
        sizes |= {("block", str(axis)): 0 for axis in range(len(self._launch.body.params))}
        sizes["clusters", ""] = 1
        return sizes

    def trips(self, loop: For | Pipeline, sizes: Sizes) -> int | None:
        """How often the loop's body runs, if that is known."""
        start, stop = self.value(loop.start, sizes), self.value(loop.stop, sizes)
        step = self.value(loop.step, sizes) if isinstance(loop, For) else 1
        if (
            not isinstance(start, int)
            or not isinstance(stop, int)
            or not isinstance(step, int)
            or step <= 0
        ):
            return None
        return max(0, -(-(stop - start) // step))

    def inputs(self, loop: For | Pipeline) -> list[Input]:
        """What the bounds depend on, symbols first."""
        found: dict[Input, None] = {}
        work = [loop.start, loop.stop, *([loop.step] if isinstance(loop, For) else [])]
        seen: set[Value] = set()
        while work:
            value = work.pop()
            if value in seen:
                continue
            seen.add(value)
            kind = input_of(self._program, self._launch, self._part, value)
            outer = self._part.loop_of(value)
            op = self._part.definition(value)
            if kind is not None:
                found[kind] = None
            elif outer is not None:
                work.append(outer.start)
            elif op is not None and op.pure:
                work.extend(op.inputs)
        order = ("symbol", "parameter", "clusters", "block")
        return sorted(found, key=lambda i: (order.index(i[0]), i[1]))

    def value(self, value: Value, sizes: Sizes) -> Number:
        """A scalar along its definitions; the index of a loop around it is its first value."""
        return self._value(value, sizes, {})

    def _value(self, value: Value, sizes: Sizes, made: dict[Value, Number]) -> Number:
        if isinstance(value, Constant):
            return value.value
        if value not in made:
            made[value] = self._made(value, sizes, made)
        return made[value]

    def _made(self, value: Value, sizes: Sizes, made: dict[Value, Number]) -> Number:
        kind = input_of(self._program, self._launch, self._part, value)
        if kind is not None:
            return sizes[kind] * (self._launch.cluster_blocks if kind[0] == "clusters" else 1)
        outer = self._part.loop_of(value)
        if outer is not None:
            return self._value(outer.start, sizes, made)
        op = self._part.definition(value)
        if isinstance(op, HardwareBlock):
            return 0
        if op is None or not op.pure or op.regions:
            return None
        return compute(op, [self._value(v, sizes, made) for v in op.inputs])

    def signature(self, loop: For | Pipeline) -> object:
        """What decides the trip count: equal for copies of one loop in several roles."""
        step = loop.step if isinstance(loop, For) else None
        return tuple(self._signature(v) for v in (loop.start, loop.stop, step) if v is not None)

    def _signature(self, value: Value) -> object:
        number = constant_of(value)
        op = self._part.definition(value)
        if number is not None:
            return number
        kind = input_of(self._program, self._launch, self._part, value)
        if kind is not None or op is None or not op.pure:
            outer = self._part.loop_of(value)
            return kind or (self.signature(outer) if outer is not None else id(value))
        attributes = tuple(str(a) for a in op.attributes.values())
        return (op.name, attributes, *(self._signature(v) for v in op.inputs))

    def solve(self, loop: For | Pipeline, count: int, sizes: Sizes) -> Sizes | None:
        """`sizes` with one input changed so that the loop runs `count` times; None if none does."""
        if self.trips(loop, sizes) == count:
            return sizes
        for name in self.inputs(loop):
            least = 1 if name[0] == "clusters" else 0
            found = self._bisect(loop, count, sizes, name, least)
            if found is not None:
                return found
        return None

    def _bisect(
        self, loop: For | Pipeline, count: int, sizes: Sizes, name: Input, least: int
    ) -> Sizes | None:
        def trips(x: int) -> int:
            known = self.trips(loop, {**sizes, name: x})
            return -1 if known is None else known

        low, high = least, 64
        while high < LARGEST and trips(high) <= max(count, trips(low)):
            high *= 8
        ends = trips(low), trips(high)
        if -1 in ends or not min(ends) <= count <= max(ends) or ends[0] == ends[1]:
            return None
        rising = ends[0] < ends[1]
        while low < high:
            middle = (low + high) // 2
            reached = trips(middle) >= count if rising else trips(middle) <= count
            low, high = (low, middle) if reached else (middle + 1, high)
        return {**sizes, name: low} if trips(low) == count else None


def counts_of(slots: set[int]) -> list[int]:
    """The trip counts of interest for rings of these lengths."""
    return sorted({0, 1, 2} | {n for s in slots for n in (s - 1, s, s + 1, 2 * s + 1)})


def counting_parameters(program: Program, launch: Launch, part: Slice) -> dict[Value, Input]:
    """The program's scalar parameters that bounds of loops depend on. What others decide, is decided
    either way, as by what global memory holds.
    """
    bounds = Bounds(program, launch, part)
    counting = {kind for loop in part.loops for kind in bounds.inputs(loop)}
    return {p: kind for p, kind in parameters_of(program).items() if kind in counting}


def data_of(program: Program, launch: Launch, part: Slice, slots: set[int]) -> list[int]:
    """What arrays may hold: conditions on and off; counts, if loops take theirs from arrays."""
    bounds = Bounds(program, launch, part)
    sizes = bounds.default()
    loops = [loop for loop in part.loops if launch in part.enclosing(loop)]
    if all(bounds.trips(loop, sizes) is not None for loop in loops):
        return [0, 1, ALTERNATING]
    return [*counts_of(slots), ALTERNATING, VARIED]


def cases_of(program: Program, launch: Launch, part: Slice, slots: set[int]) -> Iterator[Sizes]:
    """Sizes that give every loop the counts of interest; one set at least."""
    bounds = Bounds(program, launch, part)
    loops = [loop for loop in part.loops if launch in part.enclosing(loop)]
    varied = [loop for loop in loops if bounds.inputs(loop)]
    outer = {o for loop in varied for o in part.enclosing(loop) if isinstance(o, (For, Pipeline))}
    tiles = _distinct(bounds, [o for o in varied if o in outer])
    inner = _distinct(bounds, [i for i in varied if i not in outer])
    counts = counts_of(slots)
    seen: set[tuple[tuple[Input, int], ...]] = set()
    few = [0, 1, *(s + 1 for s in slots)]  # what two turns show, three show at more counts
    plans = [(count, few if count == 2 else counts) for count in TILES]
    plans += [(s + 1, [1]) for s in sorted(slots) if s + 1 not in TILES]  # round a ring by tiles
    for tile_count, inner_counts in plans if tiles else [(0, counts)]:
        for wanted in _sizes(bounds, tiles, inner, tile_count, inner_counts):
            key = tuple(sorted(wanted.items()))
            if key not in seen:
                seen.add(key)
                yield wanted
    if not seen:
        yield from _inner_sizes(bounds, inner, counts, bounds.default())


def _distinct(bounds: Bounds, loops: list[For | Pipeline]) -> list[For | Pipeline]:
    """One of each set of loops that always run equally often."""
    return list({bounds.signature(loop): loop for loop in loops}.values())


def _sizes(
    bounds: Bounds,
    tiles: list[For | Pipeline],
    inner: list[For | Pipeline],
    tile_count: int,
    counts: list[int],
) -> Iterator[Sizes]:
    """Sizes that run the outer loops `tile_count` times, and the inner ones each of `counts`."""
    sizes: Sizes | None = bounds.default()
    for loop in tiles:
        sizes = bounds.solve(loop, tile_count, sizes) if sizes is not None else None
    if sizes is not None:
        yield from _inner_sizes(bounds, inner, counts, sizes)


def _inner_sizes(
    bounds: Bounds, loops: list[For | Pipeline], counts: list[int], sizes: Sizes
) -> Iterator[Sizes]:
    found = False
    for loop in loops:
        for count in counts:
            wanted = bounds.solve(loop, count, sizes)
            if wanted is not None:
                found = True
                yield wanted
    if not found:
        yield sizes
