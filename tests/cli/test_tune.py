"""`tilec tune` and `tilec bench`, on the interpreter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tilec.cli import run as command_line

KERNEL = """\
from __future__ import annotations

import tilec
import tilec.language as T


AUTOTUNE
@tilec.kernel
def double(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), step: int = 32):
    with T.Kernel(T.ceildiv(A.shape[0], step), threads=32) as bx:
        for i in T.Parallel(step):
            B[bx * step + i] = A[bx * step + i] * (2 if step < 64 else 3)
"""
TUNED = "@tilec.autotune(configs=[{'step': 16}, {'step': 32}, {'step': 64}, {'step': -1}])"
Capture = pytest.CaptureFixture[str]


def written(folder: Path, decorator: str) -> Path:
    path = folder / "double.py"
    path.write_text(KERNEL.replace("AUTOTUNE\n", decorator + "\n" if decorator else ""))
    return path


def test_every_configuration_is_told(tmp_path: Path, capfd: Capture) -> None:
    path = written(tmp_path, TUNED)
    asked = ["tune", str(path), "--device", "interpreter", "-D", "N=100"]
    assert command_line(asked) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("double on interpreter: ")
    assert "us  step=" in lines[0] and "us  step=" in lines[1]
    assert any("differ" in line and line.endswith("step=64") for line in lines)
    assert any("[TLC" in line and line.endswith("step=-1") for line in lines)
    assert "say nothing of a GPU" in err
    assert command_line(["--format", "json", *asked]) == 0
    (found,) = json.loads(capfd.readouterr().out)["tuned"]
    assert found["best"]["config"]["step"] in (16, 32)
    assert ["us" in t for t in found["trials"]] == [True, True, False, False]


def test_a_file_without_configurations_is_refused(tmp_path: Path, capfd: Capture) -> None:
    assert command_line(["tune", str(written(tmp_path, ""))]) == 1
    assert "TLC0195" in capfd.readouterr().err


def test_bench_tells_a_time(tmp_path: Path, capfd: Capture) -> None:
    path = str(written(tmp_path, ""))
    asked = ["bench", path, "--device", "interpreter", "--rounds", "3", "-D", "N=64"]
    assert command_line(asked) == 0
    assert "double on interpreter: " in capfd.readouterr().out
    assert command_line(["--format", "json", *asked]) == 0
    (found,) = json.loads(capfd.readouterr().out)["timed"]
    assert found["name"] == "double" and len(found["times"]) == 3 and found["us"] > 0


COMMANDS = ["run", "bench", "check", "build", "show", "tune"]


def arguments(command: str, path: Path) -> list[str]:
    more = {
        "build": ["-o", str(path.parent / "built")],
        "show": ["ir"],
        "bench": ["--rounds", "1"],
    }.get(command, [])
    return [command, *(more if command == "show" else []), str(path), *(more * (command != "show"))]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parameter_comes_from_the_configurations(
    command: str, tmp_path: Path, capfd: Capture
) -> None:
    """Its first one, where the parameter has no default and -D does not give it."""
    path = written(tmp_path, "@tilec.autotune(configs=[{'step': 16}, {'step': 32}])")
    path.write_text(path.read_text().replace("step: int = 32", "step: int"))
    assert command_line(arguments(command, path)) == 0
    assert command_line([*arguments(command, path), "-D", "step=64"]) == 0
    path = written(tmp_path, "")
    path.write_text(path.read_text().replace("step: int = 32", "step"))
    if command != "tune":
        capfd.readouterr()
        assert command_line(arguments(command, path)) == 1
        err = capfd.readouterr().err
        assert "step is not given" in err and "-D step=VALUE, or annotate" in err


@pytest.mark.parametrize("command", COMMANDS[:-1])
@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ("5", "gives 5, expected"),
        ("{'stp': 4}", "did you mean step"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_what_a_heuristic_cannot_give_is_told_at_its_kernel(
    command: str, gives: str, told: str, tmp_path: Path, capfd: Capture
) -> None:
    path = written(tmp_path, f"@tilec.heuristic(lambda target, shapes: {gives})")
    assert command_line(arguments(command, path)) == 1
    err = capfd.readouterr().err
    assert told in err and f"{path}:" in err


@pytest.mark.parametrize("command", COMMANDS[:-1])
def test_dimensions_that_are_compiled_for(command: str, tmp_path: Path, capfd: Capture) -> None:
    path = tmp_path / "const.py"
    text = KERNEL.replace("AUTOTUNE\n", "").replace(
        'A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32")', "A, B"
    )
    kinds = (
        '    N = T.const("N")\n    A: T.Tensor((N,), "float32")\n    B: T.Tensor((N,), "float32")\n'
    )
    path.write_text(text.replace("    with T", kinds + "    with T"))
    assert command_line([*arguments(command, path), "-D", "N=100"]) == 0
    status = command_line(arguments(command, path))
    if command in ("run", "bench"):  # which make the arrays
        assert status == 0
    else:
        assert status == 1 and "add -D N=VALUE" in capfd.readouterr().err
