"""Integers wrap on every machine, and indices are left as compilers like them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tilec.runtime.nvrtc import find_nvrtc

N = 64


def arithmetic(dtype: str) -> Any:
    @tilec.kernel
    def overflowing(
        A: T.Tensor((N,), dtype),
        B: T.Tensor((N,), dtype),
        sums: T.Tensor((N,), dtype),
        products: T.Tensor((N,), dtype),
        facts: T.Tensor((N,), "int32"),
    ):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(N):
                a, b = A[i], B[i]
                sums[i] = (a + b) * 5 - (b - a)
                products[i] = T.abs(a * b) + (-a)
                facts[i] = (
                    T.if_then_else(a + 1 > a, 1, 0)
                    + T.if_then_else((a * 3) // 3 == a, 2, 0)
                    + T.if_then_else(-b > 0, 4, 0)
                    + T.if_then_else(T.abs(b) >= 0, 8, 0)
                )

    return overflowing


def extremes(dtype: str, seed: int) -> np.ndarray:
    """Numbers at the ends of the type, and others."""
    info, random = np.iinfo(dtype), np.random.default_rng(seed)
    found = random.integers(info.min, info.max, N, dtype=dtype, endpoint=True)
    ends = np.array([info.min, info.max], dtype)
    return np.where(random.integers(0, 2, N) == 0, random.choice(ends, N), found)


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "int64"])
def test_integers_wrap_on_every_machine(dtype: str) -> None:
    a, b = extremes(dtype, 1), extremes(dtype, 2)
    with np.errstate(over="ignore"):
        zero, five = np.zeros_like(a), np.full_like(a, 5)
        sums, products = (a + b) * five - (b - a), np.abs(a * b) + (zero - a)
        facts = 1 * (a + 1 > a) + 2 * (a * 3 // 3 == a) + 4 * (zero - b > 0) + 8 * (np.abs(b) >= 0)
    results = (np.zeros_like(a), np.zeros_like(a), np.zeros(N, np.int32))
    for device, found in every_leg(arithmetic(dtype), a, b, *results):
        for x, y in zip(found[2:], (sums, products, facts), strict=True):
            assert np.array_equal(x, y), device


@tilec.kernel
def always(A: T.Tensor((N,), "int32"), C: T.Tensor((N,), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(N):
            C[i] = T.if_then_else(A[i] + 1 > A[i], 1, 0)


def test_compilers_are_not_told_that_data_cannot_overflow() -> None:
    """NVRTC made a constant of it, as C allows it to with a signed sum."""
    text = always.lower(target="cuda:sm_80").source
    assert "convert<u32>(" in text[text.index("always_kernel") :]
    assert "setp" in find_nvrtc().assemble(text, "always.cu", "sm_80")


@tilec.kernel
def hashed(C: T.Tensor(("N",), "int32"), D: T.Tensor(("N",), "int32")):
    with T.Kernel(T.ceildiv(C.shape[0], 64), threads=64) as bx:
        for i in T.Parallel(64):
            n = bx * 64 + i
            C[n] = T.if_then_else((n + 40000) * 60007 < 0, 1, 0) + T.if_then_else(
                n + 2147483600 < 0, 2, 0
            )
            if (n + 30000) * 60011 % 7 > 2:
                D[n] = (n + 50000) * 59999 % 1000


@pytest.mark.emulator
def test_what_is_computed_of_an_index_and_is_none_wraps() -> None:
    """C compilers took n * 60007 for no less than 0, since n is not."""
    n = np.arange(100, dtype=np.int32)
    with np.errstate(over="ignore"):
        c = 1 * ((n + 40000) * 60007 < 0) + 2 * (n + 2147483600 < 0)
        d = np.where((n + 30000) * 60011 % 7 > 2, (n + 50000) * 59999 % 1000, 0)
    for device, (found_c, found_d) in every_leg(hashed, np.zeros_like(n), np.zeros_like(n)):
        assert np.array_equal(found_c, c) and np.array_equal(found_d, d), device
    text = hashed.lower(target="cuda:sm_80").source
    body = text[text.index('extern "C"') :]
    for signed in ("* 60007", "* 60011", "* 59999", "+ 2147483600"):
        assert f"{signed}u" in body and f"{signed} " not in body, body
    assert "60007" in find_nvrtc().assemble(text, "hashed.cu", "sm_80")


@tilec.kernel
def counted(
    A: T.Tensor(("M", "K"), "float16"),
    C: T.Tensor(("M", "K"), "float16"),
    D: T.Tensor((1,), "int32"),
):
    M, K = A.shape
    with T.Kernel(T.ceildiv(M, 64), T.ceildiv(K, 32), threads=128) as (bx, by):
        count = T.alloc_var("int32", 0)
        state = T.alloc_var("int32", 1)
        for i, j in T.Parallel(64, 32):
            C[bx * 64 + i, by * 32 + j] = A[M - 1 - bx * 64 - i, by * 32 + j]
        for _ in T.serial(K):
            count = count + 1
            state = state * 1664525 + 1013904223
        D[0] = count + state


def test_indices_and_counters_stay_signed_and_generators_do_not() -> None:
    compiled = counted.lower(target="cuda:sm_80")
    compiled.add_general()
    for variant in compiled.variants:
        body = variant.text[variant.text.index('extern "C"') :]
        lines = [line.strip() for line in body.splitlines() if "u32" in line]
        assert any(re.search(r"\* 1664525u \+ 1013904223u", line) for line in lines), body
        assert all("count" not in line or "state" in line for line in lines), lines
        assert not re.search(r"u32.*\b(bx|by|M|K)\b", body), lines


@tilec.kernel
def masked(A: T.Tensor(("N", "S"), "float32"), C: T.Tensor(("N",), "float32")):
    N, S = A.shape
    with T.Kernel(T.ceildiv(N, 64), threads=64) as bx:
        t = T.get_thread_binding()
        limit = bx * 64 + 1 + S - N
        seen = T.alloc_var("int32", 0)
        k = T.alloc_var("int32", 0)
        while k * 128 + 128 <= limit:
            k += 1
        for step in T.serial(k, T.ceildiv(S, 128)):
            for j in T.serial(4):
                if step * 128 + j < limit + t:
                    seen += 1
        if bx * 64 + t < N:
            C[bx * 64 + t] = T.cast(seen, "float32")


def test_what_tiles_count_stays_signed_in_conditions() -> None:
    """Masks of causal attention, computed unsigned, took 15 % more time on one H200: C compilers know
    less of them, and a loop's condition is no expression."""
    text = masked.lower(target="cuda:sm_90a").source
    body = text[text.index('extern "C"') :]
    assert "u32" not in body, body
    assert re.search(r"while \(.* \* 128 \+ 128 <= limit\)", body), body


