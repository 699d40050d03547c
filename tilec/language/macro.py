"""`T.macro`: functions that are inlined into the kernel that calls them, control flow and all."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import FrameType, FunctionType, MethodType
from typing import Any

from ..errors import LanguageError
from .places import locate
from .staging import Staged, frontend, keep_source
from .trace import current, refuse


def defining_scope(function: FunctionType, frame: FrameType | None) -> dict[str, Any]:
    """The local names of the functions around a definition, as they are when it is decorated.

    `frame` is the decorator's caller. Names that only an annotation uses are in no closure, so they
    are looked up here.
    """
    scope: dict[str, Any] = {}
    code = function.__code__
    while frame is not None:
        if code in frame.f_code.co_consts and frame.f_code.co_name != "<module>":
            scope = {**frame.f_locals, **scope}
            code = frame.f_code
        frame = frame.f_back
    return scope


class Macro:
    """A function that a kernel inlines: its `if`, `for`, `while` and assignments are the kernel's.

    Arguments go by name or position. A macro may call macros, but not itself.
    """

    def __init__(self, function: FunctionType, scope: Mapping[str, Any]) -> None:
        self.function = function
        self._scope = scope
        self.staged: Staged | None = None
        keep_source(function)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.function.__name__
        trace = current(f"the macro {name}")
        if self in trace.active:
            raise refuse(
                "TLC0121",
                f"the macro {name} calls itself",
                hint="write a loop, or a plain function that recurs on compile-time values",
            )
        if self.staged is None:
            self.staged = frontend().stage(self.function, self._scope)
        trace.active.append(self)
        try:
            return self.staged.run(*args, **kwargs)
        finally:
            trace.active.pop()

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str:
        return self.function.__qualname__  # pickled and copied as the function that it replaces

    def __repr__(self) -> str:
        return f"<tilec macro {self.function.__qualname__}>"


def need_function(what: str, function: object) -> FunctionType:
    """`function`, if it is one that is written in Python. Raises LanguageError."""
    if isinstance(function, FunctionType):
        return function
    raise LanguageError(
        "TLC0113",
        f"{what} decorates a Python function, not {function!r}",
        loc=locate(),
        hint="is it the lowest decorator?",
    )


def macro(function: Callable[..., Any] | None = None, *, hygienic: bool = True) -> Any:
    """Decorates a function that kernels inline. Also `T.macro()` with options.

    Args:
        hygienic: must be True: names of a macro are its own.
    """
    if not hygienic:
        raise refuse(
            "TLC0113",
            "macros are hygienic: names of a macro are its own",
            hint="pass what it needs as arguments",
        )
    frame = sys._getframe(1)
    if function is None:
        return lambda f: _macro(f, frame)
    return _macro(function, frame)


def _macro(function: object, frame: FrameType) -> Macro:
    checked = need_function("T.macro", function)
    return Macro(checked, defining_scope(checked, frame))
