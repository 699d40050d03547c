"""Scalar run-time parameters of every dtype, on every machine, and dimensions that are promised."""

from __future__ import annotations

import math
import re
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError, LanguageError

DEVICES = (
    "interpreter",
    "emulator:cuda:sm_80",
    "emulator:cuda:sm_90a",
    "emulator:hip:gfx942",
)
VALUES: dict[str, tuple[Any, ...]] = {
    "bool": (False, True),
    "int8": (-128, 0, 127), "int16": (-(1 << 15), 77, (1 << 15) - 1),
    "int32": (-(1 << 31), 5, (1 << 31) - 1), "int64": (-(1 << 63), 1 << 40, (1 << 63) - 1),
    "uint8": (0, 255), "uint16": (1, 65535), "uint32": (0, (1 << 32) - 1),
    "uint64": (3, (1 << 64) - 1), "float16": (-1.5, 65504.0), "bfloat16": (0.15625, -3e38),
    "float32": (1e-30, -2.5), "float64": (1e300, 0.1),
}  # fmt: skip


def keeper(dtype: str) -> Any:
    """A kernel that writes its scalar, which counts in a condition too, to a tensor."""

    @tilec.kernel
    def keep(x: getattr(T, dtype), C: T.Tensor("N", dtype), n: T.int32):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(32):
                if i < n:
                    C[i] = x

    return keep


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", VALUES)
def test_scalars_arrive(dtype: str) -> None:
    element = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    kernel = keeper(dtype)
    for device in DEVICES:
        for value in VALUES[dtype]:
            c = np.zeros(32, element)
            with tilec.device(device):
                kernel(value, c, 30)
            expected = np.zeros(32, element)
            expected[:30] = value
            assert c.tobytes() == expected.tobytes(), (device, value)


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("int8", 128, "x is 128, which i8 cannot hold"),
        ("uint32", -1, "x is -1, which u32 cannot hold"),
        ("int32", 1.5, r"x is 1.5, expected an integer \(i32\)"),
        ("float16", 1e6, "x is 1e\\+06, which f16 cannot hold"),
        ("int32", "3", r"x is str, expected a number \(i32\)"),
        ("int32", np.zeros(1), r"x is ndarray, expected a number \(i32\)"),
        ("bool", 2, "x is 2, which bool cannot hold"),
    ],
)
def test_scalars_that_would_change_are_refused(dtype: str, value: Any, message: str) -> None:
    element = np.dtype(dtype)
    with pytest.raises(ArgumentError, match="keep: " + message):
        keeper(dtype)(value, np.zeros(4, element), 4)


def test_a_scalar_in_the_grid_and_in_shapes() -> None:
    @tilec.kernel
    def blocks(n: T.int32, C: T.Tensor("N", "int32")):
        rest = T.empty((n + 1,), "int32")
        with T.Kernel(n, threads=32) as bx:
            for i in T.Parallel(1):
                C[bx + i] = n
                rest[bx + 1 + i] = bx
        return rest

    for device in DEVICES:
        for n in (0, 1, 5):
            c = np.zeros(5, np.int32)
            with tilec.device(device):
                rest = blocks(n, c)
            assert c.tolist() == [n] * n + [0] * (5 - n)
            assert rest.shape == (n + 1,) and rest[1:].tolist() == list(range(n))


@pytest.mark.parametrize(
    ("first", "second"), [("int8", "uint8"), ("uint16", "int8"), ("int16", "uint16")]
)
def test_narrow_integers_of_both_kinds_meet_in_one_that_holds_both(first: str, second: str) -> None:
    @tilec.kernel
    def compared(A: T.Tensor((4,), first), B: T.Tensor((4,), second), Y: T.Tensor((3, 4), "int32")):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(4):
                Y[0, i] = T.if_then_else(A[i] < B[i], 1, 0)
                Y[1, i] = T.max(A[i], B[i])
                Y[2, i] = A[i] - B[i]

    a, b = (
        np.array([info.min, info.max, 0, info.max], info.dtype)
        for info in map(np.iinfo, (first, second))
    )
    b = b[::-1].copy()
    wide, other = a.astype(np.int32), b.astype(np.int32)
    y = np.zeros((3, 4), np.int32)
    compared(a, b, y)
    assert np.array_equal(y, [wide < other, np.maximum(wide, other), wide - other])


