"""examples/cupy_pipeline.py: its steps on every machine, its remark where there is no GPU, and what
it asks of the environment."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tilec
from examples import cupy_pipeline as example

ROOT = Path(__file__).parents[2]
DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_its_steps(device: str) -> None:
    x, weights = example.inputs(7)
    for rows, outputs in ((1, 1), (63, 65), (300, 100)):
        with tilec.device(device):
            found = example.steps(np, x[:rows], weights[:outputs])
        exact, allowed = example.reference(x[:rows], weights[:outputs])
        assert (np.abs(found - exact) <= allowed).all()
    with pytest.raises(SystemExit, match="off by"):
        example.check("wrong", found + 1, x, weights)


def test_without_cupy_it_says_so_and_runs() -> None:
    code = (
        "import sys; sys.modules['cupy'] = None; from examples import cupy_pipeline as e; e.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("no GPU here (")
    assert "NumPy: right to " in done.stdout and not done.stderr


def test_it_imports_no_torch() -> None:
    tree = ast.parse((ROOT / "examples" / "cupy_pipeline.py").read_text(encoding="utf-8"))
    found = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    found |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert found == {"__future__", "typing", "numpy", "tilec", "tilec.language", "cupy"}


@pytest.mark.gpu
def test_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    example.main()
    expected = "graph: right" if importlib.util.find_spec("cupy") else "NumPy: right"
    assert expected in capsys.readouterr().out
