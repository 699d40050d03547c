"""Clusters on the abstract machine: which blocks share a tile, and where all of a cluster's threads
meet."""

from __future__ import annotations

from itertools import product

from .records import SyncAgent, View


def sharing(cluster: tuple[int, ...], rank: int, axes: tuple[int, ...]) -> list[int]:
    """The ranks of the blocks that a tile is for which stays the same along `axes`, in order; ranks
    count along the cluster's first dimension first."""
    found = []
    mine = _place(cluster, rank)
    for place in product(*(range(n) for n in reversed(cluster))):
        other = place[::-1]
        if all(axis in axes or other[axis] == mine[axis] for axis in range(len(cluster))):
            found.append(_rank(cluster, other))
    return found


def _place(cluster: tuple[int, ...], rank: int) -> tuple[int, ...]:
    found = []
    for extent in cluster:
        rank, place = divmod(rank, extent)
        found.append(place)
    return tuple(found)


def _rank(cluster: tuple[int, ...], place: tuple[int, ...]) -> int:
    rank = 0
    for extent, at in reversed(list(zip(cluster, place, strict=True))):
        rank = rank * extent + at
    return rank


class Meeting:
    """The cluster's barrier: a phase ends when all of its `threads` have come. It shows mbarriers."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.arrived = 0
        self.known: View = {}
        self.views: list[View] = []

    def arrive(self, agent: SyncAgent) -> int:
        """All threads of a role come; gives the phase that they wait for."""
        phase = len(self.views)
        self.known["made", agent.index] = agent.shown_time
        self.arrived += agent.sets.size
        if self.arrived == self.threads:
            self.views.append(self.known)
            self.arrived, self.known = 0, {}
        return phase

    def over(self, phase: int) -> bool:
        return len(self.views) > phase

    def describe(self) -> str:
        return f"the cluster's barrier ({self.arrived} of {self.threads} threads have come)"
