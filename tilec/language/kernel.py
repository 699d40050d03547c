"""The handle that `tilec.kernel` gives: parameters, specialisation, tracing, and the way to run."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import FrameType, FunctionType
from typing import Any

import numpy as np

from .. import config
from ..errors import ArgumentError, LanguageError, Loc, TilecError
from ..ir.core import Program
from ..ir.dtypes import PAIRS
from ..locks import Lock
from .build import build_program, probe_dims
from .macro import defining_scope, need_function
from .parameters import Parameter, read_parameters
from .staging import Binding, Parsed, Staged, as_they_are, frontend, installed
from .tensors import ConstDim, TensorSpec
from .trace import close_matches, refuse, tracing

MOST_PROGRAMS = 1024  # of one kernel

RESERVED = ("stream", "target", "device", "check")
"""Keywords of a call that no parameter may be called."""

UNLIKE = object()
"""What a `Kernel.repeat` returns where a call is unlike those that it is for."""


@dataclass(frozen=True)
class Specialisation:
    """What a program is made for: compile-time parameters, and the values of T.const."""

    constants: Mapping[str, Any] = field(default_factory=dict)
    const_dims: Mapping[str, int] = field(default_factory=dict)


class Kernel:
    """A function that describes a program for the GPU. Calling it compiles and runs it.

    What it says is read at decoration (parameters) and traced once for each combination of its
    compile-time parameters.
    """

    def __init__(self, function: FunctionType, scope: Mapping[str, Any]) -> None:
        _need_frontend()
        self.function = function
        self.name = function.__name__
        self.heuristic: Callable[..., Mapping[str, Any]] | None = None
        self.tuning: Any = None  # what tilec.autotune says
        self._scope = scope
        self._parsed: Parsed = frontend().parse(function, scope)
        self.parameters: tuple[Parameter, ...] = read_parameters(function, self._parsed)
        for parameter in self.parameters:
            if parameter.name in RESERVED:
                raise LanguageError(
                    "TLC0114",
                    f"a parameter of {self.name} is called {parameter.name!r}",
                    loc=parameter.loc,
                    hint="calls use that name for themselves: " + ", ".join(RESERVED),
                )
        self.staged: Staged | None = None
        self.lock = Lock()  # held while what follows changes
        self._programs: dict[object, Program] = {}
        self._heads: dict[object, Mapping[str, TensorSpec]] = {}
        self.traced_for: list[Any] = []  # compile-time parameters of its programs that may change
        self.bindings: tuple[Binding, ...] = ()  # what its programs rely on
        self.remembered: Any = None  # what the driver knows of earlier calls
        self.repeat: Callable[..., Any] | None = None  # its short way for calls like those
        functools.update_wrapper(self, function)
        self.signature = inspect.Signature(
            [
                inspect.Parameter(p.name, p.kind_of_argument, default=p.default)
                for p in self.parameters
            ]
        )

    @property
    def loc(self) -> Loc:
        """Where its name stands."""
        return self._parsed.loc

    def __reduce__(self) -> str:
        return self.function.__qualname__  # pickled and copied as the function that it replaces

    def __repr__(self) -> str:
        return f"<tilec kernel {self.function.__qualname__}>"

    # Specialisation -----------------------------------------------------------------------------

    def specialise(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], target: object = None
    ) -> tuple[list[Any], dict[str, Any]]:
        """The run-time arguments in order, and every compile-time parameter by name.

        A compile-time parameter that the call does not give comes from the heuristic, else from its
        default.

        Raises:
            ArgumentError: an argument too many, too few or unknown.
        """
        given = self._bind(args, kwargs)
        constants: dict[str, Any] = {}
        runtime: list[Any] = []
        chosen: Mapping[str, Any] = {}
        if self.heuristic is not None:
            chosen = self._ask_heuristic(given, target)
        for p in self.parameters:
            if p.kind != "constant":
                runtime.append(given[p.name])
            elif p.name in given:
                constants[p.name] = given[p.name]
            elif p.name in chosen:
                constants[p.name] = chosen[p.name]
            elif p.has_default:
                constants[p.name] = p.default
            else:
                raise ArgumentError(
                    "TLC0301",
                    f"{self.name}: the compile-time parameter {p.name} is not given",
                    hint=f"pass {p.name}=..., or give it a default",
                )
        return runtime, constants

    def runtime_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The run-time arguments of a call, in order. Raises ArgumentError as `specialise`."""
        given = self._bind(args, kwargs)
        return [given[p.name] for p in self.parameters if p.kind != "constant"]

    def constants_with(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The compile-time parameters that `given` names, and the defaults of others."""
        constants = [p for p in self.parameters if p.kind == "constant"]
        return {p.name: given.get(p.name, p.default) for p in constants}

    def _bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        try:
            given = self.signature.bind_partial(*args, **kwargs).arguments
        except TypeError as error:
            names = [p.name for p in self.parameters]
            unknown = next((name for name in kwargs if name not in names), None)
            hint = close_matches(unknown, names) if unknown is not None else ""
            raise ArgumentError("TLC0301", f"{self.name}: {error}", hint=hint) from error
        missing = [p.name for p in self.parameters if p.kind != "constant" and p.name not in given]
        if missing:
            hint = "self is a parameter as any other: pass the object too" * ("self" in given)
            raise ArgumentError(
                "TLC0301", f"{self.name}: not given: {', '.join(missing)}", hint=hint
            )
        return dict(given)

    def _ask_heuristic(self, given: Mapping[str, Any], target: object) -> Mapping[str, Any]:
        assert self.heuristic is not None
        shapes = {
            p.name: tuple(int(n) for n in given[p.name].shape)
            for p in self.parameters
            if p.kind == "tensor" and hasattr(given[p.name], "shape")
        }
        chosen = self.ask(self.heuristic, "the heuristic", target, shapes)
        return self.check_choice(chosen, "the heuristic")

    def ask(self, choose: Callable[..., Any], who: str, *about: Any) -> Any:
        """What a function of the program's own chooses. Raises ArgumentError where it raises."""
        try:
            return choose(*about)
        except TilecError:
            raise
        except Exception as error:
            raise ArgumentError(
                "TLC0302",
                f"{who} of {self.name}: {type(error).__name__}: {error}",
                hint="it is called with the target and the shapes of the tensors by name",
            ) from error

    def check_choice(self, chosen: Any, who: str) -> Mapping[str, Any]:
        """What `who` chose of the compile-time parameters. Raises ArgumentError where it names another,
        or is no dict.
        """
        if not isinstance(chosen, Mapping):
            raise ArgumentError(
                "TLC0302",
                f"{who} of {self.name} gives {chosen!r}, expected compile-time parameters by name",
                hint='give a dict: {"block_M": 128}; an empty one leaves all as they are',
            )
        known = [p.name for p in self.parameters if p.kind == "constant"]
        for name in chosen:
            if name not in known:
                raise ArgumentError(
                    "TLC0302",
                    f"{who} of {self.name} gives {name!r}, which is no compile-time parameter",
                    hint=close_matches(str(name), known),
                )
        return chosen

    def tensor_specs(self, constants: Mapping[str, Any]) -> dict[str, TensorSpec]:
        """The annotation of each tensor by name, those of the body included.

        Dimensions of T.const are ConstDim objects, whose values `const_dims` takes from shapes.
        """
        key = _key(self.name, constants)
        with self.lock:
            self.refresh()
            known = self._heads.get(key)
            if known is not None:
                return dict(known)
            found = {p.name: p.annotation for p in self.parameters if p.kind == "tensor"}
            specs = {n: spec for n, spec in found.items() if isinstance(spec, TensorSpec)}
            if self._parsed.in_body:
                head = frontend().stage_head(self.function, self._scope)
                specs |= probe_dims(self, head, constants)
            if self._programs:  # until one is made nothing tells when specs are out of date
                self._heads[key] = specs
            return dict(specs)

    @property
    def has_const_dims(self) -> bool:
        """Whether a tensor may have a dimension of T.const (those annotated in the body may)."""
        found = [p.annotation for p in self.parameters if p.kind == "tensor"]
        return any(
            spec is None or any(type(d) is ConstDim for d in getattr(spec, "shape", ()))
            for spec in found
        )

    def const_dims(
        self, constants: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, int]:
        """The values of T.const, from the shapes of the tensors by name.

        Raises:
            ArgumentError: two tensors give one dimension different values.
        """
        found: dict[str, tuple[int, str]] = {}
        for name, spec in self.tensor_specs(constants).items():
            shape = list(shapes.get(name, ()))
            if spec.dtype in PAIRS and shape:
                shape[-1] *= 2
            for dim, extent in zip(spec.shape, shape, strict=False):
                if type(dim) is not ConstDim:
                    continue
                value, first = found.setdefault(dim.name, (int(extent), name))
                if value != int(extent):
                    raise ArgumentError(
                        "TLC0303",
                        f"{self.name}: {dim.name} is {value} in {first} and {extent} in {name}",
                        hint="one name is one extent: pass arrays that agree, or name it otherwise",
                    )
        return {name: value for name, (value, _) in found.items()}

    # Tracing ------------------------------------------------------------------------------------

    def trace(
        self, constants: Mapping[str, Any], const_dims: Mapping[str, int] | None = None
    ) -> Program:
        """The program for these compile-time parameters; traced once for each combination.

        Raises:
            LanguageError: the kernel says what has no meaning; at its place.
        """
        dims = dict(const_dims or {})
        guarded = "bounds" in config.current().check  # T.if_then_else asks
        key = _key(self.name, {**constants, "": (guarded, *sorted(dims.items()))})
        with self.lock:
            self.refresh()
            program = self._programs.get(key)
            if program is None:
                if len(self._programs) >= MOST_PROGRAMS:
                    self._forget()
                if self.staged is None:
                    self.staged = frontend().stage(self.function, self._scope)
                program = build_program(self, self.staged, constants, dims)
                self.traced_for += [v for v in constants.values() if type(v) not in _PLAIN]
                self.bindings = frontend().bindings(self)
                self._programs[key] = program  # now that it is seen when it is out of date
            return program

    def refresh(self) -> None:
        """Forgets all programs where what their code reads from outside has changed since."""
        bindings = self.bindings
        if as_they_are(bindings) is bindings:
            return
        with self.lock:
            now = as_they_are(self.bindings)
            if now is self.bindings:  # another thread was here
                return
            if now is None:
                self._forget()
            else:
                self.bindings, self.repeat = now, None

    def _forget(self) -> None:
        self.forget_calls()  # before what tells when they are out of date
        self._programs.clear()
        self._heads.clear()
        self.traced_for.clear()
        self.bindings = ()

    def forget_calls(self) -> None:
        """Has the next call find out by itself what it takes."""
        with self.lock:
            self.remembered = self.repeat = None

    def lower_to_ir(self, specialisation: Specialisation | None = None) -> Program:
        """The program of the frontend, for a specialisation; by default for the defaults."""
        asked = specialisation or Specialisation()
        constants = {p.name: p.default for p in self.parameters if p.kind == "constant"}
        constants |= asked.constants
        missing = [n for n, value in constants.items() if value is inspect.Parameter.empty]
        if missing:
            raise ArgumentError(
                "TLC0301",
                f"{self.name}: not given: {', '.join(missing)}",
                hint="pass values by name, or give the parameters defaults",
            )
        return self.trace(constants, asked.const_dims)

    # Running ------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs on the arguments' device; see the driver for stream, target, device and check."""
        repeat = self.repeat
        if repeat is not None and not kwargs:
            result = repeat(args)
            if result is not UNLIKE:
                return result
        if tracing() is not None:
            raise refuse(
                "TLC0102",
                f"the kernel {self.name} is called in a kernel",
                hint="make what they share a T.macro, or write both launches in one kernel",
            )
        return _driver().call(self, args, kwargs)

    def compile(self, *examples: Any, target: Any = None, **constants: Any) -> Any:
        """A CompiledKernel for arguments like `examples` (arrays, or tilec.spec; none: for any), which are
        checked as those of a call are.

        Args:
            target: as "cuda:sm_90a"; where it is None, that of the device.
            constants: compile-time parameters by name.

        Raises:
            ArgumentError: examples or parameters that do not fit.
            MissingTool: there is no compiler for the target here.
            TilecError: the program is refused, at its line.
        """
        return _driver().compile(self, examples, target, constants)

    def lower(self, *examples: Any, target: Any = None, **constants: Any) -> Any:
        """As `compile`, without a compiler: the source text and all that led to it."""
        return _driver().lower(self, examples, target, constants)


@functools.cache
def _driver() -> Any:
    from ..runtime import driver

    return driver


def _need_frontend() -> None:
    """The driver brings the Python frontend, where nothing else has."""
    if not installed():
        _driver()


_PLAIN = (int, bool, str, type(None))
"""Types whose values are equal only where they are the same."""


def freeze(name: str, value: Any, within: tuple[Any, ...] = ()) -> object:
    """A hashable stand-in for the value of the compile-time parameter `name`: numbers with their
    type, lists, dicts and objects that may change by content. `within` is what `value` is a part of,
    which it may lead back to. Raises ArgumentError for what has none."""
    if type(value) in _PLAIN:
        return (type(value), value)
    for depth, whole in enumerate(within):
        if whole is value:
            return (type(value), depth)
    if isinstance(value, list | tuple):
        return (type(value), *(freeze(name, part, (*within, value)) for part in value))
    if isinstance(value, dict):
        return (dict, *((key, freeze(name, v, (*within, value))) for key, v in value.items()))
    if isinstance(value, float | complex | np.inexact):
        return (type(value), repr(value))  # 0.0 equals -0.0, and is not the same
    own = _content(value)
    try:
        hash(value)
    except TypeError as error:
        array = hasattr(value, "dtype")
        if own is not None and not array:
            return (type(value), freeze(name, own, (*within, value)))
        raise ArgumentError(
            "TLC0301",
            f"the compile-time parameter {name} cannot be a {type(value).__name__}",
            hint='what is an array has an annotation: A: T.Tensor(("M", "N"), "float16")'
            if array
            else "pass numbers, strings, tuples, lists, dicts, functions or objects with attributes",
        ) from error
    changeable = getattr(type(value), "__hash__", None) is vars(object)["__hash__"]
    if own and changeable and not callable(value):
        return (type(value), value, freeze(name, own, (*within, value)))
    return (type(value), value)


def _content(value: Any) -> dict[str, Any] | None:
    """The attributes of an object by name, where it has any that can be listed."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: getattr(value, part.name, None) for part in fields(value)}
    own = getattr(value, "__dict__", None)
    return dict(own) if isinstance(own, dict) else None


def _key(name: str, constants: Mapping[str, Any]) -> object:
    frozen = [(key, freeze(f"{key} of {name}", value)) for key, value in constants.items()]
    return tuple(sorted(frozen, key=lambda item: item[0]))


def kernel(function: Callable[..., Any] | None = None) -> Any:
    """Decorates a function that describes a program; gives a Kernel, which is called with arrays.

    A parameter annotated with T.Tensor, T.StridedTensor, T.Buffer or a dtype is given when the kernel
    runs; any other is compile-time. For each combination of those the body is executed once: what it
    does with values of the kernel becomes the program, `if` and loops on them too.

    Raises:
        LanguageError: no function, no source, a refused parameter name, a wrong annotation.
    """
    frame = sys._getframe(1)
    if function is None:
        return lambda f: _kernel(f, frame)
    return _kernel(function, frame)


def _kernel(function: object, frame: FrameType) -> Kernel:
    checked = need_function("tilec.kernel", function)
    return Kernel(checked, defining_scope(checked, frame))


prim_func = kernel


def compile(kernel: Kernel, *examples: Any, target: Any = None, **constants: Any) -> Any:
    """`kernel.compile(*examples, target=target, **constants)`: see there.

    Raises:
        LanguageError: `kernel` is not what tilec.kernel decorates.
    """
    if not isinstance(kernel, Kernel):
        raise refuse(
            "TLC0113", f"tilec.compile of {kernel!r}", hint="it takes what tilec.kernel decorates"
        )
    return kernel.compile(*examples, target=target, **constants)
