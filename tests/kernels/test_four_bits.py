"""int4, uint4 and float4_e2m1fn, packed two a byte: the interpreter's results from the emulated text of three
machines, and what is refused because it would write half a byte."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.kernels.machines import TARGETS
from tests.kernels.test_dtypes import run_everywhere
from tests.kernels.test_vendor_compilers import check_amd, check_nvidia
from tilec.errors import TypeMismatch
from tilec.language.kernel import Kernel
from tilec.quantize import pack, unpack
from tilec.runtime.driver import lower

BM, BN = 32, 64
SIZES = ((1, 2), (31, 62), (33, 66), (64, 128), (0, 64))
SIGNED = {"int4": True, "uint4": False}
FLOAT = "float4_e2m1fn"
DTYPES = (*SIGNED, FLOAT)
OTHER = {"int4": "uint4", "uint4": "int4", FLOAT: FLOAT}


def values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Elements, one each."""
    bits = np.random.default_rng(seed).integers(0, 16, shape).astype(np.uint8)
    return of_bits(dtype, bits)


def of_bits(dtype: str, bits: np.ndarray) -> np.ndarray:
    if dtype == FLOAT:
        return bits.view(ml_dtypes.float4_e2m1fn)
    return unpack(pack(bits), signed=SIGNED[dtype]).astype(np.int8)


def packed(elements: np.ndarray) -> np.ndarray:
    return pack(elements.view(np.uint8) if elements.dtype.kind == "V" else elements)


