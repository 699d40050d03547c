"""Dimensions that follow from others: what they come to, and what a call or a kernel is refused for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.language.refusals import refused
from tilec.errors import ArgumentError
from tilec.language.extents import Computed, parse_extent
from tilec.runtime.driver import lower

M, K = T.dynamic("M"), T.dynamic("K", multiple_of=8)


@tilec.kernel
def dequantize(
    W: T.Tensor((M, K // 2), "uint8"),
    S: T.Tensor((T.ceildiv("K", 32), "M"), "float32"),
    P: T.Tensor((M, 2 * K), "int4"),
    A: T.Tensor((K, M), "float16"),
    F: T.Tensor((M * K,), "float32"),
):
    """F[m K + k] = (W's half of a byte + P) S, in groups of 32 along k, + A: the symbols are A's."""
    k_extent, m_extent = A.shape
    with T.Kernel(T.ceildiv(m_extent, 32), S.shape[0], threads=64) as (bx, group):
        for i, j in T.Parallel(32, 32):
            m, k = bx * 32 + i, group * 32 + j
            if m < m_extent and k < k_extent:
                w = (W[m, k // 2] >> T.cast(k % 2 * 4, "uint8")) & 15
                F[m * k_extent + k] = (
                    T.cast(T.cast(w, "int32") + P[m, k], "float32") * S[group, m] + A[k, m]
                )


def arguments(m: int, k: int) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(m)
    w, p = (rng.integers(0, 256, (m, n)).astype(np.uint8) for n in (k // 2, k))
    s, a = (rng.integers(-4, 4, shape) for shape in ((-(-k // 32), m), (k, m)))
    halves = np.stack([w & 15, w >> 4], -1).reshape(m, k).astype(np.int64)
    signed = (np.stack([p << 4, p & 0xF0], -1).view(np.int8) >> 4).reshape(m, 2 * k)[:, :k]
    expected = (halves + signed) * s.repeat(32, 0)[:k].T + a.T
    given = [w, s.astype(np.float32), p, a.astype(np.float16), np.full(m * k, np.nan, np.float32)]
    return given, expected.reshape(-1)


@pytest.mark.emulator
@pytest.mark.parametrize(("m", "k"), [(33, 40), (1, 8), (32, 64), (0, 8), (5, 0)])
def test_extents_follow_from_symbols(m: int, k: int) -> None:
    given, expected = arguments(m, k)
    for leg, (*_, f) in every_leg(dequantize, *given):
        assert np.array_equal(f, expected), leg


def test_compilers_take_them() -> None:
    compile_texts(dequantize)


@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_a_call_is_refused_by_the_parameter_that_does_not_fit(device: str) -> None:
    for place, shape, message in (
        (
            0,
            (3, 5),
            r"W has shape \(3, 5\), expected \(M, \(K // 2\)\) = \(3, 4\), with .*K = 8 from A",
        ),
        (1, (2, 3), r"S has shape \(2, 3\), expected \(.*K.* 32\), M\) = \(1, 3\)"),
        (2, (3, 9), r"P has shape \(3, 9\)"),
        (4, (25,), r"F has shape \(25,\), expected \(\(M \* K\),\) = \(24,\), with M = 3 from .*"),
    ):
        given, _ = arguments(3, 8)
        given[place] = np.zeros(shape, given[place].dtype)
        with pytest.raises(ArgumentError, match=message):
            dequantize(*given, device=device)


def test_what_is_promised_of_a_symbol_holds_for_what_follows() -> None:
    text = lower(dequantize, (), "cuda:sm_90a", {}).ir(after="promote_fragments")
    assert "global u8[M, K_over_2]" in text and "global f32[M_times_K]" in text
    symbols = "symbols = [M, K_over_2, K_plus_31_over_32, x2_times_K, K, M_times_K]"
    assert f"{symbols}, multiples = [1, 4, 1, 16, 8, 8]" in text, text.splitlines()[1]
    given, _ = arguments(3, 12)
    with pytest.raises(ArgumentError, match="K = 12 from A is no multiple of 8"):
        dequantize(*given)


def test_a_step_that_the_kernel_cannot_count_to_is_refused() -> None:
    @tilec.kernel
    def wide(
        A: T.Tensor(("M",), "int8"), B: T.StridedTensor((1, 1), (0, "M * 65536 // 65536"), "int8")
    ):
        with T.Kernel(1):
            B[0, 0] = A[0]

    @tilec.kernel
    def long(A: T.Tensor(("M", 0), "int8"), B: T.Tensor(("M * 4 // 4", 0), "int8")):
        with T.Kernel(B.shape[0]):
            B[0, 0] = A[0, 0]

    with pytest.raises(
        ArgumentError, match=r"an extent of B needs \(M \* 4\) = 4000000000, expected less"
    ):
        long(np.zeros((10**9, 0), np.int8), np.zeros((10**9, 0), np.int8))
    b = np.zeros((1, 1), np.int8)
    wide(np.full(3, 7, np.int8), b)
    assert b[0, 0] == 7


@tilec.kernel
def in_the_body(A, B, C):  # type: ignore[no-untyped-def]
    N = T.dynamic("N")
    A: T.Tensor((N,), "int32")
    B: T.Tensor((N // 2, 2), "int32")
    C: T.Tensor(("N - N // 2 * 2",), "int32")
    with T.Kernel(T.ceildiv(A.shape[0], 32), threads=32) as bx:
        for i in T.Parallel(32):
            B[(bx * 32 + i) // 2, (bx * 32 + i) % 2] = A[bx * 32 + i]
        for i in T.Parallel(1):
            C[bx + i] = A[A.shape[0] - 1]


@pytest.mark.emulator
@pytest.mark.parametrize("n", [1, 2, 33, 64])
def test_the_body_computes_them_too(n: int) -> None:
    a = np.arange(1, n + 1, dtype=np.int32)
    unset = np.zeros((n // 2, 2), np.int32), np.zeros(n % 2, np.int32)
    for leg, (_, b, c) in every_leg(in_the_body, a, *unset):
        assert np.array_equal(b.reshape(-1), a[: n // 2 * 2]), leg
        assert np.array_equal(c, a[n - n % 2 :]), leg


def test_what_is_refused() -> None:
    def unbound(A: T.Tensor((M,), "int8"), B: T.Tensor((M, K // 2), "int8")):
        with T.Kernel(1):
            B[0, 0] = A[0]

    def divided(A: T.Tensor((M,), "int8"), B: T.Tensor(("K // M",), "int8")):
        with T.Kernel(1):
            B[0] = A[0]

    def called(A: T.Tensor((M,), "int8"), B: T.Tensor(("max(M, 2)",), "int8")):
        with T.Kernel(1):
            B[0] = A[0]

    def real(A: T.Tensor((M,), "int8"), B: T.Tensor(("M * 0.5",), "int8")):
        with T.Kernel(1):
            B[0] = A[0]

    assert refused(unbound) == "the dimension K // 2 needs K, which no tensor of unbound tells"
    assert refused(divided) == "the dimension K // M divides by M"
    for function in (called, real):
        assert "and no sum, product or quotient of such" in refused(function)


def test_texts() -> None:
    assert parse_extent(" M ") == "M"
    assert parse_extent("(K + 7) // 8 * 2") == Computed("+", "K", 7) // 8 * 2
    assert T.ceildiv("2 * K", 32) == parse_extent("ceildiv(2 * K, 32)")
    assert str(parse_extent("ceildiv(K, 32) * M")) == "((K + 31) // 32) * M"
    assert parse_extent("2 * K").identifier == "x2_times_K"
    assert parse_extent("2 * K // 4").evaluate({"K": 7}.__getitem__) == 3
    assert parse_extent("4 * K + 6").multiple({"K": 3}) == 6


@tilec.kernel
def flattened(
    X: T.Tensor(("N", "H", "W", 8), "float32"), Y: T.Tensor(("N", "H", "W", 8), "float32")
):
    """Extents of views that are computed in the launch, of numbers that are known before it."""
    with T.Kernel(T.ceildiv(X.shape[0] * X.shape[1], 4), threads=64) as bx:
        N, H, W, C = X.shape
        pixels, row = N * H * W, W * C
        flat = T.reshape(X, (pixels, C))
        rows = T.reshape(Y, (N * H, row))
        for i, j in T.Parallel(4, 64):
            rows[bx * 4 + i, j] = flat[pixels - 1 - ((bx * 4 + i) * W + j // C), j % C]


@pytest.mark.emulator
def test_extents_of_views_may_be_computed_in_a_launch() -> None:
    x = np.arange(2 * 3 * 5 * 8, dtype=np.float32).reshape(2, 3, 5, 8)
    for leg, (_, y) in every_leg(flattened, x, np.zeros_like(x)):
        assert np.array_equal(y.reshape(30, 8), x.reshape(30, 8)[::-1]), leg


def test_what_only_blocks_know_is_no_extent() -> None:
    def by_block(X: T.Tensor(("N", "M"), "float32")):
        with T.Kernel(X.shape[0], threads=64) as bx:
            T.reshape(X, (X.shape[1] * (bx + 1),))

    assert "computed in a launch" in refused(by_block)
