"""The emulator as a Device: the emitted text, compiled for the CPU and checked as it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from ..backends.manifest import ScalarParam
from ..errors import ArgumentError, TilecError
from ..target import Target, find_target
from . import emulator
from .arrays import is_array
from .check_args import bind_arguments, pick_variant
from .devices import DEFAULT_TARGET, register_device, stated_target

MULTIPROCESSORS = 4  # of the emulated machine: few, so that persistent blocks take several tiles


class EmulatorDevice:
    """Emulates a target. `mode` and `order` are those of emulator.run."""

    def __init__(
        self,
        argument: str,
        why: str,
        mode: emulator.Mode = "late",
        order: emulator.Order = "forward",
        seed: int = 0,
    ) -> None:
        self.why = why
        self.target: Target = (
            find_target(argument) if argument else stated_target() or find_target(DEFAULT_TARGET)
        )
        if mode not in get_args(emulator.Mode) or order not in emulator.ORDERS:
            raise TilecError("TLC0908", f"the emulator has no mode {mode!r} or no order {order!r}")
        self.mode, self.order, self.seed = mode, order, seed

    @property
    def name(self) -> str:
        return f"emulator:{self.target.name}"

    def run(self, compiled: Any, arrays: Sequence[object], stream: object = None) -> Any:
        """Emulates every launch of the variant that the arguments pick, in place on NumPy arrays."""
        manifest = compiled.manifest
        bound = bind_arguments(manifest, arrays)
        variant = pick_variant(manifest, bound.views, bound.environment(MULTIPROCESSORS))
        lowered = next(v for v in compiled.variants if v.file_name == variant.source)
        library = emulator.build(lowered.emulated_text)
        values: dict[str, Any] = {**bound.symbols}
        for param, value in zip(manifest.inputs, arrays, strict=True):
            if not isinstance(param, ScalarParam) and not is_array(value):
                raise ArgumentError("TLC0806", f"{param.name} is not an array")
            values[param.name] = value
        for launch in variant.launches:
            emulator.run(
                library,
                launch,
                values,
                self.mode,
                self.order,
                self.seed,
                multiprocessors=MULTIPROCESSORS,
            )
        return None


register_device("emulator", EmulatorDevice)
