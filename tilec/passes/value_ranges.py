"""The ranges of the integers of a program, and what holds where: loop bounds, grids, conditions.

    ranges = value_ranges(program.body)
    ranges.of(index).inside(0, 127)

What is taken as given: a symbol is at least 0 and below `SYMBOL_LIMIT`; the index of a block is in
its grid, of a loop within its bounds, of a thread below the number of threads. Everything else
follows from the operands, as arithmetic that wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..ir.core import Block, Constant, Op, Value
from ..ir.ops import arith
from ..ir.ops.control import (
    Assume,
    For,
    HardwareBlock,
    If,
    Launch,
    Parallel,
    Role,
    Simt,
    Symbol,
    ThreadId,
    WarpUniform,
)
from ..ir.ops.pipeline import Pipeline
from ..ir.rewrite import in_order
from ..ir.types import ScalarType
from .ranges import NO_PROMISES, SYMBOL_LIMIT, Range

RangeOf = Callable[[Value], Range]
_GRID_LIMIT = 2**31 - 1
_NO_INDEX = 1 << 64


def integer_dtype(value: Value) -> bool:
    """Whether a value is one integer or bool."""
    type_ = value.type
    return isinstance(type_, ScalarType) and type_.dtype.kind in ("int", "uint", "bool")


@dataclass(frozen=True)
class ValueRanges:
    """The range of every integer of a block, wherever it is used."""

    ranges: Mapping[Value, Range]
    defined_by: Mapping[Value, Op]
    assumed: Mapping[Value, Range]
    indices: dict[Value, Range] = field(default_factory=dict, repr=False, compare=False)
    """What `of_index` has found."""

    def of(self, value: Value) -> Range:
        """The range of an integer or bool."""
        return self.ranges[value] if value in self.ranges else _unknown(value)

    def without(self, values: Collection[Value]) -> ValueRanges:
        """The same without what is known of some values."""
        kept = {value: known for value, known in self.ranges.items() if value not in values}
        return ValueRanges(kept, self.defined_by, self.assumed)

    def of_index(self, value: Value) -> Range:
        """The range of an integer whose arithmetic does not wrap: that of an index does not, as
        long as what it indexes is in a tensor.
        """
        for one in in_order(value, self.indices, self._operands):
            self.indices[one] = self._index_range(one)
        return self.indices[value]

    def _operands(self, value: Value) -> tuple[Value, ...]:
        """The operands whose ranges tell that of an index."""
        op = None if value in self.assumed else self.defined_by.get(value)
        known = isinstance(op, arith.Elementwise) and all(map(integer_dtype, op.inputs))
        return op.inputs if op is not None and known else ()

    def _index_range(self, value: Value) -> Range:
        if value in self.assumed:
            return self.assumed[value]
        op = self.defined_by.get(value)
        exact = exact_range(op, self.indices.__getitem__) if op is not None else None
        if exact is None or exact.low < -_NO_INDEX or exact.high > _NO_INDEX:
            return self.of(value)
        return exact

    def is_multiple(self, value: Value, divisor: int) -> bool:
        """Whether an integer is known to be a multiple of a positive number."""
        return self.of(value).is_multiple(divisor)


def value_ranges(block: Block, multiples: Mapping[str, int] = NO_PROMISES) -> ValueRanges:
    """The ranges of all integers that a block and its regions define. `multiples` is the program's:
    what its symbols are multiples of.
    """
    scope = Scope(multiples)

    def visit(inner: Block) -> None:
        for op in inner.ops:
            for name, kind in op.fields:
                if kind == "region":
                    with scope.region(op, name):
                        visit(getattr(op, name))
            scope.learn(op)

    visit(block)
    return ValueRanges(dict(scope.known), dict(scope.defined_by), dict(scope.assumed))


class Scope:
    """What is known at a point of a program while a pass walks it in order."""

    def __init__(self, multiples: Mapping[str, int] = NO_PROMISES) -> None:
        self.multiples = multiples
        self.known: dict[Value, Range] = {}
        self.defined_by: dict[Value, Op] = {}
        self.symbols: dict[str, list[Value]] = {}  # the values of a symbol
        self._refined: list[dict[Value, Range]] = []  # by the conditions around this point
        self._below: list[set[tuple[Value, Value]]] = []  # pairs x < y
        self._threads: list[tuple[int, int]] = []  # (of the role or launch, launched)
        self._home: dict[
            Value, dict[Value, Range]
        ] = {}  # the layer of `_refined` where it is defined
        self.assumed: dict[Value, Range] = {}  # what the block that defines a value assumes of it
        self._exact: dict[Op, Range | None] = {}  # what `exact` found since the last new condition

    def of(self, value: Value) -> Range:
        """The range of an integer or bool at this point."""
        if isinstance(value, Constant):
            return Range.exactly(int(value.value))
        for layer in reversed(self._refined):
            if value in layer:
                return layer[value]
        return self.known[value] if value in self.known else _unknown(value)

    def exact(self, op: Op) -> Range | None:
        """As `exact_range`, at this point."""
        if op not in self._exact:
            self._exact[op] = exact_range(op, self.of)
        return self._exact[op]

    def is_below(self, x: Value, y: Value) -> bool:
        """Whether a loop, a grid or a condition around this point says x < y. Where y is a symbol,
        any value of it counts.
        """
        symbol = self.defined_by.get(y)
        same = self.symbols[symbol.label] if isinstance(symbol, Symbol) else [y]
        return any((x, bound) in layer for layer in self._below for bound in same)

    def above(self, x: Value) -> Iterator[Value]:
        """What a loop, a grid or a condition around this point says is above x."""
        return (y for layer in self._below for lower, y in layer if lower is x)

    def learn(self, op: Op) -> None:
        """Takes in the results of an op."""
        if isinstance(op, Assume) and self._refined:
            layer = self._refined[-1]
            self._assume(op.condition, True, layer, self._below[-1])
            self._exact.clear()
            self.assumed.update({v: r for v, r in layer.items() if self._home.get(v) is layer})
        for value in op.results:
            self.defined_by[value] = op
            if self._refined:
                self._home[value] = self._refined[-1]
        if isinstance(op, Symbol):
            self.symbols.setdefault(op.label, []).append(op.result)
        if len(op.results) == 1 and integer_dtype(op.result):
            found = self._result(op)
            if found is not None:
                self.known[op.result] = found

    def _result(self, op: Op) -> Range | None:
        threads = self._threads[-1] if self._threads else (1024, 1024)
        match op:
            case Symbol():
                return Range.between(0, SYMBOL_LIMIT - 1, self.multiples.get(op.label, 1))
            case ThreadId():
                return Range.between(0, threads[1 if op.launched else 0] - 1)
            case HardwareBlock():
                return Range(1, _GRID_LIMIT) if op.count else Range(0, _GRID_LIMIT - 1)
            case WarpUniform():
                return self.of(op.x)
        return wrapped_range(op, self.exact(op))

    @contextmanager
    def region(self, op: Op, name: str) -> Iterator[None]:
        """Within: the facts of region `name` of an op, whose operands are known."""
        refined: dict[Value, Range] = {}
        below: set[tuple[Value, Value]] = set()
        threads = self._threads[-1] if self._threads else (1024, 1024)
        body: Block = getattr(op, name)
        match op:
            case Launch():
                threads = (op.threads, max(op.threads, op.launched_threads))
                for index, extent in zip(body.params, op.grid, strict=True):
                    self.known[index] = Range.between(0, self.of(extent).high - 1)
                    below.add((index, extent))
            case Role():
                threads = (op.threads, threads[1])
            case Simt():
                self.known[body.params[0]] = Range.between(0, op.threads - 1)
            case Parallel():
                for index, size in zip(body.params, op.extents, strict=False):
                    self.known[index] = Range.between(0, size - 1)
            case For() | Pipeline():
                self._loop(op, below)
            case If():
                self._assume(op.condition, name == "then", refined, below)
        self._refined.append(refined)
        self._below.append(below)
        self._threads.append(threads)
        self._exact.clear()
        yield
        self._exact.clear()
        self._refined.pop()
        self._below.pop()
        self._threads.pop()

    def _loop(self, op: For | Pipeline, below: set[tuple[Value, Value]]) -> None:
        step = self.of(op.step) if isinstance(op, For) else Range.exactly(1)
        if step.low < 1:
            return
        index = op.body.params[0]
        start, stop = self.of(op.start), self.of(op.stop)
        # Every index is start plus a multiple of step.
        grid = start.join(start.add(step)) if step.number is not None else Range(0, 1)
        self.known[index] = Range.between(start.low, stop.high - 1, grid.modulus, grid.residue)
        below.add((index, op.stop))

    def _assume(
        self,
        condition: Value,
        truth: bool,
        refined: dict[Value, Range],
        below: set[tuple[Value, Value]],
    ) -> None:
        op = self.defined_by.get(condition)
        match op:
            case arith.BitAnd() if truth and integer_dtype(op.x):
                self._assume(op.x, True, refined, below)
                self._assume(op.y, True, refined, below)
            case arith.BitOr() if not truth and integer_dtype(op.x):
                self._assume(op.x, False, refined, below)
                self._assume(op.y, False, refined, below)
            case arith.Not():
                self._assume(op.x, not truth, refined, below)
            case arith.Compare() if integer_dtype(op.x):
                predicate = op.predicate if truth else arith.NEGATED[op.predicate]
                self._compared(op.x, op.y, predicate, refined, below)
                self._compared(op.y, op.x, _SWAPPED[predicate], refined, below)

    def _compared(
        self,
        x: Value,
        y: Value,
        predicate: str,
        refined: dict[Value, Range],
        below: set[tuple[Value, Value]],
    ) -> None:
        """Takes in that `x predicate y`, for x."""
        if predicate == "lt":
            below.add((x, y))
        if isinstance(x, Constant):
            return
        old = refined.get(x, self.of(x))
        other = refined.get(y, self.of(y))
        match predicate:
            case "lt":
                refined[x] = old.clipped(old.low, other.high - 1)
            case "le":
                refined[x] = old.clipped(old.low, other.high)
            case "gt":
                refined[x] = old.clipped(other.low + 1, old.high)
            case "ge":
                refined[x] = old.clipped(other.low, old.high)
            case "eq":
                refined[x] = old.clipped(other.low, other.high)
                self._congruent(x, other, refined)

    def _congruent(self, x: Value, rest: Range, refined: dict[Value, Range]) -> None:
        """Takes in what x, if it is a remainder, says of what was divided."""
        op = self.defined_by.get(x)
        if not isinstance(op, arith.FloorMod) or isinstance(op.x, Constant):
            return
        divisor = self.of(op.y).number
        if divisor is not None and divisor > 1 and rest.number is not None:
            old = refined.get(op.x, self.of(op.x))
            if old.modulus <= divisor:
                refined[op.x] = Range.between(old.low, old.high, divisor, rest.number)


_SWAPPED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


def _unknown(value: Value) -> Range:
    type_ = value.type
    assert isinstance(type_, ScalarType), f"{type_} has no range"
    if isinstance(value, Constant):
        return Range.exactly(int(value.value))
    return Range.everything(type_.dtype)


def range_of(op: Op, of: RangeOf) -> Range | None:
    """The range of an elementwise op's integer result, wrapped to its dtype. None: all of it."""
    return wrapped_range(op, exact_range(op, of))


