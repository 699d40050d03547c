"""Compilers: NVRTC for real, program compilers and hiprtc through stand-ins, and reading their
logs."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tilec.errors import CompilerFailed, MissingTool, TargetUnsupported, TimedOut
from tilec.runtime import compilers, nvrtc
from tilec.runtime.binary import Binary, Finding, KernelResources
from tilec.runtime.compilers import find_compilers, pick_compiler
from tilec.runtime.hiprtc import _NAMES as HIPRTC_NAMES
from tilec.runtime.hiprtc import HiprtcCompiler
from tilec.runtime.nvrtc import find_nvrtc
from tilec.runtime.offline import OfflineCompiler
from tilec.runtime.rtc import RtcLibrary

from .conftest import Stub

SOURCE = """
extern "C" __global__ void __launch_bounds__(64) turn(float* data) {
    __shared__ float line[64];
    line[threadIdx.x] = data[threadIdx.x];
    __syncthreads();
    data[threadIdx.x] = line[63 - threadIdx.x];
}
"""
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spill(float* a, int n) {
    float r[80];
#pragma unroll
    for (int i = 0; i < 80; i++) r[i] = a[i * n + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 80; i++) a[i * n + threadIdx.x + 7] = r[79 - i] * r[i];
}
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_nvrtc_makes_a_cubin_and_tells_its_resources(arch: str) -> None:
    binary = find_nvrtc().compile(SOURCE, "turn.cu", arch)
    assert binary.code[:4] == b"\x7fELF"
    assert b"turn" in binary.code
    kernel = binary.kernel("turn")
    assert kernel is not None
    assert 0 < kernel.registers <= 255
    assert (kernel.shared, kernel.barriers, kernel.spill_stores) == (256, 1, 0)
    assert binary.findings == ()
    assert binary.compiler.startswith("nvrtc 1")


def test_nvrtc_is_deterministic() -> None:
    first = find_nvrtc().compile(SOURCE, "turn.cu", "sm_90a")
    assert find_nvrtc().compile(SOURCE, "turn.cu", "sm_90a").code == first.code


def test_a_text_that_was_compiled_before_tells_as_much() -> None:
    """NVRTC's own cache, where there is a driver, keeps no log."""
    first, again = (find_nvrtc().compile(SOURCE, "turn.cu", "sm_80") for _ in range(2))
    assert first.resources and again.resources == first.resources


def test_an_nvrtc_without_a_cache_is_asked_once() -> None:
    asked: list[bool] = []

    class Older:
        version, path = "12.0", "libnvrtc.so.12"

        def supported_archs(self) -> None:
            return None

        def compile(self, text: str, name: str, options: Sequence[str], label: str) -> Any:
            asked.append(nvrtc.NO_CACHE in options)
            if asked[-1]:
                raise CompilerFailed(
                    "TLC0701", f"nvrtc: error: unrecognized option {nvrtc.NO_CACHE}"
                )
            if "wrong" in text:
                raise CompilerFailed("TLC0701", "wrong.cu(1): error")
            return b"cubin", ""

    compiler = nvrtc.NvrtcCompiler(Older())  # type: ignore[arg-type]
    assert compiler.compile("", "a.cu", "sm_80").code == b"cubin"
    assert compiler.compile("", "a.cu", "sm_80").code == b"cubin"
    with pytest.raises(CompilerFailed, match="wrong"):
        compiler.compile("wrong", "wrong.cu", "sm_80")
    assert asked == [True, False, False, False]


def test_spills_are_a_finding() -> None:
    binary = find_nvrtc().compile(SPILLING, "spill.cu", "sm_90a")
    kernel = binary.kernel("spill")
    assert kernel is not None
    assert kernel.spill_stores > 0
    assert [finding.kind for finding in binary.findings] == ["spill"]
    assert binary.findings[0].kernel == "spill"


def test_nvrtc_refusals_carry_the_log() -> None:
    with pytest.raises(CompilerFailed, match=r'bad\.cu\(1\): error: expected a ";"'):
        find_nvrtc().compile("int x y;", "bad.cu", "sm_80")
    assembly = 'extern "C" __global__ void f() { asm volatile("frobnicate.sync;"); }'
    with pytest.raises(CompilerFailed, match="frobnicate"):
        find_nvrtc().compile(assembly, "asm.cu", "sm_80")


def test_unknown_architectures_are_refused_before_compiling() -> None:
    for arch in ("sm_99", "gfx942", "sm_80; rm"):
        with pytest.raises(TargetUnsupported, match="does not compile for"):
            find_nvrtc().compile(SOURCE, "turn.cu", arch)


def test_the_search_names_what_it_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "libnvrtc.so.13"
    text.write_text("not a library")
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter([str(text)]))
    with pytest.raises(MissingTool, match=r"libnvrtc\.so\.13") as caught:
        find_nvrtc.__wrapped__()
    assert caught.value.exit_status == 3
    assert "nvidia-cuda-nvrtc" in caught.value.hint


def test_the_wheel_is_found_without_importing_cupy() -> None:
    assert any("libnvrtc" in path for path in nvrtc._from_wheels())
    assert "cupy" not in sys.modules


def test_a_loaded_nvrtc_is_found_again() -> None:
    where = os.path.realpath(find_nvrtc().where)
    assert where in {os.path.realpath(path) for path in nvrtc._loaded()}


