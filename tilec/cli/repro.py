"""`tilec repro`: packs what is needed to look at a program elsewhere, or replays a reproducer."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

import click

from .. import config
from ..backends.emitter import emit_program
from ..backends.names import mangle
from ..errors import IRError, TilecError
from ..ir.core import Program
from ..ir.print import print_program
from ..parser.text import parse_program
from ..passes.context import Assume, PassContext, assumptions, facts_of
from ..passes.pipeline import find_passes, pipeline_of, run_pipeline
from ..passes.reproducer import ABOUT, EMISSION, TEXT
from ..runtime.lowering import lower_program, standard_registry
from ..runtime.plugins import load_plugins
from ..target import find_target
from ..version import __version__
from .output import output
from .programs import DEFINES, load_file, need_kernels, read_defines, trace


@click.command("repro")
@click.argument("what", type=click.Path(exists=True, path_type=Path))
@click.option(
    "-o",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reproducer"),
    show_default=True,
    help="FILE.py: where to pack to.",
)
@click.option("--target", default="cuda:sm_90a", show_default=True, help="FILE.py: what for.")
@DEFINES
def command(what: Path, folder: Path, target: str, defines: tuple[str, ...]) -> int:
    """Replay the reproducer that a failed pass left in a folder; or pack FILE.py into a folder, to be
    looked at elsewhere: its kernels' IR after every pass, the emitted source, versions, and the
    error where there is one.
    """
    if what.is_dir():
        return _replay(what)
    return _pack(what, folder, target, defines)


def _replay(folder: Path) -> int:
    """Runs the step that failed. The same failure is raised again; no failure is status 0."""
    load_plugins()
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        step, target = str(about["pass"]), find_target(str(about["target"]))
        text = (folder / TEXT).read_text(encoding="utf-8")
        assume = Assume(about.get("assume", "all"))
    except (OSError, ValueError, KeyError) as wrong:
        raise IRError(
            "TLC0194",
            f"{folder} is no reproducer that can be replayed: {type(wrong).__name__}: {wrong}",
            hint=f"one holds {ABOUT} with a pass and a target, and {TEXT}; what `tilec repro FILE.py` "
            "packs is read, and its .tir files are run by tilec opt",
        ) from wrong
    registry = standard_registry()
    program = parse_program(text, registry, str(folder / TEXT))
    context = PassContext(target, registry, facts_of(program, assume), output().remark)
    if step == EMISSION:
        emit_program(program, target, registry)
    else:
        run_pipeline(program, context, find_passes([step], pipeline_of(registry)))
    output().say(f"{step} on {folder / TEXT} does not fail (tilec {__version__})")
    output().result({"pass": step, "target": target.name, "fails": False})
    return 0


def _pack(path: Path, folder: Path, target_name: str, defines: tuple[str, ...]) -> int:
    """Packs as far as the file goes: an error ends up in the folder, and is then raised."""
    load_plugins()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / path.name)
    target = find_target(target_name)
    about = {
        "tilec": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "file": path.name,
        "target": target.name,
        "defines": list(defines),
    }
    try:
        values = read_defines(defines)
        with output().users_code():
            kernels = need_kernels(load_file(path), path, values)
        for name, kernel in kernels.items():
            program = trace(kernel, values, target)
            (folder / f"{mangle(name)}.tir").write_text(print_program(program), encoding="utf-8")
            _lower(program, folder, target_name)
    except TilecError as error:
        about["error"] = str(error)
        raise
    finally:
        (folder / "about.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        output().say(str(folder))
        output().result({"folder": str(folder), **about})
    return 0


def _lower(program: Program, folder: Path, target: str) -> None:
    with config.scope(dump=str(folder)):
        for assume in assumptions(program):
            lower_program(program, find_target(target), assume=assume, checked=True)
