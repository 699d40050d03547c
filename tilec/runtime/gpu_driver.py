"""The vendor's driver as the runtime uses it: load code, find functions, launch, ask.

CUDA and HIP have the same calls under two spellings, so there is one class, and `cuda.py` and
`hip.py` hold the names and the numbers. Everything here is ctypes on the driver's own library;
cupy, where it is loaded, loads the modules, so that its reference counts and contexts are the ones
that rule."""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..backends.manifest import LaunchSpec
from ..errors import ExecutionError, NoDevice, TargetUnsupported

_CAPTURE_IMPLICIT = 906  # CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, hipErrorStreamCaptureImplicit
DEFAULT_SHARED_BYTES = 48 * 1024  # what a kernel may ask for without saying so first


def remedies(kind: str = "cuda") -> str:
    """What can be done where no device of a kind is: the hint of such errors."""
    target, extra = ("hip:gfx942", "rocm7") if kind == "hip" else ("cuda:sm_90a", "cuda13")
    return (
        'run it without a GPU: pass NumPy arrays, or `with tilec.device("interpreter")`; '
        f"or only compile it: `tilec build --target {target} FILE.py`; "
        f"or install the vendor's driver and cupy: pip install 'tilec[{extra}]'"
    )


class LoadedModule(Protocol):
    """Machine code on one device. It is unloaded when the object goes."""

    def function(self, symbol: str) -> int:
        """The handle of the kernel called `symbol`. Raises ExecutionError where there is none."""


Binding = Callable[[int, Any], Callable[[], int]]
"""Makes a launch of a stream and a ctypes array of the parameters' addresses: called, it launches and
returns the driver's status."""


class GpuDriver(Protocol):
    """What a launch needs of a driver."""

    kind: str
    count: int
    """How many devices there are. With several, launches look after the current one."""

    def encode_tiled(self, *arguments: object) -> int:
        """cuTensorMapEncodeTiled, with ctypes values; returns its status."""

    def load(self, code: bytes, device: int) -> LoadedModule:
        """`code` on a device."""

    def allow_shared(self, function: int, size: int, device: int) -> None:
        """Lets a function of a device be launched with that many bytes of dynamic shared memory."""

    def multiprocessors(self, device: int) -> int:
        """How many multiprocessors a device has."""

    def max_shared_bytes(self, device: int) -> int:
        """Most shared memory that a block may have on a device."""

    def resident_clusters(
        self, function: int, threads: int, shared_bytes: int, cluster: int, device: int
    ) -> int:
        """How many clusters of so many blocks of a function a device runs at the same time: a
        cluster's multiprocessors are neighbours, so that some may be left over."""

    def resident_blocks(self, function: int, threads: int, shared_bytes: int, device: int) -> int:
        """How many blocks of a function a device runs at the same time."""

    def binding(self, function: int, grid: tuple[int, int, int], spec: LaunchSpec) -> Binding:
        """How a function is launched on a grid."""

    def capability(self, device: int) -> tuple[int, int]:
        """The compute capability (9, 0)."""

    def device_name(self, device: int) -> str:
        """The vendor's name of a device."""

    def version(self) -> int:
        """The driver's version as its vendor counts: 13010 is CUDA 13.1."""

    def is_capturing(self, stream: int) -> bool:
        """Whether launches on the stream are being recorded into a graph."""

    def wait_stream(self, stream: int, producer: int) -> None:
        """Makes `stream` wait for all that is on `producer` now, without stopping the host."""

    def enter(self, device: int) -> object:
        """Makes a device the current one of this thread; returns what `leave` takes."""

    def leave(self, previous: object) -> None:
        """Makes the earlier device current again."""

    def is_context_error(self, status: int) -> bool:
        """Whether a launch failed because the thread has another device, or none, as its current
        one."""

    def failure(self, status: int, doing: str) -> ExecutionError:
        """The error for a status."""


@dataclass(frozen=True)
class DriverNames:
    """A vendor's spelling: the libraries to try, its functions by role, its numbers."""

    kind: str
    libraries: tuple[str, ...]
    functions: Mapping[str, str]
    multiprocessors: int
    max_shared: int
    capability: tuple[int, int]
    shared_attribute: int
    context_errors: tuple[int, ...]
    assertion: int  # the status after a failed assertion of a kernel; -1: there is none
    event_flags: int  # an event without timing


