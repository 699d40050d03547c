"""int4, uint4 and float4_e2m1fn, packed two a byte: the interpreter's results from the emulated text of three
machines."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.kernels.machines import TARGETS
from tests.kernels.test_dtypes import run_everywhere
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
        a = pack(v)

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
        assert nest.tobytes() == pack(converted(2 * numbers, OTHER[dtype])).tobytes()
        if dtype in SIGNED:
            numbers = np.clip(numbers * 1.5, *((-8, 7) if SIGNED[dtype] else (0, 15)))
        else:
            numbers = numbers * 1.5
        assert scaled.tobytes() == pack(converted(numbers, dtype)).tobytes()


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
        arrays = lambda a=a, b=b, m=m, n=n: (a, pack(b), np.zeros((m, n), np.float32))  # noqa: E731
        _, _, c = run_everywhere(dequantizing_gemm, (dtype,), arrays)
        assert c.tolist() == (a.astype(np.float64) @ b.T.astype(np.float64)).tolist()


def quantized_product(dtype: str) -> Kernel:
    @tilec.kernel
    def product(
        A: T.Tensor(("M", 32), "float16"),
        B: T.Tensor((32, 64), "float16"),
        C: T.Tensor(("M", 64), dtype),
        D: T.Tensor((64, "M"), dtype),
        E: T.Tensor((64, "M"), dtype),
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
            for i, j in T.Parallel(64, 64):
                E[j, bx * 64 + i] = acc[i, j]

    return product


@pytest.mark.emulator
def test_accumulators_become_pairs() -> None:
    """Their halves may lie in two threads, and do where the tile is transposed."""
    m = 66
    random = np.random.default_rng(2)
    a, b = (random.integers(-1, 2, s).astype(np.float16) for s in ((m, 32), (32, 64)))
    transposed = np.zeros((64, m // 2), np.int8)
    _, _, c, d, e = run_everywhere(
        quantized_product,
        ("int4",),
        lambda: (a, b, np.zeros((m, 32), np.int8), transposed.copy(), transposed.copy()),
    )
    expected = np.clip(a.astype(int) @ b.astype(int), -8, 7)
    assert unpack(c, signed=True).tolist() == expected.tolist()
    assert unpack(d, signed=True).tolist() == expected.T.tolist() and np.array_equal(d, e)


def test_packed_memory_moves_by_sixteen_bytes() -> None:
    for target, name in zip(TARGETS, ("cp_async<16>(B_s", "tma_load<2>(B_s", "<16>("), strict=True):
        source = lower(dequantizing_gemm("int4"), (), target, {}).source
        assert name in source and "shared<i4x2>" in source


def test_passes_keep_the_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CHECK", "1")
    lower(dequantizing_gemm("uint4"), (), "cuda:sm_80", {}).source  # noqa: B018  checks as it lowers
    lower(every_way("int4"), (), "hip:gfx942", {}).source  # noqa: B018
    lower(every_way(FLOAT), (), "cuda:sm_90a", {}).source  # noqa: B018


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
    for device in ("interpreter", "emulator:cuda:sm_80"):
        found = shifted(pack(v).view(np.uint8), device=device)
        assert found.dtype == np.int8
        assert unpack(found, signed=True).tolist() == (v - 8).tolist()


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


@pytest.mark.emulator
@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(DTYPES, 2)))
def test_copies_from_pairs_to_pairs_convert(source: str, target: str) -> None:
    @tilec.kernel
    def converted(A: T.Tensor((16, 32), source), B: T.Tensor((16, 32), target)):
        with T.Kernel(1, threads=32):
            s = T.alloc_shared((16, 32), source)
            T.copy(A, s)
            T.copy(s, B)

    v = values(source, (16, 32))
    numbers = v.astype(np.float64)
    if target == FLOAT:
        expected = v.astype(ml_dtypes.float4_e2m1fn)
    elif source == FLOAT:
        limits = (-8, 7) if SIGNED[target] else (0, 15)
        expected = np.clip(np.trunc(numbers), *limits).astype(np.int8)
    else:
        expected = of_bits(target, numbers.astype(int).astype(np.uint8) & 15)
    for leg, (_, b) in every_leg(converted, pack(v), np.zeros((16, 16), np.int8)):
        assert b.tobytes() == pack(expected).tobytes(), leg


def elements_of_choice(dtype: str) -> Kernel:
    @tilec.kernel
    def chosen(A: T.Tensor((2, 64), dtype), Y: T.Tensor((4, 64), "float32"), n: T.int32):
        """Elements at odd places too, which threads and iterations choose themselves."""
        with T.Kernel(1, threads=64):
            t = T.get_thread_binding()
            s = T.alloc_shared((64,), dtype)
            T.copy(A[1, 0:64], s)
            Y[0, t] = T.cast(A[0, t ^ 1], "float32")
            Y[1, t] = T.cast(s[(t * 3 + n) % 64], "float32")
            for i in T.Parallel(64):
                Y[2, i] = T.cast(A[0, i + n], "float32")
            for i in T.Parallel(64):
                Y[3, i] = T.cast(s[i ^ 3], "float32")

    return chosen


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", DTYPES)
def test_single_elements_are_loaded_wherever_they_lie(dtype: str) -> None:
    x, t, n = values(dtype, (2, 64)), np.arange(64), 5
    wide = x.astype(np.float32)
    beyond = np.concatenate([wide[0], np.zeros(n)])[n:]
    exact = [wide[0, t ^ 1], wide[1, (3 * t + n) % 64], beyond, wide[1, t ^ 3]]
    for device, (_, y, _) in every_leg(
        elements_of_choice(dtype), pack(x), np.zeros((4, 64), np.float32), n
    ):
        assert np.array_equal(y, exact), device
