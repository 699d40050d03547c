"""The driver of passes: order, dumps, reproducers, times, names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.passes import planned_kernels as kernels
from tests.passes.planning import NAMES, PLANNING, REGISTRY, line_of, refused
from tilec.errors import InternalError, IRError, LanguageError
from tilec.ir.compare import same_program
from tilec.ir.core import Block, Program
from tilec.ir.ops.control import Launch, Yield
from tilec.ir.print import print_program
from tilec.parser.text import parse_program
from tilec.passes.context import Facts, PassContext
from tilec.passes.pipeline import PIPELINE, Run, find_passes, run_pipeline
from tilec.target import find_target


def context() -> PassContext:
    return PassContext(find_target("cuda:sm_80"), REGISTRY, Facts())


def gemm() -> Program:
    return kernels.gemm_nt.lower_to_ir()


def breaks(program: Program, context: PassContext) -> Program:
    """A pass with a bug of its own."""
    raise ZeroDivisionError("a bug")


def leaves_garbage(program: Program, context: PassContext) -> Program:
    """A pass whose result is no program: a launch whose values are defined nowhere."""
    launch = next(op for op in program.body.ops if isinstance(op, Launch))
    broken = launch.replace(body=Block(launch.body.params, (*launch.body.ops[-2:], Yield(()))))
    return program.with_body(program.body.with_ops([broken]))


def complains(program: Program, context: PassContext) -> Program:
    """A pass that refuses the user's program."""
    raise LanguageError("TLC0303", "no", loc=program.loc)


def test_after_stops_behind_the_last_pass_of_that_name() -> None:
    run = Run()
    run_pipeline(gemm(), context(), after="canonicalize", run=run, passes=PLANNING)
    names = [name for name, _ in run.times]
    last = max(n for n, p in enumerate(PLANNING) if p.__name__ == "canonicalize")
    assert names == [p.__name__ for p in PLANNING[: last + 1]] and names.count("canonicalize") == 3
    assert run.seconds == sum(t for _, t in run.times) > 0


def test_what_comes_after_resumes_from_text() -> None:
    """A program saved at any point goes on as if it had not been."""
    straight = run_pipeline(gemm(), context(), PLANNING)
    for cut in range(1, len(PLANNING), 3):
        half = run_pipeline(gemm(), context(), PLANNING[:cut])
        again = parse_program(print_program(half), REGISTRY, "half.tir")
        resumed = run_pipeline(again, context(), PLANNING[cut:])
        assert same_program(resumed, straight), PLANNING[cut].__name__


def test_the_same_program_gives_the_same_text() -> None:
    texts = set()
    for _ in range(3):
        ballast = [object() for _ in range(1000)]  # other addresses, so other orders of sets
        program = kernels.two_gemms.trace({"stages": 3})
        texts.add(print_program(run_pipeline(program, context(), PLANNING)))
        del ballast
    assert len(texts) == 1


def test_observers_see_every_pass() -> None:
    seen: list[str] = []
    run_pipeline(gemm(), context(), PLANNING, observers=(lambda name, *_: seen.append(name),))
    assert seen == [p.__name__ for p in PLANNING]


def test_a_dump_has_every_step(tmp_path: Path) -> None:
    run_pipeline(gemm(), context(), PLANNING, dump=tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    files = sorted(p.name for p in folder.iterdir())
    assert files[0] == "00_input.tir" and files[-1] == "times.txt"
    for number, pass_ in enumerate(PLANNING, start=1):
        stem = f"{number:02}_{pass_.__name__}"
        assert f"{stem}.tir" in files and f"{stem}.diff" in files
    last = (folder / f"{len(PLANNING):02}_{PLANNING[-1].__name__}.tir").read_text()
    assert print_program(parse_program(last, REGISTRY, "last.tir")) == last
    diff = (folder / "06_promote_fragments.diff").read_text()
    assert "-    fill %acc, 0.0" in diff and "+    %acc = splat 0.0" in diff
    assert len((folder / "times.txt").read_text().splitlines()) == len(PLANNING)


@pytest.mark.parametrize("fault", [breaks, leaves_garbage], ids=lambda f: f.__name__)
def test_a_fault_of_a_pass_names_it_and_can_be_replayed(tmp_path: Path, fault: object) -> None:
    passes = (*PLANNING[:3], fault)
    with pytest.raises(InternalError) as caught:
        run_pipeline(gemm(), context(), passes, dump=tmp_path)  # type: ignore[arg-type]
    name = fault.__name__  # type: ignore[attr-defined]
    error = caught.value
    assert error.code == "TLC9001" and error.exit_status == 70
    assert error.message.startswith(f"pass {name} failed: ") and error.__cause__ is not None
    assert "gemm_nt" in line_of(error.loc) and str(tmp_path) in error.hint
    about = json.loads((tmp_path / "reproducer.json").read_text())
    assert about["pass"] == name and about["target"] == "cuda:sm_80"
    assert about["replay"] == "tilec repro ." and about["assume"] == "all"
    assert "Traceback" in about["error"] or "TLC" in about["error"]
    reproducer = parse_program((tmp_path / "reproducer.tir").read_text(), REGISTRY, "r.tir")
    with pytest.raises(InternalError):
        run_pipeline(reproducer, context(), (fault,))  # type: ignore[arg-type]


def test_without_a_folder_the_reproducer_goes_to_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InternalError) as caught:
        run_pipeline(gemm(), context(), (breaks,))
    assert "ZeroDivisionError: a bug" in caught.value.message
    (folder,) = tmp_path.iterdir()
    assert str(folder) in caught.value.hint
    assert sorted(p.name for p in folder.iterdir()) == ["reproducer.json", "reproducer.tir"]


def test_garbage_is_found_only_where_it_is_looked_for() -> None:
    run_pipeline(gemm(), context(), (leaves_garbage,), checked=False)
    with pytest.raises(InternalError):
        run_pipeline(gemm(), context(), (leaves_garbage,), checked=True)


def test_a_refusal_is_the_users_and_passes_through(tmp_path: Path) -> None:
    error = refused("TLC0303", lambda: run_pipeline(gemm(), context(), (complains,), dump=tmp_path))
    assert error.exit_status == 1 and not (tmp_path / "reproducer.tir").exists()


def test_passes_are_found_by_name() -> None:
    assert find_passes(["promote_fragments", "canonicalize"]) == (PIPELINE[5], PIPELINE[0])
    assert find_passes([]) == ()
    error = refused("TLC0214", lambda: find_passes(["promote_fragments", "promote"]))
    assert isinstance(error, IRError) and "'promote'" in error.message
    assert all(name in error.hint for name in NAMES)


def test_after_must_be_among_the_passes() -> None:
    assert (
        "no pass 'nonsense'"
        in refused("TLC0214", lambda: run_pipeline(gemm(), context(), after="nonsense")).message
    )
    error = refused(
        "TLC0214", lambda: run_pipeline(gemm(), context(), PLANNING[:2], after="plan_pipelines")
    )
    assert "not among those to run" in error.message
