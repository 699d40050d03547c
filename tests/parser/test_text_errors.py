"""Malformed IR text: every refusal has its code, its message and its place."""

from __future__ import annotations

import linecache
from pathlib import Path

import pytest

from tilec.errors import TilecError
from tilec.ir.ops import builtin_registry
from tilec.parser.text import parse_program

REGISTRY = builtin_registry()

# Bodies stand on line 3 of a program with these parameters; the place is (line, column, end).
HEAD = "tilec.ir 1\nprogram @p(%A: global f16[M, 8], %x: i32, %c: bool) <symbols = [M]> {\n"

BODIES = [
    ("%y = add %x %x : i32", "TLC0280", (3, 13, 15), "'%x' is not expected here"),
    ("%y = add %x, : i32", "TLC0280", (3, 14, 15), "':' is not expected here"),
    ("%y = add %x, $ : i32", "TLC0280", (3, 14, 15), "'$' is not expected here"),
    ("%y = load %A[%x, 0 : f16", "TLC0280", (3, 20, 21), "':' is not expected here"),
    ("}", "TLC0280", (4, 1, 2), "'}' is not expected here"),
    ("barrier <", "TLC0280", (4, 1, 2), "'}' is not expected here"),
    ('acme.x <a = "tail>', "TLC0280", (3, 13, 14), "'\"' is not expected here"),
    ('acme.x <a = "\\q">', "TLC0280", (3, 13, 17), "a string has an escape that JSON does not"),
    ("acme.x <a = f16 f32>", "TLC0280", (3, 17, 20), "'f32' is not expected here"),
    ("acme.x <a = " + "[" * 101 + "]" * 101 + ">", "TLC0280", (3, 9, 10), "brackets nest deeper"),
    ("%y = add %x, %z : i32", "TLC0282", (3, 14, 16), "%z is not defined here"),
    ("%y = add %y, 1 : i32", "TLC0282", (3, 10, 12), "%y is not defined here"),
    ("%x = add %x, 1 : i32", "TLC0283", (3, 1, 5), "%x is defined already"),
    ("%y, %y = acme.f : i32, i32", "TLC0283", (3, 1, 9), "%y is defined already"),
    ("%y, = add %x, 1 : i32", "TLC0280", (3, 1, 3), "'%y' is not expected here"),
    ("%y = add %x : i32", "TLC0284", (3, 6, 9), "these are not the operands of add"),
    ("%y = add %x, 1, 2 : i32", "TLC0284", (3, 6, 9), "these are not the operands of add"),
    ("%y = add [%x, 1] : i32", "TLC0284", (3, 6, 9), "these are not the operands of add"),
    ("add %x, 1 : i32", "TLC0284", (3, 1, 4), "add has 1 result, not 0"),
    ("%y, %z = add %x, 1 : i32", "TLC0284", (3, 1, 9), "add has 1 result, not 2"),
    ("%y = add %x, 1 { } : i32", "TLC0284", (3, 6, 9), "add has 0 regions, not 1"),
    ("if %c { yield }", "TLC0284", (3, 1, 3), "if has 2 regions, not 1"),
    (
        "copy %A[0, 0], %A[0, 0] <shape = [8], source_dims = [3, 1], destination_dims = [0]>",
        "TLC0240", (3, 1, 5), "a region (8,) along dimensions (3, 1) of global f16[M, 8]",
    ),
    ("%y = insert_tile %x, %x <offsets = [0]> : i32", "TLC0243", (3, 6, 17), "a i32 inserted"),
    ("%y = compare %x, 1 : bool", "TLC0285", (3, 6, 13), "compare needs the attribute"),
    ("%y = compare %x, 1 <predicate = 3> : bool", "TLC0285", (3, 21, 30), "predicate of compare"),
    ("%y = compare %x, 1 <predicat> : bool", "TLC0285", (3, 21, 29), "compare has no attribute"),
    ('%y = compare %x, 1 <predicate = "is"> : bool', "TLC0205", (3, 6, 13), "no comparison 'is'"),
    ("barrier <barrier = 1, barrier = 2>", "TLC0285", (3, 23, 30), "'barrier' is given twice"),
    ("barrier <barrier = 1.5>", "TLC0285", (3, 10, 17), "barrier of barrier is a"),
    ("barrier <barrier = true>", "TLC0285", (3, 10, 17), "barrier of barrier is a"),
    ("barrier <barrier = 3:i8>", "TLC0288", (3, 20, 24), "the numbers of attributes have no dtype"),
    ("%y = add %x, 1 : i64", "TLC0286", (3, 6, 9), "the result type of this add is i32, not i64"),
    ("%y = add %x, 1", "TLC0286", (3, 6, 9), "the result type of this add is i32, not none"),
    ("%y = add %x, 1 : i33", "TLC0286", (3, 18, 21), "'i33' is no element type"),
    ("%y = acme.f : shared f16[-1]", "TLC0286", (3, 26, 28), "-1 is no extent"),
    ("%y = acme.f : tile f16[M]", "TLC0286", (3, 15, 19), "the extents of a tile are numbers"),
    ("%y = acme.f : channel<2> i32", "TLC0286", (3, 15, 25), "there is no channel of i32"),
    ("%y = acme.f : shared f16[8] #l", "TLC0287", (3, 29, 31), "no layout is called #l"),
    ("%y = add %x, 3000000000 : i32", "TLC0288", (3, 14, 24), "3000000000 does not fit i32"),
    ("%y = add %x, 1.5:i32 : i32", "TLC0288", (3, 14, 21), "1.5 is no i32"),
    ("%y = add %x, true:i32 : i32", "TLC0288", (3, 14, 22), "true is no i32"),
    ("%y = add 1e9:f16, 1.0:f16 : f16", "TLC0288", (3, 10, 17), "1e9 is too large for f16"),
    ("%y = add 1:q8, 1 : i32", "TLC0286", (3, 10, 14), "'q8' is no element type"),
    ("%y = add 1:mbarrier, 1 : i32", "TLC0288", (3, 10, 20), "1 is no mbarrier"),
    ("acme.x <a = " + "9" * 50 + ">", "TLC0288", (3, 13, 63), "a number is too long"),
    ("%y = add %x, 1.0 : i32", "TLC0203", (3, 6, 9), "add of i32 and f32"),
    ("%y = load %A[%x] : f16", "TLC0231", (3, 6, 10), "1 indices into global f16[M, 8]"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "place", "message"), BODIES)