class CtypesDriver(ABC):
    """A vendor's driver library, called through ctypes."""

    def __init__(self, names: DriverNames, library: str = "") -> None:
        """Opens and initialises the library. Raises NoDevice where there is none or it has no
        device."""
        self.kind = names.kind
        self._names = names
        self._library = _open(names, (library,) if library else names.libraries)
        self._functions: dict[str, Any] = {}
        self._multiprocessors: dict[int, int] = {}
        status = self._call("init", ctypes.c_uint(0))
        count = ctypes.c_int()
        status = status or self._call("count", ctypes.byref(count))
        if status or count.value == 0:
            reason = self._describe(status) if status else "it has none"
            raise NoDevice(
                "TLC0901",
                f"the {names.kind} driver offers no device: {reason}",
                hint=remedies(names.kind),
            )
        self.count = count.value

    def load(self, code: bytes, device: int) -> LoadedModule:
        previous = self.enter(device)
        try:
            cupy = sys.modules.get("cupy")
            if cupy is not None:
                return _CupyModule(self, cupy, code, device)
            return DriverModule(self, code, device)
        finally:
            self.leave(previous)

    def allow_shared(self, function: int, size: int, device: int) -> None:
        attribute = self._names.shared_attribute
        if size <= DEFAULT_SHARED_BYTES or attribute < 0:
            return
        previous = self.enter(device)
        try:
            values = (ctypes.c_void_p(function), ctypes.c_int(attribute), ctypes.c_int(size))
            self.check(
                self._call("set_attribute", *values), f"asking for {size} bytes of shared memory"
            )
        finally:
            self.leave(previous)

    def encode_tiled(self, *arguments: object) -> int:
        raise TargetUnsupported("TLC0905", f"{self.kind} has no tensor maps")

    def resident_clusters(
        self, function: int, threads: int, shared_bytes: int, cluster: int, device: int
    ) -> int:
        raise TargetUnsupported("TLC0905", f"{self.kind} has no clusters")

    def resident_blocks(self, function: int, threads: int, shared_bytes: int, device: int) -> int:
        count = ctypes.c_int()
        asked = (ctypes.c_void_p(function), ctypes.c_int(threads), ctypes.c_size_t(shared_bytes))
        previous = self.enter(device)
        try:
            status = self._call("resident_blocks", ctypes.byref(count), *asked)
        finally:
            self.leave(previous)
        self.check(status, f"asking how many blocks a multiprocessor of {self.kind}:{device} runs")
        return count.value * self.multiprocessors(device)

    def binding(self, function: int, grid: tuple[int, int, int], spec: LaunchSpec) -> Binding:
        extents = (*grid, *spec.block_extents, spec.shared_bytes)
        head = (ctypes.c_void_p(function), *(ctypes.c_uint(extent) for extent in extents))
        # What makes all blocks run at the same time, or fails, takes no `extra`.
        start = self._plain("launch_together" if spec.cooperative else "launch")
        rest = () if spec.cooperative else (None,)
        return lambda stream, params: partial(start, *head, ctypes.c_void_p(stream), params, *rest)

    def multiprocessors(self, device: int) -> int:
        if device not in self._multiprocessors:
            self._multiprocessors[device] = self._attribute(self._names.multiprocessors, device)
        return self._multiprocessors[device]

    def max_shared_bytes(self, device: int) -> int:
        return self._attribute(self._names.max_shared, device)

    def capability(self, device: int) -> tuple[int, int]:
        major, minor = self._names.capability
        return self._attribute(major, device), self._attribute(minor, device)

    def device_name(self, device: int) -> str:
        text = ctypes.create_string_buffer(256)
        status = self._call("device_name", text, ctypes.c_int(256), ctypes.c_int(device))
        self.check(status, f"asking for the name of {self.kind}:{device}")
        return text.value.decode(errors="replace")

    def version(self) -> int:
        number = ctypes.c_int()
        self.check(self._call("version", ctypes.byref(number)), "asking for the version")
        return number.value

    def is_capturing(self, stream: int) -> bool:
        state = ctypes.c_int()
        status = self._call("is_capturing", ctypes.c_void_p(stream), ctypes.byref(state))
        # The default stream cannot be asked while another is being captured: that counts.
        return status == _CAPTURE_IMPLICIT or (status == 0 and state.value != 0)

    def wait_stream(self, stream: int, producer: int) -> None:
        event = ctypes.c_void_p()
        flags = ctypes.c_uint(self._names.event_flags)
        self.check(self._call("event_create", ctypes.byref(event), flags), "creating an event")
        try:
            self.check(
                self._call("event_record", event, ctypes.c_void_p(producer)), "recording an event"
            )
            waited = self._call("stream_wait", ctypes.c_void_p(stream), event, ctypes.c_uint(0))
            self.check(waited, "waiting for the stream of an argument")
        finally:
            self._call("event_destroy", event)

    @abstractmethod
    def enter(self, device: int) -> object: ...

    @abstractmethod
    def leave(self, previous: object) -> None: ...

    def is_context_error(self, status: int) -> bool:
        return status in self._names.context_errors

    def failure(self, status: int, doing: str) -> ExecutionError:
        hint = ""
        if status == self._names.assertion:
            hint = "a T.device_assert failed: its place is on the standard error stream"
        text = f"{self.kind}: {self._describe(status)} when {doing}"
        return ExecutionError("TLC0902", text, hint=hint)

    def check(self, status: int, doing: str) -> None:
        """Raises ExecutionError for a status other than success."""
        if status:
            raise self.failure(status, doing)

    @abstractmethod
    def _attribute(self, number: int, device: int) -> int: ...

    @abstractmethod
    def _describe(self, status: int) -> str: ...

    def _call(self, role: str, *arguments: Any) -> int:
        function = self._functions.get(role)
        if function is None:
            function = self._functions[role] = self._plain(role)
        return int(function(*arguments))

    def _plain(self, role: str) -> Any:
        """The C function of a role. No argument types are declared: every call passes ctypes
        values, which is twice as fast as having ctypes convert them."""
        function = getattr(self._library, self._names.functions[role])
        function.restype = ctypes.c_int
        return function


