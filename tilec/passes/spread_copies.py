"""Asynchronous copies for later steps, and loads into registers, are spread over the matrix loop that
they stand before, so that their addresses are worked out while the matrix units are busy.

Needs: thread level, before memory is flattened. Leaves: each trip of the matrix loop but the first
with its share of the copies at its end; the group's end, where copies have groups, behind it.

    if %more {                                   for 0, 4, 1 <unroll = 0> (%kk) {
      for 0, 8, 1 <unroll = 0> (%i) {              ldmatrix ...
        cp_async %next[...], %B[...], [%p] } }     mma ...
    cp_async_commit                        ->      for 0, 3, 1 <unroll = 0> (%c) {
    for 0, 4, 1 <unroll = 0> (%kk) {                 %i = %kk * 3 + %c
      ldmatrix ... ; mma ... }                       if %i < 8 {
                                                       cp_async %next[...], %B[...], [%p], [%more] } } }
                                                 cp_async_commit

Why this is the same program: what a copy writes may not be read before a wait for it, and no
wait stands between the copies and the end of the loop, so the loop reads nothing of it; the loop
writes registers alone, so it does not change what the copies read; and without a barrier in between
no other thread can tell. Registers that are loaded must be none that the loop touches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.clone import clone_op
from ..ir.core import Access, Block, Level, Op, Program, Value, at, constant_of, walk
from ..ir.ops.amd import BufferCopy, BufferCopyWait, BufferLoad, Mfma
from ..ir.ops.arith import is_harmless
from ..ir.ops.control import For, If, Yield
from ..ir.ops.memory import Alloc, Load, memory_type
from ..ir.ops.nvidia import CpAsync, CpAsyncCommit, CpAsyncWait, LdMatrix, Mma
from ..ir.types import Space
from .context import PassContext
from .dependence import writes

COPIES = (CpAsync, BufferCopy, BufferLoad)


def spread_copies(program: Program, context: PassContext) -> Program:
    """Spreads copies in every block of every launch."""
    assert program.level is Level.THREAD, "spread_copies works on threads' programs"
    return program.with_body(_block(program.body))


def unrolled_trips(op: Op) -> int:
    """The trips of a loop that is unrolled in full, counts from 0 by 1 and carries nothing; 0 for
    any other op.
    """
    if not isinstance(op, For) or op.unroll != 0 or op.inits:
        return 0
    start, stop, step = (constant_of(v) for v in (op.start, op.stop, op.step))
    return int(stop) if start == 0 and step == 1 and stop is not None else 0


def holds(op: Op, kind: type[Op] | tuple[type[Op], ...]) -> bool:
    """Whether an op of `kind` (one of them) stands in `op`, or is it."""
    return any(isinstance(inner, kind) for inner in op.walk())


@dataclass(frozen=True)
class _Piece:
    """`trips` runs of `ops`, the number of the run in `index` (None: one run)."""

    ops: tuple[Op, ...]
    trips: int = 1
    index: Value | None = None
    condition: Value | None = None


def _block(block: Block) -> Block:
    ops = [op.map_regions(_block) for op in block.ops]
    for position, op in enumerate(ops):
        # A group ends with its commit; copies that have none stand right before the loop.
        if isinstance(op, CpAsyncCommit) or (holds(op, Mfma) and _is_matrix_loop(op)):
            spread = _spread(ops, position)
            if spread is not None:
                return _block(block.with_ops(spread))
    return block.with_ops(ops)


def _spread(ops: Sequence[Op], end: int) -> list[Op] | None:
    """The block with the copies before `end` in the matrix loop there or behind; None where that
    cannot be.
    """
    commit = [ops[end]] if isinstance(ops[end], CpAsyncCommit) else []
    rest = end + len(commit)
    loop_at = next((i for i in range(rest, len(ops)) if not _passes(ops[i])), len(ops))
    loop = ops[loop_at] if loop_at < len(ops) else None
    if loop is None or not _is_matrix_loop(loop):
        return None
    first = end
    while first > 0 and (_passes(ops[first - 1]) or holds(ops[first - 1], COPIES)):
        first -= 1
    before: list[Op] = []
    pieces: list[_Piece] = []
    for op in ops[first:end]:
        taken = _taken_apart(op)
        if taken is None:
            return None
        before.extend(taken[0])
        pieces.extend(taken[1])
    if not pieces or _loaded(pieces) & {value for op in loop.walk() for value in op.inputs}:
        return None
    if _read(pieces) & {*writes(loop)}:
        return None
    assert isinstance(loop, For)
    return [
        *ops[:first],
        *before,
        *ops[rest:loop_at],
        _with_pieces(loop, pieces, _is_urgent(ops, pieces)),
        *commit,
        *ops[loop_at + 1 :],
    ]


def _is_urgent(ops: Sequence[Op], pieces: Sequence[_Piece]) -> bool:
    """Whether the block's own wait, at the latest in the next step, is for copies of this step."""
    pending = [op.pending for op in ops if isinstance(op, (CpAsyncWait, BufferCopyWait))]
    counted = sum(isinstance(op, CpAsyncCommit) for op in ops)
    return not pending or min(pending) < (counted or sum(piece.trips for piece in pieces))


