"""`tilec run`: runs a file's `main`, or its kernels on generated inputs, and says what was
checked.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from ..errors import TilecError, WrongResult
from ..interpreter import assert_close, returned, run_program
from ..interpreter.compare import EPSILON
from ..ir.conversion import unpack_pairs
from ..ir.core import Access, Program, walk
from ..ir.dtypes import PAIRS, DType
from ..ir.types import MemoryType
from ..language.kernel import Kernel
from ..runtime.compiled import CompiledKernel
from ..runtime.devices import select_device
from ..runtime.driver import compile_program
from ..runtime.emulator import Counts, counted
from .output import output
from .programs import (
    DEFAULT_EXTENT,
    DEFINES,
    DEVICE,
    FILE,
    Source,
    asked_device,
    load_file,
    make_inputs,
    need_kernels,
    read_defines,
    run_users,
    trace,
)


@click.command("run")
@FILE
@DEVICE
@click.option(
    "--counts",
    is_flag=True,
    help="On an emulator: count bank conflicts and sectors of global memory, by line.",
)
@DEFINES
def command(file: Path, device: str, counts: bool, defines: tuple[str, ...]) -> int:
    """Run FILE's main, or its kernels on generated inputs, and check the results."""
    with asked_device(device):
        if not counts:
            output().result({"ran": _run_file(file, defines)})
            return 0
        _need_emulator()
        with counted() as found:
            ran = _run_file(file, defines)
    _say(found)
    output().result({"ran": ran, "counts": found.as_json()})
    return 0


def _need_emulator() -> None:
    """Raises TilecError where calls would run on another device."""
    chosen = select_device([])
    if not chosen.name.startswith("emulator"):
        raise TilecError(
            "TLC0909",
            f"accesses are counted in the emulator; this would run on {chosen.name}, "
            f"because {chosen.why}",
            hint="add --device emulator:cuda:sm_80, or another target",
        )


def _say(counts: Counts) -> None:
    """A line for each place that accesses memory, what costs most beyond its need first."""
    out = output()
    for count in counts.accesses:
        out.say(f"  {count}")
    out.say(
        f"  bank conflicts: {counts.bank_conflicts} wavefronts beyond the ideal; "
        f"global memory: {counts.excess_sectors} sectors beyond what is needed"
    )


def _run_file(file: Path, defines: tuple[str, ...]) -> list[dict[str, object]]:
    """Runs FILE; what there is to say of its main, or of each kernel."""
    out = output()
    with out.users_code():
        source = load_file(file)
        if source.main is not None:
            if defines:
                raise click.BadParameter(
                    f"{file.name} has a main, which takes none: call it from there, or remove it",
                    param_hint="-D",
                )
            start = time.perf_counter()
            run_users(source.main, file, "main is called without arguments: mend what it does")
            seconds = time.perf_counter() - start
            out.note(f"main: {seconds:.2f} s")
            return [{"main": str(file), "seconds": seconds}]
        values = read_defines(defines)
        kernels = need_kernels(source, file, values).items()
        return [_run(name, kernel, source, values) for name, kernel in kernels]


def _run(name: str, kernel: Kernel, source: Source, defines: dict[str, Any]) -> dict[str, object]:
    """Runs one kernel; what there is to say of it."""
    out = output()
    chosen = select_device([])
    program = trace(kernel, defines, chosen.target, DEFAULT_EXTENT)
    arrays = make_inputs(program, defines)
    before = {n: a.copy() if isinstance(a, np.ndarray) else a for n, a in arrays.items()}
    start = time.perf_counter()
    compiled: CompiledKernel = compile_program(program, chosen.target)
    made = compiled.run_on(chosen, list(arrays.values()))
    seconds = time.perf_counter() - start
    inputs = [before[p.hint] for p in program.params if p.hint not in written(program)]
    arrays |= dict(zip((v.hint for v in returned(program)), _as_tuple(made), strict=False))
    out.say(f"{name} on {chosen.name}, because {chosen.why}: {seconds:.2f} s with compilation")
    for remark in compiled.remarks if chosen.name != "interpreter" else ():
        out.remark(remark)
    outputs = [*written(program), *(v.hint for v in returned(program))]
    if source.reference is not None:
        expected, against = _as_tuple(source.reference(*inputs)), "the file's reference"
        _compare(name, arrays, outputs, expected, program, against)
    elif chosen.name == "interpreter":
        against = ""
        out.say(
            f"  {name}: bounds, conflicts and uninitialised memory checked as it ran; "
            "no reference to compare with"
        )
    else:
        against = "the interpreter"
        made = run_program(program, before, registry=compiled.registry)
        expected = (*(before[o] for o in written(program)), *made)
        _compare(name, arrays, outputs, expected, program, against)
    return {
        "kernel": name,
        "device": chosen.name,
        "why": chosen.why,
        "seconds": seconds,
        "outputs": outputs,
        "agrees_with": against,
    }


def written(program: Program) -> list[str]:
    """Names of the tensors that the program writes, in order."""
    touched = [
        e.memory for op in walk(program.body) for e in op.effects() if e.access is Access.WRITE
    ]
    return [p.hint for p in program.params if p in touched]


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _compare(
    kernel: str,
    arrays: dict[str, Any],
    outputs: list[str],
    expected: tuple[Any, ...],
    program: Program,
    what: str,
) -> None:
    if len(expected) != len(outputs):
        raise WrongResult(
            "TLC0762",
            f"the reference gives {len(expected)} results, {kernel} writes {len(outputs)}",
        )
    types = {v.hint: v.type for v in (*program.params, *returned(program))}
    for name, exact in zip(outputs, expected, strict=True):
        type_ = types[name]
        assert isinstance(type_, MemoryType)
        found, wanted = (_elements(np.asarray(x), type_.dtype) for x in (arrays[name], exact))
        exact64 = wanted.astype(np.float64)
        allowed = _allowed(exact64, arrays, type_.dtype)
        assert_close(found, exact64, allowed, type_.dtype, f"{kernel}'s {name}")
        output().say(f"  {name}: {found.size} elements agree with {what}")


def _elements(array: np.ndarray, dtype: DType) -> np.ndarray:
    return unpack_pairs(array, dtype) if dtype in PAIRS else array


def _allowed(exact: np.ndarray, arrays: dict[str, Any], dtype: DType) -> np.ndarray:
    """A rounding of the result, and of floats k roundings of f32 sums: k the longest extent of any
    argument, the sums as large as the largest result.
    """
    if not dtype.is_float:
        return np.zeros_like(exact)
    given = [a for a in arrays.values() if isinstance(a, np.ndarray)]
    k = max((max(a.shape) for a in given if a.ndim), default=1)
    sums = any(a.dtype.kind not in "iub" and a.size for a in given)
    largest = float(np.nanmax(np.abs(exact), initial=0.0)) if sums else 0.0
    rounding = EPSILON[dtype.name] * np.abs(exact)
    return np.asarray(rounding + k * EPSILON["f32"] * largest + 2.0**-24)
