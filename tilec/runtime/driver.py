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
from ..ir.types import MemoryType
from ..language.kernel import UNLIKE, Kernel
from ..language.spec import ArraySpec
from ..parser import python as _frontend  # installs itself as the language's frontend
from ..passes.size_choices import for_sizes, sizes_matter
from ..target import Target, find_target
from .calls import Calls, Found, where
from .check_args import check_examples
from .compiled import CompiledKernel
from .devices import Device, device, select_device, stated_target
from .plugins import load_plugins

__all__ = ["call", "compile", "compile_program", "device", "lower"]

_FRONTEND = _frontend


def call(kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Runs a kernel. Beside its own parameters a call takes `stream`, `device` (a name), `target`
    (a name) and `check` (what TILEC_CHECK says, for this call).
    """
    try:
        return _call(kernel, args, kwargs)
    except ArgumentError as error:
        _place(error, kernel)
        raise


def _place(error: ArgumentError, kernel: Kernel) -> None:
    """An error stands at the kernel whose arguments do not fit."""
    if not error.loc.known:
        error.loc = kernel.loc


def _call(kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    kernel.refresh()
    calls: Calls = kernel.remembered or _remembered(kernel)
    here = where()
    taken = calls.take(kernel, args, kwargs) if here is not None else None
    if taken is None:
        return _long_way(kernel, args, kwargs)[0]
    memory, runtime, stream = taken
    plain = not kwargs and memory is calls.plain  # then the kernel itself has asked `repeat`
    if memory.repeat is not None and not plain:
        result = memory.repeat.call(runtime, stream)
        if result is not UNLIKE:
            return result
    key = memory.key(runtime, here)
    found = memory.found.get(key) if key is not None else None
    if found is not None:
        result = found.run(runtime, stream)
    else:
        result, found = _long_way(kernel, args, kwargs)
        if key is None:
            return result
        memory.keep(runtime, here, found)
    with kernel.lock:
        if kernel.remembered is calls:  # else the kernel says something else now
            memory.learn(kernel, found, runtime)
            if memory is calls.plain:
                kernel.repeat = memory.repeat.call if memory.repeat is not None else None
    return result


def _remembered(kernel: Kernel) -> Calls:
    with kernel.lock:
        calls: Calls = kernel.remembered or Calls(kernel)
        kernel.remembered = calls
        return calls


def _long_way(kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Found]:
    """The result of a call of which nothing is remembered, and what it came to."""
    load_plugins()
    given = dict(kwargs)
    stream = given.pop("stream", None)
    place = given.pop("device", None)
    target, check = given.pop("target", None), given.pop("check", None)
    with ExitStack() as stack:
        if place is not None:
            stack.enter_context(device(str(place)))
        if check is not None:
            stack.enter_context(config.scope(check=config.read_check(check, "check")))
        chosen = select_device([*args, *given.values()])
        aim = find_target(target) if target is not None else chosen.target
        if kernel.tuning is not None:
            given = {**_tuned(kernel, args, given, chosen, aim), **given}
        runtime, constants = kernel.specialise(args, given, aim)
        program = _program(kernel, runtime, constants)
        compiled = _compiled_for(program, runtime, aim)
        result = compiled.run_on(chosen, runtime, stream)
        return result, Found(chosen, compiled, runtime, by_shape=sizes_matter(program, aim))


def _tuned(
    kernel: Kernel, args: Sequence[Any], given: Mapping[str, Any], device: Device, target: Target
) -> Mapping[str, Any]:
    from .tuning import tuned  # only for kernels that are

    def compile_candidate(config: Mapping[str, Any]) -> CompiledKernel:
        runtime, constants = kernel.specialise(args, {**config, **given}, target)
        return _compiled_for(_program(kernel, runtime, constants), runtime, target)

    return tuned(kernel, args, given, device, compile_candidate)


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
    load_plugins()
    aim = _target(target, examples)
    try:
        runtime, chosen = _specialise(kernel, examples, constants, aim)
        compiled = _compiled_for(_program(kernel, runtime, chosen), runtime, aim)
        if examples:
            check_examples(compiled.interface, runtime)
    except ArgumentError as error:
        _place(error, kernel)
        raise
    _ = compiled.lowered
    return compiled


def _compiled_for(program: Program, arguments: Sequence[Any], target: Target) -> CompiledKernel:
    """The program with what its launches leave to the sizes of the arguments: right for any, and
    fast for these."""
    sizes: dict[str, int] = {}
    for param, value in zip(program.params, arguments, strict=False):
        if isinstance(param.type, MemoryType):
            names = zip(param.type.shape, getattr(value, "shape", ()), strict=False)
            sizes |= {dim: int(extent) for dim, extent in names if isinstance(dim, str)}
        elif isinstance(value, int):
            sizes[param.hint] = value
    return compile_program(for_sizes(program, sizes, target), target)


def compile_program(program: Program, target: Target) -> CompiledKernel:
    """The compiled form of a program for a target; the same object for the same program."""
    made: CompiledKernel | None = program.made.get(target.name)
    return made or program.made.setdefault(target.name, CompiledKernel(program, target))


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
