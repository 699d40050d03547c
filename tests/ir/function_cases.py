"""What functions of floats should give: the C library's in f64, and where to ask."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Exact = Callable[..., float]


def _or_nan(function: Exact) -> Exact:
    """The function with NaN outside its domain and infinity beyond f64."""

    def exact(*inputs: float) -> float:
        try:
            return float(function(*inputs))
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    return exact


def _log(function: Exact) -> Exact:
    return lambda x: -math.inf if x == 0 else function(x)


def _rounded(function: Exact) -> Exact:
    """A function that gives whole numbers, with the sign of a zero kept."""
    return lambda x: math.copysign(function(x), x) if math.isfinite(x) else x


def _sinh(x: float) -> float:
    return math.copysign(math.inf, x) if abs(x) > 710.4 else math.sinh(x)


def _log1p(x: float) -> float:
    return -math.inf if x == -1 else math.log1p(x)


def _atanh(x: float) -> float:
    return math.copysign(math.inf, x) if abs(x) == 1 else math.atanh(x)


def _pow(x: float, y: float) -> float:
    odd = math.isfinite(y) and abs(math.fmod(y, 2)) == 1
    limit = math.copysign(math.inf, x) if odd else math.inf
    try:
        return limit if x == 0 and y < 0 else math.pow(x, y)
    except OverflowError:
        return limit


def _nextafter(x: float, y: float) -> float:
    with np.errstate(all="ignore"):
        return float(np.nextafter(np.float32(x), np.float32(y)))


UNARY: dict[str, Exact] = {
    name: _or_nan(function)
    for name, function in {
        "exp": math.exp, "exp2": lambda x: 2.0**x, "exp10": lambda x: 10.0**x,
        "log": _log(math.log), "log2": _log(math.log2), "log10": _log(math.log10),
        "log1p": _log1p, "sqrt": math.sqrt,
        "rsqrt": lambda x: math.copysign(math.inf, x) if x == 0 else 1 / math.sqrt(x),
        "sigmoid": lambda x: math.exp(x) if x < -40 else 1 / (1 + math.exp(-x)), "erf": math.erf,
        "sin": math.sin, "cos": math.cos, "tan": math.tan, "asin": math.asin, "acos": math.acos,
        "atan": math.atan, "sinh": _sinh, "cosh": math.cosh, "tanh": math.tanh,
        "fast_tanh": math.tanh,
        "asinh": math.asinh, "acosh": math.acosh, "atanh": _atanh,
        "floor": _rounded(math.floor), "ceil": _rounded(math.ceil), "round": _rounded(round),
        "trunc": _rounded(math.trunc),
    }.items()
}  # fmt: skip
BINARY: dict[str, Exact] = {
    name: _or_nan(function)
    for name, function in {
        "pow": _pow, "atan2": math.atan2, "hypot": math.hypot, "fmod": math.fmod,
        "copysign": math.copysign,
        "nextafter": _nextafter,
    }.items()
}  # fmt: skip
POINTS: Any = np.array(
    [
        0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.5, 2.0, 3.0, -3.0, 0.1, -0.1, 0.3, 0.7, 1e-6,
        -1e-6, 1e-3, 7.25, -7.25, 20.0, -20.0, 60.5, -60.5, 1e4, math.pi, math.inf, -math.inf,
        math.nan,
    ],
    np.float32,
)  # fmt: skip


def check_function(
    name: str,
    got: Any,
    inputs: tuple[Any, ...],
    units: float,
    where: str = "",
    dtype: Any = np.float32,
) -> None:
    """Every result within `units` in the last place of the exact one, its domain's edges alike.

    Results too small or too large for `dtype` may be 0 or the limit; angles count by their own size.
    """
    kind = np.finfo(dtype)
    exact_of = UNARY.get(name) or BINARY[name]
    for i, values in enumerate(zip(*(x.tolist() for x in inputs), strict=True)):
        exact, found = exact_of(*values), float(got[i])
        told = f"{name}{values} is {found}, not {exact} {where}"
        if math.isnan(exact):
            assert math.isnan(found), told
        elif abs(exact) > float(kind.max) or math.isinf(exact):
            assert found == math.copysign(math.inf, exact), told
        elif exact == 0:
            assert found == 0, told
            assert math.copysign(1, found) == math.copysign(1, exact) or name == "pow", told
        else:
            allowed = max(units * math.ldexp(1.0, math.frexp(exact)[1] - kind.nmant - 1), kind.tiny)
            assert abs(found - exact) <= (0 if name == "nextafter" else allowed), told
