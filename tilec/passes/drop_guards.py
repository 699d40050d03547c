"""Conditions that only say what the bounds of a tensor say again are dropped.

Needs: a program as the frontend leaves it, equal ops merged. Leaves: no comparison of an index with an
extent around stores that the bounds of their tensors drop there anyway, nor where what is chosen instead of
a load is what the load gives there. So a nest that is written with guards, as in other languages, is a copy,
or has vectors.

    %p = compare %r, %M lt                          %v = load %A[%r, %c]
    if %p {                                         store %v, %C[%r, %c]       // global [M, N]
      %v = load %A[%r, %c]                    ->
      store %v, %C[%r, %c] }
    %x = load %B[%r]                                %x = load %B[%r]           // global [M]
    %y = select %p, %x, 0.0

What then runs for all iterations is straight, cannot fail, and touches no element that it did not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..ir.core import Block, Op, Program, Value, at, constant, constant_of, walk
from ..ir.dtypes import bool_
from ..ir.ops.arith import (
    BitAnd,
    Cast,
    Compare,
    FloorDiv,
    FloorMod,
    Select,
    TruncDiv,
    TruncMod,
    element_dtype,
)
from ..ir.ops.control import If, Parallel, Symbol
from ..ir.ops.memory import Atomic, Load, Store, memory_type
from ..ir.rewrite import defining_ops
from ..ir.types import Space
from .context import PassContext
from .dependence import writes

_Access = Load | Store | Atomic


def drop_guards(program: Program, context: PassContext) -> Program:
    """Drops such conditions in every launch."""
    return program.with_body(_Guards(program).block(program.body))


class _Guards:
    """A program; `block` gives its blocks without them."""

    def __init__(self, program: Program) -> None:
        self.made_by = defining_ops(program.body)
        self.written = {memory for op in walk(program.body) for memory in writes(op)}
        self.extents = {  # of what nests count
            index: extent
            for op in walk(program.body)
            if isinstance(op, Parallel)
            for index, extent in zip(op.body.params, op.extents, strict=False)
        }
        self.names: dict[Value, Value] = {}

    def block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            new = op.map(lambda value: self.names.get(value, value), self.block)
            for before, after in zip(op.results, new.results, strict=True):
                if before is not after:
                    self.names[before] = after
                self.made_by[after] = new
            with at(op.loc):
                ops += self._without_guard(new)
        return block.with_ops(ops)

    def _without_guard(self, op: Op) -> Sequence[Op]:
        match op:
            case Select(condition=condition, x=x, y=y) if self._is_load(condition, x, y):
                self.names[op.result] = x
                return ()
            case BitAnd(x=x, y=y) if element_dtype(x) == bool_:
                for mask, condition in ((x, y), (y, x)):
                    if self._is_load(condition, mask, constant(False, bool_)):
                        self.names[op.result] = mask
                        return ()
            case If() if len(op.orelse.ops) == 1 and not op.results:
                return self._stores(op)
            case If():
                return self._either(op)
        return (op,)

    # What is guarded ------------------------------------------------------------------------------

    def _is_load(self, condition: Value, x: Value, y: Value) -> bool:
        """Whether `x` is a load that gives `y` wherever the condition does not hold."""
        made = self.made_by.get(x)
        load = self.made_by.get(made.x) if isinstance(made, Cast) else made
        if not isinstance(load, Load) or not _is_tensor(load):
            return False
        other, safe = constant_of(y), load.safe_value
        if other is None or other != safe or math.copysign(1, other) != math.copysign(1, safe):
            return False
        return (made is load or not safe) and not self._left(condition, [load])

    def _stores(self, op: If) -> Sequence[Op]:
        """Stores under a condition, without those terms of it that their bounds say."""
        *body, _ = op.then.ops
        stores = [inner for inner in body if isinstance(inner, Store | Atomic)]
        if not stores or not all(map(self._may_run, body)):
            return (op,)
        loads = [i for i in body if isinstance(i, Load) and i.memory in self.written]
        left = self._left(op.condition, [*stores, *(i for i in loads if _is_tensor(i))])
        if len(left) == len([*self._terms(op.condition)]):
            return (op,)
        if not left:
            return body
        conditions: list[Op] = []
        condition = left[0]
        for term in left[1:]:
            conditions.append(BitAnd(condition, term))
            condition = conditions[-1].result
        return (*conditions, op.replace(condition=condition))

    def _either(self, op: If) -> Sequence[Op]:
        """A load or the value that it gives outside, stored in one place or yielded."""
        (*then, end), (*orelse, other) = op.then.ops, op.orelse.ops
        places: tuple[object, ...] = ()
        if not op.results and then and orelse:
            end, other = then.pop(), orelse.pop()
            if not isinstance(end, Store) or not isinstance(other, Store):
                return (op,)
            places = ((end.memory, *end.indices), (other.memory, *other.indices))
            if places[0] != places[1] or end.predicate or other.predicate:
                return (op,)
        straight = [*then, *orelse]
        if any(isinstance(i, Store | Atomic) or not self._may_run(i) for i in straight):
            return (op,)
        pairs = [(end.value, other.value)] if places else zip(end.inputs, other.inputs, strict=True)  # type: ignore[attr-defined]
        if not all(self._is_load(op.condition, x, y) for x, y in pairs):
            return (op,)
        self.names.update(zip(op.results, end.inputs, strict=False))
        return (*straight, end) if places else straight

    def _may_run(self, op: Op) -> bool:
        """Whether an op may run where it was not asked for."""
        match op:
            case FloorDiv() | FloorMod() | TruncDiv() | TruncMod():
                return bool(constant_of(op.y)) or not element_dtype(op.y).is_integer
            case Load():
                return _is_tensor(op) or self._is_inside(op)
            case Store():
                return _is_tensor(op)
            case Atomic():
                return _is_tensor(op) and not op.fetch and op.kind not in ("load", "store")
        return op.pure and not op.regions

    def _is_inside(self, load: Load) -> bool:
        """Whether a load from other memory is inside of it, in every iteration of its nest."""

        def end(index: Value) -> float:
            number = constant_of(index)
            return self.extents.get(index, math.inf) if number is None else number + 1

        shape = memory_type(load.memory).shape
        return all(end(i) <= int(n) for i, n in zip(load.indices, shape, strict=True))

    # What the guard says --------------------------------------------------------------------------

    def _left(self, condition: Value, accesses: Sequence[_Access]) -> list[Value]:
        """The terms of a condition that may be false where one of the accesses is inside."""
        return [
            term
            for term in self._terms(condition)
            if not all(self._is_bound(term, access) for access in accesses)
        ]

    def _terms(self, condition: Value) -> Iterator[Value]:
        op = self.made_by.get(condition)
        if isinstance(op, BitAnd):
            yield from self._terms(op.x)
            yield from self._terms(op.y)
        else:
            yield condition

    def _is_bound(self, term: Value, access: _Access) -> bool:
        """Whether a term holds wherever an access is inside of its tensor."""
        op = self.made_by.get(term)
        if not isinstance(op, Compare) or op.predicate not in ("lt", "le", "gt", "ge"):
            return False
        low, high = (op.x, op.y) if op.predicate in ("lt", "le") else (op.y, op.x)
        strict = op.predicate in ("lt", "gt")
        for index, extent in zip(access.indices, memory_type(access.memory).shape, strict=True):
            first, last = constant_of(low), constant_of(high)
            if index is high and first is not None and first + strict <= 0:
                return True
            if index is low and isinstance(extent, int) and last is not None:
                if extent <= last + (not strict):
                    return True
            elif index is low and strict:
                symbol = self.made_by.get(high)
                if isinstance(symbol, Symbol) and symbol.label == extent:
                    return True
        return False


def _is_tensor(access: _Access) -> bool:
    """Whether what is outside is not stored, and loaded as a safe value."""
    return memory_type(access.memory).space is Space.GLOBAL and not access.predicate
