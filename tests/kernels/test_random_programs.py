"""Random programs mean the same to the interpreter and to the emulated text, to the bit, and the
checker of hazards proves them.

A failure shows the smallest program that still fails, as a file to run. Seeds are the same in every
run: `make test PYTEST_ARGS="--nightly -m nightly tests/kernels/test_random_programs.py"` takes more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels.machines import SCHEDULES, TARGETS
from tests.kernels.random_programs import RandomProgram, Writer, paths, without
from tests.parser.programs import load
from tilec.errors import LayoutConflict, OutOfResources, TilecError
from tilec.ir.core import Program
from tilec.passes.check_hazards import CHECKS
from tilec.passes.context import PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

pytestmark = pytest.mark.emulator
UNPROVED = ("TLC0340", "TLC0341")
"""What a right program may be told, beside that it does not fit: where threads part, that barriers
cannot be placed."""


def difference(program: RandomProgram, target: str, folder: Path) -> str | None:
    """What is wrong with a program on a target; None if nothing is, "" where it is refused."""
    kernel = load(folder, program.text()).k
    given = program.arguments()
    mode, order = SCHEDULES[program.seed % len(SCHEDULES)]
    devices = (InterpreterDevice("", "a test"), EmulatorDevice(target, "a test", mode, order, 7))
    results = []
    try:
        prove(kernel.trace({}), target)
        compiled = lower(kernel, (), target, {})
        for device in devices:
            own = [np.array(x) if isinstance(x, np.ndarray) else x for x in given]
            compiled.run_on(device, own)
            results.append(own[:-1])
    except TilecError as error:
        if isinstance(error, (LayoutConflict, OutOfResources)) or error.code in UNPROVED:
            return ""
        return f"{type(error).__name__} {error.code}: {error.message}"
    for number, (x, y) in enumerate(zip(*results, strict=True)):
        if not np.array_equal(numbers(x), numbers(y), equal_nan=True):
            at = np.argwhere(numbers(x) != numbers(y))
            return f"argument {number} differs in {len(at)} elements, first at {at[0].tolist()}"
    return None


def prove(program: Program, target: str) -> None:
    """Runs the checker of hazards wherever it has something to say."""
    context = PassContext(find_target(target), standard_registry())

    def observe(name: str, before: Program, after: Program) -> None:
        if name in CHECKS:
            CHECKS[name](after, context)

    run_pipeline(program, context, after="lower_tiles", observers=(observe,), checked=False)


def numbers(x: Any) -> Any:
    return x.astype(np.float64)


def smallest(program: RandomProgram, target: str, folder: Path) -> RandomProgram:
    """The program without every statement that it fails without."""
    shrunk = True
    while shrunk:
        shrunk = False
        for path in paths(program):
            smaller = without(program, path)
            if difference(smaller, target, folder):
                program, shrunk = smaller, True
                break
    return program


def check(seed: int, target: str, folder: Path) -> bool:
    """Whether the program of a seed ran; fails where machines disagree."""
    program = Writer(seed).program()
    found = difference(program, target, folder)
    if found:
        program = smallest(program, target, folder)
        found = difference(program, target, folder)
        pytest.fail(f"seed {seed} on {target}: {found}\n{program.text()}", pytrace=False)
    return found is None


def test_random_programs(tmp_path: Path) -> None:
    """Each on one target, the targets in turn."""
    ran = [check(seed, TARGETS[seed % len(TARGETS)], tmp_path) for seed in range(20, 26)]
    assert sum(ran) >= 5, "most programs should not be refused"


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("start", range(1000, 1200, 20))
def test_more_random_programs(start: int, target: str, tmp_path: Path) -> None:
    ran = [check(seed, target, tmp_path) for seed in range(start, start + 20)]
    assert sum(ran) >= 16


def test_programs_are_those_of_their_seeds_and_vary() -> None:
    texts = [Writer(seed).program().text() for seed in range(40)]
    assert texts == [Writer(seed).program().text() for seed in range(40)]
    everything = "\n".join(texts)
    for word in ("T.gemm", "T.reduce_bitxor", "T.cummax", "T.Pipelined", "T.atomic_add", "else:",
                 "T.if_then_else", "bfloat16", "uint32", "reverse", "clear=False", "if bx % 2"):  # fmt: skip
        assert word in everything, word


@pytest.mark.nightly
def test_a_fault_is_found_and_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pass that forgets barriers, some program goes wrong, and little is left of it."""
    from tilec.passes import pipeline

    kept = tuple(p for p in pipeline.PIPELINE if p.__name__ != "place_barriers")
    monkeypatch.setattr(pipeline, "PIPELINE", kept)
    for seed in range(20, 40):
        program = Writer(seed).program()
        if difference(program, "cuda:sm_80", tmp_path):
            small = smallest(program, "cuda:sm_80", tmp_path)
            assert difference(small, "cuda:sm_80", tmp_path)
            assert len(paths(small)) <= min(4, len(paths(program)))
            return
    pytest.fail("no random program needs a barrier")
