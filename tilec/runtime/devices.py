"""Devices: what can run a compiled program here, and the choice of one.

The order of choice: `with tilec.device(name)`, TILEC_DEVICE, the arrays' own place (NumPy arrays go
to the interpreter), and without arrays a GPU if there is one. Every choice knows why it was made.

A device is named by its kind and, after a colon, what it is a device of: `interpreter`,
`emulator:cuda:sm_90a`, `cuda`, `cuda:1`, `hip`. Kinds register a factory here. Those that come with
tilec and cost an import are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from .. import config
from ..errors import NoDevice, TilecError
from ..target import TARGETS, Target, find_target
from .arrays import ArrayDevice, is_array, view_array
from .cuda import cuda_driver
from .gpu_driver import GpuDriver, remedies
from .hip import hip_driver
from .launch import Loaded

DEFAULT_TARGET = "cuda:sm_90a"  # for devices that can stand for any, when nothing says which


class Runnable(Protocol):
    """What a device is given to run. The interpreter and the emulator ask it for more."""

    def loaded(self) -> Loaded:
        """The program on this machine's driver for its target."""


class Device(Protocol):
    """Something that runs programs. `why` says, for messages, how it came to be chosen."""

    @property
    def name(self) -> str:
        """The name that selects it."""

    @property
    def why(self) -> str:
        """The reason of the choice, as a clause: `the arrays are on cuda:0`."""

    @property
    def target(self) -> Target:
        """What to compile for."""

    def run(self, compiled: Any, arrays: Sequence[object], stream: object = None) -> Any:
        """Runs a program on its arguments; returns what it makes: None, one array, or a tuple."""


DeviceFactory = Callable[[str, str], Device]
"""From what follows the kind in the name ("cuda:sm_90a", or "") and the reason, to a device."""

_factories: dict[str, DeviceFactory] = {}
# Modules that call register_device when they are imported.
_BUILT_IN = {
    "cuda": ".gpu_device",
    "hip": ".gpu_device",
    "interpreter": ".interpreter_device",
    "emulator": ".emulator_device",
}
_override: ContextVar[str | None] = ContextVar("tilec_device", default=None)

override: Callable[[], str | None] = _override.get
"""The name that the innermost `with device(...)` gives, if any."""


def register_device(kind: str, factory: DeviceFactory) -> None:
    """Makes devices called `kind` or `kind:...` available. Replaces an earlier factory of the
    kind."""
    _factories[kind] = factory


def device_kinds() -> tuple[str, ...]:
    """Every kind of device that can be named."""
    return tuple(sorted({*_BUILT_IN, *_factories}))


def open_device(name: str, why: str = "it was asked for") -> Device:
    """The device called `name`. Raises NoDevice where there is none here, TilecError for an unknown
    name, TargetUnsupported for an unknown target in it."""
    kind, _, rest = name.partition(":")
    if kind not in _factories and kind in _BUILT_IN:
        module = _BUILT_IN[kind]
        try:
            importlib.import_module(module, __package__)
        except ModuleNotFoundError as absent:
            if absent.name is None or not absent.name.endswith(module):
                raise
            raise NoDevice("TLC0901", f"this tilec has no {kind}", hint=remedies()) from absent
    factory = _factories.get(kind)
    if factory is None:
        kinds = ", ".join(device_kinds())
        raise TilecError("TLC0906", f"there is no device {name!r}", hint=f"devices are {kinds}")
    return factory(rest, why)


@contextmanager
def device(name: str) -> Iterator[None]:
    """Within the `with` block every call runs on the device called `name`. (Also `tilec.device`.)

    Args:
        name: "interpreter", "cuda", "hip", or "emulator:" and a target, as "emulator:cuda:sm_90a".

    Raises:
        TilecError: another name. A device that is not here is missed by the calls, as NoDevice.
    """
    kind = name.partition(":")[0]
    if kind not in _factories and kind not in _BUILT_IN:
        open_device(name)  # raises, with the list of names
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def select_device(arguments: Sequence[object]) -> Device:
    """The device for a call with `arguments`. Raises NoDevice with what else could be done."""
    forced = override()
    if forced is not None:
        return open_device(forced, f'`with tilec.device("{forced}")` says so')
    forced = config.current().device
    if forced:
        return open_device(forced, f"TILEC_DEVICE={forced} says so")
    for argument in arguments:
        if is_array(argument):
            return _device_of(view_array(argument).device)
    for kind in ("cuda", "hip"):
        try:
            return open_device(kind, "no array says otherwise and there is a GPU")
        except NoDevice:
            continue
    return open_device("interpreter", "no array says otherwise and there is no GPU")


def _device_of(place: ArrayDevice) -> Device:
    if place.kind == "cpu":
        return open_device("interpreter", "the arrays are in the host's memory")
    if place.kind not in ("cuda", "hip"):
        raise NoDevice("TLC0901", f"tilec runs nothing on {place}", hint=remedies())
    return open_device(str(place), f"the arrays are on {place}")


def stated_target() -> Target | None:
    """The target that TILEC_TARGET names, or None. Raises TargetUnsupported for an unknown name."""
    name = config.current().target
    return find_target(name) if name else None


def driver_of(kind: str) -> GpuDriver:
    """The driver of "cuda" or "hip" on this machine. Raises NoDevice with what else could be
    done."""
    return cuda_driver() if kind == "cuda" else hip_driver()


def target_for_capability(major: int, minor: int) -> Target:
    """The newest listed CUDA target that a GPU of that compute capability can run. Raises NoDevice
    where none is listed."""
    fitting = [target for target in TARGETS.values() if target.runs_on(major, minor)]
    if not fitting:
        known = ", ".join(name for name in sorted(TARGETS) if name.startswith("cuda"))
        raise NoDevice(
            "TLC0907",
            f"no listed target runs on a GPU of compute capability {major}.{minor}",
            hint=f"targets are {known}; set TILEC_TARGET to try one",
        )
    return max(fitting, key=lambda target: (target.capability or (0, 0), target.exact))
