"""Operands that threads gather from global memory: right on every machine, at the trip counts and extents where a
schedule goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.machines import SCHEDULES, TARGETS
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = pytest.mark.emulator


@tilec.kernel
def experts(
    X: T.Tensor(("R", "K"), "float16"),
    rows: T.Tensor(("M",), "int32"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    stages: int = 3,
    both: bool = False,
):
    """Rows of X that a table names, zeros where it names none, times B^T, which may be gathered too."""
    M, N, K = C.shape[0], C.shape[1], X.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        X_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=stages):
            for i, j in T.Parallel(64, 32):
                at = T.if_then_else(by * 64 + i < M, rows[by * 64 + i], -1)
                X_s[i, j] = T.if_then_else(at >= 0, X[at, k * 32 + j], 0)
            if both:
                for i, j in T.Parallel(64, 32):
                    B_s[i, j] = B[N - 1 - (bx * 64 + i), k * 32 + j]
            else:
                T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(X_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


def expected(x: np.ndarray, rows: np.ndarray, b: np.ndarray, both: bool) -> np.ndarray:
    picked = np.where(rows[:, None] >= 0, x[rows], 0).astype(np.float32)
    return picked @ (b[::-1] if both else b).astype(np.float32).T


# M, N, K and R: trips from none to more than there are slots
SIZES = (
    (64, 64, 96, 40),
    (1, 8, 32, 1),
    (63, 72, 64, 9),
    (65, 64, 128, 70),
    (127, 8, 160, 33),
    (7, 9, 0, 5),
    (3, 65, 37, 8),
)


@pytest.mark.parametrize("both", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_a_table_names(target: str, stages: int, both: bool) -> None:
    compiled = lower(experts, (), target, {"stages": stages, "both": both})
    for number, (m, n, k, r) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        x, b = (rng.integers(-3, 4, s).astype(np.float16) for s in ((r, k), (n, k)))
        rows = rng.integers(-1, r, m).astype(np.int32)
        c = np.full((m, n), np.nan, np.float32)
        mode, order = SCHEDULES[(number + stages) % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(target, "a test", mode, order), (x, rows, b, c))
        assert np.array_equal(c, expected(x, rows, b, both)), (m, n, k, r, mode, order)


def test_the_interpreter_says_the_same() -> None:
    for number, (m, n, k, r) in enumerate(SIZES):
        rng = np.random.default_rng(number)
        x, b = (rng.integers(-3, 4, s).astype(np.float16) for s in ((r, k), (n, k)))
        rows = rng.integers(-1, r, m).astype(np.int32)
        for both in (False, True):
            c = np.full((m, n), np.nan, np.float32)
            experts(x, rows, b, c, both=both)
            assert np.array_equal(c, expected(x, rows, b, both))


@tilec.kernel
def scaled(
    A: T.Tensor(("M", "K"), "float16"),
    S: T.Tensor(("R", "K"), "float16"),
    rows: T.Tensor(("M",), "int32"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    stages: int = 3,
):
    """A is multiplied by rows of S that a table names before B^T is. S_s is read at another time than
    B_s, which TMA alone brings: these have barriers of their own."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        S_s = T.alloc_shared((64, 32), "float16")
        product = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=stages):
            T.copy(A[by * 64, k * 32], A_s)
            for i, j in T.Parallel(64, 32):
                S_s[i, j] = S[rows[by * 64 + i], k * 32 + j]
            T.copy(B[bx * 64, k * 32], B_s)
            for i, j in T.Parallel(64, 32):
                product[i, j] = A_s[i, j] * S_s[i, j]
            T.gemm(product, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_gathered_beside_tiles_that_are_read_later(target: str) -> None:
    runs_of_each_size(scaled, target, False, lambda a, s, rows: a * s[rows])


def runs_of_each_size(
    kernel: Any, target: str, gathered: bool, left: Callable[..., np.ndarray]
) -> None:
    """C = left(A, S, rows) @ B.T, where A has a row for each of C's, or is `gathered` as S is."""
    compiled = lower(kernel, (), target, {})
    for M, N, K, R in SIZES:
        rng = np.random.default_rng(M)
        of_a = R if gathered else M
        a, s, b = (rng.integers(-2, 3, (n, K)).astype(np.float16) for n in (of_a, R, N))
        rows = rng.integers(0, R, M).astype(np.int32)
        C = np.full((M, N), np.nan, np.float32)
        device = EmulatorDevice(target, "a test", *SCHEDULES[M % len(SCHEDULES)])
        compiled.run_on(device, (a, s, rows, b, C))
        product = left(a, s, rows).astype(np.float32) @ b.astype(np.float32).T
        np.testing.assert_array_equal(C, product)


@tilec.kernel
def crossed(
    A: T.Tensor(("R", "K"), "float16"),
    S: T.Tensor(("R", "K"), "float16"),
    rows: T.Tensor(("M",), "int32"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
):
    """Products of gathered rows, by registers and by memory. A_s comes first and shares its barriers
    with B_s, which TMA brings last; those of S_s, read in between, are arrived at before."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        S_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        rows_of = T.alloc_fragment((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=2):
            for i, j in T.Parallel(64, 32):
                A_s[i, j] = A[rows[by * 64 + i], k * 32 + j]
            for i, j in T.Parallel(64, 32):
                S_s[i, j] = S[rows[by * 64 + i], k * 32 + j]
            T.copy(B[bx * 64, k * 32], B_s)
            T.copy(A_s, rows_of)
            T.gemm(rows_of, B_s, acc, transpose_B=True)
            T.copy(S_s, rows_of)
            T.gemm(rows_of, B_s, acc, transpose_B=True)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.parametrize("target", TARGETS)
def test_rows_that_two_gathers_bring(target: str) -> None:
    """Whoever waits for the last of a thread's arrivals knows that all of its copies have landed."""
    runs_of_each_size(crossed, target, True, lambda a, s, rows: 2 * a[rows] + s[rows])


@tilec.kernel
def pages(
    Q: T.Tensor(("S", 64), "float16"),
    keys: T.Tensor(("pages", 16, 64), "float16"),
    table: T.Tensor(("n",), "int32"),
    C: T.Tensor(("S", 64), "float32"),
    count: T.int32,
):
    """Q K^T K, the keys in pages that a table names. Both products read what threads copy, Q too."""
    S = Q.shape[0]
    with T.Kernel(T.ceildiv(S, 64), threads=128) as by:
        Q_s = T.alloc_shared((64, 64), "float16")
        K_s = T.alloc_shared((64, 64), "float16")
        V_s = T.alloc_shared((64, 64), "float16")
        scores = T.alloc_fragment((64, 64), "float32")
        halves = T.alloc_fragment((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(Q[by * 64, 0], Q_s)
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(table.shape[0], 4), num_stages=2):
            for i, j in T.Parallel(64, 64):
                at = k * 64 + i
                K_s[i, j] = T.if_then_else(at < count, keys[table[at // 16], at % 16, j], 0)
            T.clear(scores)
            T.gemm(Q_s, K_s, scores, transpose_B=True)
            T.copy(scores, halves)
            for i, j in T.Parallel(64, 64):
                at = k * 64 + i
                V_s[i, j] = T.if_then_else(at < count, keys[table[at // 16], at % 16, j], 0)
            T.gemm(halves, V_s, acc)
        T.copy(acc, C[by * 64, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_pages_that_a_table_names(target: str) -> None:
    compiled = lower(pages, (), target, {})
    for number, (rows, count) in enumerate(((64, 64), (70, 200), (5, 17), (3, 0))):
        rng = np.random.default_rng(number)
        q, keys = (rng.integers(-1, 2, s).astype(np.float16) for s in ((rows, 64), (20, 16, 64)))
        table = rng.permutation(20)[: -(-count // 16)].astype(np.int32)
        c = np.full((rows, 64), np.nan, np.float32)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(target, "a test", mode, order), (q, keys, table, c, count))
        mine = keys[table].reshape(-1, 64)[:count].astype(np.float32)
        assert np.array_equal(c, q.astype(np.float32) @ mine.T @ mine), (rows, count, mode, order)


@tilec.kernel
def whole_pages(
    Q: T.Tensor(("S", 64), "float16"),
    keys: T.Tensor(("pages", 16, 64), "float16"),
    table: T.Tensor(("n",), "int32"),
    C: T.Tensor(("S", 64), "float32"),
):
    """Q K^T K, a page of keys a copy: several fill one buffer. Pages behind the table's end are zeros."""
    S = Q.shape[0]
    with T.Kernel(T.ceildiv(S, 64), threads=128) as by:
        Q_s = T.alloc_shared((64, 64), "float16")
        K_s = T.alloc_shared((64, 64), "float16")
        scores = T.alloc_fragment((64, 64), "float32")
        halves = T.alloc_fragment((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(Q[by * 64, 0], Q_s)
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(table.shape[0], 4), num_stages=2):
            for part in T.serial(4):
                at = k * 4 + part
                page = T.if_then_else(at < table.shape[0], table[at], keys.shape[0])
                T.copy(keys[page, 0:16, 0:64], K_s[part * 16 : part * 16 + 16, :])
            T.gemm(Q_s, K_s, scores, transpose_B=True, clear_accum=True)
            T.copy(scores, halves)
            T.gemm(halves, K_s, acc)
        T.copy(acc, C[by * 64, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_pages_that_are_copied_whole(target: str) -> None:
    """They are brought ahead of the product, by TMA where there is that."""
    compiled = lower(whole_pages, (), target, {})
    assert not [r for r in compiled.remarks if r.code == "TLC0310"]
    assert ("tma_load<" in compiled.variants[0].text) == (target == "cuda:sm_90a")
    for number, (rows, count) in enumerate(((64, 4), (70, 13), (5, 1), (3, 0), (65, 8))):
        rng = np.random.default_rng(number)
        q, keys = (rng.integers(-1, 2, s).astype(np.float16) for s in ((rows, 64), (20, 16, 64)))
        table = rng.permutation(20)[:count].astype(np.int32)
        c = np.full((rows, 64), np.nan, np.float32)
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        compiled.run_on(EmulatorDevice(target, "a test", mode, order), (q, keys, table, c))
        mine = keys[table].reshape(-1, 64).astype(np.float32)
        assert np.array_equal(c, q.astype(np.float32) @ mine.T @ mine), (rows, count, mode, order)


@tilec.kernel
def through_memory(
    X: T.Tensor(("M", "K"), "float16"), B: T.Tensor((64, "K"), "float16"), C: T.Tensor(("M", 64), "float16"),
):  # fmt: skip
    """Each step reads, element by element, what the step before wrote."""
    M, K = X.shape
    with T.Kernel(T.ceildiv(M, 64), threads=128) as by:
        X_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(B[0, k * 32], B_s)
            for i, j in T.Parallel(64, 32):
                X_s[i, j] = X[by * 64 + i, k * 32 + j] + C[by * 64 + i, j]
            T.gemm(X_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * 64, 0])


@pytest.mark.parametrize("target", TARGETS)
def test_what_the_loop_writes_is_not_read_ahead(target: str) -> None:
    rng = np.random.default_rng(0)
    x, b = (rng.integers(-1, 2, s).astype(np.float16) for s in ((70, 96), (64, 96)))
    c = np.zeros((70, 64), np.float16)
    want, acc = c.astype(np.float32), np.zeros((70, 64), np.float32)
    for k in range(0, 96, 32):
        made = (x[:, k : k + 32] + want[:, :32]).astype(np.float16)
        acc += made.astype(np.float32) @ b[:, k : k + 32].astype(np.float32).T
        want = acc.astype(np.float16)
    through_memory(x, b, c, device=f"emulator:{target}")
    assert np.array_equal(c, want)
