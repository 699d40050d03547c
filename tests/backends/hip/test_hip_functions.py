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
SMALL = np.float32(1e-30), np.float32(2e-20), np.float32(3e30)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    stand_ins = """
#define __device__
static inline float __builtin_amdgcn_exp2f(float x) { return __builtin_exp2f(x); }
static inline float __builtin_amdgcn_rsqf(float x) { return 1.0f / __builtin_sqrtf(x); }
"""
    text = [
        f"void {name}_n(const f32* x, const f32* z, f32* y, int n)"
        f" {{ for (int i = 0; i < n; ++i) y[i] = {name}({arguments}); }}"
        for names, arguments in ((UNARY, "x[i]"), (BINARY, "x[i], z[i]"))
        for name in names
    ]
    prelude = render_prelude("hip", [Need(name) for name in (*UNARY, *BINARY)])
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
    getattr(library, f"{name}_n")(*pointers, ctypes.c_int(x.size))
    check_function(name, y, (x,) if name in UNARY else (x, z), UNITS.get(name, 4.0))


@pytest.mark.parametrize("name", UNARY)
def test_every_half(library: ctypes.CDLL, name: str) -> None:
    """All of f16, computed in f32 as the emitter has it: a hundredth of a unit of f16 beside what
    rounding costs, with the same infinities, NaNs and signs.
    """
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16)
    x = halves[~np.isnan(halves)].astype(np.float32)
    y = np.empty_like(x)
    pointers: list[Any] = [ctypes.c_void_p(a.ctypes.data) for a in (x, x, y)]
    getattr(library, f"{name}_n")(*pointers, ctypes.c_int(x.size))
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


@pytest.mark.parametrize("arch", ["gfx90a", "gfx942", "gfx950"])
def test_no_device_library_is_linked(arch: str) -> None:
    """Every function, called: the linker finds nothing undefined, and the code calls nothing."""
    calls = [f"{n}(P[{i}])" for i, n in enumerate(UNARY)]
    calls += [f"{n}(P[{i}], P[{i + 99}])" for i, n in enumerate(BINARY)]
    frame = KernelFrame(
        name="functions",
        parameters=(
            FrameParameter("pointer", "P", "f32", const=True),
            FrameParameter("pointer", "Q", "f32"),
        ),
        threads=64,
        shared_bytes=0,
        body="\n".join(f"Q[{i}] = {call};" for i, call in enumerate(calls)),
        needs=tuple(Need(name) for name in (*UNARY, *BINARY)),
    )
    clang, text = find_amd_clang(arch), render_kernel("hip", frame)
    assert clang.compile(text, "functions.hip", arch).findings == ()
    isa = clang.assemble(text, "functions.hip", arch).kernel("functions")
    assert isa.count("s_swappc") == isa.count("s_setpc") == 0
    assert isa.count("global_store") >= len(calls) // 4
