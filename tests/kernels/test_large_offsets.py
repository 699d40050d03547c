"""Tensors past 2^31 elements and 2^32 bytes, really addressed there by the emulated text. Their pages
are never touched but where rows are read or written, so they cost no memory.

Two kinds: rows that lie 2^30 bytes apart (a strided tensor; every offset beyond row 3 needs more than
32 bits, in elements beyond row 4), and dense tensors of 2^25 rows of which a few at the ends are used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.machines import TARGETS

pytestmark = pytest.mark.emulator
Array = np.ndarray[Any, Any]
EMULATORS = tuple(f"emulator:{target}" for target in TARGETS)
DEVICES = ("interpreter", *EMULATORS)
PITCH = (1 << 30) + 256  # bytes between rows that lie apart
ROWS = 6  # the last begins beyond 5 * 2^30 bytes
MANY = (1 << 25) + 100  # rows of a dense tensor
WIDTH = 72  # its columns: 2.4 * 10^9 elements


@tilec.kernel
def matmul(
    A: T.StridedTensor(("M", "K"), ("lda", 1), "float16"),
    B: T.StridedTensor(("K", "N"), ("ldb", 1), "float16"),
    C: T.StridedTensor(("M", "N"), ("ldc", 1), "float16"),
):
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((32, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[k * 32, bx * 64], B_s)
            T.gemm(A_s, B_s, acc)
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def add(
    A: T.StridedTensor(("M", "N"), ("am", "an"), "float16"),
    B: T.StridedTensor(("M", "N"), ("bm", "bn"), "float16"),
    C: T.StridedTensor(("M", "N"), ("cm", "cn"), "float16"),
):
    with T.Kernel(T.ceildiv(A.shape[0], 16), T.ceildiv(A.shape[1], 16), threads=64) as (bx, by):
        for i, j in T.Parallel(16, 16):
            row, column = bx * 16 + i, by * 16 + j
            C[row, column] = A[row, column] + B[row, column]


def apart(array: Array, pitch: int = PITCH) -> Array:
    """The same array with rows `pitch` bytes from one another."""
    m, n = array.shape
    item = array.itemsize
    base = np.zeros(((m - 1) * pitch + n * item) // item, array.dtype)
    found = np.lib.stride_tricks.as_strided(base, (m, n), (pitch, item))
    found[...] = array
    return found


def dense(window: Array, first: int, rows: int = MANY) -> Array:
    """A tensor of `rows` rows, zero but from row `first` on, where `window` is."""
    found = np.zeros((rows, window.shape[1]), window.dtype)
    found[first : first + len(window)] = window
    return found


def small(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    found: Array = np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("far", ["A", "B", "C"])
def test_products_of_rows_far_apart(device: str, far: str) -> None:
    """By TMA where rows are multiples of 16 bytes (k = 40), element by element where not (k = 37)."""
    for k in (40, 37):
        m, n = (ROWS, 24) if far != "B" else (24, 24)
        k = ROWS if far == "B" else k
        a, b = small((m, k), "float16", 1), small((k, n), "float16", 2)
        c = np.full((m, n), np.nan, np.float16)
        exact = (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float16)
        with tilec.device(device):
            far_c = apart(c) if far == "C" else c
            matmul(apart(a) if far == "A" else a, apart(b) if far == "B" else b, far_c)
        assert np.array_equal(far_c, exact)


@pytest.mark.parametrize("device", DEVICES)
def test_sums_of_rows_and_columns_far_apart(device: str) -> None:
    for m, n in ((ROWS, 21), (ROWS, 64)):
        a, b = small((m, n), "float16", 1), small((m, n), "float16", 2)
        c, d = apart(np.zeros_like(a)), apart(np.zeros((n, m), np.float16), (5 << 30) // n // 4 * 4)
        with tilec.device(device):
            add(apart(a), b, c)
            add(a.T, b.T, d)
        assert np.array_equal(c, a + b)
        assert np.array_equal(d, (a + b).T)


@tilec.kernel
def row_sums(
    A: T.StridedTensor(("M", "N"), ("lda", 1), "float16"), B: T.Tensor(("M",), "float32"),
    C: T.StridedTensor(("M", "N"), ("ldc", 1), "float16"),
):  # fmt: skip
    """B = the sum of each row; C = A less its row's largest element."""
    with T.Kernel(T.ceildiv(A.shape[0], 4), threads=128) as bx:
        x = T.alloc_fragment((4, 128), "float16")
        wide = T.alloc_fragment((4, 128), "float32")
        total, most = T.alloc_fragment((4,), "float32"), T.alloc_fragment((4,), "float16")
        T.copy(A[bx * 4, 0], x)
        T.copy(x, wide)
        T.reduce_sum(wide, total, dim=1)
        T.reduce_max(x, most, dim=1)
        for i, j in T.Parallel(4, 128):
            x[i, j] = x[i, j] - most[i]
        T.copy(total, B[bx * 4])
        T.copy(x, C[bx * 4, 0])


