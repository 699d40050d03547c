"""Mathematical functions: meaning, types, spelling, and what kernels compute by them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.ir.function_cases import BINARY, POINTS, UNARY, check_function
from tests.kernels.legs import compile_texts, every_leg
from tilec.errors import TypeMismatch
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Constant
from tilec.ir.dtypes import f16, f32, i8, i32, i64, u64
from tilec.ir.ops import functions

OPS: dict[str, Any] = {op.name: op for op in functions.OPS}


def test_every_function_is_tested() -> None:
    assert set(OPS) == {*UNARY, *BINARY, "ldexp", "clz", "popcount"}


@pytest.mark.parametrize("name", UNARY)
def test_its_meaning(name: str) -> None:
    result = OPS[name](scalar(f32)).evaluate(POINTS)
    assert result.dtype == np.float32
    check_function(name, result, (POINTS,), 2.0)


@pytest.mark.parametrize("name", BINARY)
def test_the_meaning_of_two(name: str) -> None:
    x, y = (p.ravel() for p in np.meshgrid(POINTS, POINTS))
    check_function(name, OPS[name](scalar(f32), scalar(f32)).evaluate(x, y), (x, y), 2.0)


@pytest.mark.parametrize("name", UNARY)
def test_constants_fold_and_integers_are_refused(name: str) -> None:
    b = Builder()
    folded = b.pure(OPS[name](b.const(1.0, f16)))
    assert isinstance(folded, Constant) and not b.ops
    exact = UNARY[name](1.0)
    assert float(folded.value) == exact or abs(float(folded.value) - exact) < 2e-3
    with pytest.raises(TypeMismatch, match="TLC0204"):
        OPS[name](scalar(i32))


def test_16_bit_floats_are_rounded_once() -> None:
    x = np.linspace(-4, 4, 1001).astype(np.float16)
    for name in ("exp", "tanh", "sigmoid", "atan"):
        exact = np.array([UNARY[name](float(v)) for v in x])
        error = np.abs(OPS[name](scalar(f16)).evaluate(x).astype(np.float64) - exact)
        assert (error <= 0.501 * np.spacing(np.abs(exact).astype(np.float16))).all(), name
    with pytest.raises(TypeMismatch, match="TLC0204"):
        functions.Nextafter(scalar(f16), scalar(f16))


def test_bits() -> None:
    values = [0, 1, 2, 3, 0x80, 0x7FFF_FFFF, -1, -2, -(1 << 31)]
    x = np.array(values, np.int32)
    unsigned = [v & 0xFFFF_FFFF for v in values]
    assert functions.Clz(scalar(i32)).evaluate(x).tolist() == [
        32 - v.bit_length() for v in unsigned
    ]
    assert functions.Popcount(scalar(i32)).evaluate(x).tolist() == [v.bit_count() for v in unsigned]
    assert functions.Clz(scalar(i64)).evaluate(np.int64(1)) == 63
    assert functions.Popcount(scalar(u64)).evaluate(np.uint64(2**64 - 1)) == 64
    with pytest.raises(TypeMismatch, match="32 bits"):
        functions.Clz(scalar(i8))


# Kernels
# -------------------------------------------------------------------------------------------------


def two_of(dtype: str) -> list[str]:
    """The functions of two operands that a dtype has."""
    return [name for name in BINARY if name != "nextafter" or dtype == "float32"]


@cache
def make_table(dtype: str) -> Any:
    second = two_of(dtype)

    @tilec.kernel
    def table(
        X: T.Tensor(("N",), dtype),
        Z: T.Tensor(("N",), dtype),
        Y: T.Tensor((len(UNARY) + len(second) + 1, "N"), dtype),
    ):
        with T.Kernel(T.ceildiv(X.shape[0], 64), threads=64) as bx:
            i = bx * 64 + T.get_thread_binding()
            for k, name in enumerate(UNARY):
                Y[k, i] = getattr(T, name)(X[i])
            for k, name in enumerate(second):
                Y[len(UNARY) + k, i] = getattr(T, name)(X[i], Z[i])
            Y[len(UNARY) + len(second), i] = T.ldexp(X[i], 7)

    return table


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_computes_them(dtype: str) -> None:
    x, z = (p.ravel().astype(dtype) for p in np.meshgrid(POINTS, POINTS[::3]))
    names = [*UNARY, *two_of(dtype)]
    start = np.zeros((len(names) + 1, x.size), dtype)
    for device, (*_, y) in every_leg(make_table(dtype), x, z, start):
        for row, name in zip(y[:-1], names, strict=True):
            inputs = (x,) if name in UNARY else (x, z)
            check_function(name, row, inputs, 2.0, device, dtype)
        assert np.array_equal(y[-1], 128 * x, equal_nan=True)


def test_names_for_approximations() -> None:
    for name in ("exp", "exp10", "log", "log2", "log10", "sin", "cos", "tan"):
        assert getattr(T, f"__{name}") is getattr(T, name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_vendors_compile_them(dtype: str) -> None:
    compile_texts(make_table(dtype))


@tilec.kernel
def whole_numbers(X: T.Tensor(("N",), "int32"), Y: T.Tensor((10, "N"), "int32")):
    with T.Kernel(T.ceildiv(X.shape[0], 64), threads=64) as bx:
        i = bx * 64 + T.get_thread_binding()
        Y[0, i] = T.clz(X[i])
        Y[1, i] = T.popcount(X[i])
        Y[2, i] = T.clz(T.cast(X[i], "int64"))
        Y[3, i] = T.popcount(T.cast(X[i], "uint32"))
        Y[4, i] = T.truncdiv(X[i], 7)
        Y[5, i] = T.truncmod(X[i], -7)
        Y[6, i] = T.align_up(X[i], 16)
        Y[7, i] = T.clamp(X[i], -5, T.max_value("int8"))
        Y[8, i] = T.max(X[i], T.min_value("int32"))
        Y[9, i] = T.cast(T.ldexp(1.0, X[i] & 15), "int32")


@pytest.mark.emulator
def test_functions_of_integers() -> None:
    random = np.random.default_rng(3)
    x = np.r_[0, 1, -1, 7, -7, 8, -8, random.integers(-(2**30), 2**30, 60)].astype(np.int32)
    wide = [int(v) for v in x]
    exact = [
        [32 - (v & 0xFFFF_FFFF).bit_length() for v in wide],
        [(v & 0xFFFF_FFFF).bit_count() for v in wide],
        [64 - (v & (2**64 - 1)).bit_length() for v in wide],
        [(v & 0xFFFF_FFFF).bit_count() for v in wide],
        [int(math.copysign(abs(v) // 7, v)) for v in wide],
        [int(math.fmod(v, 7)) for v in wide],
        [-(-v // 16) * 16 for v in wide],
        [min(max(v, -5), 127) for v in wide],
        wide,
        [1 << (v & 15) for v in wide],
    ]
    for device, (_, y) in every_leg(whole_numbers, x, np.zeros((10, x.size), np.int32)):
        assert np.array_equal(y, exact), device
    compile_texts(whole_numbers)


@cache
def make_predicates(dtype: str) -> Any:
    @tilec.kernel
    def predicates(X: T.Tensor(("N",), dtype), Y: T.Tensor((9, "N"), "float32")):
        with T.Kernel(T.ceildiv(X.shape[0], 64), threads=64) as bx:
            i = bx * 64 + T.get_thread_binding()
            x = X[i]
            Y[0, i] = T.if_then_else(T.isnan(x), 1, 0)
            Y[1, i] = T.if_then_else(T.isinf(x), 1, 0)
            Y[2, i] = 1.0 if T.isfinite(x) else 0.0
            Y[3, i] = T.min(x, T.cast(1.0, dtype))
            Y[4, i] = T.max(T.cast(1.0, dtype), x)
            Y[5, i] = T.abs(x)
            Y[6, i] = T.min(x, -T.infinity(dtype))
            Y[7, i] = x**2
            Y[8, i] = T.fast_rcp(x)

    return predicates


@pytest.mark.emulator
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_special_values(dtype: str) -> None:
    values = [0.0, -0.0, 0.5, -2.0, math.inf, -math.inf, math.nan]
    x = np.array(values, np.float32)
    with np.errstate(all="ignore"):
        exact = np.stack(
            [
                np.isnan(x), np.isinf(x), np.isfinite(x), np.fmin(x, 1), np.fmax(x, 1), np.abs(x),
                np.full_like(x, -np.inf), x * x, 1 / x,
            ]
        )  # fmt: skip
    kind: Callable[..., Any] = make_predicates(dtype)
    given = x if dtype == "float32" else x.astype(tilec.ir.dtypes.find_dtype(dtype).numpy)
    for device, (_, y) in every_leg(kind, given, np.zeros((9, x.size), np.float32)):
        assert np.array_equal(y, exact, equal_nan=True), device
        assert not np.signbit(y[5, :6]).any(), device
    compile_texts(kind)


@tilec.kernel
def in_f64(X: T.Tensor((32,), "float64"), Y: T.Tensor((7, 32), "float64")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            Y[0, i] = T.sqrt(X[i])
            Y[1, i] = T.rsqrt(X[i])
            Y[2, i] = T.floor(X[i])
            Y[3, i] = T.ceil(X[i])
            Y[4, i] = T.round(X[i])
            Y[5, i] = T.trunc(X[i])
            Y[6, i] = T.copysign(X[i], -X[31 - i])


def test_what_machines_round_themselves_they_have_in_f64() -> None:
    x = np.random.default_rng(0).standard_normal(32) * 100
    x[:12] = 0.0, -0.0, np.inf, -np.inf, np.nan, 2.5, -2.5, 0.5, 1e300, 2**53 + 1, 1e-310, 4
    with np.errstate(all="ignore"):
        other = np.copysign(x, -x[::-1])
        exact = [
            np.sqrt(x),
            1 / np.sqrt(x),
            np.floor(x),
            np.ceil(x),
            np.rint(x),
            np.trunc(x),
            other,
        ]
    for device, (_, y) in every_leg(in_f64, x, np.zeros((7, 32))):
        for row, want in zip(y, exact, strict=True):
            np.testing.assert_array_equal(row, want, device)
            np.testing.assert_array_equal(
                np.signbit(row[~np.isnan(row)]), np.signbit(want[~np.isnan(want)])
            )
    compile_texts(in_f64)
