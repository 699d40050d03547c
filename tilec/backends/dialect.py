"""The languages that programs are printed in, as data.

A kernel's body is the same text in every dialect (docs/prelude.md); what a dialect adds is its
prelude and frame (templates beside its table), and a spelling of its own for an op that has one
(`spelling:cuda`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import TargetUnsupported
from .prelude import prelude_names

INNER_NAMES = frozenset({
    "base", "words", "packet", "shared_address", "half_turns", "races", "piece", "plain", "to_odd", "register_pool",
    "barriers", "exchange", "packed_zero", "copy_groups", "matrix_rows", "matrix_values",
    "swizzled", "clusters", "mbarrier_states", "tma_box", "tma_load_box", "bulk_groups", "wgmma_groups",
})  # fmt: skip
"""Entries of the preludes' tables that other entries use and bodies do not."""


HIP_LACKS = {
    "print_value": "an AMD GPU prints through AMD's device library and a thread of the host that "
    "serves it, and this text stands alone"
}


@dataclass(frozen=True)
class Dialect:
    """One language: `name` is that of its prelude, `extension` that of a source file. `lacks` says
    why its prelude has not a name that others have.
    """

    name: str
    extension: str
    lacks: Mapping[str, str] = field(default_factory=dict)

    @property
    def spellings(self) -> tuple[str, ...]:
        """The registry's tables that may spell an op, the most special first."""
        return (f"spelling:{self.name}", "spelling")

    @property
    def names(self) -> frozenset[str]:
        """Every name of its prelude that a body may use."""
        return frozenset(prelude_names(self.name)) - INNER_NAMES


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (Dialect("cuda", "cu"), Dialect("hip", "hip", HIP_LACKS), Dialect("cpu", "cpp"))
}
"""By the name of the backend; "cpu" is what the emulator compiles."""


def find_dialect(backend: str) -> Dialect:
    """The dialect of a backend. Raises TargetUnsupported for one that there is not."""
    if backend in DIALECTS:
        return DIALECTS[backend]
    raise TargetUnsupported(
        "TLC0517",
        f"nothing prints programs for {backend!r}",
        hint="there are " + ", ".join(DIALECTS),
    )


def all_prelude_names() -> frozenset[str]:
    """The names of all preludes: a body means the same in each of them, so none may be a
    variable's."""
    return frozenset().union(*(dialect.names for dialect in DIALECTS.values()))
