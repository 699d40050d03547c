"""The reads of shared memory for one step of a matrix loop are issued between the matrix instructions
of the step before.

Needs: thread level, before loops are taken apart, and a target whose compiler orders groups of
instructions as it is told. Leaves: behind each matrix loop the order that is asked for, as groups in
unrolled loops; around it a higher priority for the wave, so that one that multiplies goes before one
that loads. Products between barriers (alternate_waves) get the priority alone.

    for 0, 4, 1 <unroll = 0> (%kk) {             set_priority <priority = 1>
      for 0, 6, 1 <unroll = 0> (%i) {            for 0, 4, 1 <unroll = 0> (%kk) { ... }
        vector_load %frag, %A_s[...] }           schedule_group <kind = "reads", count = 6>
      for 0, 8, 1 <unroll = 0> (%j) {    ->      for 0, 3, 1 <unroll = 0> (%s) {
        mfma ... } }                               for 0, 6, 1 <unroll = 0> (%g) {
                                                     schedule_group <kind = "matrices", count = 1>
                                                     schedule_group <kind = "reads", count = 1> }
                                                   schedule_group <kind = "matrices", count = 2> }
                                                 schedule_group <kind = "matrices", count = 8>
                                                 set_priority <priority = 0>

The reads stand early in a step, one to an instruction where that is enough, so that the last of them
has landed when the next step begins; loads of a later tile into registers, where spread_copies put
some, stand behind them. Only where every read takes 16 bytes or transposes is their number
that of the machine's: clang joins shorter ones. What it is asked for is an order, which changes no result.
Sources: LLVM, "User Guide for AMDGPU Backend", llvm.amdgcn.sched.group.barrier and s_setprio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..ir.build import Builder
from ..ir.core import Block, Level, Op, Program, Value, at, constant_of
from ..ir.ops.amd import BufferLoad, LoadTransposed, Mfma, ScheduleGroup, SetPriority
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If
from ..ir.ops.memory import Load, memory_type
from ..ir.ops.thread import Barrier, VectorLoad
from ..ir.rewrite import defining_ops
from ..ir.types import Space
from .context import PassContext, Remark
from .spread_copies import holds, unrolled_trips

READ_BYTES = 16  # of a read that stays one instruction
COUNTED = (Mfma, LoadTransposed, VectorLoad, Load, BufferLoad)


def interleave_reads(program: Program, context: PassContext) -> Program:
    """Asks for an order in every matrix loop, where the target's compiler listens."""
    assert program.level is Level.THREAD, "interleave_reads works on threads' programs"
    if not context.target.schedule_groups:
        return program

    def block(inner: Block) -> Block:
        b = Builder()
        for op in inner.ops:
            if unrolled_trips(op) and holds(op, Mfma) and not holds(op, Barrier):
                with at(op.loc):
                    _matrix_loop(b, op, context)
            else:
                b.emit(op.map_regions(block))
        return inner.with_ops(b.ops)

    return program.with_body(block(program.body))


def _matrix_loop(b: Builder, loop: Op, context: PassContext) -> None:
    assert isinstance(loop, For)
    b.emit(SetPriority(priority=1))
    b.emit(loop)
    steps = _steps(loop)
    if steps and steps[0].reads and len(steps) > 1:
        text = f"the {steps[0].reads} reads of a step stand among the {steps[0].matrices} products before it"
        context.remark(Remark("TLC0335", text, loop.loc))
        _emit_order(b, steps)
    b.emit(SetPriority(priority=0))


@dataclass(frozen=True)
class _Step:
    """How many instructions of each kind one step of a matrix loop has."""

    reads: int = 0
    matrices: int = 0
    loads: int = 0

    def __add__(self, other: _Step) -> _Step:
        return _Step(
            self.reads + other.reads, self.matrices + other.matrices, self.loads + other.loads
        )


def _steps(loop: For) -> list[_Step]:
    """What each step has; nothing where reads are shorter, or their number is not known."""
    made = defining_ops(loop.body)
    index = loop.body.params[0]
    found = [_counted(loop.body, {index: trip}, made) for trip in range(unrolled_trips(loop))]
    return [step for step in found if step is not None] if None not in found else []


def _counted(block: Block, known: dict[Value, int], made: Mapping[Value, Op]) -> _Step | None:
    """What a block has, where the indices of unrolled loops are `known`."""
    total = _Step()
    for op in block.ops:
        runs: list[tuple[Block, dict[Value, int]]] = [(region, known) for region in op.regions]
        match op:
            case Mfma():
                total += _Step(matrices=1)
            case LoadTransposed():
                total += _Step(reads=1)
            case BufferLoad():
                total += _Step(loads=1)
            case VectorLoad() if memory_type(op.memory).space is Space.SHARED:
                if op.count * memory_type(op.memory).dtype.bytes != READ_BYTES:
                    return None
                total += _Step(reads=1)
            case Load() if memory_type(op.memory).space is Space.SHARED:
                return None
            case For() if unrolled_trips(op):
                index = op.body.params[0]
                runs = [(op.body, {**known, index: i}) for i in range(unrolled_trips(op))]
            case If():
                condition = _number(op.condition, known, made)
                if condition is not None:
                    runs = [(op.then if condition else op.orelse, known)]
                elif holds(op, COUNTED):
                    return None
            case For() if holds(op, COUNTED):
                return None
        for inner, indices in runs:
            more = _counted(inner, indices, made)
            if more is None:
                return None
            total += more
    return total


def _number(value: Value, known: Mapping[Value, int], made: Mapping[Value, Op]) -> int | None:
    """A scalar that follows from the indices of unrolled loops."""
    if value in known:
        return known[value]
    constant = constant_of(value)
    if constant is not None:
        return int(constant)
    op = made.get(value)
    if op is None or op.regions or not isinstance(op, Elementwise):
        return None
    numbers = [_number(v, known, made) for v in op.inputs]
    return None if None in numbers else int(op.evaluate(*numbers))


def _emit_order(b: Builder, steps: Sequence[_Step]) -> None:
    """The first step's reads; every step's matrix instructions with the next one's reads among them,
    then its own loads.
    """
    _group(b, "reads", steps[0].reads)
    following = [*(step.reads for step in steps[1:]), 0]
    for (step, reads), same in groupby(zip(steps, following, strict=True)):
        with b.loop(0, len(list(same)), hint="s", unroll=0):
            left = _among(b, step.matrices, "reads", reads)
            left = _among(b, left, "loads", step.loads)
            if left:
                _group(b, "matrices", left)


def _among(b: Builder, matrices: int, kind: str, count: int) -> int:
    """`count` instructions behind a matrix instruction each, or as many as must be. Returns how many
    matrix instructions are left.
    """
    if not count:
        return matrices
    if not matrices:
        _group(b, kind, count)
        return 0
    at_once = -(-count // matrices)
    pairs, rest = divmod(count, at_once)
    with b.loop(0, pairs, hint="g", unroll=0):
        _group(b, "matrices", 1)
        _group(b, kind, at_once)
    if rest:
        _group(b, "matrices", 1)
        _group(b, kind, rest)
    return matrices - pairs - bool(rest)


def _group(b: Builder, kind: str, count: int) -> None:
    b.emit(ScheduleGroup(kind=kind, count=count))
