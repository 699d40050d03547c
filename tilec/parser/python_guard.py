"""Whether Python data changed between two moments.

A traced loop or branch runs once at compile time, so what it does to Python containers from outside
would be done a wrong number of times. `Snapshot` remembers them, and says which one differs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..language.places import is_internal_type

_LIMIT = 100_000  # objects looked at; beyond it a kernel's Python data is not followed
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis))
_OPAQUE = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)


def _contents(x: Any) -> list[Any] | None:
    """What a mutable object holds now, in order; None for what cannot change or is not followed."""
    if isinstance(x, (*_PLAIN, *_OPAQUE)):
        return None
    if isinstance(x, dict):
        return [part for item in x.items() for part in item]
    if isinstance(x, list | set | deque):
        return list(x)
    if isinstance(x, bytearray):
        return [bytes(x)]
    if isinstance(x, np.ndarray):
        return [x.tobytes()] if x.dtype != object else list(x.flat)
    if is_internal_type(type(x)):
        return None
    attributes = getattr(x, "__dict__", None)
    return [part for item in attributes.items() for part in item] if attributes else None


def _same(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x is y or (isinstance(x, _PLAIN) and type(x) is type(y) and x == y)
        for x, y in zip(a, b, strict=True)
    )


class Snapshot:
    """The mutable objects that can be reached from some names, as they are now."""

    def __init__(self, names: Iterable[tuple[str, Any]]) -> None:
        self._seen: dict[int, tuple[str, Any, list[Any]]] = {}
        self._objects = 0
        for name, value in names:
            self._follow(name, value)

    def _follow(self, name: str, root: Any) -> None:
        pending = [root]
        while pending and self._objects < _LIMIT:
            x = pending.pop()
            self._objects += 1
            if id(x) in self._seen:
                continue
            if isinstance(x, tuple | frozenset):
                pending.extend(x)
                continue
            contents = _contents(x)
            if contents is not None:
                self._seen[id(x)] = (name, x, contents)
                pending.extend(contents)

    def changed(self) -> str | None:
        """The name through which an object that differs now was reached, if one does."""
        for name, x, before in self._seen.values():
            after = _contents(x)
            if after is None or not _same(before, after):
                return name
        return None


def visible(
    names: Mapping[str, Any], closure: Mapping[str, Any], globals_: Iterable[tuple[str, Any]]
) -> Iterable[tuple[str, Any]]:
    """What code can reach by name: its locals, its closure and the globals that it uses."""
    for name, value in (*names.items(), *closure.items(), *globals_):
        if not name.startswith("__"):
            yield name, value
