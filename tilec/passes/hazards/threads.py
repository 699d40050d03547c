"""Sets of threads of one role, each set one object, so that equal sets are the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...ir.ops.nvidia import WARPGROUP

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Threads:
    """A set of threads. `warps` and `groups` are it widened to whole warps and warpgroups."""

    number: int
    mask: Mask
    count: int
    warps: Mask
    groups: Mask
    known: dict[tuple[str, int], bool] = field(default_factory=dict)

    def inside(self, other: Threads) -> bool:
        """Whether all of these are among the other set's, of the same role."""
        return self is other or self._among("mask", other)

    def inside_warps(self, other: Threads) -> bool:
        """Whether all of these are in warps of the other set's threads."""
        return self._among("warps", other)

    def inside_groups(self, other: Threads) -> bool:
        """Whether all of these are in warpgroups of the other set's threads."""
        return self._among("groups", other)

    def _among(self, unit: str, other: Threads) -> bool:
        found = self.known.get((unit, other.number))
        if found is None:
            found = bool((self.mask <= getattr(other, unit)).all())
            self.known[unit, other.number] = found
        return found


class ThreadSets:
    """The sets of threads of a role that its program has made so far."""

    def __init__(self, size: int, warp: int) -> None:
        self.size = size
        self._warp = warp
        self._sets: dict[bytes, Threads] = {}
        self.all = self.find(np.ones(size, dtype=np.bool_))

    @property
    def known(self) -> list[Threads]:
        return list(self._sets.values())

    def find(self, mask: Mask) -> Threads:
        """The one object for this set."""
        key = mask.tobytes()
        found = self._sets.get(key)
        if found is None:
            warps, groups = self._widened(mask, self._warp), self._widened(mask, WARPGROUP)
            found = Threads(len(self._sets), mask.copy(), int(mask.sum()), warps, groups)
            self._sets[key] = found
        return found

    def split(self, threads: Threads, condition: Mask) -> tuple[Threads, Threads]:
        """Those of `threads` for which the condition holds, and the others."""
        return self.find(threads.mask & condition), self.find(threads.mask & ~condition)

    def _widened(self, mask: Mask, unit: int) -> Mask:
        padded = np.zeros(-(-self.size // unit) * unit, dtype=np.bool_)
        padded[: self.size] = mask
        units = padded.reshape(-1, unit).any(axis=1)
        return np.repeat(units, unit)[: self.size]
