"""place_barriers where threads have parted: who needs no barrier there, what is refused, and which
values differ between threads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes.planning import line_of, refused
from tests.passes.test_place_barriers import OUT, body, placed, uniform_condition
from tilec.errors import HazardError
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, walk
from tilec.ir.dtypes import i32
from tilec.ir.ops.control import If, Launch, Simt, While, Yield
from tilec.passes.uniformity import differing


@tilec.kernel
def halves(A: OUT):
    """A tree: what one half reads the other wrote in the trip before."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        for i in T.serial(7):
            if t < (64 >> i):
                S[t] = S[t] + S[t + (64 >> i)]
        A[t] = S[0]


@tilec.kernel
def triangle(A: OUT):
    """All threads read row k, which none of them writes in trip k."""
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((32, 32), "float32")
        t = T.get_thread_binding()
        for j in T.serial(32):
            S[t, j] = A[t * 32 + j]
        for k in T.serial(31):
            if t > k:
                for j in T.serial(k + 1, 32):
                    S[t, j] = S[t, j] - S[t, k] * S[k, j]
        A[t] = S[t, 31]


def test_threads_that_have_parted_need_none_where_each_writes_its_own() -> None:
    """They meet before they part, in every trip, and after the last one."""
    assert body(placed(halves)) == [
        "simt[", "load", "store",
        "for[", "barrier", "if[", "load", "load", "store", "]", "]",
        "barrier", "load", "store", "]",
    ]  # fmt: skip
    assert body(placed(triangle))[6:] == [
        "for[", "barrier", "if[", "for[", "load", "load", "load", "store", "]", "]", "]",
        "barrier", "load", "store", "]",
    ]  # fmt: skip


@tilec.kernel
def by_one_thread(A: OUT, n: T.int32, which: int = 0):
    """One thread goes where only the call says, while the others wait."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        if (t == 3, t == n, t < 1 and n > 2, t == n and A[0] > 0, T.shuffle_elect(128))[which]:
            for k in T.serial(1, n):
                S[k] = S[k] + S[k - 1]
        A[t] = S[127 - t]


@pytest.mark.parametrize("which", range(5))
def test_one_thread_needs_none_wherever_it_goes(which: int) -> None:
    flat = body(placed(by_one_thread, which=which))
    assert flat[-12:] == [
        "barrier", "if[", "for[", "load", "load", "store", "]", "]", "barrier", "load", "store", "]",
    ]  # fmt: skip
    A = np.arange(128, dtype=np.float32)
    summed = A.copy()
    summed[:9] = np.cumsum(A[:9])
    by_one_thread(A, 9, which=which, device="emulator:cuda:sm_80")
    np.testing.assert_array_equal(A, (summed if which != 3 else np.arange(128))[::-1])


HALVES: list[Callable[[Any, Any], tuple[Any, Any]]] = [
    lambda r, i: (r, r ^ 1),
    lambda r, i: (1 - r, r),
    lambda r, i: (r, r + 1),
    lambda r, i: (T.max(i, 1) - 1, T.max(i, 1)),
    lambda r, i: (i % 2, (i + 1) % 2),
    lambda r, i: ((i + 2) % 3, i % 3),
    lambda r, i: (0, 1),
]
MEETING: list[Callable[[Any, Any], tuple[Any, Any]]] = [
    lambda r, i: (r, 2 - r),
    lambda r, i: (r, r + i),
    lambda r, i: ((i + 2) % 2, i % 2),
    lambda r, i: (i % 3, (i + 1) % 2),
    lambda r, i: (r, r ^ i),
]


def compacting(parts: Callable[[Any, Any], tuple[Any, Any]]) -> Any:
    """Elements of one part that are kept move to another part, where an atomic says."""

    @tilec.kernel
    def compact(A: OUT, n: T.int32):
        with T.Kernel(1, threads=128):
            S = T.alloc_shared((4, 128), "float32")
            kept = T.alloc_shared((1,), "int32")
            t = T.get_thread_binding()
            for i in T.serial(1, n):
                source, destination = parts(i % 2, i)
                if t == 0:
                    kept[0] = 0
                S[source, t] = t
                T.sync_threads()
                if t % 3 == n - 4:
                    place = T.atomic_add(kept[0], 1, return_prev=True)
                    S[destination, place] = S[source, t] * 2  # HERE
                A[t] = T.if_then_else(t < kept[0], S[destination, t], 0)

    return compact


@pytest.mark.parametrize("parts", HALVES)
def test_parts_that_never_meet_need_none(parts: Any) -> None:
    A = np.zeros(128, dtype=np.float32)
    compacting(parts)(A, 4, device="emulator:cuda:sm_80")
    assert sorted(A) == [0] * 85 + [2 * x for x in range(0, 128, 3)]


@pytest.mark.parametrize("parts", MEETING)
def test_parts_that_may_meet_are_refused(parts: Any) -> None:
    error = refused("TLC0340", lambda: placed(compacting(parts)))
    assert line_of(error.loc).endswith("# HERE"), error


# Refusals
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def parted_by_two(A: OUT, n: T.int32, which: int = 0):
    """More than one thread may come, though each compares with one number."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        if (t // 2 == n, t == n + t % 2, t * (1 << 26) == 0, t == 3 or t == n)[which]:
            S[n] = S[n] + 1  # HERE
        A[t] = S[t]


