"""The C++ compilers that build the emulator: g++, clang++, or the clang inside the package ziglang."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ... import config
from ...errors import MissingTool, TilecError
from ..clang import find_ziglang

OLDEST_GCC = 11
_CLANGS = ("clang++", *(f"clang++-{version}" for version in range(25, 13, -1)))
# zig compiles a C++ library and a run-time for its sanitizer before it links what asks for them;
# the emulated text uses neither.
_ZIG_OPTIONS = ("-nostdlib++", "-fno-sanitize=undefined")


@dataclass(frozen=True)
class HostCompiler:
    """A C++17 compiler: its command, the first line of its version, and why it does not serve ("":
    it does)."""

    command: tuple[str, ...]
    version: str
    problem: str = ""


def find_host_compiler(command: str = "") -> HostCompiler:
    """The compiler `command`, else the one that TILEC_CXX or CXX names, else the first that serves
    of g++ (from 11 on), clang++ and `zig c++` of the package ziglang.

    Raises MissingTool with what is wrong with each.
    """
    asked = command or config.current().cxx or os.environ.get("CXX", "")
    problems: list[str] = []
    for candidate in (asked,) if asked else ("g++", *_CLANGS, *_zig_command()):
        found = _probe(candidate)
        if found is not None and not found.problem:
            return found
        if found is not None:
            problems.append(found.problem)
    said = "; ".join(problems) or (
        f"{asked} does not run" if asked else "there is no g++, clang++ or ziglang"
    )
    raise MissingTool(
        "TLC0621",
        f"the emulator needs a C++17 compiler: {said}",
        hint="install g++ or clang++, or pip install ziglang; TILEC_CXX names one that is elsewhere",
    )


def _zig_command() -> tuple[str, ...]:
    """The command of the package ziglang, or nothing."""
    try:
        return (f"{find_ziglang().where} c++",)
    except TilecError:
        return ()


@cache
def _probe(command: str) -> HostCompiler | None:
    """The compiler that `command` runs; None where nothing runs."""
    words = tuple(command.split())
    if not words or shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(
            (*words, "--version"),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    version = done.stdout.partition("\n")[0]
    if "zig" in Path(words[0]).name or "ziglang" in words:
        return HostCompiler((*words, *_ZIG_OPTIONS), f"{version} of zig")
    gcc = "Free Software Foundation" in done.stdout and re.search(r"\)\s+(\d+)\.", version)
    old = gcc and int(gcc[1]) < OLDEST_GCC
    return HostCompiler(words, version, f"{version} is older than {OLDEST_GCC}" if old else "")
