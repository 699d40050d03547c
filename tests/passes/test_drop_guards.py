"""Guards that the bounds of tensors say again are dropped, others stay; the meaning is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, one_leg, turns
from tilec.ir.core import walk
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.arith import BitAnd, Select
from tilec.ir.ops.control import If, Parallel
from tilec.ir.verify import verify
from tilec.passes.canonicalize import canonicalize
from tilec.passes.context import PassContext
from tilec.passes.drop_guards import drop_guards
from tilec.passes.lift_copies import lift_copies
from tilec.target import TARGETS

REGISTRY = builtin_registry()


@tilec.macro
def others(A, B, W, C, S, n, how, inside, r, c, i, j):
    """What does more under a guard than to move elements."""
    N = C.shape[1]
    if how == "variable":
        x = T.alloc_var("float32", A[r, c])
        x = x * 2
        if inside:
            C[r, c] = x + S[i, j]
    elif how == "adds":
        if inside:
            T.atomic_add(C[r, c], A[r, c])
    elif how == "divides":
        if c < N:
            C[r, c] = n // W[c]
    elif how == "shared":
        if c < N:
            C[r, c] = S[i, (j + n) % 32]
    elif how == "written elsewhere":
        B[c] = 0
        if inside:
            C[r, c] = A[r, c] + B[c]
    elif how == "more":
        if c < N:
            C[r, c] = A[r, c]
        else:
            C[r, 0] = 0


@tilec.kernel
def guarded(
    A: T.Tensor(("M", "N"), "float32"), B: T.Tensor(("N",), "float32"), W: T.Tensor(("N",), "int32"),
    C: T.Tensor(("M", "N"), "float32"), n: T.int32, how: str = "store",
):  # fmt: skip
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, 32), T.ceildiv(M, 8), threads=64) as (bx, by):
        S = T.alloc_shared((8, 32), "float32")
        F = T.alloc_fragment((8, 32), "float32")
        T.clear(F)
        T.clear(S)
        for i, j in T.Parallel(8, 32):
            r, c = by * 8 + i, bx * 32 + j
            inside = r < M and c < N
            guards = {
                "store": inside,
                "swapped": M > r and N > c and c >= 0 and -1 < r,  # noqa: SIM300
                "one of two": r < n and c < N,
                "other extent": r < N and c < N,
            }
            if how in guards:
                if guards[how]:
                    C[r, c] = A[r, c] + B[c] + F[i, j]
            elif how == "nested":
                if r < M:
                    if c < N:
                        C[r, c] = A[r, c]
            elif how == "select":
                C[r, c] = T.if_then_else(inside, A[r, c], 0) + 1
            elif how == "another value":
                C[r, c] = T.if_then_else(inside, A[r, c], -0.0) + 1
            elif how == "ternary":
                C[r, c] = (A[r, c] if inside else 0) + 1
            elif how == "both":
                if inside:
                    S[i, j] = A[r, c]
                else:
                    S[i, j] = 0
                C[r, c] = S[i, j]
            else:
                others(A, B, W, C, S, n, how, inside, r, c, i, j)


def left(how: str) -> tuple[int, int, int]:
    """Branches, selects and conjunctions that remain."""
    context = PassContext(TARGETS["cuda:sm_80"], REGISTRY)
    program = canonicalize(guarded.trace({"how": how}), context)
    verify(program, REGISTRY)
    dropped = drop_guards(program, context)
    verify(dropped, REGISTRY)
    ops = [*walk(canonicalize(dropped, context).body)]
    return tuple(sum(isinstance(op, kind) for op in ops) for kind in (If, Select, BitAnd))  # type: ignore[return-value]


def result(how: str, a: np.ndarray, b: np.ndarray, w: np.ndarray, n: int) -> np.ndarray:
    """C, which holds ones before."""
    c = np.ones_like(a)
    match how:
        case "store" | "swapped":
            return a + b
        case "one of two" | "other extent":
            rows = n if how == "one of two" else a.shape[1]
            c[:rows] = (a + b)[:rows]
            return c
        case "select" | "another value" | "ternary" | "adds":
            return a + 1
        case "variable":
            return a * 2
        case "divides":
            return c * 0 + n // w
        case "shared":
            return c * 0
    return a


REMAINS = {
    "store": (0, 0, 0), "swapped": (0, 0, 0), "nested": (0, 0, 0), "one of two": (1, 0, 0),
    "select": (0, 0, 0), "another value": (0, 1, 1), "ternary": (0, 0, 0), "both": (0, 0, 0),
    "variable": (0, 0, 0), "adds": (0, 0, 0), "other extent": (1, 0, 0), "divides": (1, 0, 0),
    "shared": (1, 0, 0),
}  # fmt: skip
"""Branches, selects and conjunctions that remain of each."""


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "how"), turns(REMAINS))
def test_guards(device: str, how: str) -> None:
    assert left(how) == REMAINS[how]
    rng = np.random.default_rng(0)
    for m, n in ((11, 37), (8, 32), (1, 1)):
        a, b = (rng.integers(-4, 5, s).astype(np.float32) for s in ((m, n), (n,)))
        w = rng.integers(1, 5, n).astype(np.int32)
        given: tuple[Any, ...] = (a, b, w, np.ones_like(a), 5)
        expected = result(how, a, b, w, 5)
        found = one_leg(device, guarded, *given, how=how)
        np.testing.assert_array_equal(found[3], expected, err_msg=f"{m} x {n}")


@pytest.mark.parametrize("how", ["written elsewhere", "more"])
def test_what_another_thread_may_see_stays(how: str) -> None:
    assert left(how) == (1, 0, 0)


@tilec.kernel
def moves(A: T.Tensor(("M", "N"), "float16"), C: T.Tensor(("M", "N"), "float16")):
    """A copy as users of other languages write it."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 32), threads=64) as (bx, by):
        S = T.alloc_shared((32, 64), "float16")
        for i, j in T.Parallel(32, 64):
            S[i, j] = A[by * 32 + i, bx * 64 + j] if by * 32 + i < M and bx * 64 + j < N else 0
        for i, j in T.Parallel(32, 64):
            if by * 32 + i < M and bx * 64 + j < N:
                C[by * 32 + i, bx * 64 + j] = S[i, j]


def test_what_was_guarded_is_a_copy() -> None:
    context = PassContext(TARGETS["cuda:sm_80"], REGISTRY)
    program = drop_guards(canonicalize(moves.lower_to_ir(), context), context)
    lifted = lift_copies(canonicalize(program, context), context)
    assert not [op for op in walk(lifted.body) if isinstance(op, Parallel)]
    compile_texts(moves)
