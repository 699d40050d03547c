"""Spelling ops by a template: the `text` of an op's class, or an entry of a registry's spelling
table.

The grammar: `{field}` is an operand, an attribute or a property of the op; a group of operands is
joined by commas; `{, field}` is a group with a comma before it where it is not empty, `{ + field}`
one value or none, added to what stands before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from ..errors import TargetUnsupported
from ..ir.core import Op, Value
from ..ir.dtypes import DType
from ..ir.opaque import OpaqueOp
from ..ir.registry import Registry

ValueText: TypeAlias = Callable[[Value], str]
"""How a value prints."""

Spelling: TypeAlias = "str | Callable[[Op, ValueText], str]"
"""An entry of a spelling table: a template, or what makes the text from the op and the texts of its
operands."""

_PLACE = re.compile(r"\{(, | \+ )?([A-Za-z_]\w*)\}")


def find_spelling(op: Op, registry: Registry, tables: Sequence[str]) -> Spelling:
    """How `op` is spelled: by the first table that has its class, else by its own text.

    Raises TargetUnsupported, with the user's line, where nothing says how.
    """
    for table in tables:
        found = registry.lookup(table, type(op))
        if found is not None:
            spelling: Spelling = found
            return spelling
    own = getattr(op, "text", "")
    if isinstance(own, str) and own and not isinstance(op, OpaqueOp):
        return own
    backend = tables[0].partition(":")[2]
    raise TargetUnsupported(
        "TLC0513",
        f"{op.name} has no spelling for {backend}",
        loc=op.loc,
        hint=f"enter one for its class in the registry's table {tables[0]!r} or {tables[-1]!r}",
    )


def spell(
    spelling: Spelling, op: Op, value_text: ValueText, given: Mapping[str, str] | None = None
) -> str:
    """The text of `op`. `given` are fields whose text is already made."""
    if not isinstance(spelling, str):
        return spelling(op, value_text)
    fields = given or {}

    def expand(place: re.Match[str]) -> str:
        text = fields[place[2]] if place[2] in fields else _field_text(op, place[2], value_text)
        if not place[1] or not text:
            return text
        added = place[1] == " + " and not text.isidentifier()
        return place[1] + (f"({text})" if added else text)

    return _PLACE.sub(expand, spelling)


def _field_text(op: Op, name: str, value_text: ValueText) -> str:
    kind = dict(op.fields).get(name)
    found = getattr(op, name)
    if kind == "operand":
        return value_text(found)
    if kind == "operands":
        return ", ".join(value_text(v) for v in found)
    if kind is None and isinstance(found, str):
        return found  # a property is the class's own text, not the user's data
    return attribute_text(op, name, found)


def attribute_text(op: Op, name: str, value: object) -> str:
    """An attribute as C: a number, `true` or `false`, a name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, DType)) or (isinstance(value, str) and value.isidentifier()):
        return str(value)
    raise TargetUnsupported("TLC0514", f"the {name} {value!r} of {op.name} has no text", loc=op.loc)
