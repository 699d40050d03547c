"""Roles as coroutines: each runs until it waits; who goes next is drawn from the seed; nobody ready
is a deadlock.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from ..errors import ExecutionError
from ..ir.core import Op
from ..ir.ops.control import Role
from ..ir.ops.nvidia import WARP
from ..ir.ops.thread import Ballot, Barrier, Shuffle
from .clocks import Clock
from .frame import Frame, Rule, Waiting
from .mbarriers import check_idle
from .numbers import Bits

Steps = Generator[Waiting, None, None]


class Meeting:
    """A hardware barrier: `threads` have to arrive; then all that wait go on."""

    def __init__(self) -> None:
        self.arrived = 0
        self.round = 0
        self.clocks: list[Clock] = []


def run_roles(roles: list[Role]) -> Rule:
    """The rule of roles that stand side by side (the list is complete when it is first used)."""

    def run(frame: Frame, op: Op) -> Steps:
        frames: list[Frame] = []
        meetings: dict[Any, Meeting] = {}
        for number, role in enumerate(roles):
            inner = frame.fork()
            inner.role, inner.threads, inner.first_thread = (
                role.label,
                role.threads,
                role.first_thread,
            )
            inner.clock = Clock(number, [0] * len(roles))
            inner.meetings = meetings
            frames.append(inner)
        yield from schedule(
            frame, {f: f.execute(r.body) for f, r in zip(frames, roles, strict=True)}
        )
        for inner in frames:
            check_idle(inner)

    return run


def schedule(frame: Frame, steps: dict[Frame, Generator[Waiting, None, Any]]) -> Steps:
    """Runs coroutines to their ends in a seeded order. Raises ExecutionError when none of those
    left can go on; where one waits for another block, this block does.
    """
    waiting: dict[Frame, Waiting | None] = dict.fromkeys(steps)
    random = frame.run.random
    while waiting:
        ready = [f for f, w in waiting.items() if w is None or w.ready()]
        if not ready:
            polling = next((w for w in waiting.values() if w is not None and w.polls), None)
            if polling is None:
                raise deadlock(waiting)
            yield polling
            ready = [polling.frame]
        chosen = ready[int(random.integers(len(ready)))] if len(ready) > 1 else ready[0]
        following = next(steps[chosen], None)
        if following is None:
            del waiting[chosen]
        else:
            waiting[chosen] = following


def finish(frame: Frame, steps: Generator[Waiting, None, Any]) -> None:
    """Runs one coroutine that nobody else can help: whatever it waits for must be there."""
    for waiting in steps:
        if not waiting.ready():
            raise deadlock({frame: waiting})


def deadlock(waiting: dict[Frame, Waiting | None]) -> Exception:
    """The error for those who all wait: who for what."""
    stuck = [w for w in waiting.values() if w is not None]
    who = "; ".join(
        f"{_who(w.frame)} waits for {w.what}"
        f"{f' ({state})' if (state := w.state()) else ''} at {w.loc}"
        for w in stuck[:8]
    )
    if len(stuck) > 8:
        who += f"; and {len(stuck) - 8} more"
    first = stuck[0]
    error = first.frame.fault(
        "TLC0751",
        f"nobody can go on: {who}",
        hint="for each wait there is an arrival that does not itself wait for what comes later",
    )
    error.loc = first.loc
    return error


def _who(frame: Frame) -> str:
    if frame.role:
        return f"role {frame.role!r}"
    return str(frame.place) if frame.run.order is not None and frame.place else "the block"


def run_barrier(frame: Frame, op: Op) -> Generator[Waiting, None, None]:
    """All threads meet. Within a block without roles statements are in order anyway: only
    divergence is an error.
    """
    assert isinstance(op, Barrier)
    if frame.mask is not None:
        raise frame.fault(
            "TLC0749",
            "a barrier stands where only some threads come",
            hint="move it out of the condition that depends on the thread",
        )
    frame.meet()
    needed = op.threads or sum(r.threads for r in frame.run.roles)
    if not frame.role or needed <= frame.threads:
        return
    meeting: Meeting = frame.meetings.setdefault(op.barrier, Meeting())
    assert frame.clock is not None
    meeting.clocks.append(frame.clock.release())
    meeting.arrived += frame.threads
    mine = meeting.round
    if meeting.arrived >= needed:
        meeting.round, meeting.arrived = mine + 1, 0
    else:
        yield Waiting(frame, f"barrier {op.barrier}", lambda: meeting.round > mine, op.loc)
    frame.clock.join(*meeting.clocks)


def run_nothing(frame: Frame, op: Op) -> None:
    """What matters to the machine alone: registers, and the order of accesses that here have one."""


def run_warp_sync(frame: Frame, op: Op) -> None:
    """The threads of a warp meet. Whether others do too where they must is not looked at."""
    frame.meet()


def run_shuffle(frame: Frame, op: Op) -> None:
    """Each thread's value from another one of its group of `width`."""
    assert isinstance(op, Shuffle)
    (x, bad), (lane, unknown) = frame.pair(op.x), frame.pair(op.lane)
    frame.arrive(unknown, "the lane of a shuffle")
    lanes = frame.lanes.shape if frame.lanes is not None else (frame.threads,)
    threads = np.arange(lanes[0])
    source = threads // op.width * op.width + np.broadcast_to(lane, lanes)
    asked = source[_whole_warps(frame, "a shuffle")]
    if np.any((asked < 0) | (asked >= lanes[0])):
        raise _parted(frame, "a shuffle")
    source = np.clip(source, 0, lanes[0] - 1)
    outcome = np.broadcast_to(x, lanes)[source]
    frame.define(op.result, outcome, None if bad is None else np.broadcast_to(bad, lanes)[source])


def run_ballot(frame: Frame, op: Op) -> None:
    """The answers of the 32 threads of each warp, as bits."""
    assert isinstance(op, Ballot)
    x, bad = frame.pair(op.x)
    lanes = frame.lanes.shape if frame.lanes is not None else (frame.threads,)
    answers = np.broadcast_to(x, lanes) & _whole_warps(frame, "a ballot")
    starts, warp = np.arange(0, lanes[0], WARP), np.arange(lanes[0]) // WARP
    bits = answers.astype(np.uint32) << (np.arange(lanes[0]) % WARP).astype(np.uint32)
    unknown = None
    if bad is not None:
        unknown = np.logical_or.reduceat(np.broadcast_to(bad, lanes), starts)[warp]
    frame.define(op.result, np.bitwise_or.reduceat(bits, starts)[warp], unknown)


def _whole_warps(frame: Frame, what: str) -> Bits:
    """The threads that are active, which are whole warps. Raises ExecutionError where they are not."""
    lanes = frame.lanes.shape if frame.lanes is not None else (frame.threads,)
    active: Bits = np.broadcast_to(True if frame.mask is None else frame.mask, lanes)
    warps = np.add.reduceat(active, np.arange(0, lanes[0], WARP))
    sizes = np.diff([*range(0, lanes[0], WARP), lanes[0]])
    if np.any((warps != 0) & (warps != sizes)):
        raise _parted(frame, what)
    return active


def _parted(frame: Frame, what: str) -> ExecutionError:
    return frame.fault(
        "TLC0749",
        f"{what} stands where only some threads of a warp come",
        hint="move it out of the condition that depends on the thread",
    )
