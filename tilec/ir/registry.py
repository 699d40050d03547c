"""Which ops exist, and the tables that others hang on them, owned by an instance.

Two registries never share state, so two versions of tilec, or two sets of plugins, live in one
process. A table is a named dictionary keyed by op class (lowerings, interpreter rules, spellings a
backend): `registry.table("lower")`. Lookups fall through to the class's bases, so a family of ops
can share an entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import IRError
from .core import Op


class Registry:
    """A set of op classes by printed name, with tables keyed by class."""

    def __init__(self, ops: Iterable[type[Op]] = ()) -> None:
        self._ops: dict[str, type[Op]] = {}
        self._tables: dict[str, dict[type[Op], Any]] = {}
        self._passes: list[tuple[str, str, Any]] = []
        for op in ops:
            self.register(op)

    def register(self, op: type[Op]) -> type[Op]:
        """Adds an op class. Names of ops from outside the package carry a namespace
        (`acme.gather`).
        """
        if self._ops.get(op.name, op) is not op:
            raise IRError("TLC0210", f"two ops are called {op.name!r}")
        self._ops[op.name] = op
        return op

    def find(self, name: str) -> type[Op] | None:
        return self._ops.get(name)

    @property
    def ops(self) -> tuple[type[Op], ...]:
        return tuple(self._ops.values())

    def table(self, name: str) -> dict[type[Op], Any]:
        """The table called `name`, empty at first; entries are added by assignment."""
        return self._tables.setdefault(name, {})

    def lookup(self, table: str, op: type[Op]) -> Any | None:
        """The entry of `op`'s class, or of its nearest base that has one."""
        entries = self.table(table)
        for cls in op.__mro__:
            if cls in entries:
                return entries[cls]
        return None

    def insert_pass(self, where: str, anchor: str, pass_: Any) -> None:
        """A pass from outside: "before" the first or "after" the last pass called `anchor`. The
        pipeline checks the name.
        """
        self._passes.append((where, anchor, pass_))

    @property
    def passes(self) -> tuple[tuple[str, str, Any], ...]:
        """Passes from outside, in the order in which they were inserted: where, anchor, pass."""
        return tuple(self._passes)

    def copy(self) -> Registry:
        """An independent registry with the same ops and entries, to extend."""
        other = Registry(self._ops.values())
        other._passes = list(self._passes)
        other._tables = {name: dict(entries) for name, entries in self._tables.items()}
        return other
