"""A builder that knows what its integers are: their ranges, and their form as sums of multiples.

Divisions by constants are taken apart where the form allows it, so that index arithmetic over
threads, registers and unrolled loops comes out as (a part of the thread) + (multiples of loop
variables):

    (t * 8 + v) // 64, v in 0..8         ->    t // 8
    (i * 64 + t % 8 * 8 + v) % 64        ->    t % 8 * 8 + v
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..ir.build import Builder, Number, OpT
from ..ir.core import Op, Value, constant_of
from ..ir.dtypes import DType, i32
from ..ir.layout import SharedLayout
from ..ir.ops import arith
from ..ir.ops.control import For, HardwareBlock, Launch, Role, Symbol, ThreadId, WarpUniform
from ..ir.ops.memory import Alloc, Load, Store
from ..ir.rewrite import in_order
from ..ir.types import MemoryType, ScalarType, Space
from .linear_forms import Linear, division_of, remainder_of
from .ranges import NO_PROMISES, SYMBOL_LIMIT, Range, bounds_of
from .value_ranges import binary_range


class IndexBuilder(Builder):
    """A Builder that notes what it emits. Values from elsewhere are made known by `note` and
    `assume`.
    """

    def __init__(self, multiples: Mapping[str, int] = NO_PROMISES) -> None:
        super().__init__()
        self.multiples = multiples
        self.definitions: dict[Value, Op] = {}
        self.threads = 1024  # of the role whose code is built
        self._ranges: dict[Value, Range] = {}
        self._assumed: dict[Value, Range] = {}
        self._forms: dict[Value, Linear] = {}

    def child(self) -> IndexBuilder:
        """A builder of its own that knows what this one knows."""
        other = IndexBuilder(self.multiples)
        other.definitions.update(self.definitions)
        other._assumed.update(self._assumed)
        return other

    # What is known --------------------------------------------------------------------------------

    def emit(self, op: OpT) -> OpT:
        self.note(op)
        return super().emit(op)

    def extend(self, ops: Sequence[Op]) -> None:
        for op in ops:
            self.note(op)
        super().extend(ops)

    def note(self, op: Op) -> None:
        """Makes the definition of an op's results known."""
        for result in op.results:
            self.definitions[result] = op
            if result in self._forms:
                self._forms.clear()

    def assume(self, value: Value, known: Range) -> None:
        """Says in which range a value is, wherever it is used."""
        self._assumed[value] = known
        self._ranges.clear()

    @contextmanager
    def assuming(self, condition: Value) -> Iterator[None]:
        """Inside, `condition` holds: a comparison narrows what it compares."""
        before = {value: self._assumed.get(value) for value, _ in self._narrowed(condition)}
        for value, known in self._narrowed(condition):
            self._assumed[value] = known
        self._ranges.clear()
        yield
        for value, old in before.items():
            if old is None:
                del self._assumed[value]
            else:
                self._assumed[value] = old
        self._ranges.clear()

    def _narrowed(self, condition: Value) -> list[tuple[Value, Range]]:
        op = self.definitions.get(condition)
        if isinstance(op, arith.BitAnd):
            return [*self._narrowed(op.x), *self._narrowed(op.y)]
        if not isinstance(op, arith.Compare) or not arith.element_dtype(op.x).is_integer:
            return []
        y = self.range_of(op.y)
        low, high = bounds_of(arith.element_dtype(op.x))
        limits = {
            "lt": (low, y.high - 1),
            "le": (low, y.high),
            "gt": (y.low + 1, high),
            "ge": (y.low, high),
            "eq": (y.low, y.high),
        }.get(op.predicate)
        if limits is None or constant_of(op.x) is not None:
            return []
        return [(op.x, self.range_of(op.x).clipped(*limits))]

    def range_of(self, value: Value) -> Range:
        """A range that holds the integer `value`; arithmetic wraps."""
        if value not in self._ranges:
            for one in in_order(value, self._ranges, self._narrowing):
                self._ranges[one] = self._find_range(one)
        return self._ranges[value]

    def _narrowing(self, value: Value) -> tuple[Value, ...]:
        """The values whose ranges say in which range `value` is."""
        if value in self._assumed:
            return ()
        match self.definitions.get(value):
            case WarpUniform() as op:
                return (op.x,)
            case arith.Select() as op:
                return (op.x, op.y)
            case arith.Cast() as op if arith.element_dtype(op.x).is_integer:
                return (op.x,)
            case arith.Binary() as op if arith.element_dtype(op.result).is_integer:
                return (op.x, op.y)
        return ()

    def _find_range(self, value: Value) -> Range:
        assert isinstance(value.type, ScalarType)
        dtype = value.type.dtype
        number = constant_of(value)
        if number is not None:
            return Range.exactly(int(number))
        if value in self._assumed:
            return self._assumed[value]
        found = self._by_op(self.definitions.get(value))
        if found is None:
            return Range.everything(dtype)
        return found.wrapped(dtype)

    def _by_op(self, op: Op | None) -> Range | None:
        match op:
            case Symbol():
                return Range.between(0, SYMBOL_LIMIT, self.multiples.get(op.label, 1))
            case ThreadId():
                return Range.between(0, (1024 if op.launched else self.threads) - 1)
            case HardwareBlock():
                return Range.between(int(op.count), SYMBOL_LIMIT)
            case WarpUniform():
                return self.range_of(op.x)
            case arith.Select():
                return self.range_of(op.x).join(self.range_of(op.y))
            case arith.Cast() if arith.element_dtype(op.x).is_integer:
                return self.range_of(op.x)
            case arith.Binary() if arith.element_dtype(op.result).is_integer:
                y = self.range_of(op.y)
                y = _divisor(y) if isinstance(op, arith.DIVISIONS) else y
                return binary_range(op, self.range_of(op.x), y)
        return None

    def is_multiple(self, value: Value, divisor: int) -> bool:
        """Whether `value` is known to be a multiple of `divisor`."""
        form = self.form(value)
        ranges = [self.range_of(v).mul(Range.exactly(n)) for v, n in form.terms]
        return form.constant % divisor == 0 and all(r.is_multiple(divisor) for r in ranges)

    def is_data(self, value: Value) -> bool:
        """Whether a value is made of more than symbols, numbers of blocks and threads, and loop counters:
        then its sums may overflow (wrap_integers).
        """
        seen: set[Value] = set()
        work = [value]
        while work:
            current = work.pop()
            if current in seen or constant_of(current) is not None:
                continue
            seen.add(current)
            op = self.definitions.get(current)
            if isinstance(op, arith.Elementwise | WarpUniform):
                work += op.inputs
            elif not isinstance(op, Symbol | ThreadId | HardwareBlock) and (
                op is not None or current not in self._assumed
            ):
                return True
        return False

    # Forms ----------------------------------------------------------------------------------------

    def form(self, value: Value) -> Linear:
        """`value` as a sum, seen through additions and multiplications by constants."""
        number = constant_of(value)
        if number is not None:
            return Linear((), int(number))
        if value not in self._forms:
            for one in in_order(value, self._forms, self._addends):
                parts = self._summands(one)
                whole = Linear() if parts else Linear(((one, 1),))
                for part, factor in parts:
                    whole = whole.plus(self.form(part), factor)
                self._forms[one] = whole
        return self._forms[value]

    def _addends(self, value: Value) -> list[Value]:
        return [part for part, _ in self._summands(value) if constant_of(part) is None]

    def _summands(self, value: Value) -> tuple[tuple[Value, int], ...]:
        """What a value is the sum of, with factors; nothing of what is none."""
        match self.definitions.get(value):
            case arith.Add(x=x, y=y):
                return (x, 1), (y, 1)
            case arith.Sub(x=x, y=y):
                return (x, 1), (y, -1)
            case arith.Mul(x=x, y=y):
                for a, b in ((x, y), (y, x)):
                    factor = constant_of(b)
                    if factor is not None:
                        return ((a, int(factor)),)
            case arith.ShiftLeft(x=x, y=y):
                amount = constant_of(y)
                if amount is not None and 0 <= amount < 64:
                    return ((x, 1 << int(amount)),)
        return ()

    def build(self, form: Linear) -> Value:
        """The value of a form."""
        total: Value | None = None
        for value, factor in form.terms:
            part = self.mul(value, factor)
            total = part if total is None else self.add(total, part)
        return self.const(form.constant) if total is None else self.add(total, form.constant)

    # Memory ---------------------------------------------------------------------------------------

    def read(self, array: Value, *place: Value) -> Value:
        """An element of an array, which has it."""
        return self.emit(Load(array, place, in_bounds=True)).result

    def write(self, value: Value, array: Value, *place: Value) -> None:
        """Stores an element of an array, which has it."""
        self.emit(Store(value, array, place, in_bounds=True))

    def exchange_buffer(
        self, dtype: DType, shape: tuple[int, ...], hint: str, pad: int = 0
    ) -> Value:
        """New shared memory: row-major, `pad` elements between rows."""
        type_ = MemoryType(dtype, shape, Space.SHARED, SharedLayout.row_major(shape, pad=pad))
        memory = self.emit(Alloc(type=type_, managed=True)).result
        memory.hint = hint
        return memory

    # Division -------------------------------------------------------------------------------------

    def floordiv(self, x: Number, y: Number) -> Value:
        divisor = self._divisor(x, y)
        if divisor is None or not isinstance(x, Value):
            return super().floordiv(x, y)
        whole, rest = self.form(x).split(divisor)
        if rest.range(self.range_of).inside(0, divisor - 1):
            return self.build(whole)
        for unit, upper, _ in self._units(rest, divisor):
            return self.add(self.build(whole), self.floordiv(self.build(upper), divisor // unit))
        inner = self.as_division(x)
        if inner is not None:
            return self.floordiv(inner[0], inner[1] * divisor)
        if not whole.terms and not whole.constant:
            return super().floordiv(x, divisor)
        return self.add(self.build(whole), super().floordiv(self.build(rest), divisor))

    def floormod(self, x: Number, y: Number) -> Value:
        divisor = self._divisor(x, y)
        if divisor is None or not isinstance(x, Value):
            return super().floormod(x, y)
        whole, rest = self.form(x).split(divisor)
        if rest.range(self.range_of).inside(0, divisor - 1):
            return self.build(rest)
        for unit, upper, lower in self._units(rest, divisor):
            high = self.floormod(self.build(upper), divisor // unit)
            return self.add(self.mul(high, unit), self.build(lower))
        inner = self.as_modulo(x)
        if inner is not None and inner[1] % divisor == 0:
            return self.floormod(inner[0], divisor)
        return super().floormod(self.build(rest) if whole.terms or whole.constant else x, divisor)

    def _divisor(self, x: Number, y: Number) -> int | None:
        """The divisor, 2 or more, where x is an i32 whose form does not wrap."""
        number = y if isinstance(y, int) else constant_of(y)
        if number is None or number <= 1 or not isinstance(x, Value) or x.type != ScalarType(i32):
            return None
        return int(number) if self.form(x).range(self.range_of).inside(*bounds_of(i32)) else None

    def as_division(self, value: Value) -> tuple[Value, int] | None:
        """(x, n) where `value` is floor(x / n), n a positive constant."""
        return division_of(self.definitions.get(value), self.range_of)

    def as_modulo(self, value: Value) -> tuple[Value, int] | None:
        """(x, n) where `value` is x modulo n, n a positive constant."""
        return remainder_of(self.definitions.get(value), self.range_of)

    def _units(self, rest: Linear, divisor: int) -> Iterator[tuple[int, Linear, Linear]]:
        """Ways to see rest = unit * upper + lower, 0 <= lower < unit, with a unit that divides the
        divisor.
        """
        units = {math.gcd(factor, divisor) for _, factor in rest.terms} - {1, divisor}
        for unit in sorted(units, reverse=True):
            lower = Linear(rest.where(unit, divides=False).terms, rest.constant % unit)
            if lower.range(self.range_of).inside(0, unit - 1):
                upper = Linear(rest.where(unit, divides=True).terms, rest.constant - lower.constant)
                yield unit, upper.over(unit), lower

    # Structure ------------------------------------------------------------------------------------

    @contextmanager
    def loop(
        self,
        start: Number,
        stop: Number,
        step: Number = 1,
        *,
        hint: str = "i",
        kind: str = "serial",
        unroll: int = 1,
    ) -> Iterator[Value]:
        with super().loop(start, stop, step, hint=hint, kind=kind, unroll=unroll) as index:
            self.assume(
                index, self.index_range(self.value(start), self.value(stop), self.value(step))
            )
            yield index

    def index_range(self, start: Value, stop: Value, step: Value) -> Range:
        """The range of the index of a loop in its body."""
        first, last = self.range_of(start), self.range_of(stop).high - 1
        stride = self.range_of(step).mul(Range.between(0, 1 << 31))
        return (
            first.add(stride).clipped(first.low, max(first.low, last))
            if first.low <= last
            else first
        )

    @contextmanager
    def unrolled(
        self, count: int, hint: str = "i", limit: int = 1 << 30, by: int = 4
    ) -> Iterator[Value]:
        """A loop of `count` iterations, unrolled (above `limit` `by` at a time, or as many of it as leave
        no remainder); no loop where there is one iteration.
        """
        if count == 1:
            yield self.const(0)
            return
        unroll = 0 if count <= limit else math.gcd(count, by)
        with self.loop(0, count, hint=hint, unroll=unroll) as index:
            yield index

    @contextmanager
    def inside(self, op: Launch | Role) -> Iterator[None]:
        """In the body of a launch or role, whose threads and blocks are known."""
        outer, self.threads = self.threads, op.threads
        if isinstance(op, Launch):
            for param, extent in zip(op.body.params, op.grid, strict=True):
                blocks = min(self.range_of(extent).high, SYMBOL_LIMIT)
                self.assume(param, Range.between(0, max(0, blocks - 1)))
        self._ranges.clear()
        yield
        self.threads = outer
        self._ranges.clear()

    def enter_for(self, op: For) -> None:
        """Makes the range of a loop's index known, before its body is rebuilt."""
        index = op.body.params[0]
        self.assume(index, self.index_range(op.start, op.stop, op.step))


def _divisor(y: Range) -> Range:
    """What divides without a fault, where it is not known to be negative."""
    if y.low < 0 or y.number is not None:
        return y
    return Range.between(max(1, y.low), max(1, y.high))
