"""Accesses of a loop that walk along consecutive elements, one iteration after the other, and what they
touch together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.core import Op, Value
from ..ir.ops.memory import ElementAccess
from .linear_forms import Linear


@dataclass(frozen=True)
class Run:
    """Accesses of a vectorised loop that walk along consecutive elements: number n of them, in
    iteration v, is at element v // shared * len(ops) + n.
    """

    ops: tuple[ElementAccess, ...]
    indices: tuple[Value, ...]  # of the first one at the loop's first iteration
    shared: int  # iterations that come to the same element, one after the other

    @property
    def op(self) -> ElementAccess:
        return self.ops[0]

    def length(self, count: int) -> int:
        """Its elements in `count` iterations."""
        return count // self.shared * len(self.ops)


@dataclass(frozen=True)
class Walk:
    """An access of a vectorised loop that goes `step` elements further every `shared` iterations."""

    op: ElementAccess
    forms: tuple[Linear, ...]  # its indices at the loop's first iteration
    step: int
    shared: int = 1

    def place(self, iteration: int) -> int:
        """How many elements behind the first one it is in an iteration."""
        return iteration // self.shared * self.step

    def follows(self, other: Walk, by: int) -> bool:
        """Whether it is `by` elements behind another one, and like it in all else."""
        *outer, last = self.forms
        *others, first = other.forms
        one, two = self.op, other.op
        return (
            (type(one), one.memory, one.predicate) == (type(two), two.memory, two.predicate)
            and (one.attributes, self.step) == (two.attributes, other.step)
            and (outer, last.terms, last.constant) == (others, first.terms, first.constant + by)
        )

    def is_apart(self, other: Walk, count: int) -> bool:
        """Whether both are in one row, and in `count` iterations come to no element of each other."""
        *outer, last = self.forms
        *others, first = other.forms
        alike = (self.op.memory, self.step) == (other.op.memory, other.step)
        far = abs(last.constant - first.constant) >= count * self.step
        return alike and far and (outer, last.terms) == (others, first.terms)


def apart_from(op: Op, walks: Sequence[Walk], count: int) -> set[Op]:
    """The accesses that come to no element that `op` comes to."""
    own = [walk for walk in walks if walk.op is op]
    return {other.op for mine in own for other in walks if other.is_apart(mine, count)}


def run_from(first: Walk, walks: Sequence[Walk]) -> tuple[ElementAccess, ...]:
    """The accesses that with `first` touch consecutive elements; none where one is missing."""
    found = [first.op]
    for by in range(1, first.step):
        found += [w.op for w in walks if w.follows(first, by)][:1]
    return tuple(found) if len(found) == first.step else ()
