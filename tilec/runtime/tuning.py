"""The search behind `tilec.autotune`: candidates compiled, checked against each other, and timed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..backends.manifest import TensorParam
from ..errors import ArgumentError, TilecError
from ..ir.print import print_program
from ..language.kernel import Kernel
from ..locks import Lock
from .arrays import is_array, view_array
from .cache import cache_key
from .compiled import CompiledKernel
from .devices import Device
from .gpu_device import GpuDevice, runs_in_place
from .timing import Clock, clock_of, measure
from .user_cache import user_cache

ROUNDS = 10
TOLERANCE = 1e-2
"""Largest norm of a difference between candidates' results, as a share of the results' norm."""

Compile = Callable[[Mapping[str, Any]], CompiledKernel]
Report = Callable[["Trial"], None]


@dataclass(frozen=True)
class Trial:
    """What a candidate came to: microseconds, or why it is none."""

    config: Mapping[str, Any]
    us: float = 0.0
    problem: str = ""

    def to_data(self) -> dict[str, object]:
        """The trial as JSON has it."""
        found: dict[str, object] = {"config": dict(self.config)}
        return found | ({"problem": self.problem} if self.problem else {"us": self.us})


def tuned(
    kernel: Kernel, args: Sequence[Any], given: Mapping[str, Any], device: Device, compile: Compile
) -> Mapping[str, Any]:
    """The compile-time parameters of a call: found before, or searched for now."""
    assert kernel.tuning is not None
    runtime = kernel.runtime_arguments(args, given)
    names = [p.name for p in kernel.parameters if p.kind != "constant"]
    arrays = [(n, x) for n, x in zip(names, runtime, strict=True) if is_array(x)]
    shapes = {name: tuple(map(int, array.shape)) for name, array in arrays}
    candidates: list[dict[str, Any]] = kernel.tuning.candidates(kernel, device.target, shapes)
    if not runs_in_place(device, runtime):
        return candidates[0]
    key = _key(kernel, candidates, given, shapes, device, compile)
    known = _known(key, candidates)
    if known is not None:
        return known
    with _searching:
        known = _known(key, candidates)  # perhaps since another thread searched for it
        if known is not None:
            return known
        trials = search(candidates, runtime, device, compile, clock_of(runtime))
        best = fastest(kernel.name, trials)
        _found[key] = json.dumps(best.config, default=str)
        disk = user_cache()
        if disk is not None:
            about = {"name": f"{kernel.name} tuned", "compiler": _place(device)}
            disk.put(key, {"config": _found[key], **about}, b"")
        return best.config


_searching = Lock()
"""Threads search in turn: candidates that ran at the same time would tell each other's times."""

_found: dict[str, str] = {}
"""What this process has found, by the key of the search: the configuration as JSON."""


