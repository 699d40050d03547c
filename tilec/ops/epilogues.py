"""Functions that a product is passed through while it is in registers, and when two are the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from inspect import getattr_static
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..errors import LanguageError, TilecError
from ..language.operand import Operand, is_number
from ..parser.python_captures import is_given
from ..parser.python_guard import closure_values, contents_of, is_looked_into


@dataclass(frozen=True)
class Epilogue:
    """A function of the sum, its indices and operands by name. Equal where the functions are:
    of one text, with equal values of the names that it uses.
    """

    function: Callable[..., Any] = field(compare=False)
    names: tuple[str, ...]
    identity: Hashable

    def apply(self, value: Any, index: Sequence[Any], operands: Sequence[Any]) -> Any:
        """The value that is stored at `index`. Raises LanguageError for what is no scalar."""
        try:
            result = self.function(value, *index, **dict(zip(self.names, operands, strict=False)))
        except TilecError as error:  # the kernel calls its operands X0, X1, …
            error.message, error.hint = map(self._in_its_names, (error.message, error.hint))
            raise
        if not isinstance(result, Operand) and not is_number(result):
            raise LanguageError(
                "TLC0813",
                f"the epilogue gives {result!r}",
                hint="it returns the value of one element: an expression of T, or a number",
            )
        return result

    def _in_its_names(self, text: str) -> str:
        slots = {f"X{n}": name for n, name in enumerate(self.names)}
        return re.sub(r"\bX\d\b", lambda found: slots.get(found[0], found[0]), text)


def epilogue_of(function: Callable[..., Any], names: tuple[str, ...]) -> Epilogue:
    """`function` with its operands' names."""
    return Epilogue(function, names, _identity(function, set()))


def _identity(value: object, seen: set[int], names: frozenset[str] = frozenset()) -> Hashable:
    """Equal for two values that trace to the same program: a function with what it reads, a
    container with what it holds, an object with those of its attributes that have `names` in the
    functions which lead to it. All else, and what is long, stands for itself.
    """
    if isinstance(value, bool | int | float | complex | str | bytes | np.generic | None):
        return (type(value), repr(value))
    if isinstance(value, ModuleType) or is_given(value):
        return _Itself(value)
    if id(value) in seen:  # it leads to itself
        return value.__code__ if isinstance(value, FunctionType) else _Itself(value)
    seen.add(id(value))
    found = [_identity(part, seen, inner) for part, inner in _parts(value, names)]
    plain = isinstance(value, tuple) or is_looked_into(value)
    if isinstance(value, FunctionType):
        return (value.__code__, *found)
    return (type(value) if plain else _Itself(value), *found)


def _parts(value: Any, names: frozenset[str]) -> Iterator[tuple[object, frozenset[str]]]:
    """What a value's meaning depends on, each with the names that may be read of it."""
    if isinstance(value, FunctionType):
        used = names | _names(value.__code__)
        yield from ((part, used) for part in closure_values(value.__closure__ or ()))
        yield from ((part, used) for part in value.__defaults__ or ())
        yield from ((part, used) for item in (value.__kwdefaults__ or {}).items() for part in item)
        module = value.__globals__
        yield from ((part, used) for n in sorted(used & module.keys()) for part in (n, module[n]))
    elif isinstance(value, MethodType | partial):
        function = value.func if isinstance(value, partial) else value.__func__
        inner = names | _names(_code(function))
        given = (value.args, value.keywords) if isinstance(value, partial) else (value.__self__,)
        yield from ((part, inner) for part in (function, *given))
    elif isinstance(value, tuple) or is_looked_into(value):
        yield from ((part, names) for part in contents_of(value))
    elif not is_given(type(value)):
        found = _attributes(value, {*names, "__call__"})
        inner = names.union(found, *(_names(_code(part)) for part in found.values()))
        yield from ((part, inner) for item in found.items() for part in item)


def _attributes(value: object, names: Iterable[str]) -> dict[str, object]:
    """The attributes of an object by `names` and by those that its methods read, without running
    code of the user's: of a property its function."""
    found: dict[str, object] = {}
    pending = sorted(names)
    while pending:
        name = pending.pop()
        attribute = getattr_static(value, name, None)
        if name in found or attribute is None:
            continue
        if isinstance(attribute, MemberDescriptorType):  # of a class with slots
            attribute = getattr(value, name, None)
        elif isinstance(attribute, property):
            attribute = attribute.fget
        found[name] = getattr(attribute, "__func__", attribute)
        pending += sorted(_names(_code(found[name])))
    return found


def _code(function: object) -> CodeType | None:
    return getattr(function, "__code__", None)


def _names(code: CodeType | None) -> frozenset[str]:
    """The global names and attributes that a function and those written in it use."""
    if code is None:
        return frozenset()
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return frozenset(code.co_names).union(*map(_names, inner))


@dataclass(frozen=True, eq=False)
class _Itself:
    """Equal to the same object alone, which it keeps alive."""

    value: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)
