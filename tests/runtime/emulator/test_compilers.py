"""The compilers that build the emulator: which is found, what is said of those that do not serve,
and that each that is here builds it for x86-64, and zig's for aarch64 too."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.emulation import SM80, SM90, find_fault
from tilec import config
from tilec.backends.prelude import render_source
from tilec.errors import MissingTool
from tilec.runtime.clang import find_ziglang
from tilec.runtime.emulator import compilers, find_host_compiler
from tilec.runtime.emulator.build import OPTIONS, build

pytestmark = pytest.mark.emulator

ZIG = f"{find_ziglang().where} c++"


@pytest.mark.parametrize("compiler", ["g++", "clang++-19", ZIG], ids=["gcc", "clang", "zig"])
def test_each_compiler_builds_the_emulator(compiler: str) -> None:
    """The hand-written GEMMs are right and clean in every schedule, whoever compiled them."""
    for gemm in (SM80, SM90):
        library = build(render_source("cpu", [gemm.make_frame(gemm.body, "gemm")]), compiler)
        assert find_fault(gemm, library, "gemm", (66, 40, 72)) == ""


def test_zig_builds_for_aarch64(tmp_path: Path) -> None:
    """The assembly that switches stacks among it."""
    source = tmp_path / "kernel.cpp"
    source.write_text(render_source("cpu", [SM90.make_frame(SM90.body, "gemm")]))
    command = (*find_host_compiler(ZIG).command, *OPTIONS, "-target", "aarch64-linux-gnu")
    result = tmp_path / "kernel.so"
    done = subprocess.run((*command, "-O1", "-o", str(result), str(source)), check=False)
    assert done.returncode == 0
    machine = int.from_bytes(result.read_bytes()[18:20], "little")
    assert machine == 183  # EM_AARCH64


@pytest.mark.nightly
def test_the_emulator_runs_on_aarch64(tmp_path: Path) -> None:
    """As a program without libraries, under qemu (apt-get install qemu-user)."""
    text = render_source("cpu", [SM80.make_frame(SM80.body, "gemm")])
    source, program = tmp_path / "gemm.cpp", tmp_path / "gemm"
    source.write_text(text + Path(__file__).with_name("launch_gemm.cpp").read_text())
    options = [o for o in OPTIONS if o not in ("-shared", "-fPIC")]
    command = (*find_host_compiler(ZIG).command, *options, "-O1", "-static")
    target = ("-target", "aarch64-linux-musl", "-o", str(program), str(source))
    subprocess.run((*command, *target), check=True)
    done = subprocess.run(("qemu-aarch64", str(program)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def stand_in(folder: Path, name: str, version: str) -> Path:
    """A program that says it is a compiler of that version."""
    program = folder / name
    program.write_text(f"#!/bin/sh\ncat <<END\n{version}\nEND\n")
    program.chmod(0o755)
    return program


OLD_GCC = "g++ (Debian 10.2.1-6) 10.2.1 20210110\nCopyright (C) 2020 Free Software Foundation, Inc."
NEW_GCC = OLD_GCC.replace("10.2.1", "11.4.0")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is all of PATH, with no CXX and no ziglang."""
    (tmp_path / "cat").symlink_to("/bin/cat")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("TILEC_CXX")
    monkeypatch.setattr(compilers, "_zig_command", lambda: ())
    compilers._probe.cache_clear()
    yield tmp_path
    compilers._probe.cache_clear()


def test_the_order_of_choice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "_zig_command", lambda: (f"{path / 'zig'} c++",))
    stand_in(path, "zig", "clang version 21.1.0")
    assert find_host_compiler().version == "clang version 21.1.0 of zig"
    assert "-nostdlib++" in find_host_compiler().command
    stand_in(path, "clang++-15", "Debian clang version 15.0.6")
    compilers._probe.cache_clear()
    assert find_host_compiler().command == ("clang++-15",)
    stand_in(path, "g++", NEW_GCC)
    compilers._probe.cache_clear()
    assert find_host_compiler().command == ("g++",)
    stand_in(path, "other", NEW_GCC)
    monkeypatch.setenv("CXX", "other -m64")
    assert find_host_compiler().command == ("other", "-m64")
    with config.scope(cxx="clang++-15"):
        assert find_host_compiler().command == ("clang++-15",)


def test_an_old_gcc_gives_way(path: Path) -> None:
    stand_in(path, "g++", OLD_GCC)
    with pytest.raises(MissingTool, match=r"10\.2\.1 20210110 is older than 11\n") as refused:
        find_host_compiler()
    assert refused.value.code == "TLC0621" and "pip install ziglang" in refused.value.hint
    stand_in(path, "clang++", "clang version 14.0.0")
    compilers._probe.cache_clear()
    assert find_host_compiler().command == ("clang++",)


def test_no_compiler_is_an_error_that_helps(path: Path) -> None:
    with pytest.raises(MissingTool, match=r"there is no g\+\+, clang\+\+ or ziglang") as missing:
        find_host_compiler()
    assert "install g++" in missing.value.hint


def test_a_compiler_that_is_named_and_missing() -> None:
    with pytest.raises(MissingTool, match="no-such-compiler does not run"):
        find_host_compiler("no-such-compiler")
