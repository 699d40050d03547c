"""The inputs that `tilec run` makes, what it compares, and what -D names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import Capture, tilec
from tilec.cli.programs import _names, load_file

COPY = """\
import tilec
import tilec.language as T


@tilec.kernel
def copied(A: T.Tensor((48, 64), DTYPE), B: T.Tensor((48, 64), DTYPE)):
    with T.Kernel(3, threads=32) as bx:
        for i, j in T.Parallel(16, 64):
            B[bx * 16 + i, j] = A[bx * 16 + i, j]
"""


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["uint4", "float4_e2m1fn"])
def test_elements_that_share_bytes(capfd: Capture, tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "pairs.py"
    path.write_text(COPY.replace("DTYPE", repr(dtype)))
    status, out, _ = tilec(capfd, "run", path, "--device", "emulator:cuda:sm_80")
    assert status == 0 and "B: 3072 elements agree with the interpreter" in out


@pytest.mark.parametrize("command", ["run", "build", "check"])
def test_a_name_that_is_defined_for_nothing(capfd: Capture, tmp_path: Path, command: str) -> None:
    path = tmp_path / "scaled.py"
    text = COPY.replace("DTYPE", "'float32'").replace("(48, 64)", "('N', 64)")
    path.write_text(text.replace("):\n    with", ", step: int = 4):\n    with", 1))
    status, out, err = tilec(capfd, command, path, "-D", "N=100", "-D", "stpe=3")
    assert status == 2 and not out and "'stpe': did you mean step?" in err


def test_what_is_computed_of_dimensions_is_no_name(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "derived.py"
    heads = (
        'N, K = T.const("N, K")\n    A: T.Tensor((N, "M"), "int8")\n    B: T.Tensor(DIMS, "int8")'
    )
    dims = '(N * 2, K, (3 * K - 1) // 2, "M // 2", 16)'
    text = COPY[: COPY.index("def")] + f"def copied(A, B):\n    {heads.replace('DIMS', dims)}\n"
    path.write_text(text + "    with T.Kernel(1):\n        A[0, 0] = B[0, 0, 0, 0, 0]\n")
    names = set(_names(load_file(path).kernels["copied"], {}))
    assert names == {"A", "B", "M", "N", "K"}
    shown = str(load_file(path).kernels["copied"].tensor_specs({})["B"])
    assert "(N * 2, K, ((3 * K) - 1) // 2, M // 2, 16)" in shown
    status, _, err = tilec(capfd, "check", path, "-D", "N2=8", "-D", "K=3")
    assert status == 2 and "'N2': did you mean N?" in err


def test_a_file_named_from_its_own_folder(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place of what a file raises is known however the file is named."""
    (tmp_path / "user.py").write_text("import tilec\n\nimport nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    status, _, err = tilec(capfd, "check", "user.py")
    assert status == 1 and err.startswith("user.py:3:1: LanguageError [TLC0191]")


@pytest.mark.parametrize(
    ("define", "says"),
    [
        ("N=-3", "N=-3: an extent is an integer of 0 or more"), ("N=many", "N=many: an extent"),
        ("N=2.5", "N=2.5: an extent"), ("n=some", "n=some is no i32"), ("n=2.5", "n=2.5 is no i32"),
        ("x=some", "x=some is no f32"),
    ],
)  # fmt: skip
def test_values_that_no_argument_has(
    capfd: Capture, tmp_path: Path, define: str, says: str
) -> None:
    path = tmp_path / "scaled.py"
    text = COPY.replace("DTYPE", "'float32'").replace("(48, 64)", "('N', 64)")
    path.write_text(text.replace("):\n    with", ", n: T.int32, x: T.float32):\n    with", 1))
    status, out, err = tilec(capfd, "run", path, "-D", define)
    assert status == 2 and not out and says in err


def test_arrays_that_memory_does_not_hold(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "scaled.py"
    path.write_text(COPY.replace("DTYPE", "'float32'").replace("(48, 64)", "('N', 64)"))
    status, out, err = tilec(capfd, "run", path, "-D", f"N={10**12}")
    assert status == 1 and not out and "ArgumentError [TLC0807]" in err


@pytest.mark.parametrize("marked", [True, False], ids=["with __init__", "without"])
def test_a_module_of_a_package_imports_from_it(
    tmp_path: Path, capfd: Capture, marked: bool
) -> None:
    inner = tmp_path / f"outer_{marked}" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "sizes.py").write_text("DTYPE = 'float32'\n")
    (inner / "more.py").write_text("from ..sizes import DTYPE\n")
    file = inner / "kernels.py"
    file.write_text("from ..sizes import DTYPE\nfrom . import more\n" + COPY)
    if marked:
        (inner / "__init__.py").write_text("")
        (inner.parent / "__init__.py").write_text("from .inner import kernels\n")
    status, found, _ = tilec(capfd, "run", file)
    assert status == 0 and "copied" in found
    file.write_text("from ..nothing import DTYPE\n" + COPY)
    elsewhere = tmp_path / "elsewhere" / inner.parent.name / "inner"
    elsewhere.mkdir(parents=True)
    (elsewhere / "kernels.py").write_text(file.read_text())
    status, _, problem = tilec(capfd, "run", elsewhere / "kernels.py")
    assert status == 1 and "a name that no other package has" in problem
