"""What a kernel's code reads of Python from outside, watched for change.

A program is made of the values that globals, closure cells and attributes had when it was traced. A
name that is bound anew afterwards (a constant in a notebook, a helper that was edited) must give a
new program, never silently the old one. What is read follows from the bytecode of the kernel, of its
macros, of the user's own functions and methods that it reaches, and of those that it was given as
compile-time parameters: globals and cells by name, and of every object those attributes that any of
this code names, whichever way it came by the object. Lists, sets, dictionaries and arrays are
watched for what they hold.

Not watched: names of modules, what tilec and installed packages define, what is found by a name that
is computed (`globals()[name]`) or imported in the code itself, what a comparison of objects reads, and
what containers of more than 4096 elements hold, which every call would go through.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import numpy as np

from ..language.kernel import Kernel
from ..language.macro import Macro
from ..language.staging import Binding
from .python_guard import closure_values, contents_of, is_looked_into, same_contents

_ROOT = __name__.partition(".")[0]
_INSTALLED = (os.path.dirname(os.__file__) + os.sep, f"{os.sep}site-packages{os.sep}")
_LOOK_UP = ("LOAD_GLOBAL", "LOAD_NAME")
_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift",
    "and", "or", "xor", "neg", "pos", "invert", "abs",
)  # fmt: skip
_IMPLIED = (
    "__call__", "__wrapped__", "__get__", "__getattr__", "__getattribute__", "__getitem__", "__len__",
    "__iter__", "__next__", "__contains__", "__index__", "__int__", "__float__", "__bool__",
    "__enter__", "__exit__",
    *(f"__{reflected}{name}__" for name in _ARITHMETIC for reflected in ("", "r")),
)  # fmt: skip
"""Attributes that code reads without naming them."""
_MADE_BY = ("__init__", "__new__", "__post_init__")  # of a class that is called

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic)
_MOST_CODE = 4096  # functions whose bytecode is not read again


def bindings_of(kernel: Kernel) -> tuple[Binding, ...]:
    """What a kernel that was just traced reads from outside, its macros, helpers, heuristic and the
    compile-time parameters that it was traced for included; of the heuristic not what containers hold,
    nor what it assigns to objects, since it may keep books in them."""
    configs = kernel.tuning.configs if kernel.tuning is not None else None
    chosen_by = [kernel.heuristic, configs if callable(configs) else None]
    found = _Captures(chosen_by, books=True).found
    return tuple({**found, **_Captures([kernel, *kernel.traced_for]).found}.values())


def identity_of(function: object) -> Hashable:
    """Equal for two callables that trace to the same program: of one text, with equal values of all
    that they read, looked at as deeply as it is watched. Other objects, and what is long, stand for
    themselves."""
    return tuple(_Captures([function]).form)


@dataclass(frozen=True)
class _Names:
    """Of code and the code in it: the globals that it reads, every name that may be an attribute's,
    and the attributes that it assigns."""

    globals: frozenset[str]
    attributes: frozenset[str]
    assigned: frozenset[str]


@functools.lru_cache(maxsize=_MOST_CODE)
def _names_of(code: CodeType) -> _Names:
    instructions = list(dis.get_instructions(code))
    loaded = frozenset(i.argval for i in instructions if i.opname in _LOOK_UP)
    assigned = frozenset(i.argval for i in instructions if i.opname == "STORE_ATTR")
    attributes = frozenset(code.co_names)
    if "getattr" in attributes:
        attributes |= {c for c in code.co_consts if isinstance(c, str) and c.isidentifier()}
    inner = [_names_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    return _Names(
        loaded.union(*(part.globals for part in inner)),
        attributes.union(*(part.attributes for part in inner)),
        assigned.union(*(part.assigned for part in inner)),
    )


class _Captures:
    """What functions and objects depend on: `found`, bindings that tell whether it changed, and
    `form`, which is equal where it is the same. `books`: what code changes itself is not looked at.

    Functions are followed that the user wrote, and `roots` whoever wrote them.
    """

    def __init__(self, roots: Sequence[object], books: bool = False) -> None:
        self._roots = {id(root) for root in roots}
        self._books = books
        self._names = set(_IMPLIED)
        self._assigned: set[str] = set()
        self._too_early = True
        while self._too_early:
            self._too_early, self._looked_at = False, False
            self.found: dict[object, Binding] = {}
            self.form: list[object] = []
            self._follow(roots)

    def _follow(self, roots: Iterable[object]) -> None:
        pending, seen = [*roots], dict[int, tuple[int, object]]()
        while pending:
            value = pending.pop()
            if isinstance(value, _PLAIN):
                self.form.append((type(value), repr(value)))
            elif id(value) in seen:
                self.form.append(seen[id(value)][0])
            else:
                seen[id(value)] = (len(seen), value)
                parts = self._parts(value)
                self.form.append((self._stand_in(value), len(parts)))
                pending += parts

    def _stand_in(self, value: Any) -> object:
        """What a value is beside its parts."""
        if isinstance(value, Kernel | Macro):
            return _Itself(value) if is_own(value.function) else value.function.__code__
        if isinstance(value, FunctionType):
            return value.__code__ if self._is_followed(value) else _Itself(value)
        plain = isinstance(value, tuple | MethodType | functools.partial) or is_looked_into(value)
        return type(value) if plain else _Itself(value)

    def _is_followed(self, function: FunctionType) -> bool:
        return not is_given(function) or id(function) in self._roots and not is_own(function)

    def _parts(self, value: Any) -> list[object]:
        """What the meaning of a value depends on, all that may change of it bound."""
        if isinstance(value, Kernel | Macro):
            if is_own(value.function):
                return []
            staged = value.staged.run.__code__ if value.staged is not None else None
            return self._function(value.function, staged)
        if isinstance(value, FunctionType):
            own = []
            if self._is_followed(value):
                own = [*self._function(value, None), *self._own_names(value)]
            return [*own, getattr(value, "__wrapped__", None)]
        if isinstance(value, MethodType):
            return [value.__func__, value.__self__]
        if isinstance(value, functools.partial):
            return [value.func, *value.args, *contents_of(value.keywords)]
        if isinstance(value, BuiltinFunctionType):
            return [value.__self__]
        if is_given(value) or is_given(type(value)):
            return []
        if isinstance(value, ModuleType):
            return self._own_names(value)
        parts = []
        if isinstance(value, tuple | frozenset):
            parts = contents_of(value)
        elif is_looked_into(value) and not self._books:
            parts = contents_of(value)
            unless_changed = functools.partial(_unless_changed, value)
            self.found[id(value), None] = (unless_changed, parts, parts)
        return [*parts, *self._attributes(value)]

    def _function(self, function: FunctionType, staged: CodeType | None) -> list[object]:
        """What a function reads; `staged` reads the names of annotations too."""
        parts: list[object] = []
        home = function.__globals__
        for code in filter(None, (function.__code__, staged)):
            names = _names_of(code)
            self._assigned |= names.assigned
            if not names.attributes <= self._names:
                self._names |= names.attributes
                self._too_early = self._looked_at  # by fewer names
            for name in sorted(names.globals & home.keys()):
                parts.append(self._bind(home, home.get, name, home[name]))
        for cell in function.__closure__ or ():
            for held in closure_values([cell]):
                parts.append(self._bind(cell, cell.__getattribute__, "cell_contents", held))
        parts += function.__defaults__ or ()
        parts += contents_of(function.__kwdefaults__ or {})
        return parts

    def _bind(self, home: object, look_up: Callable[[Any], Any], name: str, value: Any) -> Any:
        """The value of a name, which is watched from now on."""
        self.form.append(name)
        if not isinstance(value, ModuleType) and not is_given(value):
            self.found[id(home), name] = (look_up, name, value)
        return value

    def _own_names(self, value: object) -> list[object]:
        """What code names of a module or a function."""
        home = vars(value)
        names = sorted(self._watched() & home.keys())
        return [self._bind(home, home.get, name, home[name]) for name in names]

    def _watched(self) -> set[str]:
        """The attributes that code names; without those that it assigns itself, where it keeps books."""
        self._looked_at = True
        return self._names - self._assigned if self._books else {*self._names}

    def _attributes(self, value: object) -> list[object]:
        """Those attributes of an object, or of a class, that code names, found without running code
        of the user's."""
        kind = value if isinstance(value, type) else type(value)
        classes: list[_Home] = [(c, vars(c)) for c in kind.__mro__ if not _is_installed(c)]
        names = self._watched()
        if kind is value:
            names.update(_MADE_BY)
        own = None if kind is value else _own_attributes(value)
        homes = classes if own is None else [(own, own), *classes]
        parts = []
        for name in sorted(names.intersection(*[[key for _, table in homes for key in table]])):
            of_class = next((table[name] for _, table in classes if name in table), None)
            if isinstance(of_class, MemberDescriptorType) and kind is not value:
                look_up = functools.partial(object.__getattribute__, value)
                with suppress(AttributeError):
                    parts.append(self._bind(value, look_up, name, look_up(name)))
                continue
            # A place that has no such name now is looked at again: it would come before the others.
            by_class = isinstance(of_class, property) or name in _IMPLIED and of_class is not None
            for home, table in classes if by_class else homes:
                parts.append(_behind(self._bind(home, table.get, name, table.get(name))))
                if name in table:
                    break
        return parts


