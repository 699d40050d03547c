"""split_buffers: what is filled anew is a buffer of its own, and what may be found again is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import one_leg, turns
from tests.passes.planning import keeps_meaning, plan, specialised
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.pipeline import Channel
from tilec.passes.split_buffers import _Contents
from tilec.runtime.driver import lower

BLOCK = 32
IN = T.Tensor(("M", "K"), "float16")
WEIGHTS = T.Tensor(("K", "N"), "float16")
OUT = T.Tensor(("M", "N"), "float16")


def kernel(loop: Any, threads: int = 128) -> Any:
    """C = what `loop` leaves in the accumulator; A_s and B_s are shared tiles."""
    run = T.macro(loop)

    @tilec.kernel
    def product(A: IN, B: WEIGHTS, C: OUT, stages: int = 3):
        M, K = A.shape
        with T.Kernel(T.ceildiv(B.shape[1], BLOCK), T.ceildiv(M, BLOCK), threads=threads) as (x, y):
            A_s = T.alloc_shared((BLOCK, BLOCK), "float16")
            B_s = T.alloc_shared((BLOCK, BLOCK), "float16")
            acc = T.alloc_fragment((BLOCK, BLOCK), "float32")
            T.clear(acc)
            run(A, B, C, A_s, B_s, acc, T.ceildiv(K, BLOCK), x * BLOCK, y * BLOCK, stages)

    return product


def two_loops(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, C[m, n])


def staged_in_an_operand(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    T.fill(B_s, 7)  # nobody reads it
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, A_s)
    T.copy(A_s, C[m, n])


def twice_a_trip(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(B[k * BLOCK, n], B_s)
        for _ in range(2):
            T.copy(A[m, k * BLOCK], A_s)
            T.gemm(A_s, B_s, acc)
    T.copy(acc, C[m, n])


def in_a_branch(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for half in T.serial(2):
        for k in T.Pipelined(steps, num_stages=stages):
            T.copy(A[m, k * BLOCK], A_s)
            T.copy(B[k * BLOCK, n], B_s)
            T.gemm(A_s, B_s, acc)
        if half == 1:
            T.copy(acc, A_s)
        else:
            T.copy(acc, B_s)
            for i, j in T.Parallel(BLOCK, BLOCK):
                A_s[i, j] = -B_s[i, j]
    T.copy(A_s, C[m, n])  # of either branch


SPLIT = {two_loops: 4, staged_in_an_operand: 2, twice_a_trip: 3, in_a_branch: 2}


def read_after_no_trip(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    T.fill(A_s, 1)
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, C[m, n])
    T.copy(A_s, C[m, n])


def loaded_ahead(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    T.copy(A[m, 0], A_s)
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
        T.copy(A[m, (k + 1) * BLOCK], A_s)
    T.copy(acc, C[m, n])


def filled_in_part(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        T.gemm(A_s, B_s, acc)
        T.fill(A_s[0:4, :], 0)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, C[m, n])


def filled_in_some_trips(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for k in T.Pipelined(steps, num_stages=stages):
        T.copy(A[m, k * BLOCK], A_s)
        T.copy(B[k * BLOCK, n], B_s)
        if k == 1:
            T.fill(A_s, 1)
        T.gemm(A_s, B_s, acc)
    T.copy(acc, C[m, n])


WHOLE = (read_after_no_trip, loaded_ahead, filled_in_part, filled_in_some_trips)


def meaning(loop: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """C by NumPy."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    steps = -(-a.shape[1] // BLOCK)
    match loop.__name__:
        case "two_loops" | "staged_in_an_operand" | "twice_a_trip" | "in_a_branch":
            return 2 * a @ b
        case "loaded_ahead":
            return a @ b
        case "filled_in_part":
            return a @ b + np.where(np.arange(len(a)) % BLOCK < 4, 0, 1)[:, None] * (a @ b)
        case "filled_in_some_trips":
            ones = a.copy()
            ones[:, BLOCK : 2 * BLOCK] = 1
            return ones @ b
    found = np.ones((len(a), b.shape[1]))
    if steps:  # what the last step loaded, for each block of columns
        last = np.zeros((len(a), BLOCK))
        left = a[:, (steps - 1) * BLOCK :]
        last[:, : left.shape[1]] = left
        found = np.tile(last, (1, -(-b.shape[1] // BLOCK)))[:, : b.shape[1]]
    return found


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "loop"), turns([*SPLIT, *WHOLE], lambda loop: loop.__name__))
def test_every_machine_agrees(device: str, loop: Any) -> None:
    for m, n, k in ((33, 40, 70), (5, 3, 0)):
        rng = np.random.default_rng(m)
        a, b = (rng.integers(-3, 4, shape).astype(np.float16) for shape in ((m, k), (k, n)))
        *_, c = one_leg(device, kernel(loop), a, b, np.full((m, n), np.nan, np.float16))
        np.testing.assert_array_equal(c, meaning(loop, a, b), err_msg=f"{m} x {n} x {k}")


def planned(loop: Any, **constants: Any) -> Any:
    program = specialised(kernel(loop, **constants))
    result = plan(program, "plan_pipelines")
    keeps_meaning(program, result.program)
    return result


@pytest.mark.parametrize("loop", SPLIT, ids=lambda loop: loop.__name__)
def test_each_content_is_a_channel_of_its_own(loop: Any) -> None:
    """B_s of the loop is one; the rest is as many as have readers apart."""
    result = planned(loop)
    assert len(result.all(Channel)) == SPLIT[loop] and not result.remarks


@pytest.mark.parametrize("loop", WHOLE, ids=lambda loop: loop.__name__)
def test_what_may_be_found_again_is_one_buffer(loop: Any) -> None:
    result = planned(loop)
    (channel,) = result.all(Channel)
    assert channel.label == "B_s" and len(result.all(Alloc)) == 1


both_loops = T.macro(two_loops)


def deep_in_loops(A, B, C, A_s, B_s, acc, steps, n, m, stages):  # type: ignore[no-untyped-def]
    for _ in T.serial(2):
        for _ in T.serial(steps):
            for _ in T.serial(2):
                for _ in T.serial(steps):
                    for _ in T.serial(2):
                        for _ in T.serial(2):
                            both_loops(A, B, C, A_s, B_s, acc, steps, n, m, stages)


def test_a_nest_takes_time_in_proportion_to_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    statement = _Contents._statement
    monkeypatch.setattr(_Contents, "_statement", lambda *of: seen.append(of[1]) or statement(*of))
    program = specialised(kernel(deep_in_loops))
    assert len(plan(program, "plan_pipelines").all(Channel)) == SPLIT[two_loops]
    assert len(seen) <= 4 * len(set(seen))


def test_buffers_that_have_no_room_beside_each_other_stay_one() -> None:
    """An H100 has 227 KiB a block: with a second buffer of 120 KiB this would not run at all, since a
    producer may be a loop ahead. Where there are no roles the two share a place."""

    @tilec.kernel
    def wide(
        A: T.Tensor(("M", 960), "float16"), C: T.Tensor(("M", 960), "float16"), rows: int = 64
    ):
        with T.Kernel(1, threads=128):
            A_s = T.alloc_shared((rows, 960), "float16")
            sums = T.alloc_fragment((rows, 960), "float32")
            T.clear(sums)
            for k in T.Pipelined(T.ceildiv(A.shape[0], rows), num_stages=1):
                T.copy(A[k * rows, 0], A_s)
                for i, j in T.Parallel(rows, 960):
                    sums[i, j] += A_s[i, j]
            T.copy(sums, A_s)
            T.copy(A_s, C[0, 0])

    for target, rows, expected in (
        ("cuda:sm_90a", 64, 1), ("cuda:sm_90a", 32, 2), ("cuda:sm_80", 64, 2),
    ):  # fmt: skip
        result = plan(specialised(wide, rows=rows), "split_buffers", target)
        assert len(result.all(Alloc)) == expected, (target, rows)


def test_loops_that_follow_each_other_share_the_places_of_their_slots() -> None:
    """24 slots of 4 KiB for either loop: 192 KiB, of which an A100 has 163."""
    lowered = lower(kernel(two_loops), (), "cuda:sm_80", {"stages": 24})
    assert "TLC0324" not in [remark.code for remark in lowered.remarks]
    assert lowered.launches[0].shared_bytes == 24 * 4096