def _known(key: str, candidates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The candidate that was found before, here or by an earlier process."""
    disk = user_cache()
    if key not in _found and disk is not None:
        entry = disk.get(key)
        if entry is not None:
            _found[key] = str(entry.metadata.get("config"))
    kept = _found.get(key)
    return next((c for c in candidates if json.dumps(c, default=str) == kept), None)


def fastest(name: str, trials: Sequence[Trial]) -> Trial:
    """The trial that took the least. Raises ArgumentError, with every reason, where none ran."""
    ran = [trial for trial in trials if not trial.problem]
    if ran:
        return min(ran, key=lambda trial: trial.us)
    reasons = "; ".join(f"{dict(t.config)}: {t.problem.splitlines()[0]}" for t in trials)
    raise ArgumentError("TLC0305", f"no configuration of {name} runs: {reasons}")


def search(
    candidates: Sequence[Mapping[str, Any]],
    runtime: Sequence[Any],
    device: Device,
    compile: Compile,
    clock: Clock,
    report: Report = lambda trial: None,
) -> list[Trial]:
    """A trial of every candidate, on arguments that end as they were.

    Machine code is made by several threads at once. Every candidate starts from the same arguments,
    what is only written poisoned; one whose results differ from those of the first is none.
    """
    made = [_attempt(partial(compile, config)) for config in candidates]
    if isinstance(device, GpuDevice):
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            binaries = pool.map(
                lambda m: m if isinstance(m, str) else _attempt(partial(getattr, m, "binary")), made
            )
            made = [b if isinstance(b, str) else m for m, b in zip(made, binaries, strict=True)]
    trials, expected, start = [], None, None
    for config, one in zip(candidates, made, strict=True):
        if isinstance(one, str):
            trial = Trial(config, problem=one)
        else:
            start = start or _Start(one, runtime)
            trial, results = _try(config, one, runtime, device, clock, start, expected)
            expected = results if expected is None else expected
        trials.append(trial)
        report(trial)
    if start is not None:
        start.restore()
    return trials


def _try(
    config: Mapping[str, Any],
    compiled: CompiledKernel,
    runtime: Sequence[Any],
    device: Device,
    clock: Clock,
    start: _Start,
    expected: list[np.ndarray[Any, Any]] | None,
) -> tuple[Trial, list[np.ndarray[Any, Any]] | None]:
    def run() -> Any:
        return compiled.run_on(device, runtime)

    start.restore(poisoned=True)
    made = _attempt(run)
    if isinstance(made, str):
        return Trial(config, problem=made), None
    outputs = made if isinstance(made, tuple) else () if made is None else (made,)
    results = [_on_host(x) for x in (*start.written, *outputs)]
    if expected is not None and not _agree(results, expected):
        return Trial(config, problem="its results differ from the first candidate's"), None
    us = measure(run, clock, ROUNDS).median
    return Trial(config, us), results


class _Start:
    """The arrays that a kernel writes, as they were before the first candidate."""

    def __init__(self, compiled: CompiledKernel, runtime: Sequence[Any]) -> None:
        inputs = zip(compiled.interface.inputs, runtime, strict=True)
        written = [
            (param.access, array)
            for param, array in inputs
            if isinstance(param, TensorParam) and "w" in param.access
        ]
        self.written = [array for _, array in written]
        self._copies = [
            (array, array.clone() if hasattr(array, "clone") else array.copy(), access == "w")
            for access, array in written
        ]

    def restore(self, poisoned: bool = False) -> None:
        """Writes what was there; with `poisoned` other values where the kernel only writes."""
        for array, copy, only_written in self._copies:
            if poisoned and only_written:
                copy = _POISON.get(view_array(array).dtype[0], 85)
            array[...] = copy


_POISON = {"f": float("nan"), "b": float("nan")}  # by the first letter of the dtype


def _attempt(what: Callable[[], Any]) -> Any:
    """The result, or a text that says why there is none."""
    try:
        return what()
    except TilecError as error:
        return f"[{error.code}] {error.message}"


def _on_host(array: Any) -> np.ndarray[Any, Any]:
    """A copy as NumPy has it; what it has no dtype for as float32."""
    if hasattr(array, "detach"):
        plain = array.float() if "float" in str(array.dtype) else array
        return np.array(plain.cpu().numpy())
    return np.array(array.get() if hasattr(array, "get") else array)


def _agree(found: Sequence[np.ndarray[Any, Any]], expected: Sequence[np.ndarray[Any, Any]]) -> bool:
    for x, y in zip(found, expected, strict=True):
        if x.dtype.kind in "iub":
            if not np.array_equal(x, y):
                return False
            continue
        x, y = x.astype(np.float64), y.astype(np.float64)
        finite = np.isfinite(y)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
            return False
        if not np.linalg.norm((x - y)[finite]) <= TOLERANCE * np.linalg.norm(y[finite]):
            return False
    return True


def _key(
    kernel: Kernel,
    candidates: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    device: Device,
    compile: Compile,
) -> str:
    """What the choice depends on: the program, the candidates, values of the key, the device."""
    assert kernel.tuning is not None
    program = print_program(compile(candidates[0]).program)
    constants = {n: v for n, v in given.items() if not is_array(v)}
    parts = [json.dumps(x, default=str, sort_keys=True) for x in (list(candidates), constants)]
    values = _values(kernel, candidates[0], shapes)
    return cache_key("tuned", program, *parts, json.dumps(values), _place(device))


def _values(
    kernel: Kernel, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> list[object]:
    assert kernel.tuning is not None
    if not kernel.tuning.key:
        return [*shapes.items()]
    extents: dict[str, int] = {}
    for name, spec in kernel.tensor_specs(kernel.constants_with(config)).items():
        for dim, extent in zip(spec.shape, shapes.get(name, ()), strict=False):
            extents.setdefault(str(getattr(dim, "name", dim)), extent)
    missing = [name for name in kernel.tuning.key if name not in extents]
    if missing:
        raise ArgumentError(
            "TLC0305",
            f"the key of {kernel.name}'s autotune names {missing[0]!r}, which is no symbol of it",
            hint=f"symbols are {', '.join(extents)}",
        )
    return [extents[name] for name in kernel.tuning.key]


def _place(device: Device) -> str:
    if isinstance(device, GpuDevice):
        return device.driver.device_name(device.index)
    return device.name
