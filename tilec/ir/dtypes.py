"""Element types: names, sizes, NumPy counterparts, and what a user may write for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from ..errors import TypeMismatch


@dataclass(frozen=True)
class DType:
    """An element type. `kind` is "float", "int", "uint", "bool" or "opaque" (machine objects such
    as mbarrier).
    """

    name: str
    bits: int
    kind: str

    @property
    def bytes(self) -> int:
        """Size in memory; a 4-bit element has none of its own."""
        assert self.bits % 8 == 0, f"{self.name} is not packed yet"
        return self.bits // 8

    @property
    def code_bits(self) -> int:
        """Bits that tell the value of an element, the lowest ones: fewer than `bits` where it has
        more room than it needs. The others are ignored, and zero in what a conversion makes.
        """
        return _CODE_BITS.get(self.name, self.bits)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def computes(self) -> bool:
        """Whether arithmetic on it is done in it; else `arithmetic_dtype` says in what."""
        return self.kind != "opaque" and self.name not in _COMPUTED_IN

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that holds values of this type: one each, 4-bit elements too."""
        return _numpy_dtype(self.name)

    @property
    def has_infinity(self) -> bool:
        """Whether a float dtype has an infinity."""
        return self.is_float and self.name not in _FINITE

    @property
    def has_nan(self) -> bool:
        """Whether a float dtype has a NaN: all but those of 6 and 4 bits."""
        return self.is_float and self.name not in _NUMBERS

    def __str__(self) -> str:
        return self.name


_NUMBERS = ("e2m3", "e3m2", "e2m1", "e2m1b")
_FINITE = ("e4m3", "e4m3fnuz", "e5m2fnuz", *_NUMBERS)
bool_ = DType("bool", 8, "bool")
i8, i16, i32, i64 = (DType(f"i{bits}", bits, "int") for bits in (8, 16, 32, 64))
u8, u16, u32, u64 = (DType(f"u{bits}", bits, "uint") for bits in (8, 16, 32, 64))
f16, f32, f64 = (DType(f"f{bits}", bits, "float") for bits in (16, 32, 64))
bf16 = DType("bf16", 16, "float")
# 8-bit floats (OCP OFP8, revision 1.0): values to move, to convert and to multiply as matrices.
e4m3 = DType("e4m3", 8, "float")
e5m2 = DType("e5m2", 8, "float")
# Those of gfx942: one more in the exponent's bias, no infinity, no negative zero, whose bits are the
# only NaN (Noune et al., "8-bit Numerical Formats for Deep Neural Networks", 2022, section 3).
e4m3fnuz = DType("e4m3fnuz", 8, "float")
e5m2fnuz = DType("e5m2fnuz", 8, "float")
# 6-bit floats (OCP Microscaling Formats Specification 1.0, section 5.3.2), each in the low bits of a byte,
# as ml_dtypes has them: memory, layouts and registers see elements of 8 bits.
e2m3, e3m2 = DType("e2m3", 8, "float"), DType("e3m2", 8, "float")
tf32 = DType("tf32", 32, "float")  # an f32 whose low 13 bits a gemm does not read
# 4-bit elements: integers, and the float of OCP's MXFP4 (OCP Microscaling Formats Specification 1.0,
# section 5.3.3). In global and shared memory two lie in a byte, the first in its low half, so that
# a row has an even number; pack_elements makes that visible, as memory of pairs.
i4, u4, e2m1 = DType("i4", 4, "int"), DType("u4", 4, "uint"), DType("e2m1", 4, "float")
i4x2, u4x2, e2m1x2 = (DType(name, 8, "uint") for name in ("i4x2", "u4x2", "e2m1x2"))
e2m1b = DType("e2m1b", 8, "float")  # an e2m1 in a byte of its own, in the low half
PAIRS = {i4: i4x2, u4: u4x2, e2m1: e2m1x2}
"""What holds two 4-bit elements in memory."""
UNSIGNED = {dtype.bits: dtype for dtype in (u4, u8, u16, u32, u64)}
"""What holds so many bits as a number."""
HELD = {i4: i8, u4: u8, e2m1: e2m1b}
"""What holds one in a register."""
ELEMENTS = {pair: element for element, pair in PAIRS.items()}
"""What a pair consists of."""
HOLDERS: dict[DType, tuple[DType, ...]] = {
    bf16: (i16, u16), tf32: (f32,),
    **dict.fromkeys((e4m3, e5m2, e4m3fnuz, e5m2fnuz, e2m3, e3m2, *ELEMENTS, i4, u4), (i8, u8)),
    e2m1: (i8, u8, e2m1x2),
}  # fmt: skip
"""What keeps their bits in the arrays of libraries that lack them."""
MIXED = ({e4m3, e5m2, e2m3, e3m2}, {e4m3fnuz, e5m2fnuz}, {i8, u8})
"""What a gemm multiplies with each other."""
mbarrier = DType("mbarrier", 64, "opaque")
tensor_map = DType("tensor_map", 1024, "opaque")
descriptor = DType("wgmma_descriptor", 64, "opaque")

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64,
        e4m3, e5m2, e4m3fnuz, e5m2fnuz, e2m3, e3m2, tf32, *PAIRS, *PAIRS.values(), e2m1b,
        mbarrier, tensor_map, descriptor,
    )
}  # fmt: skip

