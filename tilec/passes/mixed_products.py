"""Fragment loads among the matrix instructions of a trip, at even distances.

    for 0, 4, 1 <unroll = 0> (%j) { ldmatrix ... }    for 0, 32, 1 <unroll = 0> (%n) {
    for 0, 4, 1 <unroll = 0> (%i) { ldmatrix ... }      if %n % 2 == 0 && %n / 2 < 4 { ldmatrix ... }
    for 0, 4, 1 <unroll = 0> (%i) {               ->    if %n % 2 == 0 && 4 <= %n / 2 < 8 { ldmatrix ... }
      for 0, 8, 1 <unroll = 0> (%j) { mma ... } }       mma ... %n / 8 ... %n % 8 ... }

Loads that stand together wait for one another, and the products behind them for all: the C compiler
keeps the order of the text, since both are volatile asm. They fill the first half of the products,
so that the second half covers the latency of the last (docs/decisions.md 33). Of loads by elements,
which are more than the products, several stand before each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.clone import clone_op
from ..ir.core import Op, Value
from ..ir.ops.control import For, Yield
from ..ir.ops.nvidia import LdMatrix, Mma
from ..ir.ops.thread import VectorLoad
from .spread_copies import holds, unrolled_trips

FRAGMENT_LOADS = (LdMatrix, VectorLoad)
"""What loads the fragments of mma: by matrices, or by elements where those do not serve."""
SHARE = 2
"""One in so many of the products is without loads."""


@dataclass(frozen=True)
class _Runs:
    """`ops`, run once for each number below the product of `trips`; the indices of their loops are
    its digits, the last the fastest.
    """

    ops: tuple[Op, ...]
    indices: tuple[Value, ...] = ()
    trips: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        return math.prod(self.trips)

    def emit(self, b: Builder, number: Value) -> None:
        names: dict[Value, Value] = {}
        rest = self.count
        for index, trips in zip(self.indices, self.trips, strict=True):
            rest //= trips
            names[index], number = b.floordiv(number, rest), b.floormod(number, rest)
        for op in self.ops:
            b.emit(clone_op(op, names))


def mixed(load: Sequence[Op], multiply: Sequence[Op]) -> list[Op]:
    """The ops of `load` and `multiply`, which do not depend on each other, as one loop; one after
    the other where they are not loops of loads and one nest of products.
    """
    loads = [_runs(op) for op in load if holds(op, FRAGMENT_LOADS)]
    products = [_runs(op) for op in multiply if holds(op, Mma)]
    total = sum(runs.count for runs in loads)
    others = [op for op in (*load, *multiply) if not holds(op, (*FRAGMENT_LOADS, Mma))]
    if len(products) != 1 or total == 0:
        return [*load, *multiply]
    if not all(op.pure and not op.regions for op in others):
        return [*load, *multiply]
    b = Builder()
    b.extend(others)
    distance = max(products[0].count // (SHARE * total), 1)
    together = -(-total // products[0].count)
    with b.loop(0, products[0].count, hint="n", unroll=0) as n:
        turn = b.floordiv(n, distance)
        due = b.compare("eq", b.floormod(n, distance), 0)
        if together == 1:
            _emit_one(b, loads, turn, due)
        else:
            with b.loop(0, together, hint="l", unroll=0) as one:
                _emit_one(b, loads, b.add(b.mul(turn, together), one), due)
        products[0].emit(b, n)
    return list(b.ops)


def _emit_one(b: Builder, loads: Sequence[_Runs], number: Value, due: Value) -> None:
    """The load of a number among those of `loads`, if it is due and there is one."""
    first = 0
    for runs in loads:
        own = b.sub(number, first)
        inside = b.bit_and(b.compare("ge", own, 0), b.compare("lt", own, runs.count))
        with b.when(b.bit_and(due, inside)):
            runs.emit(b, own)
        first += runs.count


def _runs(op: Op) -> _Runs:
    """An op as runs of what stands in its unrolled loops, as deep as they hold nothing beside."""
    indices: list[Value] = []
    trips: list[int] = []
    ops: tuple[Op, ...] = (op,)
    while len(ops) == 1 and unrolled_trips(ops[0]):
        (loop,) = ops
        assert isinstance(loop, For)
        indices.append(loop.body.params[0])
        trips.append(unrolled_trips(loop))
        ops = tuple(inner for inner in loop.body.ops if not isinstance(inner, Yield))
    return _Runs(ops, tuple(indices), tuple(trips))
