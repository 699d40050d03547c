"""Texts are UTF-8 in every locale: one that has only ASCII gives the files that another gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tilec.cli import run as command_line

ROOT = Path(__file__).resolve().parents[2]
KERNEL = '''\
"""Größe einer Fläche."""

import tilec
import tilec.language as T


@tilec.kernel
def fläche(Länge: T.Tensor(("größe",), "float32"), Y: T.Tensor(("größe",), "float32")):
    with T.Kernel(T.ceildiv(Länge.shape[0], 128), threads=128) as bx:
        stück = T.alloc_fragment((128,), "float32")
        T.copy(Länge[bx * 128], stück)
        for ü in T.Parallel(128):
            T.device_assert(stück[ü] < 9, "Länge ≥ 9")
            stück[ü] = stück[ü] * 2  # doppelt – ja
        T.copy(stück, Y[bx * 128])
'''


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, but for times."""
    found = (p for p in folder.rglob("*") if p.is_file() and p.name != "times.txt")
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


def run_with_ascii(*words: str) -> str:
    """What a command prints in a process whose locale is C. Python would take that for UTF-8."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tilec", *words]
    done = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.hip
def test_every_locale_gives_the_same_files(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_here(*words: str) -> str:
        assert command_line(list(words)) == 0
        return capfd.readouterr().out

    monkeypatch.setenv("TILEC_DUMP", "dump")
    monkeypatch.setenv("TILEC_CACHE", "0")
    targets = ("--target", "cuda:sm_80", "--target", "hip:gfx942")
    made: list[tuple[dict[str, bytes], list[str]]] = []
    for name, tilec in (("here", run_here), ("ascii", run_with_ascii)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "kernel.py").write_text(KERNEL, encoding="utf-8")
        monkeypatch.chdir(folder)
        emit = "source,ir,binary,manifest,launcher"
        printed = [
            tilec("build", "kernel.py", *targets, "--emit", emit, "-o", "out"),
            tilec("repro", "kernel.py", "-o", "repro"),
            tilec("opt", "repro/fl_xe4_che.tir", "--passes", "all"),
        ]
        made.append((files(folder), printed))
    (here, said), (ascii_only, said_in_ascii) = made
    assert said == said_in_ascii
    assert here.keys() == ascii_only.keys()
    assert [name for name in here if here[name] != ascii_only[name]] == []
    assert any("größe".encode() in data for data in here.values())
