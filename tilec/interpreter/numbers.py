"""Arrays as the interpreter computes with them: conversions, bits, products of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..ir.conversion import without_padding
from ..ir.dtypes import DType

Array = NDArray[Any]
Bits = NDArray[np.bool_]

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def bits_of(x: Array) -> Array:
    """The bit patterns of x as unsigned integers of the same size: NaNs compare by their bits."""
    return np.ascontiguousarray(x).view(_UNSIGNED[x.dtype.itemsize]).reshape(x.shape)


def garbage_value(dtype: np.dtype[Any]) -> Any:
    """What uninitialised memory holds: NaN for floats, a large odd pattern for integers."""
    if dtype.kind in "iu":
        return np.frombuffer(b"\xa5" * dtype.itemsize, dtype)[0]
    return np.True_ if dtype.kind == "b" else np.float32(np.nan).astype(dtype)


def widened(x: Array) -> Array:
    """x as an array that BLAS multiplies: floats of 16 bits and fewer in f32, where their products are exact."""
    if x.dtype in (np.float32, np.float64):
        return x
    if x.dtype.kind in "iub":
        return x.astype(np.float64)
    return without_padding(x).astype(np.float32)


def as_tf32(x: Array) -> Array:
    """An f32 array as a gemm reads it where it is declared tf32: without its low 13 bits."""
    cut: Array = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), cut, x)


def product(a: Array, b: Array, accumulator: Array | None, dtype: DType) -> Array:
    """accumulator + a @ b in `dtype`, from widened a and b; without an accumulator, a @ b.

    Integers are exact while |a| @ |b| stays below 2**53, which 8- and 16-bit operands cannot reach;
    they wrap to `dtype`.
    """
    if dtype.name == "f64":
        a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        result: Array = np.matmul(a, b)
        if dtype.is_integer:
            whole = result.astype(np.int64)
            return (whole if accumulator is None else whole + accumulator).astype(dtype.numpy)
        if accumulator is not None:
            if accumulator.dtype == result.dtype:
                result += accumulator
            else:
                result = result + accumulator.astype(result.dtype)
    return result if result.dtype == dtype.numpy else result.astype(dtype.numpy)
