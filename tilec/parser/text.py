"""IR text in, a program out: the counterpart of ir.print.

    program = parse_program(text, registry, file="matmul.tir")

Every refusal is an IRError with the place and a caret. Nothing in a text is evaluated.
"""

from __future__ import annotations

import linecache
import re
from pathlib import Path

from ..errors import IRError, Loc, TilecError
from ..ir.core import Program
from ..ir.print import VERSION
from ..ir.registry import Registry
from .text_build import ProgramReader
from .text_syntax import read_syntax

_FIRST_LINE = re.compile(r"[ \t]*tilec\.ir[ \t]+(\d{1,9})[ \t]*(//[^\n]*)?")


def parse_program(text: str, registry: Registry, file: str = "<text>") -> Program:
    """The program that a text in the form of `tilec.ir.print.print_program` describes.

    Ops that the registry does not know become `OpaqueOp`s, which print back as they were. Only what
    is needed to build the program is checked; `tilec.ir.verify` does the rest.

    Raises:
        IRError: the text is malformed (TLC0280), of a newer version (TLC0281), uses a value out of
        its scope or defines
            one twice (TLC0282, TLC0283), gives an op what it does not have (TLC0284), or has a
            wrong attribute (TLC0285), type (TLC0286), layout (TLC0287) or number (TLC0288).
        TypeMismatch: the operands of an op do not fit each other.
    """
    try:
        _check_version(text, file)
        # The first line stays, as a comment, so that positions are those of the file.
        syntax = read_syntax(_FIRST_LINE.sub("", text, count=1), file)
        return ProgramReader(registry, file).program(syntax)
    except TilecError:
        _show_source(text, file)
        raise


def _check_version(text: str, file: str) -> None:
    first = text.split("\n", 1)[0]
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        loc = Loc(file, 1, 0, max(1, len(first)))
        message = "this is not IR text: its first line does not name the format"
        raise IRError("TLC0281", message, loc=loc, hint=f"the first line is `tilec.ir {VERSION}`")
    if int(match[1]) > VERSION:
        raise IRError(
            "TLC0281",
            f"this text is tilec.ir {match[1]}; this tilec reads tilec.ir {VERSION}",
            loc=Loc(file, 1, match.start(1), match.end(1)),
            hint="read it with a newer tilec",
        )
    if int(match[1]) < 1:
        raise IRError(
            "TLC0281", "there is no tilec.ir 0", loc=Loc(file, 1, match.start(1), match.end(1))
        )


def _show_source(text: str, file: str) -> None:
    """Lets error messages show the line, where the text is not a file of that name."""
    if not Path(file).is_file():
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
