"""The vendors' compilers take every source: the matrix instructions in the machine code are those
of the IR, nothing is spilled, nothing is serialised; and a source is the same text in every build.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.kernels import programs
from tests.kernels.instructions import count_instructions
from tests.kernels.machines import TARGETS, Case, covering_cases
from tests.kernels.programs import TILES
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.driver import lower
from tilec.runtime.lowering import Lowered
from tilec.runtime.nvrtc import find_nvrtc

ROOT = Path(__file__).resolve().parents[2]
CASES = tuple(covering_cases())
NVIDIA = tuple(case for case in CASES if case.target.startswith("cuda"))
AMD = tuple(case for case in CASES if case.target.startswith("hip"))

# Mnemonics in SASS, and the ops that they are made for.
SASS = {
    ("HMMA", "IMMA", "DMMA", "QMMA"): ("mma",),
    ("HGMMA", "QGMMA", "IGMMA"): ("wgmma", "wgmma_registers"),
    ("LDSM",): ("ldmatrix",), ("STSM",): ("stmatrix",), ("LDGSTS",): ("cp_async",),
    ("UTMALDG",): ("tma_load",), ("UTMASTG",): ("tma_store",),
}  # fmt: skip
AMD_ISA = {
    "v_mfma": "mfma", "buffer_load_dwordx4": "load_buffer_16", "ds_read_b128": "load_shared_16",
    "ds_write_b128": "store_shared_16", "ds_read_b64_tr_b16": "load_transposed",
}  # fmt: skip


@cache
def nvdisasm() -> str:
    """The disassembler of the development environment."""
    files = importlib.metadata.files("nvidia-cuda-nvdisasm") or []
    (program,) = (file for file in files if file.name == "nvdisasm")
    return str(program.locate())


GLOBAL = {
    "LDG",
    "STG",
    "LDGSTS",
    "UTMALDG",
    "UTMASTG",
    "UTMAREDG",
    "ATOMG",
    "REDG",
    "RED",
    "LD",
    "ST",
}


def sass(code: bytes, folder: Path) -> list[str]:
    """The instructions of a cubin, in order, by their mnemonics up to the first dot."""
    path = folder / "kernel.cubin"
    path.write_bytes(code)
    done = subprocess.run(
        (nvdisasm(), "-c", str(path)), capture_output=True, text=True, check=True, timeout=120
    )
    return re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+ )?([A-Z0-9]+)", done.stdout, re.M)


def check_waits_first(in_order: Sequence[str]) -> None:
    """Nothing that reaches global memory was moved in front of the wait for the launch before."""
    (wait,) = (at for at, mnemonic in enumerate(in_order) if mnemonic == "ACQBULK")
    assert GLOBAL.isdisjoint(in_order[:wait]) and not GLOBAL.isdisjoint(in_order[wait:])


def check_nvidia(variant: Lowered, arch: str, folder: Path, *, matrix: bool = True) -> None:
    binary = find_nvrtc().compile(variant.text, variant.file_name, arch)
    (resources,) = binary.resources
    assert (resources.spill_stores, resources.spill_loads, resources.stack) == (0, 0, 0)
    assert binary.findings == () and not re.search(r"C7\d\d\d", binary.log), binary.log
    in_order, expected = sass(binary.code, folder), count_instructions(variant.program)
    found = Counter(in_order)
    for mnemonics, ops in SASS.items():
        count = sum(found[mnemonic] for mnemonic in mnemonics)
        assert count == sum(expected[op] for op in ops), mnemonics
    multiplies = expected["mma"] + expected["wgmma"] + expected["wgmma_registers"]
    assert (multiplies > 0) == matrix
    assert found["LDL"] == found["STL"] == 0
    if expected["tma_load"]:
        check_waits_first(in_order)


def every_variant(case: Case) -> bool:
    """Whether a run compiles a case for arguments of any alignment too: of each target every tile
    and every number of stages once or more. Others for aligned arguments alone."""
    return (TILES.index(case.tile) + case.stages) % 3 == 0


def variants(case: Case) -> tuple[Lowered, ...]:
    """Those that a run compiles; no other is lowered."""
    compiled = case.lower()
    return compiled.variants if every_variant(case) else (compiled.lowered,)


@pytest.mark.parametrize("case", NVIDIA, ids=str)
def test_nvidia(case: Case, tmp_path: Path) -> None:
    for variant in variants(case):
        check_nvidia(variant, case.target.partition(":")[2], tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("case", [case for case in NVIDIA if not every_variant(case)], ids=str)
def test_nvidia_of_any_arguments(case: Case, tmp_path: Path) -> None:
    for variant in case.lower().variants[1:]:
        check_nvidia(variant, case.target.partition(":")[2], tmp_path)


@pytest.mark.parametrize(
    ("block_M", "block_N", "threads"), [(192, 192, 384), (128, 256, 512), (256, 128, 512)]
)
def test_more_warpgroups_take_narrower_wgmma(
    block_M: int, block_N: int, threads: int, tmp_path: Path
) -> None:
    """The assembler refuses a wgmma that all threads' equal share of registers does not hold."""
    tile = {"block_M": block_M, "block_N": block_N, "block_K": 32, "threads": threads}
    variant = lower(programs.gemm(), (), "cuda:sm_90a", tile).lowered
    assert count_instructions(variant.program)["wgmma"] > 0
    check_nvidia(variant, "sm_90a", tmp_path)


