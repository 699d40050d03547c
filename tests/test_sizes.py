"""Python files stay under 500 lines, functions under 60, the wheel under 1 MB."""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("tilec", "tests", "examples", "benchmarks", "scripts")
FILE_LINES, FUNCTION_LINES = 500, 60
WHEEL_BYTES = 1_250_000  # the design promises 2 MB
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def python_files() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str, int]]:
    """(line, name, length) of each function that is too long, from `def` to its last line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length >= FUNCTION_LINES:
                yield node.lineno, node.name, length


def test_files_are_short() -> None:
    lengths = {p: len(p.read_text(encoding="utf-8").splitlines()) for p in python_files()}
    assert lengths, "no Python file was found: the test looks in the wrong place"
    long = [f"{p.relative_to(ROOT)}: {n} lines" for p, n in lengths.items() if n >= FILE_LINES]
    assert not long, f"split these by idea (limit {FILE_LINES}): {long}"


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{line} {name}: {length} lines"
        for path in python_files()
        for line, name, length in long_functions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not long, f"split these (limit {FUNCTION_LINES}): {long}"


def test_the_function_limit_can_fail() -> None:
    def source(lines: int) -> str:
        return "class C:\n    @property\n    def f(self):\n" + "        pass\n" * (lines - 1)

    assert list(long_functions(ast.parse(source(59)))) == []
    assert list(long_functions(ast.parse(source(60)))) == [(3, "f", 60)]


def test_the_wheel_is_small() -> None:
    """A wheel is a zip file: every file deflated for itself."""
    files = [p for p in (ROOT / "tilec").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    size = sum(len(zlib.compress(path.read_bytes())) for path in files)
    assert 0 < size < WHEEL_BYTES, f"tilec is {size} bytes packed"


def test_no_module_is_a_drawer() -> None:
    drawers = [p.relative_to(ROOT).as_posix() for p in python_files() if p.stem in FORBIDDEN_NAMES]
    assert not drawers, f"name these for what they hold: {drawers}"
