"""Functions of floats and of the bits of integers, element by element.

Each is a function of the prelude of the same name, so that a class, a name in the language and a
macro of each prelude are all it takes. Functions of floats are computed in f32 for 16-bit floats;
docs/prelude.md says how exact they are. Outside its domain a function gives NaN.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from ...errors import TypeMismatch
from ..core import Op, Value, operand
from ..dtypes import DType, f32, i32
from ..types import Type
from .arith import Binary, Elementwise, Unary, element_dtype, elementwise_type


def _in_f32(numpy: Any, *inputs: Any) -> Any:
    """A NumPy function, in f32 at least: a 16-bit float is rounded once."""
    dtype = np.asarray(inputs[0]).dtype
    wide = [np.asarray(x, dtype if dtype.itemsize > 4 else np.float32) for x in inputs]
    with np.errstate(all="ignore"):
        return np.asarray(numpy(*wide)).astype(dtype)[()]


class Function(Unary):
    """Base: one float operand. `numpy` is its meaning."""

    accepts = ("float",)
    computed_in_f32 = known_in_f64 = True
    numpy: ClassVar[Any] = None

    def evaluate(self, *inputs: Any) -> Any:
        return _in_f32(type(self).numpy, *inputs)


class Function2(Binary):
    """Base: two float operands. `numpy` is its meaning."""

    accepts = ("float",)
    computed_in_f32 = known_in_f64 = True
    numpy: ClassVar[Any] = None

    def evaluate(self, *inputs: Any) -> Any:
        return _in_f32(type(self).numpy, *inputs)


def _exp10(x: Any) -> Any:
    return np.power(np.asarray(10, x.dtype), x)


def _rsqrt(x: Any) -> Any:
    return 1 / np.sqrt(x)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_erf = np.vectorize(math.erf, otypes=[np.float64])


class Exp(Function, name="exp", pure=True):
    """e to the x."""

    text, numpy = "exp({x})", np.exp
    x: Value = operand()


class Exp2(Function, name="exp2", pure=True):
    """2 to the x."""

    text, numpy = "exp2({x})", np.exp2
    x: Value = operand()


class Exp10(Function, name="exp10", pure=True):
    """10 to the x."""

    text, numpy = "exp10({x})", staticmethod(_exp10)
    x: Value = operand()


class Log(Function, name="log", pure=True):
    """The natural logarithm."""

    text, numpy = "log({x})", np.log
    x: Value = operand()


class Log2(Function, name="log2", pure=True):
    """The logarithm to base 2."""

    text, numpy = "log2({x})", np.log2
    x: Value = operand()


class Log10(Function, name="log10", pure=True):
    """The logarithm to base 10."""

    text, numpy = "log10({x})", np.log10
    x: Value = operand()


class Log1p(Function, name="log1p", pure=True):
    """The natural logarithm of 1 + x, exact near 0."""

    text, numpy = "log1p({x})", np.log1p
    x: Value = operand()


class Sqrt(Function, name="sqrt", pure=True):
    """The square root."""

    text, numpy = "sqrt({x})", np.sqrt
    x: Value = operand()


class Rsqrt(Function, name="rsqrt", pure=True):
    """1 / sqrt(x)."""

    text, numpy = "rsqrt({x})", staticmethod(_rsqrt)
    x: Value = operand()


class Sigmoid(Function, name="sigmoid", pure=True):
    """1 / (1 + e to the -x)."""

    text, numpy = "sigmoid({x})", staticmethod(_sigmoid)
    x: Value = operand()


class Erf(Function, name="erf", pure=True):
    """The error function."""

    text, numpy = "erf({x})", staticmethod(_erf)
    x: Value = operand()


class Sin(Function, name="sin", pure=True):
    """The sine of an angle in radians."""

    text, numpy = "sin({x})", np.sin
    x: Value = operand()


class Cos(Function, name="cos", pure=True):
    """The cosine of an angle in radians."""

    text, numpy = "cos({x})", np.cos
    x: Value = operand()


class Tan(Function, name="tan", pure=True):
    """The tangent of an angle in radians."""

    text, numpy = "tan({x})", np.tan
    x: Value = operand()


class Asin(Function, name="asin", pure=True):
    """The angle in -pi/2 ... pi/2 whose sine is x."""

    text, numpy = "asin({x})", np.arcsin
    x: Value = operand()


class Acos(Function, name="acos", pure=True):
    """The angle in 0 ... pi whose cosine is x."""

    text, numpy = "acos({x})", np.arccos
    x: Value = operand()


class Atan(Function, name="atan", pure=True):
    """The angle in -pi/2 ... pi/2 whose tangent is x."""

    text, numpy = "atan({x})", np.arctan
    x: Value = operand()


class Sinh(Function, name="sinh", pure=True):
    """The hyperbolic sine."""

    text, numpy = "sinh({x})", np.sinh
    x: Value = operand()


class Cosh(Function, name="cosh", pure=True):
    """The hyperbolic cosine."""

    text, numpy = "cosh({x})", np.cosh
    x: Value = operand()


class Tanh(Function, name="tanh", pure=True):
    """The hyperbolic tangent."""

    text, numpy = "tanh({x})", np.tanh
    x: Value = operand()


class FastTanh(Function, name="fast_tanh", pure=True):
    """The hyperbolic tangent within 2^-11 of it: one instruction of NVIDIA GPUs (PTX ISA, tanh.approx).
    For results of 16 bits; of f64 it is `tanh`.
    """

    text, numpy = "fast_tanh({x})", np.tanh
    x: Value = operand()


class Asinh(Function, name="asinh", pure=True):
    """The inverse of sinh."""

    text, numpy = "asinh({x})", np.arcsinh
    x: Value = operand()


class Acosh(Function, name="acosh", pure=True):
    """The inverse of cosh, of x >= 1."""

    text, numpy = "acosh({x})", np.arccosh
    x: Value = operand()


class Atanh(Function, name="atanh", pure=True):
    """The inverse of tanh, of -1 ... 1."""

    text, numpy = "atanh({x})", np.arctanh
    x: Value = operand()


class Floor(Function, name="floor", pure=True):
    """The greatest whole number not above x."""

    text, numpy = "floor({x})", np.floor
    x: Value = operand()


class Ceil(Function, name="ceil", pure=True):
    """The least whole number not below x."""

    text, numpy = "ceil({x})", np.ceil
    x: Value = operand()


class Round(Function, name="round", pure=True):
    """The nearest whole number, of two the even one."""

    text, numpy = "round({x})", np.rint
    x: Value = operand()


class Trunc(Function, name="trunc", pure=True):
    """x without its fraction."""

    text, numpy = "trunc({x})", np.trunc
    x: Value = operand()


class Pow(Function2, name="pow", pure=True):
    """x to the y."""

    text, numpy = "pow({x}, {y})", np.power
    x: Value = operand()
    y: Value = operand()


class Atan2(Function2, name="atan2", pure=True):
    """The angle of the point (y, x), its first operand the ordinate; in -pi ... pi."""

    text, numpy = "atan2({x}, {y})", np.arctan2
    x: Value = operand()
    y: Value = operand()


class Hypot(Function2, name="hypot", pure=True):
    """sqrt(x * x + y * y), without overflow on the way."""

    text, numpy = "hypot({x}, {y})", np.hypot
    x: Value = operand()
    y: Value = operand()


class Fmod(Function2, name="fmod", pure=True):
    """The rest of x / y truncated: it has the sign of x. Exact."""

    text, numpy = "fmod({x}, {y})", np.fmod
    x: Value = operand()
    y: Value = operand()


class Copysign(Function2, name="copysign", pure=True):
    """x with the sign of y."""

    text, numpy = "copysign({x}, {y})", np.copysign
    x: Value = operand()
    y: Value = operand()


class Nextafter(Function2, name="nextafter", pure=True):
    """The f32 next to x in the direction of y. Floats of other widths are refused."""

    text, numpy = "nextafter({x}, {y})", np.nextafter
    x: Value = operand()
    y: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        if element_dtype(self.x) != f32:
            raise TypeMismatch(
                "TLC0204",
                f"nextafter is for f32, not {element_dtype(self.x)}",
                hint="T.cast both to float32; of others step through the bits, T.reinterpret",
            )
        return super().infer()


class Ldexp(Elementwise, name="ldexp", pure=True):
    """x times 2 to the `exponent`, an i32."""

    text = "ldexp({x}, {exponent})"
    computed_in_f32 = known_in_f64 = True
    x: Value = operand()
    exponent: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        dtype, exponent = element_dtype(self.x), element_dtype(self.exponent)
        if not dtype.is_float or exponent != i32:
            raise TypeMismatch(
                "TLC0204",
                f"ldexp is not defined for {dtype} and {exponent}",
                hint="it takes a float and an integer: T.cast them",
            )
        return (elementwise_type((self.x, self.exponent), dtype),)

    def evaluate(self, *inputs: Any) -> Any:
        x, exponent = inputs
        return _in_f32(lambda wide: np.ldexp(wide, exponent), x)


class BitFunction(Unary):
    """Base: a number of the bits of an integer of 32 or 64, as an i32."""

    accepts = ("int", "uint")

    def infer(self) -> tuple[Type, ...]:
        dtype = element_dtype(self.x)
        if dtype.kind not in self.accepts or dtype.bits < 32:
            raise TypeMismatch(
                "TLC0204", f"{self.name} is not defined for {dtype}", hint="cast it to 32 bits"
            )
        return (elementwise_type((self.x,), i32),)

    def bits(self, x: Any) -> Any:
        """The operand's bits, the lowest first, along a new last axis."""
        dtype: DType = element_dtype(self.x)
        unsigned = np.asarray(x).astype(f"u{dtype.bits // 8}")
        return (unsigned[..., None] >> np.arange(dtype.bits, dtype=unsigned.dtype)) & 1


class Clz(BitFunction, name="clz", pure=True):
    """How many zeros stand above the highest one; all of them for 0."""

    text = "clz({x})"
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        bits = self.bits(inputs[0])
        zeros = np.cumsum(bits[..., ::-1], axis=-1) == 0
        return zeros.sum(axis=-1).astype(np.int32)[()]


class Popcount(BitFunction, name="popcount", pure=True):
    """How many bits are one."""

    text = "popcount({x})"
    x: Value = operand()

    def evaluate(self, *inputs: Any) -> Any:
        return self.bits(inputs[0]).sum(axis=-1).astype(np.int32)[()]


OPS: tuple[type[Op], ...] = (
    Exp2, Log2, Exp, Exp10, Log, Log10, Log1p, Sqrt, Rsqrt, Sigmoid, Erf, Sin, Cos, Tan, Asin,
    Acos, Atan, Sinh, Cosh, Tanh, FastTanh, Asinh, Acosh, Atanh, Floor, Ceil, Round, Trunc, Pow,
    Atan2, Hypot, Fmod, Copysign, Nextafter, Ldexp, Clz, Popcount,
)  # fmt: skip
