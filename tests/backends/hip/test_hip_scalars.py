"""The scalar half of the HIP prelude, the text itself compiled by clang for this machine: what it
computes.

Only what an AMD builtin computes by itself is replaced: v_exp_f32, v_sin_f32 and v_cos_f32 by the C
library's.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.host_text import compile_here
from tilec.backends.prelude import Need, render_prelude

pytestmark = pytest.mark.hip
BF16: Any = ml_dtypes.bfloat16
DTYPES: dict[str, Any] = {
    "f16": np.float16, "bf16": BF16, "f32": np.float32, "f64": np.float64,
    "i8": np.int8, "u8": np.uint8, "i32": np.int32, "u32": np.uint32,
    "i64": np.int64, "u64": np.uint64,
}  # fmt: skip
UNARY = ("tanh", "erf", "sin", "cos", "exp", "floor", "round", "trunc", "abs")
CONVERSIONS = [
    (to, source)
    for to in ("f16", "bf16", "f32", "i32")
    for source in DTYPES
    if to != source and not (to == "i32" and source in ("u32", "u64", "i64"))
]
_OPERATIONS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


def _functions() -> str:
    text = [
        f"void {name}_n(const f32* x, f32* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = {name}(x[i]); }}"
        for name in UNARY
    ]
    text += [
        f"void {t}_{name}(const {t}* a, const {t}* b, {t}* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = a[i] {sign} b[i]; }}"
        for t in ("f16", "bf16")
        for name, sign in _OPERATIONS.items()
    ]
    text += [
        f"void {t}_muladd(const {t}* a, const {t}* b, {t}* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = a[i] * b[i] + a[i]; }}"
        for t in ("f16", "bf16")
    ]
    text += [
        f"void {to}_from_{source}(const {source}* x, {to}* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = convert<{to}>(x[i]); }}"
        for to, source in CONVERSIONS
    ]
    text += [
        f"void {name}_n(const i32* a, const i32* b, i32* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = {name}(a[i], b[i]); }}"
        for name in ("floordiv", "floormod", "min", "max")
    ]
    return "\n".join(text)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    names = (*UNARY, "convert", "floordiv", "floormod", "min", "max", "f16", "bf16")
    stand_ins = """
