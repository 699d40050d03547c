"""What a thread reads and writes of a row is vectors, also where a table names the row or a condition
asks for it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg

pytestmark = pytest.mark.emulator
HALVES = np.random.default_rng(0).integers(-9, 9, (40, 64)).astype(np.float16)
ROWS = np.random.default_rng(1).permutation(np.arange(-5, 45))[:40].astype(np.int32)
NAMED = ((ROWS >= 0) & (ROWS < 40))[:, None] * HALVES[ROWS.clip(0, 39)]


@tilec.kernel
def gathered(
    A: T.Tensor(("N", 64), "float16"), rows: T.Tensor((40,), "int32"),
    C: T.Tensor((40, 64), "float16"), how: str = "tensor",
):  # fmt: skip
    """C[i] = A[rows[i]]; zeros for rows that are not there."""
    N = A.shape[0]
    with T.Kernel(1, threads=64):
        part = T.alloc_shared((40, 64), "float16")
        table = T.alloc_shared((40,), "int32")
        T.copy(rows, table)
        for i, j in T.Parallel(40, 64):
            if how == "tensor":
                part[i, j] = A[rows[i], j]
            elif how == "shared":
                part[i, j] = A[table[i], j]
            elif how == "chosen":
                part[i, j] = A[T.if_then_else(rows[i] < 40, rows[i], -1), j]
            elif how == "ternary":
                part[i, j] = A[rows[i], j] if rows[i] >= 0 else 0
            elif how == "converted":
                part[i, j] = T.cast(A[rows[i], j], "float32") * 1 if rows[i] >= 0 else A[N, j]
            elif rows[i] >= 0:
                part[i, j] = A[rows[i], j]
            else:
                part[i, j] = 0
        T.copy(part, C)


@pytest.mark.parametrize("how", ["tensor", "shared", "chosen", "ternary", "converted", "branch"])
def test_rows_that_a_table_names(how: str) -> None:
    """16 bytes at once, though the table's entries are wider than halves."""
    for target, text in compile_texts(gathered, how=how).items():
        assert "<8>(A_run" in text and "<8>(part" in text, target
    for leg, (_, _, c) in every_leg(gathered, HALVES, ROWS, np.zeros_like(HALVES), how=how):
        np.testing.assert_array_equal(c, NAMED, err_msg=leg)


