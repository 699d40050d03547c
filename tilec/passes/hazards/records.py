"""Accesses to shared memory and what orders them.

Every role has a clock that ticks at each access and synchronisation. A view maps a key to the time
up to which what the key stands for is known to have happened: the accesses of a set of threads of a
role, or a phase of an mbarrier. A new access conflicts with an earlier one to the same slot that
its view does not cover. Views grow by barriers (within a role) and by mbarrier waits (across
roles); since a wait that passes always belongs to the same phase (checked apart), one interleaving
stands for all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import HazardError
from ...ir.core import Op, Value
from ...ir.ops.control import Parallel
from ...ir.ops.memory import Alloc
from ...ir.ops.tile import Copy
from .cases import Case
from .numbers import Vector
from .threads import Threads
from .walking import Agent

Key = tuple[Any, ...]
View = dict[Key, int]
NEVER = -1


@dataclass(frozen=True)
class Place:
    """A buffer, or one slot of a ring (-1: not a ring's slot), of the block of rank `block` in its
    cluster.

    A slot was taken by the op `via` as its number `turn`.
    """

    alloc: Alloc
    slot: int = -1
    block: int = 0
    via: Op | None = field(default=None, compare=False)
    turn: int = field(default=0, compare=False)

    @property
    def name(self) -> str:
        name = self.alloc.result.hint or "a shared buffer"
        return f"slot {self.slot} of {name}" if self.slot >= 0 else name


@dataclass(eq=False)
class Access:
    """One access by some threads of a role. `done` is when it was over (None: still in flight).

    `landing`: the mbarrier key and phase on which a copy completes it. `shown`: when a proxy fence
    showed it to the asynchronous proxy; of copies that threads start, `shown_to`: whose fences did.
    `elements`: linear indices by thread, where they are
    known. `atomic` accesses need no order between themselves, nor do those to other parts (`part`
    is the number of one, of a tile that several blocks bring). A `partial` write leaves some of the place
    as it was.
    """

    agent: SyncAgent
    threads: Threads
    op: Op
    writes: bool
    engine: bool
    done: int | None
    place: Place
    landing: tuple[Key, int] | None = None
    shown: int | None = None
    shown_to: list[tuple[SyncAgent, Threads]] = field(default_factory=list)
    elements: tuple[Vector, Vector] | None = None
    grouped: bool = False
    atomic: bool = False
    part: int | None = None
    partial: bool = False

    def is_shown_to(self, agent: SyncAgent, threads: Threads) -> bool:
        """Whether each of some threads of a role has fenced once it knew that a copy has landed."""
        return any(who is agent and threads.inside(these) for who, these in self.shown_to)


class SyncAgent(Agent):
    """A role with its clock, its views, and what it has in flight."""

    def __init__(
        self, label: str, index: int, size: int, first: int, warp: int, rank: int = 0
    ) -> None:
        super().__init__(label, index, size, first, warp, rank)
        self.clock = 0
        self.meetings = 0  # of the cluster that it came to
        self.shown_time = NEVER  # when it showed the mbarriers that it made
        self.barrier_time = NEVER
        self.warps_met: list[tuple[Threads, int]] = []  # the last warp sync of each set of threads
        self.gemm_time = NEVER  # when the last matrix instruction known to be complete was issued
        self.views: list[tuple[Threads, View]] = [(self.sets.all, {})]
        self.unshown: list[Access] = []
        self.open_copies: list[Access] = []  # of the cp.async group not yet closed
        self.copies: list[list[Access]] = []  # closed groups, or copies that count for themselves
        self.gemms: list[tuple[int, list[Access]]] = []  # (issued at, reads)
        self.open_stores: list[Access] = []
        self.stores: list[tuple[Threads, list[Access]]] = []
        self.barriers: set[int] = set()
        self.parts: list[Threads] = []  # sets of threads that have met by themselves

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def seen(self, key: Key, threads: Threads | None = None) -> int:
        """The time that some threads, by default the running ones, all know of."""
        these = threads or self.threads
        return max((v.get(key, NEVER) for t, v in self.views if these.inside(t)), default=NEVER)

    def learn(self, threads: Threads, view: View) -> None:
        """What `threads` know from here on."""
        for known, own in self.views:
            if known is threads:
                join(own, view)
                return
        self.views.append((threads, dict(view)))

    def knowledge(self) -> View:
        """All that the running threads know."""
        found: View = {}
        for threads, view in self.views:
            if self.threads.inside(threads):
                join(found, view)
        return found

    def meet(self) -> None:
        """A barrier of all threads of the role."""
        self.barrier_time = self.tick()
        everything = self.views[0][1]
        for _, view in self.views[1:]:
            join(everything, view)
        del self.views[1:]

    @property
    def in_parts(self) -> bool:
        """Whether sets of the role's threads have met by themselves."""
        return bool(self.parts)

    def meet_part(self) -> None:
        """A barrier of the running threads, which are a part of the role's."""
        now = self.tick()
        met = {
            ("threads", self.index, t.number): now
            for t in self.sets.known
            if t.inside(self.threads)
        }
        view = {**self.knowledge(), **met}
        for threads, own in self.views:
            if threads.inside(self.threads):
                join(view, own)
        self.learn(self.threads, view)
        if self.threads not in self.parts:
            self.parts.append(self.threads)

    def meet_warps(self) -> None:
        """A warp sync of the running threads."""
        now = self.tick()
        kept = [met for met in self.warps_met if not met[0].inside(self.threads)]
        self.warps_met = [*kept, (self.threads, now)]
        for threads, view in list(self.views[1:]):
            if threads.inside(self.threads):
                self.learn(self.sets.find(threads.warps & self.threads.mask), view)


def join(view: View, other: View) -> None:
    for key, time in other.items():
        if time > view.get(key, NEVER):
            view[key] = time


def is_in_flight(op: Op, access: Access) -> bool:
    """Whether the access is still going on when the statement is done."""
    if isinstance(op, (Copy, Parallel)) and op.instruction in ("cp_async", "buffer_copy"):
        return access.writes
    return access.engine


def owner_key(access: Access) -> Key:
    """What a view calls the accesses of these threads.

    A warpgroup's wgmma is over for all of it at once, so one arrival a warpgroup stands for it.
    """
    return ("engine" if access.grouped else "threads", access.agent.index, access.threads.number)


def ordered(earlier: Access, agent: SyncAgent, by_engine: bool, threads: Threads) -> bool:
    """Whether `earlier` is over, and visible, before what `threads` of `agent` do now."""
    if earlier.landing is not None:
        key, phase = earlier.landing
        shown = earlier.engine or not by_engine or earlier.is_shown_to(agent, threads)
        return shown and agent.seen(key, threads) > phase
    time = earlier.done
    if time is not None and by_engine and earlier.writes and not earlier.engine:
        time = earlier.shown
    if time is None:
        return False
    if earlier.agent is agent:
        if agent.barrier_time > time:
            return True
        if earlier.threads.count == 1 and threads is earlier.threads:
            return True
    return agent.seen(owner_key(earlier), threads) >= time


class Memory:
    """Every slot with its last writes and the reads since."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._writes: dict[Place, list[Access]] = {}
        self._reads: dict[Place, list[Access]] = {}
        self._taken: dict[tuple[Place, Op], int] = {}  # in which turn, since the last write

    def touch(self, accesses: list[Access]) -> None:
        """Checks the accesses of one statement against all before, then records them."""
        for access in accesses:
            self._check(access)
        for access in accesses:
            if not access.writes:
                self._check_turn(access)
                self._reads.setdefault(access.place, []).append(access)
        for access in accesses:
            if access.writes:
                self._taken = {k: v for k, v in self._taken.items() if k[0] != access.place}
                kept = [
                    a
                    for a in self._writes.get(access.place, [])
                    if _by_element(a, access)
                    or (a.atomic and access.atomic)
                    or _other_part(a, access)
                    or (access.partial and not a.partial)
                ]
                self._writes[access.place] = [*kept, access]
                own = [
                    a
                    for a in self._reads.get(access.place, [])
                    if a.op is access.op or _by_element(a, access)
                ]
                self._reads[access.place] = own

    def unlanded(self) -> list[Access]:
        """The last writes by copy engines."""
        return [a for writes in self._writes.values() for a in writes if a.landing is not None]

    def _check(self, access: Access) -> None:
        writes = self._writes.get(access.place, [])
        if not access.writes and not writes and access.place.alloc.managed:
            raise HazardError(
                "TLC0351",
                f"{access.op.name} reads {access.place.name}, to which nothing has been written",
                loc=access.op.loc,
                hint=f"found with {self.case}",
            )
        if access.partial and all(write.partial for write in writes):
            raise HazardError(
                "TLC0351",
                f"{access.op.name} fills {access.place.name} in part, and nothing has been written to the rest",
                loc=access.op.loc,
                hint=f"found with {self.case}",
            )
        earlier = [*writes, *self._reads.get(access.place, [])] if access.writes else writes
        for other in earlier:
            if (other.atomic and access.atomic) or _other_part(other, access):
                continue
            by_engine = access.engine and not access.writes
            if not (
                ordered(other, access.agent, by_engine, access.threads) or _apart(other, access)
            ):
                raise self._conflict(other, access)

    def _check_turn(self, access: Access) -> None:
        """A slot of several is filled anew for each turn that it is read in.

        A single slot need not be: a statement that writes only some of it keeps the rest.
        """
        via, turn = access.place.via, access.place.turn
        if via is None or not access.place.alloc.managed or access.place.alloc.type.shape[0] == 1:
            return
        if self._taken.setdefault((access.place, via), turn) != turn:
            name = access.place.name
            raise HazardError(
                "TLC0351",
                f"{access.op.name} in {access.agent.label} reads {name} as it was a turn before",
                loc=access.op.loc,
                hint=f"found with {self.case}",
            )

    def _conflict(self, earlier: Access, later: Access) -> HazardError:
        name, role = later.place.name, later.agent.label
        what = f"{later.op.name} in {role} {'writes' if later.writes else 'reads'} {name}"
        made = f"{earlier.op.name} in {earlier.agent.label} at {earlier.op.loc}"
        if earlier.writes and not later.writes:
            code, message = self._early_read(earlier, later, what, made)
        elif earlier.done is None and not earlier.writes:
            code, message = (
                "TLC0352",
                f"{what} while {made} may still be reading it: its wait comes later or never",
            )
        elif earlier.agent is later.agent and earlier.landing is None and earlier.done is not None:
            code, message = "TLC0353", f"{what} with no barrier since {made} used it"
        else:
            code, message = "TLC0352", f"{what}, and nothing orders that after {made}"
        return HazardError(code, message, loc=later.op.loc, hint=f"found with {self.case}")

    def _early_read(self, earlier: Access, later: Access, what: str, made: str) -> tuple[str, str]:
        if earlier.landing is not None and not ordered(earlier, later.agent, False, later.threads):
            return "TLC0351", f"{what} with no wait for the bytes that {made} brings"
        if earlier.landing is not None:
            why = f"no fence of {later.agent.label} has shown it what {made} has brought"
            return "TLC0354", f"{what} through the async proxy, and {why}"
        if earlier.done is None:
            why = "its wait is missing or leaves too many"
            return "TLC0351", f"{what} before what {made} brings has landed: {why}"
        if ordered(earlier, later.agent, False, later.threads):
            why = f"no fence has shown it what {made} wrote"
            return "TLC0354", f"{what} through the async proxy, and {why}"
        if earlier.agent is later.agent:
            return "TLC0353", f"{what} with no barrier since {made} wrote it"
        return "TLC0351", f"{what}, and nothing orders that after {made}"


def _other_part(earlier: Access, later: Access) -> bool:
    return None not in (earlier.part, later.part) and earlier.part != later.part


def _by_element(earlier: Access, later: Access) -> bool:
    """Accesses to known elements: a later one does not stand for an earlier one."""
    return (
        earlier.elements is not None and later.elements is not None and earlier.agent is later.agent
    )


def _apart(earlier: Access, later: Access) -> bool:
    """Whether no element is touched by one thread in one access and by another in the other."""
    if earlier.elements is None or later.elements is None or earlier.agent is not later.agent:
        return False
    places, owners = earlier.elements
    mine, threads = later.elements
    size = int(max(places.max(initial=0), mine.max(initial=0))) + 1
    owner = np.full(size, NEVER, dtype=np.int64)
    owner[places] = owners
    if bool((owner[places] != owners).any()):
        return False
    return bool(((owner[mine] == NEVER) | (owner[mine] == threads)).all())


def resolve(agent: Agent, handle: Value) -> Place | None:
    """Which buffer or slot a handle stands for now."""
    found = agent.env.get(handle)
    return found if isinstance(found, Place) else None
