"""From a call of a kernel to a result: which device, which specialisation, which compiled program.

The only module of the runtime that the language knows (through one lazy import in
language/kernel.py).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import config
from ..errors import ArgumentError
from ..ir.core import Program
from ..language.kernel import UNLIKE, Kernel
from ..language.spec import ArraySpec
from ..parser import python as _frontend  # installs itself as the language's frontend
from ..target import Target, find_target
from .arrays import ADAPTERS, adapter_of, is_array
from .compiled import CompiledKernel
from .devices import Device, device, override, select_device, stated_target
from .gpu_device import runs_in_place
from .plugins import load_plugins
from .repeat import Repeat, repeat_of

__all__ = ["call", "compile", "compile_program", "device", "lower"]

_FRONTEND = _frontend
_compiled: dict[tuple[int, str], tuple[Program, CompiledKernel]] = {}
_MAX_COMPILED = 4096


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
    memory: _Memory = kernel.remembered or _memory(kernel)
    where = _where() if not kwargs or kwargs.keys() == _STREAM_ONLY else None
    stream = kwargs.get("stream") if kwargs else None
    if memory.repeat is not None and stream is not None and where is not None:
        result = memory.repeat.call(tuple(args), stream)
        if result is not UNLIKE:
            return result
    key = memory.key(args, where) if where is not None else None
    found = memory.found.get(key) if key is not None else None
    if found is not None:
        result = found.run(args, stream)
        _learn(kernel, memory, found, args)
        return result
    load_plugins()
    given = dict(kwargs)
    given.pop("stream", None)
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
        compiled = compile_program(_program(kernel, runtime, constants), aim)
        result = compiled.run_on(chosen, runtime, stream)
        if key is not None:
            found = memory.found[key] = _Found(chosen, compiled, args)
            _learn(kernel, memory, found, args)
        return result


def _tuned(
    kernel: Kernel, args: Sequence[Any], given: Mapping[str, Any], device: Device, target: Target
) -> Mapping[str, Any]:
    from .tuning import tuned  # only for kernels that are

    def compile_candidate(config: Mapping[str, Any]) -> CompiledKernel:
        runtime, constants = kernel.specialise(args, {**config, **given}, target)
        return compile_program(_program(kernel, runtime, constants), target)

    return tuned(kernel, args, given, device, compile_candidate)


def _learn(kernel: Kernel, memory: _Memory, found: _Found, args: Sequence[Any]) -> None:
    """The next call like this one takes the short way."""
    if found.on_gpu:
        loaded = found.compiled.loaded()
        memory.repeat = repeat_of(loaded, args, memory.repeat, kernel.bindings)
        kernel.repeat = memory.repeat.call if memory.repeat is not None else None


class _Found:
    """What a call came to. `run` makes the next one like it."""

    __slots__ = ("compiled", "on_gpu", "run")

    def __init__(self, device: Device, compiled: CompiledKernel, args: Sequence[Any]) -> None:
        self.compiled = compiled
        self.on_gpu = runs_in_place(device, args)
        self.run = compiled.launch if self.on_gpu else partial(compiled.run_on, device)


@dataclass(eq=False)
class _Memory:
    """What calls of one kernel came to, so that the next call like one of them is quick.

    Only calls whose arguments are exactly the run-time ones are remembered: by where the first
    array is, what the environment says and, where the program depends on them, the shapes.
    """

    runtime: int  # how many run-time parameters there are, all of them first; -1: not so
    by_shape: bool
    found: dict[Hashable, _Found] = field(default_factory=dict)
    repeat: Repeat | None = None  # the short way for calls like the latest of them on a GPU

    def key(self, args: Sequence[Any], where: Hashable) -> Hashable:
        """What the outcome of the call depends on; None for a call that is not remembered."""
        if len(args) != self.runtime:
            return None
        kind = type(args[0])
        adapter = ADAPTERS.get(kind)
        if adapter is None:
            if not is_array(args[0]):
                return None
            adapter = adapter_of(args[0])
        shapes = tuple(getattr(a, "shape", None) for a in args) if self.by_shape else None
        return (where, kind, adapter.place(args[0]), shapes)


_STREAM_ONLY = {"stream"}


def _where() -> Hashable:
    """What beside its arguments says where a call runs; None where that is too much to compare."""
    if config.scope_in_force() is not None:
        return None
    return (override(), config.variable(config.DEVICE), config.variable(config.TARGET))


def _memory(kernel: Kernel) -> _Memory:
    kinds = [p.kind != "constant" for p in kernel.parameters]
    runtime = sum(kinds)
    first = runtime if runtime and all(kinds[:runtime]) else -1
    kernel.remembered = _Memory(first, _chooses(kernel) or kernel.has_const_dims)
    return kernel.remembered  # type: ignore[no-any-return]


def _chooses(kernel: Kernel) -> bool:
    """Whether compile-time parameters may follow from shapes."""
    return kernel.heuristic is not None or kernel.tuning is not None


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
        compiled = compile_program(_program(kernel, runtime, chosen), aim)
    except ArgumentError as error:
        _place(error, kernel)
        raise
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
