"""T.reshape and T.view: the same elements under other indices, and nothing past the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.language.refusals import refused
from tilec.errors import LanguageError
from tilec.language.reshape import _groups
from tilec.runtime.driver import lower

DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)


@tilec.kernel
def halves(A: T.Tensor(("M", 64), "int32"), C: T.Tensor(("M", 2, 32), "int32")):
    """Splits rows, through shared memory that is one row; a tensor and a buffer are reshaped."""
    split = T.reshape(A, (A.shape[0], 2, 32))
    with T.Kernel(T.ceildiv(A.shape[0], 8), threads=64) as bx:
        S = T.alloc_shared((8 * 64,), "int32")
        rows = T.view(S, (8, 2, 32))
        for i, h, j in T.Parallel(8, 2, 32):
            rows[i, h, j] = split[bx * 8 + i, h, j]
        for i, h, j in T.Parallel(8, 2, 32):
            C[bx * 8 + i, h, j] = S[i * 64 + h * 32 + j] + rows[i, 1 - h, j]


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_dimensions_are_split(device: str) -> None:
    for m in (0, 1, 7, 8, 9, 17):
        a = np.arange(m * 64, dtype=np.int32).reshape(m, 64)
        c = np.zeros((m, 2, 32), np.int32)
        with tilec.device(device):
            halves(a, c)
        b = a.reshape(m, 2, 32)
        assert np.array_equal(c, b + b[:, ::-1])


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_outside_stays_outside(device: str) -> None:
    """What is outside of a reshaped tensor reads as 0 and is not written, in whatever dimension."""

    @tilec.kernel
    def shifted(A: T.Tensor((6, 5), "int32"), C: T.Tensor((30,), "int32")):
        merged = T.reshape(C, (5, 6))
        with T.Kernel(1, threads=32):
            for i, j in T.Parallel(8, 8):
                merged[i, j - 1] = T.reshape(A, (5, 6))[i, j] + 1

    a = np.arange(1, 31, dtype=np.int32).reshape(6, 5)
    c = np.zeros(30, np.int32)
    with tilec.device(device):
        shifted(a, c)
    wide = np.zeros((8, 8), np.int32)
    wide[:5, :6] = a.reshape(5, 6)
    assert np.array_equal(c.reshape(5, 6), wide[:5, 1:7] + 1)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_dimensions_are_merged_and_bits_are_read(device: str) -> None:
    @tilec.kernel
    def bits(A: T.Tensor(("M", 3, 4), "float32"), C: T.Tensor(("M", 12), "uint32")):
        flat = T.view(A, (A.shape[0], 12), "uint32")
        back = T.view(C, dtype="float32")
        with T.Kernel(A.shape[0], threads=32) as bx:
            for j in T.Parallel(16):
                if flat[bx, j] > 0x4000_0000:
                    C[bx, j] = flat[bx, j]
                else:
                    back[bx, j] = 1.5

    a = np.random.default_rng(0).standard_normal((5, 3, 4)).astype(np.float32) * 3
    c = np.zeros((5, 12), np.uint32)
    with tilec.device(device):
        bits(a, c)
    flat = a.reshape(5, 12).view(np.uint32)
    expected = np.where(flat > 0x4000_0000, flat, np.float32(1.5).view(np.uint32))
    assert np.array_equal(c, expected)


def test_a_dimension_of_one_element_has_an_outside_too() -> None:
    @tilec.kernel
    def beside(A: T.Tensor((4,), "int32"), C: T.Tensor((4,), "int32")):
        with T.Kernel(1, threads=32):
            for i, k in T.Parallel(4, 1):
                C[i] = T.reshape(A, (1, 4, 1))[0, i, k + 1] + T.reshape(A, (1, 4, 1))[0, i, k]

    c = np.zeros(4, np.int32)
    beside(np.arange(4, dtype=np.int32), c)
    assert c.tolist() == [0, 1, 2, 3]


def test_the_interpreter_finds_what_leaves_a_dimension_of_shared_memory() -> None:
    @tilec.kernel
    def leaves(C: T.Tensor((4,), "int32")):
        with T.Kernel(1, threads=32):
            S = T.alloc_shared((4, 4), "int32")
            T.fill(S, 1)
            for i in T.Parallel(4):
                C[i] = T.reshape(S, (2, 8))[0, i + 6]

    with pytest.raises(tilec.errors.ExecutionError, match="-1"):
        leaves(np.zeros(4, np.int32))


@tilec.kernel
def behind_words(A: T.Tensor(("M", 6), "uint8"), C: T.Tensor(("M", 4), "int32"), i: T.int32):
    """Words of bytes from column i on: the rows of words end before those of C."""
    words = T.view(A, (A.shape[0], 3), "int16")
    with T.Kernel(1, threads=32):
        for r, j in T.Parallel(4, 4):
            C[r, j] = words[r, i + j]


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("i", [-1, 0, 1, 3])
def test_outside_of_wider_elements_is_outside(device: str, i: int) -> None:
    a = np.arange(1, 19, dtype=np.uint8).reshape(3, 6)
    c = np.full((3, 4), -1, np.int32)
    with tilec.device(device):
        behind_words(a, c, i)
    wide = np.zeros((3, 10), np.int32)
    wide[:, 2:5] = a.view(np.int16)
    assert np.array_equal(c, wide[:, i + 2 : i + 6])


def test_the_interpreter_sees_bytes_through_every_view() -> None:
    @tilec.kernel
    def half_written(C: T.Tensor((4,), "int16")):
        with T.Kernel(1, threads=32):
            S = T.alloc_shared((8,), "int8")
            for i in T.Parallel(7):
                S[i] = 1
            T.copy(T.view(S, dtype="int16"), C)

    @tilec.kernel
    def unordered(C: T.Tensor((4,), "int16")):
        with T.Kernel(1, threads=32):
            S = T.alloc_shared((8,), "int8")
            T.fill(S, 1)
            for i in T.Parallel(4):
                S[i] = 2
                C[i] = T.view(S, dtype="int16")[i]

    with pytest.raises(tilec.errors.ExecutionError, match="uninitialised"):
        half_written(np.zeros(4, np.int16))
    with pytest.raises(tilec.errors.ExecutionError, match="no order"):
        unordered(np.zeros(4, np.int16))


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_a_view_of_a_view_is_one_of_the_memory(device: str) -> None:
    @tilec.kernel
    def twice(A: T.Tensor((4, 8), "float16"), C: T.Tensor((16,), "uint32")):
        with T.Kernel(1, threads=32):
            S = T.alloc_shared((64,), "uint8")
            words = T.view(S, dtype="uint32")
            halves = T.reshape(T.view(words, (32,), "float16"), (4, 8))
            for i, j in T.Parallel(4, 8):
                halves[i, j] = A[i, j] * 2.0
            T.copy(words, C)

    a = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)
    c = np.zeros(16, np.uint32)
    with tilec.device(device):
        twice(a, c)
    assert np.array_equal(c, (a * np.float16(2)).reshape(-1).view(np.uint32))


def test_groups() -> None:
    def found(new: tuple[Any, ...], old: tuple[Any, ...]) -> list[tuple[list[int], list[int]]]:
        return [(list(a), list(b)) for a, b in _groups(factors(new), factors(old))]

    def factors(dims: tuple[Any, ...]) -> list[tuple[int, tuple[str, ...]]]:
        return [
            d if isinstance(d, tuple) else (1, (d,)) if isinstance(d, str) else (d, ())
            for d in dims
        ]

    assert found(("M", 2, 32), ("M", 64)) == [([0], [0]), ([1, 2], [1])]
    assert found((64, "N"), (8, 8, "N")) == [([0], [0, 1]), ([1], [2])]
    assert found(("M", "N"), ("N", "M")) == [([0, 1], [0, 1])]
    assert found((4, 6), (2, 3, 4)) == [([0, 1], [0, 1, 2])]
    assert found((1, 8, 1), (8,)) == [([0, 1, 2], [0])]
    assert found((8,), (1, 8, 1)) == [([0], [0, 1]), ([], [2])]
    flat = (1, ("B", "H", "W"))
    assert found((flat, "F"), ("B", "H", "W", "F")) == [([0], [0, 1, 2]), ([1], [3])]
    assert found(("B", "H", "W", "F"), (flat, "F")) == [([0, 1, 2], [0]), ([3], [1])]
    assert found(((2, ("M",)), "N"), ("M", 2, "N")) == [([0], [0, 1]), ([1], [2])]


@tilec.kernel
def flat_rows(X: T.Tensor(("B", "H", "W", 20), "int32"), P: T.Tensor(("B * H",), "int32"),
              Y: T.Tensor(("B", "H", "W", 20), "int32"), Z: T.Tensor(("B * H * W", 20), "int32"),
              rows: int = 16):  # fmt: skip
    """Y = X with the number of its row added, Z = X + P: four dimensions as two, and back."""
    B, H, W, _ = X.shape
    X2, Y2 = T.reshape(X, (B * H * W, 20)), T.reshape(Y, (B * H * W, 20))
    Z4, P2 = T.reshape(Z, (B, H, W, 20)), T.view(P, (B, H))
    with T.Kernel(T.ceildiv(B * H * W, rows) + 1, threads=64) as bx:
        tile = T.alloc_shared((rows, 24), "int32")
        T.copy(X2[bx * rows, 0], tile)
        for i, j in T.Parallel(rows, 24):
            Y2[bx * rows + i, j] = tile[i, j] + bx * rows + i
    with T.Kernel(W + 1, H + 1, B + 1, threads=32) as (w, h, b):
        for j in T.Parallel(32):
            Z4[b, h, w, j] = X[b, h, w, j] + P2[b, h]


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 1, 1), (3, 1, 16), (2, 0, 3), (0, 2, 2)], ids=str)
def test_products_of_symbols_are_extents(shape: tuple[int, int, int]) -> None:
    b, h, w = shape
    x = np.random.default_rng(0).integers(-99, 99, (*shape, 20)).astype(np.int32)
    p = np.arange(b * h, dtype=np.int32) * 1000
    numbers = np.arange(b * h * w, dtype=np.int32).reshape(*shape, 1)
    for device in DEVICES:
        y, z = np.zeros_like(x), np.zeros((b * h * w, 20), np.int32)
        with tilec.device(device):
            flat_rows(x, p, y, z)
        np.testing.assert_array_equal(y, x + numbers, err_msg=device)
        expected = x + p.reshape(b, h, 1, 1)
        np.testing.assert_array_equal(z, expected.reshape(-1, 20), err_msg=device)


def test_products_that_are_refused() -> None:
    def another_product(A: T.Tensor(("M", "N", 4), "int32")):
        T.reshape(A, (A.shape[0] * A.shape[0], 4))

    def a_sum(A: T.Tensor(("M", 4), "int32")):
        T.reshape(A, (A.shape[0] + 0 * A.shape[0] + 1, 4))

    def in_the_launch(A: T.Tensor(("M", "N", 4), "int32")):
        with T.Kernel(A.shape[0]) as bx:
            T.reshape(A, (A.shape[0] * A.shape[1] * (bx // bx), 4))

    assert refused(another_product) == "`A` of shape (M, N, 4) has not the elements of (M * M, 4)"
    assert "has not the elements of" in refused(a_sum)
    assert refused(in_the_launch) == "T.view with an extent that is computed in a launch"


def test_what_is_refused() -> None:
    def another_size(A: T.Tensor(("M", 64), "int32")):
        T.reshape(A, (A.shape[0], 2, 16))

    def another_symbol(A: T.Tensor(("M", 64), "int32"), B: T.Tensor(("N",), "int32")):
        T.reshape(A, ("N", 64))

    def a_number(A: T.Tensor(("M", 64), "int32")):
        T.reshape(3, (3,))

    def rank(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            A[0, 0] = T.reshape(A, ("M", 8, 8))[0, 0]

    def handle(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            T.atomic_add(T.reshape(A, ("M", 8, 8))[0, 0, 0], 1)

    def two_shapes(A: T.Tensor((64,), "int32")):
        with T.Kernel(1, threads=32):
            x = T.alloc_fragment((64,), "int32")
            v = T.reshape(x, (8, 8))
            T.copy(A, x)
            for i in T.Parallel(64):
                x[i] = v[i % 8, i // 8]
            T.copy(x, A)

    def tile(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            T.clear(T.reshape(A, ("M", 8, 8)))

    assert refused(another_size) == "`A` of shape (M, 64) has not the elements of (M, 2, 16)"
    assert "has not the elements of (N, 64)" in refused(another_symbol)
    assert "a view of 3, which is no buffer" in refused(a_number)
    assert "2 indices into `A` as int32[M, 8, 8], which has 3" in refused(rank)
    assert "the extent M of `A` as int32[M, 8, 8]" in refused(tile)
    assert "`A` as int32[M, 8, 8] is a view" in refused(handle)
    with pytest.raises(LanguageError, match="writes fragment 'x' and uses it under two shapes"):
        lower(tilec.kernel(two_shapes), (), "cuda:sm_80", {})


def test_elements_that_are_not_made_of_the_buffers_are_refused() -> None:
    def other_bits(A: T.Tensor(("M", 64), "int32")):
        T.view(A, (A.shape[0], 64), "int64")

    def part_of_a_row(A: T.Tensor(("M", 7), "int32")):
        T.view(A, dtype="int64")

    def unknown_rows(A: T.Tensor(("M", "N"), "int32")):
        T.view(A, dtype="int8")

    def flags(A: T.Tensor(("M", 64), "int32")):
        T.view(A, dtype="bool")

    def fours_in_registers(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            x = T.alloc_fragment((64,), "int32")
            T.view(x, dtype="uint4")

    def fragment_rows(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            x = T.alloc_fragment((4, 6), "int16")
            T.view(x, (3, 4), "int32")

    def part_written(A: T.Tensor(("M", 64), "int32")):
        with T.Kernel(1):
            S = T.alloc_shared((64,), "int32")
            T.view(S, dtype="uint8")[0] = 1

    def parts_written(A: T.Tensor((64,), "int8")):
        with T.Kernel(1):
            S = T.alloc_shared((32,), "int32")
            T.copy(A, T.view(S, dtype="int8")[0:64])

    assert "has not the elements of (M, 64), int32 seen as int64" in refused(other_bits)
    assert "rows of 7 int32 are no whole number" in refused(part_of_a_row)
    assert "rows of N int32 are no whole number" in refused(unknown_rows)
    assert "int32 is neither made of such elements nor a part of one" in refused(flags)
    assert "in registers, where each has a byte" in refused(fours_in_registers)
    assert "rows of one end within rows of the other" in refused(fragment_rows)
    for function in (part_written, parts_written):
        assert "threads that write parts of one element would race" in refused(function)
