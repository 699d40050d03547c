"""Clang for AMD GPUs with no ROCm, in steps: text to assembly, which can be read, to a code object.

Behind the interface of compilers.Compiler. One is the clang of the machine (19 or newer, with lld);
the other the clang inside the PyPI package ziglang, whose driver cannot start its own linker, hence
the steps. Neither needs a header, a device library or a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import CompilerFailed, MissingTool
from .amd_isa import KernelIsa, read_isa
from .binary import Binary, Finding
from .offline import TIMEOUT_SECONDS, find_clang, run_tool
from .rtc import refused

_OLDEST = 19  # the first whose builtins the HIP prelude names
_OPTIONS = (
    "-x", "hip", "--offload-device-only", "-nogpulib", "-nogpuinc", "-O3", "-std=c++17",
    "-fuse-cuid=none",  # else a hash of the file's path is part of the code
    "-Rpass-analysis=kernel-resource-usage", "-S",
)  # fmt: skip


@dataclass(frozen=True)
class Assembled:
    """Text compiled as far as assembly: its text, clang's log, and what it says of each kernel."""

    assembly: str
    log: str
    kernels: tuple[KernelIsa, ...]

    def kernel(self, name: str) -> KernelIsa:
        """The kernel called `name`. KeyError if there is none."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise KeyError(name)


@dataclass(frozen=True)
class AmdClang:
    """A clang that compiles HIP text for AMD GPUs. `driver` and `linker` are the commands without
    arguments.
    """

    name: str
    where: str
    version: str
    driver: tuple[str, ...]
    linker: tuple[str, ...]
    backend: str = "hip"
    timeout: float = TIMEOUT_SECONDS

    def knows(self, arch: str) -> bool:
        """Whether it compiles for `arch`: gfx950 came with clang 20."""
        return _knows(self.driver, arch)

    def assemble(self, text: str, name: str, arch: str) -> Assembled:
        """`text` (called `name` in messages) as assembly for `arch` ("gfx942"). Raises
        CompilerFailed.
        """
        with tempfile.TemporaryDirectory(prefix="tilec-") as folder:
            return self._assemble(text, name, arch, Path(folder))

    def compile(self, text: str, name: str, arch: str) -> Binary:
        """`text` as a code object for `arch`. Raises CompilerFailed with the log."""
        with tempfile.TemporaryDirectory(prefix="tilec-") as folder:
            assembled = self._assemble(text, name, arch, Path(folder))
            target = ("-target", "amdgcn-amd-amdhsa", f"-mcpu={arch}")
            self._run(
                (*self.driver, *target, "-x", "assembler", "-c", "kernel.s", "-o", "kernel.o"),
                name,
                folder,
            )
            self._run(
                (*self.linker, "-shared", "--no-undefined", "kernel.o", "-o", "kernel.co"),
                name,
                folder,
            )
            code = (Path(folder) / "kernel.co").read_bytes()
        binary = Binary.from_log(code, assembled.log, f"{self.name} {self.version}")
        scalar = tuple(
            Finding("spill", kernel.name, f"{kernel.sgpr_spills} scalar registers spilled")
            for kernel in assembled.kernels
            if kernel.sgpr_spills
        )
        return Binary(code, binary.log, binary.resources, binary.findings + scalar, binary.compiler)

    def _assemble(self, text: str, name: str, arch: str, folder: Path) -> Assembled:
        (folder / "kernel.hip").write_text(text, encoding="utf-8")
        command = (
            *self.driver,
            *_OPTIONS,
            f"--offload-arch={arch}",
            "-o",
            "kernel.s",
            "kernel.hip",
        )
        log = self._run(command, name, str(folder)).replace("kernel.hip", name)
        assembly = (folder / "kernel.s").read_text(encoding="utf-8")
        return Assembled(assembly, log, read_isa(assembly))

    def _run(self, command: tuple[str, ...], name: str, folder: str) -> str:
        status, log = run_tool(command, folder, self.timeout)
        if status:
            raise refused(f"{self.name} {self.version}", name, log.replace("kernel.hip", name))
        return log


@cache
def _knows(driver: tuple[str, ...], arch: str) -> bool:
    target = ("-target", "amdgcn-amd-amdhsa", f"-mcpu={arch}", "-nogpulib")
    command = (*driver, *target, "-x", "c", "-fsyntax-only", os.devnull)
    return run_tool(command, tempfile.gettempdir(), 60.0)[0] == 0


@cache
def find_amd_clang(arch: str = "") -> AmdClang:
    """The machine's clang with the AMDGPU target and its lld, else ziglang's; where `arch` is
    given, the first that knows it. Raises MissingTool with both reasons.
    """
    reasons: list[str] = []
    for find in (find_system_clang, find_ziglang):
        try:
            found = find()
        except MissingTool as missing:
            reasons.append(missing.message)
            continue
        if not arch or found.knows(arch):
            return found
        reasons.append(f"{found.name} {found.version} does not know {arch}")
    raise MissingTool(
        "TLC0702",
        f"no clang that compiles for {arch or 'AMD GPUs'}: " + "; ".join(reasons),
        hint="apt-get install clang-19 lld-19; or pip install ziglang, whose clang is newer",
    )


@cache
def find_system_clang() -> AmdClang:
    """The machine's clang with the AMDGPU target and its lld. Raises MissingTool."""
    clang = find_clang()
    major = int(clang.version.split(".")[0]) if clang.version[0].isdigit() else 0
    if major < _OLDEST:
        raise MissingTool(
            "TLC0702", f"{clang.where} is {clang.version}, the oldest that serves is {_OLDEST}"
        )
    beside = Path(clang.where).resolve().with_name("ld.lld")
    linker = shutil.which(f"ld.lld-{major}") or (
        str(beside) if beside.exists() else shutil.which("ld.lld")
    )
    if linker is None:
        raise MissingTool(
            "TLC0702", f"{clang.where} has no ld.lld beside it", hint=f"apt-get install lld-{major}"
        )
    return AmdClang("clang", clang.where, clang.version, (clang.where,), (linker,))


@cache
def find_ziglang() -> AmdClang:
    """The clang in the PyPI package ziglang, which is not imported for it. MissingTool if it is not
    installed.
    """
    spec = importlib.util.find_spec("ziglang")
    folders = spec.submodule_search_locations if spec else None
    program = Path(next(iter(folders))) / "zig" if folders else None
    if program is None or not program.exists():
        raise MissingTool(
            "TLC0702", "the package ziglang is not installed", hint="pip install ziglang"
        )
    zig = str(program)
    status, text = run_tool((zig, "clang", "--version"), tempfile.gettempdir(), 60.0)
    found = re.search(r"clang version ([\d.]+)", text)
    if status or not found:
        raise CompilerFailed("TLC0701", f"{zig} does not run:\n{text.strip()}")
    return AmdClang("ziglang", zig, found[1], (zig, "clang"), (zig, "ld.lld"))
