"""Fragment loads among the matrix instructions of a trip, at even distances.

    for 0, 4, 1 <unroll = 0> (%j) { ldmatrix ... }    for 0, 32, 1 <unroll = 0> (%n) {
    for 0, 4, 1 <unroll = 0> (%i) { ldmatrix ... }      if %n % 2 == 0 && %n / 2 < 4 { ldmatrix ... }
    for 0, 4, 1 <unroll = 0> (%i) {               ->    if %n % 2 == 0 && 4 <= %n / 2 < 8 { ldmatrix ... }
      for 0, 8, 1 <unroll = 0> (%j) { mma ... } }       mma ... %n / 8 ... %n % 8 ... }

Loads that stand together wait for one another, and the products behind them for all: the C compiler
keeps the order of the text, since both are volatile asm. They fill the first half of the products,
so that the second half covers the latency of the last (docs/decisions.md 33).
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
from .spread_copies import holds, unrolled_trips

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
    the other where they are not loops of loads and one nest of products, or the loads are more.
    """
    loads = [_runs(op) for op in load if holds(op, LdMatrix)]
    products = [_runs(op) for op in multiply if holds(op, Mma)]
    total = sum(runs.count for runs in loads)
    others = [op for op in (*load, *multiply) if not holds(op, LdMatrix) and not holds(op, Mma)]
    if len(products) != 1 or not 0 < total <= products[0].count:
        return [*load, *multiply]
    if not all(op.pure and not op.regions for op in others):
        return [*load, *multiply]
    b = Builder()
    b.extend(others)
    distance = max(products[0].count // (SHARE * total), 1)
    with b.loop(0, products[0].count, hint="n", unroll=0) as n:
        turn = b.floordiv(n, distance)
        due = b.compare("eq", b.floormod(n, distance), 0)
        first = 0
        for runs in loads:
            number = b.sub(turn, first)
            inside = b.bit_and(b.compare("ge", number, 0), b.compare("lt", number, runs.count))
            with b.when(b.bit_and(due, inside)):
                runs.emit(b, number)
            first += runs.count
        products[0].emit(b, n)
    return list(b.ops)


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
