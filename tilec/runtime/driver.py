"""From a call of a kernel to a result: which device, which specialisation, which compiled program.

The only module of the runtime that the language knows (through one lazy import in
language/kernel.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from .. import config
from ..errors import ArgumentError
from ..ir.core import Program
from ..language.kernel import Kernel
from ..language.spec import ArraySpec
from ..parser import python as _frontend  # installs itself as the language's frontend
from ..target import Target, find_target
from .compiled import CompiledKernel
from .devices import Device, device, select_device, stated_target

__all__ = ["call", "compile", "compile_program", "device", "lower"]

_FRONTEND = _frontend
_compiled: dict[tuple[int, str], tuple[Program, CompiledKernel]] = {}
_MAX_COMPILED = 4096


def call(kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs a kernel. Beside its own parameters a call takes `stream`, `device` (a name), `target`
    (a name) and `check` (what TILEC_CHECK says, for this call).
    """
    given = dict(kwargs)
    stream, where = given.pop("stream", None), given.pop("device", None)
    target, check = given.pop("target", None), given.pop("check", None)
    with ExitStack() as stack:
        if where is not None:
            stack.enter_context(device(str(where)))
        if check is not None:
            stack.enter_context(config.scope(check=str(check)))
        chosen = select_device([*args, *given.values()])
        aim = find_target(target) if target is not None else chosen.target
        runtime, constants = kernel.specialise(args, given, aim)
        compiled = compile_program(_program(kernel, runtime, constants), aim)
        return compiled.run_on(chosen, runtime, stream)


def compile(
    kernel: Kernel, examples: Sequence[Any], target: Any, constants: Mapping[str, Any]
) -> CompiledKernel:
    """The kernel compiled to machine code for arguments like `examples` (arrays or tilec.spec;
    none: for any).

    Raises MissingTool where no compiler for the target is here.
    """
    compiled = lower(kernel, examples, target, constants)
    _ = compiled.binary
    return compiled


def lower(
    kernel: Kernel, examples: Sequence[Any], target: Any, constants: Mapping[str, Any]
) -> CompiledKernel:
    """The kernel lowered to text: needs neither compiler nor GPU."""
    aim = _target(target, examples)
    runtime, chosen = _specialise(kernel, examples, constants, aim)
    compiled = compile_program(_program(kernel, runtime, chosen), aim)
    _ = compiled.lowered
    return compiled


def compile_program(program: Program, target: Target) -> CompiledKernel:
    """The compiled form of a program for a target; the same object for the same program."""
    key = (id(program), target.name)
    found = _compiled.get(key)
    if found is None:
        if len(_compiled) >= _MAX_COMPILED:
            _compiled.clear()
        found = (
            program,
            CompiledKernel(program, target),
        )  # holding the program keeps its id its own
        _compiled[key] = found
    return found[1]


def _target(target: Any, examples: Sequence[Any]) -> Target:
    if target is not None:
        return find_target(target)
    stated = stated_target()
    if stated is not None:
        return stated
    arrays = [e for e in examples if not isinstance(e, ArraySpec)]
    chosen: Device = select_device(arrays)
    return chosen.target


def _specialise(
    kernel: Kernel, examples: Sequence[Any], constants: Mapping[str, Any], target: Target
) -> tuple[list[Any], dict[str, Any]]:
    """Examples as the run-time arguments; without any, compile-time parameters from the call and
    the defaults.
    """
    if examples:
        return kernel.specialise(examples, constants, target)
    known = {p.name: p for p in kernel.parameters if p.kind == "constant"}
    for name in constants:
        if name not in known:
            raise ArgumentError("TLC0301", f"{kernel.name} has no compile-time parameter {name!r}")
    missing = [n for n, p in known.items() if n not in constants and not p.has_default]
    if missing:
        raise ArgumentError(
            "TLC0301",
            f"{kernel.name}: not given: {', '.join(missing)}",
            hint="pass them, or examples of the arguments",
        )
    return [], {**{n: p.default for n, p in known.items() if p.has_default}, **constants}


def _program(kernel: Kernel, runtime: Sequence[Any], constants: Mapping[str, Any]) -> Program:
    names = [p.name for p in kernel.parameters if p.kind != "constant"]
    shapes = {
        name: tuple(int(n) for n in value.shape)
        for name, value in zip(names, runtime, strict=False)
        if hasattr(value, "shape") and hasattr(value, "dtype")
    }
    return kernel.trace(constants, kernel.const_dims(constants, shapes))
