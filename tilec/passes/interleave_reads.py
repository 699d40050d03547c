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
has landed when the next step begins. Only where every read takes 16 bytes or transposes is their number
that of the machine's: clang joins shorter ones. What it is asked for is an order, which changes no result.
Sources: LLVM, "User Guide for AMDGPU Backend", llvm.amdgcn.sched.group.barrier and s_setprio.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Level, Op, Program, at
from ..ir.ops.amd import LoadTransposed, Mfma, ScheduleGroup, SetPriority
from ..ir.ops.control import For, If
from ..ir.ops.memory import Load, memory_type
from ..ir.ops.thread import Barrier, VectorLoad
from ..ir.types import Space
from .context import PassContext, Remark
from .spread_copies import holds, unrolled_trips

READ_BYTES = 16  # of a read that stays one instruction


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
                b.emit(op.map(lambda v: v, block))
        return inner.with_ops(b.ops)

    return program.with_body(block(program.body))


def _matrix_loop(b: Builder, loop: Op, context: PassContext) -> None:
    assert isinstance(loop, For)
    b.emit(SetPriority(priority=1))
    b.emit(loop)
    step, steps = _counted(loop.body), unrolled_trips(loop)
    if step is not None and step.reads and steps > 1:
        text = (
            f"the {step.reads} reads of a step stand among the {step.matrices} products before it"
        )
        context.remark(Remark("TLC0328", text, loop.loc))
        _emit_order(b, step, steps)
    b.emit(SetPriority(priority=0))


@dataclass(frozen=True)
class _Step:
    """How many instructions of each kind one step of a matrix loop has."""

    reads: int = 0
    matrices: int = 0


def _counted(block: Block) -> _Step | None:
    """What a block has; None where reads are shorter, or their number is not known."""
    reads = matrices = 0
    for op in block.ops:
        times, regions = 1, op.regions
        match op:
            case Mfma():
                matrices += 1
            case LoadTransposed():
                reads += 1
            case VectorLoad() if memory_type(op.memory).space is Space.SHARED:
                if op.count * memory_type(op.memory).dtype.bytes != READ_BYTES:
                    return None
                reads += 1
            case Load() if memory_type(op.memory).space is Space.SHARED:
                return None
            case For():
                times = unrolled_trips(op)
            case If() if holds(op, (Mfma, LoadTransposed, VectorLoad, Load)):
                return None
        for region in regions:
            inner = _counted(region)
            if inner is None or (not times and (inner.reads or inner.matrices)):
                return None
            reads, matrices = reads + times * inner.reads, matrices + times * inner.matrices
    return _Step(reads, matrices)


def _emit_order(b: Builder, step: _Step, steps: int) -> None:
    """The first step's reads; every step's matrix instructions with the next one's reads among
    them.
    """
    at_once = -(-step.reads // step.matrices)
    pairs, rest = divmod(step.reads, at_once)
    _group(b, "reads", step.reads)
    with b.loop(0, steps - 1, hint="s", unroll=0):
        with b.loop(0, pairs, hint="g", unroll=0):
            _group(b, "matrices", 1)
            _group(b, "reads", at_once)
        alone = step.matrices - pairs
        if rest:
            _group(b, "matrices", 1)
            _group(b, "reads", rest)
            alone -= 1
        if alone:
            _group(b, "matrices", alone)
    _group(b, "matrices", step.matrices)


def _group(b: Builder, kind: str, count: int) -> None:
    b.emit(ScheduleGroup(kind=kind, count=count))
