"""Planned loops mean the sequential loop, and every breach of the protocol is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.interpreter.pipelines import Plan, run_plan
from tilec.errors import ExecutionError

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
    "freed before it is read": (Plan(free="before"), "TLC0752", "read after it was freed"),
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
