"""What a kernel's accesses cost: bank conflicts of shared memory and sectors of global memory, as
counts, by the line of the program."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace

SHARED = "shared memory"


@dataclass(frozen=True)
class AccessCount:
    """The accesses of one kind at one line of the program, those of a warp's lanes together.

    `transfers` of shared memory are wavefronts (32 banks of 4 bytes, in the phases that the
    hardware takes for the width), of global memory sectors (32 bytes; 64 on CDNA); `needed` of them
    would do for as many bytes. `worst` is the most wavefronts of one phase (32: every lane on one
    bank), the most sectors of one access.
    """

    kernel: str
    line: str
    instruction: str
    memory: str
    bytes: int
    accesses: int
    transfers: int
    needed: int
    worst: int

    @property
    def shared(self) -> bool:
        """Whether it accesses shared memory; else `memory` is the name of an array."""
        return self.memory == SHARED

    @property
    def beyond(self) -> int:
        """Wavefronts or sectors that a better arrangement would not take."""
        return self.transfers - self.needed

    def __str__(self) -> str:
        what = "wavefronts" if self.shared else "sectors"
        beyond = f"{self.beyond} beyond the ideal"
        if self.shared and self.beyond:
            beyond += f", up to {self.worst}-way"
        return (
            f"{self.line or self.kernel}: {self.instruction} of {self.bytes} bytes, {self.memory}: "
            f"{self.accesses} accesses, {self.transfers} {what}, {beyond}"
        )


class Counts:
    """The counts of one launch or of several: one AccessCount for each line, kind and width."""

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], AccessCount] = {}

    def add(self, kernel: str, records: Iterable[Mapping[str, object]]) -> None:
        """Adds what the emulator's process counted in one launch."""
        for record in records:
            self._add(AccessCount(kernel=kernel, **record))  # type: ignore[arg-type]

    def merge(self, other: Counts) -> None:
        """Adds the counts of another launch."""
        for count in other.accesses:
            self._add(count)

    def _add(self, new: AccessCount) -> None:
        key = (new.kernel, new.line, new.instruction, new.memory, new.bytes)
        old = self._found.get(key)
        if old is not None:
            new = replace(
                old,
                accesses=old.accesses + new.accesses,
                transfers=old.transfers + new.transfers,
                needed=old.needed + new.needed,
                worst=max(old.worst, new.worst),
            )
        self._found[key] = new

    @property
    def accesses(self) -> tuple[AccessCount, ...]:
        """Every count: what is most beyond its ideal first, then by line."""
        return tuple(
            sorted(self._found.values(), key=lambda c: (-c.beyond, c.line, c.instruction, c.bytes))
        )

    @property
    def bank_conflicts(self) -> int:
        """Wavefronts of shared memory beyond the ideal."""
        return sum(c.beyond for c in self._found.values() if c.shared)

    @property
    def excess_sectors(self) -> int:
        """Sectors of global memory beyond what the bytes need."""
        return sum(c.beyond for c in self._found.values() if not c.shared)

    def as_json(self) -> list[dict[str, object]]:
        """One object a count, its fields and `beyond`."""
        return [{**asdict(count), "beyond": count.beyond} for count in self.accesses]


_collecting: ContextVar[Counts | None] = ContextVar("tilec_counts", default=None)


@contextmanager
def counted() -> Iterator[Counts]:
    """Within the `with` block every call that an emulator device runs adds its counts to this."""
    counts = Counts()
    token = _collecting.set(counts)
    try:
        yield counts
    finally:
        _collecting.reset(token)


def collecting() -> Counts | None:
    """Where the innermost `counted` wants counts, if there is one."""
    return _collecting.get()
