"""`tilec build`: source, manifest, IR and machine code of a file's kernels, byte-identical on every
build.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import MissingTool
from ..ir.print import print_program
from ..runtime.compiled import CompiledKernel
from ..runtime.compilers import pick_compiler
from ..runtime.driver import compile_program
from ..target import find_target
from .output import output
from .programs import DEFINES, FILE, load_file, need_kernels, read_defines, trace

EMIT = ("source", "ir", "binary", "manifest")


@click.command("build")
@FILE
@click.option(
    "--target",
    "targets",
    multiple=True,
    default=("cuda:sm_90a",),
    show_default=True,
    help="May be repeated.",
)
@DEFINES
@click.option(
    "-o",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out"),
    show_default=True,
)
@click.option(
    "--emit", default="source,manifest", show_default=True, help="Any of " + ",".join(EMIT) + "."
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
    folder.mkdir(parents=True, exist_ok=True)
    files: list[str] = []
    for name in targets:
        target = find_target(name)
        for kernel in need_kernels(source, file).values():
            compiled = compile_program(trace(kernel, values, target), target)
            compiled.add_general()
            place = folder / f"{target.backend}-{target.arch}" if len(targets) > 1 else folder
            place.mkdir(exist_ok=True)
            files += [str(path) for path in _write(compiled, place, wanted)]
    for path in files:
        output().say(path)
    output().result({"files": files})
    return 0


def _write(compiled: CompiledKernel, folder: Path, wanted: list[str]) -> list[Path]:
    name = compiled.program.name
    files: list[Path] = []
    for remark in compiled.remarks:
        output().remark(remark)
    for lowered in compiled.variants:
        if "source" in wanted:
            files.append(_text(folder / lowered.file_name, lowered.text))
        if "ir" in wanted:
            files.append(
                _text(folder / (lowered.file_name + ".tir"), print_program(lowered.program))
            )
    if "manifest" in wanted:
        files.append(_text(folder / f"{name}.json", compiled.manifest.to_json()))
    try:
        compiler = pick_compiler(compiled.target)
    except MissingTool as missing:
        if "binary" in wanted:
            raise
        output().note(f"{name}: not compiled here ({missing.message})")
        return files
    for lowered in compiled.variants:
        binary = compiled.compiled(lowered.variant)
        for finding in binary.findings:
            output().note(f"{lowered.file_name}: {finding.kind}: {finding.text}")
        if "binary" in wanted:
            path = folder / (lowered.file_name + ".bin")
            path.write_bytes(binary.code)
            files.append(path)
    output().note(
        f"{name}: {len(compiled.variants)} variants compiled by {compiler.name} {compiler.version}"
    )
    return files


def _text(path: Path, text: str) -> Path:
    path.write_text(text if text.endswith("\n") else text + "\n")
    return path
