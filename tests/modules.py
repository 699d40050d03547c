"""Modules from files that are in no package: the examples, and what tests write."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

from tilec.target import TARGETS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
HOPPER = "cuda:sm_90a"
# What asks for a machine's own means by name; all other examples are for every target.
ONLY_FOR = {"gemm_warp_specialized": (HOPPER,)}


def load_module(path: Path) -> ModuleType:
    """The module of a file, executed anew at every call."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(name: str) -> ModuleType:
    """The module examples/<name>.py."""
    return load_module(EXAMPLES / f"{name}.py")


def example_targets(name: str) -> tuple[str, ...]:
    """The targets that an example is for."""
    return ONLY_FOR.get(name, tuple(TARGETS))
