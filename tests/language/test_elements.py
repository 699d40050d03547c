"""Statements that are a few of elements: T.transpose, T.dp4a, T.any_of, T.all_of, T.atomic_addx2."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.language.refusals import refused


@tilec.kernel
def turned(
    A: T.Tensor((40, 24), "float16"),
    X: T.Tensor((24, 40), "float32"),
    Y: T.Tensor((2, 24, 40), "float16"),
):
    with T.Kernel(1, threads=64):
        S, U = T.alloc_shared((40, 24), "float16"), T.alloc_shared((2, 24, 40), "float32")
        x, y = T.alloc_fragment((40, 24), "float16"), T.alloc_fragment((24, 40), "float16")
        T.copy(A, S)
        T.transpose(S, U[1, :, :])
        T.copy(U[1, :, :], X)
        T.copy(A, x)
        T.transpose(x, y)
        T.copy(y, Y[1, :, :])


@pytest.mark.emulator
def test_rows_become_columns() -> None:
    a = np.random.default_rng(0).standard_normal((40, 24)).astype(np.float16)
    for leg, (_, x, y) in every_leg(
        turned, a, np.zeros((24, 40), np.float32), np.zeros((2, 24, 40), np.float16)
    ):
        assert np.array_equal(x, a.T), leg
        assert np.array_equal(y, [np.zeros((24, 40)), a.T]), leg


@tilec.kernel
def counted(
    P: T.Tensor((64, 16), "int8"),
    Q: T.Tensor((64, 16), "uint8"),
    D: T.Tensor((2, 64), "int32"),
    F: T.Tensor((64,), "bool"),
    G: T.Tensor((64,), "int32"),
):
    """Dot products of rows, whether P has a nonzero in a row, whether Q has only such from 2 on."""
    with T.Kernel(1, threads=64):
        t = T.get_thread_binding()
        d, p = T.alloc_local((1,), "int32"), T.alloc_local((16,), "int8")
        d[0] = 0
        for k in T.unroll(4):
            T.dp4a(P[t, 4 * k], Q[t, 4 * k], d)
        D[0, t] = d[0]
        D[1, t] = 5
        T.dp4a(P[t, 12], P[t, 0], D[1, t])
        for j in range(16):
            p[j] = P[t, j]
        F[t] = T.any_of(p)
        G[t] = T.all_of(Q[t, 2:16])


@pytest.mark.emulator
def test_elements_of_a_row_are_joined() -> None:
    rng = np.random.default_rng(0)
    p, q = (
        rng.integers(-1, 2, (64, 16)).astype(np.int8),
        rng.integers(0, 40, (64, 16)).astype(np.uint8),
    )
    p[:9] = 0
    unset = np.zeros((2, 64), np.int32), np.zeros(64, np.bool_), np.zeros(64, np.int32)
    for leg, (_, _, d, f, g) in every_leg(counted, p, q, *unset):
        assert np.array_equal(d[0], (p.astype(int) * q).sum(1)), leg
        assert np.array_equal(d[1], 5 + (p[:, 12:].astype(int) * p[:, :4]).sum(1)), leg
        assert np.array_equal(f, p.any(1)), leg
        assert np.array_equal(g, q[:, 2:].all(1)), leg


@tilec.kernel
def added(
    A: T.Tensor((16, 64), "float32"),
    H: T.Tensor((64, 8), "float16"),
    C: T.Tensor((16, 64), "float32"),
    E: T.Tensor((64, 7), "float16"),
):
    """Four blocks add A to C, and each thread a row of H to E, whose last column is outside."""
    with T.Kernel(4, threads=64):
        S = T.alloc_shared((16, 64), "float32")
        T.copy(A, S)
        for i, j in T.Parallel(16, 16):
            T.atomic_addx4(C[i, 4 * j], S[i, 4 * j])
        t = T.get_thread_binding()
        v = T.alloc_local((2,), "float16")
        for j in range(4):
            v[0], v[1] = H[t, 2 * j], H[t, 2 * j + 1]
            T.atomic_addx2(E[t, 2 * j], v)


@pytest.mark.emulator
def test_elements_are_added_side_by_side() -> None:
    rng = np.random.default_rng(0)
    a, h = (
        rng.integers(-9, 9, (16, 64)).astype(np.float32),
        rng.integers(-9, 9, (64, 8)).astype(np.float16),
    )
    for leg, (_, _, c, e) in every_leg(
        added, a, h, np.zeros((16, 64), np.float32), np.zeros((64, 7), np.float16)
    ):
        assert np.array_equal(c, 4 * a), leg
        assert np.array_equal(e, 4 * h[:, :7]), leg


def test_compilers_take_them() -> None:
    for kernel in (turned, counted):
        compile_texts(kernel)
    assert "atomic_add_global<4>(C" in compile_texts(added)["cuda:sm_90a"]


def test_what_is_refused() -> None:
    def not_turned(A: T.Tensor((8, 4), "int32")):
        with T.Kernel(1):
            T.transpose(A, A)

    def of_a_fragment(A: T.Tensor((8, 4), "int32")):
        with T.Kernel(1):
            T.any_of(T.alloc_fragment((8,), "int32"))

    def of_words(A: T.Tensor((8, 4), "int32")):
        with T.Kernel(1):
            T.dp4a(A[0, 0], A[0, 0], A[0, 0])

    def of_three(A: T.Tensor((8, 4), "int32")):
        with T.Kernel(1):
            T.atomic_addx4(A[0, 0], A[0, 0:3])

    def before(A: T.Tensor((8, 4), "int32")):
        with T.Kernel(1):
            T.atomic_addx2(A[0, 0], A[0, 0:2], return_prev=True)

    assert "T.transpose of (8, 4)" in refused(not_turned)
    assert "spread over the threads" in refused(of_a_fragment)
    assert "T.dp4a of `A` of int32" in refused(of_words)
    assert "T.atomic_addx4 of (1, 3)" in refused(of_three)
    assert "has no return_prev" in refused(before)
