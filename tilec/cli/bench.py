"""`tilec bench`: how long a file's kernels take on generated inputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from ..runtime.devices import select_device
from ..runtime.driver import compile_program
from ..runtime.timing import clock_of, measure
from .output import output
from .programs import (
    DEFAULT_EXTENT,
    DEFINES,
    DEVICE,
    FILE,
    asked_device,
    load_file,
    make_inputs,
    need_kernels,
    on_device,
    read_defines,
    trace,
)


@click.command("bench")
@FILE
@DEVICE
@click.option("--rounds", default=20, type=click.IntRange(1), help="Timed calls of each kernel.")
@DEFINES
def command(file: Path, device: str, rounds: int, defines: tuple[str, ...]) -> int:
    """Time FILE's kernels on generated inputs; -D gives extents and compile-time parameters."""
    found = []
    with asked_device(device), output().users_code():
        chosen = select_device([])
        values = read_defines(defines)
        for name, kernel in need_kernels(load_file(file), file, values).items():
            program = trace(kernel, values, chosen.target, DEFAULT_EXTENT)
            arrays = on_device(chosen, make_inputs(program, values))
            compiled = compile_program(program, chosen.target)
            timing = measure(partial(compiled.run_on, chosen, arrays), clock_of(arrays), rounds)
            output().say(f"{name} on {chosen.name}: {timing}")
            found.append({"name": name, "us": timing.median, "times": list(timing.times)})
    output().result({"device": chosen.name, "timed": found})
    return 0
