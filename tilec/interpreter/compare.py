"""When a result is right: the tolerances of the language, the same for tests, the command line and
the GPU checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import WrongResult
from ..ir.conversion import largest_finite
from ..ir.dtypes import DType, f32
from .numbers import Array, bits_of

# The distance from 1 to the next number, by dtype. Accumulators that truncate, as tensor cores do, stay
# within k of these too.
EPSILON = {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52,
           "tf32": 2.0**-23, "e4m3": 2.0**-3, "e5m2": 2.0**-2, "e4m3fnuz": 2.0**-3,
           "e5m2fnuz": 2.0**-2, "e2m3": 2.0**-3, "e3m2": 2.0**-2, "e2m1": 0.5}  # fmt: skip
# The least number above 0.
SMALLEST = {"f16": 2.0**-24, "bf16": 2.0**-133, "f32": 2.0**-149, "f64": 2.0**-1074,
            "tf32": 2.0**-149, "e4m3": 2.0**-9, "e5m2": 2.0**-16, "e4m3fnuz": 2.0**-10,
            "e5m2fnuz": 2.0**-17, "e2m3": 2.0**-3, "e3m2": 2.0**-4, "e2m1": 0.5}  # fmt: skip


def tolerance(
    reference: Array,
    k: int,
    a: Array | None,
    b: Array | None,
    dtype: DType,
    accumulator: DType = f32,
) -> Array:
    """How far each element may be from the f64 `reference`: eps_out |ref| + k eps_acc (|A| @ |B|),
    as f64.

    reference: (M, N) in f64. k: how many products each element sums. a: (M, K), b: (K, N); without
    them (elementwise results) |ref| stands for the product. dtype: of the result; integers get 0.
    To eps_out |ref| belongs half the smallest subnormal, the error of rounding below the normal
    range. The bound on sums is Higham's (Accuracy and Stability of Numerical Algorithms, section
    3.1) to first order.
    """
    size = np.abs(np.asarray(reference, np.float64))
    if not dtype.is_float:
        return np.zeros_like(size)
    magnitude = size
    if a is not None and b is not None:
        magnitude = np.abs(np.asarray(a, np.float64)) @ np.abs(np.asarray(b, np.float64))
    allowed: Array = EPSILON[dtype.name] * size + k * EPSILON[accumulator.name] * magnitude
    return allowed + SMALLEST[dtype.name] / 2


def assert_close(
    result: Array, reference: Array, allowed: Array | float, dtype: DType, name: str = "the result"
) -> None:
    """Raises WrongResult, naming the worst element, where |result - reference| > allowed. NaN never
    passes.

    An infinity passes where the reference is one of that sign, or with what is allowed as large as
    the largest number of `dtype`.
    """
    got = np.asarray(result).astype(np.float64)
    expected = np.asarray(reference, np.float64)
    if got.shape != expected.shape:
        raise WrongResult("TLC0761", f"{name} has shape {got.shape}, not {expected.shape}")
    limit = np.broadcast_to(np.asarray(allowed, np.float64), got.shape)
    with np.errstate(all="ignore"):
        error = np.abs(got - expected)
        right = error <= limit
        if dtype.is_float:
            beyond = np.abs(expected) + limit >= largest_finite(dtype)
            right |= np.isinf(got) & beyond & (np.sign(got) == np.sign(expected))
    if right.all():
        return
    excess = np.where(
        right, -1.0, np.where(np.isnan(error), np.inf, error / np.maximum(limit, 1e-300))
    )
    worst = np.unravel_index(int(np.argmax(excess)), got.shape)
    raise WrongResult(
        "TLC0760",
        f"{name} is wrong in {int((~right).sum())} of {got.size} elements, most at "
        f"{[int(i) for i in worst]}: {got[worst]:.9g}, not {expected[worst]:.9g} "
        f"(off by {error[worst]:.3g}, allowed {limit[worst]:.3g})",
    )


def assert_exact(result: Array, expected: Array, name: str = "the result") -> None:
    """Raises WrongResult unless shapes, dtypes and all bits agree: for integers and for moves."""
    if result.shape != expected.shape or result.dtype != expected.dtype:
        raise WrongResult(
            "TLC0761",
            f"{name} is {result.dtype}{list(result.shape)}, "
            f"not {expected.dtype}{list(expected.shape)}",
        )
    differ = np.asarray(bits_of(result) != bits_of(expected))
    if differ.any():
        first: Any = tuple(np.argwhere(differ)[0])
        raise WrongResult(
            "TLC0760",
            f"{name} differs in {int(differ.sum())} of {differ.size} elements, first at "
            f"{[int(i) for i in first]}: {result[first]}, not {expected[first]}",
        )
