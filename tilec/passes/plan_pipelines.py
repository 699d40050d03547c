"""Pipelined loops become stages joined by channels; the plan is the same for every target.

Needs: promoted fragments, lifted copies. Leaves: every pipelined loop as `pipeline` (or as a serial
`for`, with a remark that names why), its shared buffers as channels at the top of the launch. Leads
are 0: schedule_stages chooses them.

    for %lo, %n, 1, [%z]                       %ca = channel : channel<4> shared f16[128, 64]
        <kind = "pipelined", stages = 4>       pipeline %lo, %n, [%z] (%k, %acc) {
        (%k, %acc) {                             stage <label = "load"> {
      copy %A[...], %As[0, 0]            ->        %s = put %ca ; copy %A[...], %s ; commit %ca }
      %x = gemm %As, %Bs, %acc                   %r = stage <label = "mma"> {
      yield %x }                                   %a = get %ca ; %x = gemm %a, %b, %acc
                                                   free %ca ; yield %x }
                                                 yield %r }

Stages: copies from global memory into buffers of their own, and nests that gather rows, are "load"; a matrix
op that reads shared memory made by the statements before it begins a new stage. A buffer is a channel if
it is used in this loop alone, is written by one statement, or by several loads, and read by later ones; it has
as many slots as `num_stages` if these cover it, else one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TypeGuard

from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at, constant, constant_of, walk, with_results
from ..ir.ops.arith import element_dtype
from ..ir.ops.control import For, If, Launch, Parallel, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Load, memory_type
from ..ir.ops.pipeline import Channel, Commit, Free, Get, Pipeline, Put, Stage
from ..ir.ops.tile import Copy
from ..ir.rewrite import defining_ops, transform
from ..ir.types import ChannelType
from .canonicalize import canonical
from .context import PassContext, Remark
from .dependence import (
    allocations,
    covers,
    is_global,
    is_shared,
    is_statement,
    orders,
    reads,
    reads_asynchronously,
    slice_of,
    used_values,
    writes,
)
from .gathers import brings_runs
from .value_ranges import ValueRanges, value_ranges

MADE_SLOTS = 2  # of a buffer that threads fill: one being filled, one being read
PARTS = 16  # copies of a loop that loads a buffer in parts, at most


def plan_pipelines(program: Program, context: PassContext) -> Program:
    """Plans every innermost pipelined loop."""
    ranges = cache(lambda: value_ranges(program.body, context.multiples))
    return map_launches(program, lambda launch: _plan_launch(launch, context, ranges))


@dataclass
class _Buffer:
    """A shared buffer that becomes a channel."""

    alloc: Alloc
    writers: list[Op]
    readers: list[Op]
    slots: int
    channel: Value | None = None


@dataclass
class _Plan:
    """The stages of one loop: statements by stage, and the buffers between them."""

    loop: For
    buffers: dict[Value, _Buffer]
    stages: list[list[Op]] = field(default_factory=list)
    loads: bool = False  # whether stages[0] only loads


def _plan_launch(launch: Launch, context: PassContext, ranges: Callable[[], ValueRanges]) -> Launch:
    channels: list[Op] = []
    replaced: set[Value] = set()
    if not launch.explicit:
        launch = launch.replace(body=transform(launch.body, _in_parts))  # type: ignore[assignment]

    def block(body: Block) -> Block:
        return body.with_ops([one(op) for op in body.ops])

    def one(op: Op) -> Op:
        op = op.map_regions(block)
        if not isinstance(op, For) or op.kind != "pipelined":
            return op
        reason = (
            _refusal(op) if not launch.explicit else "the program itself says when things are done"
        )
        plan = None if reason else _plan(op, launch, ranges)
        if plan is None or not plan.loads:
            reason = reason or _without_loads(op)
            if op.stages > 0:
                context.remark(Remark("TLC0310", f"the loop runs unpipelined: {reason}", op.loc))
            return op.replace(kind="serial", stages=0)
        for handle, buffer in plan.buffers.items():
            replaced.add(handle)
            channels.append(_channel(buffer))
        return _rebuild(plan)

    body = block(launch.body)
    kept = _without(body, replaced)
    return launch.replace(body=kept.with_ops([*channels, *kept.ops]))  # type: ignore[return-value]


def _without(block: Block, handles: set[Value]) -> Block:
    """The block without the allocs of `handles`."""
    return block.with_ops(
        [
            op.map_regions(lambda b: _without(b, handles))
            for op in block.ops
            if not (isinstance(op, Alloc) and op.result in handles)
        ]
    )


def _refusal(loop: For) -> str:
    if loop.stages < 1:
        return "num_stages is 0"
    if constant_of(loop.step) != 1:
        return "its step is not 1"
    if any(isinstance(op, Pipeline) for op in walk(loop.body)):
        return "a loop inside it is pipelined"
    if any(orders(op) for op in walk(loop.body)):
        return "an atomic in it orders memory, and loads would run ahead of it"
    return ""


def _without_loads(loop: For) -> str:
    """Why no statement of a loop runs ahead as a load."""
    branches = [op for op in loop.body.ops if isinstance(op, If)]
    inside = [op for branch in branches for op in branch.walk() if isinstance(op, Copy)]
    if any(is_global(op.source) and is_shared(op.destination) for op in inside):
        return (
            "its loads stand in a branch, and would run ahead of what decides; a loop over a list of the "
            "trips that load runs pipelined"
        )
    return "no statement of it only loads a buffer of its own from global memory"


def _channel(buffer: _Buffer) -> Channel:
    with at(buffer.alloc.loc):
        memory = memory_type(buffer.alloc.result)
        channel = Channel(type=ChannelType(memory, buffer.slots), label=buffer.alloc.result.hint)
    channel.result.hint = buffer.alloc.result.hint
    buffer.channel = channel.result
    return channel


def _in_parts(loop: Op) -> Op | None:
    """A pipelined loop with loops in it that but copy, a few times, as so many copies: pages that a table
    names fill a buffer.
    """
    if not isinstance(loop, For) or _refusal(loop) or not any(map(_copies, loop.body.ops)):
        return None
    ops: list[Op] = []
    for op in loop.body.ops:
        bounds = [constant_of(v) for v in (op.start, op.stop, op.step)] if _copies(op) else [None]
        trips = range(*(int(v) for v in bounds if v is not None)) if None not in bounds else ()
        if not 0 < len(trips) <= PARTS:
            ops.append(op)
            continue
        assert isinstance(op, For)
        for trip in trips:
            names: Renaming = {op.body.params[0]: constant(trip, element_dtype(op.start))}
            ops += [clone_op(inner, names) for inner in op.body.ops[:-1]]
    return loop.replace(body=canonical(loop.body.with_ops(ops)))


def _copies(op: Op) -> TypeGuard[For]:
    """Whether an op is a plain loop of copies from global memory to shared memory."""
    return (
        isinstance(op, For)
        and op.kind in ("serial", "unroll")
        and not op.inits
        and any(isinstance(inner, Copy) for inner in op.body.ops)
        and all(
            is_global(inner.source) and is_shared(inner.destination)
            if isinstance(inner, Copy)
            else inner.pure or isinstance(inner, (Load, Yield))
            for inner in op.body.ops
        )
    )


# Grouping


def _plan(loop: For, launch: Launch, ranges: Callable[[], ValueRanges]) -> _Plan:
    plan = _Plan(loop, _buffers(loop, launch))
    statements = [op for op in loop.body.ops if is_statement(op)]
    loads = _loads(statements, plan.buffers, loop, ranges)
    rest = [op for op in statements if op not in loads]
    plan.loads = bool(loads)
    for buffer in plan.buffers.values():
        if buffer.writers[0] not in loads:
            buffer.slots = min(buffer.slots, MADE_SLOTS)
    plan.stages = [loads] if loads else []
    current: list[Op] = []
    for op in rest:
        made_here = {v for done in current for v in writes(done) if is_shared(v)}
        if reads_asynchronously(op) and any(
            v in made_here and v in plan.buffers for v in reads(op)
        ):
            plan.stages.append(current)
            current = []
        current.append(op)
    plan.stages.append(current)
    _merge(plan)
    plan.buffers = {h: b for h, b in plan.buffers.items() if _crosses(b, plan.stages)}
    return plan


def _buffers(loop: For, launch: Launch) -> dict[Value, _Buffer]:
    """Shared buffers that only this loop uses, written by some of its statements and read by later
    ones.
    """
    allocs = allocations(launch.body)
    inside = {id(op) for op in walk(loop.body)}
    outside = {v for op in walk(launch.body) if id(op) not in inside for v in op.inputs}
    defined_by = defining_ops(launch.body)
    found: dict[Value, _Buffer] = {}
    for handle, alloc in allocs.items():
        if not is_shared(handle) or handle in outside or id(alloc) in inside:
            continue
        touching = [op for op in loop.body.ops if handle in used_values(op)]
        writers = [op for op in touching if handle in writes(op)]
        readers = [op for op in touching if handle in reads(op)]
        if (
            not writers
            or not readers
            or touching[: len(writers)] != writers
            or not set(writers).isdisjoint(readers)
            or not all(is_statement(op) for op in touching)  # an address read from it
        ):
            continue
        slots = loop.stages if covers(writers, handle, defined_by) else 1
        found[handle] = _Buffer(alloc, writers, readers, slots)
    return found


def _loads(
    statements: list[Op],
    buffers: dict[Value, _Buffer],
    loop: For,
    ranges: Callable[[], ValueRanges],
) -> list[Op]:
    """The statements that are loads. A buffer that several write of which one is none is no channel: it
    is dropped from `buffers`.
    """
    written = {v for op in loop.body.ops for v in writes(op)}
    loads = [op for op in statements if _is_load(op, written, buffers, loop, ranges)]
    mixed = [
        handle
        for handle, buffer in buffers.items()
        if len(buffer.writers) > 1 and not all(op in loads for op in buffer.writers)
    ]
    for handle in mixed:
        del buffers[handle]
    return _loads(statements, buffers, loop, ranges) if mixed else loads


def _is_load(
    op: Op,
    written: set[Value],
    buffers: dict[Value, _Buffer],
    loop: For,
    ranges: Callable[[], ValueRanges],
) -> bool:
    """Whether `op` copies or gathers from global memory that the loop does not write into a channel, with
    addresses the loop index alone decides.
    """
    if not isinstance(op, (Copy, Parallel)) or not all(handle in buffers for handle in writes(op)):
        return False
    if not (is_global(op.source) if isinstance(op, Copy) else brings_runs(op, ranges())):
        return False
    if not written.isdisjoint(reads(op)):
        return False
    carried = set(loop.body.params[1:])
    chain = slice_of([op], loop.body.ops)
    return all(
        other is op or (not is_statement(other) and not (set(reads(other)) & written))
        for other in chain
    ) and not any(v in carried for other in chain for v in used_values(other))


def _merge(plan: _Plan) -> None:
    """Joins stages that plain shared buffers, local memory or tiles tie together, or that read one
    channel twice.
    """
    while True:
        index = {id(op): s for s, stage in enumerate(plan.stages) for op in stage}
        span = next((s for s in _ties(plan, index) if s[0] != s[1]), None)
        if span is None:
            return
        first, last = span
        joined = [op for stage in plan.stages[first : last + 1] for op in stage]
        if first == 0 and plan.loads:
            plan.loads = False
        plan.stages[first : last + 1] = [joined]


def _ties(plan: _Plan, index: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Spans of stages that must be one, because they share memory that the loop writes (scalars
    read from it count for the statements that need them), or values.
    """
    where: dict[Value, list[int]] = {}
    carried = plan.loop.body.params[1:]
    made = {r for stage in plan.stages for op in stage for r in op.results}
    written = {v for op in plan.loop.body.ops for v in writes(op)}
    for stage in plan.stages:
        for op in stage:
            for value in _needed_by(op, plan.loop) | {r for r in op.results}:
                if value not in plan.buffers and (
                    value in written or value in carried or value in made
                ):
                    where.setdefault(value, []).append(index[id(op)])
    for stages in where.values():
        yield min(stages), max(stages)
    for buffer in plan.buffers.values():
        reading = [index[id(op)] for op in buffer.readers]
        yield min(reading), max(reading)


