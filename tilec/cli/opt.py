"""`tilec opt`: IR text in, IR text out."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

import click

from ..ir.print import print_program
from ..ir.verify import verify
from ..parser.text import parse_program
from ..passes.context import Assume, Facts, PassContext
from ..passes.pipeline import find_passes, pipeline_of, run_pipeline
from ..runtime.lowering import standard_registry
from ..runtime.plugins import load_plugins
from ..target import find_target
from .output import output


@click.command("opt")
@click.argument("file", type=click.File(encoding="utf-8"))
@click.option(
    "--passes",
    default="",
    help="Names with commas between; 'all' for the whole pipeline; none: parse and print.",
)
@click.option("--target", default="cuda:sm_90a", show_default=True)
@click.option("--general", is_flag=True, help="Assume nothing of the arguments.")
@click.option(
    "--dump", type=click.Path(file_okay=False, path_type=Path), help="Numbered IR after every pass."
)
def command(file: TextIO, passes: str, target: str, general: bool, dump: Path | None) -> int:
    """Run passes over the IR in FILE (- for standard input) and print the result."""
    load_plugins()
    registry = standard_registry()
    program = parse_program(file.read(), registry, getattr(file, "name", "<text>"))
    verify(program, registry)
    whole = pipeline_of(registry)
    chosen = whole if passes == "all" else find_passes([n for n in passes.split(",") if n], whole)
    context = PassContext(
        find_target(target),
        registry,
        Facts(Assume.NOTHING if general else Assume.ALL),
        output().remark,
    )
    text = print_program(run_pipeline(program, context, chosen, dump=dump))
    output().write(text)
    output().result({"passes": [p.__name__ for p in chosen], "target": target, "ir": text})
    return 0