class DriverModule:
    """A module loaded by the driver itself."""

    def __init__(self, driver: CtypesDriver, code: bytes, device: int) -> None:
        self._driver = driver
        self._device = device
        self._handle = ctypes.c_void_p()
        image = ctypes.create_string_buffer(code, len(code))
        status = driver._call("load", ctypes.byref(self._handle), image)
        driver.check(status, f"loading {len(code)} bytes of machine code on {driver.kind}:{device}")

    def function(self, symbol: str) -> int:
        found = ctypes.c_void_p()
        status = self._driver._call(
            "get_function", ctypes.byref(found), self._handle, ctypes.c_char_p(symbol.encode())
        )  # fmt: skip
        self._driver.check(status, f"looking for the kernel {symbol}")
        return int(found.value or 0)

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        # At the end of the process ctypes or the driver may be gone before this object is.
        if handle and not sys.is_finalizing():
            with suppress(ExecutionError):
                previous = self._driver.enter(self._device)
                self._driver._call("unload", handle)
                self._driver.leave(previous)


class _CupyModule:
    """A module loaded by cupy, which counts references to it."""

    def __init__(self, driver: CtypesDriver, cupy: Any, code: bytes, device: int) -> None:
        self._driver = driver
        self._cupy = cupy
        self._functions: dict[str, Any] = {}
        with cupy.cuda.Device(device):
            self._module = cupy.cuda.function.Module()
            try:
                self._module.load(code)
            except cupy.cuda.driver.CUDADriverError as problem:
                doing = f"loading {len(code)} bytes of machine code on {driver.kind}:{device}"
                raise ExecutionError(
                    "TLC0902", f"{driver.kind}: {problem} when {doing}"
                ) from problem

    def function(self, symbol: str) -> int:
        if symbol not in self._functions:
            try:
                self._functions[symbol] = self._module.get_function(symbol)
            except self._cupy.cuda.driver.CUDADriverError as problem:
                text = f"{self._driver.kind}: {problem} when looking for the kernel {symbol}"
                raise ExecutionError("TLC0902", text) from problem
        return int(self._functions[symbol].ptr)


def _open(names: DriverNames, libraries: tuple[str, ...]) -> ctypes.CDLL:
    problems: list[str] = []
    for library in libraries:
        try:
            return ctypes.CDLL(library)
        except OSError as problem:
            problems.append(str(problem))
    raise NoDevice(
        "TLC0901", f"no {names.kind} driver: {'; '.join(problems)}", hint=remedies(names.kind)
    )