def _needed_by(statement: Op, loop: For) -> set[Value]:
    """What a statement and the scalars that it is computed with use, loads of scalars included."""
    chain = [
        op for op in slice_of([statement], loop.body.ops) if op is statement or not is_statement(op)
    ]
    return {v for op in chain for v in used_values(op)}


def _crosses(buffer: _Buffer, stages: list[list[Op]]) -> bool:
    """Whether writer and readers stand in different stages."""
    writer = next(s for s, stage in enumerate(stages) if buffer.writers[0] in stage)
    return all(op not in stages[writer] for op in buffer.readers)


# Building


def _rebuild(plan: _Plan) -> Pipeline:
    loop = plan.loop
    ops: list[Op] = []
    names: dict[Value, Value] = {}  # results of statements -> results of the stages that hold them
    labels = _labels(plan)
    outside = _used_beyond(plan)
    for label, statements in zip(labels, plan.stages, strict=True):
        with at(statements[0].loc):
            stage, results = _stage(label, statements, plan, names, outside)
        ops.append(stage)
        names.update(results)
    end = loop.body.terminator
    assert end is not None
    with at(loop.loc):
        ops.append(Yield(tuple(names.get(v, v) for v in end.inputs)))
        pipeline = Pipeline(loop.start, loop.stop, loop.inits, Block(loop.body.params, tuple(ops)))
    for old, new in zip(loop.results, pipeline.results, strict=True):
        new.hint = old.hint
    return with_results(pipeline, loop.results)  # type: ignore[return-value]


