"""Steps of an interleaved loop, simulated with no knowledge of the planner.

The simulation runs the loop step by step, as lower_pipelines does: before a stage the plan's wait
and barrier, then the stage's iteration if there is one, then the group of its cp.async; copies that
count for themselves it starts in any case. It knows
nothing of dependences: it records who touched which slot when, and looks afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tilec.ir.ops.pipeline import Free, Stage
from tilec.passes.protocols import Ring
from tilec.passes.step_plan import Point, StepPlan


@dataclass(frozen=True)
class Link:
    """A channel from stage `writer` to stage `reader` (their positions in a step)."""

    writer: int
    reader: int
    slots: int
    defer: int = 0
    counted: int = (
        0  # what a wait counts of one iteration, that lands asynchronously: groups, copies
    )


def links_of(stages: list[Stage], rings: list[Ring], threads: int) -> list[Link]:
    """The channels of a planned loop, by the positions of its stages."""
    found = []
    for ring in rings:
        frees = [
            op.defer
            for op in ring.reader.body.ops
            if isinstance(op, Free) and op.channel is ring.channel.result
        ]
        writer, reader = stages.index(ring.writer), stages.index(ring.reader)
        counted = ring.landing.counted(ring.writer, threads) if ring.landing is not None else 0
        found.append(Link(writer, reader, ring.slots, max(frees), counted))
    return found


@dataclass
class Run:
    """What happened: (event, details) in order. A barrier has what has landed by it, as a count."""

    events: list[tuple[str, int, int]] = field(default_factory=list)  # (kind, stage, iteration)
    barriers: list[tuple[int, int]] = field(default_factory=list)  # (time, landed)
    started: dict[tuple[int, int], int] = field(default_factory=dict)  # with (stage, iteration)


def simulate(leads: list[int], links: list[Link], plan: StepPlan, trips: int) -> Run:
    run, started, complete = Run(), 0, 0
    counted = {li.writer: li.counted for li in links}
    for step in range(-plan.most_lead, trips):
        for position, lead in enumerate(leads):
            point = plan.positions.get(position)
            if point is not None and (step >= 0 or point.active_in(step)):
                if point.pending is not None:
                    complete = max(complete, started - point.pending)
                run.barriers.append((len(run.events), complete))
                run.events.append(("barrier", -1, -1))
            if step < 0 and step + lead < 0:
                continue
            if step + lead < trips:
                run.events.append(("run", position, step + lead))
                run.started[position, step + lead] = started + counted.get(position, 0)
            started += counted.get(position, 0)
    return run


def faults(links: list[Link], run: Run, trips: int) -> list[str]:
    """What an execution with these barriers may get wrong."""
    when = {(s, i): t for t, (kind, s, i) in enumerate(run.events) if kind == "run"}
    found = []
    for link in links:
        for i in range(trips):
            made, read = when[link.writer, i], when[link.reader, i]
            between = [c for t, c in run.barriers if made < t < read]
            if link.counted:
                between = [c for c in between if c >= run.started[link.writer, i]]
            if not between:
                found.append(f"{link}: iteration {i} is read before all threads have written it")
            if i + link.slots < trips:
                last = when[link.reader, i + link.defer]
                again = when[link.writer, i + link.slots]
                if not any(last < t < again for t, _ in run.barriers):
                    found.append(f"{link}: slot of iteration {i} is overwritten while it is read")
    return found


def everywhere(leads: list[int]) -> StepPlan:
    """The most that barriers can do: one before every stage of every step, all copies landed."""
    points = {n: Point(0, None, [(99, 0)]) for n in range(len(leads))}
    return StepPlan(points, max(leads))


TRIPS = (0, 1, 2, 3, 5, 9, 13)
