"""Rendering: exactly what is needed, always the same, in an order in which it compiles."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.backends.emulation import SM80, SM90
from tilec.backends.prelude import (
    FrameParameter,
    KernelFrame,
    Need,
    prelude_names,
    render_kernel,
    render_prelude,
    render_source,
)
from tilec.backends.prelude_entry import PreludeEntry, make_table
from tilec.runtime.emulator import find_host_compiler
from tilec.runtime.emulator.build import OPTIONS

DOCUMENT = Path(__file__).parents[2] / "docs" / "prelude.md"
HIP_ONLY = {
    "buffer", "make_buffer", "buffer_load", "buffer_store", "buffer_copy", "buffer_copy_wait", "mfma",
    "mfma_scaled",
    "set_priority", "schedule_matrices", "schedule_reads", "schedule_loads", "load_transposed",
}  # fmt: skip


@pytest.mark.parametrize("dialect", ["cuda", "cpu"])
def test_rendering_does_not_depend_on_order_or_repetition(dialect: str) -> None:
    needs = [Need("mma", (16, 8, k, "f32", t)) for k in (8, 16) for t in ("f16", "bf16")]
    needs += [Need("load_global", (8,)), Need("convert"), Need("barrier")]
    first = render_prelude(dialect, needs)
    assert render_prelude(dialect, [*reversed(needs), *needs]) == first
    assert render_prelude(dialect, needs) == first


def test_only_what_is_needed_is_rendered() -> None:
    text = render_prelude("cuda", [Need("exp")])
    assert "ex2.approx" in text and "struct f16" not in text and "regs" not in text
    both = render_prelude("cuda", [Need("mma", (16, 8, 16, "f32", "f16"))])
    assert "struct f16" in both and "struct bf16" not in both and both.count("mma.sync") == 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError, match="has no name 'load_globl'"):
        render_prelude("cuda", [Need("load_globl")])
    with pytest.raises(KeyError, match="no dialect 'metal'"):
        render_prelude("metal", [])
    with pytest.raises(KeyError, match="has no name 'mfma'"):
        render_prelude("cuda", [Need("mfma", (32, 32, 8, "f32", "f16"))])


def test_a_table_is_checked() -> None:
    with pytest.raises(ValueError, match="stands twice"):
        make_table(PreludeEntry("a", "a.j2"), PreludeEntry("a", "b.j2"))
    with pytest.raises(ValueError, match=r"requires \['b'\]"):
        make_table(PreludeEntry("a", "a.j2", ("b",)), PreludeEntry("b", "a.j2"))


def test_the_document_names_what_there_is() -> None:
    """Every function that docs/prelude.md shows exists for its machine and for the emulator."""
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = set(re.findall(r"`(\w+)(?:<[^`>]*>)?\(", text)) | set(re.findall(r"· `(\w+)[<(]", text))
    shown -= {"render_prelude", "Need", "render_kernel"}
    assert len(shown) > 50
    assert shown <= set(prelude_names("cpu"))
    assert shown - HIP_ONLY <= set(prelude_names("cuda"))


def test_a_signature() -> None:
    parameters = (
        FrameParameter("tensor_map", "A_map"),
        FrameParameter("pointer", "B", "bf16", const=True),
        FrameParameter("pointer", "C", "f32"),
        FrameParameter("symbol", "M"),
        FrameParameter("symbol", "N", "i64"),
        FrameParameter("scalar", "scale", "f32"),
    )
    frame = KernelFrame("k", parameters, 96, 0, "  C[0] = scale;\n", (), "one\ntwo")
    cuda = render_kernel("cuda", frame)
    assert cuda.startswith("// one\n// two\n")
    assert (
        'extern "C" __global__ void __launch_bounds__(96, 1) k(const __grid_constant__ tensor_map '
        "A_map, const bf16* __restrict__ B, f32* C, i32 M, i64 N, f32 scale) {\n  C[0] = scale;\n}"
    ) in cuda
    assert "#include" not in cuda
    cpu = render_kernel("cpu", frame)
    assert "global<const bf16> B, global<f32> C, i32 M, i64 N, f32 scale) {\n  C[0] =" in cpu


def test_kernels_share_one_prelude() -> None:
    frames = [SM80.make_frame(SM80.body, f"k{i}") for i in range(2)]
    text = render_source("cuda", frames)
    assert text.count("struct f16") == 1 and text.count("__global__") == 2


@pytest.mark.parametrize("dialect", ["cuda", "cpu"])
def test_text_is_clean(dialect: str) -> None:
    """What a user reads has no trailing blanks, tabs, or holes, and no leftovers of templates."""
    for gemm in (SM80, SM90):
        text = render_kernel(dialect, gemm.make_frame(gemm.body, "gemm"))
        assert not re.search(r"[ \t]+$", text, re.MULTILINE)
        assert "\n\n\n" not in text
        assert not re.search(r"\{%|\{\{ |\{#", text)
        assert text.isascii() and text.endswith("\n")


@pytest.mark.nightly
@pytest.mark.optimised
def test_every_name_of_the_cpu_compiles(tmp_path: Path) -> None:
    """Each name alone: its requirements are complete. (The CUDA prelude's are tested every
    time.)"""
    instances: dict[str, tuple[int | str | bool, ...]] = {
        "mma": (16, 8, 16, "f32", "f16"),
        "wgmma_ss": (64, "f32", "f16", "f16", False, False),
        "wgmma_rs": (64, "f32", "bf16", "bf16", True),
        "tma_load": (2,),
        "tma_store": (3,),
        "mfma": (32, 32, 8, "f32", "f16"),
    }
    for name in prelude_names("cpu"):
        frame = KernelFrame("empty", (), 32, 0, "", (Need(name, instances.get(name, ())),))
        source = tmp_path / f"{name}.cpp"
        source.write_text(render_source("cpu", [frame]))
        command = (*find_host_compiler().command, *OPTIONS, "-fsyntax-only", str(source))
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr}"
