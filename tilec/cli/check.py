"""`tilec check`: the front end and the passes alone, with every check that they have: the verifier
after every pass, and the checker of hazards where its two levels hold.
"""

from __future__ import annotations

from pathlib import Path

import click

from ..ir.core import Program
from ..passes.check_hazards import CHECKS
from ..passes.context import Assume, PassContext, assumptions, facts_of
from ..runtime.lowering import lower_program, standard_registry
from ..target import find_target
from .output import output
from .programs import DEFINES, FILE, TARGETS, load_file, need_kernels, read_defines, trace


@click.command("check")
@FILE
@TARGETS
@DEFINES
def command(file: Path, targets: tuple[str, ...], defines: tuple[str, ...]) -> int:
    """Trace and lower FILE's kernels, verifying the IR after each pass and looking for hazards; write
    nothing.
    """
    out = output()
    with out.users_code():
        source = load_file(file)
    values = read_defines(defines)
    done: list[dict[str, object]] = []
    for name, kernel in need_kernels(source, file, values).items():
        for target_name in targets:
            target = find_target(target_name)
            program = trace(kernel, values, target)
            for assume in assumptions(program):
                context = PassContext(target, standard_registry(), facts_of(program, assume))

                def observe(
                    pass_: str, _: Program, after: Program, context: PassContext = context
                ) -> None:
                    if pass_ in CHECKS:
                        CHECKS[pass_](after, context)

                lowered = lower_program(
                    program, target, assume=assume, checked=True, observers=(observe,)
                )
                for remark in lowered.remarks if assume is Assume.ALL else ():
                    out.remark(remark)
            out.say(f"{name} for {target.name}: ok")
            done.append({"kernel": name, "target": target.name, "ok": True})
    out.result({"checked": done})
    return 0