def test_bodies(body: str, code: str, place: tuple[int, int, int], message: str) -> None:
    with pytest.raises(TilecError) as caught:
        parse_program(f"{HEAD}{body}\n}}\n", REGISTRY)
    error = caught.value
    loc = error.loc
    assert (error.code, (loc.line, loc.column + 1, (loc.end_column or 0) + 1)) == (code, place)
    assert error.message.startswith(message) or message in error.message
    assert str(error).splitlines()[2].lstrip().startswith("|")
    assert "^" in str(error)


PROGRAMS = [
    ("", "TLC0281", (1, 1), "its first line does not name"),
    ("program @p() { }", "TLC0281", (1, 1), "its first line does not name"),
    ("tilec.ir 2\nanything", "TLC0281", (1, 10), "this text is tilec.ir 2; this"),
    ("tilec.ir 0\n", "TLC0281", (1, 10), "there is no tilec.ir 0"),
    ("tilec.ir 1\n", "TLC0280", (1, 1), "the end of the text is not expected"),
    ("tilec.ir 1\nprogram @p() {", "TLC0280", (2, 15), "the end of the text is not expected"),
    ("tilec.ir 1\nprogramme @p() { }", "TLC0280", (2, 1), "'programme' is not expected here"),
    ("tilec.ir 1\nprogram p() { }", "TLC0280", (2, 9), "'p' is not expected here"),
    ("tilec.ir 1\nprogram @p() { } x", "TLC0280", (2, 18), "'x' is not expected here"),
    ("tilec.ir 1\nprogram @p() <level = warp> { }", "TLC0285", (2, 15), "'warp' is no level"),
    ("tilec.ir 1\nprogram @p() <level> { }", "TLC0285", (2, 15), "level is a name"),
    ("tilec.ir 1\nprogram @p() <symbols = M> { }", "TLC0285", (2, 15), "symbols is a list of"),
    ("tilec.ir 1\nprogram @p() <symbols = [M, M]> { }", "TLC0285", (2, 15), "names one twice"),
    ("tilec.ir 1\nprogram @p() <pace = 3> { }", "TLC0285", (2, 15), "has no attribute 'pace'"),
    ("tilec.ir 1\nprogram @p(%a: i32, %a: i32) { }", "TLC0283", (2, 21), "%a is defined already"),
    ("tilec.ir 1\n#l = round<r = 1>\nprogram @p() { }", "TLC0287", (2, 1), "#l is no layout: no"),
    (
        "tilec.ir 1\n#l = shared<shape=[8], modes=[[4]], strides=[[1]], swizzle=[0, 0, 0]>\n"
        "program @p() { }",
        "TLC0287", (2, 1), "#l is no layout: dimension 0",
    ),
    (
        "tilec.ir 1\n#l = register<shape=[8], modes=[[8]], thread=[0], reg=[]>\n"
        "program @p(%s: shared f16[8] #l) { }",
        "TLC0287", (3, 30), "a register layout on memory",
    ),
    (
        "tilec.ir 1\nprogram @p(%c: bool) {\nif %c {\n%y = add 1, 2 : i32\nyield\n} { yield }\n"
        "%z = add %y, 1 : i32\n}",
        "TLC0282", (7, 10), "%y belongs to a region that has ended",
    ),
    (
        "tilec.ir 1\nprogram @p() {\n" + "acme.x {\n" * 102 + "}\n" * 103,
        "TLC0280", (104, 1), "regions nest deeper than 100",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code", "place", "message"), PROGRAMS)
def test_programs(text: str, code: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(TilecError) as caught:
        parse_program(text, REGISTRY)
    error = caught.value
    assert (error.code, (error.loc.line, error.loc.column + 1)) == (code, place)
    assert message in error.message


def test_a_close_name_is_suggested() -> None:
    with pytest.raises(TilecError) as caught:
        parse_program(f"{HEAD}%total = add %x, 1 : i32\n%y = add %totl, 1 : i32\n}}", REGISTRY)
    assert caught.value.hint == "there is %total"


def test_the_error_shows_the_line_and_a_caret() -> None:
    with pytest.raises(TilecError) as caught:
        parse_program(f"{HEAD}  %y = add %x, %z : i32\n}}", REGISTRY, file="kernel.tir")
    assert str(caught.value) == (
        "kernel.tir:3:16: IRError [TLC0282]: %z is not defined here\n"
        "     3 |   %y = add %x, %z : i32\n"
        "       |                ^^"
    )


def test_the_lines_of_a_file_are_its_own(tmp_path: Path) -> None:
    path = tmp_path / "k.tir"
    path.write_text(f"{HEAD}  %y = add %x, %z : i32\n}}", encoding="utf-8")
    with pytest.raises(TilecError) as caught:
        parse_program(path.read_text(encoding="utf-8"), REGISTRY, file=str(path))
    assert "|   %y = add %x, %z : i32\n" in str(caught.value)
    linecache.clearcache()