def check_amd(variant: Lowered, arch: str = "gfx942") -> None:
    assembled = find_amd_clang(arch).assemble(variant.text, variant.file_name, arch)
    assert "warning" not in assembled.log
    (isa,) = assembled.kernels
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    assert isa.count("scratch_") == isa.count("flat_") == 0
    expected = count_instructions(variant.program)
    for mnemonic, op in AMD_ISA.items():
        assert isa.count(mnemonic) == expected[op], mnemonic
    assert isa.count("v_mfma") > 0 and isa.counts["ds_read_b128"] > 0
    # Of a tensor that may exceed a buffer's 2 GiB, or whose rows may begin anywhere, no vectors.
    assert (isa.counts["buffer_load_dwordx4"] > 0) == (variant.suffix in ("", "_read"))


@pytest.mark.hip
@pytest.mark.parametrize("case", AMD, ids=str)
def test_amd(case: Case) -> None:
    for variant in variants(case):
        check_amd(variant)


@pytest.mark.hip
@pytest.mark.nightly
@pytest.mark.parametrize("case", [case for case in AMD if not every_variant(case)], ids=str)
def test_amd_of_any_arguments(case: Case) -> None:
    for other in case.lower().variants[1:]:
        check_amd(other)


@pytest.mark.hip
def test_origin(tmp_path: Path) -> None:
    kernel = programs.origin()
    for target in TARGETS:
        variant = lower(kernel, (), target, {}).lowered
        if target.startswith("cuda"):
            check_nvidia(variant, target.partition(":")[2], tmp_path)
        else:
            check_amd(variant)


BUILD = """
import hashlib, json, sys
from tests.kernels import programs
from tests.kernels.machines import covering_cases
from tilec.runtime.driver import lower
built = {}
for case in list(covering_cases())[::9]:
    compiled = case.lower()
    for variant in compiled.variants:
        built[f"{case} {variant.file_name}"] = variant.text
    built[f"{case} manifest"] = compiled.manifest.to_json()
for target in ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942"):
    compiled = lower(programs.origin(), (), target, {})
    built[target] = compiled.source
    built[f"{target} manifest"] = compiled.manifest.to_json()
print(json.dumps({n: hashlib.sha256(t.encode()).hexdigest() for n, t in built.items()}))
"""


def test_two_builds_are_byte_identical() -> None:
    """Texts and manifests of two processes whose sets and dicts of strings hash differently."""
    found = []
    for seed in ("1", "20240229"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            (sys.executable, "-c", BUILD), cwd=ROOT, env=environment, capture_output=True,
            text=True, check=True, timeout=300,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    assert found[0] == found[1]
    assert len(found[0]) == 32
    empty = hashlib.sha256(b"").hexdigest()
    assert empty not in found[0].values() and len(set(found[0].values())) == 32
