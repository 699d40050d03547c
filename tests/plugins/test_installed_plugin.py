"""A package with an entry point extends tilec: kernels use its op, pass, dtype and target, and
nobody installed them by hand. Each test is a process of its own, whose path has the package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

RUN = """
import json, sys
import numpy as np
import clipped
import tilec
from tilec.runtime.plugins import load_plugins

random = np.random.default_rng(7)
for m, n, k in (64, 64, 32), (70, 65, 33), (1, 3, 7):
    a, b = (random.integers(-1, 2, s).astype(np.float16) for s in ((m, k), (n, k)))
    c = np.full((m, n), 77, np.int8)
    with tilec.device(sys.argv[1]):
        clipped.clipped(a, b, c)
        twice = np.zeros(n, np.int8)
        clipped.doubled(np.arange(n, dtype=np.int8) % 40 - 20, twice)
    exact = np.clip(a.astype(np.float32) @ b.astype(np.float32).T * 0.125, -1, 2) * 32
    assert np.array_equal(c, exact.astype(np.int8)), (c, exact)
    assert np.array_equal(twice, 2 * (np.arange(n) % 40 - 20))
print(json.dumps(load_plugins()))
"""

COMPILE = """
import tilec, clipped
for target in ("cuda:sm_87", "hip:gfx942"):
    made = clipped.clipped.compile(target=target)
    assert made.source.count("-1.0f") == 1, "the pass has merged two clips"
    assert not made.binary.findings and made.spills == 0
    order = "max(min(" if target.startswith("cuda") else "min(max("
    assert order in made.source
    assert "acme.clip" in made.ir("promote_fragments") and "acme.merge_clips" not in made.source
print(made.target.name)
"""


def python(program: str, *arguments: str, path: Path = HERE / "site", **variables: str) -> str:
    """Standard output of a program that sees the plugin, and the kernels beside this file."""
    folders = os.pathsep.join(map(str, (path, HERE, ROOT)))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": folders, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "device",
    ["interpreter", "emulator:cuda:sm_80", "emulator:cuda:sm_87", "emulator:hip:gfx942"],
)
def test_a_kernel_on_every_machine(device: str) -> None:
    assert json.loads(python(RUN, device)) == ["acme"]


@pytest.mark.hip
def test_vendors_compilers_take_it_for_its_own_target() -> None:
    assert python(COMPILE).strip() == "hip:gfx942"


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    folders = os.pathsep.join(map(str, (HERE / "site", ROOT)))
    return subprocess.run(
        [sys.executable, "-m", "tilec", *arguments],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": folders, **variables},
    )  # fmt: skip


def test_the_command_line_knows_it(tmp_path: Path) -> None:
    kernels = str(HERE / "clipped.py")
    done = command("check", kernels, "--target", "cuda:sm_87")
    assert done.returncode == 0, done.stderr
    assert "clipped for cuda:sm_87: ok" in done.stdout
    assert "plugins    acme" in command("doctor").stdout
    traced = tmp_path / "clipped.tir"
    traced.write_text(
        command("show", "ir", kernels).stdout.partition("tilec.ir 1\nprogram @doub")[0]
    )
    passes = "canonicalize,acme.merge_clips"
    done = command("opt", str(traced), "--passes", passes, "--target", "cuda:sm_87")
    assert done.returncode == 0, done.stderr
    assert traced.read_text().count("acme.clip") == 2 and done.stdout.count("acme.clip") == 1


def test_without_plugins_nothing_is_loaded() -> None:
    done = command("check", str(HERE / "clipped.py"), "--target", "cuda:sm_87", TILEC_PLUGINS="0")
    assert done.returncode == 1 and "TLC0501" in done.stderr


def test_a_broken_plugin_is_named(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(HERE / "site", site)
    (site / "acme_plugin.py").write_text("acme = 1 / 0\n")
    program = """
import numpy as np, tilec, tilec.language as T
@tilec.kernel
def k(A: T.Tensor((4,), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(4):
            A[i] = i
try:
    k(np.zeros(4, np.int32))
except tilec.TilecError as error:
    print(error.code, error)
"""
    file = tmp_path / "kernel.py"
    file.write_text(program)
    text = f"import runpy; runpy.run_path({str(file)!r})"
    out = python(text, path=site)
    assert out.startswith("TLC0602") and "ZeroDivisionError" in out and "acme-plugin" in out
    assert python(text, path=site, TILEC_PLUGINS="0") == ""
    (site / "acme_plugin.py").write_text("acme = 3\n")
    assert "it is a int, not an Extension" in python(text, path=site)
