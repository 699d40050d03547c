"""What a pass is given beside the program: the target, the registry, the facts it may rely on,
where remarks go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import UNKNOWN, Loc
from ..ir.core import Program
from ..ir.registry import Registry
from ..target import Target


@dataclass(frozen=True)
class Remark:
    """Something that the compiler chose or gave up, in the user's own names."""

    code: str
    message: str
    loc: Loc = UNKNOWN
    warning: bool = False

    def __str__(self) -> str:
        kind = "warning" if self.warning else "remark"
        return f"{self.loc}: {kind} [{self.code}]: {self.message}"


class Facts:
    """What holds for the arguments of a variant, and a record of what was asked (its launch class).

    A fact is ("aligned", tensor, bytes): base address, rows and every stride but the last are
    multiples of `bytes`; or ("below", tensor, bytes): the tensor's extent in bytes is smaller.
    `holds(fact)` records the question: facts that were never asked do not make variants.
    """

    def __init__(self, assume: bool = True) -> None:
        self.assumes = assume
        self.asked: dict[tuple[str, str, int], None] = {}

    def aligned(self, tensor: str, size: int) -> bool:
        """Whether the tensor's base and outer strides are multiples of `size` bytes."""
        return self._ask(("aligned", tensor, size))

    def below(self, tensor: str, size: int) -> bool:
        """Whether the tensor takes fewer than `size` bytes."""
        return self._ask(("below", tensor, size))

    def _ask(self, fact: tuple[str, str, int]) -> bool:
        self.asked[fact] = None
        return self.assumes


def _ignore(remark: Remark) -> None:
    """Where remarks go when nobody listens."""


@dataclass(frozen=True)
class PassContext:
    """The surroundings of a pass. `remark` is called with every remark."""

    target: Target
    registry: Registry
    facts: Facts = field(default_factory=Facts)
    remark: Callable[[Remark], None] = _ignore


Pass = Callable[[Program, PassContext], Program]
"""A pass: a function from a program to a program, named as its file."""
