"""`tilec tune`: every configuration of a file's autotuned kernels, compiled, checked and timed."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..errors import LanguageError
from ..language.kernel import Kernel
from ..runtime.compiled import CompiledKernel
from ..runtime.devices import Device, select_device
from ..runtime.driver import compile_program
from ..runtime.timing import clock_of
from ..runtime.tuning import fastest, search
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


@click.command("tune")
@FILE
@DEVICE
@DEFINES
def command(file: Path, device: str, defines: tuple[str, ...]) -> int:
    """Search the configurations of FILE's kernels that @tilec.autotune decorates."""
    with asked_device(device), output().users_code():
        values = read_defines(defines)
        kernels = need_kernels(load_file(file), file, values)
        tuned = {name: k for name, k in kernels.items() if k.tuning is not None}
        if not tuned:
            raise LanguageError(
                "TLC0195",
                f"no kernel of {file.name} has configurations to search",
                hint="put @tilec.autotune(configs=[…]) above @tilec.kernel",
            )
        chosen = select_device([])
        found = [_tune(name, kernel, chosen, values) for name, kernel in tuned.items()]
    output().result({"device": chosen.name, "tuned": found})
    return 0


def _tune(name: str, kernel: Kernel, device: Device, defines: dict[str, Any]) -> dict[str, object]:
    def compile_candidate(config: Mapping[str, Any]) -> CompiledKernel:
        program = trace(kernel, {**defines, **config}, device.target, DEFAULT_EXTENT)
        return compile_program(program, device.target)

    program = trace(kernel, defines, device.target, DEFAULT_EXTENT)
    inputs = make_inputs(program, defines)
    arrays = on_device(device, inputs)
    shapes = {n: tuple(x.shape) for n, x in inputs.items() if hasattr(x, "shape")}
    candidates = kernel.tuning.candidates(kernel, device.target, shapes)
    out = output()
    if not device.name.startswith(("cuda", "hip")):
        out.note(f"times are the host's on {device.name}: they say nothing of a GPU")
    stream = io.StringIO() if out.as_json else sys.stderr
    with click.progressbar(length=len(candidates), label=name, file=stream) as bar:
        clock = clock_of(arrays)
        trials = search(
            candidates, arrays, device, compile_candidate, clock, lambda _: bar.update(1)
        )
    for trial in sorted(trials, key=lambda t: (bool(t.problem), t.us)):
        shown = " ".join(f"{n}={v}" for n, v in trial.config.items())
        out.say(f"  {trial.problem or f'{trial.us:10.1f} us'}  {shown}")
    best = fastest(name, trials)
    out.say(f"{name} on {device.name}: {best.us:.1f} us with {dict(best.config)}")
    return {"name": name, "best": best.to_data(), "trials": [trial.to_data() for trial in trials]}
