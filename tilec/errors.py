"""Locations in the user's files, and every error that tilec raises to a user.

An error has a stable code (`TLC0101`), the user's place with a caret, the chain of inlined calls,
the reason in the user's own names and what to do. `Loc` is also a context manager: an error that
passes through it without a location gets that one, so deep code need not carry locations about.
"""

from __future__ import annotations

import linecache
import unicodedata
from dataclasses import dataclass
from types import TracebackType
from typing import ClassVar


@dataclass(frozen=True)
class Loc:
    """A range in a source file: lines count from 1, columns from 0 (in characters), ends
    exclusive.
    """

    file: str = ""
    line: int = 0
    column: int = 0
    end_column: int | None = None
    function: str = ""
    call_site: Loc | None = None

    @property
    def known(self) -> bool:
        return self.line > 0

    def called_from(self, site: Loc) -> Loc:
        """The same place, reached through an inlined call at `site`."""
        if self.call_site is None:
            outer: Loc = site
        else:
            outer = self.call_site.called_from(site)
        return Loc(self.file, self.line, self.column, self.end_column, self.function, outer)

    def to_json(self) -> list[dict[str, object]]:
        """The place and those that it was inlined into, innermost first; empty where unknown."""
        chain: list[dict[str, object]] = []
        at: Loc | None = self if self.known else None
        while at is not None:
            chain.append(
                {"file": at.file, "line": at.line, "column": at.column + 1, "function": at.function}
            )
            at = at.call_site
        return chain

    def __enter__(self) -> Loc:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, TilecError) and not error.loc.known:
            error.loc = self

    def __str__(self) -> str:
        return (
            f"{self.file or '<text>'}:{self.line}:{self.column + 1}" if self.known else "<unknown>"
        )


UNKNOWN = Loc()


class TilecError(Exception):
    """A refusal: something in the user's program, call or machine that tilec cannot or will not
    do.
    """

    exit_status: ClassVar[int] = 1

    def __init__(self, code: str, message: str, *, loc: Loc = UNKNOWN, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.loc = loc
        self.hint = hint

    def __str__(self) -> str:
        return render_error(self)

    def to_json(self) -> dict[str, object]:
        """The error as plain data, for `--format json`."""
        return {
            "code": self.code,
            "kind": type(self).__name__,
            "message": self.message,
            "hint": self.hint,
            "locations": self.loc.to_json(),
        }


class LanguageError(TilecError):
    """The kernel says something that the language does not mean, or that cannot be staged."""


class TypeMismatch(TilecError):
    """Operands of an operation do not fit each other."""


class IRError(TilecError):
    """IR that breaks a rule: wrong text, wrong level, undefined value, wrong type."""


class HazardError(TilecError):
    """Planned IR in which data could be read too early, overwritten too early, or waited for in
    vain.
    """


class LayoutConflict(TilecError):
    """Two statements demand layouts that cannot both hold."""


class OutOfResources(TilecError):
    """More shared memory, registers, threads or barriers than the target has."""


class TargetUnsupported(TilecError):
    """The target has no way to do what the program asks."""


class ArgumentError(TilecError):
    """An argument of a kernel call does not fit the kernel's parameters."""


class ExecutionError(TilecError):
    """The interpreter or the emulator found the program at fault while running it."""


class CompilerFailed(TilecError):
    """The vendor's compiler refused text that tilec emitted."""

    exit_status = 70


class MissingTool(TilecError):
    """A compiler or library that this needs is not installed."""

    exit_status = 3


class NoDevice(TilecError):
    """There is no device that can run this here."""

    exit_status = 4


class TimedOut(TilecError):
    """Something took longer than it may."""

    exit_status = 6


class WrongResult(TilecError):
    """A result differs from its reference by more than the tolerance."""

    exit_status = 5


class InternalError(TilecError):
    """A bug of tilec. Names the folder that reproduces it."""

    exit_status = 70


def render_error(error: TilecError) -> str:
    """The error as text: place, kind, code, message, source line with caret, inlining chain,
    hint.
    """
    loc = error.loc
    place = f"{loc}: " if loc.known else ""
    lines = [f"{place}{type(error).__name__} [{error.code}]: {error.message}"]
    if loc.known:
        lines += _excerpt(loc)
        outer = loc.call_site
        inner = loc
        while outer is not None:
            lines.append(
                f"  in {inner.function or 'a helper'}, "
                f"called from {outer.function or 'a kernel'} at {outer}"
            )
            inner, outer = outer, outer.call_site
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)


def _excerpt(loc: Loc) -> list[str]:
    text = linecache.getline(loc.file, loc.line).rstrip("\n")
    if not text:
        return []
    end = (
        loc.end_column
        if loc.end_column is not None and loc.end_column > loc.column
        else loc.column + 1
    )
    before = "".join("\t" if c == "\t" else " " * _width(c) for c in text[: loc.column])
    caret = "^" * max(1, sum(_width(c) for c in text[loc.column : end]))
    return [f"{loc.line:>6} | {text}", f"       | {before}{caret}"]


def _width(character: str) -> int:
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
