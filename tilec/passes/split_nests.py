"""Nests that fill fragments and write memory that they read become several.

Needs: a program as the frontend leaves it, fragments as handles. Leaves: no Parallel nest that
stores to a fragment and both loads from and stores to one place of shared or global memory, where
its statements can be told apart. Several threads may hold a fragment alike and all run the
iterations that fill it; memory is written by one of them, before or after the others have read it
(TLC0412). Iterations do not see one another, so all of them may run one statement before any runs
the next.

    parallel <extents = [32]> (%i) {         parallel <extents = [32]> (%i) {
      %0 = load %S[%i]                         %0 = load %S[%i]
      %1 = add %0, 1.0                         %1 = add %0, 1.0
      store %1, %S[%i]                  ->     store %1, %S[%i] }
      %2 = load %S[%i]                       parallel <extents = [32]> (%i) {
      store %2, %R[%i] }                       %2 = load %S[%i]
                                               store %2, %R[%i] }
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, permutations

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Program, at
from ..ir.ops.control import Parallel
from ..ir.ops.thread import Barrier
from .context import PassContext
from .dependence import is_global, is_statement, reads, slice_of, writes
from .fragment_tiles import is_fragment

_MOST_PARTS = 4  # whose orders are all tried


def split_nests(program: Program, context: PassContext) -> Program:
    """Splits every such nest of a program."""
    return program.with_body(_block(program.body))


def _block(block: Block) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Parallel):
            ops.extend(_split(op))
        else:
            ops.append(op.map_regions(_block))
    return block.with_ops(ops)


def _split(nest: Parallel) -> list[Op]:
    written = set(writes(nest))
    both = [memory for memory in written & set(reads(nest)) if not is_fragment(memory)]
    if not both or not any(map(is_fragment, written)):
        return [nest]
    parts = _in_order(_parts(nest.body.ops))
    if parts is None:
        return [nest]
    ops: list[Op] = []
    for part in parts:
        if ops and any(map(is_global, both)):
            with at(nest.loc):
                ops.append(Barrier())  # of shared memory place_barriers knows
        body = nest.body.with_ops([*part.body.values(), nest.body.ops[-1]])
        ops.append(clone_op(nest.replace(body=body), {}))
    return ops


@dataclass(frozen=True)
class _Part:
    """Statements that stay together, and `body`, those with what they are computed from; each op
    with its place in the nest."""

    statements: dict[int, Op]
    body: dict[int, Op]


def _parts(ops: Sequence[Op]) -> list[_Part]:
    """The statements in order, cut where those that write fragments and the others meet."""
    places = {id(op): place for place, op in enumerate(ops)}
    statements = [op for op in ops if is_statement(op)]
    parts = []
    for _, group in groupby(statements, lambda op: set(map(is_fragment, writes(op)))):
        own = list(group)
        body = slice_of(own, tuple(ops))
        parts.append(_Part({places[id(op)]: op for op in own}, {places[id(op)]: op for op in body}))
    return parts


def _in_order(parts: list[_Part]) -> list[_Part] | None:
    """An order in which every read finds what it found in one nest, the program's first; None where
    there is none, or a part is not fit to be a nest."""
    every = {place: part for part in parts for place in part.statements}
    for part in parts:
        kinds = {is_fragment(memory) for op in part.statements.values() for memory in writes(op)}
        if len(kinds) > 1 or any(every.get(place, part) is not part for place in part.body):
            return None
    if len(parts) > _MOST_PARTS:
        return None
    return next((list(order) for order in permutations(parts) if _keeps(order)), None)


def _keeps(order: Sequence[_Part]) -> bool:
    """Whether no op of a part comes to stand on another side of a write to what it accesses."""
    for i, part in enumerate(order):
        for j, other in enumerate(order):
            for place, op in part.body.items() if i != j else ():
                accessed = {*reads(op), *writes(op)}
                for write_place, write in other.statements.items():
                    if accessed & set(writes(write)) and (j < i) != (write_place < place):
                        return False
    return True