def _used_beyond(plan: _Plan) -> set[Value]:
    """Results of statements that other stages or the loop's yield use."""
    end = plan.loop.body.terminator
    found = set(end.inputs) if end is not None else set()
    for stage in plan.stages:
        own = {r for op in stage for r in op.results}
        found |= {
            v for op in slice_of(stage, plan.loop.body.ops) for v in used_values(op) if v not in own
        }
    return found


def _stage(
    label: str, statements: list[Op], plan: _Plan, names: dict[Value, Value], outside: set[Value]
) -> tuple[Stage, dict[Value, Value]]:
    """The stage of some statements: the scalars they need cloned in, channel ops around them."""
    renaming: Renaming = dict(names)
    ops: list[Op] = []
    needed = [
        op
        for op in slice_of(statements, plan.loop.body.ops)
        if op in statements or not is_statement(op)
    ]
    opened: set[Value] = set()
    lasts = {handle: _last(buffer.readers, statements) for handle, buffer in plan.buffers.items()}
    for op in needed:
        used = used_values(op)
        for handle in [h for h in plan.buffers if h in used]:  # in order: a set has none
            _open(handle, op, statements, plan, renaming, ops, opened)
        ops.append(clone_op(op, renaming))
        for handle, buffer in plan.buffers.items():
            if op is buffer.writers[-1] and buffer.channel is not None:
                ops.append(Commit(buffer.channel))
            if buffer.channel is not None and op is lasts[handle]:
                ops.append(Free(buffer.channel))
                opened.discard(handle)
    results = [r for op in statements for r in op.results if r in outside]
    ops.append(Yield(tuple(renaming[r] for r in results)))
    stage = Stage(Block((), tuple(ops)), label=label)
    for old, new in zip(results, stage.results, strict=True):
        new.hint = old.hint
    return stage, dict(zip(results, stage.results, strict=True))


def _open(
    handle: Value,
    op: Op,
    statements: list[Op],
    plan: _Plan,
    renaming: Renaming,
    ops: list[Op],
    opened: set[Value],
) -> None:
    """Puts or gets the channel of `handle` before its first use in the stage."""
    buffer = plan.buffers[handle]
    if handle in opened or buffer.channel is None:
        return
    slot: Put | Get = Put(buffer.channel) if op in buffer.writers else Get(buffer.channel)
    slot.result.hint = handle.hint
    ops.append(slot)
    renaming[handle] = slot.result
    opened.add(handle)


def _last(readers: list[Op], statements: list[Op]) -> Op | None:
    return next((op for op in reversed(statements) if op in readers), None)


def _labels(plan: _Plan) -> list[str]:
    """ "load", "make", "mma", made unique by numbers."""
    names = []
    for position, stage in enumerate(plan.stages):
        if plan.loads and position == 0:
            name = "load"
        else:
            name = (
                "mma"
                if any(isinstance(inner, Gemm) for op in stage for inner in op.walk())
                else "make"
            )
        names.append(name)
    return [n if names.count(n) == 1 else f"{n}{i}" for i, n in enumerate(names)]
