"""The HIP runtime: libamdhip64 by ctypes. The counterpart of cuda.py; numbers are those of ROCm 6
and 7.

UNEXERCISED ON HARDWARE: this has not yet run on an AMD GPU. What is tested is that it makes the
documented calls of a library with that interface.
"""

from __future__ import annotations

import ctypes
from functools import cache

from .gpu_driver import CtypesDriver, DriverNames

NAMES = DriverNames(
    kind="hip",
    libraries=("libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so"),
    functions={
        "init": "hipInit",
        "count": "hipGetDeviceCount",
        "load": "hipModuleLoadData",
        "unload": "hipModuleUnload",
        "get_function": "hipModuleGetFunction",
        "launch": "hipModuleLaunchKernel",
        "launch_together": "hipModuleLaunchCooperativeKernel",
        "resident_blocks": "hipModuleOccupancyMaxActiveBlocksPerMultiprocessor",
        "is_capturing": "hipStreamIsCapturing",
        "event_create": "hipEventCreateWithFlags",
        "event_record": "hipEventRecord",
        "event_destroy": "hipEventDestroy",
        "stream_wait": "hipStreamWaitEvent",
        "attribute": "hipDeviceGetAttribute",
        "get_device": "hipGetDevice",
        "set_device": "hipSetDevice",
        "version": "hipDriverGetVersion",
        "device_name": "hipDeviceGetName",
        "error_name": "hipGetErrorName",
        "error_text": "hipGetErrorString",
    },
    multiprocessors=63,  # hipDeviceAttributeMultiprocessorCount
    max_shared=74,  # hipDeviceAttributeMaxSharedMemoryPerBlock
    capability=(23, 61),
    shared_attribute=-1,  # LDS needs no permission
    context_errors=(101, 201, 400),  # InvalidDevice, InvalidContext, InvalidHandle
    assertion=-1,
    event_flags=2,  # hipEventDisableTiming
)


class HipDriver(CtypesDriver):
    """libamdhip64."""

    def __init__(self, library: str = "") -> None:
        super().__init__(NAMES, library)

    def enter(self, device: int) -> object:
        previous = ctypes.c_int()
        self.check(self._call("get_device", ctypes.byref(previous)), "asking for the device")
        if previous.value != device:
            self.check(self._call("set_device", ctypes.c_int(device)), f"choosing hip:{device}")
        return previous.value

    def leave(self, previous: object) -> None:
        assert isinstance(previous, int)
        self.check(
            self._call("set_device", ctypes.c_int(previous)), "going back to the device before"
        )

    def _attribute(self, number: int, device: int) -> int:
        value = ctypes.c_int()
        status = self._call(
            "attribute", ctypes.byref(value), ctypes.c_int(number), ctypes.c_int(device)
        )
        self.check(status, f"asking about hip:{device}")
        return value.value

    def _describe(self, status: int) -> str:
        parts: list[str] = []
        for role in ("error_name", "error_text"):
            function = self._plain(role)
            function.restype = ctypes.c_char_p
            text = function(ctypes.c_int(status))
            if text:
                parts.append(text.decode(errors="replace"))
        return ": ".join(parts) or f"error {status}"


@cache
def hip_driver() -> HipDriver:
    """The driver of this process. Raises NoDevice where there is no driver or no GPU."""
    return HipDriver()
