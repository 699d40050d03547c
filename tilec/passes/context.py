"""What a pass is given beside the program: the target, the registry, the facts it may rely on,
where remarks go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from enum import Enum

from ..errors import UNKNOWN, Loc
from ..ir.core import Program, walk
from ..ir.ops.control import For
from ..ir.registry import Registry
from ..target import Target
from .dependence import writes


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


class Assume(Enum):
    """Which facts of its arguments a variant takes to hold."""

    ALL = "all"
    ALIGNED = "aligned"  # alignment of every tensor, of whatever size and length
    READ = "read"  # sizes, and the alignment of tensors which the program only reads
    PROMISED = "promised"  # sizes, and the alignment of tensors whose rows are promised to have it
    NOTHING = "nothing"


def assumptions(program: Program) -> tuple[Assume, ...]:
    """Under which the variants of a program differ, from the one that takes most to hold on. That
    only what is read is aligned is worth a variant where loops load it again and again."""
    differ = {
        Assume.PROMISED: bool(program.multiples),
        Assume.READ: any(isinstance(op, For) and op.stages > 0 for op in walk(program.body)),
    }
    return tuple(assume for assume in Assume if differ.get(assume, True))


def facts_of(program: Program, assume: Assume) -> Facts:
    """The facts of a variant of `program`, none of them taken yet."""
    written = {memory.hint for op in walk(program.body) for memory in writes(op)}
    return Facts(assume, frozenset(written))


class Facts:
    """What holds for the arguments of a variant, and a record of what was taken to hold (its launch
    class).

    A fact is ("aligned", tensor, bytes): base address, rows and every stride but the last are
    multiples of `bytes`; ("below", tensor, bytes): the tensor's extent in bytes is smaller; or
    ("whole", tensor, bytes): its rows are a multiple of `bytes` long.
    Facts that were never asked do not make variants. `written` are the tensors that the program
    writes.
    """

    def __init__(self, assume: Assume = Assume.ALL, written: Set[str] = frozenset()) -> None:
        self.assume = assume
        self.written = written
        self.taken: dict[tuple[str, str, int], None] = {}

    def aligned(self, tensor: str, size: int, promised: bool = False) -> bool:
        """Whether the tensor's base and outer strides are multiples of `size` bytes; `promised`
        where the program says that its rows are.
        """
        known = promised and self.assume is Assume.PROMISED
        every = self.assume in (Assume.ALL, Assume.ALIGNED)
        read = self.assume is Assume.READ and tensor not in self.written
        return self._take(("aligned", tensor, size), known or every or read)

    def unasked(self) -> Facts:
        """The same, of which none is taken yet."""
        return Facts(self.assume, self.written)

    def require_aligned(self, tensor: str, size: int) -> None:
        """Takes the tensor to be aligned whatever the variant assumes: the program needs it."""
        self._take(("aligned", tensor, size), True)

    def below(self, tensor: str, size: int) -> bool:
        """Whether the tensor takes fewer than `size` bytes."""
        sizes = self.assume in (Assume.ALL, Assume.READ, Assume.PROMISED)
        return self._take(("below", tensor, size), sizes)

    def whole(self, tensor: str, size: int) -> bool:
        """Whether the tensor's rows are a multiple of `size` bytes long."""
        return self._take(("whole", tensor, size), self.assume is Assume.ALL)

    def _take(self, fact: tuple[str, str, int], holds: bool) -> bool:
        if holds:
            self.taken[fact] = None
        return holds


def _ignore(remark: Remark) -> None:
    """Where remarks go when nobody listens."""


@dataclass(frozen=True)
class PassContext:
    """The surroundings of a pass. `remark` is called with every remark; `multiples` is what the
    program promises of its symbols, as run_pipeline finds it before each pass; `fewer_slots` how
    often the deepest channels give up a slot beyond need, since what later passes take from shared
    memory had no room.
    """

    target: Target
    registry: Registry
    facts: Facts = field(default_factory=Facts)
    remark: Callable[[Remark], None] = _ignore
    multiples: Mapping[str, int] = field(default_factory=dict)
    fewer_slots: int = 0


Pass = Callable[[Program, PassContext], Program]
"""A pass: a function from a program to a program, named as its file."""
