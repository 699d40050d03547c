"""`tilec explain`: the page of a code. Pages stand in pages/, a file for each hundred of codes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

from .output import output

PAGES = Path(__file__).with_name("pages")
_PAGE = re.compile(r"^## (TLC\d{4}) (.*)\n((?:(?!^## ).*\n?)*)", re.MULTILINE)


@dataclass(frozen=True)
class Page:
    """What a code means, by example, and what to do."""

    code: str
    title: str
    text: str


@cache
def read_pages() -> Mapping[str, Page]:
    """Every page by its code, in order."""
    found: dict[str, Page] = {}
    for path in sorted(PAGES.glob("*.md")):
        for match in _PAGE.finditer(path.read_text(encoding="utf-8")):
            found[match[1]] = Page(match[1], match[2], match[3].strip("\n"))
    return found


@click.command("explain")
@click.argument("code", required=False)
def command(code: str | None) -> int:
    """Print what CODE means, an example, and what to do; without a code, the list of codes."""
    pages, out = read_pages(), output()
    if code is None:
        for page in pages.values():
            out.say(f"{page.code}  {page.title}")
        out.result({"codes": {page.code: page.title for page in pages.values()}})
        return 0
    found = pages.get(code.strip("[]").upper())
    if found is None:
        raise click.BadParameter(
            f"there is no page for {code!r}; `tilec explain` alone lists the codes",
            param_hint="CODE",
        )
    out.say(f"{found.code}: {found.title}\n\n{found.text}")
    out.result({"code": found.code, "title": found.title, "text": found.text})
    return 0
