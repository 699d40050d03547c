"""int4 and uint4, packed two a byte: the interpreter's results from the emulated text of three
machines, and what is refused because it would write half a byte."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.kernels.machines import TARGETS
from tests.kernels.test_dtypes import run_everywhere
from tilec.errors import TypeMismatch
from tilec.language.kernel import Kernel
from tilec.quantize import pack, unpack
from tilec.runtime.driver import lower

BM, BN = 32, 64
SIZES = ((1, 2), (31, 62), (33, 66), (64, 128), (0, 64))
SIGNED = {"int4": True, "uint4": False}


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    low = -8 if SIGNED[dtype] else 0
    return np.random.default_rng(seed).integers(low, low + 16, shape).astype(np.int8)


def every_way(dtype: str) -> Kernel:
    other = "uint4" if dtype == "int4" else "int4"

    @tilec.kernel
    def ways(
        A: T.Tensor(("M", "N"), dtype),
        Copied: T.Tensor(("M", "N"), dtype),
        Half: T.Tensor(("M", "N"), "float16"),
        Bytes: T.Tensor(("M", "N"), "int8"),
        Nest: T.Tensor(("M", "N"), other),
        Scaled: T.Tensor(("M", "N"), dtype),
        Straight: T.Tensor(("M", "N"), "float32"),
    ):
        M, N = A.shape
        with T.Kernel(T.ceildiv(N, BN), T.ceildiv(M, BM), threads=128) as (bx, by):
            s = T.alloc_shared((BM, BN), dtype)
            f = T.alloc_fragment((BM, BN), dtype)
            x = T.alloc_var(dtype)
            T.copy(A[by * BM, bx * BN], s)
            T.copy(s, Copied[by * BM, bx * BN])
            T.copy(s, f)
            T.copy(f, Bytes[by * BM, bx * BN])
            T.copy(s, Straight[by * BM, bx * BN])
            for i, j in T.Parallel(BM, BN):
                x = s[i, BN - 1 - j]
                Half[by * BM + i, bx * BN + j] = T.cast(x, "float16") * 2
            for i, j in T.Parallel(BM, BN):
                Nest[by * BM + i, bx * BN + j] = s[i, j] + A[by * BM + i, bx * BN + j]
            for i, j in T.Parallel(BM, BN):
                f[i, j] = T.cast(f[i, j], "float32") * 1.5
            T.copy(f, Scaled[by * BM, bx * BN])

    return ways


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", SIGNED)
def test_every_way(dtype: str) -> None:
    other = "uint4" if dtype == "int4" else "int4"
    for m, n in SIZES:
        v = values(dtype, (m, n), m)
        a = pack(v)

        def arrays(a: np.ndarray = a, m: int = m, n: int = n) -> tuple[Any, ...]:
            made = [np.zeros((m, n), k) for k in (np.float16, np.int8, np.float32)]
            packed = [np.zeros((m, n // 2), k) for k in (np.int8, np.uint8, np.int8)]
            return a, packed[0], made[0], made[1], packed[1], packed[2], made[2]

        found = run_everywhere(every_way, (dtype,), arrays)
        _, copied, half, plain, nest, scaled, straight = found
        assert copied.tobytes() == a.tobytes()
        assert plain.tolist() == v.tolist() == straight.astype(int).tolist()
        whole = np.zeros((m, -(-n // BN) * BN), np.int8)
        whole[:, :n] = v
        mirrored = whole.reshape(m, -(-n // BN), BN)[:, :, ::-1].reshape(whole.shape)[:, :n]
        assert half.astype(int).tolist() == (2 * mirrored.astype(int)).tolist()
        doubled = (2 * v.astype(int)) % 16
        expected = np.where(doubled > 7, doubled - 16, doubled) if SIGNED[other] else doubled
        assert unpack(nest, signed=SIGNED[other]).tolist() == expected.tolist()
        limits = (-8, 7) if SIGNED[dtype] else (0, 15)
        expected = np.clip(np.trunc(v * 1.5), *limits)
        assert unpack(scaled, signed=SIGNED[dtype]).tolist() == expected.tolist()


def dequantizing_gemm(dtype: str) -> Kernel:
    @tilec.kernel
    def gemm(
        A: T.Tensor(("M", "K"), "float16"),
        B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("M", "N"), "float32"),
    ):
        M, K = A.shape
        N = B.shape[0]
        with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
            A_s = T.alloc_shared((64, 64), "float16")
            B_s = T.alloc_shared((64, 64), dtype)
            B_f = T.alloc_fragment((64, 64), "float16")
            B_d = T.alloc_shared((64, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, 64), num_stages=3):
                T.copy(A[by * 64, k * 64], A_s)
                T.copy(B[bx * 64, k * 64], B_s)
                T.copy(B_s, B_f)
                T.copy(B_f, B_d)
                T.gemm(A_s, B_d, acc, transpose_B=True)
            T.copy(acc, C[by * 64, bx * 64])

    return gemm


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", SIGNED)
def test_weights_of_a_gemm(dtype: str) -> None:
    """Sums of small integers, which are exact."""
    for m, n, k in ((64, 64, 128), (65, 63, 130), (1, 3, 2)):
        b = values(dtype, (n, k))
        a = np.random.default_rng(1).integers(-4, 5, (m, k)).astype(np.float16)
        arrays = lambda a=a, b=b, m=m, n=n: (a, pack(b), np.zeros((m, n), np.float32))  # noqa: E731
        _, _, c = run_everywhere(dequantizing_gemm, (dtype,), arrays)
        assert c.tolist() == (a.astype(np.float64) @ b.T).tolist()


def quantized_product(dtype: str) -> Kernel:
    @tilec.kernel
    def product(
        A: T.Tensor(("M", 32), "float16"),
        B: T.Tensor((32, 64), "float16"),
        C: T.Tensor(("M", 64), dtype),
        D: T.Tensor((64, "M"), dtype),
    ):
        M = A.shape[0]
        with T.Kernel(T.ceildiv(M, 64), threads=128) as bx:
            a = T.alloc_shared((64, 32), "float16")
            b = T.alloc_shared((32, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            f = T.alloc_fragment((64, 64), dtype)
            T.copy(A[bx * 64, 0], a)
            T.copy(B, b)
            T.clear(acc)
            T.gemm(a, b, acc)
            T.copy(acc, C[bx * 64, 0])
            for i, j in T.Parallel(64, 64):
                f[j, i] = acc[i, j]
            T.copy(f, D[0, bx * 64])

    return product


@pytest.mark.emulator
def test_accumulators_become_pairs() -> None:
    """Their halves may lie in two threads, and do where the tile is transposed."""
    m = 66
    random = np.random.default_rng(2)
    a, b = (random.integers(-1, 2, s).astype(np.float16) for s in ((m, 32), (32, 64)))
    _, _, c, d = run_everywhere(
        quantized_product,
        ("int4",),
        lambda: (a, b, np.zeros((m, 32), np.int8), np.zeros((64, m // 2), np.int8)),
    )
    expected = np.clip(a.astype(int) @ b.astype(int), -8, 7)
    assert unpack(c, signed=True).tolist() == expected.tolist()
    assert unpack(d, signed=True).tolist() == expected.T.tolist()


def test_packed_memory_moves_by_sixteen_bytes() -> None:
    for target, name in zip(TARGETS, ("cp_async<16>(B_s", "tma_load<2>(B_s", "<16>("), strict=True):
        source = lower(dequantizing_gemm("int4"), (), target, {}).source
        assert name in source and "shared<i4x2>" in source


def test_passes_keep_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CHECK", "1")
    lower(dequantizing_gemm("uint4"), (), "cuda:sm_80", {}).source  # noqa: B018  checks as it lowers
    lower(every_way("int4"), (), "hip:gfx942", {}).source  # noqa: B018


def test_returned_and_constant_dimensions() -> None:
    @tilec.kernel
    def shifted(A):
        M, N = T.const("M, N")
        A: T.Tensor((M, N), "uint4")
        B = T.empty((M, N), "int4")
        with T.Kernel(T.ceildiv(M, 8), threads=32) as bx:
            for i, j in T.Parallel(8, N):
                B[bx * 8 + i, j] = A[bx * 8 + i, j] - 8
        return B

    v = values("uint4", (13, 32))
    with tilec.device("interpreter"):
        assert unpack(shifted(pack(v).view(np.uint8)), signed=True).tolist() == (v - 8).tolist()


# Refusals


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


def odd_tile(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 7), "int4")
    T.copy(A[0, 0], f)
    T.copy(f, B[0, 0])


def odd_offset(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 8), "int4")
    T.copy(A[0, k], f)
    T.copy(f, B[0, 0])


def multiplied(A: Any, B: Any, k: Any) -> None:
    a = T.alloc_shared((16, 16), "int4")
    acc = T.alloc_fragment((16, 16), "int32")
    T.copy(A[0, 0], a)
    T.clear(acc)
    T.gemm(a, a, acc)


def summed(A: Any, B: Any, k: Any) -> None:
    f = T.alloc_fragment((8, 8), "int4")
    sums = T.alloc_fragment((8,), "int4")
    T.copy(A[0, 0], f)
    T.reduce_sum(f, sums, dim=1)
    T.copy(sums, B[0, 0])


def annotated(A: Any, B: Any, k: Any) -> None:
    a = T.alloc_shared((16, 64), "int4")
    T.annotate_layout({a: tilec.layout.make_swizzle_layout(a)})
    T.copy(A[0, 0], a)
    T.copy(a, B[0, 0])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (single, "a single element of global i4"),
        (mirrored, "a single element of global i4"),
        (odd_tile, "may begin or end within a byte"),
        (odd_offset, "may begin or end within a byte"),
        (multiplied, "T.gemm is not defined for elements of i4"),
        (summed, "T.reduce_sum is not defined for elements of i4"),
        (annotated, "T.annotate_layout is not defined for elements of i4"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_half_bytes_are_refused(body: Callable[..., Any], message: str) -> None:
    with pytest.raises(tilec.TilecError) as caught:
        lower(kernel_of(body), (), "cuda:sm_80", {}).source  # noqa: B018
    assert caught.value.code == "TLC0152" and message in caught.value.message
    assert caught.value.loc.line > 0 and caught.value.hint


@pytest.mark.parametrize(
    "body", [single, odd_tile, multiplied, summed, annotated], ids=lambda x: x.__name__
)
def test_what_needs_no_ranges_is_refused_before_any_pass(body: Callable[..., Any]) -> None:
    """The interpreter, which knows elements alone, refuses it too, at the line of the user."""
    with pytest.raises(TypeMismatch) as caught:
        kernel_of(body).lower_to_ir()
    lines, first = inspect.getsourcelines(body)
    assert first < caught.value.loc.line < first + len(lines)


def test_a_scalar_of_four_bits_is_refused_where_it_stands() -> None:
    @tilec.kernel
    def scalar(A: T.Tensor((8,), "int8"), n: T.int4):
        with T.Kernel(1, threads=32):
            A[0] = T.cast(n, "int8")

    with pytest.raises(TypeMismatch, match="n is a scalar of int4") as caught:
        scalar.lower_to_ir()
    assert (
        linecache.getline(caught.value.loc.file, caught.value.loc.line).lstrip().startswith("def")
    )


def test_fragments_of_four_bits_have_views() -> None:
    @tilec.kernel
    def seen(A: T.Tensor((8, 16), "int4"), C: T.Tensor((128,), "int8")):
        with T.Kernel(1, threads=32):
            x = T.alloc_fragment((8, 16), "int4")
            y = T.alloc_fragment((128,), "int8")
            T.copy(A, x)
            T.copy(T.reshape(x, (128,)), y)
            T.copy(y, C)

    values = np.arange(128) % 16 - 8
    for leg, (_, c) in every_leg(seen, pack(values.reshape(8, 16)), np.zeros(128, np.int8)):
        assert np.array_equal(c, values), leg


def odd_buffer(A: Any, B: Any, k: Any) -> None:
    T.alloc_shared((8, 7), "int4")


def test_odd_rows_are_refused() -> None:
    with pytest.raises(tilec.TilecError, match=r"TLC0151.*a row of 7 elements of int4"):
        kernel_of(odd_buffer).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0151"):
        kernel_of(single, (8, 7)).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0152"):
        T.StridedTensor(("M", "N"), ("ld", 1), "int4")


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
