"""hiprtc through ctypes: HIP text to an AMD code object. The counterpart of nvrtc.py.

UNEXERCISED ON HARDWARE: this has not yet run on a machine with ROCm. Its interface is the
documented one and is that of NVRTC; what is tested is that the library of HIP 5.2 compiles for gfx90a
through it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from functools import cache

from ..errors import CompilerFailed, MissingTool
from .binary import Binary
from .rtc import RtcLibrary, RtcNames

OPTIONS = ("-std=c++17", "-O3", "-Rpass-analysis=kernel-resource-usage")
_NAMES = RtcNames("hiprtc", "GetCodeSize", "GetCode")
_LIBRARIES = ("libhiprtc.so.7", "libhiprtc.so.6", "libhiprtc.so")


class HiprtcCompiler:
    """The Compiler that calls hiprtc in this process."""

    name = "hiprtc"
    backend = "hip"

    def __init__(self, library: RtcLibrary) -> None:
        self._library = library

    @classmethod
    def load(cls, path: str) -> HiprtcCompiler:
        """The hiprtc in the library at `path`. OSError, MissingTool as RtcLibrary raises them."""
        return cls(RtcLibrary(path, _NAMES))

    @property
    def version(self) -> str:
        """The library's version, as part of a cache key."""
        return self._library.version

    @property
    def where(self) -> str:
        """The file that was loaded."""
        return self._library.path

    def knows(self, arch: str) -> bool:
        """True: the library does not tell beforehand."""
        return True

    def compile(self, text: str, name: str, arch: str) -> Binary:
        """`text` compiled for `arch` ("gfx942"). Raises CompilerFailed with the log."""
        label = f"hiprtc {self.version}"
        options = (f"--offload-arch={arch}", *OPTIONS)
        code, log = self._library.compile(text, name, options, label)
        return Binary.from_log(code, log, label)


@cache
def find_hiprtc() -> HiprtcCompiler:
    """The hiprtc of this machine: $ROCM_PATH, /opt/rocm*, the loader's. MissingTool if there is
    none."""
    tried: list[str] = []
    for path in _candidates():
        try:
            return HiprtcCompiler.load(path)
        except (OSError, MissingTool, CompilerFailed) as problem:
            tried.append(
                f"{path}: {problem.message if isinstance(problem, MissingTool) else problem}"
            )
    raise MissingTool(
        "TLC0702",
        "hiprtc was not found" + "".join(f"\n    {line}" for line in tried),
        hint="install ROCm 6 or newer, or clang with the AMDGPU target to compile without it",
    )


def _candidates() -> Iterator[str]:
    roots = [os.environ[name] for name in ("ROCM_PATH", "HIP_PATH") if os.environ.get(name)]
    roots += ["/opt/rocm", *sorted(glob.glob("/opt/rocm-*"), reverse=True)]
    for root in roots:
        for library in _LIBRARIES:
            path = os.path.join(root, "lib", library)
            if os.path.exists(path):
                yield path
    yield from _LIBRARIES