#define TURN 6.283185307179586
#define __device__
static inline float __builtin_amdgcn_exp2f(float x) { return __builtin_exp2f(x); }
static inline float __builtin_amdgcn_sinf(float x) { return (float)__builtin_sin(x * TURN); }
static inline float __builtin_amdgcn_cosf(float x) { return (float)__builtin_cos(x * TURN); }
"""
    prelude = render_prelude("hip", [Need(name) for name in names])
    return compile_here(stand_ins, prelude, _functions(), tmp_path_factory.mktemp("hip-scalars"))


def call(library: ctypes.CDLL, name: str, out: Any, *inputs: NDArray[Any]) -> NDArray[Any]:
    result = np.empty(inputs[0].size, out)
    arrays = [*(np.ascontiguousarray(x) for x in inputs), result]
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in arrays]
    getattr(library, name)(*pointers, ctypes.c_int(result.size))
    return result


def ulps(got: NDArray[Any], exact: NDArray[Any]) -> float:
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(got.astype(np.float64) - exact) / spacing))


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_own_functions_are_within_two_units(library: ctypes.CDLL, name: str) -> None:
    x = np.concatenate(
        [np.linspace(-12, 12, 200001), np.geomspace(1e-30, 1, 5000), [0.0, 0.625, 1.0, 4.0, 100.0]]
    )
    x = x.astype(np.float32)
    exact = np.array([getattr(math, name)(float(v)) for v in x])
    got = call(library, f"{name}_n", np.float32, x)
    assert ulps(got, exact) <= 2.0
    assert np.all(np.abs(got) <= 1)
    assert np.isnan(call(library, f"{name}_n", np.float32, np.array([np.nan], np.float32)))[0]
    assert np.array_equal(
        call(library, f"{name}_n", np.float32, np.array([np.inf, -np.inf], np.float32)), [1, -1]
    )


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_reduction_of_angles_keeps_them_exact(library: ctypes.CDLL, name: str) -> None:
    x = np.linspace(-1e5, 1e5, 100001).astype(np.float32)
    exact = getattr(np, name)(x.astype(np.float64))
    assert np.max(np.abs(call(library, f"{name}_n", np.float32, x) - exact)) < 2e-6


def test_rounding_functions(library: ctypes.CDLL) -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e9, -3.7, 3.7], np.float32)
    for name, reference in (
        ("floor", np.floor),
        ("round", np.rint),
        ("trunc", np.trunc),
        ("abs", np.abs),
    ):
        assert np.array_equal(call(library, f"{name}_n", np.float32, x), reference(x))


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_half_operations_round_once(library: ctypes.CDLL, dtype: str) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 1 << 16, (2, 200000)).astype(np.uint16)
    a, b = (x.view(DTYPES[dtype]) for x in bits)
    with np.errstate(all="ignore"):
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        for name, operation in (
            ("add", np.add),
            ("sub", np.subtract),
            ("mul", np.multiply),
            ("div", np.divide),
        ):
            # f64 holds sums and products of two halves to far more than twice their digits
            expected = operation(wide_a, wide_b).astype(
                np.float32 if dtype == "bf16" else np.float64
            )
            check_equal(call(library, f"{dtype}_{name}", a.dtype, a, b), expected.astype(a.dtype))
        product = (
            (wide_a * wide_b).astype(np.float32 if dtype == "bf16" else np.float64).astype(a.dtype)
        )
        total = (product.astype(np.float64) + wide_a).astype(
            np.float32 if dtype == "bf16" else np.float64
        )
        check_equal(call(library, f"{dtype}_muladd", a.dtype, a, b), total.astype(a.dtype))


def check_equal(got: NDArray[Any], expected: NDArray[Any]) -> None:
    nan = np.isnan(expected.astype(np.float64))
    assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
    assert np.array_equal(got[~nan].view(np.uint16), expected[~nan].view(np.uint16))


def nearest(x: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """`x` rounded once, to nearest even, by exact arithmetic on Python's integers and fractions of
    two.
    """
    digits, smallest = {np.dtype(np.float16): (11, -24), np.dtype(BF16): (8, -133)}[np.dtype(dtype)]
    result = []
    for value in x.tolist():
        if isinstance(value, float) and (math.isnan(value) or math.isinf(value) or value == 0):
            result.append(value)
            continue
        numerator, denominator = (
            (abs(value), 1) if isinstance(value, int) else abs(value).as_integer_ratio()
        )
        exponent = numerator.bit_length() - denominator.bit_length()
        exponent -= (
            numerator < denominator << exponent
            if exponent >= 0
            else numerator << -exponent < denominator
        )
        unit = max(exponent - digits + 1, smallest)
        scaled = (numerator << -unit, denominator) if unit < 0 else (numerator, denominator << unit)
        whole, rest = divmod(*scaled)
        whole += 2 * rest > scaled[1] or (2 * rest == scaled[1] and whole % 2 == 1)
        limit = 65504.0 if digits == 11 else 3.3895313892515355e38
        rounded = math.ldexp(whole, unit) if whole.bit_length() + unit < 1000 else math.inf
        result.append(math.copysign(rounded if rounded <= limit else math.inf, value))
    return np.array(result, np.float64).astype(dtype)


@pytest.mark.parametrize(("to", "source"), CONVERSIONS)
def test_conversions_round_once(library: ctypes.CDLL, to: str, source: str) -> None:
    rng = np.random.default_rng(5)
    kind = np.dtype(DTYPES[source])
    if kind.kind in "iu":
        info = np.iinfo(kind)
        shifts = rng.integers(0, kind.itemsize * 8, 3000)
        x = (
            rng.integers(info.min, info.max, 3000, dtype=kind, endpoint=True) >> shifts.astype(kind)
        ).astype(kind)
        x[:3] = info.max, info.min, 0
        # between two numbers of the result, and beside that
        ties = [
            (2 * k + 1 << s) + d
            for k in range(128, 140)
            for s in range(1, kind.itemsize * 8 - 12)
            for d in (-1, 0, 1)
        ]
        x = np.concatenate([x, np.array([t for t in ties if t <= info.max], kind)])
    else:
        x = (rng.standard_normal(3000) * 2.0 ** rng.integers(-30, 13, 3000)).astype(kind)
        x[:4] = 0, np.nan, np.inf, -np.inf
        if kind.itemsize >= 4:
            ties = 1 + (2 * np.arange(64) + 1) * 2.0**-8
            beside = [ties, np.nextafter(ties.astype(kind), 0), np.nextafter(ties.astype(kind), 9)]
            x = np.concatenate(
                [x, *(t.astype(kind) for t in beside), np.array([1e38, 3.4e38], kind)]
            )
    if to == "i32":
        x = x[np.abs(x.astype(np.float64)) < 2.0**31]
    got = call(library, f"{to}_from_{source}", DTYPES[to], x)
    with np.errstate(over="ignore"):
        if to in ("f16", "bf16"):
            wide = x.astype(np.float64) if kind.kind not in "iu" else x
            check_equal(got, nearest(wide, DTYPES[to]))
        else:
            assert np.array_equal(got, x.astype(DTYPES[to]), equal_nan=to == "f32")


def test_floor_division(library: ctypes.CDLL) -> None:
    a, b = (
        x.ravel().astype(np.int32) for x in np.meshgrid(np.arange(-20, 21), [-7, -3, -1, 1, 2, 5])
    )
    for name, reference in (
        ("floordiv", np.floor_divide),
        ("floormod", np.mod),
        ("min", np.minimum),
        ("max", np.maximum),
    ):
        assert np.array_equal(call(library, f"{name}_n", np.int32, a, b), reference(a, b))
