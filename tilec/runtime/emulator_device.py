"""The emulator as a Device: the emitted text, compiled for the CPU and checked as it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast, get_args

import numpy as np

from .. import config
from ..backends.launcher.limits import grid_of
from ..backends.manifest import ScalarParam
from ..errors import ArgumentError, TilecError
from ..target import Target, find_target
from . import emulator
from .allocate import allocate, as_result
from .arrays import ArrayView, is_array
from .check_args import bind_arguments, told_of
from .devices import DEFAULT_TARGET, register_device, stated_target
from .plan import made_views

MULTIPROCESSORS = 4  # of the emulated machine: few, so that persistent blocks take several tiles
MOST_PROCESSES = 16  # each takes some 20 ms to start


class EmulatorDevice:
    """Emulates a target. `mode`, `order` and `residents` are those of emulator.run; `kind` of
    build, by default what TILEC_EMULATOR says: emulator.build tells them apart."""

    def __init__(
        self,
        argument: str,
        why: str,
        mode: emulator.Mode = "late",
        order: emulator.Order = "forward",
        seed: int = 0,
        kind: emulator.Kind | None = None,
        residents: int = 0,
    ) -> None:
        self.why = why
        self.target: Target = (
            find_target(argument) if argument else stated_target() or find_target(DEFAULT_TARGET)
        )
        if mode not in get_args(emulator.Mode) or order not in emulator.ORDERS:
            raise TilecError("TLC0908", f"the emulator has no mode {mode!r} or no order {order!r}")
        self.mode, self.order, self.seed, self.residents = mode, order, seed, residents
        kind = kind or cast(emulator.Kind, config.current().emulator)
        if kind not in get_args(emulator.Kind):
            raise TilecError(
                "TLC0908",
                f"the emulator has no build {kind!r}",
                hint="TILEC_EMULATOR is checked or fast",
            )
        self.fast = kind == "fast"

    @property
    def name(self) -> str:
        return f"emulator:{self.target.name}"

    def run(self, compiled: Any, arrays: Sequence[object], stream: object = None) -> Any:
        """Emulates every launch of the variant that the arguments pick, in place on NumPy arrays;
        returns what the program returns."""
        bound = bind_arguments(compiled.interface, arrays)
        env = bound.environment(MULTIPROCESSORS)
        lowered = compiled.picked(lambda one: made_views(one, bound, env), env)
        variant = lowered.variant
        manifest = lowered.emitted.manifest(variant)
        views = made_views(manifest, bound, env)
        with told_of(manifest.program):
            for launch in variant.launches:
                grid_of(manifest, launch, env)
        counts = emulator.collecting()
        fast = self.fast and counts is None
        library = emulator.build(lowered.emulated_text, fast=fast, counts=counts is not None)
        values: dict[str, Any] = {**bound.symbols}
        for param, value in zip(manifest.inputs, arrays, strict=True):
            if not isinstance(param, ScalarParam) and not is_array(value):
                raise ArgumentError("TLC0806", f"{param.name} is not an array")
            values[param.name] = value
        made = {name: _unwritten(views[name]) for name in views if name not in bound.views}
        values |= made
        for launch in variant.launches:
            found = emulator.run(
                library,
                launch,
                values,
                self.mode,
                self.order,
                self.seed,
                multiprocessors=MULTIPROCESSORS,
                processes=_processors() if fast else 1,
                residents=self.residents,
                counts=counts is not None,
            )
            if counts is not None:
                counts.merge(found)
        return as_result([made[name] for name in manifest.outputs])


def _processors() -> int:
    """How many processes this one may keep busy."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def _unwritten(view: ArrayView) -> np.ndarray[Any, Any]:
    """An array for an output or a workspace, of bytes that nobody takes for a result: NaN, or -1."""
    array: np.ndarray[Any, Any] = allocate("numpy", view.device, view.shape, view.dtype, None)
    array.reshape(-1).view(np.uint8).fill(0xFF)
    return array


register_device("emulator", EmulatorDevice)
