"""`tilec build`: for each kernel of a file and each target one source file with every variant, a
manifest and a cupy launcher; IR, PTX and machine code where they are asked for. Byte-identical on
every build.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from ..backends.bundle import Bundle, bundle
from ..errors import MissingTool
from ..ir.print import print_program
from ..language.kernel import Kernel
from ..runtime.binary import Binary
from ..runtime.build import compile_variant
from ..runtime.compiled import CompiledKernel
from ..runtime.compilers import assemble, pick_compiler
from ..runtime.driver import compile_program
from ..target import Target, find_target
from .output import output
from .programs import DEFINES, FILE, TARGETS, load_file, need_kernels, read_defines, trace

EMIT = ("source", "ir", "ptx", "binary", "manifest", "launcher")


@click.command("build")
@FILE
@TARGETS
@DEFINES
@click.option(
    "-o",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    show_default=True,
)
@click.option(
    "--emit",
    default="source,manifest,launcher",
    show_default=True,
    help=f"Any of {','.join(EMIT)}; ptx is assembly on AMD.",
)
def command(
    file: Path, targets: tuple[str, ...], defines: tuple[str, ...], folder: Path, emit: str
) -> int:
    """Write what FILE's kernels compile to, for each target, into a folder."""
    wanted = emit.split(",")
    for kind in wanted:
        if kind not in EMIT:
            raise click.BadParameter(
                f"{kind!r} is not one of {', '.join(EMIT)}", param_hint="--emit"
            )
    with output().users_code():
        source = load_file(file)
    values = read_defines(defines)
    built: list[dict[str, object]] = []
    for target in map(find_target, targets):
        place = folder / f"{target.backend}-{target.arch}" if len(targets) > 1 else folder
        for name, kernel in own_names(need_kernels(source, file, values)).items():
            program = replace(trace(kernel, values, target), name=name)
            compiled = compile_program(program, target)
            build = _Build(compiled, place, wanted)
            built.append(build.run())
    output().result({"built": built})
    return 0


def own_names(kernels: dict[str, Kernel]) -> dict[str, Kernel]:
    """Kernels by names that no two of them share: a kernel's own; where several have one, as those
    that a factory makes, the names of the file's variables.
    """
    once: dict[str, Kernel] = {}  # by the first variable that holds it
    for variable, kernel in kernels.items():
        if kernel not in once.values():
            once[variable] = kernel
    count = Counter(kernel.name for kernel in once.values())
    named = {k.name if count[k.name] == 1 else variable: k for variable, k in once.items()}
    return named if len(named) == len(once) else once


@dataclass
class _Build:
    """One kernel for one target."""

    compiled: CompiledKernel
    folder: Path
    wanted: list[str]
    files: list[str] = field(default_factory=list)

    def run(self) -> dict[str, object]:
        """Writes the files; what there is to say of them."""
        compiled, name = self.compiled, self.compiled.program.name
        compiled.add_general()
        for remark in compiled.remarks:
            output().remark(remark)
        whole = bundle(
            compiled.interface, [(v.emitted, v.requires, v.suffix) for v in compiled.variants]
        )
        stem = Path(whole.source_name).stem
        if "source" in self.wanted:
            self._write(whole.source_name, whole.text)
        if "ir" in self.wanted:
            for lowered in compiled.variants:
                self._write(f"{stem}{lowered.suffix}.tir", print_program(lowered.program))
        if "manifest" in self.wanted:
            self._write(f"{stem}.json", whole.manifest.to_json())
        if "launcher" in self.wanted:
            self._write(f"{stem}_launch.py", whole.launcher)
        if "ptx" in self.wanted:
            target = compiled.target
            suffix = "ptx" if target.backend == "cuda" else "s"
            text = assemble(whole.text, whole.source_name, target)
            self._write(f"{stem}.{target.arch}.{suffix}", text)
        return {
            "kernel": name,
            "target": compiled.target.name,
            "files": self.files,
            **self._compile(whole, stem),
        }

    def _compile(self, whole: Bundle, stem: str) -> dict[str, object]:
        """Compiles the file, for the check's sake, with whatever compiler is here."""
        target = self.compiled.target
        try:
            compiler = pick_compiler(target)
        except MissingTool as missing:
            if "binary" in self.wanted:
                raise
            output().note(f"{whole.source_name}: not compiled here ({missing.message})")
            return {"compiler": None}
        binary = compile_variant(whole.text, target, whole.source_name, compiler)
        if "binary" in self.wanted:
            path = self._path(f"{stem}.{target.arch}.bin")
            path.write_bytes(binary.code)
        for finding in binary.findings:
            output().note(f"{whole.source_name}: {finding.kind}: {finding.text}")
        output().note(_checked(whole, target, binary))
        return {"compiler": binary.compiler, "kernels": [r.name for r in binary.resources]}

    def _write(self, name: str, text: str) -> None:
        self._path(name).write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")

    def _path(self, name: str) -> Path:
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as problem:
            raise click.BadParameter(
                f"cannot write {path}: {problem}", param_hint="-o"
            ) from problem
        self.files.append(str(path))
        output().say(str(path))
        return path


def _checked(whole: Bundle, target: Target, binary: Binary) -> str:
    kernels = "; ".join(
        f"{r.name} {r.registers} registers, {r.spill_stores + r.spill_loads} bytes spilled"
        for r in binary.resources
    )
    return f"{whole.source_name} compiles for {target.name} with {binary.compiler}: {kernels}"
