"""Both programs on three machines: the interpreter's product is the emulated text's, whatever the
launch class, and every schedule of threads and engines gives the same bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tests.kernels import programs
from tests.kernels.machines import (
    SCHEDULES,
    TARGETS,
    Case,
    Size,
    covering_cases,
    every_case,
    interpret,
    trip_sizes,
)
from tests.kernels.programs import few_sizes, packed, reference, sizes
from tilec.interpreter import tolerance
from tilec.interpreter.compare import assert_close
from tilec.ir.dtypes import f16, find_dtype
from tilec.runtime.check_args import bind_arguments, pick_variant
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

pytestmark = [pytest.mark.emulator, pytest.mark.optimised]
CASES = tuple(covering_cases())


def launch_class(case: Case, size: Size) -> str:
    """The file of the variant that arguments of this size pick."""
    manifest = case.lower().manifest
    return pick_variant(manifest, bind_arguments(manifest, case.operands(size)).views).source


def check_values(case: Case, size: Size) -> None:
    """Emulated and interpreted products against each other and against float64."""
    a, b, _ = case.operands(size)
    exact, allowed = reference(a, b, case.transpose_b)
    dtype = find_dtype(case.dtype)
    emulated = case.emulate(size)
    interpreted = interpret(case.tile, case.dtype, case.transpose_b, case.stages, size)
    assert_close(emulated, exact, allowed, dtype, f"{case} at {size}")
    assert_close(interpreted, exact, allowed, dtype, f"the interpreter at {size}")
    assert_close(emulated, interpreted, allowed, dtype, f"{case} beside the interpreter at {size}")


def check_schedules(case: Case, size: Size) -> None:
    """Late and early engines, three orders of threads and blocks: the same bits."""
    first, *others = (case.emulate(size, mode, order).tobytes() for mode, order in SCHEDULES)
    for schedule, bits in zip(SCHEDULES[1:], others, strict=True):
        assert bits == first, f"{case} at {size}: {schedule} differs from {SCHEDULES[0]}"


def check(case: Case, chosen: list[Size], scheduled: int) -> None:
    """Values at every size of `chosen`, all schedules at `scheduled` of them in each class."""
    classes: dict[str, list[Size]] = {}
    for size in chosen:
        check_values(case, size)
        if 0 not in size:
            classes.setdefault(launch_class(case, size), []).append(size)
    # No size here takes 2^31 bytes (test_large_offsets.py); rows of B along N are aligned as C's are.
    unmet = {"_large"} if case.transpose_b else {"_large", "_read"}
    assert set(classes) == {v.file_name for v in case.lower().variants if v.suffix not in unmet}
    for members in classes.values():
        for size in case.draws.sample(members, min(scheduled, len(members))):
            check_schedules(case, size)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gemm(case: Case) -> None:
    check(case, few_sizes(case.tile, case.stages) + trip_sizes(case.tile, case.stages), 1)


@pytest.mark.nightly
@pytest.mark.parametrize("case", tuple(every_case()), ids=str)
def test_gemm_whole(case: Case) -> None:
    check(case, list(dict.fromkeys(sizes(case.tile, case.stages))), 4)


def test_covering_cases_cover() -> None:
    """On every target every pair of values of two parameters."""
    for target in TARGETS:
        for cases in (CASES, tuple(every_case())):
            rows = [(c.tile, c.dtype, c.transpose_b, c.stages) for c in cases if c.target == target]
            for i, j in itertools.combinations(range(4), 2):
                values = {row[i] for row in rows}, {row[j] for row in rows}
                assert {(row[i], row[j]) for row in rows} == set(itertools.product(*values))
            assert [len({row[i] for row in rows}) for i in range(4)] == [3, 2, 2, 6]


# The origin kernel has its sizes in its text, so each size is a program of its own. Its tile is
# 128x128x64 in 3 stages; K is even, two values of B to a byte.
ORIGIN_SIZES = ((128, 128, 64), (129, 127, 190), (1, 255, 258), (131, 8, 128))
ORIGIN_WHOLE = (*ORIGIN_SIZES, (127, 1, 62), (255, 129, 2), (128, 136, 256), (256, 128, 320),
                (0, 128, 64), (128, 0, 64), (64, 64, 0), (173, 179, 66))  # fmt: skip


def check_origin(target: str, size: Size) -> None:
    m, n, k = size
    kernel = programs.origin(m, n, k)
    compiled = lower(kernel, (), target, {})
    values, b = packed(n, k, seed=m)
    a = np.random.default_rng(k).standard_normal((m, k)).astype(np.float16)
    exact = a.astype(np.float64) @ values.T.astype(np.float64)
    allowed = tolerance(exact, k, a, values.T, f16)
    results = {}
    for mode, order in SCHEDULES:
        c = np.full((m, n), np.nan, np.float16)
        compiled.run_on(EmulatorDevice(target, "a test", mode, order, 3), (a, b, c))
        assert_close(c, exact, allowed, f16, f"{target} {mode} {order}")
        results[mode, order] = c.tobytes()
    assert len(set(results.values())) == 1
    c = np.full((m, n), np.nan, np.float16)
    InterpreterDevice("", "a test").run(compiled, (a, b, c))
    assert_close(c, exact, allowed, f16, "the interpreter")


@pytest.mark.parametrize("size", ORIGIN_SIZES, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_origin(target: str, size: Size) -> None:
    check_origin(target, size)


@pytest.mark.nightly
@pytest.mark.parametrize("size", ORIGIN_WHOLE, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_origin_whole(target: str, size: Size) -> None:
    check_origin(target, size)
