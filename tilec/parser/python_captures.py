"""What a kernel's code reads of Python from outside, watched for change.

A program is made of the values that globals, closure cells and attributes had when it was traced. A
name that is bound anew afterwards (a constant in a notebook, a helper that was edited) must give a
new program, never silently the old one. Which names are read follows from the bytecode of the
kernel, of its macros and of the user's own functions that it reaches. Lists, sets, dictionaries and
arrays are watched for what they hold.

Not watched: names of modules, what tilec and installed packages define, attributes that a property
computes, and what containers of more than 4096 elements hold, which every call would go through.
"""

from __future__ import annotations

import dis
import functools
import os
from collections.abc import Callable, Iterator
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from ..language.kernel import Kernel
from ..language.macro import Macro
from ..language.staging import Binding
from .python_guard import contents_of, is_looked_into, same_contents

_ROOT = __name__.partition(".")[0]
_INSTALLED = (os.path.dirname(os.__file__) + os.sep, f"{os.sep}site-packages{os.sep}")
_LOOK_UP = ("LOAD_GLOBAL", "LOAD_NAME")
_ATTRIBUTE = ("LOAD_ATTR", "LOAD_METHOD")


def bindings_of(kernel: Kernel) -> tuple[Binding, ...]:
    """What a kernel that was just traced reads from outside, its macros, helpers and heuristic
    included; of the heuristic not what containers hold, since it may keep books in one."""
    captures = _Captures()
    captures.take(kernel, containers=True)
    captures.take(kernel.heuristic, containers=False)
    return tuple(captures.found.values())


class _Captures:
    """The bindings that functions read, collected."""

    def __init__(self) -> None:
        self.found: dict[object, Binding] = {}
        self._seen: set[int] = set()

    def take(self, value: Any, containers: bool) -> None:
        """Follows a value: into the code of functions, and into containers if these count."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Kernel | Macro):
            staged = value.staged.run.__code__ if value.staged is not None else None
            self._follow(value.function, staged, containers)
        elif isinstance(value, FunctionType):
            if not is_given(value):
                self._follow(value, None, containers)
            self.take(getattr(value, "__wrapped__", None), containers)
        elif isinstance(value, MethodType | functools.partial):
            self.take(value.__func__ if isinstance(value, MethodType) else value.func, containers)
        elif isinstance(value, tuple | frozenset) or containers and is_looked_into(value):
            parts = contents_of(value)
            if not isinstance(value, tuple | frozenset):
                unless_changed = functools.partial(_unless_changed, value)
                self.found[unless_changed] = (unless_changed, parts, parts)
            for part in parts:
                self.take(part, containers)

    def _follow(self, function: FunctionType, staged: CodeType | None, containers: bool) -> None:
        """The names that a function reads; `staged` reads those of annotations too."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for code in filter(None, (function.__code__, staged)):
            for is_global, name, attributes in _reads(code):
                if is_global and name in function.__globals__:
                    self._bind(function.__globals__.get, name, attributes, containers)
                elif not is_global and name in cells:
                    look_up = cells[name].__getattribute__
                    self._bind(look_up, "cell_contents", attributes, containers)

    def _bind(
        self,
        look_up: Callable[[Any], Any],
        name: str,
        attributes: tuple[str, ...],
        containers: bool,
    ) -> None:
        """A name and, as far as they are looked up and not computed, the attributes read of it."""
        try:
            value = look_up(name)
        except ValueError:  # a cell that holds nothing yet
            return
        if not isinstance(value, ModuleType) and not is_given(value):
            self.found[look_up, name] = (look_up, name, value)
            self.take(value, containers and not attributes)
        if attributes:
            home = _home(value, attributes[0])
            if home is not None:
                self._bind(home, attributes[0], attributes[1:], containers)


def _unless_changed(container: Any, parts: list[Any]) -> list[Any] | None:
    """`parts`, while they are what the container holds."""
    return parts if same_contents(parts, contents_of(container)) else None


def is_given(value: Any) -> bool:
    """Whether a function, class or module comes with tilec, Python or an installed package."""
    if isinstance(value, ModuleType):
        name, file = value.__name__, getattr(value, "__file__", None) or ""
    elif isinstance(value, FunctionType | BuiltinFunctionType | type):
        name = str(value.__module__)
        file = value.__code__.co_filename if isinstance(value, FunctionType) else ""
    else:
        return False
    return name.partition(".")[0] == _ROOT or any(place in file for place in _INSTALLED)


def _home(value: Any, name: str) -> Callable[[Any], Any] | None:
    """What looks up an attribute of a value without running code of the user's; None where nothing
    does, or the value is no business of the user's."""
    if is_given(value) or is_given(type(value)):
        return None
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict) and name in own:
        return own.get
    for owner in (value if isinstance(value, type) else type(value)).__mro__:
        found = vars(owner).get(name)
        if isinstance(found, MemberDescriptorType):
            return value.__getattribute__ if hasattr(value, name) else None
        if found is not None:
            return None if isinstance(found, property) else vars(owner).get
    return None


def _reads(code: CodeType) -> Iterator[tuple[bool, str, tuple[str, ...]]]:
    """The names from outside that code reads, each with the attributes that are read of it right
    then: whether it is a global, the name, the attributes."""
    instructions = list(dis.get_instructions(code))
    for i, instruction in enumerate(instructions):
        is_global = instruction.opname in _LOOK_UP
        if is_global or instruction.opname == "LOAD_DEREF":
            attributes = []
            for following in instructions[i + 1 :]:
                if following.opname not in _ATTRIBUTE:
                    break
                attributes.append(following.argval)
            yield is_global, instruction.argval, tuple(attributes)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _reads(constant)
