"""The CUDA driver: libcuda by ctypes. Numbers are those of cuda.h (CUDA 12 and 13)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from ..backends.manifest import LaunchSpec
from ..locks import cached_property
from .gpu_driver import Binding, CtypesDriver, DriverModule, DriverNames

NAMES = DriverNames(
    kind="cuda",
    libraries=("libcuda.so.1", "nvcuda.dll"),
    functions={
        "init": "cuInit",
        "count": "cuDeviceGetCount",
        "load": "cuModuleLoadData",
        "unload": "cuModuleUnload",
        "get_function": "cuModuleGetFunction",
        "set_attribute": "cuFuncSetAttribute",
        "launch": "cuLaunchKernel",
        "launch_together": "cuLaunchCooperativeKernel",
        "launch_early": "cuLaunchKernelEx",
        "resident_blocks": "cuOccupancyMaxActiveBlocksPerMultiprocessor",
        "is_capturing": "cuStreamIsCapturing",
        "event_create": "cuEventCreate",
        "event_record": "cuEventRecord",
        "event_destroy": "cuEventDestroy_v2",
        "stream_wait": "cuStreamWaitEvent",
        "device": "cuDeviceGet",
        "attribute": "cuDeviceGetAttribute",
        "retain": "cuDevicePrimaryCtxRetain",
        "get_context": "cuCtxGetCurrent",
        "set_context": "cuCtxSetCurrent",
        "version": "cuDriverGetVersion",
        "device_name": "cuDeviceGetName",
        "error_name": "cuGetErrorName",
        "error_text": "cuGetErrorString",
        "encode_tiled": "cuTensorMapEncodeTiled",
        "resident_clusters": "cuOccupancyMaxActiveClusters",
    },
    multiprocessors=16,
    max_shared=97,  # MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    capability=(75, 76),
    shared_attribute=8,  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    context_errors=(201, 400),  # INVALID_CONTEXT, INVALID_HANDLE
    assertion=710,  # CUDA_ERROR_ASSERT
    event_flags=2,  # CU_EVENT_DISABLE_TIMING
)


_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
_GRAPHS_OF_EARLY = 12030  # CUDA 12.3
_EARLY = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


_NOTHING = b"""\
.version 7.8
.target sm_90
.address_size 64
.visible .entry nothing() { ret; }
\0"""
"""A kernel that is asked about, not launched."""


class _LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute, with the value of a cluster's extents; a flag is the first of them."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("pad", ctypes.c_char * 4),
        ("extents", ctypes.c_uint * 3),
        ("rest", ctypes.c_char * 52),
    )


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    )


class CudaDriver(CtypesDriver):
    """libcuda. Contexts are the primary ones, which cupy, torch and JAX share."""

    def __init__(self, library: str = "") -> None:
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._clusters: dict[tuple[int, int], int] = {}
        self._nothing: dict[int, DriverModule] = {}
        super().__init__(NAMES, library)

    def enter(self, device: int) -> object:
        previous = self._current()
        wanted = self._context(device)
        if previous.value != wanted.value:
            self.check(self._call("set_context", wanted), f"choosing cuda:{device}")
        # A thread without a context keeps the one it got: launches need one.
        return previous if previous.value else wanted

    def leave(self, previous: object) -> None:
        assert isinstance(previous, ctypes.c_void_p)
        self.check(self._call("set_context", previous), "going back to the device before")

    def resident_clusters(
        self, function: int, threads: int, shared_bytes: int, cluster: int, device: int
    ) -> int:
        attribute = _LaunchAttribute(_CLUSTER_DIMENSION, b"", (cluster, 1, 1))
        config = _LaunchConfig(
            (cluster, 1, 1), (threads, 1, 1), shared_bytes, None, ctypes.pointer(attribute), 1
        )
        count = ctypes.c_int()
        previous = self.enter(device)
        try:
            found, asked = ctypes.byref(count), ctypes.byref(config)
            status = self._call("resident_clusters", found, ctypes.c_void_p(function), asked)
        finally:
            self.leave(previous)
        self.check(status, f"asking how many clusters of {cluster} blocks cuda:{device} runs")
        return count.value

    def clusters_at_once(self, blocks: int, device: int) -> int:
        """How many clusters of so many blocks a device runs at the same time, if each block takes all
        of a multiprocessor's shared memory. Asked once."""
        key = (blocks, device)
        if key not in self._clusters:
            function, shared = self._kernel(device), self.max_shared_bytes(device)
            self._clusters[key] = self.resident_clusters(function, 32, shared, blocks, device)
        return self._clusters[key]

    def _kernel(self, device: int) -> int:
        """The kernel that is asked about, which may have all shared memory; loaded once."""
        if device not in self._nothing:
            previous = self.enter(device)
            try:
                module = self._nothing[device] = DriverModule(self, _NOTHING, device)
            finally:
                self.leave(previous)
            self.allow_shared(module.function("nothing"), self.max_shared_bytes(device), device)
        return self._nothing[device].function("nothing")

    def binding(self, function: int, grid: tuple[int, int, int], spec: LaunchSpec) -> Binding:
        if not spec.early or spec.cooperative or not self._launches_early:
            return super().binding(function, grid, spec)
        start, handle = self._plain("launch_early"), ctypes.c_void_p(function)
        early = _LaunchAttribute(_EARLY, b"", (1, 0, 0))

        def bind(stream: int, params: Any) -> Callable[[], int]:
            config = _LaunchConfig(
                grid, spec.block_extents, spec.shared_bytes, stream, ctypes.pointer(early), 1
            )
            return partial(start, ctypes.byref(config), handle, params, None)

        return bind

    @cached_property
    def _launches_early(self) -> bool:
        """Whether launches may begin early: where graphs can capture such launches."""
        return self.version() >= _GRAPHS_OF_EARLY

    def encode_tiled(self, *arguments: object) -> int:
        """cuTensorMapEncodeTiled, with ctypes values; returns its status. It has to do with no device,
        but wants some context: a thread that has not used a GPU yet gets one."""
        status = self._call("encode_tiled", *arguments)
        if status and not self._current().value:
            self.enter(0)
            status = self._call("encode_tiled", *arguments)
        return status

    def _current(self) -> ctypes.c_void_p:
        context = ctypes.c_void_p()
        self.check(self._call("get_context", ctypes.byref(context)), "asking for the context")
        return context

    def _context(self, device: int) -> ctypes.c_void_p:
        if device not in self._contexts:
            context = ctypes.c_void_p()
            status = self._call(
                "retain", ctypes.byref(context), ctypes.c_int(self._ordinal(device))
            )
            self.check(status, f"opening cuda:{device}")
            self._contexts[device] = context
        return self._contexts[device]

    def _ordinal(self, device: int) -> int:
        handle = ctypes.c_int()
        self.check(
            self._call("device", ctypes.byref(handle), ctypes.c_int(device)),
            f"opening cuda:{device}",
        )
        return handle.value

    def _attribute(self, number: int, device: int) -> int:
        value = ctypes.c_int()
        ordinal = ctypes.c_int(self._ordinal(device))
        status = self._call("attribute", ctypes.byref(value), ctypes.c_int(number), ordinal)
        self.check(status, f"asking about cuda:{device}")
        return value.value

    def _describe(self, status: int) -> str:
        parts: list[str] = []
        for role in ("error_name", "error_text"):
            text = ctypes.c_char_p()
            if self._call(role, ctypes.c_int(status), ctypes.byref(text)) == 0 and text.value:
                parts.append(text.value.decode(errors="replace"))
        return ": ".join(parts) or f"error {status}"


@cache
def cuda_driver() -> CudaDriver:
    """The driver of this process. Raises NoDevice where there is no driver or no GPU."""
    return CudaDriver()


@dataclass(frozen=True)
class ResidentClusters:
    """What a Target of a device asks it; one that was pickled asks the driver where it is unpickled."""

    device: int

    def __call__(self, blocks: int) -> int:
        """How many clusters of so many blocks the device runs at once."""
        return cuda_driver().clusters_at_once(blocks, self.device)
