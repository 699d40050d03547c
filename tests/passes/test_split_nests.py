"""Nests of which several threads run an iteration, and which write memory that they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tilec.errors import LayoutConflict
from tilec.ir.core import walk
from tilec.ir.ops.control import Parallel
from tilec.passes.context import Facts, PassContext
from tilec.passes.split_nests import split_nests
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

ROWS, COLUMNS = 32, 64


def write_then_fill(S: Any, R: Any, i: Any) -> None:
    S[i] = S[i] + 1
    R[i] = S[i]


def fill_then_write(S: Any, R: Any, i: Any) -> None:
    R[i] = S[i] * 2
    S[i] = 5


def one_value_for_both(S: Any, R: Any, i: Any) -> None:
    x = S[i] * 3
    S[i] = x
    R[i] = x + 1


def back_and_forth(S: Any, R: Any, i: Any) -> None:
    R[i] = S[i] + R[i]
    S[i] = R[i] * 2
    R[i] = S[i] - 1


def two_writes(S: Any, R: Any, i: Any) -> None:
    S[i] = S[i] + 1
    S[i] = S[i] * 2
    R[i] = R[i] + S[i]


STATEMENTS = [write_then_fill, fill_then_write, one_value_for_both, back_and_forth, two_writes]


def meaning(statements: Callable[..., None], s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S and R afterwards, by plain Python."""
    s, r = s.copy(), np.ones_like(s)
    for i in range(len(s)):
        statements(s, r, i)
    return s, r


def kernel(statements: Callable[..., None], rows: int = ROWS, shared: bool = True) -> Any:
    """R lies alike in several threads, since F is spread over them."""
    run = T.macro(statements)

    @tilec.kernel
    def both(A: T.Tensor(("M",), "float32"), C: T.Tensor(("M", COLUMNS), "float32")):
        with T.Kernel(T.ceildiv(A.shape[0], rows), threads=128) as bx:
            S = T.alloc_shared((rows,), "float32")
            R = T.alloc_fragment((rows,), "float32")
            F = T.alloc_fragment((rows, COLUMNS), "float32")
            T.copy(A[bx * rows], S)
            T.clear(F)
            T.fill(R, 1)
            for i in T.Parallel(rows):
                run(S, R, i)
            for i, j in T.Parallel(rows, COLUMNS):
                F[i, j] = F[i, j] + R[i]
            T.copy(S, A[bx * rows])
            T.copy(F, C[bx * rows, 0])

    return both


def nests_of(program: Any) -> int:
    context = PassContext(find_target("cuda:sm_80"), standard_registry(), Facts())
    done = split_nests(program, context)
    return sum(isinstance(op, Parallel) for op in walk(done.body))


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("statements", "rows", "m"),
    [
        *((statements, 32, 65) for statements in STATEMENTS),
        *((write_then_fill, *sizes) for sizes in ((32, 1), (32, 31), (7, 13), (61, 61))),
    ],
)
def test_every_statement_sees_what_the_ones_before_it_left(
    statements: Callable[..., None], rows: int, m: int
) -> None:
    a = np.random.default_rng(m).integers(-9, 9, m).astype(np.float32)
    s, r = meaning(statements, a)
    for device, (found, c) in every_leg(kernel(statements, rows), a, np.zeros((m, COLUMNS), "f4")):
        assert np.array_equal(found, s), device
        assert np.array_equal(c, np.repeat(r[:, None], COLUMNS, 1)), device


@pytest.mark.emulator
@pytest.mark.parametrize("statements", [one_value_for_both, back_and_forth])
def test_memory_of_the_grid_is_seen_by_all_threads(statements: Callable[..., None]) -> None:
    run = T.macro(statements)

    @tilec.kernel
    def both(A: T.Tensor((48,), "float32"), C: T.Tensor((48, COLUMNS), "float32")):
        with T.Kernel(1, threads=128):
            R = T.alloc_fragment((48,), "float32")
            F = T.alloc_fragment((48, COLUMNS), "float32")
            T.clear(F)
            T.fill(R, 1)
            for i in T.Parallel(48):
                run(A, R, i)
            for i, j in T.Parallel(48, COLUMNS):
                F[i, j] = F[i, j] + R[i]
            T.copy(F, C)

    a = np.random.default_rng(1).integers(-9, 9, 48).astype(np.float32)
    s, r = meaning(statements, a)
    for device, (found, c) in every_leg(both, a, np.zeros((48, COLUMNS), np.float32)):
        assert np.array_equal(found, s), device
        assert np.array_equal(c, np.repeat(r[:, None], COLUMNS, 1)), device


@pytest.mark.emulator
def test_a_branch_is_one_statement() -> None:
    @T.macro
    def guarded(S, R, i):
        if S[i] > 0:
            S[i] = S[i] - 1
        if S[i] > 2:
            R[i] = S[i]

    a = np.random.default_rng(2).integers(-9, 9, 70).astype(np.float32)
    s = np.where(a > 0, a - 1, a)
    r = np.where(s > 2, s, 1)
    for device, (found, c) in every_leg(kernel(guarded.function), a, np.zeros((70, COLUMNS), "f4")):
        assert np.array_equal(found, s), device
        assert np.array_equal(c[:, 3], r), device


def test_only_what_needs_it_is_split() -> None:
    def apart(S: Any, R: Any, i: Any) -> None:
        R[i] = R[i] + 1

    assert nests_of(kernel(apart).lower_to_ir()) == 2
    assert nests_of(kernel(write_then_fill).lower_to_ir()) == 3
    assert nests_of(kernel(back_and_forth).lower_to_ir()) == 4


def test_what_has_no_order_is_refused() -> None:
    def old_and_new(S: Any, R: Any, i: Any) -> None:
        x = S[i] + 0
        S[i] = x + 1
        R[i] = S[i] + x

    def fetched(S: Any, R: Any, i: Any) -> None:
        R[i] = T.atomic_add(S[i], 1, return_prev=True)

    for statements, code in ((old_and_new, "TLC0412"), (fetched, "TLC0409")):
        with pytest.raises(LayoutConflict) as caught:
            kernel(statements).lower(target="cuda:sm_80")
        assert caught.value.code == code and caught.value.hint
