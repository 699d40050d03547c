"""Clang for AMD GPUs: finding it, compiling, and what is read from its assembly."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import stat
import subprocess
from pathlib import Path

import pytest

from tilec.errors import CompilerFailed, MissingTool
from tilec.runtime import clang as clang_module
from tilec.runtime.amd_isa import KernelIsa, read_isa
from tilec.runtime.clang import AmdClang, find_amd_clang, find_system_clang, find_ziglang
from tilec.runtime.compilers import Compiler, pick_compiler

pytestmark = pytest.mark.hip

ARCHES = ("gfx90a", "gfx942", "gfx950")

ALL_REGISTERS = ", ".join(f'"v{i}"' for i in range(128))  # what 1024 threads leave to each
TEXT = (
    r"""
#define THREADS(n) amdgpu_flat_work_group_size(n, n)
#define KERNEL(n) extern "C" __attribute__((global, THREADS(n))) void
KERNEL(64) first(float* p, int n) {
  __attribute__((shared)) static float s[512];
  const int t = __builtin_amdgcn_workitem_id_x();
  s[t] = p[t];
  asm volatile("s_waitcnt lgkmcnt(0)\n\ts_barrier" ::: "memory");
  p[t] = s[n - t];
}
KERNEL(1024) second(float* p) {
  const int t = __builtin_amdgcn_workitem_id_x();
  const float x = p[t], y = p[t + 1024];
  asm volatile("" ::: "memory", ALL_REGISTERS);
  p[t] = x * y;
}
"""
).replace("ALL_REGISTERS", ALL_REGISTERS)


def test_the_clang_of_this_machine() -> None:
    clang = find_amd_clang()
    as_compiler: Compiler = clang  # the interface that the cache and the launcher use
    assert as_compiler.backend == "hip"
    assert Path(clang.where).exists() and clang.version.split(".")[0].isdigit()


@pytest.mark.parametrize("arch", ARCHES)
def test_a_code_object(arch: str) -> None:
    clang = find_amd_clang(arch)
    binary = clang.compile(TEXT, "text.hip", arch)
    assert (
        binary.code[:4] == b"\x7fELF" and int.from_bytes(binary.code[18:20], "little") == 224
    )  # EM_AMDGPU
    assert b"first.kd" in binary.code and b"second.kd" in binary.code
    assert arch.encode() in binary.code  # the note that the loader compares with the device
    assert [kernel.name for kernel in binary.resources] == ["first", "second"]
    first = binary.kernel("first")
    assert first is not None and first.shared == 2048 and first.spill_stores == 0
    assert (
        binary.code == clang.compile(TEXT, "another name.hip", arch).code
    )  # nor does a path go into it


def test_spills_are_findings() -> None:
    binary = find_amd_clang().compile(TEXT, "text.hip", "gfx942")
    assert {(f.kind, f.kernel) for f in binary.findings} == {("spill", "second")}
    isa = find_amd_clang().assemble(TEXT, "text.hip", "gfx942").kernel("second")
    assert isa.vgpr_spills >= 2 and isa.scratch >= 8
    assert isa.count("scratch_store") >= 2 and isa.count("scratch_load") >= 2
    assert isa.vgprs + isa.agprs <= 128


def test_instructions_and_counts() -> None:
    assembled = find_amd_clang().assemble(TEXT, "text.hip", "gfx942")
    assert [kernel.name for kernel in assembled.kernels] == ["first", "second"]
    first = assembled.kernel("first")
    assert first.lds == 2048
    assert (
        first.counts["ds_write_b32"]
        == first.counts["ds_read_b32"]
        == first.counts["s_barrier"]
        == 1
    )
    assert first.count("global_") == 2 and first.counts["s_endpgm"] == 1
    assert first.instructions[-1] == "s_endpgm"
    assert sum(first.counts.values()) == len(first.instructions)
    assert not any(";" in line or line.startswith(".") for line in first.instructions)
    with pytest.raises(KeyError):
        assembled.kernel("third")


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("threads", [64, 256, 512])
@pytest.mark.parametrize("last", ["v7", "v40", "v63", "v64", "v127", "v130", "v255", "a9", "a129"])
def test_occupancy_is_that_of_llvm(last: str, threads: int, arch: str) -> None:
    """LLVM writes what it expects beside each kernel, for the threads that the kernel declares."""
    if threads == 512 and last == "a129":
        last = "a99"  # 512 threads leave 256 registers to each
    text = f"""
    #define THREADS amdgpu_flat_work_group_size({threads}, {threads})
    extern "C" __attribute__((global, THREADS)) void use(float* p) {{
      asm volatile("" ::: "{last}");
    }}"""
    assembled = find_amd_clang(arch).assemble(text, "use.hip", arch)
    said = next(line for line in assembled.assembly.splitlines() if line.startswith("; Occupancy:"))
    isa = assembled.kernel("use")
    assert (isa.agprs if last.startswith("a") else isa.vgprs) == int(last[1:]) + 1
    waves = max(1, threads // 256)  # a block's on one SIMD; only whole blocks run
    assert isa.occupancy(threads) == int(said.split()[-1]) // waves * waves


def kernel(vgprs: int, agprs: int = 0, lds: int = 0, arch: str = "gfx942") -> KernelIsa:
    return KernelIsa("k", arch, vgprs, agprs, 16, 0, 0, 0, lds, ())


@pytest.mark.parametrize(
    ("isa", "threads", "shared", "waves"),
    [
        (kernel(32), 256, 0, 8),  # no more than 8 waves a SIMD
        (kernel(65), 256, 0, 7),  # 72 registers, 512 // 72
        (kernel(126, 128), 256, 0, 2),  # 128 + 128
        (kernel(129, 128), 256, 0, 1),  # 132 + 128 is more than half
        (kernel(32), 256, 32768, 2),  # two blocks of 4 waves
        (kernel(32), 256, 65536, 1),
        (kernel(32), 256, 65537, 0),
        (kernel(32, lds=30000), 512, 2768, 4),  # static and dynamic together: two blocks of 8 waves
        (kernel(32, lds=30001), 512, 2768, 2),
        (kernel(32, arch="gfx950"), 256, 32768, 4),  # of 160 KiB, in granules of 1280 bytes
        (kernel(32, arch="gfx950"), 256, 160 * 1024, 1),
        (kernel(32, arch="gfx950"), 256, 81920, 2),
        (kernel(32, arch="gfx950"), 256, 81921, 1),
    ],
)
def test_occupancy_by_hand(isa: KernelIsa, threads: int, shared: int, waves: int) -> None:
    assert isa.occupancy(threads, shared) == waves


def test_a_mistake_in_the_text_names_its_line() -> None:
    with pytest.raises(CompilerFailed, match=r"bad\.hip:2:") as raised:
        find_amd_clang().compile("int ok;\nint wrong = ;\n", "bad.hip", "gfx942")
    assert raised.value.code == "TLC0701"
    with pytest.raises(CompilerFailed, match="gfx000"):
        find_amd_clang().assemble("int ok;", "ok.hip", "gfx000")


def test_assembly_of_another_machine_is_refused() -> None:
    with pytest.raises(ValueError, match=r"amdhsa\.kernels"):
        read_isa("\t.text\nmain:\n\tret\n")


def test_ziglang_goes_through_assembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands for ziglang, taken by a `zig` that hands them to the clang and lld of this
    machine.
    """
    system = find_amd_clang()
    package = tmp_path / "ziglang"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('finding it must not import it')\n")
    zig = package / "zig"
    zig.write_text(
        f'#!/bin/sh\ntool="$1"\nshift\necho "$tool" >> {package}/used\n'
        f'case "$tool" in\n clang) exec {system.driver[0]} "$@" ;;\n'
        f' ld.lld) exec {system.linker[0]} "$@" ;;\nesac\n'
        "exit 9\n"
    )
    zig.chmod(zig.stat().st_mode | stat.S_IXUSR)
    spec = importlib.machinery.PathFinder.find_spec("ziglang", [str(tmp_path)])
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: spec if name == "ziglang" else None
    )
    found = find_ziglang.__wrapped__()
    assert (found.name, found.where, found.version) == ("ziglang", str(zig), system.version)
    assert (
        found.compile(TEXT, "text.hip", "gfx942").code
        == system.compile(TEXT, "text.hip", "gfx942").code
    )
    assert (package / "used").read_text().split() == ["clang", "clang", "clang", "ld.lld"]


