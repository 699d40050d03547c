"""Planned loops built by hand: a load stage and a use stage joined by one channel, with every knob
to get it wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.ir.core import Block, Op, Program, Value
from tilec.ir.dtypes import f16, f32
from tilec.ir.ops.control import Role, Yield
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.pipeline import Channel, Commit, Free, Get, Pipeline, Put, Stage, Wait
from tilec.ir.ops.tile import Splat, StoreTile, Undefined
from tilec.ir.types import ChannelType, InflightType, MemoryType, Space, TileType

SIZE = 8
TILE = TileType(f32, (SIZE, SIZE))


@dataclass(frozen=True)
class Plan:
    """C = sum over k of A[k] @ A[k].T, of 8 x 8 tiles; what is set away from its default may be a
    fault.
    """

    slots: int = 3
    lead: int = 2
    use_lead: int = 0
    instruction: str = "tma"
    asynchronous: bool = False
    pending: int = 1
    defer: int = 0
    wait: bool = True
    free: str = "after"  # "before" the gemm, "never", "twice"
    puts: int = 1
    commits: int = 1
    gets: int = 1
    use_after_commit: bool = False
    use_early: bool = False
    roles: bool = False
    consumers: int = 1
    passes: int = 1  # times that the whole loop runs


def build(plan: Plan) -> Program:
    a, c = tensor("A", f16, "T", SIZE, SIZE), tensor("C", f32, plan.consumers, SIZE, SIZE)
    s = Sketch()
    with s.launch(1, threads=128):
        memory = MemoryType(f16, (SIZE, SIZE), Space.SHARED)
        channel = s.emit(Channel(type=ChannelType(memory, plan.slots), label="ring")).result
        if plan.roles:
            roles = [_role(s, plan, channel, a, c, "producer", 0)]
            roles += [
                _role(s, plan, channel, a, c, f"consumer{n}", n) for n in range(plan.consumers)
            ]
            s.extend(roles)
        else:
            _loops(s, plan, channel, a, c, ("load", "use"), 0)
    return s.program(a, c)


def _role(s: Sketch, plan: Plan, channel: Value, a: Value, c: Value, label: str, row: int) -> Op:
    with s.region() as ops:
        stages = ("load",) if label == "producer" else ("use",)
        _loops(s, plan, channel, a, c, stages, row)
    first = 128 * (0 if label == "producer" else 1 + row)
    return Role(Block((), (*ops, Yield(()))), label=label, first_thread=first, threads=128)


def _loops(
    s: Sketch, plan: Plan, channel: Value, a: Value, c: Value, stages: tuple[str, ...], row: int
) -> None:
    total: Value | None = None
    for _ in range(plan.passes):
        total = _pipeline(s, plan, channel, a, stages)
    if total is not None:
        corner = (s.value(row), s.value(0), s.value(0))
        s.emit(StoreTile(total, c, corner, dims=(1, 2)))


def _pipeline(
    s: Sketch, plan: Plan, channel: Value, a: Value, stages: tuple[str, ...]
) -> Value | None:
    k = number("k")
    in_flight = plan.asynchronous and plan.pending > 0  # over the iterations
    flight = InflightType(TILE) if in_flight else TILE
    carried = Value(flight, "acc")
    use = "use" in stages
    inits: tuple[Value, ...] = ()
    if use:
        start = Undefined(type=flight) if in_flight else Splat(s.const(0.0, f32), shape=TILE.shape)
        inits = (s.emit(start).result,)
    found: list[Op] = []
    if "load" in stages:
        found.append(_load(s, plan, channel, a, k))
    result: tuple[Value, ...] = ()
    if use:
        found.append(_use(s, plan, channel, carried, k))
        result = found[-1].results
    params = (k, carried) if use else (k,)
    body = Block(params, (*found, Yield(result)))
    loop = s.emit(Pipeline(s.value(0), s.symbol("T"), inits, body))
    if not use:
        return None
    if in_flight:
        final: Value = s.emit(Wait(loop.results[0])).result
        return final
    last: Value = loop.results[0]
    return last


def _load(s: Sketch, plan: Plan, channel: Value, a: Value, k: Value) -> Op:
    with s.region() as ops:
        for _ in range(plan.puts):
            slot = s.emit(Put(channel)).result
        if plan.puts == 0:
            slot = s.shared("elsewhere", f16, SIZE, SIZE)
        if plan.use_after_commit:
            s.emit(Commit(channel))
        s.copy(a, (k, 0, 0), slot, (0, 0), (SIZE, SIZE), instruction=plan.instruction)
        for _ in range(0 if plan.use_after_commit else plan.commits):
            s.emit(Commit(channel))
    return Stage(Block((), (*ops, Yield(()))), label="load", lead=0 if plan.roles else plan.lead)


def _use(s: Sketch, plan: Plan, channel: Value, acc: Value, k: Value) -> Op:
    with s.region() as ops:
        for _ in range(plan.gets):
            slot = s.emit(Get(channel)).result
        if plan.free == "before":
            s.emit(Free(channel, defer=plan.defer))
        later = (s.compare("ne", k, 0),) if plan.asynchronous else ()
        gemm = Gemm(slot, slot, acc, later, transpose_b=True, asynchronous=plan.asynchronous)
        x = s.emit(gemm).result
        if plan.asynchronous and plan.wait:
            x = s.emit(Wait(x, pending=plan.pending)).result
        if plan.use_early:
            scratch = s.shared("scratch", f32, SIZE, SIZE)
            store = StoreTile(Value(TILE, "acc"), scratch, (s.value(0), s.value(0)), dims=(0, 1))
            object.__setattr__(store, "tile", x)  # the types would not let this through
            s.emit(store)
        for _ in range({"after": 1, "twice": 2}.get(plan.free, 0)):
            s.emit(Free(channel, defer=plan.defer))
    return Stage(
        Block((), (*ops, Yield((x,)))), label="use", lead=0 if plan.roles else plan.use_lead
    )


def run_plan(plan: Plan, trips: int, seed: int = 0) -> None:
    """Runs a plan and checks its result."""
    random = np.random.default_rng(trips)
    a = random.integers(-4, 5, (trips, SIZE, SIZE)).astype(np.float16)
    c = np.full((plan.consumers, SIZE, SIZE), np.nan, np.float32)
    run(build(plan), seed=seed, A=a, C=c)
    wide = a.astype(np.float32)
    expected = (wide @ wide.transpose(0, 2, 1)).sum(axis=0)
    for n in range(plan.consumers):
        assert np.array_equal(c[n], expected)
