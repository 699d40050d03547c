"""Who touched which element since the last time that all met.

An episode is a stretch of execution in which some parties (the iterations of a Parallel, the
threads under a condition that depends on the thread, the blocks of a launch) run in no order. Each
element remembers the last party that wrote it, the party that read it and the party that changed it
by an atomic, in numbers that rise from episode to episode, so that nothing is cleared between them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .numbers import Array, Bits

Index = tuple[Any, ...]
"""A NumPy index: integers and slices, or integer arrays."""


class AccessLog:
    """The parties that wrote and read each element of a memory of `shape`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        # Zeros, of which no page is there before it is written: the numbers of parties begin at 1.
        self.writer = np.zeros(shape, np.int32)
        self.reader = np.zeros(shape, np.int32)
        self.updater: Array | None = None  # by an atomic; made by the first
        self.changer: Array | None = None  # who wrote several values; made by the first
        self.episode = -1
        self._base = 1
        self._many = 0  # the reader of an element that several parties have read

    def enter(self, episode: int, parties: int) -> None:
        """Makes `episode` the current one, of parties numbered 0 ... parties-1. Nothing if it is
        already.
        """
        if self.episode == episode:
            return
        self.episode = episode
        self._base = self._many + 1
        self._many = self._base + parties
        if self._many >= 2**31 - 1:
            self.writer.fill(0)
            self.reader.fill(0)
            self.updater = self.changer = None
            self._base, self._many = 1, 1 + parties

    def write(self, index: Index, party: Array | int) -> tuple[Bits, Bits]:
        """Notes a write. Gives where another party wrote before, and where another has read.

        Where `index` names an element twice, `writer` afterwards holds one of the two parties.
        """
        clashes = self._others(self.writer, index, party), self._others(self.reader, index, party)
        self.writer[index] = party + self._base
        return clashes

    def again(self, index: Index, party: Array | int) -> Bits:
        """Where this party has written last."""
        return np.asarray(self.writer[index] == party + self._base)

    def change(self, index: Index, party: Array | int, where: Bits) -> None:
        """Notes that the party has written other bits than it writes now, where it has."""
        if self.changer is None:
            self.changer = np.zeros(self.writer.shape, np.int32)
        self.changer[index] = np.where(where, party + self._base, self.changer[index])

    def changed(self, index: Index, party: Array | int) -> Bits | None:
        """Where another party has written several values; None where nobody has."""
        return None if self.changer is None else self._others(self.changer, index, party)

    def outdone(self, index: Index, party: Array | int) -> Bits:
        """Where, of several that have just written an element, another's mark is there."""
        return np.asarray(self.writer[index] != party + self._base)

    def read(self, index: Index, party: Array | int, repeats: bool) -> Bits:
        """Notes a read. Gives where another party has written."""
        clash = self._others(self.writer, index, party)
        self._mark(self.reader, index, party, repeats)
        return clash

    def written(self, index: Index, party: Array | int) -> Bits:
        """Where another party has written."""
        return self._others(self.writer, index, party)

    def updated(self, index: Index, party: Array | int) -> Bits | None:
        """Where another party's atomic has changed an element; None where no atomic has run."""
        return None if self.updater is None else self._others(self.updater, index, party)

    def touched(self, index: Index, party: Array | int) -> Bits:
        """Where another party has read."""
        return self._others(self.reader, index, party)

    def update(self, index: Index, party: Array | int) -> tuple[Bits, Bits]:
        """Notes an atomic. Gives where another party has written, and where another has read."""
        if self.updater is None:
            self.updater = np.zeros(self.writer.shape, np.int32)
        clashes = self._others(self.writer, index, party), self._others(self.reader, index, party)
        self._mark(self.updater, index, party, True)
        return clashes

    def _others(self, log: Array, index: Index, party: Array | int) -> Bits:
        found = log[index]
        return np.asarray((found >= self._base) & (found != party + self._base))

    def _mark(self, log: Array, index: Index, party: Array | int, repeats: bool) -> None:
        """Writes the party into a log that knows of several."""
        me = party + self._base
        found = log[index]
        log[index] = np.where((found < self._base) | (found == me), me, self._many)
        several = np.asarray(log[index] != me) if repeats else np.False_
        if several.any():
            arrays = np.broadcast_arrays(*index, several)
            log[tuple(a[arrays[-1]] for a in arrays[:-1])] = self._many

    def other(self, index: Index) -> int:
        """The party in the log at one element: its last writer, else its reader; -1 for several or
        none.
        """
        for log in (self.writer, self.reader):
            found = int(log[index])
            if self._base <= found < self._many:
                return found - self._base
        return -1


class Stretch:
    """What threads did to a tensor since they met: `alone` what a thread does to elements of its own
    choice, `alike` what statements do to an element that is the same for all. The compiler orders the
    latter among themselves, and nothing else.
    """

    def __init__(self, alone: AccessLog, alike: AccessLog) -> None:
        self.alone, self.alike = alone, alike

    def enter(
        self, episode: int, threads: int, alike: bool
    ) -> tuple[AccessLog, tuple[AccessLog, ...]]:
        """The log of an access, and those of accesses that nothing orders with it."""
        self.alone.enter(episode, threads)
        self.alike.enter(episode, threads)
        return (self.alike, (self.alone,)) if alike else (self.alone, (self.alone, self.alike))


class Names:
    """By which of its names each element of an array was written, which is passed for several
    parameters."""

    def __init__(self, shape: tuple[int, ...], names: list[str]) -> None:
        self._names = ("", *names)  # of none: nobody wrote it
        self._written = np.zeros(shape, np.int8)

    def others(self, name: str, index: Index) -> Bits:
        """Which elements were written by another name."""
        found = self._written[index]
        return np.asarray((found > 0) & (found != self._names.index(name)))

    def write(self, name: str, index: Index) -> None:
        """Notes a write."""
        self._written[index] = self._names.index(name)

    def writer(self, name: str, index: Index) -> str:
        """By which other name than this an element was written."""
        return self._names[int(self._written[index])]
