"""Nests that gather are done by asynchronous copies, or by the threads in a stage of their own.

Needs: planned pipelines. Leaves: `instruction` set on the nests of load stages that threads can start
copies for, so that they run ahead as other loads do. A nest of which that is not so, or on a machine that
has no such copies, stands in a stage "make" behind the loads: threads load and store it at once, which is
remarked on where the machine has such copies. Where branches only choose values, neither has any.
Small loads that TMA cannot do are such nests where all others of a launch are TMA's (small_loads).

    stage <label = "load"> {                     stage <label = "load"> {
      %s = put %c                                  %s = put %c
      parallel (%i, %j) {                          parallel <instruction = "cp_async", run = 8> (%i, %j) {
        %x = load %X[%r, %j]              ->         %x = load %X[%r, %j]
        store %x, %s[%i, %j] }                       store %x, %s[%i, %j] }
      commit %c }                                  commit %c }
"""

from __future__ import annotations

from dataclasses import replace

from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at
from ..ir.ops.control import Launch, Parallel, Yield, map_launches
from ..ir.ops.nvidia import CP_ASYNC_BYTES
from ..ir.ops.pipeline import Channel, Put, Stage
from ..ir.ops.tile import Copy
from .choose_instructions import role_refusal
from .context import PassContext, Remark
from .dependence import is_statement, slice_of, writes
from .gathers import brings_runs, find_gather, run_of, straight
from .plan_pipelines import MADE_SLOTS
from .protocols import with_slots
from .small_loads import with_nests
from .value_ranges import ValueRanges, value_ranges


def start_gathers(program: Program, context: PassContext) -> Program:
    """Does so in the load stages of every launch."""
    if context.target.warp_roles and context.target.tma:
        program = _beside_tma(program, context)
    return _all_started(program, context)


def _all_started(program: Program, context: PassContext) -> Program:
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, context, ranges))


def _beside_tma(program: Program, context: PassContext) -> Program:
    """The program with nests in place of small loads that TMA cannot do, in launches that are run by
    roles then.
    """
    ranges = value_ranges(program.body, context.multiples)
    changed = map_launches(program, lambda x: x if x.explicit else with_nests(x, ranges))
    if changed is program:
        return program
    unheard = replace(context, facts=context.facts.unasked(), remark=lambda _: None)
    tried = _all_started(changed, unheard)
    ranges = value_ranges(tried.body, context.multiples)
    ops = [
        old if isinstance(trial, Launch) and role_refusal(trial, unheard, ranges) else new
        for old, new, trial in zip(program.body.ops, changed.body.ops, tried.body.ops, strict=True)
    ]
    return program.with_body(program.body.with_ops(ops))


def _launch(launch: Launch, context: PassContext, ranges: ValueRanges) -> Launch:
    made: set[Value] = set()

    def block(body: Block) -> Block:
        ops: list[Op] = []
        for op in body.ops:
            if isinstance(op, Stage) and op.label == "load":
                ops.extend(_parted(_started(op, context, ranges), made))
            else:
                if isinstance(op, Stage) and context.target.async_copy:
                    _tell_of_others(op, context, ranges)
                ops.append(op.map_regions(block))
        return body.with_ops(ops)

    body = block(launch.body)
    channels = [op for op in body.ops if isinstance(op, Channel) and op.result in made]
    slots = {op: min(op.type.slots, MADE_SLOTS) for op in channels}
    return with_slots(launch.replace(body=body), slots)  # type: ignore[arg-type]


def _started(stage: Stage, context: PassContext, ranges: ValueRanges) -> Stage:
    """The stage with copies in place of the nests that they can do."""

    def one(op: Op) -> Op:
        if not isinstance(op, Parallel):
            return op
        nest = straight(op, ranges)
        if not context.target.async_copy:
            return nest
        run = run_of(nest, ranges, context, CP_ASYNC_BYTES)
        if not run:
            _tell(nest, "runs of its elements may not begin at a multiple of 4 bytes", context)
        return nest.replace(instruction="cp_async", run=run) if run else nest

    return stage.replace(body=stage.body.with_ops([one(op) for op in stage.body.ops]))  # type: ignore[return-value]


def _tell_of_others(stage: Stage, context: PassContext, ranges: ValueRanges) -> None:
    """Remarks on what the threads of a stage that is no load gather: plan_pipelines found no runs."""
    for op in stage.body.ops:
        nest = straight(op, ranges)
        if find_gather(nest) is not None and not brings_runs(nest, ranges):
            _tell(
                nest,
                "its elements may not come in runs of 4 bytes that are all there or not",
                context,
            )


def _tell(nest: Op, reason: str, context: PassContext) -> None:
    gather = find_gather(nest)
    assert gather is not None, "a load stage has copies and gathers"
    name = gather.load.memory.hint
    context.remark(
        Remark("TLC0339", f"{name} is gathered by threads that wait for it: {reason}", nest.loc)
    )


def _parted(stage: Stage, made: set[Value]) -> list[Stage]:
    """A load stage without the nests that load by themselves, if anything is left, and these. Their
    channels are `made`.
    """
    nests = [op for op in stage.body.ops if isinstance(op, Parallel) and not op.instruction]
    if not nests:
        return [stage]
    slots = {op.result: op.channel for op in stage.body.ops if isinstance(op, Put)}
    filled = {slots[v] for nest in nests for v in writes(nest)}
    made |= filled
    parts: list[Stage] = []
    for label, mine in ((stage.label, False), ("make", True)):
        statements = [
            op
            for op in stage.body.ops[:-1]
            if is_statement(op) and mine == (op in nests or getattr(op, "channel", None) in filled)
        ]
        if any(isinstance(op, (Copy, Parallel)) for op in statements):
            names: Renaming = {}
            body = [clone_op(op, names) for op in slice_of(statements, stage.body.ops)]
            with at(stage.loc):
                parts.append(Stage(Block((), (*body, Yield(()))), label=label))
    return parts