def fake_tool(folder: Path, body: str) -> OfflineCompiler:
    path = folder / "tool"
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return OfflineCompiler("tool", "cuda", str(path), "1.2", ".cu", "-arch={}", ("-v",), timeout=20)


def test_a_program_compiler_is_given_files_and_its_log_names_ours(tmp_path: Path) -> None:
    tool = fake_tool(
        tmp_path,
        "args = sys.argv[1:]\n"
        "source = open(args[-1]).read()\n"
        "open(args[args.index('-o') + 1], 'w').write(' '.join(args[:2]) + source[::-1])\n"
        "print(args[-1] + ': warning: odd')\n",
    )
    binary = tool.compile("abc", "kernel.cu", "sm_80")
    assert binary.code == b"-v -arch=sm_80cba"
    assert binary.log == "kernel.cu: warning: odd\n"
    assert binary.findings == (Finding("warning", "", "odd"),)


def test_a_program_compiler_that_fails_or_hangs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CompilerFailed, match=r"kernel\.cu: line 3 is odd"):
        fake_tool(tmp_path, "sys.exit(sys.argv[-1] + ': line 3 is odd')").compile(
            "", "kernel.cu", "x"
        )
    slow = fake_tool(tmp_path, "import time\ntime.sleep(60)")
    hasty = OfflineCompiler("tool", "cuda", slow.where, "1.2", ".cu", "-arch={}", (), timeout=0.2)
    with pytest.raises(TimedOut, match=r"took longer than 0\.2 s"):
        hasty.compile("", "kernel.cu", "x")


def test_hiprtc_is_called_as_documented(stub: Stub) -> None:
    """A stand-in library with hiprtc's interface: the calls, their order and the options."""
    compiler = HiprtcCompiler(RtcLibrary(stub.path, HIPRTC_NAMES))
    assert compiler.version == "7.1"
    binary = compiler.compile("kernel text", "k.hip", "gfx942")
    assert binary.code == b"txet lenrek"
    assert binary.log.split() == [
        "k.hip",
        "--offload-arch=gfx942",
        "-std=c++17",
        "-O3",
        "-Rpass-analysis=kernel-resource-usage",
    ]
    with pytest.raises(CompilerFailed, match=r"hiprtc 7\.1 refused k\.hip"):
        compiler.compile("wrong", "k.hip", "gfx942")


def test_a_library_without_the_interface_is_too_old(stub: Stub) -> None:
    with pytest.raises(MissingTool, match="has no nvrtcCreateProgram"):
        RtcLibrary(stub.path, nvrtc._NAMES)


def test_the_choice_follows_preference_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert pick_compiler("cuda:sm_90a").name == "nvrtc"
    assert "nvrtc" in [
        name for name, _, found in find_compilers("cuda") if not isinstance(found, MissingTool)
    ]

    def absent(what: str) -> MissingTool:
        raise MissingTool("TLC0702", f"{what} was not found", hint=f"install {what}")

    nothing = {"cuda": {"one": lambda: absent("one"), "other": lambda: absent("other")}}
    monkeypatch.setattr(compilers, "_FINDERS", nothing)
    with pytest.raises(MissingTool, match="one was not found; other was not found"):
        pick_compiler("cuda:sm_80")


ADVICE = (
    "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
    "serialized due to non wgmma instructions defining accumulator registers of a wgmma between "
    "start and end of the pipeline stage in the function 'gemm'\n"
)
PTXAS_LOG = f"""ptxas info    : 0 bytes gmem
{ADVICE}ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
ptxas         .     16 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Function properties for inner
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 168 registers, used 3 barriers, 24 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compiling entry function 'other' for 'sm_90a'
ptxas info    : Function properties for other
ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers
k.cu(3): warning #177-D: variable "x" was declared but never referenced
"""


def test_reading_a_ptxas_log() -> None:
    binary = Binary.from_log(b"", PTXAS_LOG, "nvrtc 13.0")
    assert binary.resources == (
        KernelResources("gemm", 168, 4, 12, 24, 1024, 3),
        KernelResources("other", 10),
    )
    assert [(finding.kind, finding.kernel) for finding in binary.findings] == [
        ("spill", "gemm"),
        ("advice", "gemm"),
        ("warning", ""),
    ]
    assert binary.findings[1].text.startswith("C7510: Potential Performance Loss: wgmma")
    assert binary.findings[2].text == 'variable "x" was declared but never referenced'
    assert binary.kernel("absent") is None


CLANG_LOG = "".join(
    f"k.hip:2:1: remark: {text} [-Rpass-analysis=kernel-resource-usage]\n"
    for text in (
        "Function Name: foo",
        "    SGPRs: 8",
        "    VGPRs: 64",
        "    ScratchSize [bytes/lane]: 12",
        "    Dynamic Stack: False",
        "    VGPRs Spill: 3",
        "    LDS Size [bytes/block]: 4096",
    )
)


def test_reading_a_clang_log() -> None:
    binary = Binary.from_log(b"", CLANG_LOG, "clang")
    assert binary.resources == (KernelResources("foo", 64, spill_stores=12, stack=12, shared=4096),)
    assert [finding.kind for finding in binary.findings] == ["spill"]
