"""`tilec show`: layouts, pipelines, IR, source and resources of a file's kernels, as text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from ..ir.core import Block, Program, Value, walk
from ..ir.ops.control import Launch, Role
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Channel, Free, Get, Pipeline, Put, Receive, Send, Stage
from ..ir.ops.tile import Copy
from ..passes.clusters import sharers
from ..passes.context import Facts, PassContext, Remark
from ..passes.explicit_work import registers_set
from ..passes.pipeline import run_pipeline
from ..runtime.driver import compile_program
from ..runtime.lowering import standard_registry
from ..target import Target, find_target
from .draw_layouts import draw_layouts
from .output import output
from .programs import DEFINES, FILE, load_file, need_kernels, read_defines, trace
from .resources import measure


@click.command("show")
@click.argument("what", type=click.Choice(["layout", "pipeline", "ir", "source", "resources"]))
@FILE
@click.option("--target", default="cuda:sm_90a", show_default=True)
@click.option(
    "--after", default="", help="ir: after the last pass of this name; by default as traced."
)
@click.option(
    "--rows", default=16, show_default=True, type=click.IntRange(1), help="layout: of each grid."
)
@DEFINES
def command(
    what: str, file: Path, target: str, after: str, rows: int, defines: tuple[str, ...]
) -> int:
    """Print layouts, pipelines, IR, source or resources of FILE's kernels."""
    out = output()
    with out.users_code():
        source = load_file(file)
    values = read_defines(defines)
    aim = find_target(target)
    shown: dict[str, object] = {}
    for name, kernel in need_kernels(source, file, values).items():
        program = trace(kernel, values, aim)
        compiled = compile_program(program, aim)
        match what:
            case "resources":
                usages = list(measure(compiled))
                text = "\n".join(
                    [f"{name} for {aim.name}, by {compiled.binary.compiler}"]
                    + [f"{usage}  ({file_name})" for file_name, usage in usages]
                )
                shown[name] = [usage.to_json() for _, usage in usages]
            case "ir":
                text = compiled.ir(after)
            case "source":
                text = compiled.source
            case "layout":
                text = "\n".join(draw_layouts(program, aim, rows))
            case _:
                text = "\n".join(draw_pipelines(program, aim))
        shown.setdefault(name, text)
        out.write(text)
    out.result({"what": what, "target": aim.name, "kernels": shown})
    return 0


def draw_pipelines(program: Program, target: Target) -> Iterator[str]:
    """Roles, stages with leads, channels with slots and protocols' ends, and every remark on the way."""
    remarks: list[Remark] = []
    context = PassContext(target, standard_registry(), Facts(), remarks.append)
    planned = program

    def keep(name: str, _: Program, after: Program) -> None:
        nonlocal planned
        if name == "schedule_stages":
            planned = after

    run_pipeline(program, context, observers=(keep,))
    yield f"{program.name} for {target.name}"
    for launch in planned.body.ops:
        if isinstance(launch, Launch):
            yield from _launch(launch)
    for remark in dict.fromkeys(remarks):
        yield f"  because {remark}"


def _launch(launch: Launch) -> Iterator[str]:
    resident = f", {launch.resident} resident blocks a multiprocessor" if launch.resident else ""
    along = " x ".join(map(str, launch.cluster))
    cluster = f", clusters of {along} blocks" if launch.cluster_blocks > 1 else ""
    threads = launch.launched_threads or launch.threads
    yield f"  launch {launch.symbol}: {threads} threads{resident}{cluster}"
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    for role in roles:
        last = role.first_thread + role.threads - 1
        held = [role.registers] if role.registers else registers_set(role)
        registers = f", {held[0]} registers" if held else ""
        yield f"    role {role.label}: threads {role.first_thread}…{last}{registers}"
        yield from _pipelines(role.body, "      ")
    if not roles:
        yield from _pipelines(launch.body, "    ")
    for channel in launch.body.ops:
        if isinstance(channel, Channel):
            ends = _ends(launch, channel.result)
            blocks = _sharers(launch, channel.result)
            shared = f", each tile for {blocks} blocks of the cluster" if blocks > 1 else ""
            yield f"    channel {channel.label}: {channel.type} from {ends}{shared}"
    for alloc in launch.body.ops:
        if isinstance(alloc, Alloc) and alloc.arrivals:
            counts = ", ".join(map(str, dict.fromkeys(alloc.arrivals)))
            yield f"    barriers {alloc.result.hint}: {len(alloc.arrivals)} of {counts} arrivals"
    if launch.explicit:
        yield "    the program itself says what is done when"
    elif not any(isinstance(op, Pipeline) for op in walk(launch.body)):
        yield "    no loop is pipelined"


def _pipelines(block: Block, indent: str) -> Iterator[str]:
    for op in walk(block):
        if isinstance(op, Pipeline):
            yield f"{indent}pipeline at {op.loc}"
            for stage in op.body.ops:
                if isinstance(stage, Stage):
                    ahead = f", {stage.lead} iterations ahead" if stage.lead else ""
                    yield f"{indent}  stage {stage.label}{ahead}: {_statements(stage)}"


def _statements(stage: Stage) -> str:
    shown = [
        op.name
        for op in stage.body.ops
        if not op.pure and not isinstance(op, (Put, Get, Free, Send, Receive))
    ]
    return ", ".join(name for name in shown if name not in ("yield", "commit"))


def _sharers(launch: Launch, channel: Value) -> int:
    """How many blocks of the cluster get each tile that is put into the channel."""
    filled = {
        op.result for op in walk(launch.body) if isinstance(op, Put) and op.channel is channel
    }
    copies = [op for op in walk(launch.body) if isinstance(op, Copy) and op.destination in filled]
    return max((sharers(launch.cluster, op.multicast) for op in copies), default=1)


def _ends(launch: Launch, channel: Value) -> str:
    ends: dict[str, str] = {}
    for op in walk(launch.body):
        if isinstance(op, Stage):
            for inner in op.body.ops:
                if isinstance(inner, (Put, Send)) and inner.channel is channel:
                    ends["writer"] = op.label
                if isinstance(inner, (Get, Receive)) and inner.channel is channel:
                    ends["reader"] = op.label
    return f"{ends.get('writer', '?')} to {ends.get('reader', '?')}"
