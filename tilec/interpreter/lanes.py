"""The lanes of vectorised execution: threads of a simt region, or iterations of a Parallel, as
leading array axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """Index arrays kept for the whole run, so that what is computed from them is computed once.

    They are never changed in place. Scalars always last.
    """

    _LARGEST, _BYTES = 1 << 18, 1 << 26  # of one array, of all of them

    def __init__(self) -> None:
        self._arrays: dict[int, Array] = {}  # by id; being here keeps the id theirs
        self._left = self._BYTES

    def keep(self, x: Array) -> bool:
        """Makes x last; False if it is too large or there are too many."""
        if x.ndim and id(x) in self._arrays:
            return True
        size = x.nbytes + 256  # what keeping it in tables takes
        if size > min(self._LARGEST, self._left):
            return False
        self._left -= size
        if x.ndim:
            self._arrays[id(x)] = x
        return True

    def key(self, operands: Sequence[Any]) -> tuple[Any, ...] | None:
        """What tells these operands from any others; None if one of them does not last."""
        found: list[Any] = []
        for x in operands:
            if x.ndim == 0:
                found.append(x)
            elif id(x) in self._arrays:
                found.append((id(x),))
            else:
                return None
        return tuple(found)