@dataclass(frozen=True, eq=False)
class _Itself:
    """Equal to the same object alone, which it keeps alive."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_Home = tuple[object, Mapping[str, Any]]


def _own_attributes(value: object) -> dict[str, Any] | None:
    """The dictionary of an object's own attributes."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def _behind(attribute: Any) -> object:
    """The function behind a property or method of a class; all else as it is."""
    if isinstance(attribute, property):
        return attribute.fget
    return attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def _unless_changed(container: Any, parts: list[Any]) -> list[Any] | None:
    """`parts`, while they are what the container holds."""
    return parts if same_contents(parts, contents_of(container)) else None


def is_own(value: Any) -> bool:
    """Whether tilec defines a function, class or module."""
    name = value.__name__ if isinstance(value, ModuleType) else str(value.__module__)
    return name.partition(".")[0] == _ROOT


def is_given(value: Any) -> bool:
    """Whether a function, class or module comes with tilec, Python or an installed package."""
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None) or ""
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        file = value.__code__.co_filename if isinstance(value, FunctionType) else ""
    else:
        return False
    return is_own(value) or any(place in file for place in _INSTALLED)


def _is_installed(kind: type) -> bool:
    """Whether a class comes with Python or an installed package: its attributes do not change."""
    name = str(kind.__module__).partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return (
        name in sys.stdlib_module_names and name != "__main__" or any(p in file for p in _INSTALLED)
    )
