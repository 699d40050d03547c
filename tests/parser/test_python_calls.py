"""Errors in what a kernel calls: the chain of calls that led there."""

from __future__ import annotations

from pathlib import Path

from tilec.errors import Loc

from .programs import HEAD, refusal


def chain(loc: Loc) -> list[tuple[str, int]]:
    found = []
    at: Loc | None = loc
    while at is not None:
        found.append((at.function, at.line))
        at = at.call_site
    return found


def test_the_chain_of_inlined_calls(tmp_path: Path) -> None:
    text = HEAD + (
        "def plain(x):\n"
        "    return [x / 2 for _ in range(2)]\n"
        "@T.macro\n"
        "def inner(x):\n"
        "    if x > 1:\n"
        "        plain(x)\n"
        "@T.macro\n"
        "def outer(x):\n"
        "    inner(x=x)\n"
        "@tilec.kernel\n"
        "def k(A: T.Tensor('N', 'int8')):\n"
        "    with T.Kernel(4) as b:\n"
        "        outer(b)\n"
    )
    error = refusal(tmp_path, text)
    assert error.code == "TLC0123"
    assert chain(error.loc) == [("plain", 5), ("inner", 9), ("outer", 12), ("k", 16)]
    assert "in plain, called from inner at " in str(error)


def test_a_plain_function_that_never_ends(tmp_path: Path) -> None:
    text = HEAD + (
        "def f(x):\n    return f(x)\n"
        "@tilec.kernel\ndef k(A: T.Tensor('N', 'int8')):\n"
        "    with T.Kernel(4) as b:\n        f(b)\n"
    )
    error = refusal(tmp_path, text)
    assert error.code == "TLC0112" and "RecursionError" in error.message
    assert chain(error.loc)[-1] == ("k", 9)
    assert len(chain(error.loc)) <= 16
