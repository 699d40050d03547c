"""Switching stacks without assembly, as on machines that have none of ours."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.backends.emulation import SM80, find_fault
from tilec.backends.prelude import Need, render_prelude, render_source
from tilec.runtime.emulator import build

pytestmark = pytest.mark.emulator


def test_the_portable_switch() -> None:
    text = render_source("cpu", [SM80.make_frame(SM80.body, "gemm")])
    portable = re.sub(r"defined\(__(x86_64|aarch64)__\)", "0", text)
    assert portable != text
    library = build(portable, optimize=0)
    assert find_fault(SM80, library, "gemm", (66, 40, 72)) == ""


@pytest.mark.hip  # this clang assembles for other machines too
def test_the_aarch64_switch_assembles(tmp_path: Path) -> None:
    text = render_prelude("cpu", [Need("barrier")])
    assembly = re.findall(r'asm\(R"\((.*?)\)"\);', text, re.DOTALL)
    assert len(assembly) == 2
    source = tmp_path / "switch.s"
    source.write_text(assembly[1])
    clang = shutil.which("clang-19") or shutil.which("clang")
    assert clang is not None, "this test needs clang"
    command = (clang, "--target=aarch64-linux-gnu", "-c", str(source), "-o", str(tmp_path / "o"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
