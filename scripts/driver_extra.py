"""Print the extra of tilec that fits this machine's GPU driver: cuda13, cuda12, rocm7, or nothing.

Runs before anything is installed, so it uses the standard library alone. What was found, or why
nothing was, goes to stderr.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path


def load(name: str) -> tuple[ctypes.CDLL | None, str]:
    """The shared library `name`, or None and the loader's reason."""
    try:
        return ctypes.CDLL(name), ""
    except OSError as error:
        return None, str(error)


def cuda_extra() -> tuple[str, str]:
    """(extra, reason) for an NVIDIA driver that can see at least one device."""
    driver, reason = load("libcuda.so.1")
    if driver is None:
        return "", f"no NVIDIA driver ({reason})"
    status = driver.cuInit(0)
    if status != 0:
        return "", f"the NVIDIA driver does not start (cuInit: error {status})"
    count, version = ctypes.c_int(0), ctypes.c_int(0)
    driver.cuDeviceGetCount(ctypes.byref(count))
    driver.cuDriverGetVersion(ctypes.byref(version))
    major = version.value // 1000
    if count.value == 0:
        return "", "the NVIDIA driver sees no device"
    if major < 12:
        return "", f"the NVIDIA driver is for CUDA {major}; tilec needs 12 or newer"
    # A CUDA 13 build runs on any later driver.
    return ("cuda12" if major == 12 else "cuda13"), f"{count.value} NVIDIA device(s), CUDA {major}"


def rocm_extra() -> tuple[str, str]:
    """(extra, reason) for an AMD driver with the ROCm 7 runtime that cupy's wheel links to."""
    if not Path("/dev/kfd").exists():
        return "", "no AMD GPU (/dev/kfd)"
    runtime, reason = load("libamdhip64.so.7")
    if runtime is None:
        return "", f"an AMD GPU without the ROCm 7 runtime ({reason})"
    return "rocm7", "an AMD GPU with ROCm 7"


def main() -> None:
    reasons = []
    for find in (cuda_extra, rocm_extra):
        extra, reason = find()
        if extra:
            print(reason, file=sys.stderr)
            print(extra)
            return
        reasons.append(reason)
    print(f"no GPU: {'; '.join(reasons)}", file=sys.stderr)


if __name__ == "__main__":
    main()
