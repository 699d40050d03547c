"""The machine code of a program on each device that runs it: loaded when first needed, once."""

from __future__ import annotations

from collections.abc import Callable

from ..backends.manifest import Manifest, Variant
from ..errors import ExecutionError, OutOfResources
from ..locks import Lock
from .binary import Binary
from .gpu_driver import GpuDriver, LoadedModule

Binaries = Binary | Callable[[Variant], Binary]
"""One binary with the kernels of every variant, or a function that gives a variant's (and may
compile)."""


class ModuleTable:
    """Kernel functions by variant and device. Safe to use from threads."""

    def __init__(self, binaries: Binaries, manifest: Manifest, driver: GpuDriver) -> None:
        self._binaries = binaries
        self._program = manifest.program
        self._driver = driver
        self._modules: dict[tuple[str, int], LoadedModule] = {}
        self._functions: dict[tuple[str, int, str, int], int] = {}
        self._lock = Lock()

    def function(self, variant: Variant, symbol: str, shared: int, device: int, stream: int) -> int:
        """The handle of a kernel that may be launched with `shared` bytes of dynamic shared memory.
        Raises OutOfResources where the device has less, ExecutionError where `stream` is capturing
        and the code is not loaded yet."""
        key = (variant.source, device, symbol, shared)
        with self._lock:
            if key not in self._functions:
                module = self._module(variant, device, stream)
                most = self._driver.max_shared_bytes(device)
                if shared > most:
                    raise OutOfResources(
                        "TLC0904",
                        f"{self._program}: {symbol} takes {shared} bytes of shared memory, "
                        f"{self._driver.kind}:{device} has {most}",
                        hint="use smaller tiles or fewer stages",
                    )
                handle = module.function(symbol)
                self._driver.allow_shared(handle, shared, device)
                self._functions[key] = handle
            return self._functions[key]

    def _module(self, variant: Variant, device: int, stream: int) -> LoadedModule:
        whole = isinstance(self._binaries, Binary)
        key = ("" if whole else variant.source, device)
        if key not in self._modules:
            refuse_capture(self._driver, stream, self._program)
            binary = (
                self._binaries if isinstance(self._binaries, Binary) else self._binaries(variant)
            )
            self._modules[key] = self._driver.load(binary.code, device)
        return self._modules[key]


def refuse_capture(driver: GpuDriver, stream: int, program: str) -> None:
    """Raises ExecutionError where `stream` is being captured into a graph: compiling and loading
    are not allowed there, and would break the capture."""
    if driver.is_capturing(stream):
        raise ExecutionError(
            "TLC0903",
            f"{program} is not loaded yet, and its stream is being captured: compiling "
            "and loading would break the graph",
            hint="before the capture, call it once with such arguments, or prepare it",
        )
