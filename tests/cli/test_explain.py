"""Every code that tilec raises has one meaning and a page."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

from tilec.cli import run as command_line
from tilec.cli.explain import PAGES, Page, read_pages

ROOT = Path(__file__).resolve().parents[2]
CODE = re.compile(r"TLC\d{4}")
# Raising functions that stand for a class, so that one code may come by both.
CLASSES = re.compile(r"^[A-Z]\w+$")


def constants(tree: ast.AST) -> set[str]:
    """Codes that stand in a file as strings of their own: not those that a text mentions."""
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and CODE.fullmatch(node.value)
    }


def raised_as(tree: ast.AST) -> dict[str, set[str]]:
    """For each code the classes that are made with it."""
    found: dict[str, set[str]] = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Name):
            first = node.args[0]
            if isinstance(first, ast.Constant) and CODE.fullmatch(str(first.value)):
                found[first.value].add(node.func.id)  # type: ignore[index]
    return found


def trees() -> list[ast.AST]:
    return [ast.parse(p.read_text(encoding="utf-8")) for p in (ROOT / "tilec").rglob("*.py")]


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    codes = set().union(*map(constants, trees()))
    assert len(codes) > 150
    missing, stale = sorted(codes - set(read_pages())), sorted(set(read_pages()) - codes)
    assert not missing, f"write pages in {PAGES.relative_to(ROOT)}/ for {missing}"
    assert not stale, f"nothing raises {stale}: remove their pages"


def test_a_refusal_of_the_language_says_what_to_do() -> None:
    """Every error that a kernel's text can meet in the front end has a hint."""
    refusals = {"refuse", "LanguageError", "TypeMismatch", "ArgumentError"}
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("language", "parser")
        for path in (ROOT / "tilec" / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in refusals
        and ast.unparse(node.args[1]) != "''"  # made for its place alone
        and not {"hint", None} & {keyword.arg for keyword in node.keywords}
    ]
    assert not silent, f"without a hint: {silent}"


def test_a_code_has_one_kind_of_error() -> None:
    kinds: dict[str, set[str]] = defaultdict(set)
    for tree in trees():
        for code, names in raised_as(tree).items():
            kinds[code] |= {name for name in names if CLASSES.match(name)}
    several = {code: sorted(names) for code, names in kinds.items() if len(names) > 1}
    assert not several, f"one code, one meaning: {several}"


@pytest.mark.parametrize("page", read_pages().values(), ids=lambda page: page.code)
def test_a_page_says_what_to_do(page: Page) -> None:
    assert page.title and page.title[0].isupper() and not page.title.endswith(".")
    paragraphs = page.text.split("\n\n")
    assert paragraphs[-1].startswith("Do: "), "the last paragraph says what to do"
    assert len(paragraphs[-1]) > len("Do: nothing.") - 1


def test_pages_are_in_order_and_none_is_lost() -> None:
    for path in PAGES.glob("*.md"):
        headings = re.findall(r"^## (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings == sorted(set(headings)), path.name
        assert all(h.startswith(path.stem) for h in headings), path.name
        assert set(headings) <= set(read_pages())


def test_explain(capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line(["explain", "[tlc0411]"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("TLC0411: ") and "R[i] = R[i] + F[i, j]" in out and "Do: " in out
    assert command_line(["explain"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == len(read_pages())
    assert command_line(["explain", "TLC0000"]) == 2
    assert "no page" in capfd.readouterr().err