def trips(by: int = 0) -> Any:
    """Counts the trips of a loop between numbers in memory, by a constant or by one of these."""

    @tilec.kernel
    def looped(ends: T.Tensor((3,), "int32"), C: T.Tensor((2,), "int32")):
        with T.Kernel(1, threads=32):
            count, last = T.alloc_var("int32", 0), T.alloc_var("int32", 0)
            for i in T.serial(ends[0], ends[1] + 1, by or ends[2]):
                count, last = count + 1, i
            if T.get_thread_binding() == 0:
                C[0], C[1] = count, last

    return looped


@pytest.mark.emulator
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("by", [3, 1 << 17])
def test_loops_end_where_their_index_would_start_over(by: int, known: bool) -> None:
    least, most = -(2**31), 2**31 - 1
    for ends in ((most - 5 * by, most - 2), (most - 5 * by + 1, most - 1), (least, least + 5 * by)):
        for device, found in every_leg(
            trips(by * known), np.array([*ends, by], np.int32), np.zeros(2, np.int32)
        ):
            each = range(ends[0], ends[1] + 1, by)
            assert found[1].tolist() == [len(each), each[-1]], device


@tilec.kernel
def strided(A: T.Tensor(("M",), "int32"), n: T.int32, C: T.Tensor((4,), "int32")):
    with T.Kernel(2, threads=32) as bx:
        for i in T.serial(0, A.shape[0], 64):
            C[0] = i
        for i in T.serial(A[0], A[1]):
            C[1] = i
        for i in T.serial(A[0], T.min(n, 1 << 20), 3):
            C[2] = i
        for i in T.serial(bx * 64, bx * 64 + 64, 32):
            C[3] = i


def test_other_loops_count_in_32_bits() -> None:
    text = strided.lower(target="cuda:sm_80").source
    body = text[text.index("strided_kernel") :]
    assert body.count("for (i32 i = ") == 4 and "i64" not in body


def shifts(dtype: str) -> Any:
    @tilec.kernel
    def shifted(
        A: T.Tensor((N,), dtype),
        B: T.Tensor((N,), "int32"),
        left: T.Tensor((N,), dtype),
        right: T.Tensor((N,), dtype),
    ):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(N):
                left[i] = A[i] << B[i]
                right[i] = A[i] >> B[i]

    return shifted


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64"])
def test_what_is_shifted_out_is_gone_on_every_machine(dtype: str) -> None:
    """C says nothing of such amounts; of x86, NVIDIA and AMD each does something else."""
    a, bits = extremes(dtype, 1), np.iinfo(dtype).bits
    b = np.random.default_rng(2).choice([0, 1, bits - 1, bits, 31, 32, 33, 64, 100, -1, -31], N)
    exact = [int(x) for x in a]
    out = (b < 0) | (b >= bits)
    left = np.array(
        [0 if o else x << int(n) for x, n, o in zip(exact, b, out, strict=True)], object
    )
    left = (left % 2**bits).astype(f"uint{bits}").astype(dtype)
    right = np.array(
        [x >> (bits if o else int(n)) for x, n, o in zip(exact, b, out, strict=True)], object
    )
    for device, found in every_leg(shifts(dtype), a, b.astype(np.int32), a * 0, a * 0):
        assert np.array_equal(found[2], left), device
        assert np.array_equal(found[3], right.astype(dtype)), device


def test_amounts_that_are_known_are_left_as_they_are() -> None:
    @tilec.kernel
    def unpacked(A: T.Tensor((N,), "uint32"), C: T.Tensor((8, N), "uint32")):
        with T.Kernel(1, threads=32):
            for j, i in T.Parallel(8, N):
                C[j, i] = A[i] >> (4 * j) & 15

    text = unpacked.lower(target="cuda:sm_80").source
    text = text[text.index("unpacked_kernel") :]
    assert ">>" in text and "min(" not in text and "? " not in text


@tilec.kernel
def divided(A: T.Tensor((N,), "int32"), B: T.Tensor((N,), "int32"), C: T.Tensor((2, N), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(N):
            C[0, i] = A[i] // B[i]
            C[1, i] = A[i] % B[i]


@pytest.mark.emulator
def test_the_least_integer_is_divided_by_minus_one() -> None:
    a = np.array([-(2**31), 7, -7, 0] * 16, np.int32)
    b = np.array([-1] * 32 + [2] * 16 + [-3] * 16, np.int32)
    exact = a.astype(np.int64) // b
    for device, (_, _, c) in every_leg(divided, a, b, np.zeros((2, N), np.int32)):
        assert np.array_equal(c, [exact.astype(np.int32), a - exact * b]), device