def test_without_any_clang(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> AmdClang:
        raise MissingTool("TLC0602", "no clang with the AMDGPU target was found")

    monkeypatch.setattr(clang_module, "find_system_clang", nothing)
    monkeypatch.setattr(clang_module, "find_ziglang", find_ziglang.__wrapped__)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingTool, match="ziglang is not installed") as raised:
        find_amd_clang.__wrapped__()
    assert raised.value.hint and "clang-19" in raised.value.hint


def test_a_clang_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        where = "/usr/bin/clang-17"
        version = "17.0.6"

    monkeypatch.setattr(clang_module, "find_clang", Old)
    with pytest.raises(MissingTool, match="the oldest that serves is 19"):
        find_system_clang.__wrapped__()


def test_a_clang_that_knows_the_architecture() -> None:
    """gfx950 is younger than the clang of this machine; ziglang's knows it."""
    assert find_amd_clang("gfx90a").name == find_amd_clang("gfx942").name == "clang"
    assert find_amd_clang("gfx950").knows("gfx950")
    assert b"gfx950" in find_amd_clang("gfx950").compile(TEXT, "text.hip", "gfx950").code
    with pytest.raises(MissingTool, match=r"clang .* does not know gfx000; ziglang .* does not"):
        find_amd_clang("gfx000")
    assert pick_compiler("hip:gfx950").knows("gfx950")


def test_the_code_object_is_what_objdump_reads() -> None:
    """The code object holds the instructions that were counted in the assembly."""
    clang = find_amd_clang()
    objdump = Path(clang.where).resolve().with_name("llvm-objdump")
    assert objdump.exists(), "llvm-objdump is needed: apt-get install llvm-19"
    isa = clang.assemble(TEXT, "text.hip", "gfx942").kernel("first")
    code = clang.compile(TEXT, "text.hip", "gfx942").code
    listing = subprocess.run(
        (str(objdump), "-d", "--no-show-raw-insn", "-"), input=code, capture_output=True, check=True
    ).stdout.decode()
    body = listing.split("<first>:", 1)[1].split("<second>:", 1)[0]
    read = [line.split("//")[0].split()[0] for line in body.splitlines() if line.startswith("\t")]
    until_end = read[: read.index("s_endpgm") + 1]
    assert until_end == [line.split()[0] for line in isa.instructions]
