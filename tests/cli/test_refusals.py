"""What a stranger gets wrong, through the command line: a code, the file and line with a caret, the
reason, what to do, in under a second of work and without a traceback.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.cli.hostile import PROGRAMS
from tests.conftest import Golden
from tests.parser.programs import load
from tilec.cli import run as command_line
from tilec.cli.explain import read_pages
from tilec.errors import TilecError

HEAD = """\
from __future__ import annotations
import tilec
import tilec.language as T
import tilec.layout as layout
BLOCK = 64

@tilec.kernel
def k(A: T.Tensor(("N", 64), "float16"), B: T.Tensor(("N", 64), "float32"), n: T.int32):
"""
LAUNCH = "    with T.Kernel(1, threads=128) as bx:\n"
BUFFERS = (
    "        S = T.alloc_shared((64, 64), 'float16')\n"
    "        X = T.alloc_shared((64, 32), 'float16')\n"
    "        F = T.alloc_fragment((64, 64), 'float32')\n"
    "        T.clear(F)\n        T.copy(A[0, 0], S)\n"
)


def body(text: str, launch: str = LAUNCH) -> str:
    lines = "".join(f"        {line}\n" for line in text.splitlines())
    return HEAD + launch + BUFFERS + lines


CASES: list[tuple[str, str, str, str]] = [
    # what, the file, the code, what the message says
    ("undefined name", body("T.copy(S, absent)"), "TLC0191|TLC0112|TLC0101", "absent"),
    ("unknown T", body("T.coppy(S, S)"), "TLC0101", "T.copy"),
    ("wrong dtype", body("T.alloc_shared((8,), 'float17')"), "TLC0110", "float17"),
    ("wrong rank", body("F[0] = 1"), "TLC0115", "2 dimensions"),
    ("wrong shape", body("T.copy(X, S)"), "TLC0117", "(64, 32)"),
    ("gemm shapes", body("T.gemm(S, X, F)"), "TLC0245|TLC0131", "gemm"),
    ("gemm dtypes", body("H = T.alloc_shared((64, 64), 'int8')\nT.gemm(S, H, F)"), "TLC0253", ""),
    ("shared memory", body("H = T.alloc_shared((512, 128), 'float32')\nT.copy(F, H[0:64, 0:64])\n"
     "T.copy(H, B[0, 0])"), "TLC0510", "95232 more than the 166912 of cuda:sm_80: H takes 262144"),
    ("too many threads", body("", LAUNCH.replace("128", "1025")), "TLC0118", "1024"),
    ("no whole warps", body("T.gemm(S, S, F, transpose_B=True)\nT.copy(F, B[0, 0])",
     LAUNCH.replace("128", "100")), "TLC0402", "threads=100 is no multiple of the warp's 32"),
    ("serial index", body("for i in T.serial(64):\n    F[i, 0] = 1.0"), "TLC0119", "T.Parallel"),
    ("rebinding", body("x = 0.0\nfor i in T.serial(4):\n    x = x + 1.0\nB[0, 0] = x"),
     "TLC0104", "T.alloc_var"),
    ("bool", body("bool(n > 1)"), "TLC0103", "true"),
    ("return in a loop", body("for i in T.serial(n):\n    return"), "TLC0109", "`return`"),
    ("statement", body("try:\n    pass\nfinally:\n    pass"), "TLC0108", "`try`"),
    ("recursion", HEAD.replace("@tilec.kernel", "@T.macro\ndef f(x):\n    f(x)\n\n@tilec.kernel")
     + LAUNCH + "        f(n)\n", "TLC0121", "calls itself"),
    ("layout that is no injection", body(
        "T.annotate_layout({S: layout.Layout((64, 64), ((64,), (64,)), ((32,), (1,)), "
        "layout.Swizzle.none())})\nT.gemm(S, S, F)"), "TLC0127", "(0, 32) and (1, 0)"),
    ("layout of another shape", body("T.annotate_layout({S: layout.make_linear_layout(X)})"),
     "TLC0127", "(64, 32)"),
    ("syntax", HEAD + "    with T.Kernel(:\n", "TLC0190", "not Python"),
    ("no kernel", "x = 1\n", "TLC0192", "no kernel"),
    ("exception", "x = {}['absent']\n", "TLC0191", "KeyError"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "text", "codes", "says"), CASES, ids=[c[0] for c in CASES])
def test_a_refusal(
    what: str, text: str, codes: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "user.py"
    file.write_text(text)
    start = time.process_time()
    status = command_line(["check", str(file), "--target", "cuda:sm_80"])
    seconds = time.process_time() - start
    err = capfd.readouterr().err
    found = [code for code in codes.split("|") if f"[{code}]" in err]
    assert status == 1 and found, err
    assert found[0] in read_pages() and says in err and "Traceback" not in err
    if what != "no kernel":
        assert "user.py:" in err
    assert seconds < 1.0, f"{seconds:.1f} s"


@pytest.mark.parametrize(("what", "text", "codes", "says"), CASES, ids=[c[0] for c in CASES])
def test_a_refusal_by_every_door(
    what: str, text: str, codes: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`tilec build` and `tilec run` say it as `tilec check` does, and a call from Python too."""
    file = tmp_path / "user.py"
    file.write_text(text)
    told = []
    target = ["--target", "cuda:sm_80"]
    for arguments in (
        ["check", str(file), *target],
        ["build", str(file), *target, "-o", str(tmp_path / "out"), "--emit", "source"],
        ["run", str(file), "--device", "emulator:cuda:sm_80"],
    ):
        assert command_line(arguments) == 1, arguments
        told.append(capfd.readouterr().err)
    assert told[0] == told[1] == told[2]
    if "@tilec.kernel" not in text:
        return
    with pytest.raises((TilecError, SyntaxError)) as caught:
        load(tmp_path, text).k.lower(target="cuda:sm_80")
    if isinstance(caught.value, TilecError):
        error = caught.value
        where = f"user.py:{error.loc.line}:{error.loc.column + 1}: "
        assert f"{where}{type(error).__name__} [{error.code}]: {error.message}\n" in told[0]


