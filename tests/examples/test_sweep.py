"""Every example on every machine that the emulator knows, beside its reference and the interpreter,
at extents around its tile; one compilation serves all sizes of a target.

In every run any two values of two extents meet on some target: sizes are dealt to the targets in
turn. Of targets that differ little a kernel leaves one out, in turn. All orders and modes run on
sm_80, one of them drawn by lot elsewhere. The nightly run takes every size on every target, in
every order and mode.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.examples.swept import EMULATED, Size, every_kernel
from tests.kernels.machines import SCHEDULES
from tests.modules import EXAMPLES, example_targets
from tilec.cli.programs import trace
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import compile_program
from tilec.runtime.emulator import Mode, Order
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.target import find_target

pytestmark = pytest.mark.emulator
KERNELS = every_kernel()
# Programs with tests of their own: demo.py runs two of the others, and a pipeline of several kernels.
SCRIPTS = {"demo", "cupy_pipeline"}
ALL_SCHEDULES = "cuda:sm_80"
WHOLE = 2  # sizes of a run that take every order and mode
ALIKE = (("cuda:sm_75", "cuda:sm_89"), ("hip:gfx90a", "hip:gfx942", "hip:gfx950"))


@cache
def compiled(case: int, target: str) -> CompiledKernel:
    swept, machine = KERNELS[case], find_target(target)
    made = compile_program(trace(swept.kernel, swept.constants, machine), machine)
    made.add_general()
    return made


def emulate(case: int, target: str, size: Size, mode: Mode, order: Order) -> bytes:
    """The bits of all arguments after a run, which are as they must be."""
    arrays, check = KERNELS[case].prepare(*size)
    EmulatorDevice(target, "a test", mode, order, 3).run(compiled(case, target), arrays)
    check(arrays)
    return b"".join(a.tobytes() for a in arrays)


def interpret(case: int, target: str, size: Size) -> None:
    arrays, check = KERNELS[case].prepare(*size)
    InterpreterDevice("", "a test").run(compiled(case, target), arrays)
    check(arrays)


def check_schedules(case: int, target: str, size: Size) -> None:
    bits = {schedule: emulate(case, target, size, *schedule) for schedule in SCHEDULES}
    first = bits[SCHEDULES[0]]
    different = [schedule for schedule, found in bits.items() if found != first]
    assert not different, f"{KERNELS[case]} at {size}: {different} differ from {SCHEDULES[0]}"


def targets_of_a_run(case: int) -> tuple[str, ...]:
    """The targets that every run has a kernel on."""
    targets = KERNELS[case].targets
    if targets != EMULATED:
        return targets
    taken = {alike[case % len(alike)] for alike in ALIKE}
    others = {target for alike in ALIKE for target in alike} - taken
    return tuple(target for target in targets if target not in others)


def dealt(case: int, target: str) -> list[Size]:
    """The share of the sizes that a target has in a run; all where there are few."""
    sizes, targets = KERNELS[case].sizes(), targets_of_a_run(case)
    random.Random(str(KERNELS[case])).shuffle(sizes)
    count = len(targets)
    return sizes[targets.index(target) :: count] if len(sizes) >= 2 * count else sizes


PAIRS = [(i, target) for i, swept in enumerate(KERNELS) for target in swept.targets]
IN_A_RUN = [(i, target) for i, target in PAIRS if target in targets_of_a_run(i)]


def name(pair: tuple[int, str]) -> str:
    return f"{KERNELS[pair[0]]}-{pair[1].partition(':')[2]}"


@pytest.mark.parametrize(("case", "target"), IN_A_RUN, ids=map(name, IN_A_RUN))
def test_an_example_on_a_machine(case: int, target: str) -> None:
    drawn = random.Random(f"{KERNELS[case]} {target}").choice(SCHEDULES)
    for number, size in enumerate(dealt(case, target)):
        try:
            if target == ALL_SCHEDULES and number < WHOLE:
                check_schedules(case, target, size)
            else:
                emulate(case, target, size, *drawn)
            interpret(case, target, size)
        except AssertionError as wrong:
            raise AssertionError(f"{name((case, target))} at {size}: {wrong}") from wrong


@pytest.mark.nightly
@pytest.mark.parametrize(("case", "target"), PAIRS, ids=map(name, PAIRS))
def test_every_size_in_every_schedule(case: int, target: str) -> None:
    for size in KERNELS[case].sizes():
        check_schedules(case, target, size)


def test_every_example_is_swept_on_every_target() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")} - SCRIPTS
    reached = {(KERNELS[i].example, target) for i, target in PAIRS}
    wanted = {(name, t) for name in there for t in EMULATED if t in example_targets(name)}
    missing = wanted - reached
    # The kernels of gemm_dtypes share the targets that its own test leaves out.
    assert missing == {("gemm_dtypes", t) for t in ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")}


def test_any_two_extents_meet() -> None:
    for case, swept in enumerate(KERNELS):
        for i in range(len(swept.extents)):
            for j in range(i):
                met = {(size[i], size[j]) for size in swept.sizes()}
                pairs = {(a, b) for a in swept.extents[i] for b in swept.extents[j]}
                assert met == pairs, str(swept)
                shared = [s for target in targets_of_a_run(case) for s in dealt(case, target)]
                assert set(shared) == set(swept.sizes())


def test_every_run_has_every_target_often() -> None:
    """Each on its share of the kernels that it can run, sm_80 and sm_90a on all of them."""
    shares = {target: len(alike) for alike in ALIKE for target in alike}
    for target in EMULATED:
        able = [pair for pair in PAIRS if pair[1] == target]
        taken = [pair for pair in able if pair in IN_A_RUN]
        assert able and len(taken) >= len(able) // shares.get(target, 1), target
