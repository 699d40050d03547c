"""Functions of floats: meaning, types, spelling, and the emulator's results."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import TypeMismatch
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Constant
from tilec.ir.dtypes import f16, f32, i32
from tilec.ir.ops import functions

EXACT: dict[str, Callable[[float], float]] = {
    "exp": math.exp, "log": math.log, "log2": math.log2, "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x), "tanh": math.tanh, "sin": math.sin, "cos": math.cos,
}  # fmt: skip
OPS = {op.name: op for op in functions.OPS}


def test_every_function_is_tested() -> None:
    assert set(OPS) == set(EXACT)


@pytest.mark.parametrize("name", EXACT)
def test_its_meaning(name: str) -> None:
    op = OPS[name](scalar(f32))
    x = np.array([0.25, 1.0, 2.5, 7.0], np.float32)
    result = op.evaluate(x)
    assert result.dtype == np.float32
    exact = [EXACT[name](float(v)) for v in x]
    assert np.allclose(result.astype(np.float64), exact, rtol=3e-7, atol=1e-7)
    assert op.text == name + "({x})"


@pytest.mark.parametrize("name", ["log", "log2", "sqrt", "rsqrt"])
def test_outside_its_domain_it_is_nan(name: str) -> None:
    assert np.isnan(OPS[name](scalar(f32)).evaluate(np.float32(-1.0)))


@pytest.mark.parametrize("name", EXACT)
def test_constants_fold_and_integers_are_refused(name: str) -> None:
    b = Builder()
    folded = b.pure(OPS[name](b.const(2.0, f16)))
    assert isinstance(folded, Constant) and not b.ops
    assert abs(float(folded.value) - EXACT[name](2.0)) < 2e-3
    with pytest.raises(TypeMismatch, match="TLC0204"):
        OPS[name](scalar(i32))


@tilec.kernel
def table(X: T.Tensor((64,), "float32"), Y: T.Tensor((8, 64), "float32")):
    with T.Kernel(1, threads=64):
        F = T.alloc_fragment((64,), "float32")
        t = T.get_thread_binding()
        T.copy(X, F)
        for i in T.Parallel(64):
            F[i] = T.exp(T.log(F[i]))
        T.copy(F, Y[0, 0:64])
        Y[1, t] = T.log(X[t])
        Y[2, t] = T.log2(X[t])
        Y[3, t] = T.sqrt(X[t])
        Y[4, t] = T.rsqrt(X[t])
        Y[5, t] = T.tanh(X[t])
        Y[6, t] = T.sin(X[t])
        Y[7, t] = T.cos(X[t])


@pytest.mark.emulator
@pytest.mark.parametrize("device", ["interpreter", "emulator:cuda:sm_80", "emulator:hip:gfx942"])
def test_a_kernel_computes_them(device: str) -> None:
    x = np.linspace(0.1, 3.0, 64, dtype=np.float32)
    y = np.full((8, 64), np.nan, np.float32)
    table(x, y, device=device)
    exact = [x.astype(np.float64)]
    exact += [np.array([EXACT[n](float(v)) for v in x]) for n in list(EXACT)[1:]]
    assert np.allclose(y, np.stack(exact), rtol=1e-6, atol=1e-6)
