"""`tilec build` of every example for every target: vendors' compilers take the sources, whose bytes
depend on nothing but the program."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.modules import example_targets

ROOT = Path(__file__).resolve().parents[2]
# What T.const takes from arguments must be said to a build; a module without a kernel has no build.
CONSTANTS = {"flash_attention": ("D=128",), "convolution": ("C=64",)}
EXAMPLES = sorted(p.stem for p in (ROOT / "examples").glob("*.py") if p.stem != "demo")
OTHER_HEADS = ("D=64", "D=96", "D=256")


def build(name: str, folder: Path, seed: int, *defines: str) -> str:
    """Builds examples/<name>.py for all targets into `folder`; what was printed."""
    command = [sys.executable, "-m", "tilec", "build", str(ROOT / "examples" / f"{name}.py")]
    for target in example_targets(name):
        command += ["--target", target]
    for define in defines or CONSTANTS.get(name, ()):
        command += ["-D", define]
    command += ["-o", str(folder), "--emit", "source,manifest,binary"]
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
    folder.mkdir()
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def hashes(folder: Path) -> dict[str, str]:
    """Of sources and manifests, by their place in the build."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".cu", ".hip", ".json")
    }


def check_compiled(name: str, printed: str) -> None:
    """A compiler took the source of every target that the example is for, and no kernel spills."""
    for target in example_targets(name):
        assert re.search(rf"compiles for {target} with", printed), printed
    kernels = re.findall(r"(\w+_kernel\w*) \d+ registers, (\d+) bytes spilled", printed)
    assert kernels
    assert [k for k in kernels if k[1] != "0"] == []


@pytest.mark.nightly
@pytest.mark.hip
@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_builds_for_every_target(name: str, tmp_path: Path) -> None:
    check_compiled(name, build(name, tmp_path / "one", 1))
    build(name, tmp_path / "other", 20240229)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "other") != {}


@pytest.mark.nightly
@pytest.mark.hip
@pytest.mark.parametrize("head", OTHER_HEADS)
def test_attention_builds_for_every_head(head: str, tmp_path: Path) -> None:
    check_compiled("flash_attention", build("flash_attention", tmp_path / "one", 1, head))
