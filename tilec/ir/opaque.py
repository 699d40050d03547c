"""An op that this registry does not know, kept as it was read so that it prints back unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .core import Access, Block, Effect, Op, Value, links_among
from .types import Type

Item = Value | tuple[Value, ...]
"""An operand, or a group of them."""


class OpaqueOp(Op):
    """An op by name, with whatever operands, attributes, regions and result types its text had.

    Its meaning is unknown: it may read, write and synchronise all memory, so nothing moves across
    it and it is never removed. `fields` belongs to the object, not to the class: one entry an
    operand, group or region.
    """

    def __init__(
        self,
        name: str,
        items: Sequence[Item] = (),
        attributes: Mapping[str, Any] | None = None,
        regions: Sequence[Block] = (),
        types: Sequence[Type] = (),
    ) -> None:
        fields: list[tuple[str, str]] = []
        values: dict[str, Any] = {}
        for i, item in enumerate(items):
            fields.append((f"operand{i}", "operands" if isinstance(item, tuple) else "operand"))
            values[f"operand{i}"] = item
        for i, block in enumerate(regions):
            fields.append((f"region{i}", "region"))
            values[f"region{i}"] = block
        fields += [("pairs", "attribute"), ("types", "attribute")]
        values["pairs"] = tuple((attributes or {}).items())
        values["types"] = tuple(types)
        shape = {"name": name, "fields": tuple(fields), "links": links_among(fields)}
        for key, value in {**shape, **values}.items():
            object.__setattr__(self, key, value)
        self.__post_init__()

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that were written."""
        pairs: tuple[tuple[str, Any], ...] = self.__dict__["pairs"]
        return dict(pairs)

    def infer(self) -> tuple[Type, ...]:
        types: tuple[Type, ...] = self.__dict__["types"]
        return types

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ), Effect(Access.WRITE), Effect(Access.SYNCHRONISE))

    @classmethod
    def build(cls, values: Mapping[str, Any], like: Op | None = None) -> Op:
        """The op `like` with these field values."""
        assert like is not None, "an opaque op is built only from another"
        return cls(
            like.name,
            [values[name] for name, kind in like.fields if kind in ("operand", "operands")],
            dict(values["pairs"]),
            [values[name] for name, kind in like.fields if kind == "region"],
            values["types"],
        )
