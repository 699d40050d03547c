"""How the tiles of a last wave are shared among all blocks: Stream-K (Osama et al., "Stream-K:
Work-centric Parallel Decomposition for Dense Matrix-Matrix Multiplication on the GPU", 2023) for that
wave alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir.build import Builder

HELPERS = 3
"""So many help with a tile at most: its owner adds their sums one after another."""
_MOST = 2**20  # steps of which some are given, so that no sum here needs more than 31 bits
_LEAD = 4  # steps that a helper does less: what it stores is there when the owner is done


def leaves_few(rest: int, workers: int) -> bool:
    """Whether of a last wave of `rest` tiles no helper has more than two to help with."""
    return 3 * rest <= 2 * workers


class Numbers:
    """The arithmetic of a Builder on Python's integers, for what is known ahead."""

    def add(self, x: int, y: int) -> int:
        return x + y

    def sub(self, x: int, y: int) -> int:
        return x - y

    def mul(self, x: int, y: int) -> int:
        return x * y

    def floordiv(self, x: int, y: int) -> int:
        return x // y

    def ceildiv(self, x: int, y: int) -> int:
        return -(-x // y)

    def min(self, x: int, y: int) -> int:
        return min(x, y)

    def max(self, x: int, y: int) -> int:
        return max(x, y)


@dataclass(frozen=True)
class LastWave:
    """How the tiles of the last wave are shared; numbers, or values of a program.

    Of each tile the owner does `own` steps, from the first on. The other `given` are dealt out:
    each helper takes `share` in a row, of one tile or of several. A tile has parts of `for_each`
    helpers, or, where they are fewer than the tiles, of one or two.
    """

    for_each: Any
    helpers: Any
    own: Any
    given: Any
    share: Any

    @property
    def torn(self) -> bool:
        """Whether a helper's steps may be of two tiles; of numbers."""
        return bool(self.for_each == 1 and self.share % max(self.given, 1))

    @staticmethod
    def of(b: Builder | Numbers, rest: Any, steps: Any, workers: int) -> LastWave:
        """`rest` tiles of `steps` steps each, shared by `workers` blocks; their sums in b."""
        n: Any = b
        idle = n.sub(workers, rest)
        for_each = n.max(n.min(n.floordiv(idle, n.max(rest, 1)), HELPERS), 1)
        helpers = n.min(idle, n.mul(for_each, rest))
        blocks = n.max(n.add(rest, helpers), 1)
        counted = n.min(steps, _MOST)
        even = n.ceildiv(n.mul(rest, n.add(counted, _LEAD)), blocks)
        each = n.floordiv(n.max(n.sub(counted, even), 0), for_each)
        given = n.mul(n.min(helpers, 1), n.mul(each, for_each))
        share = n.max(n.ceildiv(n.mul(rest, given), n.max(helpers, 1)), 1)
        return LastWave(for_each, helpers, n.max(n.sub(steps, given), 0), given, share)
