"""NVRTC through ctypes: CUDA text to a cubin, with no GPU, no driver, no toolkit and no cupy.

cupy's own entry points ask for a device, choose `sm_90` where the text needs `sm_90a`, and add
`-ftz=true`; so tilec calls the library itself and hands over a finished cubin.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.metadata
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..errors import CompilerFailed, MissingTool, TargetUnsupported
from .binary import Binary
from .rtc import RtcLibrary, RtcNames

OPTIONS = ("-std=c++17", "-default-device", "--ptxas-options=-v")
NO_CACHE = "--no-cache"
"""What NVRTC 13 finds in a cache of its own, on a machine with a driver, comes without the log that
tells of registers, spills and products that are done one by one; tilec keeps both together."""
_NAMES = RtcNames("nvrtc", "GetCUBINSize", "GetCUBIN")
_PTX_NAMES = RtcNames("nvrtc", "GetPTXSize", "GetPTX")
_WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")
_LIBRARY = re.compile(r"(libnvrtc\.so(\.\d+)*|nvrtc64_[\d_]+\.dll)$")
_BUILTINS = ("libnvrtc-builtins.so*", "nvrtc-builtins64_*.dll")


class NvrtcCompiler:
    """The Compiler that calls NVRTC in this process."""

    name = "nvrtc"
    backend = "cuda"

    def __init__(self, library: RtcLibrary) -> None:
        self._library = library
        self._archs = library.supported_archs()
        self._options: tuple[str, ...] = (*OPTIONS, NO_CACHE)

    @property
    def version(self) -> str:
        """The library's version, as part of a cache key."""
        return self._library.version

    @property
    def where(self) -> str:
        """The file that was loaded."""
        return self._library.path

    def knows(self, arch: str) -> bool:
        """Whether this version compiles for `arch`; true where it does not tell."""
        number = re.fullmatch(r"sm_(\d+)[af]?", arch)
        return number is not None and (self._archs is None or int(number[1]) in self._archs)

    def compile(self, text: str, name: str, arch: str) -> Binary:
        """`text` compiled for `arch` ("sm_90a"). Raises CompilerFailed with the log,
        TargetUnsupported for an architecture that this version does not know."""
        if not self.knows(arch):
            raise TargetUnsupported(
                "TLC0703",
                f"NVRTC {self.version} does not compile for {arch}",
                hint="install a newer one: pip install -U nvidia-cuda-nvrtc",
            )
        label = f"nvrtc {self.version}"
        try:
            code, log = self._cubin(text, name, arch, label)
        except CompilerFailed as failure:
            if NO_CACHE not in self._options or NO_CACHE not in failure.message:
                raise
            self._options = OPTIONS  # an older version, which has neither the option nor a cache
            code, log = self._cubin(text, name, arch, label)
        return Binary.from_log(code, log, label)

    def _cubin(self, text: str, name: str, arch: str, label: str) -> tuple[bytes, str]:
        options = (f"--gpu-architecture={arch}", *self._options)
        return self._library.compile(text, name, options, label)

    def assemble(self, text: str, name: str, arch: str) -> str:
        """`text` as PTX for `arch`. Raises CompilerFailed with the log."""
        options = (f"--gpu-architecture={arch.replace('sm_', 'compute_')}", *OPTIONS[:2])
        library = RtcLibrary(self._library.path, _PTX_NAMES)
        ptx, _ = library.compile(text, name, options, f"nvrtc {self.version}")
        return ptx.rstrip(b"\0").decode()


@cache
def find_nvrtc() -> NvrtcCompiler:
    """The NVRTC of this process: one that is loaded already (by cupy or torch), the wheel's, a
    toolkit's, the system's. Raises MissingTool with what was tried."""
    tried: list[str] = []
    for path in _candidates():
        try:
            preload_builtins(path)
            return NvrtcCompiler(RtcLibrary(path, _NAMES))
        except (OSError, MissingTool, CompilerFailed) as problem:
            tried.append(
                f"{path}: {problem.message if isinstance(problem, MissingTool) else problem}"
            )
    detail = "".join(f"\n    {line}" for line in tried) or " anywhere"
    raise MissingTool(
        "TLC0702",
        f"NVRTC was not found{detail}",
        hint="pip install nvidia-cuda-nvrtc, or install the CUDA toolkit",
    )


def preload_builtins(library: str) -> None:
    """Loads the builtins beside `library` by absolute path: NVRTC opens them by bare name, which
    the loader finds only once they are there."""
    for pattern in _BUILTINS:
        for path in sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(library)), pattern))):
            if ".alt." not in path:
                ctypes.CDLL(path, mode=getattr(ctypes, "RTLD_GLOBAL", 0))


def _candidates() -> Iterator[str]:
    seen: set[str] = set()
    for source in (_loaded, _from_wheels, _from_toolkits, _from_system):
        for path in source():
            if path not in seen:
                seen.add(path)
                yield path


def _loaded() -> Iterator[str]:
    """Libraries mapped into this process (Linux); elsewhere none is known."""
    try:
        maps = os.fsdecode(Path("/proc/self/maps").read_bytes())
    except OSError:
        return
    for line in maps.splitlines():
        path = line.partition("/")[2]
        if path and _LIBRARY.search(path):
            yield "/" + path


def _from_wheels() -> Iterator[str]:
    for wheel in _WHEELS:
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if _LIBRARY.search(file.name):
                yield str(file.locate())


def _from_toolkits() -> Iterator[str]:
    roots = [os.environ[name] for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    roots += ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), reverse=True)]
    for root in roots:
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "bin"):
            for pattern in ("libnvrtc.so*", "nvrtc64_*.dll"):
                found = sorted(
                    glob.glob(os.path.join(glob.escape(root), folder, pattern)), reverse=True
                )
                yield from (path for path in found if _LIBRARY.search(path))


def _from_system() -> Iterator[str]:
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")
