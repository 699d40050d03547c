"""Examples on AMD's machines: run in the emulator on those that the other tests leave out, and kept
in registers on all.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.examples.shipped import EXAMPLES, Shipped, shipped
from tilec.runtime.clang import find_amd_clang
from tilec.target import TARGETS

AMD = tuple(name for name in TARGETS if name.startswith("hip"))
CASES = tuple(dict.fromkeys(replace(case, target=target) for case in shipped() for target in AMD))
NAMES = sorted({case.example for case in CASES})


@pytest.mark.nightly
@pytest.mark.emulator
@pytest.mark.parametrize("target", ["hip:gfx90a", "hip:gfx950"])
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name: str, target: str) -> None:
    """Each checks its own results."""
    command = (sys.executable, "-m", "tilec", "run", "--device", f"emulator:{target}")
    done = subprocess.run(
        (*command, str(EXAMPLES / f"{name}.py")), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.hip
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_spilled_to_memory(case: Shipped) -> None:
    """A scalar register may move to a lane of a vector one, which costs no access."""
    for compiled in case.compiled():
        arch = compiled.target.arch
        for variant in compiled.variants:
            assembled = find_amd_clang(arch).assemble(variant.text, variant.file_name, arch)
            for isa in assembled.kernels:
                assert (isa.vgpr_spills, isa.scratch) == (0, 0), f"{case}: {variant.file_name}"
