"""Who imports whom: imports inside tilec go one way, and all of them are relative."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tilec"

# Lowest first. A part imports its own group and every rung below it; groups of one rung do not
# import each other. A part is a folder of tilec/ or a file directly in it.
RUNGS: tuple[tuple[frozenset[str], ...], ...] = (
    (frozenset({"errors", "target", "config", "locks", "version"}),),
    (frozenset({"ir"}),),
    (frozenset({"language", "layout", "quantize"}), frozenset({"interpreter"})),
    (frozenset({"parser"}), frozenset({"passes"}), frozenset({"backends"})),
    (frozenset({"runtime", "extend"}),),
    (frozenset({"ops", "cli", "compat"}),),
)
# The doors of the package re-export; they may import any part.
DOORS = {"__init__", "__main__"}
# The handle that a decorator returns runs kernels: the one import up, made at its first use.
LAZY_UP = ("tilec.language.kernel", "runtime")

# What a user may have beside tilec; never needed to import it.
OPTIONAL = {"cupy", "cupy_backends", "torch", "jax", "cuda"}


@dataclass(frozen=True)
class Import:
    """One imported module or member, as absolute dotted name, and where it stands."""

    module: str
    name: str
    line: int
    relative: bool
    deferred: bool  # inside a function, or for the type checker only

    @property
    def internal(self) -> bool:
        return self.name == "tilec" or self.name.startswith("tilec.")

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.name}"


def part_of(module: str) -> str:
    """The part a dotted name belongs to: 'ir' for tilec.ir.ops.add, '__init__' for tilec itself."""
    words = module.split(".")
    return words[1] if len(words) > 1 else "__init__"


def place(part: str) -> tuple[int, frozenset[str]] | None:
    """(rung, group) of a part, or None when no rung has it."""
    for rung, groups in enumerate(RUNGS):
        for group in groups:
            if part in group:
                return rung, group
    return None


def checks_types(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def walk(node: ast.AST, deferred: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below `node`, with whether it runs later than the import of its module."""
    for child in ast.iter_child_nodes(node):
        later = deferred or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and checks_types(child.test):
            later = True
        yield child, later
        yield from walk(child, later)


def imports_in(source: str, module: str, is_package: bool) -> Iterator[Import]:
    """The imports of one file; `from . import x` counts as an import of the member x."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node, deferred in walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, False, deferred)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            words = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                name = ".".join([*words, alias.name])
                yield Import(module, name, node.lineno, node.level > 0, deferred)
        elif isinstance(node, ast.Call) and named_import(node):
            target = ast.literal_eval(node.args[0])
            yield Import(module, target, node.lineno, target.startswith("."), deferred)


def named_import(call: ast.Call) -> bool:
    """Whether this is import_module("name") or __import__("name")."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    literal = call.args and isinstance(call.args[0], ast.Constant)
    return bool(name in ("import_module", "__import__") and literal)


def violation(found: Import) -> str | None:
    """What is wrong with one import of tilec's own modules, or None."""
    if not found.internal:
        return None
    if not found.relative:
        return f"{found}: write it as a relative import"
    here, there = part_of(found.module), part_of(found.name)
    if here in DOORS:
        return None
    if (found.module, there) == LAZY_UP:
        return None if found.deferred else f"{found}: only inside a function"
    source, target = place(here), place(there)
    if source is None:
        return f"{found.module}: {here} is on no rung; give it one in tests/test_layering.py"
    if target is None:
        return f"{found}: {there} is on no rung" if there not in DOORS else f"{found}: a door"
    if target[0] > source[0] or (target[0] == source[0] and target[1] != source[1]):
        return f"{found}: {here} may not import {there}"
    return None


def outside(found: Import, core: set[str]) -> str | None:
    """What is wrong with an import from another package: only the declared core may always load."""
    top = found.name.split(".")[0]
    if found.relative or found.internal or top in sys.stdlib_module_names or top in core:
        return None
    if top in OPTIONAL:
        return None if found.deferred else f"{found}: import it in the function that needs it"
    return f"{found}: neither a core dependency nor a declared optional one"


