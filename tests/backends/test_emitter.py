"""The emitter on whole programs: golden texts, what compilers say of them, what they compute."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends import emitter_gemms as gemms
from tests.backends import emitter_programs as programs
from tests.conftest import Golden
from tilec.backends.dialect import find_dialect
from tilec.backends.emitter import EmittedProgram, emit_program, render
from tilec.backends.manifest import Argument, Manifest, TensorMapSpec
from tilec.backends.prelude import KernelFrame
from tilec.backends.writer import Writer
from tilec.errors import Loc
from tilec.ir.core import Program, at
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.control import Yield
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.emulator import Order, build, run
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

PROGRAMS: dict[str, tuple[Callable[[], Program], str]] = {
    "scale": (programs.scale, "cuda:sm_80"),
    "control": (programs.control, "cuda:sm_80"),
    "gemm_sm80": (gemms.gemm_sm80, "cuda:sm_80"),
    "gemm_sm90": (gemms.gemm_sm90, "cuda:sm_90a"),
    "tile_gfx942": (gemms.tile_gfx942, "hip:gfx942"),
}


def emit(name: str) -> EmittedProgram:
    make, target = PROGRAMS[name]
    return emit_program(make(), find_target(target), builtin_registry())


def emulate(name: str, arguments: dict[str, Any], order: Order = "forward") -> None:
    """Runs the only launch of a program on NumPy arrays, in place."""
    emitted = emit(name)
    (launch,) = emitted.launches
    library = build(render(emitted, "cpu"))
    run(library, launch, arguments, order=order, seed=5, multiprocessors=2)


@pytest.mark.parametrize("name", PROGRAMS)
def test_body_is_golden(name: str, golden: Golden) -> None:
    (frame,) = emit(name).frames
    assert frame.body + "\n" == golden("c")


def test_cuda_file_is_golden(golden: Golden) -> None:
    assert render(emit("scale")) == golden("cu")


def test_hip_file_is_golden(golden: Golden) -> None:
    scale = emit_program(programs.scale(), find_target("hip:gfx942"), builtin_registry())
    assert scale.frames[0].body == emit("scale").frames[0].body, "one body for all machines"
    assert render(scale) == golden("hip")


def test_cpu_file_holds_the_same_body() -> None:
    for name in PROGRAMS:
        emitted = emit(name)
        body = emitted.frames[0].body
        assert body in render(emitted)
        # The emulator is told the line of each statement, where others have comments before loops;
        # unrolling is for GPUs.
        silent = re.sub(r"^ *(// \S+:\d+|#pragma.*)\n", "", body, flags=re.MULTILINE)
        told = render(emitted, "cpu")
        assert silent in re.sub(r"^ *here\(.*\n", "", told, flags=re.MULTILINE)


def test_targets_of_equal_kernels_have_one_text_for_the_emulator() -> None:
    old, new = (
        emit_program(programs.scale(), find_target(target), builtin_registry())
        for target in ("cuda:sm_80", "cuda:sm_90a")
    )
    assert render(old) != render(new), "each says what it is for"
    assert render(old, "cpu") == render(new, "cpu")


def test_each_statement_of_the_emulated_text_has_its_line() -> None:
    """Also behind a loop or a branch, which a thread may come from another line of."""
    body = "  a();\n  b();\n  if (x) {\n    b();\n  }\n  b();"
    places = ("k.py:1", "k.py:2", "k.py:3", "k.py:2", "", "k.py:2")
    frame = KernelFrame("k", (), 32, 0, body, (), places=places)
    assert tuple(place for _, place in frame.told_lines) == places
    same = replace(frame, places=("k.py:1", "k.py:1", "k.py:1", "k.py:1", "", ""))
    assert [place for _, place in same.told_lines] == ["k.py:1", "", "", "k.py:1", "", ""]


def test_a_condition_that_joins_an_else_keeps_its_lines() -> None:
    writer = Writer(find_dialect("cuda"))

    def statement(line: int) -> Yield:
        with at(Loc("k.py", line)):
            return Yield(())

    with writer.block("if (x)", statement(1)):
        writer.line("a();", statement(2))
    with writer.otherwise(), writer.block("if (y)", statement(3)):
        writer.line("b();", statement(4))
    assert writer.lines == ["  if (x) {", "    a();", "  } else if (y) {", "    b();", "  }"]
    assert writer.places == ("k.py:1", "k.py:2", "k.py:3", "k.py:4", "")


@pytest.mark.parametrize("name", [n for n, (_, t) in PROGRAMS.items() if t.startswith("cuda")])
def test_nvrtc_takes_the_text_and_spills_nothing(name: str) -> None:
    emitted = emit(name)
    binary = find_nvrtc().compile(render(emitted), emitted.source_name, emitted.target.arch)
    kernel = binary.kernel(emitted.launches[0].symbol)
    assert kernel is not None
    assert (kernel.spill_stores, kernel.spill_loads, kernel.stack) == (0, 0, 0)
    assert "warning" not in binary.log


@pytest.mark.hip
def test_clang_takes_the_hip_text() -> None:
    emitted = emit("tile_gfx942")
    assembled = find_amd_clang().assemble(render(emitted), emitted.source_name, "gfx942")
    assert "warning" not in assembled.log
    kernel = assembled.kernel("tile_kernel")
    assert kernel.counts["v_mfma_f32_32x32x8_f16"] == 1
    assert (kernel.vgpr_spills, kernel.scratch) == (0, 0)


# What the text computes ---------------------------------------------------------------------------


@pytest.mark.emulator
def test_scale_computes_with_a_tail() -> None:
    a = np.arange(300, dtype=np.float16) / 8
    c = np.zeros(300, np.float16)
    emulate("scale", {"A": a, "C": c, "N": 300, "alpha": 3.0})
    assert np.array_equal(
        c, (a.astype(np.float32) * np.float32(3) - np.float32(0.5)).astype(np.float16)
    )


@pytest.mark.emulator
def test_control_flow_computes_what_the_ir_means() -> None:
    out = np.zeros(32, np.int32)
    emulate("control", {"out": out, "N": 32})
    assert out.tolist() == [_control(t) for t in range(32)]


def _control(t: int) -> int:
    x, y = 0, 1
    for _ in range(t):
        x, y = y, x + y
    for _ in range(0, t, 2):
        x, y = y, x
    total = (x, y, -7)[t % 3]
    held, steps = t + 1, 0
    while held > 1:
        held, steps = held // 2 if held % 2 == 0 else held * 3 + 1, steps + 1
    left = -1  # 8, 5, 2
    wrapped = (total * 1000 + steps + left) & 0xFFFFFFFF
    return wrapped - (1 << 32) if wrapped >> 31 else wrapped


def _operands(m: int, n: int, k: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Small integers, whose sums are exact in f32 and f16."""
    rng = np.random.default_rng(m + 3 * n + 7 * k)
    a, b = (rng.integers(-2, 3, shape).astype(np.float16) for shape in ((m, k), (n, k)))
    return a, b, np.full((m, n), np.nan, np.float16)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("gemm_sm80", (32, 48, 64)),
        ("gemm_sm90", (200, 264, 320)),
        ("tile_gfx942", (40, 70, 24)),
    ],
)
def test_gemms_compute_the_product(name: str, sizes: tuple[int, int, int]) -> None:
    a, b, c = _operands(*sizes)
    names = dict(zip("MNK", sizes, strict=True))
    orders: tuple[Order, ...] = ("forward", "random")
    for order in orders:
        emulate(name, {"A": a, "B": b, "C": c, **names}, order)
        assert np.array_equal(c.astype(np.float64), a.astype(np.float64) @ b.T.astype(np.float64))


