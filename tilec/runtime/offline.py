"""Compilers that are programs: nvcc for CUDA, clang for HIP. The fall-back behind the Compiler
interface.

They need no GPU and no run-time library. Each call works in a private folder that is removed again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import MissingTool, TimedOut
from .binary import Binary
from .rtc import refused

TIMEOUT_SECONDS = 600.0
_CLANGS = tuple(f"clang-{version}" for version in range(25, 16, -1)) + ("clang", "amdclang")


@dataclass(frozen=True)
class OfflineCompiler:
    """A compiler program. `options` are the constant ones; `arch_option` is a format of the
    architecture."""

    name: str
    backend: str
    where: str
    version: str
    suffix: str
    arch_option: str
    options: tuple[str, ...]
    timeout: float = TIMEOUT_SECONDS

    def knows(self, arch: str) -> bool:
        """True: the program does not tell beforehand."""
        return True

    def compile(self, text: str, name: str, arch: str) -> Binary:
        """`text` compiled for `arch`. Raises CompilerFailed with the log, TimedOut."""
        label = f"{self.name} {self.version}"
        with tempfile.TemporaryDirectory(prefix="tilec-") as folder:
            source = Path(folder) / f"source{self.suffix}"
            result = Path(folder) / "result.bin"
            source.write_text(text, encoding="utf-8")
            command = (
                self.where, *self.options, self.arch_option.format(arch),
                "-o", str(result), str(source),
            )  # fmt: skip
            status, log = run_tool(command, folder, self.timeout)
            log = log.replace(str(source), name).replace(source.name, name)
            if status or not result.exists():
                raise refused(label, name, log)
            return Binary.from_log(result.read_bytes(), log, label)


def run_tool(command: Sequence[str], folder: str, timeout: float) -> tuple[int, str]:
    """Exit status and output of a compiler. Raises TimedOut when it takes longer than `timeout`
    s."""
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        raise TimedOut("TLC0704", f"{command[0]} took longer than {timeout:g} s") from late
    return done.returncode, done.stdout.decode(errors="replace")


@cache
def find_nvcc() -> OfflineCompiler:
    """nvcc, from PATH or /usr/local/cuda. MissingTool if there is none."""
    path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None:
        raise MissingTool(
            "TLC0702", "nvcc was not found", hint="pip install nvidia-cuda-nvrtc is enough"
        )
    version = _version_of(path, r"release ([\d.]+)")
    options = ("-cubin", "-std=c++17", "-Xptxas", "-v")
    return OfflineCompiler("nvcc", "cuda", path, version, ".cu", "-arch={}", options)


@cache
def find_clang() -> OfflineCompiler:
    """A clang that compiles for AMD GPUs, the newest in PATH. MissingTool if there is none."""
    for program in _CLANGS:
        path = shutil.which(program)
        if path is None:
            continue
        _, targets = run_tool((path, "--print-targets"), tempfile.gettempdir(), 30.0)
        if "amdgcn" not in targets:
            continue
        options = (
            "-x", "hip", "--offload-device-only", "--no-gpu-bundle-output", "-nogpulib",
            "-nogpuinc", "-fuse-cuid=none",
            "-O3", "-std=c++17", "-Rpass-analysis=kernel-resource-usage", "-c",
        )  # fmt: skip
        version = _version_of(path, r"clang version ([\d.]+)")
        return OfflineCompiler("clang", "hip", path, version, ".hip", "--offload-arch={}", options)
    raise MissingTool(
        "TLC0702",
        "no clang with the AMDGPU target was found",
        hint="apt-get install clang-19 lld-19",
    )


def _version_of(path: str, pattern: str) -> str:
    _, text = run_tool((path, "--version"), tempfile.gettempdir(), 30.0)
    found = re.search(pattern, text)
    return found[1] if found else "unknown"
