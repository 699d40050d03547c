"""What is refused of elements of four bits: whatever would write half a byte, and arithmetic on them."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.test_four_bits import DTYPES, FLOAT
from tilec.errors import TypeMismatch
from tilec.language.kernel import Kernel
from tilec.runtime.driver import lower


def kernel_of(body: Callable[..., Any], shape: Any = ("M", "N"), dtype: str = "int4") -> Kernel:
    @tilec.kernel
    def refused(A: T.Tensor(shape, dtype), B: T.Tensor(shape, dtype), k: T.int32):
        with T.Kernel(1, threads=32):
            body(A, B, k)

    return refused


def single(A: Any, B: Any, k: Any) -> None:
    t = T.get_thread_binding()
    B[0, t] = A[0, t]


@T.macro
def mirrored(A: Any, B: Any, k: Any) -> None:
    for i, j in T.Parallel(8, 8):
        B[i, 7 - j] = A[i, j]


@T.macro
def read_again(A: Any, B: Any, k: Any) -> None:
    for i, j in T.Parallel(8, 8):
        B[i, j] = A[i, j]
        A[i, j] = B[i, j]


def odd_tile(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 7), A.dtype)
    T.copy(A[0, 0], f)
    T.copy(f, B[0, 0])


def odd_offset(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 8), A.dtype)
    T.copy(A[0, k], f)
    T.copy(f, B[0, 0])


def multiplied(A: Any, B: Any, k: Any) -> None:
    a = T.alloc_shared((16, 16), A.dtype)
    acc = T.alloc_fragment((16, 16), "int32" if A.dtype == T.int4 else "float32")
    T.copy(A[0, 0], a)
    T.clear(acc)
    T.gemm(a, a, acc)


def summed(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 8), A.dtype)
    sums = T.alloc_fragment((8,), A.dtype)
    T.copy(A[0, 0], f)
    T.reduce_sum(f, sums, dim=1)
    T.copy(sums, B[0, 0])


def annotated(A: Any, B: Any, k: Any) -> None:
    a = T.alloc_shared((16, 64), A.dtype)
    T.annotate_layout({a: tilec.layout.make_swizzle_layout(a)})
    T.copy(A[0, 0], a)
    T.copy(a, B[0, 0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (single, "a single element of global {}"),
        (mirrored, "a single element of global {}"),
        (read_again, "a single element of global {}"),
        (odd_tile, "may begin or end within a byte"),
        (odd_offset, "may begin or end within a byte"),
        (multiplied, "T.gemm is not defined for elements of {}"),
        (summed, "T.reduce_sum is not defined for elements of {}"),
        (annotated, "T.annotate_layout is not defined for elements of {}"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
@pytest.mark.parametrize(("dtype", "short"), [("int4", "i4"), (FLOAT, "e2m1")])
def test_half_bytes_are_refused(
    body: Callable[..., Any], message: str, dtype: str, short: str
) -> None:
    with pytest.raises(tilec.TilecError) as caught:
        lower(kernel_of(body, dtype=dtype), (), "cuda:sm_80", {}).source  # noqa: B018
    assert caught.value.code == "TLC0152" and message.format(short) in caught.value.message
    assert caught.value.loc.line > 0 and caught.value.hint
    assert dtype != FLOAT or "int8" not in caught.value.hint


@pytest.mark.parametrize(
    "body", [single, odd_tile, multiplied, summed, annotated], ids=lambda x: x.__name__
)
def test_what_needs_no_ranges_is_refused_before_any_pass(body: Callable[..., Any]) -> None:
    """The interpreter, which knows elements alone, refuses it too, at the line of the user."""
    with pytest.raises(TypeMismatch) as caught:
        kernel_of(body).lower_to_ir()
    lines, first = inspect.getsourcelines(body)
    assert first < caught.value.loc.line < first + len(lines)


@pytest.mark.parametrize(("dtype", "hint"), [(T.int4, "T.int8"), (T.float4_e2m1fn, "T.float16")])
def test_a_scalar_of_four_bits_is_refused_where_it_stands(dtype: Any, hint: str) -> None:
    @tilec.kernel
    def scalar(A: T.Tensor((8,), "int8"), n: dtype):
        with T.Kernel(1, threads=32):
            A[0] = T.cast(n, "int8")

    with pytest.raises(TypeMismatch, match=f"n is a scalar of {dtype}") as caught:
        scalar.lower_to_ir()
    assert hint in caught.value.hint
    assert (
        linecache.getline(caught.value.loc.file, caught.value.loc.line).lstrip().startswith("def")
    )


def no_number(A: Any, B: Any, k: Any) -> None:
    T.fill(T.alloc_shared((8, 32), A.dtype), float("nan"))


def too_large(A: Any, B: Any, k: Any) -> None:
    T.fill(T.alloc_shared((8, 32), A.dtype), 8)


@pytest.mark.parametrize(("body", "what"), [(no_number, "nan"), (too_large, "8")])
def test_numbers_that_there_are_not_are_refused(body: Callable[..., Any], what: str) -> None:
    with pytest.raises(TypeMismatch, match=f"{what} is no e2m1") as caught:
        kernel_of(body, dtype=FLOAT).lower_to_ir()
    assert caught.value.code == "TLC0138" and caught.value.loc.known


def odd_buffer(A: Any, B: Any, k: Any) -> None:
    T.alloc_shared((8, 7), A.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_rows_are_refused(dtype: str) -> None:
    with pytest.raises(tilec.TilecError, match=rf"TLC0151.*a row of 7 elements of {dtype}"):
        kernel_of(odd_buffer, dtype=dtype).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0151"):
        kernel_of(single, (8, 7), dtype).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0152"):
        T.StridedTensor(("M", "N"), ("ld", 1), dtype)


@pytest.mark.parametrize("inner", ["i4x2", "u4x2", "e2m1x2", "e2m1b"])
def test_what_the_compiler_makes_of_them_is_no_dtype_of_users(inner: str) -> None:
    def pairs(A: Any, B: Any, k: Any) -> None:
        T.alloc_shared((8, 32), inner)

    with pytest.raises(TypeMismatch, match=f"'{inner}' is not an element type") as caught:
        kernel_of(pairs).lower_to_ir()
    assert caught.value.code == "TLC0110" and caught.value.loc.known and caught.value.hint


def test_elements_that_are_not_packed_are_refused() -> None:
    """One a byte, as ml_dtypes has them, would be read as rows of twice as many."""
    a = np.zeros((8, 64), ml_dtypes.float4_e2m1fn)
    for device in ("interpreter", "emulator:cuda:sm_80"):
        with tilec.device(device), pytest.raises(tilec.TilecError, match="dtype float4") as caught:
            nest_kernel()(a, a)
        assert "tilec.quantize.pack" in caught.value.hint


def nest_kernel() -> Kernel:
    @tilec.kernel
    def copied(A: T.Tensor((8, 64), FLOAT), B: T.Tensor((8, 64), FLOAT)):
        with T.Kernel(1, threads=32):
            f = T.alloc_fragment((8, 64), FLOAT)
            T.copy(A, f)
            T.copy(f, B)

    return copied


def test_an_odd_symbol_is_refused() -> None:
    @tilec.kernel
    def both(A: T.Tensor(("N",), "int8"), B: T.Tensor(("N",), "int4")):
        (N,) = A.shape
        with T.Kernel(T.ceildiv(N, 32), threads=32) as bx:
            for i in T.Parallel(32):
                B[bx * 32 + i] = A[bx * 32 + i]

    for n, held in ((65, 32), (65, 33), (64, 33), (64, 31)):
        with tilec.device("interpreter"), pytest.raises(tilec.TilecError, match="B"):
            both(np.zeros(n, np.int8), np.zeros(held, np.int8))
    out = np.zeros(32, np.int8)
    with tilec.device("interpreter"):
        both(np.full(64, 19, np.int8), out)
    assert out.tolist() == [0x33] * 32
