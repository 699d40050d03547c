"""Every example on every machine that the emulator knows, beside its reference and the interpreter,
at extents around its tile; one compilation serves all sizes of a target.

In every run any two values of two extents meet on some target: sizes are dealt to the targets in
turn. All orders and modes run on sm_80, one of them drawn by lot elsewhere. The nightly run takes
every size on every target, in every order and mode.
"""

from __future__ import annotations

import random
from functools import cache

import pytest

from tests.examples.swept import EMULATED, Size, Swept, every_kernel
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


def dealt(swept: Swept, target: str) -> list[Size]:
    """The share of the sizes that a target has in a run; all where there are few."""
    sizes = swept.sizes()
    random.Random(str(swept)).shuffle(sizes)
    count = len(swept.targets)
    return sizes[swept.targets.index(target) :: count] if len(sizes) >= 2 * count else sizes


PAIRS = [(i, target) for i, swept in enumerate(KERNELS) for target in swept.targets]
NAMES = [f"{KERNELS[i]}-{target.partition(':')[2]}" for i, target in PAIRS]


@pytest.mark.parametrize(("case", "target"), PAIRS, ids=NAMES)
def test_an_example_on_a_machine(case: int, target: str) -> None:
    drawn = random.Random(f"{KERNELS[case]} {target}").choice(SCHEDULES)
    for number, size in enumerate(dealt(KERNELS[case], target)):
        try:
            if target == ALL_SCHEDULES and number < WHOLE:
                check_schedules(case, target, size)
            else:
                emulate(case, target, size, *drawn)
            interpret(case, target, size)
        except AssertionError as wrong:
            raise AssertionError(f"{NAMES[PAIRS.index((case, target))]} at {size}: {wrong}") from wrong  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(("case", "target"), PAIRS, ids=NAMES)
def test_every_size_in_every_schedule(case: int, target: str) -> None:
    for size in KERNELS[case].sizes():
        check_schedules(case, target, size)


def test_every_example_is_swept_on_every_target() -> None:
    there = {path.stem for path in EXAMPLES.glob("*.py")} - SCRIPTS
    reached = {(swept.example, target) for swept in KERNELS for target in swept.targets}
    wanted = {(name, t) for name in there for t in EMULATED if t in example_targets(name)}
    missing = wanted - reached
    # The kernels of gemm_dtypes share the targets that its own test leaves out.
    assert missing == {("gemm_dtypes", t) for t in ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")}


def test_any_two_extents_meet() -> None:
    for swept in KERNELS:
        for i in range(len(swept.extents)):
            for j in range(i):
                met = {(size[i], size[j]) for size in swept.sizes()}
                pairs = {(a, b) for a in swept.extents[i] for b in swept.extents[j]}
                assert met == pairs, str(swept)
                shared = [s for target in swept.targets for s in dealt(swept, target)]
                assert set(shared) == set(swept.sizes())