@pytest.mark.parametrize("device", DEVICES)
def test_reductions_of_rows_far_apart(device: str) -> None:
    for n in (128, 96, 61):
        a = small((ROWS, n), "float16")
        sums, rest = np.zeros(ROWS, np.float32), apart(np.zeros_like(a))
        with tilec.device(device):
            row_sums(apart(a), sums, rest)
        assert np.array_equal(sums, a.astype(np.float32).sum(1))
        # Outside a row there are zeros, which are larger than what is negative.
        most = np.maximum(a.max(1), 0) if n < 128 else a.max(1)
        assert np.array_equal(rest, a - most[:, None])


# Dense tensors ------------------------------------------------------------------------------------


@tilec.kernel
def window_products(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float16"), first: T.int32,
):  # fmt: skip
    """C = A @ B.T in 64 rows from `first` on."""
    N, K = B.shape
    with T.Kernel(T.ceildiv(N, 32), 2, threads=128) as (bx, by):
        A_s, B_s = T.alloc_shared((32, 32), "float16"), T.alloc_shared((32, 32), "float16")
        acc = T.alloc_fragment((32, 32), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=2):
            T.copy(A[first + by * 32, k * 32], A_s)
            T.copy(B[bx * 32, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[first + by * 32, bx * 32])


def elementwise(dtype: str) -> Any:
    @tilec.kernel
    def window_copies(
        A: T.Tensor(("M", "N"), dtype), C: T.Tensor(("M", "N"), dtype),
        D: T.Tensor(("N", "M"), dtype), sums: T.Tensor((1,), "int32"), first: T.int32,
    ):  # fmt: skip
        """C = A + 1, D = A.T and the sum of A, in 64 rows from `first` on."""
        M, N = A.shape
        with T.Kernel(2, T.ceildiv(N, 32), threads=128) as (bx, by):
            for i, j in T.Parallel(32, 32):
                row, column = first + bx * 32 + i, by * 32 + j
                C[row, column] = A[row, column] + 1
                D[column, row] = A[row, column]
                if (row < M) & (column < N):
                    T.atomic_add(sums[0], T.cast(A[row, column], "int32"))

    return window_copies


FIRST = (MANY - 37, MANY - 64, MANY // 2 + 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "start", [FIRST[0], *(pytest.param(n, marks=pytest.mark.nightly) for n in FIRST[1:])]
)
def test_products_of_a_dense_tensor(device: str, start: int) -> None:
    rows = min(64, MANY - start)
    a, b = small((rows, WIDTH), "float16", 1), small((40, WIDTH), "float16", 2)
    c = np.zeros((MANY, 40 if start % 2 else WIDTH), np.float16)
    b = b if start % 2 else small((WIDTH, WIDTH), "float16", 3)
    with tilec.device(device):
        window_products(dense(a, start), b, c, start)
    assert np.array_equal(c[start : start + rows], a @ b.T)
    assert not c[start - 64 : start].any() and not c[:64].any()


@pytest.mark.nightly
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_moves_of_a_dense_tensor(device: str, dtype: str) -> None:
    for start in (FIRST[0], FIRST[2]):
        rows = min(64, MANY - start)
        a = small((rows, WIDTH), dtype, 1)
        whole = dense(a, start)
        c, d, sums = np.zeros_like(whole), np.zeros(whole.shape[::-1], dtype), np.zeros(1, np.int32)
        with tilec.device(device):
            elementwise(dtype)(whole, c, d, sums, start)
        assert np.array_equal(c[start : start + rows], a + np.ones_like(a))
        assert np.array_equal(d[:, start : start + rows], a.T)
        assert int(sums[0]) == int(a.astype(np.int64).sum())
        assert not c[:64].any() and not d[:, :64].any() and not d[:, start - 64 : start].any()


@tilec.kernel
def line(A: T.Tensor(("N",), "float32"), C: T.Tensor(("N",), "float32"), first: T.int32):
    with T.Kernel(1, threads=64):
        for i in T.Parallel(256):
            C[first + i] = A[first + i] * 2


@pytest.mark.parametrize("device", DEVICES)
def test_a_vector_of_more_than_4_gib(device: str) -> None:
    n = (1 << 30) + 201
    a, c = np.zeros(n, np.float32), np.zeros(n, np.float32)
    a[-200:] = np.arange(200)
    with tilec.device(device):
        line(a, c, n - 200)
    assert np.array_equal(c[-200:], 2 * np.arange(200)) and not c[:1024].any()


@pytest.mark.parametrize("target", TARGETS)
def test_large_tensors_are_moved_as_wide_as_small_ones(target: str) -> None:
    compiled = row_sums.lower(target=target)
    compiled.add_general()
    first, large, general = compiled.variants
    assert {f.kind for f in large.requires} == {"aligned"} and not general.requires
    wide = [v.text.count("<8>") for v in (first, large, general)]
    assert wide[0] == wide[1] > wide[2]
