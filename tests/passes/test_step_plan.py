"""step_plan: its barriers and waits suffice in every arrangement of leads, slots and order."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.passes.step_simulation import TRIPS, Link, everywhere, faults, simulate
from tilec.errors import HazardError
from tilec.ir.core import Block, Op, Value, constant
from tilec.ir.dtypes import f16, i32
from tilec.ir.ops.control import Yield
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.pipeline import Channel, Commit, Free, Get, Put, Stage
from tilec.ir.ops.tile import Copy
from tilec.ir.types import ChannelType, MemoryType, Space
from tilec.passes.protocols import Ring
from tilec.passes.step_plan import Point, StepPlan, plan_steps

THREADS = 64
# By what a wait counts of one iteration: a group, or two copies of 16 bytes a lane.
INSTRUCTIONS = {0: "registers", 1: "cp_async", 2: "buffer_copy"}


def build(leads: list[int], links: list[Link]) -> tuple[list[Stage], list[Ring]]:
    """Real stages and rings: a writer puts, copies and commits, a reader gets and frees."""
    memory = MemoryType(f16, (1024,), Space.SHARED)
    source = Value(MemoryType(f16, (1024,), Space.GLOBAL), "A")
    zero = (constant(0, i32),)
    bodies: list[list[Op]] = [[] for _ in leads]
    channels = []
    for number, link in enumerate(links):
        channel = Channel(type=ChannelType(memory, link.slots), label=f"c{number}")
        channels.append(channel)
        put, got = Put(channel.result), Get(channel.result)
        copy = Copy(
            source, zero, put.result, zero,
            shape=(1024,), source_dims=(0,), destination_dims=(0,),
            instruction=INSTRUCTIONS[link.counted],
        )  # fmt: skip
        bodies[link.writer] += [put, copy, Commit(channel.result)]
        bodies[link.reader] += [got, Free(channel.result, defer=link.defer)]
    stages = [
        Stage(Block((), (*body, Yield(()))), label=f"s{n}", lead=lead)
        for n, (body, lead) in enumerate(zip(bodies, leads, strict=True))
    ]
    rings = [
        Ring(c, Alloc(type=memory), stages[li.writer], stages[li.reader], None, None)
        for c, li in zip(channels, links, strict=True)
    ]
    return stages, rings


def check(leads: list[int], links: list[Link]) -> bool:
    """Whether the plan exists; if so it must be right, if not there must be none."""
    stages, rings = build(leads, links)
    best = everywhere(leads)
    possible = not any(faults(links, simulate(leads, links, best, t), t) for t in TRIPS)
    if not possible:
        with pytest.raises(HazardError, match="TLC0330"):
            plan_steps(stages, rings, THREADS)
        return False
    plan = plan_steps(stages, rings, THREADS)
    for trips in TRIPS:
        wrong = faults(links, simulate(leads, links, plan, trips), trips)
        assert not wrong, f"{leads} {links} {plan} with {trips} trips:\n" + "\n".join(wrong)
    return True


@pytest.mark.parametrize("counted", INSTRUCTIONS)
@pytest.mark.parametrize("defer", [0, 1])
def test_two_stages_in_every_arrangement(defer: int, counted: int) -> None:
    outcomes = [
        check([lead_0, lead_1], [Link(writer, 1 - writer, slots, defer, counted)])
        for writer, lead_0, lead_1, slots in itertools.product(
            (0, 1), range(5), range(5), range(1, 7)
        )
    ]
    assert any(outcomes) and not all(outcomes)


@pytest.mark.parametrize("seed", range(4))
def test_chains_of_three_and_four_stages(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = []
    for _ in range(400):
        n = rng.choice((3, 4))
        leads = [rng.randrange(5) for _ in range(n)]
        links = []
        kind = rng.choice((1, 2))  # a machine has one
        for _ in range(rng.choice((2, 3))):
            writer, reader = rng.sample(range(n), 2)
            slots = rng.randrange(1, 7)
            counted = kind * (rng.random() < 0.4)
            links.append(Link(writer, reader, slots, rng.randrange(2), counted))
        # one stage commits one group a step: its links are all asynchronous or none
        kinds = {li.writer: li.counted for li in links}
        if kind == 2 and len(kinds) < len(links):
            continue  # a stage that writes two channels starts twice as many copies
        links = [Link(li.writer, li.reader, li.slots, li.defer, kinds[li.writer]) for li in links]
        outcomes.append(check(leads, links))
    assert sum(outcomes) > 20


@pytest.mark.parametrize("counted", [1, 2])
@pytest.mark.parametrize("slots", range(2, 7))
def test_the_gemm_needs_one_barrier_a_step(slots: int, counted: int) -> None:
    """The classic multistage loop: loads first, one wait and one barrier."""
    stages, rings = build([slots - 1, 0], [Link(0, 1, slots, 0, counted)])
    plan = plan_steps(stages, rings, THREADS)
    assert list(plan.positions) == [0] and plan.most_lead == slots - 1
    assert plan.positions[0].pending == (slots - 2) * counted


def test_the_simulation_can_fail() -> None:
    leads, links = [1, 0], [Link(0, 1, 2, 0, 1)]
    stages, rings = build(leads, links)
    plan = plan_steps(stages, rings, THREADS)
    assert not faults(links, simulate(leads, links, plan, 5), 5)
    without = StepPlan({}, plan.most_lead)
    assert len(faults(links, simulate(leads, links, without, 5), 5)) > 5
    (position,) = plan.positions
    loose = StepPlan({position: Point(1, None, plan.positions[position].serves)}, plan.most_lead)
    assert any("read before" in f for f in faults(links, simulate(leads, links, loose, 5), 5))