@pytest.mark.parametrize(
    ("use", "code", "words", "hint"),
    [
        (lambda n, x: T.ceildiv(n, "8"), "TLC0124", "'8' is not a scalar", ""),
        (lambda n, x: T.max(n, None), "TLC0124", "None is not a scalar", ""),
        (lambda n, x: x % 2, "TLC0123", "floormod is for integers", "T.fmod"),
        (lambda n, x: x // 2, "TLC0123", "floordiv is for integers", "T.floor"),
        (lambda n, x: T.ceildiv(x, 2), "TLC0123", "T.ceildiv is for integers", "T.ceil"),
        (lambda n, x: 2**n, "TLC0123", "an integer is raised to a power", "T.shift_left(1, n)"),
        (lambda n, x: T.Parallel(-1), "TLC0122", "-1 is not one", "0 or more"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_operands_that_have_no_meaning(use: Any, code: str, words: str, hint: str) -> None:
    @tilec.kernel
    def program(X: T.Tensor(("N",), "float32"), n: T.int32):
        with T.Kernel(1, threads=32):
            use(n, X[0])

    with pytest.raises(LanguageError, match=words) as caught:
        program.lower(target="cuda:sm_80")
    assert caught.value.code == code and hint in caught.value.hint


@tilec.kernel
def cut(
    A: T.Tensor(("N",), "int32"), B: T.Tensor(("N",), "int32"),
    quotients: T.Tensor(("N",), "int32"), rests: T.Tensor(("N",), "int32"),
):  # fmt: skip
    with T.Kernel(1, threads=32):
        for i in T.serial(A.shape[0]):
            quotients[i] = T.truncdiv(A[i], B[i])
            rests[i] = T.truncmod(A[i], B[i])


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_quotients_without_their_fraction(device: str) -> None:
    least = -(2**31)
    pairs = [(x, y) for x in (least, least + 1, -7, 0, 7, 2**31 - 1) for y in (least, -3, 1, 2, 3)]
    a, b = np.array(pairs, np.int32).T.copy()
    quotients, rests = np.zeros((2, len(pairs)), np.int32)
    cut(a, b, quotients, rests, device=device)
    for x, y, quotient, rest in zip(a.tolist(), b.tolist(), quotients, rests, strict=True):
        assert rest == math.fmod(x, y) and quotient * y + rest == x, (x, y)
        assert (T.truncdiv(x, y), T.truncmod(x, y)) == (quotient, rest)


def test_numbers_that_are_known_are_as_those_of_a_kernel() -> None:
    for x, y in ((1.0, math.nan), (math.nan, 1.0)):
        assert T.min(x, y) == T.max(x, y) == 1.0, "a NaN gives way"
    assert math.copysign(1, T.abs(-0.0)) == 1
    for x, y in ((0.0, -0.0), (-0.0, 0.0)):
        assert (math.copysign(1, T.min(x, y)), math.copysign(1, T.max(x, y))) == (-1, 1)


@tilec.kernel
def rounded_up(A: T.Tensor((6,), "int32"), C: T.Tensor((3, 6), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(6):
            C[0, i] = T.ceildiv(A[i], 3)
            C[1, i] = T.ceildiv(A[i], -3)
            C[2, i] = T.ceildiv(A[i], -1)


def test_quotients_are_rounded_up_by_negative_numbers_too() -> None:
    a, c = np.array([7, -7, 0, 6, -6, 1], np.int32), np.zeros((3, 6), np.int32)
    rounded_up(a, c, device="interpreter")
    expected = [[T.ceildiv(x, y) for x in a.tolist()] for y in (3, -3, -1)]
    assert c.tolist() == expected


@tilec.kernel
def stated(a: T.int8, h: T.float16, Y: T.Tensor((5,), "int32"), Z: T.Tensor((2,), "float32")):
    with T.Kernel(1, threads=32):
        Y[0] = T.int32(100) * a
        Y[1] = a + T.cast(100, "int32")
        Y[2] = T.max(T.int32(300), a) + a
        Y[3] = (a if a > 100 else T.int32(2)) * a
        Y[4] = 100 * a
        Z[0] = T.float32(0.1) * h
        Z[1] = T.if_then_else(a > 0, h, T.float32(0.1)) * h
    assert [0] * T.int32(2) == [0, 0], "and a number to Python"


def test_a_number_is_of_the_type_that_the_program_calls_it() -> None:
    y, z, h = np.zeros(5, np.int32), np.zeros(2, np.float32), np.float16(0.3)
    stated(100, float(h), y, z, device="interpreter")
    assert y.tolist() == [10000, 200, 400, 200, 100 * 100 % 256]
    assert z.tolist() == [np.float32(0.1) * np.float32(h), np.float32(h) ** 2]


@tilec.kernel
def mixed(s: T.uint64, Y: T.Tensor((6,), "uint64")):
    with T.Kernel(1, threads=32):
        x = T.alloc_var("uint64", init=0x9E3779B97F4A7C15)
        Y[0] = x + s
        Y[1] = T.cast(0xBF58476D1CE4E5B9, "uint64") * s
        Y[2] = T.uint64(2**64 - 1)
        Y[3] = T.cast(2**63, "uint32")
        Y[4] = T.max(s, 2**63)
        Y[5] = T.cast(0xFFFFFFFF, "int32")


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_numbers_of_64_bits_without_a_sign(device: str) -> None:
    y = np.ones(6, np.uint64)
    mixed(3, y, device=device)
    product = 0xBF58476D1CE4E5B9 * 3 % 2**64
    assert y.tolist() == [0x9E3779B97F4A7C18, product, 2**64 - 1, 0, 2**63, 2**64 - 1]


@tilec.kernel
def powers(
    X: T.Tensor((5,), "int32"), L: T.Tensor((5,), "int64"), F: T.Tensor((5,), "float32"),
    Y: T.Tensor((4, 5), "int32"), Z: T.Tensor((5, 5), "float32"), W: T.Tensor((5,), "int64"),
):  # fmt: skip
    with T.Kernel(1, threads=32):
        for i in T.Parallel(5):
            Y[0, i] = X[i] ** 2
            Y[1, i] = T.pow(X[i], 3)
            v = T.alloc_var("int32", X[i])
            before = v**1 + T.round(v)
            v += 1
            Y[2, i] = X[i] ** 0 + T.pow(2, 3) + before - 2 * v
            Y[3, i] = T.floor(X[i]) + T.ceil(X[i]) + T.round(X[i]) + T.trunc(X[i])
            W[i] = L[i] ** 7
            Z[0, i] = F[i] ** 2
            Z[1, i] = T.pow(F[i], 4.0)
            Z[2, i] = F[i] ** 0
            Z[3, i] = F[i] ** 1.5
            Z[4, i] = 3 ** F[i]


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
def test_powers_of_integers_are_integers(device: str) -> None:
    """Exact beyond the 24 bits of a float, and wrapping as products do; a float's square is a product."""
    x = np.array([5001, -46340, 0, 16777217, -3], np.int32)
    long = np.array([-3, 400, 0, 1, 1 << 20], np.int64)
    f = np.array([1.5, math.nan, 0, 2, math.inf], np.float32)
    y, z, w = np.zeros((4, 5), np.int32), np.zeros((5, 5), np.float32), np.zeros(5, np.int64)
    powers(x, long, f, y, z, w, device=device)
    np.testing.assert_array_equal(y, [x * x, x * x * x, np.full(5, 7), 4 * x])
    np.testing.assert_array_equal(w, long**7)
    np.testing.assert_array_equal(z[:3], [f * f, f * f * f * f, np.ones(5)])
    np.testing.assert_allclose(z[3:], [f**1.5, 3**f], rtol=1e-6)
    text = powers.lower(target="cuda:sm_80").source
    assert re.findall(r" pow\(.*", text.split("powers_kernel")[1]) == [
        " pow(F[t], 1.5f);",
        " pow(3.0f, F[t]);",
    ]


@tilec.kernel
def dequantized(
    Q: T.Tensor((4,), "int8"), U: T.Tensor((4,), "uint8"), X: T.Tensor((4,), "int32"),
    Y: T.Tensor((6, 4), "float32"), scale: float = 2.0,
):  # fmt: skip
    with T.Kernel(1, threads=32):
        for i in T.Parallel(4):
            Y[0, i] = Q[i] * scale
            Y[1, i] = scale * U[i] - 8.0
            Y[2, i] = U[i] - 8.0
            Y[3, i] = X[i] / 2.0 + 4.0 / (Q[i] + 0.5)
            Y[4, i] = 1.0 - X[i]
            Y[5, i] = T.max(X[i], 0.0)  # nothing is computed: an integer that is exact


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80"])
@pytest.mark.parametrize("scale", [2.0, 2.5])
def test_an_integer_and_a_float_are_a_float_whatever_its_value(device: str, scale: float) -> None:
    q, u = np.array([-128, 127, 3, 0], np.int8), np.array([0, 255, 7, 8], np.uint8)
    x = np.array([1 << 30, -7, 3, -(1 << 31)], np.int32)
    y = np.zeros((6, 4), np.float32)
    dequantized(q, u, x, y, scale=scale, device=device)
    f, g, h = (values.astype(np.float64) for values in (q, u, x))
    expected = [f * scale, g * scale - 8, g - 8, h / 2 + 4 / (f + 0.5), 1 - h, np.maximum(h, 0)]
    np.testing.assert_allclose(y, expected, rtol=1e-6)