def every_way(dtype: str) -> Kernel:
    other = OTHER[dtype]

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
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_way(dtype: str) -> None:
    for m, n in SIZES:
        v = values(dtype, (m, n), m)
        a = packed(v)

        def arrays(a: np.ndarray = a, m: int = m, n: int = n) -> tuple[Any, ...]:
            made = [np.zeros((m, n), k) for k in (np.float16, np.int8, np.float32)]
            pairs = [np.zeros((m, n // 2), k) for k in (np.int8, np.uint8, np.int8)]
            return a, pairs[0], made[0], made[1], pairs[1], pairs[2], made[2]

        found = run_everywhere(every_way, (dtype,), arrays)
        _, copied, half, plain, nest, scaled, straight = found
        assert copied.tobytes() == a.tobytes()
        numbers = v.astype(np.float32)
        assert straight.tobytes() == numbers.tobytes()
        assert plain.tolist() == np.trunc(numbers).tolist()
        whole = np.zeros((m, -(-n // BN) * BN))
        whole[:, :n] = v
        mirrored = whole.reshape(m, -(-n // BN), BN)[:, :, ::-1].reshape(whole.shape)[:, :n]
        assert half.tolist() == (2 * mirrored).tolist()
        assert nest.tobytes() == packed(converted(2 * numbers, OTHER[dtype])).tobytes()
        if dtype in SIGNED:
            numbers = np.clip(numbers * 1.5, *((-8, 7) if SIGNED[dtype] else (0, 15)))
        else:
            numbers = numbers * 1.5
        assert scaled.tobytes() == packed(converted(numbers, dtype)).tobytes()


def converted(numbers: np.ndarray, dtype: str) -> np.ndarray:
    """f32 as elements: whole numbers wrap around, floats are rounded to nearest even."""
    if dtype == FLOAT:
        return numbers.astype(ml_dtypes.float4_e2m1fn)
    return of_bits(dtype, (np.trunc(numbers).astype(int) % 16).astype(np.uint8))


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
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_a_gemm(dtype: str) -> None:
    """Sums of small integers, which are exact."""
    for m, n, k in ((64, 64, 128), (65, 63, 130), (1, 3, 2)):
        b = values(dtype, (n, k))
        a = np.random.default_rng(1).integers(-4, 5, (m, k)).astype(np.float16)
        arrays = lambda a=a, b=b, m=m, n=n: (a, packed(b), np.zeros((m, n), np.float32))  # noqa: E731
        _, _, c = run_everywhere(dequantizing_gemm, (dtype,), arrays)
        assert c.tolist() == (a.astype(np.float64) @ b.T.astype(np.float64)).tolist()


@tilec.kernel
def mxfp4_gemm(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), FLOAT),
    S: T.Tensor(("N", "G"), "uint8"),
    C: T.Tensor(("M", "N"), "float32"),
    BK: int = 64,
):
    """C = A @ (B 2^(S - 127))^T, a scale for 32 elements along K: weights of MXFP4."""
    M, K = A.shape
    N = B.shape[0]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, BK), "float16")
        B_s = T.alloc_shared((64, BK), FLOAT)
        S_s = T.alloc_shared((64, BK // 32), "uint8")
        B_f = T.alloc_fragment((64, BK), "float16")
        B_d = T.alloc_shared((64, BK), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, BK), num_stages=2):
            T.copy(A[by * 64, k * BK], A_s)
            T.copy(B[bx * 64, k * BK], B_s)
            T.copy(S[bx * 64, k * (BK // 32)], S_s)
            T.copy(B_s, B_f)
            for i, j in T.Parallel(64, BK):
                scale = T.reinterpret(T.cast(S_s[i, j // 32], "uint32") << 23, "float32")
                B_f[i, j] = T.cast(B_f[i, j], "float32") * scale
            T.copy(B_f, B_d)
            T.gemm(A_s, B_d, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.emulator
def test_weights_with_scales() -> None:
    random = np.random.default_rng(3)
    for m, n, k in ((64, 64, 128), (1, 1, 32), (63, 65, 62), (65, 31, 66), (7, 64, 0)):
        a = random.integers(-4, 5, (m, k)).astype(np.float16)
        b = values(FLOAT, (n, k))
        s = random.integers(124, 131, (n, -(-k // 32))).astype(np.uint8)
        arrays = lambda a=a, b=b, s=s: (a, packed(b), s, np.zeros((len(a), len(b)), np.float32))  # noqa: E731
        c = run_everywhere(lambda: mxfp4_gemm, (), arrays)[3]
        scales = np.ldexp(1.0, np.repeat(s.astype(int) - 127, 32, axis=1)[:, :k])
        assert c.tolist() == (a.astype(np.float64) @ (b.astype(np.float64) * scales).T).tolist()


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


@pytest.mark.parametrize("target", ["cuda:sm_75", *TARGETS, "hip:gfx950"])
def test_machine_code_of_weights_with_scales(target: str, tmp_path: Path) -> None:
    variant = lower(mxfp4_gemm, (), target, {}).lowered
    arch = target.partition(":")[2]
    if target.startswith("hip"):
        check_amd(variant, True, arch)
    else:
        check_nvidia(variant, arch, tmp_path)


def test_passes_keep_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CHECK", "1")
    lower(dequantizing_gemm("uint4"), (), "cuda:sm_80", {}).source  # noqa: B018  checks as it lowers
    lower(every_way("int4"), (), "hip:gfx942", {}).source  # noqa: B018
    lower(every_way(FLOAT), (), "cuda:sm_90a", {}).source  # noqa: B018
    lower(mxfp4_gemm, (), "hip:gfx942", {}).source  # noqa: B018


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
    T.alloc_shared((8, 7), A.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_rows_are_refused(dtype: str) -> None:
    with pytest.raises(tilec.TilecError, match=rf"TLC0151.*a row of 7 elements of {dtype}"):
        kernel_of(odd_buffer, dtype=dtype).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0151"):
        kernel_of(single, (8, 7), dtype).lower(target="cuda:sm_80")
    with pytest.raises(tilec.TilecError, match="TLC0152"):
        T.StridedTensor(("M", "N"), ("ld", 1), dtype)


@pytest.mark.parametrize(
    ("dtype", "wider"), [("float6_e2m3fn", "float8_e4m3fn"), ("float6_e3m2fn", "float8_e5m2")]
)
def test_six_bits_are_refused_and_the_hint_holds(dtype: str, wider: str) -> None:
    def six_bits(A: Any, B: Any, k: Any) -> None:
        T.alloc_shared((8, 32), dtype)

    with pytest.raises(TypeMismatch, match=dtype) as caught:
        kernel_of(six_bits).lower_to_ir()
    assert caught.value.code == "TLC0110" and caught.value.loc.known
    assert wider in caught.value.hint
    every = np.arange(64, dtype=np.uint8).view(getattr(ml_dtypes, dtype)).astype(np.float32)
    assert np.array_equal(every.astype(getattr(ml_dtypes, wider)).astype(np.float32), every)


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


def test_bits_are_read_as_another_type() -> None:
    @tilec.kernel
    def reread(A: T.Tensor((16,), "uint4"), B: T.Tensor((16,), FLOAT), C: T.Tensor((16,), "int4")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(16):
                B[i] = T.reinterpret(A[i], FLOAT)
            for i in T.Parallel(16):
                C[i] = T.reinterpret(T.reinterpret(A[i], FLOAT), "int4")

    bits = pack(np.arange(16, dtype=np.uint8)).view(np.uint8)
    zeros = np.zeros(8, np.uint8)
    for leg, found in every_leg(reread, bits, zeros, zeros.view(np.int8)):
        assert [x.tobytes() for x in found] == [bits.tobytes()] * 3, leg


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
