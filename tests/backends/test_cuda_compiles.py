"""NVRTC takes every CUDA rendering, with all registers in registers: no stack, no spills, no
warnings of ptxas."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from tests.backends.emulation import SM80, SM90, Probe
from tests.backends.probes_clusters import CLUSTER_PROBES
from tests.backends.probes_hopper import HOPPER_PROBES, WGMMA_PROBES
from tests.backends.probes_matrix import MATRIX_PROBES
from tests.backends.probes_scalar import MOVE_PROBES, SCALAR_PROBES, SMALL_FLOAT_PROBES
from tilec.backends.prelude import KernelFrame, Need, prelude_names, render_source
from tilec.runtime.nvrtc import find_nvrtc

FAMILIES: Mapping[str, Mapping[str, Probe]] = {
    "scalars": SCALAR_PROBES.probes,
    "moves": MOVE_PROBES.probes,
    "matrix": MATRIX_PROBES.probes,
    "small_floats": SMALL_FLOAT_PROBES.probes,
    "hopper": HOPPER_PROBES.probes,
    "wgmma": WGMMA_PROBES.probes,
    "clusters": CLUSTER_PROBES.probes,
}


def compile_frames(frames: list[KernelFrame], arch: str) -> str:
    """ptxas's log, after checking that nothing lives in memory that should be a register."""
    binary = find_nvrtc().compile(render_source("cuda", frames), "probes.cu", arch)
    for line in re.findall(r".*bytes stack frame.*", binary.log):
        assert re.search(
            r"\b0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads", line
        ), line
    assert binary.log.count("bytes stack frame") >= len(frames)
    assert not re.search(r"C7\d\d\d|warning", binary.log), binary.log
    return binary.log


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_probes_compile(family: str, arch: str) -> None:
    frames = [
        p.frame(n) for n, p in FAMILIES[family].items() if arch >= p.arch and _in_registers(n)
    ]
    assert frames or (
        arch == "sm_80" and all(p.arch == "sm_90a" for p in FAMILIES[family].values())
    )
    if frames:
        compile_frames(frames, arch)


def _in_registers(name: str) -> bool:
    """The library's sine and cosine reduce large arguments through local memory."""
    return name != "functions"


def test_functions_compile() -> None:
    frames = [SCALAR_PROBES.probes["functions"].frame("functions")]
    assert find_nvrtc().compile(render_source("cuda", frames), "functions.cu", "sm_80").code


def test_gemm_sm80_compiles() -> None:
    for arch in ("sm_80", "sm_86", "sm_90a"):
        log = compile_frames([SM80.make_frame(SM80.body, "gemm")], arch)
        assert int(re.findall(r"Used (\d+) registers", log)[0]) <= 128


def test_gemm_sm90_compiles() -> None:
    log = compile_frames([SM90.make_frame(SM90.body, "gemm")], "sm_90a")
    assert re.search(r"Used 168 registers, used 3 barriers", log)


def test_every_name_compiles() -> None:
    """Each name of the prelude alone, in its simplest instance: its requirements are complete."""
    instances = {
        "mma": (16, 8, 16, "f32", "f16"),
        "wgmma_ss": (64, "f32", "f16", "f16", False, False),
        "wgmma_rs": (64, "f32", "bf16", "bf16", True),
        "tma_load": (2,),
        "tma_store": (3,),
    }
    compiler = find_nvrtc()
    for name in prelude_names("cuda"):
        frame = KernelFrame("empty", (), 32, 0, "", (Need(name, instances.get(name, ())),))
        assert compiler.compile(render_source("cuda", [frame]), f"{name}.cu", "sm_90a").code, name


@pytest.mark.parametrize("arch", ["sm_75", "sm_86", "sm_89", "sm_100a", "sm_120a"])
def test_scalars_compile_for_every_target(arch: str) -> None:
    """Conversions and arithmetic of narrow floats have other instructions before sm_80 and sm_89."""
    compile_frames([p.frame(n) for n, p in SCALAR_PROBES.probes.items() if _in_registers(n)], arch)
