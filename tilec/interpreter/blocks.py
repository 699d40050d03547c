"""Blocks that meet: what orders them, and how they take turns where some wait for others.

An atomic that releases hands on what its block knows to have happened; one that acquires takes it
over, from the element that both name (vector clocks, as in clocks.py, of the blocks of a launch). A
block that reads an atomic again while nobody has changed global memory waits until somebody has.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from typing import Any

import numpy as np

from ..ir.core import Op
from ..ir.ops.memory import Atomic
from ..ir.ops.thread import MemoryFence
from .conflicts import AccessLog, Index
from .frame import Frame, Waiting
from .memory import Storage
from .numbers import Array, Bits
from .roles import deadlock

ATTEMPTS = 1000
"""After so many more reads without a change the blocks wait in vain."""
EARLY = 4
"""Blocks that are begun before one waits for another, at random."""

Knowledge = dict[int, int]
"""Of other blocks: the last step of each that has happened before."""
Steps = Generator[Waiting, None, Any]


class BlockOrder:
    """What each of `count` blocks knows of the others, and what was released where."""

    def __init__(self, count: int) -> None:
        self.steps = [1] * count
        self.known: list[Knowledge] = [{} for _ in range(count)]
        self.released: dict[Hashable, Knowledge] = {}
        self.fenced: list[Knowledge] = [{} for _ in range(count)]  # released by atomics from now on
        self.seen: list[Knowledge] = [{} for _ in range(count)]  # acquired by the next fence

    def atomic(self, block: int, place: Hashable, op: Atomic) -> None:
        """An atomic of a block on an element, after it has happened."""
        there = self.released.get(place, {})
        if op.kind != "store":
            _join(self.known[block] if op.acquires else self.seen[block], there)
        if op.kind == "load":
            return
        mine = self._publish(block) if op.releases else self.fenced[block]
        kept = {} if op.kind == "store" else dict(there)
        _join(kept, mine)
        self.released[place] = kept

    def fence(self, block: int) -> None:
        """A fence of a block."""
        _join(self.known[block], self.seen[block])
        self.seen[block] = {}
        self.fenced[block] = self._publish(block)

    def _publish(self, block: int) -> Knowledge:
        told = {**self.known[block], block: self.steps[block]}
        self.steps[block] += 1
        return told

    def is_before(self, access: tuple[int, int], block: int) -> bool:
        """Whether (block, step) has happened before what `block` does now."""
        other, step = access
        return other == block or step <= self.known[block].get(other, 0)


def _join(knowledge: Knowledge, more: Knowledge) -> None:
    for block, step in more.items():
        knowledge[block] = max(knowledge.get(block, 0), step)


class OrderedLog(AccessLog):
    """The blocks that wrote, read and changed each element, where a BlockOrder tells which of them
    come before. Elements hold the number of a set of accesses."""

    def __init__(self, shape: tuple[int, ...], order: BlockOrder) -> None:
        self.order = order
        self.writer, self.reader = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self.atomics = np.zeros(shape, np.int32)
        self.changer: Array | None = None
        self._sets: list[tuple[tuple[int, int], ...]] = [()]
        self._numbers: dict[tuple[tuple[int, int], ...], int] = {(): 0}

    def enter(self, episode: int, parties: int) -> None:
        """A log is of one launch."""

    def write(self, index: Index, party: Any) -> tuple[Bits, Bits]:
        clashes = (
            self._unordered(self.writer, index, party),
            self._unordered(self.reader, index, party),
        )
        self.writer[index] = self._number(((party, self.order.steps[party]),))
        self.reader[index] = self.atomics[index] = 0
        return clashes

    def again(self, index: Index, party: Any) -> Bits:
        def by_party(accesses: tuple[tuple[int, int], ...]) -> bool:
            return any(block == party for block, _ in accesses)

        return self._of_sets(self.writer[index], by_party, np.bool_)

    def change(self, index: Index, party: Any, where: Bits) -> None:
        if self.changer is None:
            self.changer = np.zeros(self.writer.shape, np.int32)
        now = self._number(((party, self.order.steps[party]),))
        self.changer[index] = np.where(where, now, self.changer[index])

    def changed(self, index: Index, party: Any) -> Bits | None:
        return None if self.changer is None else self._unordered(self.changer, index, party)

    def read(self, index: Index, party: Any, repeats: bool) -> Bits:
        clash = self._unordered(self.writer, index, party)
        self._add(self.reader, index, party)
        return clash

    def written(self, index: Index, party: Any) -> Bits:
        return self._unordered(self.writer, index, party)

    def updated(self, index: Index, party: Any) -> Bits:
        return self._unordered(self.atomics, index, party)

    def update(self, index: Index, party: Any) -> tuple[Bits, Bits]:
        clashes = (
            self._unordered(self.writer, index, party),
            self._unordered(self.reader, index, party),
        )
        self._add(self.atomics, index, party)
        return clashes

    def other(self, index: Index) -> int:
        for log in (self.writer, self.reader):
            accesses = self._sets[int(log[index])]
            if len(accesses) == 1:
                return accesses[0][0]
        return -1

    def _number(self, accesses: tuple[tuple[int, int], ...]) -> int:
        if accesses not in self._numbers:
            self._numbers[accesses] = len(self._sets)
            self._sets.append(accesses)
        return self._numbers[accesses]

    def _of_sets(self, numbers: Array, outcome: Callable[[Any], Any], dtype: type) -> Array:
        """`outcome` of the set of each element."""
        found, place = np.unique(numbers, return_inverse=True)
        values: Array = np.array([outcome(self._sets[n]) for n in found.tolist()], dtype)
        return values[place].reshape(np.shape(numbers))

    def _unordered(self, log: Array, index: Index, party: Any) -> Bits:
        def clashes(accesses: tuple[tuple[int, int], ...]) -> bool:
            return not all(self.order.is_before(access, party) for access in accesses)

        return self._of_sets(log[index], clashes, np.bool_)

    def _add(self, log: Array, index: Index, party: Any) -> None:
        now = (party, self.order.steps[party])

        def added(accesses: tuple[tuple[int, int], ...]) -> int:
            kept = [a for a in accesses if not self.order.is_before(a, party)]
            return self._number((*sorted(kept), now))

        log[index] = self._of_sets(log[index], added, np.int32)


# Turns -----------------------------------------------------------------------------------------


def again(frame: Frame, op: Atomic, name: str) -> Steps:
    """Before a block's atomic on global memory: others may go first, and if the block has done it
    since global memory last changed they must, unless nobody can."""
    run = frame.run
    seen = frame.polls.get(op)
    if seen == run.changes:
        what = f"{name} to change"
        yield Waiting(frame, what, lambda: run.changes != seen, op.loc, polls=True)
    elif run.random.integers(2):
        yield Waiting(frame, f"its turn at {name}", lambda: True, op.loc)
    frame.polls[op] = run.changes


def note_order(frame: Frame, op: Atomic, storage: Storage, index: Index) -> None:
    """What an atomic on elements orders."""
    order = frame.run.order
    if order is None or frame.place is None:
        return
    for place in storage.numbers(index):
        order.atomic(frame.place.number, (storage.identity, place), op)


def run_fence(frame: Frame, op: Op) -> None:
    assert isinstance(op, MemoryFence)
    frame.meet()
    if frame.run.order is not None and frame.place is not None:
        frame.run.order.fence(frame.place.number)


def run_together(
    frame: Frame,
    begin: Callable[[int], tuple[Frame, Steps]],
    end: Callable[[Frame], None],
    numbers: list[int],
) -> None:
    """Runs the blocks `numbers`, in this order where none waits for another. Raises ExecutionError
    when none of those that have begun can go on, nor another begin."""
    run = frame.run
    waiting: dict[Frame, Waiting | None] = {}
    steps: dict[Frame, Steps] = {}
    mbarriers: dict[Frame, list[Any]] = {}
    following, attempts, changes = iter(numbers), 0, -1
    left = len(numbers)
    while waiting or left:
        if changes != run.changes:
            attempts, changes = 0, run.changes
        ready = [f for f, w in waiting.items() if w is None or w.ready()]
        early = len(waiting) < EARLY and run.random.integers(4) == 0
        if left and (not ready or early):
            inner, block = begin(next(following))
            waiting[inner], steps[inner], mbarriers[inner] = None, block, run.mbarriers
            left -= 1
            continue
        if not ready:
            ready = [f for f, w in waiting.items() if w is not None and w.polls]
            attempts += 1
            if not ready or attempts > ATTEMPTS:
                raise deadlock(waiting)
        chosen = ready[int(run.random.integers(len(ready)))]
        run.next_episode()  # what another block did between is not of this one's
        run.mbarriers = mbarriers[chosen]
        now = next(steps[chosen], None)
        if now is None:
            end(chosen)
            del waiting[chosen], steps[chosen], mbarriers[chosen]
            attempts = 0
        else:
            waiting[chosen] = now