def core_dependencies() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {re.split(r"[^A-Za-z0-9_]", line)[0] for line in project["dependencies"]}


def package_imports() -> list[Import]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        words = list(path.relative_to(ROOT).with_suffix("").parts)
        is_package = words[-1] == "__init__"
        module = ".".join(words[:-1] if is_package else words)
        found += imports_in(path.read_text(encoding="utf-8"), module, is_package)
    return found


def test_imports_go_one_way() -> None:
    found = package_imports()
    assert any(one.internal for one in found), "tilec has no imports: the walk is broken"
    wrong = [text for text in map(violation, found) if text]
    assert not wrong, "\n".join(wrong)


def test_only_core_dependencies_are_imported() -> None:
    core = core_dependencies()
    assert core and not core & OPTIONAL
    wrong = [text for one in package_imports() if (text := outside(one, core))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import numpy as np", False),
        ("from collections import abc", False),
        ("import cupy", True),
        ("def f():\n    import cupy", False),
        ("if TYPE_CHECKING:\n    import torch", False),
        ("def f():\n    import scipy", True),
        ("def f():\n    import_module('scipy')", True),
    ],
)
def test_the_rule_on_dependencies_itself(source: str, wrong: bool) -> None:
    found = imports_in(source, "tilec.runtime.arrays", False)
    assert any(outside(one, {"numpy"}) for one in found) is wrong


def test_every_part_has_a_rung() -> None:
    parts = {path.stem for path in PACKAGE.glob("*.py")} - DOORS
    parts |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    lost = sorted(part for part in parts if place(part) is None)
    assert not lost, f"on no rung: {lost}"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("tilec.passes.fold", "from ..ir import core", False),
        ("tilec.passes.fold", "from .. import ir", False),
        ("tilec.passes.fold", "from ..parser import text", True),
        ("tilec.passes.fold", "from .. import backends", True),
        ("tilec.passes.fold", "from tilec.ir import core", True),
        ("tilec.passes.fold", "import tilec", True),
        ("tilec.passes.fold", "import_module('tilec.ir')", True),
        ("tilec.passes.fold", "from .. import compile", True),
        ("tilec.ir.core", "def f():\n    from ..passes import fold", True),
        ("tilec.ir.core", "from ..errors import TilecError", False),
        ("tilec.interpreter.run", "from ..language import kernel", True),
        ("tilec.language.kernel", "def f():\n    from ..runtime import driver", False),
        ("tilec.language.kernel", "from ..runtime import driver", True),
        ("tilec.language.other", "def f():\n    from ..runtime import driver", True),
        ("tilec.cli.run", "from ..runtime import driver", False),
        ("tilec.novel", "from .ir import core", True),
        ("tilec.ir.core", "import numpy", False),
    ],
)
def test_the_rule_itself(module: str, source: str, wrong: bool) -> None:
    problems = [text for one in imports_in(source, module, False) if (text := violation(one))]
    assert bool(problems) is wrong, problems


TWO_COPIES = """
import importlib, pkgutil, sys

def load(name):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {found for found in sys.modules if found.split(".")[0] == name}

second = load("tilec_second")
assert not any(found.split(".")[0] == "tilec" for found in sys.modules), "the copy imports tilec"
first = load("tilec")
assert {found.replace("tilec_second", "tilec", 1) for found in second} == first
for name in first:
    assert sys.modules[name] is not sys.modules[name.replace("tilec", "tilec_second", 1)]
print(*sorted(first))
"""


def test_two_copies_live_in_one_process(tmp_path: Path) -> None:
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "tilec_second", ignore=skip)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWO_COPIES], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = {path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py")}
    modules = {".".join(file.parts).removesuffix(".__init__") for file in files}
    lost = {name for name in modules if not name.endswith("__main__")} - set(done.stdout.split())
    assert not lost, f"not importable; is there an __init__.py in their folder? {sorted(lost)}"
