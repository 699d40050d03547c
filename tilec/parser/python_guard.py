"""Whether Python data changed between two moments.

A traced loop or branch runs once at compile time, so what it does to Python containers from outside
would be done a wrong number of times. `Snapshot` remembers them, and says which one differs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from operator import length_hint
from types import BuiltinFunctionType, CellType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..language.places import is_internal_type
from ..language.staging import is_alike

_LIMIT = 100_000  # objects looked at; beyond it a kernel's Python data is not followed
_LONGEST = 4096  # elements of a container that is looked into
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(Ellipsis))
_OPAQUE = (type, ModuleType)


def _contents(x: Any, module: Mapping[str, Any]) -> list[Any] | None:
    """What a mutable object holds now, in order; None for what cannot change or is not followed."""
    if isinstance(x, (*_PLAIN, *_OPAQUE)):
        return None
    if isinstance(x, dict):
        return [part for item in [*x.items()] for part in item]  # as it is at one moment
    if isinstance(x, list | set | deque):
        return list(x)
    if isinstance(x, bytearray):
        return [bytes(x)]
    if isinstance(x, np.ndarray):
        data = [x.tobytes()] if x.dtype != object else list(x.flat)
        return [x.dtype, repr(x.shape), *data]
    if isinstance(x, FunctionType | MethodType | BuiltinFunctionType):
        return _function_contents(x, module)
    if isinstance(x, GeneratorType):
        return [x.gi_frame.f_lasti if x.gi_frame is not None else None]
    if isinstance(x, Iterator):
        return [length_hint(x, -1), repr(x)]  # what itertools.count has reached is in its repr
    if is_internal_type(type(x)):
        return None
    return _attributes(x)


def _function_contents(x: Any, module: Mapping[str, Any]) -> list[Any]:
    """What a function can change: what is in its closure, its module's globals, its object."""
    if not isinstance(x, FunctionType):
        return [getattr(x, "__self__", None), getattr(x, "__func__", None)]
    found = closure_values(x.__closure__ or ())
    if x.__globals__ is module:
        found += [module[name] for name in x.__code__.co_names if name in module]
    return found


def closure_values(cells: Iterable[CellType]) -> list[Any]:
    """The contents of the cells that have any."""
    found = []
    for cell in cells:
        try:
            found.append(cell.cell_contents)
        except ValueError:
            continue  # a name that is not bound yet
    return found


def _attributes(x: Any) -> list[Any] | None:
    """The attributes of an object, in a dictionary or in slots."""
    found = [part for item in [*getattr(x, "__dict__", {}).items()] for part in item]
    for cls in type(x).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(x, name):
                found.append(getattr(x, name))
    return found or None


def same_contents(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(
        x is y or (isinstance(x, _PLAIN) and is_alike(x, y)) for x, y in zip(a, b, strict=True)
    )


def is_looked_into(value: Any) -> bool:
    """Whether what a value holds now is compared: a container that can be changed, and is not long."""
    if not isinstance(value, list | set | dict | deque | bytearray | np.ndarray):
        return False
    return (value.size if isinstance(value, np.ndarray) else len(value)) <= _LONGEST


def contents_of(container: Any) -> list[Any]:
    """What a builtin container or an array holds now, in order."""
    return (
        list(container)
        if isinstance(container, tuple | frozenset)
        else _contents(container, {}) or []
    )


class Snapshot:
    """The mutable objects that can be reached from some names, as they are now.

    `module` is the globals of the code in question: of functions of that module, the globals that
    they use are looked at too.
    """

    def __init__(self, names: Iterable[tuple[str, Any]], module: Mapping[str, Any]) -> None:
        self._module = module
        self._seen: dict[int, tuple[str, Any, list[Any]]] = {}
        pending = deque(names)  # nearest first, so that the name reported is the plainest one
        looked_at = 0
        while pending and looked_at < _LIMIT:
            name, x = pending.popleft()
            looked_at += 1
            if id(x) in self._seen:
                continue
            if isinstance(x, tuple | frozenset):
                pending.extend((name, part) for part in x)
                continue
            contents = _contents(x, module)
            if contents is not None:
                self._seen[id(x)] = (name, x, contents)
                pending.extend((name, part) for part in contents)

    def changed(self) -> str | None:
        """The name through which an object that differs now was reached, if one does."""
        for name, x, before in self._seen.values():
            after = _contents(x, self._module)
            if after is None or not same_contents(before, after):
                return name
        return None


def visible(
    names: Mapping[str, Any], closure: Mapping[str, Any], globals_: Iterable[tuple[str, Any]]
) -> Iterable[tuple[str, Any]]:
    """What code can reach by name: its locals, its closure and the globals that it uses."""
    for name, value in (*names.items(), *closure.items(), *globals_):
        if not name.startswith("__"):
            yield name, value