# What the launcher is told ------------------------------------------------------------------------


def test_manifest_of_a_persistent_launch_with_tensor_maps() -> None:
    emitted = emit("gemm_sm90")
    (launch,) = emitted.launches
    blocks = ("mul", ("ceildiv", "N", 128), ("ceildiv", "M", 128))
    assert launch.symbol == "matmul_kernel"
    assert launch.grid == (("min", blocks, "@multiprocessors"), 1, 1)
    assert (launch.threads, launch.shared_bytes) == (384, 131136)
    maps = [
        Argument("tensor_map", f"{t}_map", None, TensorMapSpec(t, (128, 64), 128)) for t in "AB"
    ]
    symbols = [Argument("symbol", s, "i32") for s in "MNK"]
    assert list(launch.arguments) == [Argument("pointer", "C", "f16"), *maps, *symbols]
    assert emitted.frames[0].min_blocks == 1
    manifest = emitted.manifest()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert [t.access for t in manifest.tensors] == ["r", "r", "w"]


def test_pointers_that_nothing_writes_are_const() -> None:
    constness = {
        p.name: p.const for p in emit("gemm_sm80").frames[0].parameters if p.kind == "pointer"
    }
    assert constness == {"A": True, "B": True, "C": False}


def test_text_is_the_same_in_every_process() -> None:
    script = (
        "import hashlib; from tests.backends.test_emitter import PROGRAMS, emit, render\n"
        "text = ''.join(render(emit(n)) + emit(n).manifest().to_json() for n in PROGRAMS)\n"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    root = Path(__file__).parent.parent.parent
    found = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert len(found[0].strip()) == 64
    assert found[0] == found[1]
