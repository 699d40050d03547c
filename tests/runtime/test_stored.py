"""Variants on disk: a second process launches what the first one made, and loads no compiler's
part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.runtime.stored_program import add
from tilec import config
from tilec.backends.interface import Interface
from tilec.backends.manifest import Variant
from tilec.extend import Extension, install
from tilec.passes.context import Assume
from tilec.runtime import build, stored
from tilec.runtime.binary import Binary
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.lowering import standard_registry
from tilec.runtime.stored import read_variant
from tilec.runtime.user_cache import user_cache
from tilec.target import find_target

CODE = Binary(b"cubin", "a log", compiler="me")
ROOT = Path(__file__).parents[2]
SM_80 = find_target("cuda:sm_80")
UNUSED = ("tilec.passes.pipeline", "tilec.passes.lower_tiles", "tilec.backends.emitter",
          "tilec.backends.prelude", "tilec.runtime.lowering", "tilec.runtime.compilers",
          "tilec.runtime.nvrtc", "tilec.interpreter", "tilec.cli", "tilec.parser.text",
          "lark", "jinja2", "click", "platformdirs", "ml_dtypes")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and a compiler that makes what the stub of a driver takes."""
    monkeypatch.setenv("TILEC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "compile_variant", lambda *_, **__: CODE)
    return tmp_path


def make(general: bool = False) -> CompiledKernel:
    """The program's variants for sm_80, compiled for an H100 and so stored."""
    made = CompiledKernel(add.lower_to_ir(), SM_80)
    if general:
        made.add_general()
    for lowered in made.variants:
        made.compiled(lowered.variant, "sm_90")
    return made


def test_what_was_stored_is_what_was_made(folder: Path) -> None:
    made = make(general=True)
    for assume, lowered in zip((Assume.ALL, Assume.NOTHING), made.variants, strict=True):
        found = read_variant(made.program, SM_80, "sm_90", assume)
        assert found is not None and found.variant == lowered.variant
        assert found.binary == CODE
    assert made.variants[0].variant != made.variants[1].variant
    assert read_variant(made.program, SM_80, "", Assume.ALL) is None  # of another machine
    assert read_variant(made.program, find_target("cuda:sm_90a"), "sm_90", Assume.ALL) is None
    other = tilec.kernel(add.function).trace({"block": 64})
    assert read_variant(other, SM_80, "sm_90", Assume.ALL) is None


@pytest.mark.parametrize("setting", [{"check": "1"}, {"dump": "there"}, {"cache": False}])
def test_those_who_look_at_passes_get_them(folder: Path, setting: dict[str, Any]) -> None:
    program = make().program
    with config.scope(**setting):
        assert read_variant(program, SM_80, "sm_90", Assume.ALL) is None


def test_extensions_compile_for_themselves(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make().program
    monkeypatch.setattr(stored, "_withheld", [])
    assert read_variant(program, SM_80, "sm_90", Assume.ALL) is not None
    install(Extension("acme"), standard_registry().copy())
    assert read_variant(program, SM_80, "sm_90", Assume.ALL) is not None
    install(Extension("acme"))
    assert read_variant(program, SM_80, "sm_90", Assume.ALL) is None


def test_an_entry_of_no_use_is_made_anew(folder: Path) -> None:
    program = make().program
    disk = user_cache()
    assert disk is not None
    (path,) = folder.rglob("*.tlc")
    for metadata in ({}, {"variant": "{}", "log": "", "compiler": ""}):
        disk.put(path.stem, metadata, b"cubin")
        assert read_variant(program, SM_80, "sm_90", Assume.ALL) is None
    make()
    assert read_variant(program, SM_80, "sm_90", Assume.ALL) is not None


def test_a_variant_survives_json() -> None:
    variant = CompiledKernel(add.lower_to_ir(), SM_80).lowered.variant
    assert Variant.from_json(json.dumps(variant.to_data())) == variant
    with pytest.raises(ValueError, match=r"variant: 'requires' is missing"):
        Variant.from_json("{}")


def run(stub_library: Path) -> dict[str, Any]:
    """The launch that a fresh process makes, and the modules that it loaded."""
    command = [sys.executable, "-m", "tests.runtime.stored_program", str(stub_library)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_second_process_runs_no_pass_and_loads_no_compiler(
    folder: Path, stub_library: Path
) -> None:
    made = make()
    found = run(stub_library)
    assert found["grid"] == [2, 1, 1] and found["launches"] == 1
    assert found["symbol"] == made.launches[0].name
    loaded = [name for name in UNUSED if name in found["modules"]]
    assert not loaded, f"a call that is in the cache loads {loaded}"


@pytest.mark.parametrize("dtype", ["int4", "float4_e2m1fn"])
def test_what_a_launch_takes_is_known_without_lowering(dtype: str) -> None:
    """A process that finds machine code launches it by the program's own interface: extents that
    passes give names to, as those of bytes of two elements, are the kernel's own affair."""

    @tilec.kernel
    def widen(A: T.Tensor(("M", "K"), dtype), B: T.Tensor(("M", "K"), "float32")):
        with T.Kernel(T.ceildiv(B.shape[1], 64), B.shape[0], threads=32) as (bx, by):
            for i in T.Parallel(64):
                B[by, bx * 64 + i] = A[by, bx * 64 + i]

    made = CompiledKernel(widen.lower_to_ir(), SM_80)
    made.add_general()
    variants = tuple(lowered.variant for lowered in made.variants)
    assert len(variants) > 1
    manifest = Interface(made.program).manifest("cuda:sm_80", variants)
    assert {a.name for v in variants for a in v.launches[0].arguments} == {"A", "B", "K"}
    assert manifest.symbols == ("M", "K")
