"""The entries that a dialect's prelude table is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..ir.ops import functions


@dataclass(frozen=True)
class PreludeEntry:
    """One name of the prelude (docs/prelude.md) as a dialect renders it.

    `template` is a file of the dialect's `templates` folder, `macro` the Jinja macro in it that
    prints the definition (the name itself where left out). The macro gets `instances`: the sorted
    argument tuples of every Need of this name; a macro of an ordinary C++ template ignores them.
    `requires` lists names that the text uses; they must stand earlier in the table, whose order is
    the order of the text. `in_f64` are those that it uses where an instance is of f64.
    """

    name: str
    template: str
    requires: tuple[str, ...] = ()
    macro: str = ""
    in_f64: tuple[str, ...] = ()

    @property
    def macro_name(self) -> str:
        """The Jinja macro that prints this entry."""
        return self.macro or self.name


def function_entries(
    in_f64: Mapping[str, tuple[str, ...]] = MappingProxyType({}), **requires: tuple[str, ...]
) -> tuple[PreludeEntry, ...]:
    """An entry for each function of `ir.ops.functions`, in that order: a macro of its name.

    `requires` are those of functions whose text needs more than the base, `in_f64` those of their forms
    for f64.
    """
    return tuple(
        PreludeEntry(
            op.name,
            "functions.j2",
            requires.get(op.name, ("base",)),
            in_f64=in_f64.get(op.name, ()),
        )
        for op in functions.OPS
    )


def make_table(*entries: PreludeEntry) -> dict[str, PreludeEntry]:
    """The table of `entries` by name, in their order.

    ValueError where a name stands twice or requires one that does not stand before it.
    """
    table: dict[str, PreludeEntry] = {}
    for entry in entries:
        if entry.name in table:
            raise ValueError(f"prelude name {entry.name!r} stands twice in the table")
        missing = [name for name in (*entry.requires, *entry.in_f64) if name not in table]
        if missing:
            raise ValueError(
                f"prelude name {entry.name!r} requires {missing}, which stand later or nowhere"
            )
        table[entry.name] = entry
    return table
