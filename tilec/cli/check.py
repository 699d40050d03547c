"""`tilec check`: the front end and the passes alone, with every check that they have: the verifier
after every pass, and the checker of hazards where its two levels hold.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..ir.core import Program
from ..passes.check_hazards import CHECKS
from ..passes.context import Facts, PassContext
from ..runtime.lowering import lower_program, standard_registry
from ..target import find_target
from .programs import DEFINES, FILE, load_file, need_kernels, read_defines, trace


@click.command("check")
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
def command(file: Path, targets: tuple[str, ...], defines: tuple[str, ...]) -> int:
    """Trace and lower FILE's kernels, verifying the IR between passes; write nothing."""
    source = load_file(file)
    values = read_defines(defines)
    for name, kernel in need_kernels(source, file).items():
        for target_name in targets:
            target = find_target(target_name)
            program = trace(kernel, values, target)
            for assume in (True, False):
                context = PassContext(target, standard_registry(), Facts(assume))

                def observe(
                    done: str, _: Program, after: Program, context: PassContext = context
                ) -> None:
                    if done in CHECKS:
                        CHECKS[done](after, context)

                lowered = lower_program(
                    program, target, assume=assume, checked=True, observers=(observe,)
                )
                for remark in lowered.remarks if assume else ():
                    click.echo(str(remark), err=True)
            click.echo(f"{name} for {target.name}: ok")
    return 0
