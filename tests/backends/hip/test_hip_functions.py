"""The functions of the HIP prelude, the text itself compiled by clang for this machine.

Only what an AMD builtin computes by itself is the C library's here.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tests.backends.host_text import compile_here
from tests.ir.function_cases import BINARY, POINTS, UNARY, check_function
from tilec.backends.prelude import (
    FrameParameter,
    KernelFrame,
    Need,
    render_kernel,
    render_prelude,
)
from tilec.runtime.clang import find_amd_clang

pytestmark = pytest.mark.hip
ANGLES = ("sin", "cos", "tan")
"""Their reduction is good for angles up to 1e5."""
UNITS = {"pow": 200.0}
"""In the last place, where they are more than 4: the error of a power grows with its logarithm."""
UNITS_64 = {
    **dict.fromkeys(("rsqrt", "sigmoid", "tan", "asin", "acos", "atan2", "exp10", "hypot"), 2.0),
    **dict.fromkeys(("log1p", "tanh", "fast_tanh", "asinh", "acosh", "atanh"), 3.0),
    "pow": 300.0,
}
SMALL = np.float32(1e-30), np.float32(2e-20), np.float32(3e30)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    stand_ins = """
#define __device__
static inline float __builtin_amdgcn_exp2f(float x) { return __builtin_exp2f(x); }
static inline float __builtin_amdgcn_rsqf(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline double __builtin_amdgcn_ldexp(double x, int k) { return __builtin_ldexp(x, k); }
static inline double __builtin_amdgcn_frexp_mant(double x) { int k; return __builtin_frexp(x, &k); }
static inline int __builtin_amdgcn_frexp_exp(double x) { int k; __builtin_frexp(x, &k); return k; }
"""
    text = [
        f"void {name}_{kind}(const {kind}* x, const {kind}* z, {kind}* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = {name}{'<f64>' * (kind == 'f64')}({arguments}); }}"
        for kind in ("f32", "f64")
        for names, arguments in ((UNARY, "x[i]"), (BINARY, "x[i], z[i]"))
        for name in names
        if (name, kind) != ("nextafter", "f64")
    ]
    needs = [need for name in (*UNARY, *BINARY) for need in (Need(name), Need(name, ("f64",)))]
    prelude = render_prelude("hip", needs)
    return compile_here(stand_ins, prelude, "\n".join(text), tmp_path_factory.mktemp("functions"))


@pytest.mark.parametrize("name", [*UNARY, *BINARY])
def test_a_function(library: ctypes.CDLL, name: str) -> None:
    random = np.random.default_rng(7)
    more = random.uniform(-9, 9, 300 if name in UNARY else 30)
    points = np.concatenate([POINTS, more, SMALL, -np.array(SMALL)]).astype(np.float32)
    if name in ANGLES:
        points = points[(np.abs(points) <= 1e5) | ~np.isfinite(points)]
    x, z = (p.ravel() for p in np.meshgrid(points, points[:: 1 if name in BINARY else 99]))
    x, z = np.ascontiguousarray(x), np.ascontiguousarray(z)
    y = np.empty_like(x)
    pointers: list[Any] = [ctypes.c_void_p(a.ctypes.data) for a in (x, z, y)]
    getattr(library, f"{name}_f32")(*pointers, ctypes.c_int(x.size))
    check_function(name, y, (x,) if name in UNARY else (x, z), UNITS.get(name, 4.0))


@pytest.mark.parametrize("name", [*UNARY, *(name for name in BINARY if name != "nextafter")])
def test_a_function_of_f64(library: ctypes.CDLL, name: str) -> None:
    """Within 1 unit in the last place of the C library's, where the function is not made of others."""
    random = np.random.default_rng(7)
    signs = random.choice([-1.0, 1.0], 400)
    more = [
        random.uniform(-9, 9, 300),
        random.uniform(-1, 1, 300),
        signs * np.exp(random.uniform(-20, 20, 400)),
    ]
    if name not in ANGLES:
        more += [
            random.uniform(-710, 710, 100),
            signs[:100] * np.exp(random.uniform(-700, 700, 100)),
        ]
    else:
        more += [np.pi / 2 * random.integers(-(10**6), 10**6, 200)]
    x = np.concatenate([POINTS.astype(np.float64), *more, [5e-324, 1e-310, -1e308]])
    if name in ANGLES:
        x = x[(np.abs(x) <= 1e9) | ~np.isfinite(x)]
    z = random.permutation(x) if name != "fmod" else x[::-1] * 1e-3
    if name in BINARY:
        x, z = (
            np.concatenate([x, np.repeat(POINTS, POINTS.size)]),
            np.concatenate([z, np.tile(POINTS, POINTS.size)]),
        )
    y = np.empty_like(x)
    pointers: list[Any] = [ctypes.c_void_p(np.ascontiguousarray(a).ctypes.data) for a in (x, z)]
    getattr(library, f"{name}_f64")(*pointers, ctypes.c_void_p(y.ctypes.data), ctypes.c_int(x.size))
    check_function(
        name, y, (x,) if name in UNARY else (x, z), UNITS_64.get(name, 1.0), "", np.float64
    )


@pytest.mark.parametrize("name", UNARY)
def test_every_half(library: ctypes.CDLL, name: str) -> None:
    """All of f16, computed in f32 as the emitter has it: a hundredth of a unit of f16 beside what
    rounding costs, with the same infinities, NaNs and signs.
    """
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    x = halves[~np.isnan(halves)].astype(np.float32)
    y = np.empty_like(x)
    pointers: list[Any] = [ctypes.c_void_p(a.ctypes.data) for a in (x, x, y)]
    getattr(library, f"{name}_f32")(*pointers, ctypes.c_int(x.size))
    exact = np.array([UNARY[name](v) for v in x.tolist()])
    with np.errstate(all="ignore"):
        rounded, got = exact.astype(np.float16), y.astype(np.float16)
        unit = np.exp2(np.floor(np.log2(np.abs(exact).clip(2.0**-14, 65504.0))) - 10)
        error = np.abs(y - exact) / unit
    finite = np.isfinite(rounded)
    assert np.array_equal(np.where(finite, 0, rounded), np.where(finite, 0, got), equal_nan=True)
    assert (error[finite] <= 0.01).all(), (name, x[finite][error[finite].argmax()])
    numbers = ~np.isnan(rounded)
    assert np.array_equal(np.signbit(rounded[numbers]), np.signbit(got[numbers]))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("arch", ["gfx90a", "gfx942", "gfx950"])
def test_no_device_library_is_linked(arch: str, dtype: str) -> None:
    """Every function, called: the linker finds nothing undefined, and the code calls nothing."""
    wide = dtype == "f64"
    two = [name for name in BINARY if name != "nextafter" or not wide]
    form = "<f64>" if wide else ""
    calls = [f"{n}{form}(P[{i}])" for i, n in enumerate(UNARY)]
    calls += [f"{n}{form}(P[{i}], P[{i + 99}])" for i, n in enumerate(two)]
    frame = KernelFrame(
        name="functions",
        parameters=(
            FrameParameter("pointer", "P", dtype, const=True),
            FrameParameter("pointer", "Q", dtype),
        ),
        threads=64,
        shared_bytes=0,
        body="\n".join(f"Q[{i}] = {call};" for i, call in enumerate(calls)),
        needs=tuple(Need(name, ("f64",) if wide else ()) for name in (*UNARY, *two)),
    )
    clang, text = find_amd_clang(arch), render_kernel("hip", frame)
    assert clang.compile(text, "functions.hip", arch).findings == ()
    isa = clang.assemble(text, "functions.hip", arch).kernel("functions")
    assert isa.count("s_swappc") == isa.count("s_setpc") == 0
    assert isa.count("global_store") >= len(calls) // 4
