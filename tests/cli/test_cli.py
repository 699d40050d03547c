"""The command line, in process: what each command prints, writes and exits with."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tilec.cli import run as command_line
from tilec.errors import MissingTool
from tilec.ir.ops import builtin_registry
from tilec.parser.text import parse_program

ROOT = Path(__file__).resolve().parents[2]
GEMM = str(ROOT / "examples" / "gemm.py")
ORIGIN = str(ROOT / "examples" / "dequantize_gemm.py")
SMALL = ["-D", "block_M=64", "-D", "block_N=64", "-D", "block_K=32", "-D", "threads=128"]
TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")

KERNEL = """\
from __future__ import annotations

import tilec
import tilec.language as T


@tilec.kernel
def double(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), step: int = 32):
    with T.Kernel(T.ceildiv(A.shape[0], step), threads=32) as bx:
        for i in T.Parallel(step):
            B[bx * step + i] = A[bx * step + i] * FACTOR


def reference(A):
    return A * 2
"""


@pytest.fixture
def double(tmp_path: Path) -> Path:
    path = tmp_path / "double.py"
    path.write_text(KERNEL.replace("FACTOR", "2"))
    return path


def tilec(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command line."""
    capfd.readouterr()
    status = command_line([str(a) for a in arguments])
    out, err = capfd.readouterr()
    return status, out, err


Capture = pytest.CaptureFixture[str]


# run
# -------------------------------------------------------------------------------------------------


def test_run_an_example_with_a_main(capfd: Capture) -> None:
    status, out, err = tilec(capfd, "run", GEMM, "--device", "interpreter")
    assert status == 0 and "elements checked against 64-bit floats" in out
    assert re.search(r"main: \d+\.\d\d s", err)


def test_run_a_kernel_and_compare_with_its_reference(capfd: Capture, double: Path) -> None:
    status, out, _ = tilec(capfd, "run", double, "--device", "interpreter", "-D", "N=100")
    assert status == 0
    assert "double on interpreter" in out and "because" in out
    assert "B: 100 elements agree with the file's reference" in out


def test_run_without_a_reference_says_what_was_checked(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "alone.py"
    path.write_text(KERNEL.replace("FACTOR", "3").split("def reference")[0])
    status, out, _ = tilec(capfd, "run", path, "--device", "interpreter")
    assert status == 0 and "no reference to compare with" in out
    assert "bounds, conflicts and uninitialised memory checked" in out


def test_a_wrong_result_is_5(capfd: Capture, double: Path) -> None:
    double.write_text(KERNEL.replace("FACTOR", "3"))
    status, _, err = tilec(capfd, "run", double, "--device", "interpreter")
    assert status == 5 and "TLC0760" in err and "double's B is wrong" in err


def test_a_device_that_is_not_here_is_4(capfd: Capture, double: Path) -> None:
    if _gpu():
        pytest.fail("this machine has a GPU: the test says nothing here")
    status, _, err = tilec(capfd, "run", double, "--device", "cuda")
    assert status == 4 and "TLC" in err


def _gpu() -> bool:
    return Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()


# check, build
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [GEMM, ORIGIN], ids=["gemm", "origin"])
def test_check_the_examples_for_every_target(capfd: Capture, example: str) -> None:
    options = [x for target in TARGETS for x in ("--target", target)]
    status, out, err = tilec(capfd, "check", example, *options)
    assert status == 0, err
    name = "matmul" if example == GEMM else "main"
    assert out.splitlines() == [f"{name} for {target}: ok" for target in TARGETS]
    assert "remark [TLC0321]" in err  # what was chosen for sm_90a


