"""Contestants timed in turn, so that what changes the machine's clock changes it for all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tilec.runtime.timing import Clock


@dataclass(frozen=True)
class Race:
    """Microseconds of each contestant, round by round."""

    times: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Median time of a contestant."""
        return statistics.median(self.times[name])

    def ratio(self, ours: str, peer: str) -> float:
        """Median over the rounds of the peer's time to ours: above 1 ours is faster."""
        pairs = zip(self.times[ours], self.times[peer], strict=True)
        return statistics.median(theirs / mine for mine, theirs in pairs)


def race(contestants: Mapping[str, Callable[[], object]], clock: Clock, rounds: int) -> Race:
    """`rounds` of every contestant, each round begun by another one; three more before, untimed."""
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-3, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            took = clock(contestants[name])
            if number >= 0:
                times[name].append(took)
    return Race(times)