def wrapped_range(op: Op, exact: Range | None) -> Range | None:
    """The range of an op's integer result, given what it is if integers do not wrap."""
    type_ = op.result.type
    assert isinstance(type_, ScalarType)
    return None if exact is None else exact.wrapped(type_.dtype)


def exact_range(op: Op, of: RangeOf) -> Range | None:
    """The range that an op's result had if integers did not wrap. None where nothing is known."""
    if not isinstance(op, arith.Elementwise) or not all(map(integer_dtype, op.inputs)):
        return None
    match op:
        case arith.Select():
            condition = of(op.condition).number
            if condition is not None:
                return of(op.x if condition else op.y)
            return of(op.x).join(of(op.y))
        case arith.Cast():
            return of(op.x) if op.dtype.is_integer else None
        case arith.Neg():
            return of(op.x).neg()
        case arith.Abs():
            return of(op.x).abs()
        case arith.Compare():
            known = of(op.x).compare(op.predicate, of(op.y))
            return None if known is None else Range.exactly(int(known))
        case arith.Binary():
            return binary_range(op, of(op.x), of(op.y))
    return None


def binary_range(op: arith.Binary, x: Range, y: Range) -> Range | None:
    """The range of a binary op of integers in x and y, if they did not wrap. None: not known."""
    match op:
        case arith.Add():
            return x.add(y)
        case arith.Sub():
            return x.sub(y)
        case arith.Mul():
            return x.mul(y)
        case arith.FloorDiv():
            return x.floordiv(y)
        case arith.FloorMod():
            return x.floormod(y)
        case arith.TruncDiv():
            return x.floordiv(y) if x.low >= 0 else None
        case arith.TruncMod():
            return x.floormod(y) if x.low >= 0 else None
        case arith.Min():
            return x.min(y)
        case arith.Max():
            return x.max(y)
    return _bits(op, x, y)


def _bits(op: arith.Binary, x: Range, y: Range) -> Range | None:
    match op:
        case arith.BitAnd():
            return x.bit_and(y)
        case arith.BitOr() | arith.BitXor():
            return x.bit_or(y)
        case arith.ShiftLeft():
            return x.shift_left(y)
        case arith.ShiftRight():
            return x.shift_right(y)
    return None