def test_build_without_a_compiler(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is the product: it is written, and its check left out; asked-for code is 3."""

    def none_here(*_: object) -> None:
        raise MissingTool("TLC0702", "no compiler for cuda is here")

    monkeypatch.setattr("tilec.cli.build.pick_compiler", none_here)
    common = ["build", GEMM, *SMALL, "--target", "cuda:sm_80", "-o", tmp_path / "out"]
    status, out, err = tilec(capfd, *common)
    assert status == 0 and "not compiled here (no compiler for cuda is here)" in err
    assert (tmp_path / "out" / "matmul.cu").exists() and out
    status, _, err = tilec(capfd, *common, "--emit", "binary")
    assert status == 3 and "TLC0702" in err


# show, opt
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", [GEMM, ORIGIN], ids=["gemm", "origin"])
def test_show_pipelines(capfd: Capture, example: str) -> None:
    status, out, err = tilec(capfd, "show", "pipeline", example, "--target", "cuda:sm_90a")
    assert status == 0, err
    assert "role producer" in out and "role consumer" in out
    assert "stage load" in out and "stage mma" in out
    assert re.search(r"channel A_s(hared)?: channel<\d> shared f16", out)
    assert "because" in out


def test_show_says_what_a_cluster_shares(capfd: Capture, tmp_path: Path) -> None:
    text = Path(GEMM).read_text().replace("threads=threads)", "threads=threads, cluster=(1, 2))")
    (tmp_path / "clustered.py").write_text(text)
    status, out, err = tilec(capfd, "show", "pipeline", tmp_path / "clustered.py")
    assert status == 0, err
    assert "1 resident blocks a multiprocessor, clusters of 1 x 2 x 1 blocks" in out
    (line,) = (line for line in out.splitlines() if "channel B_s" in line)
    assert line.endswith("from load to mma, each tile for 2 blocks of the cluster")
    assert "TLC0332" in out and "B to 2" in out


def test_show_source_and_ir(capfd: Capture) -> None:
    status, source, _ = tilec(capfd, "show", "source", GEMM, *SMALL, "--target", "cuda:sm_80")
    assert status == 0 and "matmul_kernel" in source and "#include" not in source
    status, traced, _ = tilec(capfd, "show", "ir", GEMM)
    assert status == 0 and "fill %acc, 0.0" in traced
    status, planned, _ = tilec(capfd, "show", "ir", GEMM, "--after", "plan_pipelines")
    assert status == 0 and 'stage <label = "load">' in planned
    registry = builtin_registry()
    for text in (traced, planned):
        assert parse_program(text, registry, "shown.tir").name == "matmul"


def test_opt_runs_passes_over_text(capfd: Capture, tmp_path: Path) -> None:
    _, traced, _ = tilec(capfd, "show", "ir", GEMM)
    path = tmp_path / "matmul.tir"
    path.write_text(traced)
    status, out, _ = tilec(capfd, "opt", path)
    assert status == 0 and out == traced
    passes = "canonicalize,promote_fragments,lift_copies,canonicalize,plan_pipelines"
    status, out, _ = tilec(capfd, "opt", path, "--passes", passes)
    assert status == 0 and 'stage <label = "load">' in out
    status, out, err = tilec(
        capfd, "opt", path, "--passes", "all", "--target", "cuda:sm_80", "--dump", tmp_path / "d"
    )
    assert status == 0, err
    assert "<level = thread" in out and (tmp_path / "d" / "times.txt").exists()


def test_a_folder_of_programs_that_cannot_be_made_is_refused(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("TILEC_DUMP", str(tmp_path / "taken" / "inside"))
    status, _, err = tilec(capfd, "show", "source", GEMM, *SMALL)
    assert status == 1 and "TLC0603" in err and "cannot be written to" in err and "hint" in err


def test_a_reproducer_replays(capfd: Capture, tmp_path: Path) -> None:
    """`tilec opt` on text that a pass cannot take ends as the pass did: 70, naming it."""
    _, traced, _ = tilec(capfd, "show", "ir", GEMM)
    path = tmp_path / "traced.tir"
    path.write_text(traced)
    status, _, err = tilec(capfd, "opt", path, "--passes", "lower_tiles")
    assert status == 70 and "pass lower_tiles failed" in err


# Errors
# -------------------------------------------------------------------------------------------------


def test_usage_is_2(capfd: Capture, double: Path, tmp_path: Path) -> None:
    for arguments in (
        ["nonsense"], ["run"], ["run", tmp_path / "absent.py"], ["run", double, "-D", "N"],
        ["build", double, "--emit", "wishes"], ["show", "everything", double],
        ["build", double, "-o", double / "out"], ["run", GEMM, "-D", "block_M=64"],
    ):  # fmt: skip
        assert tilec(capfd, *arguments)[0] == 2, arguments


def test_a_refusal_is_1_with_its_place(capfd: Capture, double: Path) -> None:
    text = KERNEL.replace("FACTOR", "2").replace("T.Parallel(step)", "T.Paralel(step)")
    double.write_text(text)
    status, out, err = tilec(capfd, "check", double)
    line = text.splitlines().index("        for i in T.Paralel(step):") + 1
    assert status == 1 and not out
    assert f"double.py:{line}" in err and "TLC0101" in err and "T.Parallel" in err


@pytest.mark.parametrize("spelled", [["--format", "json"], ["--format=json"]])
def test_errors_as_json(capfd: Capture, double: Path, spelled: list[str]) -> None:
    double.write_text(KERNEL.replace("FACTOR", "2").replace("T.Parallel(step)", "T.Paralel(step)"))
    status, _, err = tilec(capfd, *spelled, "check", double)
    error = json.loads(err)
    assert status == 1 and error["code"] == "TLC0101" and error["kind"] == "UnknownName"
    assert error["locations"][0]["file"] == str(double) and error["locations"][0]["line"] == 10


def test_files_of_one_name_are_told_apart(capfd: Capture, tmp_path: Path) -> None:
    """The second is not taken for the first, nor a file called json.py for Python's."""
    for folder, factor in (("a", "2"), ("b", "3")):
        for name in ("double.py", "json.py"):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(KERNEL.replace("FACTOR", factor))
            status, _, _ = tilec(capfd, "run", path, "--device", "interpreter")
            assert status == (0 if factor == "2" else 5), path


def test_what_the_users_file_raises_is_the_users(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("x = 1\ny = x / 0\n")
    status, _, err = tilec(capfd, "check", path)
    assert status == 1 and "broken.py:2" in err and "ZeroDivisionError" in err
    path.write_text("x = 1\n")
    status, _, err = tilec(capfd, "check", path)
    assert status == 1 and "has no kernel" in err


def test_a_pass_that_does_not_exist_is_1(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "empty.tir"
    path.write_text("tilec.ir 1\nprogram @empty() <level = tile> {\n}\n")
    status, _, err = tilec(capfd, "opt", path, "--passes", "wish")
    assert status == 1 and "TLC0214" in err and "plan_pipelines" in err


def test_text_that_is_no_ir_is_1(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "wrong.tir"
    path.write_text("tilec.ir 1\nprogram @empty( {\n}\n")
    status, _, err = tilec(capfd, "opt", path)
    assert status == 1 and "wrong.tir:2" in err


def test_a_bug_is_70_and_keeps_its_cause(
    capfd: Capture, double: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("tilec.cli.check.load_file", bug)
    status, _, err = tilec(capfd, "check", double)
    assert status == 70 and "TLC9000" in err and "KeyError" in err and "bug of tilec" in err


def test_version_and_help(capfd: Capture) -> None:
    status, out, _ = tilec(capfd, "--version")
    assert status == 0 and re.fullmatch(r"tilec \d+\.\d+\.\d+\n", out)
    status, out, _ = tilec(capfd, "--help")
    assert status == 0 and all(name in out for name in ("run", "build", "check", "opt", "show"))


def test_as_a_module() -> None:
    """`python -m tilec`: the same, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tilec", "show", "pipeline", GEMM, "--target", "cuda:sm_80"],
        capture_output=True, text=True, check=False, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "matmul for cuda:sm_80" in done.stdout


# doctor, cache, repro, json
# -------------------------------------------------------------------------------------------------


def test_doctor_says_what_is_here(capfd: Capture) -> None:
    status, out, _ = tilec(capfd, "doctor", "--format", "json")
    about = json.loads(out)
    assert status == 0 and about["python"] == platform.python_version()
    tools = {tool["name"]: tool for tool in about["compilers"]}
    assert set(tools) >= {"nvrtc", "nvcc", "hiprtc", "clang", "C++"}
    for tool in tools.values():
        assert bool(tool["version"]) != bool(tool["problem"])
    assert [d["kind"] for d in about["drivers"]] == ["cuda", "hip"]
    status, out, _ = tilec(capfd, "doctor")
    assert status == 0 and "device     " in out and "because" in out and "hip:gfx942" in out


def test_doctor_with_two_gpus_and_nothing_else(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Driver:
        count = 2

        def capability(self, index: int) -> tuple[int, int]:
            return (9, 0) if index == 0 else (3, 5)

        def device_name(self, index: int) -> str:
            return f"GPU {index}"

        def version(self) -> int:
            return 13010

        def multiprocessors(self, index: int) -> int:
            return 132

        max_shared_bytes = multiprocessors

    def absent(name: str) -> tuple[str, str, MissingTool]:
        return (name, name, missing(name))

    def missing(name: str) -> MissingTool:
        return MissingTool("TLC0702", f"no {name}", hint=f"install {name}")

    def no_host_compiler() -> None:
        raise missing("C++")

    monkeypatch.setattr("tilec.cli.doctor.driver_of", lambda kind: Driver())
    monkeypatch.setattr("tilec.cli.doctor.find_compilers", lambda: [absent("cuda"), absent("hip")])
    monkeypatch.setattr("tilec.cli.doctor.find_host_compiler", no_host_compiler)
    status, out, _ = tilec(capfd, "doctor")
    assert status == 0
    assert "GPU 0 (cuda 9.0, driver 13010): cuda:sm_90a" in out
    assert "GPU 1 (cuda 3.5, driver 13010): no listed target runs on" in out
    assert "to compile CUDA text: install cuda" in out and "to compile HIP text: install hip" in out
    assert "emulator   C++: no C++" in out
    assert "to run emitted text on the CPU: install C++" in out


@pytest.mark.emulator
def test_counts_by_line(capfd: Capture, tmp_path: Path) -> None:
    """A column of shared memory is read 32-way; each line of the kernel has its counts."""
    file = tmp_path / "columns.py"
    file.write_text(COLUMNS)
    common = ["run", file, "--counts", "--device", "emulator:cuda:sm_80"]
    status, out, _ = tilec(capfd, *common)
    line = next(n for n, text in enumerate(COLUMNS.splitlines(), 1) if "S[t, 0]" in text)
    assert status == 0, out
    assert (
        f"columns.py:{line}: load of 4 bytes, shared memory: 1 accesses, 32 wavefronts, "
        "31 beyond the ideal, up to 32-way"
    ) in out
    assert "bank conflicts: 31 wavefronts" in out
    status, out, _ = tilec(capfd, *common, "--format=json")
    counts = json.loads(out)["counts"]
    worst = counts[0]
    assert (worst["line"], worst["worst"], worst["beyond"]) == (f"columns.py:{line}", 32, 31)
    assert {c["memory"] for c in counts} == {"A", "B", "shared memory"}
    status, _, err = tilec(capfd, "run", file, "--counts", "--device", "interpreter")
    assert status != 0 and "TLC0909" in err and "--device emulator:cuda:sm_80" in err


COLUMNS = """
import tilec
import tilec.language as T


@tilec.kernel
def columns(A: T.Tensor((32, 32), "float32"), B: T.Tensor((32,), "float32")):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((32, 32), "float32")
        t = T.get_thread_binding()
        for i in range(32):
            S[i, t] = A[i, t]
        T.sync_threads()
        B[t] = S[t, 0]
"""


def test_cache_holds_what_build_compiled(
    capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TILEC_CACHE_DIR", str(folder))
    assert tilec(capfd, "cache", "path")[1] == f"{folder}\n"
    build = ["build", GEMM, *SMALL, "--target", "cuda:sm_80", "-o", tmp_path / "out"]
    assert tilec(capfd, *build)[0] == 0
    _, out, _ = tilec(capfd, "cache", "list", "--format=json")
    entries = json.loads(out)["entries"]
    assert entries and all("matmul" in e["name"] and e["compiler"] for e in entries)
    assert tilec(capfd, "cache", "size")[1].startswith(f"{len(entries)} entries, ")
    assert tilec(capfd, "cache", "verify")[0] == 0
    victim = next(folder.rglob("*.tlc"))
    victim.write_bytes(victim.read_bytes()[:-1])
    status, out, _ = tilec(capfd, "cache", "verify")
    assert status == 1 and f"{victim.name}: damaged, removed" in out and not victim.exists()
    assert tilec(capfd, "cache", "clear")[0] == 0
    assert tilec(capfd, "cache", "size")[1].startswith("0 entries")


def test_a_cache_that_is_off(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CACHE", "0")
    status, out, err = tilec(capfd, "cache", "path")
    assert status == 0 and not out and "TILEC_CACHE=0" in err


def test_repro_packs_a_file_and_replays_a_failed_pass(
    capfd: Capture, double: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "packed"
    status, out, _ = tilec(capfd, "repro", double, "-o", folder, "--target", "hip:gfx942")
    assert status == 0 and out == f"{folder}\n"
    assert (folder / "double.py").read_text() == double.read_text()
    assert (folder / "double-hip-gfx942" / "00_input.tir").read_text() == (
        folder / "double.tir"
    ).read_text()
    assert list((folder / "double-hip-gfx942").glob("*.hip"))
    assert json.loads((folder / "about.json").read_text())["target"] == "hip:gfx942"

    broken = tmp_path / "broken"
    traced = tmp_path / "matmul.tir"
    traced.write_text(tilec(capfd, "show", "ir", GEMM)[1])
    status, _, err = tilec(capfd, "opt", traced, "--passes", "lower_tiles", "--dump", broken)
    assert status == 70 and f"tilec repro {broken}" in err
    status, _, err = tilec(capfd, "repro", broken)
    assert status == 70 and "pass lower_tiles failed" in err

    about = json.loads((broken / "reproducer.json").read_text())
    (broken / "reproducer.json").write_text(json.dumps(about | {"pass": "canonicalize"}))
    status, out, _ = tilec(capfd, "repro", broken)
    assert status == 0 and "canonicalize on" in out and "does not fail" in out

    (broken / "reproducer.json").write_text("{}")
    status, _, err = tilec(capfd, "repro", broken)
    assert status == 1 and "TLC0194" in err


def test_repro_keeps_the_error_of_a_file(capfd: Capture, double: Path, tmp_path: Path) -> None:
    double.write_text(KERNEL.replace("FACTOR", "2").replace("T.Parallel(step)", "T.Paralel(step)"))
    status, _, err = tilec(capfd, "repro", double, "-o", tmp_path / "p")
    assert status == 1 and "TLC0101" in err
    assert "TLC0101" in json.loads((tmp_path / "p" / "about.json").read_text())["error"]


def test_every_product_as_json(capfd: Capture, double: Path, tmp_path: Path) -> None:
    """stdout is one document and nothing else; each line of stderr is one."""
    noisy = double.with_name("noisy.py")
    noisy.write_text(double.read_text() + "\nprint('hello')\n")
    traced = tmp_path / "double.tir"
    traced.write_text(tilec(capfd, "show", "ir", double)[1])
    for arguments in (
        ["run", noisy, "--device", "interpreter"], ["check", noisy], ["show", "ir", double],
        ["show", "source", double], ["show", "pipeline", noisy], ["opt", traced],
        ["build", double, "-o", tmp_path / "out"], ["cache", "size"], ["explain", "TLC0101"],
        ["repro", double, "-o", tmp_path / "packed"],
    ):  # fmt: skip
        status, out, err = tilec(capfd, *arguments, "--format", "json")
        assert status == 0, (arguments, err)
        assert isinstance(json.loads(out), dict), arguments
        for line in err.splitlines():
            assert line == "hello" or "kind" in json.loads(line), (arguments, line)


def test_a_usage_error_as_json(capfd: Capture) -> None:
    status, _, err = tilec(capfd, "check", "--format", "json", "absent.py")
    assert status == 2 and json.loads(err)["kind"] == "UsageError"


def test_a_main_that_raises_is_the_users(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    path.write_text("def main():\n    return {}['lost']\n")
    status, _, err = tilec(capfd, "run", path)
    assert status == 1 and "main.py:2" in err and "KeyError: 'lost'" in err


def test_a_syntax_error_has_its_caret(capfd: Capture, tmp_path: Path) -> None:
    path = tmp_path / "typo.py"
    path.write_text("x = 1\ndef f(:\n    pass\n")
    status, _, err = tilec(capfd, "check", path)
    assert status == 1 and "typo.py:2:7" in err and "TLC0190" in err and "      ^" in err
