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
from tilec.backends.prelude import Need, render_prelude

pytestmark = pytest.mark.hip
ANGLES = ("sin", "cos", "tan")
"""Exact in proportion to the angle, by its reduction to turns: so asked of small ones here."""
UNITS = {"pow": 200.0}
"""In the last place, where they are more than 4: the error of a power grows with its logarithm."""
SMALL = np.float32(1e-30), np.float32(2e-20), np.float32(3e30)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    stand_ins = """
#define TURN 6.283185307179586
#define __device__
static inline float __builtin_amdgcn_exp2f(float x) { return __builtin_exp2f(x); }
static inline float __builtin_amdgcn_rsqf(float x) { return 1.0f / __builtin_sqrtf(x); }
static inline float __builtin_amdgcn_sinf(float x) { return (float)__builtin_sin(x * TURN); }
static inline float __builtin_amdgcn_cosf(float x) { return (float)__builtin_cos(x * TURN); }
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
        points = points[(np.abs(points) <= 1) | ~np.isfinite(points)]
    x, z = (p.ravel() for p in np.meshgrid(points, points[:: 1 if name in BINARY else 99]))
    x, z = np.ascontiguousarray(x), np.ascontiguousarray(z)
    y = np.empty_like(x)
    pointers: list[Any] = [ctypes.c_void_p(a.ctypes.data) for a in (x, z, y)]
    getattr(library, f"{name}_n")(*pointers, ctypes.c_int(x.size))
    check_function(name, y, (x,) if name in UNARY else (x, z), UNITS.get(name, 4.0))
