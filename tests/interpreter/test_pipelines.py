"""Planned loops mean the sequential loop, and every breach of the protocol is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.interpreter.pipelines import Plan, run_plan
from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.errors import ExecutionError
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import f32
from tilec.ir.ops.arith import Add, Cast
from tilec.ir.ops.control import Yield
from tilec.ir.ops.pipeline import Pipeline, Stage
from tilec.ir.ops.tile import LoadTile, Splat, StoreTile
from tilec.ir.types import TileType

TRIPS = (0, 1, 2, 3, 4, 7)


@pytest.mark.parametrize("trips", TRIPS)
@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        Plan(slots=1, lead=0),
        Plan(slots=4, lead=3, instruction="cp_async"),
        Plan(slots=4, lead=5, use_lead=2, instruction=""),
        Plan(asynchronous=True, slots=4, lead=2, defer=1),
        Plan(asynchronous=True, slots=1, lead=0, pending=0),
    ],
    ids=["plain", "one slot", "cp.async", "skew", "in flight", "issued and waited for"],
)
def test_the_interleaved_loop_is_the_sequential_one(plan: Plan, trips: int) -> None:
    if plan.asynchronous and plan.pending and trips == 0:  # nothing sets its accumulator
        with pytest.raises(ExecutionError, match="uninitialised value reaches global memory 'C'"):
            run_plan(plan, trips)
        return
    run_plan(plan, trips)
    run_plan(replace(plan, passes=2), trips)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("consumers", [1, 2])
@pytest.mark.parametrize("trips", [1, 2, 5, 9])
def test_roles_in_any_order(seed: int, consumers: int, trips: int) -> None:
    run_plan(Plan(roles=True, consumers=consumers), trips, seed)
    run_plan(Plan(roles=True, consumers=consumers, slots=1, passes=2), trips, seed)
    run_plan(
        Plan(roles=True, consumers=consumers, asynchronous=True, defer=1, passes=2), trips, seed
    )


FAULTS = {
    "a put before the slot is free": (
        Plan(slots=3, lead=3),
        "TLC0751",
        "waits for a free buffer of 'ring'",
    ),
    "a get before its put": (
        Plan(lead=0, use_lead=1),
        "TLC0751",
        "buffer of 'ring' to be committed",
    ),
    "never freed": (Plan(free="never"), "TLC0751", "waits for a free buffer"),
    "freed twice": (Plan(free="twice"), "TLC0753", "freed without a get"),
    "freed before it is read": (Plan(free="before"), "TLC0752", "read after its free"),
    "put twice": (Plan(puts=2), "TLC0753", "put twice without a commit"),
    "commit without put": (Plan(puts=0), "TLC0753", "committed without a put"),
    "never committed": (Plan(commits=0, lead=0), "TLC0751", "to be committed"),
    "written after the commit": (
        Plan(use_after_commit=True),
        "TLC0752",
        "by its writer after its commit",
    ),
    "got twice an iteration": (Plan(gets=2, lead=0, use_lead=0), "TLC0751", "to be committed"),
    "freed under a gemm in flight": (
        Plan(asynchronous=True, defer=0),
        "TLC0754",
        "freed while a gemm in flight still reads it",
    ),
    "no wait at all": (
        Plan(asynchronous=True, wait=False, defer=1, slots=4),
        "TLC0754",
        "freed while a gemm in flight",
    ),
    "a tile in flight used early": (
        Plan(asynchronous=True, use_early=True, defer=1, slots=4),
        "TLC0755",
        "while a gemm is still writing it",
    ),
    "slots do not cover the deferral": (
        Plan(asynchronous=True, defer=1, slots=3, lead=2),
        "TLC0751",
        "waits for a free buffer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_breaches_of_the_protocol(fault: str) -> None:
    plan, code, text = FAULTS[fault]
    with pytest.raises(ExecutionError, match=text) as error:
        run_plan(plan, 6)
    assert error.value.code == code and error.value.loc.known


def test_a_deadlock_of_roles_says_who_waits_for_what() -> None:
    with pytest.raises(ExecutionError) as error:
        run_plan(Plan(roles=True, free="never", consumers=2), 6)
    assert error.value.code == "TLC0751"
    assert "role 'producer' waits for a free buffer of 'ring'" in error.value.message
    assert "role 'consumer1' waits for a buffer of 'ring' to be committed" in error.value.message


@pytest.mark.parametrize("seed", range(3))
def test_a_role_that_frees_too_early_is_found_in_any_order(seed: int) -> None:
    with pytest.raises(ExecutionError) as error:
        run_plan(Plan(roles=True, free="before"), 6, seed)
    assert error.value.code == "TLC0752"


def running_sums(lead: int) -> Program:
    """B[k] = the sum of A[0 ... k]; the adding stage leads the one that hands it on by `lead`."""
    a, b = tensor("A", f32, "T", 8), tensor("B", f32, "T", 8)
    s = Sketch()
    with s.launch(1):
        k, total = number("k"), Value(TileType(f32, (8,)), "total")
        with s.region() as adding:
            tile = s.emit(LoadTile(a, (k, s.value(0)), shape=(8,), dims=(1,))).result
            more = s.emit(Add(tile, total)).result
        add = Stage(Block((), (*adding, Yield((more,)))), label="add", lead=lead)
        with s.region() as handing:
            s.emit(StoreTile(add.result, b, (k, s.value(0)), dims=(1,)))
            kept = s.emit(Cast(add.result, dtype=f32)).result
        hand_on = Stage(Block((), (*handing, Yield((kept,)))), label="hand on")
        zero = s.emit(Splat(s.const(0.0, f32), shape=(8,))).result
        body = Block((k, total), (add, hand_on, Yield(hand_on.results)))
        s.emit(Pipeline(s.value(0), s.symbol("T"), (zero,), body))
    return s.program(a, b)


def test_a_lead_that_outruns_a_carried_value_is_found() -> None:
    x = np.arange(40, dtype=np.float32).reshape(5, 8)
    y = np.zeros_like(x)
    run(running_sums(0), A=x, B=y)
    assert np.array_equal(y, np.cumsum(x, axis=0))
    with pytest.raises(
        ExecutionError, match="'total' is used before the stage that gives it"
    ) as error:
        run(running_sums(1), A=x, B=y)
    assert error.value.code == "TLC0757"
