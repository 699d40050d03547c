"""Asynchronous matrix instructions: issued in one place, waited for in another.

Needs: resources fitted. Leaves: every gemm with instruction "wgmma" `asynchronous`, its result in
flight until a `wait`. In a pipeline whose accumulator only the gemm touches, the wait leaves one
group in flight, the buffers it reads are freed an iteration late, and the first gemm starts from
zero instead of from a cleared tile (registers written by anything but wgmma inside a stage would
serialise it: ptxas C7515). Any other gemm that adds to a cleared tile starts from zero too. Gemms that
follow each other, and need nothing of each other, are all issued before the first is waited for.

    %z = splat 0.0                               %r = if (%lo < %n) {
    %r = pipeline %lo, %n, [%z] (%k, %acc) {       %u = undefined : inflight
      stage {                                      %i = pipeline %lo, %n, [%u] (%k, %acc) {
        %x = gemm %a, %b, %acc             ->        stage {
        free %ca                                       %x = gemm %a, %b, %acc, [%k != %lo]
        yield %x } }                                          <asynchronous>
                                                       %w = wait %x <pending = 1>
                                                       free %ca <defer = 1>
                                                       yield %w } }
                                                   %o = wait %i ; yield %o
                                                 } else { %z = splat 0.0 ; yield %z }
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeGuard

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Program, Value, at, constant_of, walk, with_results
from ..ir.ops.arith import Compare
from ..ir.ops.control import If, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.pipeline import Free, Get, Pipeline, Stage, Wait, channel_type
from ..ir.ops.tile import Splat, Undefined
from ..ir.rewrite import defining_ops
from ..ir.types import InflightType, TileType
from .context import PassContext
from .dependence import is_tile
from .variants import accumulator_type

PENDING = (
    1  # groups left in flight: the tensor cores have the next one to do while this warpgroup waits
)


def issue_gemms(program: Program, context: PassContext) -> Program:
    """Makes wgmma gemms asynchronous and places their waits."""
    return map_launches(
        program, lambda launch: launch.replace(body=_block(launch.body, defining_ops(launch.body)))
    )


def _block(block: Block, defined_by: dict[Value, Op]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Pipeline):
            carried = _carried(op, defined_by)
            if carried is not None:
                ops.extend(_defer(op, carried))
                continue
        ops.extend(_at_once(op, defined_by))
    return block.with_ops(_issued_together(ops))


def _at_once(op: Op, defined_by: dict[Value, Op]) -> list[Op]:
    """A gemm followed by its wait; the wait defines what the gemm defined. Other ops: inside their
    regions.
    """
    if not (isinstance(op, Gemm) and op.instruction == "wgmma" and not op.asynchronous):
        return [op.map_regions(lambda b: _block(b, defined_by))]
    ops: list[Op] = []
    with at(op.loc):
        issued = op.replace(asynchronous=True)
        if _is_zero(defined_by.get(op.accumulator)):
            fresh = Undefined(type=accumulator_type(op))
            ops.append(fresh)
            issued = issued.replace(accumulator=fresh.result, accumulate=(), clear=True)
        wait = with_results(Wait(issued.result), (op.result,))
    return [*ops, issued, wait]


def _issued_together(ops: list[Op]) -> list[Op]:
    """The ops with the waits for gemms, and what they let free, behind the gemms that follow: with none of
    these a wait would leave the tensor cores idle until the next is issued.
    """
    done: list[Op] = []
    waiting: list[Op] = []  # from a wait on, in order
    for op in ops:
        if waiting and not _may_pass(op, waiting):
            done += _waits_last(waiting)
            waiting = []
        at_once = isinstance(op, Wait) and isinstance(done[-1] if done else None, Gemm)
        (waiting if waiting or at_once else done).append(op)
    return done + _waits_last(waiting)


def _may_pass(op: Op, waiting: list[Op]) -> bool:
    """Whether an op may stand before the waits in front of it, or is one that others may pass."""
    made = {v for other in waiting if isinstance(other, Wait) for v in other.results}
    if not made.isdisjoint(op.inputs):
        return False
    if isinstance(op, Gemm):
        return op.asynchronous
    scalar = op.pure and not op.regions and not any(is_tile(v) for v in op.results)
    return scalar or isinstance(op, Get | Free | Wait | Undefined)


def _waits_last(ops: list[Op]) -> list[Op]:
    """Waits and frees behind the last gemm among some ops, of which each waits for its own gemm alone."""
    last = max((n for n, op in enumerate(ops, 1) if isinstance(op, Gemm)), default=0)
    early: list[Op] = []
    late: list[Op] = []
    for n, op in enumerate(ops[:last]):
        if isinstance(op, Wait):
            later = sum(isinstance(other, Gemm) for other in ops[n:last])
            with at(op.loc):
                own = Wait(op.inflight, pending=later, later=later)
                late.append(with_results(own, (op.result,)))
        else:
            (late if isinstance(op, Free) else early).append(op)
    return [*early, *late, *ops[last:]]


def _is_zero(op: Op | None) -> TypeGuard[Splat]:
    return isinstance(op, Splat) and constant_of(op.value) == 0


@dataclass(frozen=True)
class _Carried:
    """The accumulator of a pipeline's only gemm: its position among the carried values, its
    stage.
    """

    position: int
    stage: Stage
    gemm: Gemm
    init: Splat


def _carried(pipeline: Pipeline, defined_by: dict[Value, Op]) -> _Carried | None:
    """The accumulator that can stay in flight over the iterations of `pipeline`, if there is one."""
    gemms = [op for op in walk(pipeline.body) if isinstance(op, Gemm)]
    if len(gemms) != 1 or gemms[0].instruction != "wgmma" or gemms[0].accumulate:
        return None
    gemm = gemms[0]
    stages = (
        op
        for op in pipeline.body.ops
        if isinstance(op, Stage) and any(o is gemm for o in op.body.ops)
    )
    stage = next(stages, None)
    params = pipeline.body.params[1:]
    if stage is None or gemm.accumulator not in params:
        return None  # under a condition, or not the accumulator of the iteration before
    position = params.index(gemm.accumulator)
    end, stage_end = pipeline.body.terminator, stage.body.terminator
    assert end is not None and stage_end is not None
    uses = [
        op
        for op in walk(pipeline.body)
        if gemm.accumulator in op.inputs or gemm.result in op.inputs
    ]
    if set(map(id, uses)) != {id(gemm), id(stage_end)} or gemm.result not in stage_end.inputs:
        return None
    if stage.results[stage_end.inputs.index(gemm.result)] is not end.inputs[position]:
        return None
    init = defined_by.get(pipeline.inits[position])
    if not _is_zero(init):
        return None
    got = {op.result: op.channel for op in stage.body.ops if isinstance(op, Get)}
    if not (gemm.a in got and gemm.b in got):
        return None  # the next iteration rewrites what it still reads
    if min(channel_type(channel).slots for channel in got.values()) < 1 + PENDING:
        return None
    return _Carried(position, stage, gemm, init)


def _defer(pipeline: Pipeline, carried: _Carried) -> list[Op]:
    with at(pipeline.loc):
        inner = _with_inflight(pipeline, carried)
        known = [constant_of(v) for v in (pipeline.start, pipeline.stop)]
        wait = Wait(inner.results[carried.position])
        wait.result.hint = pipeline.results[carried.position].hint
        outcome = list(inner.results)
        outcome[carried.position] = wait.result
        if known[0] is not None and known[1] is not None and known[0] < known[1]:
            outcome[carried.position] = pipeline.results[carried.position]
            return [
                _undefined(inner, carried),
                with_results(inner, _replaced(pipeline.results, carried.position, inner)),
                with_results(wait, (pipeline.results[carried.position],)),
            ]
        runs = Compare(pipeline.start, pipeline.stop, predicate="lt")
        then = Block((), (_undefined(inner, carried), inner, wait, Yield(tuple(outcome))))
        zero = clone_op(
            carried.init, {}
        )  # here, so that nothing but wgmma writes the accumulator on the other path
        otherwise = list(pipeline.inits)
        otherwise[carried.position] = zero.result
        branch = If(runs.result, then, Block((), (zero, Yield(tuple(otherwise)))))
    return [runs, with_results(branch, pipeline.results)]


def _replaced(results: tuple[Value, ...], position: int, inner: Pipeline) -> tuple[Value, ...]:
    return tuple(inner.results[i] if i == position else r for i, r in enumerate(results))


def _undefined(pipeline: Pipeline, carried: _Carried) -> Op:
    """The op that defines the in-flight initial value."""
    type_ = pipeline.inits[carried.position].type
    assert isinstance(type_, InflightType)
    return with_results(Undefined(type=type_), (pipeline.inits[carried.position],))


def _with_inflight(pipeline: Pipeline, carried: _Carried) -> Pipeline:
    """The pipeline with its accumulator carried in flight."""
    tile = carried.gemm.result.type
    assert isinstance(tile, TileType)
    old = pipeline.body.params[1 + carried.position]
    param = Value(InflightType(tile), old.hint)
    init = Value(InflightType(tile), old.hint)
    index = pipeline.body.params[0]
    names: dict[Value, Value] = {old: param}
    ops: list[Op] = []
    for op in pipeline.body.ops:
        if op is carried.stage:
            stage = _issue(carried, index, pipeline.start, param)
            names.update(zip(op.results, stage.results, strict=True))
            ops.append(stage)
        else:
            ops.append(op.map(lambda v: names.get(v, v)))
    params = tuple(param if p is old else p for p in pipeline.body.params)
    inits = tuple(init if i == carried.position else v for i, v in enumerate(pipeline.inits))
    new = Pipeline(pipeline.start, pipeline.stop, inits, Block(params, tuple(ops)))
    for result, was in zip(new.results, pipeline.results, strict=True):
        result.hint = was.hint
    return new


def _issue(carried: _Carried, index: Value, start: Value, param: Value) -> Stage:
    """The stage with its gemm issued, a wait that leaves PENDING groups, and frees that lag as
    much.
    """
    ops: list[Op] = []
    names: dict[Value, Value] = {}
    for op in carried.stage.body.ops:
        with at(op.loc):
            if op is carried.gemm:
                later = Compare(index, start, predicate="ne")
                issued = carried.gemm.replace(
                    accumulator=param, accumulate=(later.result,), asynchronous=True
                )
                wait = Wait(issued.result, pending=PENDING)
                names[carried.gemm.result] = wait.result
                ops.extend((later, issued, wait))
            elif isinstance(op, Free):
                ops.append(op.replace(defer=PENDING))
            else:
                ops.append(op.map(lambda v: names.get(v, v)))
    return carried.stage.replace(body=Block((), tuple(ops)))  # type: ignore[return-value]
