"""The compilers of this machine behind one interface, and the choice of one for a target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from ..errors import MissingTool
from ..target import Target, find_target
from .binary import Binary
from .clang import find_amd_clang, find_system_clang, find_ziglang
from .hiprtc import find_hiprtc
from .nvrtc import find_nvrtc
from .offline import find_nvcc


class Compiler(Protocol):
    """Turns text into machine code. `name` and `version` are part of the cache key."""

    @property
    def name(self) -> str:
        """Short name: nvrtc, nvcc, hiprtc, clang, ziglang."""

    @property
    def backend(self) -> str:
        """ "cuda" or "hip"."""

    @property
    def version(self) -> str:
        """The tool's own version."""

    @property
    def where(self) -> str:
        """The file it was found at."""

    def knows(self, arch: str) -> bool:
        """Whether it compiles for `arch`, as far as it tells beforehand."""

    def compile(self, text: str, name: str, arch: str) -> Binary:
        """`text` (called `name` in messages) compiled for `arch`. Raises CompilerFailed."""


# In order of preference.
_FINDERS: dict[str, dict[str, Callable[[], Compiler]]] = {
    "cuda": {"nvrtc": find_nvrtc, "nvcc": find_nvcc},
    "hip": {"hiprtc": find_hiprtc, "clang": find_system_clang, "ziglang": find_ziglang},
}


def find_compilers(backend: str | None = None) -> Iterator[tuple[str, str, Compiler | MissingTool]]:
    """Every compiler that is looked for, for one backend or for all: its name, the backend, and the
    compiler or why it is not here."""
    for kind, finders in _FINDERS.items():
        for name, find in finders.items() if backend in (None, kind) else ():
            try:
                yield name, kind, find()
            except MissingTool as missing:
                yield name, kind, missing


def assemble(text: str, name: str, target: Target) -> str:
    """`text` (called `name` in messages) as PTX, or as AMD assembly. Raises MissingTool,
    CompilerFailed."""
    if target.backend == "cuda":
        return find_nvrtc().assemble(text, name, target.arch)
    return find_amd_clang(target.arch).assemble(text, name, target.arch).assembly


def pick_compiler(target: str | Target) -> Compiler:
    """The preferred compiler for `target`. Raises MissingTool with the reason for each that is
    absent."""
    chosen = find_target(target)
    reasons: list[MissingTool] = []
    for find in _FINDERS[chosen.backend].values():
        try:
            found = find()
        except MissingTool as missing:
            reasons.append(missing)
            continue
        if found.knows(chosen.arch):
            return found
        unknown = f"{found.name} {found.version} does not know {chosen.arch}"
        reasons.append(MissingTool("TLC0702", unknown, hint=f"install a newer {found.name}"))
    raise MissingTool(
        "TLC0702",
        f"no compiler for {chosen.name}: " + "; ".join(reason.message for reason in reasons),
        hint="; or ".join(reason.hint for reason in reasons if reason.hint),
    )
