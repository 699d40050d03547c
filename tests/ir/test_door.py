"""The door of tilec.ir, and what stays behind it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tilec.ir as ir

ROOT = Path(__file__).parent.parent.parent
CLOSED = {"region_rules"}


def imports_of_ir(path: Path) -> list[tuple[str, str]]:
    """(module of ir, name) of every import of ir's insides in a file of another package."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level:
            words = node.module.split(".")
            if words[0] == "ir":
                found += [(".".join(words[1:]), alias.name) for alias in node.names]
    return found


def violations(found: list[tuple[str, str]]) -> list[str]:
    return [
        f"{module}.{name}"
        for module, name in found
        if name.startswith("_") or module.split(".")[0] in CLOSED or name in CLOSED
    ]


def test_nobody_reaches_behind_the_door() -> None:
    wrong, seen = {}, 0
    for path in sorted((ROOT / "tilec").rglob("*.py")):
        if path.relative_to(ROOT / "tilec").parts[0] != "ir":
            found = imports_of_ir(path)
            seen += len(found)
            if bad := violations(found):
                wrong[path.name] = bad
    assert seen > 100
    assert not wrong


def test_the_rule_itself() -> None:
    assert violations([("core", "Value"), ("ops.arith", "Add"), ("", "Builder")]) == []
    assert violations([("print", "_dim"), ("region_rules", "region_problem")]) == [
        "print._dim",
        "region_rules.region_problem",
    ]


def test_every_name_of_the_door_is_there() -> None:
    for name in ir.__all__:
        assert getattr(ir, name) is not None
    assert ir.Value.__module__ == "tilec.ir.core"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = ir.Nothing  # type: ignore[attr-defined]


def test_the_door_opens_late() -> None:
    code = (
        "import sys, tilec.ir; print(sorted(m for m in sys.modules if m.startswith('tilec.ir.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"
