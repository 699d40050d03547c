"""Every variant of a program in one source file, with one manifest and one launcher: what `tilec
build` writes.

Variants share the prelude; their kernels differ in name by the variant's suffix.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

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
        """A Python file that launches the program with cupy alone."""
        text = standing_alone("cupy_launcher").replace("PROGRAM", self.manifest.program, 1)
        head, line, rest = text.partition('json.loads("null"')
        assert line, "cupy_launcher.py has no place for the manifest"
        return f"{head}json.loads(\n    {self.manifest.to_json()!r}{rest}"


@cache
def standing_alone(name: str) -> str:
    """The text of a file of launcher/ with that of its neighbours whose names it imports: the head,
    everybody's imports, then definitions, those first that others use."""
    texts: dict[str, str] = {}
    modules: set[str] = set()
    members: dict[str, set[str]] = {}

    def add(name: str) -> ast.Module:
        path = files(__package__).joinpath("launcher", f"{name}.py")
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        imports = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
        for node in imports:
            if isinstance(node, ast.Import):
                modules.update(ast.unparse(alias) for alias in node.names)
            elif not node.level:
                members.setdefault(node.module or "", set()).update(a.name for a in node.names)
            elif node.module not in texts:
                assert node.level == 1 and node.module, f"launcher/{name}.py imports of tilec"
                add(node.module)
        texts[name] = "\n".join(text.splitlines()[imports[-1].end_lineno :]).strip()
        return tree

    head = ast.get_docstring(add(name), clean=False)
    members.pop("__future__")
    imports = [f"import {module}" for module in sorted(modules)]
    imports += [
        f"from {m} import {', '.join(sorted(found))}" for m, found in sorted(members.items())
    ]
    parts = [f'"""{head}"""\n\nfrom __future__ import annotations\n\n' + "\n".join(imports)]
    return "\n\n\n".join([*parts, *texts.values()]) + "\n"


def bundle(
    interface: Manifest, variants: Sequence[tuple[EmittedProgram, tuple[Fact, ...], str]]
) -> Bundle:
    """The variants of a program of that interface, each with the facts that it requires and a suffix for the names of
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
        workspaces = emitted.interface.workspaces()
        made.append(Variant(requires, first.source_name, tuple(launches), workspaces))
    manifest = replace(interface, variants=tuple(made))
    return Bundle(first.source_name, render(replace(first, frames=tuple(frames))), manifest)
