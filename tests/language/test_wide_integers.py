"""Bounds, corners and indices of 64 bits: what 32 do not hold is not cut off."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES
from tilec.errors import ArgumentError, TilecError

pytestmark = pytest.mark.emulator
FAR = 2**40


@tilec.kernel
def counted(B: T.Tensor((8,), "int64"), k: T.int64, n: T.uint32):
    """The indices of three loops around k; how often one runs to min(k, 5), and one from n on."""
    with T.Kernel(1, threads=32):
        if T.get_thread_binding() == 0:
            for i in T.serial(k, k + 6, 2):
                B[(i - k) // 2] = i
            trips = T.alloc_var("int64", 0)
            for _ in T.serial(T.min(k, 5)):
                trips += 1
            B[3] = trips
            for i, _ in T.grid(T.min(k, 2), 3):
                trips += i
            B[4] = trips
            for i in T.serial(n, n + 2):
                B[5] = T.cast(i, "int64")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [FAR, -FAR, 3])
def test_loops(device: str, k: int) -> None:
    b, n = np.zeros(8, np.int64), 2**31 + 3
    counted(b, k, n, device=device)
    trips = max(min(k, 5), 0)
    sums = trips + (3 if k > 0 else 0)
    assert b.tolist() == [k, k + 2, k + 4, trips, sums, n + 1, 0, 0]


@tilec.kernel
def summed(A: T.Tensor((64,), "int64"), B: T.Tensor((4,), "int64"), k: T.int64):
    """B[i] = the sum of A[4 m + i] + k + m for m below 3."""
    with T.Kernel(T.min(k, 1), threads=32):
        S = T.alloc_shared((4,), "int64")
        F = T.alloc_fragment((4,), "int64")
        T.clear(F)
        for j in T.Pipelined(k, k + 3, num_stages=2):
            T.copy(A[(j - k) * 4], S)
            for i in T.Parallel(4):
                F[i] += S[i] + j
        T.copy(F, B)


@pytest.mark.parametrize("device", DEVICES)
def test_pipelined_loops(device: str) -> None:
    a, b = np.arange(64), np.zeros(4, np.int64)
    summed(a, b, FAR, device=device)
    assert b.tolist() == [12 + 3 * i + 3 * FAR + 3 for i in range(4)]


@tilec.kernel
def moved(A: T.Tensor(("N", 4), "int32"), B: T.Tensor((4, 4), "int32"), k: T.int64):
    """B = A[k : k + 4], by way of a region and of an element."""
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((4, 4), "int32")
        F = T.alloc_fragment((4, 4), "int32")
        T.copy(A[k : k + 4, :], S)
        T.copy(A[k, 0], F)
        for i, j in T.Parallel(4, 4):
            B[i, j] = F[i, j] + S[i, j] + A[k + i, j]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("k", [1, -2, 2**32 + 1, -(2**32) + 1])
def test_copies(device: str, k: int) -> None:
    a, b = np.arange(1, 33, dtype=np.int32).reshape(8, 4), np.ones((4, 4), np.int32)
    moved(a, b, k, device=device)
    rows = [a[k + i] if 0 <= k + i < 8 else 0 * a[0] for i in range(4)]
    assert np.array_equal(b, 3 * np.array(rows))


@tilec.kernel
def started(Y: T.Tensor((2, 8), "int32"), n: T.int64, a: T.int32, b: T.int32):
    """Which blocks there are of n, and of a * b + 1."""
    with T.Kernel(n, threads=32) as block:
        if block < 8:
            Y[0, block] = 1
    with T.Kernel(a * b + 1, threads=32) as block:
        if block < 8:
            Y[1, block] = 1


@pytest.mark.parametrize("device", DEVICES)
def test_grids(device: str) -> None:
    for n, a, b in ((0, 0, 5), (3, 2, 3), (-(2**32) + 5, -1, 1), (-FAR, 1, -(2**31) + 1)):
        y = np.zeros((2, 8), np.int32)
        started(y, n, a, b, device=device)
        assert y.tolist() == [[int(i < count) for i in range(8)] for count in (n, a * b + 1)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("n", "a", "b", "told"),
    [
        (2**31, 0, 0, r"max\(n, 0\) = 2147483648 blocks along x, at most 2147483647"),
        (2**32 + 5, 0, 0, r"max\(n, 0\) = 4294967301 blocks along x"),
        (1, 2**16, 2**16, r"needs \(\(a \* b\) \+ 1\) = 4294967297, expected less than 2147483648"),
        (1, -(2**16), 2**16, r"needs \(\(a \* b\) \+ 1\) = -4294967295, expected less"),
    ],
)
def test_grids_that_32_bits_do_not_count_are_refused(
    device: str, n: int, a: int, b: int, told: str
) -> None:
    """Nothing of the program runs: not the launch before, either."""
    y = np.zeros((2, 8), np.int32)
    with pytest.raises(ArgumentError, match=told) as caught:
        started(y, n, a, b, device=device)
    assert caught.value.code == "TLC0803" and "more of the work" in caught.value.hint
    assert not y.any()


@tilec.kernel
def picked(
    X: T.Tensor((64, 32), "float16"), Y: T.Tensor((32,), "float32"), k: T.int64, m: T.int64,
    part: int = 0,
):  # fmt: skip
    """Row k of X, by way of part m of a buffer, or of one that a product swizzles."""
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((2, 64, 32), "float16")
        A = T.alloc_shared((64, 32), "float16")
        C = T.alloc_fragment((64, 64), "float32")
        T.copy(X, A)
        T.copy(X, S[0, :, :])
        T.copy(X, S[1, :, :])
        T.gemm(A, A, C, transpose_B=True, clear_accum=True)
        for i in T.Parallel(32):
            Y[i] = S[m, k, i] if part == 0 else A[k, i]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("part", [0, 1])
def test_shared_memory_is_not_found_where_it_is_not(device: str, part: int) -> None:
    """An index that 32 bits would cut off to one inside."""
    x = np.arange(64 * 32, dtype=np.float16).reshape(64, 32)
    for k, m in ((0, 1), (63, 0)):
        y = np.zeros(32, np.float32)
        picked(x, y, k, m, part=part, device=device)
        assert np.array_equal(y, x[k])
    wrong = [(2**32, 0), (2**32 + 1, 1), (-(2**32), 0), (2**31, 1), (2**63 - 64, 0), (-(2**63), 1)]
    for k, m in wrong if part else [*wrong, (0, 2**32), (0, -(2**32) + 1), (1, 2**62)]:
        with pytest.raises(TilecError) as caught:
            picked(x, np.zeros(32, np.float32), k, m, part=part, device=device)
        assert caught.value.code in ("TLC0741", "TLC0780")


@cache
def make_unsigned(dtype: str) -> Any:
    @tilec.kernel
    def unsigned(
        A: T.Tensor(("N", 4), "float16"), Y: T.Tensor((4, 4), "float16"), x: getattr(T, dtype)
    ):
        """Rows x and x + 1, by elements and by a region."""
        with T.Kernel(1, threads=32):
            F = T.alloc_fragment((2, 4), "float16")
            for i in T.Parallel(4):
                Y[0, i] = A[x, i]
                Y[1, i] = A[x + 1, i]
            T.copy(A[x : x + 2, :], F)
            T.copy(F, Y[2, 0])

    return unsigned


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "x"),
    [("uint32", 3), ("uint32", 2**32 - 8), ("uint64", 3), ("uint64", 2**32 + 3), ("uint8", 3)],
)
def test_unsigned_indices(device: str, dtype: str, x: int) -> None:
    """None that 32 bits with a sign do not hold is taken for another one."""
    a, y = np.arange(1, 33, dtype=np.float16).reshape(8, 4), np.ones((4, 4), np.float16)
    make_unsigned(dtype)(a, y, x, device=device)
    rows = a[x : x + 2] if x < 8 else np.zeros((2, 4))
    assert np.array_equal(y, np.concatenate([rows, rows]))


@tilec.kernel
def scaled(N: T.Tensor((4,), "int64"), Y: T.Tensor((4,), "float32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(4):
            Y[i] = T.ldexp(1.0, N[i])


@pytest.mark.parametrize("device", DEVICES)
def test_powers_of_two(device: str) -> None:
    y = np.zeros(4, np.float32)
    scaled(np.array([3, 2**32 + 1, -FAR, -1]), y, device=device)
    assert y.tolist() == [8, np.inf, 0, 0.5]
