"""A loop that takes a branch from some iteration on, in every block, becomes two: one without the branch,
and one for the rest.

Needs: gemms overlapped, tile level. Leaves: in a loop with asynchronous gemms, whose body has an `if` on
how far it has come, against a number that differs between blocks, a `while` that runs as long as the
condition does not hold, with what the `if` does otherwise in its place; behind it the loop as it was, from
there on.

    %r = for 0, %n, 1, [%a] (%k, %x) {        %i, %m = while [0, %a] (%k, %x) { %k < %n and %k * 128 <= %s }
      %p = %k * 128 > %s                 ->       do (%k, %x) { ... ; yield %k + 1, %z }
      %y = if %p { ... } { yield %x }         %r = for %i, %n, 1, [%m] (%k, %x) { as before }
      yield %z }

The first loop tests the condition itself, so that nothing is assumed of it: that it holds from then on is
only why it pays. Where it is the same in all blocks, it is the ragged end of a tensor, which few of
them come to: one loop is faster then (docs/decisions.md 59 has the times).
"""

from __future__ import annotations

from ..ir.build import Builder, fresh
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at
from ..ir.ops.arith import NEGATED, Compare
from ..ir.ops.control import For, If, Launch, While, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..locks import cached_property
from .affine import affine
from .context import PassContext
from .dependence import slice_of
from .uniformity import differing_between_blocks

GROWING = {"gt": 1, "ge": 1, "lt": -1, "le": -1}
"""Comparisons x ? y that come to hold as x - y grows (1) or falls (-1)."""


def split_loops(program: Program, context: PassContext) -> Program:
    """Splits the loops of every launch that this is for."""
    return map_launches(program, lambda launch: _Splitting(launch).run())


class _Splitting:
    """One launch; `run` gives it with its loops split."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    @cached_property
    def differing(self) -> set[Value]:
        """What differs between blocks."""
        return differing_between_blocks(self.launch.body, self.launch.body.params)

    def run(self) -> Op:
        return self.launch.map_regions(self._block)

    def _block(self, block: Block) -> Block:
        b = Builder()
        for op in block.ops:
            branch = _branch(op) if isinstance(op, For) else None
            if isinstance(op, For) and branch is not None and self._is_own(branch.condition, op):
                with at(op.loc):
                    _split(b, op, branch)
            else:
                b.emit(op.map_regions(self._block))
        return block.with_ops(b.ops)

    def _is_own(self, condition: Value, loop: For) -> bool:
        """Whether each block has its own iteration at which the condition begins to hold."""
        test = next(op for op in loop.body.ops if condition in op.results)
        needed = slice_of([test], loop.body.ops)
        inside = {*loop.body.params, *(v for op in needed for v in op.results)}
        return any(v in self.differing for op in needed for v in op.inputs if v not in inside)


def _branch(loop: For) -> If | None:
    """The first branch of the body that the loop begins to take at some iteration."""
    body = loop.body.ops
    if not any(isinstance(op, Gemm) and op.asynchronous for op in body):
        return None
    return next((op for op in body if isinstance(op, If) and _begins(op, loop)), None)


def _begins(branch: If, loop: For) -> bool:
    """Whether a condition is a comparison of scalars that comes to hold as the loop goes on."""
    defined_by = {v: op for op in loop.body.ops for v in op.results}
    test = defined_by.get(branch.condition)
    if not isinstance(test, Compare) or test.predicate not in GROWING:
        return False
    if not all(op.pure for op in slice_of([test], loop.body.ops)):
        return False
    index = loop.body.params[0]
    sides = [affine(v, frozenset({index}), defined_by) for v in (test.x, test.y)]
    if sides[0] is None or sides[1] is None:
        return False
    slope = sides[0].coefficients.get(index, 0) - sides[1].coefficients.get(index, 0)
    return slope * GROWING[test.predicate] > 0


def _split(b: Builder, loop: For, branch: If) -> None:
    """Emits the loop up to where the branch is taken, and the loop from there on."""
    first = b.emit(While((loop.start, *loop.inits), _goes_on(loop, branch), _without(loop, branch)))
    start, *carried = first.results
    b.emit(loop.replace(start=start, inits=tuple(carried), entered=False))


def _goes_on(loop: For, branch: If) -> Block:
    """Whether there is another iteration, and it does not take the branch."""
    params = tuple(fresh(p.type, p.hint) for p in loop.body.params)
    names: Renaming = dict(zip(loop.body.params, params, strict=True))
    b = Builder()
    exists = b.compare("lt", params[0], loop.stop)
    test = next(op for op in loop.body.ops if branch.condition in op.results)
    assert isinstance(test, Compare)
    for op in slice_of([test], loop.body.ops)[:-1]:
        b.emit(clone_op(op, names))
    x, y = (names.get(v, v) for v in (test.x, test.y))
    b.emit(Yield((b.both(exists, b.compare(NEGATED[test.predicate], x, y)),)))
    return Block(params, b.ops)


def _without(loop: For, branch: If) -> Block:
    """The body with what stands under `else` in the branch's place."""
    params = tuple(fresh(p.type, p.hint) for p in loop.body.params)
    names: Renaming = dict(zip(loop.body.params, params, strict=True))
    b = Builder()

    def inline(block: Block) -> tuple[Value, ...]:
        for op in block.ops:
            if isinstance(op, Yield):
                return tuple(names.get(v, v) for v in op.values)
            if op is branch:
                names.update(zip(branch.results, inline(branch.orelse), strict=True))
            else:
                b.emit(clone_op(op, names))
        return ()

    ends = inline(loop.body)
    b.emit(Yield((b.add(params[0], loop.step), *ends)))
    return Block(params, b.ops)
