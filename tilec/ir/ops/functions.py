"""Functions of floats, element by element. Each is a function of the prelude of the same name,
computed in f32 for 16-bit floats; the prelude says how exact it is.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..core import Op, Value, operand
from .arith import Unary


class Function(Unary):
    """Base: one float operand. `numpy` is its meaning; outside its domain it gives NaN."""

    accepts = ("float",)
    numpy: ClassVar[Any] = None

    def evaluate(self, *inputs: Any) -> Any:
        with np.errstate(all="ignore"):
            return type(self).numpy(inputs[0])


class Exp(Function, name="exp", pure=True):
    """e to the x."""

    text, numpy = "exp({x})", np.exp
    x: Value = operand()


class Log(Function, name="log", pure=True):
    """The natural logarithm."""

    text, numpy = "log({x})", np.log
    x: Value = operand()


class Log2(Function, name="log2", pure=True):
    """The logarithm to base 2."""

    text, numpy = "log2({x})", np.log2
    x: Value = operand()


class Sqrt(Function, name="sqrt", pure=True):
    """The square root."""

    text, numpy = "sqrt({x})", np.sqrt
    x: Value = operand()


class Rsqrt(Function, name="rsqrt", pure=True):
    """1 / sqrt(x)."""

    text = "rsqrt({x})"
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        with np.errstate(all="ignore"):
            return (1 / np.sqrt(inputs[0])).astype(np.asarray(inputs[0]).dtype)


class Tanh(Function, name="tanh", pure=True):
    """The hyperbolic tangent."""

    text, numpy = "tanh({x})", np.tanh
    x: Value = operand()


class Sin(Function, name="sin", pure=True):
    """The sine of an angle in radians."""

    text, numpy = "sin({x})", np.sin
    x: Value = operand()


class Cos(Function, name="cos", pure=True):
    """The cosine of an angle in radians."""

    text, numpy = "cos({x})", np.cos
    x: Value = operand()


OPS: tuple[type[Op], ...] = (Exp, Log, Log2, Sqrt, Rsqrt, Tanh, Sin, Cos)
