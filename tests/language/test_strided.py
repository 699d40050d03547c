"""T.StridedTensor: views, slices, transposed and broadcast arrays; what is refused; launch classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.runtime.conftest import device_array
from tilec.errors import ArgumentError, LanguageError
from tilec.ir.ops import builtin_registry
from tilec.ir.print import print_program
from tilec.parser.text import parse_program
from tilec.runtime.check_args import bind_arguments, pick_variant

DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)


@tilec.kernel
def matmul(
    A: T.StridedTensor(("M", "K"), ("lda", 1), "float16"),
    B: T.StridedTensor(("K", "N"), ("ldb", 1), "float16"),
    C: T.StridedTensor(("M", "N"), (T.dynamic("ldc"), 1), "float32"),
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
    A: T.StridedTensor(("M", "N"), ("am", "an"), "float32"),
    B: T.StridedTensor(("M", "N"), ("bm", "bn"), "float32"),
    C: T.StridedTensor(("M", "N"), ("cm", "cn"), "float32"),
):
    with T.Kernel(T.ceildiv(A.shape[0], 16), T.ceildiv(A.shape[1], 16), threads=64) as (bx, by):
        for i, j in T.Parallel(16, 16):
            row, column = bx * 16 + i, by * 16 + j
            C[row, column] = A[row, column] + B[row, column]


def rows(random: np.random.Generator, m: int, n: int, gap: int, dtype: Any) -> np.ndarray:
    """An m x n slice of an array whose rows are `gap` elements longer."""
    return random.integers(-4, 5, (m, n + gap)).astype(dtype)[:, :n]


# M, N, K, and how much longer the rows of A, B and C are: with 8 all rows are of 16 bytes, and of
# these the last extents are whole vectors or not.
PRODUCTS = (
    (64, 64, 32, 8, 8, 8), (64, 64, 32, 0, 0, 0), (65, 72, 40, 8, 8, 8), (65, 70, 36, 4, 2, 2),
    (130, 65, 100, 28, 63, 63), (1, 1, 1, 7, 7, 7), (63, 8, 8, 1, 1, 1), (0, 4, 4, 4, 4, 4),
)  # fmt: skip


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_slices_of_wider_arrays(device: str) -> None:
    for m, n, k, *gaps in PRODUCTS:
        random = np.random.default_rng(m + n + k)
        a, b = rows(random, m, k, gaps[0], np.float16), rows(random, k, n, gaps[1], np.float16)
        whole = np.full((m, n + gaps[2]), 7, np.float32)
        with tilec.device(device):
            matmul(a, b, whole[:, :n])
        assert np.array_equal(whole[:, :n], a.astype(np.float32) @ b.astype(np.float32))
        assert (whole[:, n:] == 7).all(), "what lies between the rows is not the kernel's"


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_transposed_broadcast_and_spread_arrays(device: str) -> None:
    for m, n in ((16, 16), (17, 33), (1, 5), (5, 1), (31, 16)):
        random = np.random.default_rng(m)
        a = random.standard_normal((n, m)).astype(np.float32).T
        b = np.broadcast_to(random.standard_normal(n).astype(np.float32), (m, n))
        whole = np.zeros((2 * m, 3 * n), np.float32)
        with tilec.device(device):
            add(a, b, whole[::2, ::3])
        assert np.array_equal(whole[::2, ::3], a + b)
        assert not whole[1::2].any() and not whole[:, 1::3].any()


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_a_strided_tensor_is_filled(device: str) -> None:
    @tilec.kernel
    def ones(C: T.StridedTensor((5, 7), ("ld", 2), "int32")):
        with T.Kernel(1, threads=32):
            T.fill(C, 1)

    whole = np.zeros((5, 14), np.int32)
    with tilec.device(device):
        ones(whole[:, :13:2])
    assert (whole[:, :13:2] == 1).all() and whole.sum() == 35


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_strides_are_values_of_the_kernel(device: str) -> None:
    @tilec.kernel
    def tell(
        A: T.StridedTensor(("M", "N"), ("ld", 1), "int8"), B: T.Tensor(("M", "N"), "int8"),
        C: T.Tensor(4, "int32"),
    ):  # fmt: skip
        with T.Kernel(1, threads=32):
            for i in T.Parallel(1):
                C[i], C[i + 1] = A.strides[0], A.strides[1]
                C[i + 2], C[i + 3] = B.strides[0], B.strides[1]

    c = np.zeros(4, np.int32)
    with tilec.device(device):
        tell(np.zeros((3, 9), np.int8)[:, :4], np.zeros((3, 4), np.int8), c)
    assert c.tolist() == [9, 1, 4, 1]


def test_the_text_has_strides() -> None:
    program = matmul.lower_to_ir()
    text = print_program(program)
    assert "%A: global f16[M, K] strides [lda, 1]" in text
    assert print_program(parse_program(text, builtin_registry())) == text
    assert program.symbols == ("M", "K", "lda", "N", "ldb", "ldc")


def test_strides_decide_the_variant() -> None:
    compiled = matmul.lower(target="cuda:sm_90a")
    compiled.add_general()
    fast, _, general = compiled.variants

    def variant(k: int, lda: int, pointer: int = 0x7F00_0000_0000) -> str:
        a = device_array((64, k), "f16", pointer, (2 * lda, 2))
        others = device_array((k, 64), "f16", 1 << 40), device_array((64, 64), "f32", 1 << 41)
        manifest = compiled.manifest
        return pick_variant(manifest, bind_arguments(manifest, (a, *others)).views).source

    assert "tma" in fast.text and "tma" not in general.text
    assert variant(64, 64) == variant(64, 72) == fast.file_name
    assert variant(64, 68) == general.file_name  # rows of 136 bytes
    assert variant(60, 64) == general.file_name  # a vector would cross the end of a row
    assert variant(64, 64, 0x7F00_0000_0008) == general.file_name
    assert variant(64, 0) == general.file_name  # one row, broadcast: TMA has no such stride


def refusal(*arrays: Any) -> str:
    with pytest.raises(ArgumentError) as caught:
        add(*arrays)
    assert caught.value.code == "TLC0803"
    return caught.value.message


def test_what_is_refused() -> None:
    a = np.zeros((4, 6), np.float32)
    one = np.zeros(1, np.float32)
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(24, np.float32), (4, 6), (4, 4))
    assert "C has strides of (4, 4) bytes for shape (4, 6): its elements may overlap" in refusal(
        a, a, overlapping
    )
    same = np.lib.stride_tricks.as_strided(one, (4, 6), (0, 0))
    assert "elements may overlap" in refusal(a, a, same)
    assert "A has strides of (-24, 4) bytes, expected none below 0" in refusal(a[::-1], a, a.copy())
    add(np.zeros((1, 6), np.float32)[::-1], np.zeros((1, 6), np.float32), a[:1])  # one row: no step
    record = np.zeros(4, np.dtype([("x", np.float32), ("y", np.int8)]))["x"]  # 5 bytes apart
    assert "strides of (20, 5) bytes" in refusal(
        np.lib.stride_tricks.as_strided(record, (1, 4), (20, 5)), a[:1, :4], a[1:2, :4]
    )


def test_strides_that_are_numbers_are_checked() -> None:
    @tilec.kernel
    def fixed(A: T.StridedTensor((4, 6), (8, 1), "float32")):
        with T.Kernel(1):
            A[0, 0] = 1.0

    fixed(np.zeros((4, 8), np.float32)[:, :6])
    with pytest.raises(ArgumentError, match="expected 8 elements = 32 bytes where it has 24"):
        fixed(np.zeros((4, 6), np.float32))


@pytest.mark.parametrize(
    ("shape", "strides", "expected"),
    [
        ((4, 6), (24, 4), False), ((4, 6), (4, 16), False), ((4, 6), (20, 4), True),
        ((4, 6), (0, 4), True), ((1, 6), (0, 4), False), ((4, 6), (2, 8), True), ((), (), False),
        ((2, 2, 2), (8, 4, 16), False), ((2, 3, 2), (8, 4, 16), True),
    ],
)  # fmt: skip
def test_overlaps(shape: tuple[int, ...], strides: tuple[int, ...], expected: bool) -> None:
    assert device_array(shape, "f32", strides=strides).overlaps_itself == expected


def test_annotations_that_are_refused() -> None:
    with pytest.raises(LanguageError, match="has not one stride for each dimension"):
        T.StridedTensor(("M", "N"), ("ld",), "float32")
    with pytest.raises(LanguageError, match="a tensor has a dimension or stride of -1"):
        T.StridedTensor(("M", "N"), (-1, 1), "float32")
    assert str(T.StridedTensor(("M", 4), ("ld", 1), "float32")) == (
        "T.StridedTensor((M, 4), (ld, 1), float32)"
    )


@tilec.kernel
def counted(X: T.Tensor((6, 5), "int32"), Y: T.StridedTensor((6, 5), ("s0", "s1"), "int32")):
    """Y[i, j] += X[i, j], twice."""
    with T.Kernel(2, threads=32):
        for i, j in T.Parallel(6, 5):
            T.atomic_add(Y[i, j], X[i, j])


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("view", ["rows", "columns", "transposed"])
def test_atomics_change_arrays_with_gaps(device: str, view: str) -> None:
    x, whole = np.arange(30, dtype=np.int32).reshape(6, 5), np.zeros((12, 10), np.int32)
    y = {"rows": whole[::2, :5], "columns": whole[:6, ::2], "transposed": whole[:5, :6].T}[view]
    with tilec.device(device):
        counted(x, y)
    assert np.array_equal(y, 2 * x) and whole.sum() == 2 * x.sum()