def test_messages_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], golden: Golden
) -> None:
    """Every word of them. Each names a place in the file, but for files without a kernel."""
    told = []
    for what, text in (*((what, text) for what, text, *_ in CASES), *PROGRAMS.items()):
        file = tmp_path / f"{what.replace(' ', '_').replace('^', '')}.py"
        file.write_text(text)
        start = time.process_time()
        status = command_line(["check", str(file), "--target", "cuda:sm_80"])
        seconds = time.process_time() - start
        err = capfd.readouterr().err.replace(f"{tmp_path}/", "")
        assert status == 1 and "Traceback" not in err and seconds < 1.0, (what, seconds, err)
        assert re.match(rf"{file.name}:\d+:\d+: ", err) or "TLC0192" in err, err
        told.append(f"# {what}\n{err}")
    assert not [text for text in told if "\n  hint: " not in text]
    assert len(told) > 100 and "\n".join(told) == golden("txt")


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["check", "user.py", "--target", "cuda:sm_99"], 1, "TLC0501"),
        (["check", "absent.py"], 2, "absent.py"),
        (["run", "user.py", "--device", "gpu"], 1, "TLC0906"),
        (["build", "user.py", "--emit", "wishes"], 2, "wishes"),
        (["opt", "user.py"], 1, "TLC028"),
        (["explain", "TLC9999"], 2, "TLC9999"),
    ],
    ids=lambda x: str(x)[:30],
)
def test_a_command_line_that_asks_for_what_is_not_there(
    arguments: list[str], status: int, says: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "user.py").write_text(body("T.copy(F, B[0, 0])"))
    monkeypatch.chdir(tmp_path)
    assert command_line(arguments) == status
    err = capfd.readouterr().err
    assert says in err and "Traceback" not in err


def test_a_file_that_is_not_text(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "binary.py"
    file.write_bytes(b"\xff\xfe\x00\x01")
    assert command_line(["check", str(file)]) == 1
    assert "TLC019" in capfd.readouterr().err


RACES = """
import tilec, tilec.language as T


@tilec.kernel
def overwritten(A: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float32")):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for n in range(2):
            for i, j in T.Parallel(64, 64):
                S[i, j] = A[i, j] + n
            T.wgmma_gemm(S, S, acc, transpose_B=True)
        T.wait_wgmma(0)
        T.copy(acc, C)
"""


def test_check_looks_for_hazards_that_lowering_does_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "races.py"
    path.write_text(RACES)
    out = ["-o", str(tmp_path / "out"), "--emit", "ir"]
    assert command_line(["build", str(path), *out]) == 0
    capfd.readouterr()
    assert command_line(["check", str(path)]) == 1
    told = capfd.readouterr()
    line = RACES.splitlines().index("            T.wgmma_gemm(S, S, acc, transpose_B=True)") + 1
    assert not told.out and "TLC0352" in told.err and f"races.py:{line}" in told.err