@tilec.kernel
def parted(A: OUT):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        if t < 64:
            S[t] = A[t]
            A[t] = S[63 - t]  # HERE


@tilec.kernel
def parted_loop(A: OUT):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        for _ in T.serial(t):
            S[t] = S[127 - t] + A[t]  # HERE


@tilec.kernel
def parted_halves(A: OUT):
    """Threads of one half read what others of it write."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        for i in T.serial(6):
            if t < (64 >> i):
                S[t] = S[t] + S[t + (32 >> i)]  # HERE
        A[t] = S[t]


@tilec.kernel
def parted_by_a_variable(A: OUT):
    """The number of iterations differs through a variable of the thread."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        n = T.alloc_var("int32", 0)
        n = t % 5
        while n > 0:
            S[t] = S[127 - t] + A[t]  # HERE
            n = n - 1


@tilec.kernel
def parted_by_history(A: OUT):
    """A variable that was changed under a condition of the thread."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        n = T.alloc_var("int32", 0)
        if t > 3:
            n = 1
        if n == 1:
            S[t] = A[t]
            A[t] = S[63 - t]  # HERE


@pytest.mark.parametrize(
    "kernel",
    [parted, parted_loop, parted_halves, parted_by_a_variable, parted_by_history],
    ids=lambda k: k.name,
)
def test_an_exchange_where_threads_have_parted_is_refused(kernel: Any) -> None:
    error = refused("TLC0340", lambda: placed(kernel))
    assert isinstance(error, HazardError) and error.hint
    assert line_of(error.loc).endswith("# HERE"), error


@pytest.mark.parametrize("which", range(4))
def test_a_branch_that_two_threads_may_take_is_refused(which: int) -> None:
    """Also where they are numbers that wrap to one: 2^32 is 0."""
    error = refused("TLC0340", lambda: placed(parted_by_two, which=which))
    assert line_of(error.loc).endswith("# HERE"), error


@tilec.kernel
def parted_twice(A: OUT):
    """Each arm alone exchanges nothing, the inner reads what the outer has others write."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        if t < 64:
            S[t] = A[t]
            if t < 32:
                A[t] = S[63 - t]  # HERE


def test_an_inner_condition_does_not_hide_an_exchange() -> None:
    error = refused("TLC0340", lambda: placed(parted_twice))
    assert line_of(error.loc).endswith("# HERE"), error


def test_what_differs_between_threads() -> None:
    program = parted_by_history.lower_to_ir()
    (launch,) = [op for op in program.body.ops if isinstance(op, Launch)]
    found = differing(launch.body)
    (region,) = [op for op in launch.body.ops if isinstance(op, Simt)]
    branches = [op for op in walk(region.body) if isinstance(op, If)]
    assert all(op.condition in found for op in branches) and len(branches) == 2
    program = uniform_condition.lower_to_ir()
    (launch,) = [op for op in program.body.ops if isinstance(op, Launch)]
    found = differing(launch.body)
    (branch,) = [op for op in walk(launch.body) if isinstance(op, If)]
    assert branch.condition not in found


def test_a_condition_differs_as_what_a_loop_carries_does() -> None:
    """while (x < 9) x += the thread's number, of numbers that begin alike."""
    b, thread = Builder(), scalar(i32, "t")
    tested, carried = scalar(i32, "x"), scalar(i32, "x")
    with b.region() as condition:
        b.emit(Yield((b.compare("lt", tested, 9),)))
    with b.region() as again:
        b.emit(Yield((b.add(carried, thread),)))
    blocks = Block((tested,), tuple(condition)), Block((carried,), tuple(again))
    loop = b.emit(While((b.const(0),), *blocks))
    found = differing(Block((), (Simt(Block((thread,), (*b.ops, Yield(()))), threads=32),)))
    assert {tested, carried, loop.result, *condition[-1].inputs} <= found
