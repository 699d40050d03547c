"""Faults of emitted text: edits of a body, and what finds them."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Edit:
    """Occurrence `nth` of a regular expression (None: each) becomes `new`."""

    pattern: str
    new: str
    nth: int | None = 0

    def apply(self, body: str) -> str:
        found = list(re.finditer(self.pattern, body, re.MULTILINE))
        assert found, f"the body has no {self.pattern!r}"
        for match in reversed(found if self.nth is None else [found[self.nth]]):
            body = body[: match.start()] + match.expand(self.new) + body[match.end() :]
        return body


@dataclass(frozen=True)
class Fault:
    """Edits of a body, and what the report must match."""

    expected: str
    edits: tuple[Edit, ...]

    def apply(self, body: str) -> str:
        for edit in self.edits:
            body = edit.apply(body)
        return body


def fault(expected: str, *edits: Edit) -> Fault:
    return Fault(expected, edits)


E = Edit