@tilec.kernel
def biased(
    A: T.Tensor(("M", 32), "float16"), X: T.Tensor(("N",), "float16"), C: T.Tensor(("M", 64), "float32"),
):  # fmt: skip
    """C = A @ A[:64].T + X, whose columns lie in pairs in the threads of a product."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as by:
        rows, columns = T.alloc_shared((64, 32), "float16"), T.alloc_shared((64, 32), "float16")
        sums = T.alloc_fragment((64, 64), "float32")
        T.copy(A[by * 64, 0], rows)
        T.copy(A[0, 0], columns)
        T.gemm(rows, columns, sums, transpose_B=True, clear_accum=True)
        for i, j in T.Parallel(64, 64):
            sums[i, j] += X[j]
        T.copy(sums, C[by * 64, 0])


def test_pairs_at_the_end_of_a_vector() -> None:
    """Both elements at once where no pair crosses the end, which is a fact of the launch."""
    for target, text in compile_texts(biased).items():
        pairs = re.search(r"load_global<2>\(X\d*, .* X,", text)
        assert pairs or target == "hip:gfx942", target  # a column a lane there
    for length in (1, 62, 63, 64, 65):
        x = np.arange(1, length + 1, dtype=np.float16)
        known = np.pad(x, (0, max(0, 64 - length)))[:64].astype(np.float32)
        expected = (
            HALVES[:, :32].astype(np.float32) @ np.pad(HALVES[:, :32], ((0, 24), (0, 0))).T + known
        )
        for leg, (_, _, c) in every_leg(
            biased, HALVES[:, :32].copy(), x, np.zeros((40, 64), np.float32)
        ):
            np.testing.assert_array_equal(c, expected, err_msg=f"{leg} {length}")


@tilec.kernel
def scattered(
    A: T.Tensor((40, 64), "float16"), rows: T.Tensor((40,), "int32"), C: T.Tensor(("N", 64), "float32"),
    n: T.int32, adds: bool = False,
):  # fmt: skip
    """C[rows[i]] = 2 A[i], or more by A[i], for the first n rows."""
    with T.Kernel(1, threads=64):
        own = T.alloc_fragment((40, 64), "float32")
        T.copy(A, own)
        for i, j in T.Parallel(40, 64):
            if i < n and rows[i] >= 0:
                if adds:
                    T.atomic_add(C[rows[i], j], own[i, j])
                else:
                    C[rows[i], j] = own[i, j] * 2


@pytest.mark.parametrize("adds", [False, True])
def test_rows_under_a_condition(adds: bool) -> None:
    texts = compile_texts(scattered, adds=adds)
    assert "<4>(C, " in texts["cuda:sm_90a"]  # sm_80 and AMD have no additions of vectors
    assert adds or all("<4>(C, " in text or "<4>(C_buffer" in text for text in texts.values())
    start = np.ones((40, 64), np.float32)
    expected = np.array(start)
    for row, own in zip(ROWS[:30], HALVES, strict=False):
        if 0 <= row < 40:
            expected[row] = expected[row] + own if adds else 2 * own
    for leg, found in every_leg(scattered, HALVES, ROWS, start, 30, adds=adds):
        np.testing.assert_array_equal(found[2], expected, err_msg=leg)


@tilec.kernel
def scaled(
    A: T.Tensor((16, "K"), "float16"), S: T.Tensor((16, "ceildiv(K, 32)"), "float32"),
    C: T.Tensor((16, "K"), "float32"),
):  # fmt: skip
    """A number for each 32 elements of a row."""
    with T.Kernel(T.ceildiv(A.shape[1], 64), threads=64) as bx:
        for i, j in T.Parallel(16, 64):
            k = bx * 64 + j
            C[i, k] = A[i, k] * T.exp2(S[i, k // 32])


def test_a_number_for_a_group_is_taken_once() -> None:
    for target, text in compile_texts(scaled).items():
        assert max(text.rindex("S["), text.rindex("exp2(")) < text.rindex("for (i32 v"), target
    a = HALVES[:16].repeat(2, 1)[:, :104].copy()
    s = np.arange(64, dtype=np.float32).reshape(16, 4) % 5
    for leg, (_, _, c) in every_leg(scaled, a, s, np.zeros((16, 104), np.float32)):
        np.testing.assert_array_equal(c, a * 2 ** s.repeat(32, 1)[:, :104], err_msg=leg)


@tilec.kernel
def overwritten(
    A: T.Tensor((16, 64), "float32"), rows: T.Tensor((16,), "int32"), C: T.Tensor((16, 64), "float32"),
    adds: bool = False,
):  # fmt: skip
    """What was stored first may be stored again, of some columns."""
    with T.Kernel(1, threads=128):
        for i, j in T.Parallel(16, 64):
            if adds:
                T.atomic_add(C[i, j], A[i, j])
            else:
                C[i, j] = A[i, j]
            if i >= 2 and j > rows[i]:
                C[i, j] = A[rows[i], j]
            elif i >= 1:
                C[i, j] = 1


@pytest.mark.parametrize("adds", [False, True])
def test_the_last_of_several_stores_is_what_stays(adds: bool) -> None:
    a = np.arange(16 * 64, dtype=np.float32).reshape(16, 64)
    rows = np.arange(16, dtype=np.int32) * 3 % 16
    later = (np.arange(16)[:, None] >= 2) & (np.arange(64) > rows[:, None])
    expected = np.where(later, a[rows], np.where(np.arange(16)[:, None] >= 1, 1, a))
    for leg, (_, _, c) in every_leg(overwritten, a, rows, np.zeros_like(a), adds=adds):
        np.testing.assert_array_equal(c, expected, err_msg=leg)


@tilec.kernel
def moving(
    A: T.Tensor((8, 16), "float32"), at: T.Tensor((32,), "int32"), C: T.Tensor((32, 8), "float32"),
    first: int = 0, last: int = 8,
):  # fmt: skip
    """The loop moves the row on that it reads."""
    with T.Kernel(1, threads=32):
        row = T.alloc_local((1,), "int32")
        t = T.get_thread_binding()
        row[0] = at[t]
        for v in T.vectorized(first, last):
            C[t, v] = A[row[0], v]
            row[0] = row[0] + 1


@pytest.mark.parametrize("bounds", [(0, 8), (3, 3), (2, 6)])
def test_what_the_loop_changes_is_read_in_every_iteration(bounds: tuple[int, int]) -> None:
    a = np.arange(128, dtype=np.float32).reshape(8, 16)
    at = np.arange(32, dtype=np.int32) - 20
    expected: Any = np.full((32, 8), -1, np.float32)
    for number, v in enumerate(range(*bounds)):
        row = at + number
        expected[:, v] = np.where((row >= 0) & (row < 8), a[row.clip(0, 7), v], 0)
    given = {"first": bounds[0], "last": bounds[1]}
    for leg, (_, _, c) in every_leg(moving, a, at, np.full((32, 8), -1, np.float32), **given):
        np.testing.assert_array_equal(c, expected, err_msg=leg)


@tilec.kernel
def rotated(X: T.Tensor((40, 64), "float16"), angle: T.Tensor((40, 32), "float16")):
    """The halves of a row as pairs, in place."""
    with T.Kernel(1, threads=64):
        for i, j in T.Parallel(40, 32):
            x, y = X[i, j], X[i, j + 32]
            X[i, j] = x - y * angle[i, j]
            X[i, j + 32] = y + x * angle[i, j]


def test_stores_that_are_apart_are_vectors() -> None:
    for target, text in compile_texts(rotated).items():
        assert text.count("<8>(X, ") + text.count("<8>(X_buffer, ") == 2, target
    by = HALVES[:, ::2] % 4
    x, y = HALVES[:, :32], HALVES[:, 32:]
    expected = np.concatenate([x - y * by, y + x * by], 1)
    for leg, (found, _) in every_leg(rotated, HALVES, by):
        np.testing.assert_array_equal(found, expected, err_msg=leg)


@tilec.kernel
def meeting(A: T.Tensor((8,), "float32"), B: T.Tensor((8,), "float32"), how: str):
    """Iterations of a loop that is to be vectorised read what others write."""
    with T.Kernel(1, threads=32):
        if T.get_thread_binding() == 0:
            for v in T.vectorized(4):
                if how == "before":
                    A[v + 1] = A[v]
                elif how == "one":
                    A[v] = A[v + 1] + A[0]
                elif how == "own":
                    A[v] = A[v] * 2
                elif how == "sums":
                    A[v // 2] += B[v]
                else:
                    A[v] = 5
                    A[v + 1] = 6


@pytest.mark.parametrize("how", ["before", "one", "own", "sums", "twice"])
def test_iterations_that_meet_run_in_order(how: str) -> None:
    expected = {
        "before": [1, 1, 1, 1, 1],
        "one": [3, 6, 7, 8, 5],
        "own": [2, 4, 6, 8, 5],
        "sums": [4, 9, 3, 4, 5],
        "twice": [5] * 4 + [6],
    }
    a = np.arange(1, 9, dtype=np.float32)
    for leg, (found, _) in every_leg(meeting, a, a, how=how):
        np.testing.assert_array_equal(found, [*expected[how], 6, 7, 8], err_msg=leg)
    assert ("<4>(A_run" in compile_texts(meeting, how=how)["cuda:sm_90a"]) == (how == "own")


@tilec.kernel
def unpacked(
    A: T.Tensor((16, "K // 2"), "uint8"), B: T.Tensor((16, "K"), "uint4"), S: T.Tensor((16,), "float16"),
    C: T.Tensor((16, "K"), "float16"), D: T.Tensor((16, "K"), "float16"), way: str = "shared",
):  # fmt: skip
    """Nibbles, two to a byte, times a number of their row: bytes taken apart, and 4-bit elements."""
    with T.Kernel(T.ceildiv(C.shape[1], 64), threads=64) as bx:
        bytes_, nibbles = T.alloc_shared((16, 32), "uint8"), T.alloc_shared((16, 64), "uint4")
        T.copy(A[0, bx * 32], bytes_)
        T.copy(B[0, bx * 64], nibbles)
        for i, j in T.Parallel(16, 64):
            k = bx * 64 + j
            byte = bytes_[i, j // 2] if way == "shared" else A[i, k // 2]
            C[i, k] = T.cast(byte >> (4 * (j % 2)) & 15, "float16") * S[i]
            nibble = nibbles[i, j] if way == "shared" else B[i, k]
            D[i, k] = T.cast(nibble, "float16") * S[i]


@pytest.mark.parametrize("way", ["shared", "tensor"])
def test_bytes_of_two_elements_are_read_together(way: str) -> None:
    """Eight halves are stored at once: their nibbles are four bytes."""
    for target, text in compile_texts(unpacked, way=way).items():
        assert (
            len(re.findall(rf"load_{'shared' if way == 'shared' else 'global'}<4>\(", text)) == 2
        ), target
    rng = np.random.default_rng(0)
    s = np.arange(16, dtype=np.float16)
    for k in (2, 62, 64, 66, 128):
        packed = rng.integers(0, 256, (2, 16, k // 2), np.uint8)
        expected = np.stack([packed & 15, packed >> 4], -1).reshape(2, 16, k) * s[:, None]
        empty = np.zeros((16, k), np.float16)
        for leg, (*_, c, d) in every_leg(unpacked, *packed, s, empty, empty, way=way):
            np.testing.assert_array_equal([c, d], expected, err_msg=f"{leg} {k}")


@tilec.kernel
def named_runs(
    A: T.Tensor(("N",), "float32"), P: T.Tensor((32,), "int32"), B: T.Tensor((128,), "float32")
):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(32, 4):
            B[i * 4 + j] = A[P[i] * 4 + j]


@pytest.mark.emulator
def test_a_run_that_ends_behind_the_last_integer_is_outside() -> None:
    places = np.arange(32, dtype=np.int32)
    places[3:6] = 2**29 - 1, -1, 2**30  # the first element is number 2^31 - 4, -4 and, wrapped, 0
    a = np.arange(1, 102, dtype=np.float32)
    expected = np.pad(a, (0, 27)).reshape(32, 4)
    expected[3:5], expected[5] = 0, a[:4]
    for leg, (*_, b) in every_leg(named_runs, a, places, np.empty(128, np.float32)):
        np.testing.assert_array_equal(b, expected.ravel(), err_msg=leg)


@tilec.kernel
def odd_rows(
    A: T.Tensor(("M", 37), "float16"), s: T.int32, C: T.Tensor(("M", 37), "float32"), how: str = "copy"
):  # fmt: skip
    """C = 2 A, from column s on if "from": rows that begin anywhere, and so are moved one by one."""
    start = s if how == "from" else 0
    with T.Kernel(A.shape[0], threads=8) as row:
        own = T.alloc_fragment((1, 64), "float32")
        part = T.alloc_shared((1, 64), "float16")
        if how in ("copy", "from"):
            T.copy(A[row, start], own)
            for i, j in T.Parallel(1, 64):
                own[i, j] = own[i, j] * 2
            T.copy(own, C[row, start])
        elif how == "nest":
            for j in T.Parallel(64):
                C[row, j] = A[row, j] * 2
        elif how == "pairs":
            for j in T.Parallel(32):
                C[row, 2 * j] = A[row, 2 * j] * 2
                C[row, 2 * j + 1] = A[row, 2 * j + 1] * 2
        else:
            T.copy(A[row, 0], part)
            for j in T.Parallel(64):
                C[row, j] = part[0, j] * 2


@pytest.mark.parametrize("how", ["copy", "from", "nest", "shared", "pairs"])
def test_elements_of_a_run_are_guarded_by_what_their_row_has_left(how: str) -> None:
    """By one number and not by the index of each, but where that number might overflow."""
    for target, text in compile_texts(odd_rows, how=how).items():
        counted = "37 - " in text and not re.search(r"< 37\b(?! -)", text)
        assert counted == (how != "from"), target
    for start in (0, 1, 36, 37, -3, 2**31 - 30) if how == "from" else (0,):
        expected = 2 * HALVES[:5, :37].astype(np.float32)
        expected[:, : max(start, 0)] = 0
        zeros = np.zeros_like(expected)
        for leg, (*_, c) in every_leg(odd_rows, HALVES[:5, :37].copy(), start, zeros, how=how):
            np.testing.assert_array_equal(c, expected, err_msg=f"{leg} {start}")
