"""What calls of a kernel came to, so that the next call like one of them is quick.

A call is taken apart by its form (how many arguments by position, which keywords) into run-time
arguments and compile-time parameters. Calls with the same parameters share a `Memory`; the parameters
compare as they do for the programs that are traced."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .. import config
from ..language.kernel import RESERVED, Kernel, freeze
from .arrays import adapter_if_array
from .compiled import CompiledKernel
from .devices import Device, override
from .gpu_device import runs_in_place
from .repeat import Repeat, repeat_of

MAX_KEPT = 512  # forms of calls, or combinations of parameters, of one kernel

STREAM = "stream"
UNKEPT = frozenset(RESERVED) - {STREAM}
"""Keywords whose calls are not remembered: they say where a call runs."""


class Found:
    """What a call came to. `run` makes the next one like it; `by_shape`, one of other shapes may be
    unlike it."""

    __slots__ = ("by_shape", "compiled", "on_gpu", "run")

    def __init__(
        self, device: Device, compiled: CompiledKernel, args: Sequence[Any], by_shape: bool
    ) -> None:
        self.by_shape = by_shape
        self.compiled = compiled
        self.on_gpu = runs_in_place(device, args)
        self.run = compiled.launch if self.on_gpu else partial(compiled.run_on, device)


@dataclass(eq=False)
class Memory:
    """What calls with the same compile-time parameters came to: by where the first array is, what
    the environment says and, where the program depends on them, the shapes."""

    by_shape: bool
    found: dict[Hashable, Found] = field(default_factory=dict)
    repeat: Repeat | None = None  # the short way for calls like the latest of them on a GPU

    def key(self, args: Sequence[Any], where: Hashable) -> Hashable:
        """What the outcome of a call with these run-time arguments depends on; None for a call that
        is not remembered."""
        adapter = adapter_if_array(args[0]) if args else None
        if adapter is None:
            return None
        shapes = tuple(getattr(a, "shape", None) for a in args) if self.by_shape else None
        return (where, type(args[0]), adapter.place(args[0]), shapes)

    def keep(self, args: Sequence[Any], where: Hashable, found: Found) -> None:
        """Remembers what a call came to."""
        self.by_shape |= found.by_shape
        key = self.key(args, where)
        if key is not None:
            _keep(self.found, key, found)

    def learn(self, kernel: Kernel, found: Found, args: Sequence[Any]) -> None:
        """The next call like this one takes the short way."""
        if found.on_gpu:
            self.repeat = repeat_of(found.compiled.loaded(), args, self.repeat, kernel.bindings)


@dataclass(frozen=True)
class Form:
    """Where in the arguments by position, followed by those by keyword, a call's are found: those
    of run time in order, compile-time parameters by name, and the stream."""

    runtime: tuple[int, ...]
    constants: tuple[tuple[str, int], ...]  # named as errors name them
    stream: int | None


class Calls:
    """The memories of one kernel. `plain` is that of calls with run-time arguments alone."""

    def __init__(self, kernel: Kernel) -> None:
        self._by_shape = (
            kernel.heuristic is not None or kernel.tuning is not None or kernel.has_const_dims
        )
        self._forms: dict[tuple[int, tuple[str, ...]], Form | None] = {}
        self._memories: dict[Hashable, Memory] = {}
        self.plain = Memory(self._by_shape)

    def take(
        self, kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Memory, tuple[Any, ...], Any] | None:
        """The memory of a call, its run-time arguments in order and its stream; None for a call
        that is not remembered. Raises ArgumentError for a compile-time parameter of which there can
        be no program."""
        kind = (len(args), tuple(kwargs))
        try:
            form = self._forms[kind]
        except KeyError:
            form = _keep(self._forms, kind, _form(kernel, *kind))
        if form is None:
            return None
        values = (*args, *kwargs.values())
        memory = self.plain
        if form.constants:
            key = tuple([(name, freeze(name, values[place])) for name, place in form.constants])
            found = self._memories.get(key)
            memory = found or _keep(self._memories, key, Memory(self._by_shape))
        runtime = tuple([values[place] for place in form.runtime])
        return memory, runtime, None if form.stream is None else values[form.stream]


def where() -> Hashable:
    """What beside its arguments says where a call runs; None where that is too much to compare."""
    if config.scope_in_force() is not None:
        return None
    return (override(), config.variable(config.DEVICE), config.variable(config.TARGET))


def _form(kernel: Kernel, count: int, keywords: tuple[str, ...]) -> Form | None:
    """The form of such calls; None for those that are wrong, or not remembered."""
    if not UNKEPT.isdisjoint(keywords):
        return None
    named = {name: count + at for at, name in enumerate(keywords)}
    stream = named.pop(STREAM, None)
    try:
        places = kernel.signature.bind_partial(*range(count), **named).arguments
    except TypeError:
        return None
    runtime = [p.name for p in kernel.parameters if p.kind != "constant"]
    if any(name not in places for name in runtime):
        return None
    constants = [p.name for p in kernel.parameters if p.kind == "constant" and p.name in places]
    return Form(
        tuple(places[name] for name in runtime),
        tuple((f"{name} of {kernel.name}", places[name]) for name in constants),
        stream,
    )


def _keep(table: dict[Any, Any], key: Hashable, value: Any) -> Any:
    if len(table) >= MAX_KEPT:
        table.clear()
    return table.setdefault(key, value)
