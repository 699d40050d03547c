"""Every variant of a program in one source file, with one manifest and one launcher: what `tilec
build` writes.

Variants share the prelude; their kernels differ in name by the variant's suffix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from .emitter import EmittedProgram, render
from .manifest import Fact, LaunchSpec, Manifest, Variant
from .prelude import KernelFrame


@dataclass(frozen=True)
class Bundle:
    """`text` is the source file called `source_name`; `manifest` says which kernels of it a variant
    launches."""

    source_name: str
    text: str
    manifest: Manifest

    @property
    def launcher(self) -> str:
        """A Python file that launches the program with cupy alone: cupy_launcher.py, filled in."""
        template = resources.files(__package__).joinpath("cupy_launcher.py")
        head, line, rest = template.read_text(encoding="utf-8").partition('json.loads("{}")')
        assert line, "cupy_launcher.py has no place for the manifest"
        head = head.replace("PROGRAM", self.manifest.program)
        before, there, after = head.partition("from .launch_limits import (")
        assert there, "cupy_launcher.py has no place for launch_limits.py"
        limits = (
            resources.files(__package__).joinpath("launch_limits.py").read_text(encoding="utf-8")
        )
        head = before + limits.partition("import math\n")[2] + after.partition(")\n")[2]
        head, _, tail = head.partition("\n\nWritten by `tilec build`")
        head += '\n"""\n' + tail.partition('"""\n')[2]
        return f"{head}json.loads(\n    {self.manifest.to_json()!r}\n){rest}"


def bundle(variants: Sequence[tuple[EmittedProgram, tuple[Fact, ...], str]]) -> Bundle:
    """The variants of a program, each with the facts that it requires and a suffix for the names of
    its kernels, in order of preference."""
    first = variants[0][0]
    frames: list[KernelFrame] = []
    made: list[Variant] = []
    taken: set[str] = set()
    for emitted, requires, suffix in variants:
        launches: list[LaunchSpec] = []
        for frame, launch in zip(emitted.frames, emitted.launches, strict=True):
            name = frame.name + suffix
            while name in taken:
                name += "_"
            taken.add(name)
            frames.append(replace(frame, name=name))
            launches.append(replace(launch, symbol=name))
        made.append(Variant(requires, first.source_name, tuple(launches)))
    manifest = replace(first.manifest(), variants=tuple(made))
    return Bundle(first.source_name, render(replace(first, frames=tuple(frames))), manifest)