def _loaded(pieces: Sequence[_Piece]) -> set[Value]:
    """The registers that the pieces load."""
    return {op.registers for piece in pieces for op in piece.ops if isinstance(op, BufferLoad)}


def _read(pieces: Sequence[_Piece]) -> set[Value]:
    """The thread's own arrays that the pieces read."""
    return {op.memory for piece in pieces for op in piece.ops if isinstance(op, Load)}


def _passes(op: Op) -> bool:
    """Whether copies may go past an op: it does nothing to memory that is there."""
    return (op.pure and not op.regions) or isinstance(op, Alloc)


def _is_matrix_loop(op: Op) -> bool:
    """An unrolled loop of fragment loads and matrix instructions that writes nothing but
    registers.
    """
    if not unrolled_trips(op) or not (holds(op, LdMatrix) and holds(op, Mma) or holds(op, Mfma)):
        return False
    assert isinstance(op, For)
    return all(
        effect.access is Access.READ
        or (
            effect.access is Access.WRITE
            and effect.memory is not None
            and memory_type(effect.memory).space is Space.LOCAL
        )
        for inner in walk(op.body)
        for effect in inner.effects()
    )


# Taking the copies out ----------------------------------------------------------------------------


def _taken_apart(op: Op) -> tuple[list[Op], list[_Piece]] | None:
    """An op as what stays where it is and the copies that move; None where it holds anything else.

    What stays is run without the condition that the copies were under, so it must not be able to
    fail.
    """
    if not holds(op, COPIES):
        return [op], []
    if not isinstance(op, If):
        piece = _piece(op, None)
        return None if piece is None else ([], [piece])
    if op.results or any(not isinstance(inner, Yield) for inner in op.orelse.ops):
        return None
    stays: list[Op] = []
    pieces: list[_Piece] = []
    for inner in op.then.ops:
        if isinstance(inner, Yield):
            continue
        if is_harmless(inner):
            stays.append(inner)
            continue
        piece = _piece(inner, op.condition)
        if piece is None:
            return None
        pieces.append(piece)
    return stays, pieces


def _piece(op: Op, condition: Value | None) -> _Piece | None:
    if isinstance(op, COPIES):
        return _Piece((op,), condition=condition)
    trips = unrolled_trips(op)
    if not trips:
        return None
    assert isinstance(op, For)
    body = op.body.ops[:-1]
    if not all(is_harmless(i) or isinstance(i, COPIES) or _reads_own(i) for i in body):
        return None
    return _Piece(body, trips, op.body.params[0], condition)


def _reads_own(op: Op) -> bool:
    """Whether an op reads an array of the thread's, as the addresses that stand before a loop are."""
    return isinstance(op, Load) and memory_type(op.memory).space is Space.LOCAL


# Putting them in ----------------------------------------------------------------------------------


def _with_pieces(loop: For, pieces: Sequence[_Piece], urgent: bool) -> For:
    """The matrix loop with an equal share of the copies in each trip but the first, whose fragments
    are waited for as soon as the step begins; of an `urgent` group, which the next step waits for,
    in each of the first half.
    """
    trips = unrolled_trips(loop)
    first, shares = (0, trips // 2) if urgent else (1, trips - 1)
    if shares < 1:
        first, shares = 0, trips
    count = -(-sum(piece.trips for piece in pieces) // shares)  # copies in a trip
    step = loop.body.params[0]
    b = Builder()
    b.extend(loop.body.ops[:-1])
    done = 0
    for piece in pieces:
        with at(piece.ops[-1].loc):
            _share(b, piece, b.sub(b.mul(b.sub(step, first), count), done), count)
        done += piece.trips
    b.emit(Yield(()))
    return loop.replace(body=loop.body.with_ops(b.ops))  # type: ignore[return-value]


def _share(b: Builder, piece: _Piece, start: Value, count: int) -> None:
    """Those of `count` runs from number `start` on that the piece has; which is decided when the
    loops are unrolled.
    """
    with b.loop(0, count, hint="c", unroll=0) as c:
        index = b.add(start, c)
        here = b.bit_and(b.compare("ge", index, 0), b.compare("lt", index, piece.trips))
        with b.when(here):
            _run(b, piece, index)


def _run(b: Builder, piece: _Piece, index: Value) -> None:
    names = {} if piece.index is None else {piece.index: index}
    for op in piece.ops:
        new = clone_op(op, names)
        if isinstance(new, CpAsync) and piece.condition is not None:
            assert not new.enabled, "copies are enabled by one condition"
            predicate = new.predicate or (b.compare("eq", 0, 0),)
            new = new.replace(predicate=predicate, enabled=(piece.condition,))
        b.emit(new)
