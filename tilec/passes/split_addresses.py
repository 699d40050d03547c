"""Where a lane of ldmatrix reads, as what differs between the threads and what is the same in all.

Needs: flat memory. Leaves: `ldmatrix` with the threads' part of its index apart.

    %r = mul %row, 64                              %r = mul %row, 64
    %s = mul %slot, 8192                           %s = mul %slot, 8192
    %i = add %r, %s                           ->
    ldmatrix %a, 0, %A[%i] <matrices = 4>          ldmatrix %a, 0, %A[%s], [%r] <matrices = 4>

In a loop over steps the first part stays and the second moves. In C the first is added to the
pointer, so that the compiler keeps it in a register, and the second is an offset that the
instruction adds by itself, from a uniform register. One sum of both is computed anew in every step:
26 instructions of 280 in a GEMM's step (docs/decisions.md 33).
"""

from __future__ import annotations

from ..ir.core import Block, Level, Op, Program, Value, at
from ..ir.ops.control import Launch, map_launches
from ..ir.ops.nvidia import LdMatrix
from .context import PassContext
from .index_builder import IndexBuilder
from .linear_forms import Linear
from .uniformity import differing


def split_addresses(program: Program, context: PassContext) -> Program:
    """Splits the addresses of every ldmatrix of every launch."""
    assert program.level is Level.THREAD, "split_addresses works on threads' programs"
    return map_launches(program, _launch)


def _launch(launch: Launch) -> Launch:
    b = IndexBuilder()
    differ = differing(launch.body)
    return launch.map_regions(lambda block: _block(block, b, differ))  # type: ignore[return-value]


def _block(block: Block, b: IndexBuilder, differ: set[Value]) -> Block:
    with b.region() as ops:
        for op in block.ops:
            with at(op.loc):
                new = op.map_regions(lambda inner: _block(inner, b, differ))
                b.emit(_split(new, b, differ) if isinstance(new, LdMatrix) else new)
    return block.with_ops(ops)


def _split(op: LdMatrix, b: IndexBuilder, differ: set[Value]) -> Op:
    (index,) = op.indices
    form = b.form(index)
    lane = Linear(tuple(term for term in form.terms if term[0] in differ))
    rest = form.plus(lane, -1)
    if op.lane or not lane.terms or not rest.terms:
        return op
    return op.replace(indices=(b.build(rest),), lane=(b.build(lane),))
