"""Who touched which element since the last time that all met.

An episode is a stretch of execution in which some parties (the iterations of a Parallel, the
threads under a condition that depends on the thread, the blocks of a launch) run in no order. Each
element remembers the last party that wrote it and the party that read it, in numbers that rise from
episode to episode, so that nothing is cleared between them.
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
        self.writer = np.full(shape, -1, np.int32)
        self.reader = np.full(shape, -1, np.int32)
        self.episode = -1
        self._base = 0
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
            self.writer.fill(-1)
            self.reader.fill(-1)
            self._base, self._many = 0, parties

    def number(self, party: Array | int) -> Array | int:
        """A party's mark in this episode."""
        return party + self._base

    def write(self, index: Index, party: Array | int) -> tuple[Bits, Bits]:
        """Notes a write. Gives where another party wrote before, and where another has read.

        Where `index` names an element twice, `writer` afterwards holds one of the two parties.
        """
        me = party + self._base
        written, read = self.writer[index], self.reader[index]
        others = np.asarray((written >= self._base) & (written != me))
        readers = np.asarray((read >= self._base) & (read != me))
        self.writer[index] = me
        return others, readers

    def read(self, index: Index, party: Array | int, repeats: bool) -> Bits:
        """Notes a read. Gives where another party has written."""
        me = party + self._base
        written, read = self.writer[index], self.reader[index]
        self.reader[index] = np.where((read < self._base) | (read == me), me, self._many)
        if repeats:
            several = self.reader[index] != me
            if several.any():
                self._mark_many(index, several)
        return np.asarray((written >= self._base) & (written != me))

    def _mark_many(self, index: Index, several: Bits) -> None:
        arrays = np.broadcast_arrays(*index, several)
        self.reader[tuple(a[arrays[-1]] for a in arrays[:-1])] = self._many

    def other(self, index: Index) -> int:
        """The party in the log at one element: its last writer, else its reader; -1 for several or
        none.
        """
        for log in (self.writer, self.reader):
            found = int(log[index])
            if self._base <= found < self._many:
                return found - self._base
        return -1
