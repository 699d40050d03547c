"""Where barriers and waits stand within one step of an interleaved pipeline.

Every channel inside one thread program has two dependences: commit(i) before get(i), and free(i)
before put(i + slots). A barrier must stand between the two ends of each, on the unrolled sequence
of steps; the fewest positions are found greedily, the top of the step first, since one barrier
there serves every dependence that spans steps. A get of what threads copied asynchronously also
needs the wait for it, at the last barrier before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import HazardError
from ..ir.ops.pipeline import Stage
from .protocols import Ring
from .schedule_stages import lag
from .thread_copies import ThreadCopies


@dataclass(frozen=True)
class Dependence:
    """`source` (after stage number `after`, in step `source_step`) before `target` (stage `before`,
    step 0).
    """

    after: int
    source_step: int
    before: int
    lead: int  # of the stage at the target
    ring: Ring
    is_get: bool

    def satisfied(self, positions: set[int]) -> bool:
        """Whether a barrier at one of the positions of every step lies between the two ends."""
        if self.source_step < -1:
            return bool(positions)
        if self.source_step == -1:
            return any(p > self.after or p <= self.before for p in positions)
        return any(self.after < p <= self.before for p in positions)


@dataclass
class Point:
    """A barrier before a stage, with the wait for `landing` that precedes it: `pending` groups or
    copies may be in flight (None: no wait is needed).

    `serves` has a pair for every access that it orders: the lead of the stage as seen from the
    barrier's step, and the first iteration in which the access depends on anything.
    """

    pending: int | None = None
    landing: ThreadCopies | None = None
    serves: list[tuple[int, int]] = field(default_factory=list)

    def active_in(self, step: int) -> bool:
        """Whether any access that it serves happens in a step of the prologue."""
        return any(step + lead >= first for lead, first in self.serves)


@dataclass
class StepPlan:
    """Barriers by the stage that they stand before, and the length of the prologue."""

    positions: dict[int, Point]
    most_lead: int


def plan_steps(stages: list[Stage], rings: list[Ring], threads: int) -> StepPlan:
    """The plan for stages in their order within a step, and the rings that begin and end among
    them; of `threads` that run all of it.
    """
    dependences = [d for ring in rings for d in _dependences(stages, ring)]
    positions: set[int] = set()
    for dependence in sorted(dependences, key=lambda d: d.source_step):
        if not dependence.satisfied(positions):
            positions.add(0 if dependence.source_step < 0 else dependence.before)
    points = {p: Point() for p in sorted(positions)}
    for dependence in dependences:
        _serve(dependence, points, threads)
    return StepPlan(points, max((s.lead for s in stages), default=0))


def _dependences(stages: list[Stage], ring: Ring) -> list[Dependence]:
    w, r = stages.index(ring.writer), stages.index(ring.reader)
    lead_w, lead_r = ring.writer.lead, ring.reader.lead
    defer = lag(ring.reader, ring.channel.result)
    # get(i) stands in step i - lead_r; commit(i) in step i - lead_w. put(i + slots) stands in step
    # i + slots - lead_w; free(i), executed with iteration i + defer, in step i + defer - lead_r.
    data = Dependence(w, lead_r - lead_w, r, lead_r, ring, True)
    room = Dependence(r, defer - lead_r - ring.slots + lead_w, w, lead_w, ring, False)
    for dependence in (data, room):
        if dependence.source_step > 0 or (
            dependence.source_step == 0 and dependence.after >= dependence.before
        ):
            raise HazardError(
                "TLC0330",
                f"{ring.slots} slots of {ring.channel.label} are too few for leads {lead_w} and "
                f"{lead_r}",
                loc=ring.channel.loc,
            )
    return [data, room]


def _serve(dependence: Dependence, points: dict[int, Point], threads: int) -> None:
    """Notes the target at the last barrier before it; of a get of what lands asynchronously, with
    what the writer has started since and may still be in flight there.
    """
    ring = dependence.ring
    # the first data is that of iteration 0; the first slot that must be free again is taken by
    # iteration `slots`
    first = 0 if dependence.is_get else ring.slots
    landing = ring.landing if dependence.is_get else None
    same_step = [p for p in points if p <= dependence.before]
    if dependence.source_step == 0:
        same_step = [p for p in same_step if p > dependence.after]
    if not same_step and landing is not None:
        points[dependence.before] = Point()
        same_step = [dependence.before]
    if not same_step:  # the barrier that serves it stands in the step before
        after = dependence.after if dependence.source_step == -1 else -1
        point = points[max(p for p in points if p > after)]
        point.serves.append((dependence.lead + 1, first))
        return
    position = max(same_step)
    point = points[position]
    point.serves.append((dependence.lead, first))
    if landing is not None:
        ahead = ring.writer.lead - ring.reader.lead
        iterations = ahead - 1 + (1 if dependence.after < position else 0)
        pending = iterations * landing.counted(ring.writer, threads)
        point.pending = pending if point.pending is None else min(point.pending, pending)
        point.landing = landing