_LONG_NAMES = {
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2", "tfloat32": "tf32",
    "float8_e4m3fnuz": "e4m3fnuz", "float8_e5m2fnuz": "e5m2fnuz",
    "float6_e2m3fn": "e2m3", "float6_e3m2fn": "e3m2",
    "int4": "i4", "uint4": "u4", "float4_e2m1fn": "e2m1",
    "half": "f16", "float": "f32",
}  # fmt: skip
_USERS_NAMES = {short: full for full, short in _LONG_NAMES.items() if full not in ("half", "float")}

_CODE_BITS = {"e2m3": 6, "e3m2": 6, "e2m1b": 4}
_IN_NUMPY = {
    "tf32": "float32", "i4": "int8", "u4": "uint8", **{pair.name: "uint8" for pair in ELEMENTS},
}  # fmt: skip
_FROM_ML_DTYPES = {
    "bf16": "bfloat16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2",
    "e4m3fnuz": "float8_e4m3fnuz", "e5m2fnuz": "float8_e5m2fnuz", "e2m1": "float4_e2m1fn",
    "e2m1b": "float4_e2m1fn",
    "e2m3": "float6_e2m3fn", "e3m2": "float6_e3m2fn",
}  # fmt: skip
_COMPUTED_IN = {
    "e4m3": f32, "e5m2": f32, "e4m3fnuz": f32, "e5m2fnuz": f32, "tf32": f32, "i4": i32, "u4": i32,
    "e2m3": f32, "e3m2": f32, "e2m1": f32, "e2m1b": f32,
}  # fmt: skip


def find_dtype(spec: object) -> DType:
    """The DType that a user meant: a DType, a name (short, NumPy's or torch's), a NumPy or torch
    dtype.
    """
    if isinstance(spec, DType):
        return spec
    name = spec if isinstance(spec, str) else ""
    if not name:
        if isinstance(spec, np.dtype) or (isinstance(spec, type) and issubclass(spec, np.generic)):
            name = np.dtype(spec).name
        else:
            name = str(spec).removeprefix("torch.")
    name = _LONG_NAMES.get(name, name)
    if name in DTYPES:
        return DTYPES[name]
    raise TypeMismatch(
        "TLC0110", f"{spec!r} is not an element type", hint="e.g. 'float16', 'int8', 'float32'"
    )


@cache
def _numpy_dtype(name: str) -> np.dtype[Any]:
    if name in _IN_NUMPY:
        return np.dtype(_IN_NUMPY[name])
    if name in _FROM_ML_DTYPES:
        import ml_dtypes

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _FROM_ML_DTYPES[name]))
        return found
    return np.dtype(long_name(name))


def long_name(name: str) -> str:
    """The name that users know a dtype by, from its short one: "float16" for "f16"."""
    return _USERS_NAMES.get(name, name)


def arithmetic_dtype(dtype: DType) -> DType:
    """The type in which arithmetic on `dtype` is done: itself, but f32 for floats of 8 bits and
    fewer and tf32, i32 for 4-bit integers.
    """
    return _COMPUTED_IN.get(dtype.name, dtype)


def promote(a: DType, b: DType) -> DType:
    """The type in which an operation of the two is done: the wider of a kind, float over integer.
    Where they differ, never one that has no arithmetic. Integers of less than 32 bits, one of them
    signed, meet in one that holds both; of wider ones an unsigned one of no fewer bits wins, as in C.

    Raises TypeMismatch for pairs with no common type that holds both (f16 with bf16).
    """
    if a == b:
        return a
    if a.kind == "opaque" or b.kind == "opaque":
        raise TypeMismatch("TLC0111", f"{a} and {b} have no common type")
    if a.kind == "bool":
        return b
    if b.kind == "bool":
        return a
    if a.is_float != b.is_float:
        return arithmetic_dtype(a if a.is_float else b)
    if {a.kind, b.kind} == {"int", "uint"} and max(a.bits, b.bits) < 32:
        unsigned, signed = (a, b) if a.kind == "uint" else (b, a)
        if unsigned.bits >= signed.bits:
            return i32
    if a.bits != b.bits:
        return arithmetic_dtype(a if a.bits > b.bits else b)
    if a.is_integer and a.computes:
        return a if a.kind == "uint" else b
    wide = arithmetic_dtype(a)
    if wide != arithmetic_dtype(b):
        raise TypeMismatch("TLC0111", f"{a} and {b} have no common type", hint="cast one of them")
    return wide
