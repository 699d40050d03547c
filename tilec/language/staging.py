"""The seam between the handles of kernels and macros, which live here, and the Python frontend.

Imports go one way: the frontend (parser) knows the language, the language does not know it. The
frontend gives its entry here when it is imported, which `tilec.kernel` and the driver see to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Protocol

from ..errors import InternalError, Loc

Binding = tuple[Callable[[Any], Any], Any, Any]
"""A look-up of what the user's code reads from outside: a function, what it is given, and the very
object that it gave when a program was made of it. It raises AttributeError or ValueError where
there is none any more."""

_PLAIN = (bool, int, float, complex, str, bytes)  # an equal one is as good


@dataclass(frozen=True)
class Staged:
    """A function of the user's, rewritten so that a call of `run` traces."""

    run: FunctionType
    loc: Loc


@dataclass(frozen=True)
class Parsed:
    """What the frontend reads from a function's source at decoration, without running it.

    `annotations` holds, for each annotated parameter, a function that evaluates the annotation in
    the scope of the definition; `in_body` the parameters that a statement of the body annotates.
    """

    loc: Loc
    annotations: Mapping[str, Callable[[], Any]]
    places: Mapping[str, Loc]
    in_body: frozenset[str]


class Frontend(Protocol):
    """What the Python frontend offers."""

    def keep(self, function: FunctionType) -> None:
        """Reads the source, where there is one: what is edited later is not what was loaded."""

    def parse(self, function: FunctionType, scope: Mapping[str, Any]) -> Parsed:
        """Reads the source. Raises LanguageError where there is none."""

    def stage_head(self, function: FunctionType, scope: Mapping[str, Any]) -> Staged:
        """The function up to the last annotation of a parameter in its body, rewritten."""

    def stage(self, function: FunctionType, scope: Mapping[str, Any]) -> Staged:
        """Rewrites the function. Raises LanguageError for statements that have no meaning."""

    def bindings(self, kernel: Any) -> tuple[Binding, ...]:
        """What the code of a kernel reads from outside, once it is traced."""


def is_alike(a: Any, b: Any) -> bool:
    """Whether a plain value is as good as another: of one type, equal, and of one sign if it is 0."""
    return type(a) is type(b) and bool(a == b) and (a != 0 or repr(a) == repr(b))


def as_they_are(bindings: tuple[Binding, ...]) -> tuple[Binding, ...] | None:
    """`bindings` itself where they are what they were; with the objects of now, where some are
    equal numbers or strings; None where something changed."""
    found = []
    same = True
    for look_up, key, value in bindings:
        try:
            now = look_up(key)
        except (AttributeError, ValueError):  # ValueError: a cell that holds nothing any more
            return None
        if now is not value:
            same = False
            if not (isinstance(value, _PLAIN) and is_alike(now, value)):
                return None
        found.append((look_up, key, now))
    return bindings if same else tuple(found)


_frontend: list[Frontend] = []
_unread: list[FunctionType] = []  # decorated before there was one


def install(frontend: Frontend) -> None:
    """Makes `frontend` the one that is used from now on."""
    _frontend[:] = [frontend]
    while _unread:
        frontend.keep(_unread.pop())


def keep_source(function: FunctionType) -> None:
    """Has the source of a function read now, or as soon as there is a frontend."""
    if _frontend:
        _frontend[0].keep(function)
    else:
        _unread.append(function)


def installed() -> bool:
    return bool(_frontend)


def frontend() -> Frontend:
    """The Python frontend. Raises InternalError where nothing has imported it."""
    if not _frontend:
        raise InternalError("TLC9003", "the Python frontend is not loaded")
    return _frontend[0]
