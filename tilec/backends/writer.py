"""The lines of a body as they are printed: indentation, names by block, needs."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from contextlib import contextmanager

from ..ir.core import Op
from .dialect import Dialect
from .names import Names, comment_text
from .needs import Needs

COLUMNS = 100
"""The width that lines are kept to where names for parts of them can do it."""


class PlacedLine(str):
    """A line that knows the place in the user's file that it was printed for."""

    __slots__ = ("place",)
    place: str

    @staticmethod
    def of(text: str, op: Op | None) -> str:
        """`text` with the place of `op`, where that has one."""
        if op is None or not op.loc.known:
            return text
        line = PlacedLine(text)
        line.place = place_of(op)
        return line

    def edited(self, text: str) -> PlacedLine:
        """Another text in the same place."""
        line = PlacedLine(text)
        line.place = self.place
        return line


def place_of(op: Op) -> str:
    """File and line of the user's, without folders: `gemm.py:31`."""
    name = posixpath.basename(op.loc.file.replace(chr(92), "/"))
    return f"{comment_text(name) or 'text'}:{op.loc.line}"


class Writer:
    """Collects lines. `names` and `needs` belong to the body that is printed."""

    def __init__(self, dialect: Dialect) -> None:
        self.names = Names()
        self.needs = Needs(dialect)
        self.lines: list[str] = []
        self._depth = 1

    @property
    def room(self) -> int:
        """Columns left on a line that starts here."""
        return COLUMNS - 2 * self._depth

    def line(self, text: str, op: Op | None = None) -> None:
        """One statement, printed for `op`."""
        self.needs.add(text, op)
        self.lines.append(PlacedLine.of("  " * self._depth + text, op))

    @property
    def places(self) -> tuple[str, ...]:
        """The place that each line of the text is for; empty where none is known."""
        found: list[str] = []
        for line in self.lines:
            found.append(line.place if isinstance(line, PlacedLine) else "")
            found += [""] * line.count("\n")
        return tuple(found)

    def take_line(self, text: str) -> bool:
        """Takes back the line printed last, if it is `text`."""
        same = bool(self.lines) and self.lines[-1] == "  " * self._depth + text
        if same:
            del self.lines[-1]
        return same

    def comment(self, text: str) -> None:
        self.lines.append(f"{'  ' * self._depth}// {comment_text(text)}")

    @contextmanager
    def block(self, head: str, op: Op | None = None, *, label: str = "") -> Iterator[None]:
        """The lines made inside, between `head {` and `}`; `label` is a comment behind the
        brace."""
        self.line(f"{head} {{" + (f"  // {comment_text(label)}" if label else ""), op)
        with self.names.block():
            self._depth += 1
            yield
            self._depth -= 1
        self.line("}")

    @contextmanager
    def otherwise(self, head: str = "else", *, label: str = "") -> Iterator[None]:
        """A block that continues the one that just ended: `} else {`."""
        assert self.lines[-1].strip() == "}"
        del self.lines[-1]
        start = len(self.lines)
        with self.block(f"}} {head}", label=label):
            yield
        if not label:
            self._join(start)

    def _join(self, start: int) -> None:
        """Makes `else { if … }` from `start` on an `else if`, where that is all the block holds."""
        inner = "  " * (self._depth + 1)
        body = self.lines[start + 1 : -1]
        own = [line[len(inner) :] for line in body if line[len(inner) : len(inner) + 1] != " "]
        if (
            not own
            or not own[0].startswith("if (")
            or any(not line.startswith("}") for line in own[1:])
        ):
            return
        texts = [f"{'  ' * self._depth}}} else {own[0]}", *(line[2:] for line in body[1:])]
        self.lines[start:] = [
            line.edited(text) if isinstance(line, PlacedLine) else text
            for line, text in zip(body, texts, strict=True)
        ]
