"""Element types as users write them: `T.float16` names one, `T.float16(x)` converts to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import TypeMismatch
from ..ir.dtypes import DTYPES, ELEMENTS, HELD, PAIRS, DType, e2m1, find_dtype, long_name


@dataclass(frozen=True, eq=False)
class StoredType(DType):
    """An element type from outside of tilec: memory holds it in the bits of `storage`.

    `decode` makes the value of an element from its bits, `encode` the bits from a value; both take
    and give scalars of the kernel, and are traced where an element is read or written. IR knows
    only the storage.
    """

    storage: DType
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Any]


def storage_of(dtype: DType) -> DType:
    """What memory of a dtype holds."""
    return dtype.storage if isinstance(dtype, StoredType) else dtype


class ElementType:
    """An element type. Equal to its name in any spelling; called, it converts a value.

    Of int4, uint4 and float4_e2m1fn two elements share a byte, the first in its low half: arrays of
    them arrive as bytes, half as many in a row (`tilec.quantize.pack` makes them). float4_e2m1fn is
    0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; what is larger becomes 6, NaN 0.

    An element of float6_e2m3fn (up to 7.5, in steps of 0.125 and more) or float6_e3m2fn (up to 28, 0.0625)
    lies in the low bits of a byte: arrays are of ml_dtypes, or bytes. The upper two bits are ignored where
    a value is converted or multiplied, and zero in what a conversion makes; what only moves keeps them.
    What is larger becomes the largest, NaN 0.
    """

    __slots__ = ("ir",)

    def __init__(self, ir: DType) -> None:
        self.ir = ir

    @property
    def bits(self) -> int:
        """Bits that an element takes in memory: 8 where it is one of 6."""
        return self.ir.bits

    @property
    def itemsize(self) -> int:
        """Bytes of an element; of a 4-bit one where it stands alone."""
        return max(1, self.ir.bits // 8)

    def __call__(self, value: Any) -> Any:
        """`value`, a scalar of the kernel or a number, converted to this type; to a StoredType:
        rounded as one that is stored and read again."""
        from .arithmetic import cast

        if isinstance(self.ir, StoredType):
            return self.ir.decode(self.ir.encode(value))
        return cast(value, self)

    def __str__(self) -> str:
        return long_name(self.ir.name)

    def __repr__(self) -> str:
        return f"T.{self}"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, DType):
            return self.ir == other
        return self.ir == spelled_dtype(other) or other in (str(self), self.ir.name)

    def __hash__(self) -> int:
        return hash(self.ir)


def element_type(spec: object) -> DType:
    """The dtype meant by a string, an ElementType, a NumPy or torch dtype. Raises TypeMismatch."""
    if isinstance(spec, ElementType):
        return spec.ir
    dtype = find_dtype(spec)
    if isinstance(spec, str) and (dtype in ELEMENTS or dtype == HELD[e2m1]):
        raise TypeMismatch(
            "TLC0110", f"{spec!r} is not an element type",
            hint="4-bit elements are int4, uint4 and float4_e2m1fn; the compiler packs them",
        )  # fmt: skip
    return dtype


def spelled_dtype(x: object) -> DType | None:
    """The dtype that x spells. None for what is no dtype, and for Python's own types: they annotate
    what is known when the kernel is compiled.
    """
    if isinstance(x, type):
        abstract = bool(x.__subclasses__())  # numpy.floating
        if abstract or not issubclass(x, np.generic):
            return None
    try:
        return element_type(x)
    except TypeMismatch:
        return None


def row_dtype(spec: object, shape: Sequence[object]) -> DType:
    """The dtype of memory of a shape. Raises TypeMismatch where a row would end within a byte."""
    dtype = element_type(spec)
    last = shape[-1] if shape else 0
    if dtype in PAIRS and (not shape or isinstance(last, int) and last % 2):
        raise TypeMismatch(
            "TLC0151", f"a row of {last} elements of {ElementType(dtype)}",
            hint="two elements share a byte: make the last extent even",
        )  # fmt: skip
    return dtype


(
    int8, int16, int32, int64, uint8, uint16, uint32, uint64, float16, float32, float64, bfloat16,
    float8_e4m3fn, float8_e5m2, float8_e4m3fnuz, float8_e5m2fnuz, float6_e2m3fn, float6_e3m2fn,
    float4_e2m1fn, tfloat32, int4, uint4,
) = (
    ElementType(DTYPES[name])
    for name in (
        "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "f32", "f64", "bf16",
        "e4m3", "e5m2", "e4m3fnuz", "e5m2fnuz", "e2m3", "e3m2", "e2m1", "tf32", "i4", "u4",
    )
)  # fmt: skip
bool_ = ElementType(DTYPES["bool"])
