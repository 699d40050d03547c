"""Frozen dataclasses to JSON data, and a strict reader for the way back: nothing in the text is
run.

A dataclass becomes an object with its fields in order, a tuple a list. Reading refuses unknown and
missing fields and wrong types, and names the path, so that a damaged manifest never half works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TypeVar

T = TypeVar("T")


def to_data(value: object) -> object:
    """`value` as dicts, lists, strings, ints and None. TypeError for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_data(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [to_data(item) for item in value]
    if value is None or isinstance(value, (str, int)):
        return value
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


class Reader:
    """One JSON object being read: each field is taken once, with its type; `done()` refuses the
    rest."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, dict):
            raise ValueError(f"{path}: an object was expected, not {_kind(data)}")
        self._data = dict(data)
        self.path = path

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; a null is taken."""
        if self._data.get(name) is None:
            self._data.pop(name, None)
            return False
        return True

    def value(self, name: str) -> object:
        """The field as it stands."""
        if name not in self._data:
            raise ValueError(f"{self.path}: {name!r} is missing")
        return self._data.pop(name)

    def text(self, name: str) -> str:
        """A string field."""
        value = self.value(name)
        if not isinstance(value, str):
            raise ValueError(f"{self.path}.{name}: a string was expected, not {_kind(value)}")
        return value

    def flag(self, name: str) -> bool:
        """A field that is true or false."""
        value = self.value(name)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}.{name}: true or false was expected, not {_kind(value)}")
        return value

    def integer(self, name: str) -> int:
        """An integer field."""
        value = self.value(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{self.path}.{name}: an integer was expected, not {_kind(value)}")
        return value

    def items(self, name: str, read: Callable[[object, str], T]) -> tuple[T, ...]:
        """A list field, each item through `read(item, path)`."""
        value = self.value(name)
        if not isinstance(value, list):
            raise ValueError(f"{self.path}.{name}: a list was expected, not {_kind(value)}")
        return tuple(read(item, f"{self.path}.{name}[{i}]") for i, item in enumerate(value))

    def done(self) -> None:
        """Refuse what no one asked for."""
        if self._data:
            raise ValueError(f"{self.path}: unknown fields {sorted(self._data)}")


def read_text(value: object, path: str) -> str:
    """An item that is a string."""
    if not isinstance(value, str):
        raise ValueError(f"{path}: a string was expected, not {_kind(value)}")
    return value


def read_integer(value: object, path: str) -> int:
    """An item that is an integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{path}: an integer was expected, not {_kind(value)}")
    return value


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        int: "an integer",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
