"""Simplifies integer arithmetic by what is known of its operands: ranges, divisibility, sums.

Needs nothing; may run at both levels and again; run `canonicalize` after it. Leaves no division by
a constant that the ranges decide, marks loads and stores that are provably inside, and decides
comparisons. Before and after, with %bx a block index and %t a thread of 128:

    %0 = mul %bx, 128 : i32                           |
    %1 = add %0, %t : i32                             |
    %2 = floordiv %1, 128 : i32                       |
    %3 = floormod %1, 128 : i32                       |
    %4 = floordiv %t, 8 : i32                         |  %4 = shift_right %t, 3 : i32
    %5 = floordiv %t, 12 : i32                        |  %5 = truncdiv %t, 12 : i32
    %6 = compare %3, 128 <predicate = "lt"> : bool    |
    %7 = load %S[%2, %3] : f16                        |  %7 = load %S[%bx, %t] : f16
    %8 = load %s[%4] : f16                            |  %8 = load %s[%4] <in_bounds> : f16

Powers of two become shifts and masks, which are floor division and modulo for every sign; other
divisors become C's `/` and `%` where the dividend is known not to be negative. Everything rests on
integers that wrap: a sum is only taken apart where no step of it can wrap, and only put together in
steps that cannot.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..ir.build import fold
from ..ir.core import Block, Constant, Op, Program, Value, at, constant
from ..ir.dtypes import bool_
from ..ir.ops import arith
from ..ir.ops.control import Symbol
from ..ir.ops.memory import ElementAccess
from ..ir.types import MemoryType, ScalarType
from .context import PassContext
from .linear_forms import Forms, Linear
from .ranges import NO_PROMISES, Range, bounds_of, difference_decides
from .value_ranges import Scope, integer_dtype


def simplify_indices(program: Program, context: PassContext) -> Program:
    """The program with its integer arithmetic simplified."""
    body = indices_simplified(program.body, program.multiples)
    return program if body is program.body else program.with_body(body)


def indices_simplified(block: Block, multiples: Mapping[str, int] = NO_PROMISES) -> Block:
    """A block with its integer arithmetic simplified; the block itself where nothing is.
    `multiples`: what symbols are promised to be multiples of.
    """
    return _Simplifier(multiples).block(block)


class _Simplifier:
    """Walks a program in order, emitting ops and learning what is known of their results."""

    def __init__(self, multiples: Mapping[str, int]) -> None:
        self._scope = Scope(multiples)
        self._forms = Forms(self._scope)
        self._mapping: dict[Value, Value] = {}
        self._out: list[Op] = []

    # Walking --------------------------------------------------------------------------------------

    def block(self, block: Block) -> Block:
        outer, self._out = self._out, []
        for op in block.ops:
            with at(op.loc):
                self._op(op)
        ops, self._out = self._out, outer
        return block.with_ops(ops)

    def _op(self, op: Op) -> None:
        mapped = op.map(lambda v: self._mapping.get(v, v))
        changed: dict[str, Block] = {}
        for name, kind in op.fields:
            if kind == "region":
                old = getattr(mapped, name)
                with self._scope.region(mapped, name):
                    new = self.block(old)
                if new is not old:
                    changed[name] = new
        if changed:
            mapped = mapped.replace(**changed)
        if isinstance(mapped, ElementAccess):
            mapped = self._in_bounds(mapped)
        self._stand_for(op, mapped)
        value = self._simplified(mapped)
        if value is None:
            self._emit(mapped)
        elif value is not mapped.result:
            value.hint = value.hint or op.result.hint
            self._mapping[op.result] = self._mapping[mapped.result] = value

    def _stand_for(self, op: Op, mapped: Op) -> None:
        for old, new in zip(op.results, mapped.results, strict=True):
            if old is not new:
                self._mapping[old] = new

    def _emit(self, op: Op) -> None:
        self._out.append(op)
        self._scope.learn(op)
        if len(op.results) == 1 and integer_dtype(op.result):
            self._forms.learn(op)

    def _make(self, op: Op) -> Value:
        """The value of a new op, emitted where it does not fold."""
        folded = fold(op)
        if folded is not None:
            return folded
        self._emit(op)
        return op.result

    # Integers -------------------------------------------------------------------------------------

    def _simplified(self, op: Op) -> Value | None:
        """What stands for an op's result; None to keep the op."""
        if not isinstance(op, arith.Elementwise) or not integer_dtype(op.result):
            return None
        if not all(map(integer_dtype, op.inputs)):
            return None
        folded = fold(op)
        if folded is not None:
            return folded
        known = self._known(op)
        if known is not None:
            type_ = op.result.type
            assert isinstance(type_, ScalarType)
            return constant(known, type_.dtype)
        match op:
            case arith.Add() | arith.Sub():
                return self._sum(op)
            case arith.Min() | arith.Max():
                return self._extreme(op)
            case arith.Compare():
                return self._compare(op)
            case arith.Binary():
                return self._division(op)
        return None

    def _known(self, op: Op) -> int | None:
        """The only value that an op can have."""
        exact = self._scope.exact(op)
        type_ = op.result.type
        assert isinstance(type_, ScalarType)
        return None if exact is None else exact.wrapped(type_.dtype).number

    def _sum(self, op: arith.Add | arith.Sub) -> Value | None:
        """A sum whose terms cancel, or that puts quotient and remainder together again."""
        whole = Linear().plus(self._forms.of(op.x))
        whole = whole.plus(self._forms.of(op.y), 1 if isinstance(op, arith.Add) else -1)
        type_ = op.result.type
        assert isinstance(type_, ScalarType)
        exact = self._scope.exact(op)
        if exact is None or not exact.inside(*bounds_of(type_.dtype)):
            return None
        form = self._forms.whole(whole)
        if not form.terms:
            return constant(form.constant, type_.dtype)
        if form is not whole or self._shrinks(op, form):
            return self._built(form, type_)
        return None

    def _shrinks(self, op: arith.Add | arith.Sub, form: Linear) -> bool:
        """Whether one term (and a constant) says what now takes two sums."""
        if len(form.terms) != 1 or form.terms[0][1] != 1:
            return False
        nested = any(isinstance(self._scope.defined_by.get(v), arith.Binary) for v in (op.x, op.y))
        return nested and form.terms[0][0] not in (op.x, op.y)

    def _extreme(self, op: arith.Min | arith.Max) -> Value | None:
        lower = self._decided("le", op.x, op.y)
        if lower is None:
            lower = self._decided("lt", op.x, op.y)
        if lower is None:
            return None
        return op.x if lower is isinstance(op, arith.Min) else op.y

    def _compare(self, op: arith.Compare) -> Value | None:
        known = self._decided(op.predicate, op.x, op.y)
        return None if known is None else constant(known, bool_)

    def _decided(self, predicate: str, x: Value, y: Value) -> bool | None:
        """What a comparison gives, by the range of the difference."""
        difference = self._forms.of(x).plus(self._forms.of(y), -1)
        known = difference_decides(predicate, self._range(difference))
        if known is None and self._scope.is_below(x, y):
            return {"lt": True, "le": True, "ne": True, "gt": False, "ge": False, "eq": False}[
                predicate
            ]
        return known

    def _range(self, form: Linear) -> Range:
        """The range of a form, and what its indices' bounds say of it."""
        found = form.range(self._scope.of)
        low, high = -self._most(form.times(-1)), self._most(form)
        return found.clipped(low, high) if low <= high else found

    def _most(self, form: Linear) -> int:
        """An upper bound of a form. An index i < n // c of a loop or grid is at most n // c - 1: so
        c * i is at most n - c, whatever n is."""
        found = form.range(self._scope.of).high
        for value, coefficient in form.terms:
            for bound in self._scope.above(value) if coefficient > 0 else ():
                division = self._forms.division(bound)
                if division is not None and coefficient % division[1] == 0:
                    form = form.plus(Linear(((value, coefficient),), coefficient), -1)
                    form = form.plus(self._forms.of(division[0]), coefficient // division[1])
                    break
        return min(found, self._joined(form).range(self._scope.of).high)

    def _joined(self, form: Linear) -> Linear:
        """The form with one value for all those of a symbol."""
        joined = Linear((), form.constant)
        for value, coefficient in form.terms:
            op = self._scope.defined_by.get(value)
            if isinstance(op, Symbol):
                value = self._scope.symbols[op.label][0]
            joined = joined.plus(Linear(((value, coefficient),)))
        return joined

    # Division -------------------------------------------------------------------------------------

    def _division(self, op: arith.Binary) -> Value | None:
        match op:
            case arith.FloorDiv() | arith.TruncDiv() | arith.ShiftRight():
                quotient = True
            case arith.FloorMod() | arith.TruncMod() | arith.BitAnd():
                quotient = False
            case _:
                return None
        divisor = self._divisor(op)
        if divisor is not None:
            if quotient:
                return self._quotient(op.x, divisor, op)
            return self._remainder(op.x, divisor, op)
        x, y = self._scope.of(op.x), self._scope.of(op.y)
        if x.low >= 0 and y.low >= 1:
            if isinstance(op, arith.FloorDiv):
                return self._make(arith.TruncDiv(op.x, op.y))
            if isinstance(op, arith.FloorMod):
                return self._make(arith.TruncMod(op.x, op.y))
        return None

    def _divisor(self, op: arith.Binary) -> int | None:
        """c where the op is floor(x / c) or x modulo c, c a positive constant."""
        if not isinstance(op.y, Constant) or isinstance(op.y.value, bool):
            return None
        number = int(op.y.value)
        match op:
            case arith.ShiftRight():
                return 1 << number if 0 <= number < 31 else None
            case arith.BitAnd():
                return number + 1 if number > 0 and number & (number + 1) == 0 else None
            case arith.TruncDiv() | arith.TruncMod():
                return number if number > 0 and self._scope.of(op.x).low >= 0 else None
        return number if number > 0 else None

    def _quotient(self, x: Value, divisor: int, op: Op | None = None) -> Value | None:
        """floor(x / divisor), with `op` doing that already: then None where it is the best form."""
        type_ = x.type
        assert isinstance(type_, ScalarType)
        inner = self._forms.division(x)
        if inner is not None and inner[1] * divisor <= bounds_of(type_.dtype)[1]:
            return self._quotient(inner[0], inner[1] * divisor)
        whole, rest = self._forms.of(x).split(divisor)
        small = rest.range(self._scope.of)
        if small.inside(0, divisor - 1):
            built = self._built(whole, type_)
            if built is not None:
                return built
        begin = len(self._out)
        split = self._split_quotient(x, divisor, whole, rest)
        if split is not None:
            return split
        del self._out[begin:]
        return self._divide(x, divisor, op)

    def _split_quotient(self, x: Value, divisor: int, whole: Linear, rest: Linear) -> Value | None:
        """whole + floor(rest / divisor), the fraction cancelled; None where that gains nothing."""
        rest = self._coarse(rest, divisor)
        common = math.gcd(divisor, *(c for _, c in rest.terms))
        if not whole.terms and common == 1:
            return None
        terms = tuple((v, c // common) for v, c in rest.terms)
        type_ = x.type
        assert isinstance(type_, ScalarType)
        reduced = self._built(Linear(terms, rest.constant // common), type_)
        if reduced is None or reduced is x:
            return None
        part = self._quotient(reduced, divisor // common)
        return None if part is None else self._built(whole.plus(self._forms.of(part)), type_)

    def _coarse(self, rest: Linear, divisor: int) -> Linear:
        """`rest` without what cannot change floor(rest / divisor): v of 8 u + v, for v below 8 and a
        divisor of 32.
        """
        units = {math.gcd(c, divisor) for _, c in rest.terms} - {1, divisor}
        for unit in sorted(units, reverse=True):
            upper, lower = rest.split(unit)
            if lower.range(self._scope.of).inside(0, unit - 1):
                return upper.times(unit)
        return rest

    def _remainder(self, x: Value, divisor: int, op: Op | None = None) -> Value | None:
        """x modulo divisor, with `op` doing that already: then None where it is the best form."""
        type_ = x.type
        assert isinstance(type_, ScalarType)
        inner = self._forms.remainder(x)
        if inner is not None and inner[1] % divisor == 0:
            return self._remainder(inner[0], divisor)
        whole, rest = self._forms.of(x).split(divisor)
        if rest.range(self._scope.of).inside(0, divisor - 1):
            built = self._built(rest, type_)
            if built is not None:
                return built
        if whole != Linear():
            built = self._built(rest, type_)
            if built is not None and built is not x:
                return self._modulo(built, divisor, None)
        return self._modulo(x, divisor, op)

    def _divide(self, x: Value, divisor: int, op: Op | None) -> Value | None:
        """floor(x / divisor) as one op; None where `op` is that op."""
        type_ = x.type
        assert isinstance(type_, ScalarType)
        cls: type[arith.Binary] = arith.FloorDiv
        number = divisor
        if divisor & (divisor - 1) == 0:
            cls, number = arith.ShiftRight, divisor.bit_length() - 1
        elif self._scope.of(x).low >= 0:
            cls = arith.TruncDiv
        return None if type(op) is cls else self._make(cls(x, constant(number, type_.dtype)))

    def _modulo(self, x: Value, divisor: int, op: Op | None) -> Value | None:
        """x modulo divisor as one op; None where `op` is that op."""
        type_ = x.type
        assert isinstance(type_, ScalarType)
        cls: type[arith.Binary] = arith.FloorMod
        number = divisor
        if divisor & (divisor - 1) == 0:
            cls, number = arith.BitAnd, divisor - 1
        elif self._scope.of(x).low >= 0:
            cls = arith.TruncMod
        return None if type(op) is cls else self._make(cls(x, constant(number, type_.dtype)))

    def _built(self, form: Linear, type_: ScalarType) -> Value | None:
        """A form as ops, none of which can wrap; None where there is no such order of them."""
        low, high = bounds_of(type_.dtype)
        if not low <= form.constant <= high or any(v.type != type_ for v, _ in form.terms):
            return None
        partial = Linear()
        terms = sorted(form.terms, key=lambda term: term[1] < 0)  # what is added comes first
        for step in (*(Linear((term,)) for term in terms), Linear((), form.constant)):
            partial = partial.plus(step)
            for sum_ in (step, partial):
                if not sum_.range(self._scope.of).inside(low, high):
                    return None
        if any(not low <= abs(c) <= high for _, c in terms):
            return None
        total: Value = constant(0, type_.dtype)
        for value, coefficient in terms:
            factor = constant(abs(coefficient), type_.dtype)
            product = self._make(arith.Mul(value, factor))
            cls = arith.Add if coefficient > 0 else arith.Sub
            total = self._make(cls(total, product))
        return self._make(arith.Add(total, constant(form.constant, type_.dtype)))

    # Memory ---------------------------------------------------------------------------------------

    def _in_bounds(self, op: ElementAccess) -> Op:
        """The access, marked where its indices are provably inside."""
        type_ = op.memory.type
        if op.in_bounds or not isinstance(type_, MemoryType):
            return op
        for index, extent in zip(op.indices, type_.shape, strict=True):
            known = self._scope.of(index)
            if known.low < 0:
                return op
            if isinstance(extent, int):
                if known.high >= extent:
                    return op
            elif not self._below_symbol(index, extent):
                return op
        return op.replace(in_bounds=True)

    def _below_symbol(self, index: Value, label: str) -> bool:
        """Whether a loop or condition around this point says that an index is below a symbol."""
        symbols = self._scope.symbols.get(label, ())
        return any(self._scope.is_below(index, value) for value in symbols)
