"""The lanes of vectorised execution: threads of a simt region, or iterations of a Parallel, as
leading array axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .numbers import Array


@dataclass(frozen=True, eq=False)
class Lanes:
    """`kind` is "thread" or "iteration"; values within have shapes that broadcast to `shape`, or
    none (uniform).
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def numbers(self) -> Array:
        """Every lane's number, in the shape of the lanes."""
        return _numbers(self.shape)

    def indices(self) -> tuple[Array, ...]:
        """Per axis the i32 index of each lane, of extent 1 along the other axes."""
        return _indices(self.shape)

    def describe(self, number: int) -> str:
        """A lane in the user's words."""
        place = [int(i) for i in np.unravel_index(number, self.shape)]
        inner = f"{place[0]}" if len(place) == 1 else f"({', '.join(map(str, place))})"
        return f"{self.kind} {inner}"


@lru_cache(maxsize=256)
def _numbers(shape: tuple[int, ...]) -> Array:
    numbers = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    numbers.setflags(write=False)
    return numbers


@lru_cache(maxsize=256)
def _indices(shape: tuple[int, ...]) -> tuple[Array, ...]:
    found = []
    for axis, extent in enumerate(shape):
        index = np.arange(extent, dtype=np.int32)
        found.append(index.reshape([extent if a == axis else 1 for a in range(len(shape))]))
        found[-1].setflags(write=False)
    return tuple(found)


class Lasting:
    """Index arithmetic that recurs: values kept for the whole run and known by their identity.

    A value that is kept is never changed and never freed, so its id is its own: what was computed
    from values with these ids is known without looking at them.
    """

    _LARGEST, _BYTES = 1 << 18, 1 << 26  # of one value, of all of them

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        self._scalars: dict[tuple[type[np.generic], int], Any] = {}
        self._left = self._BYTES

    def scalar(self, kind: type[np.generic], number: int) -> Any:
        """The one lasting scalar of this type and value."""
        found = self._scalars.get((kind, number))
        if found is None:
            found = kind(number)
            if self.keep(found):
                self._scalars[kind, number] = found
        return found

    def keep(self, x: Any) -> bool:
        """Makes x last; False if it is too large or there are too many."""
        if id(x) in self._kept:
            return True
        size = x.nbytes + 256  # what keeping it in tables takes
        if size > min(self._LARGEST, self._left):
            return False
        self._left -= size
        self._kept[id(x)] = x
        return True

    def __contains__(self, x: Any) -> bool:
        return id(x) in self._kept
