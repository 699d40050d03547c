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
        """Size in memory; sub-byte types have none of their own."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def numpy(self) -> np.dtype[Any]:
        """The NumPy dtype that holds values of this type."""
        return _numpy_dtype(self.name)

    def __str__(self) -> str:
        return self.name


bool_ = DType("bool", 8, "bool")
i8, i16, i32, i64 = (DType(f"i{bits}", bits, "int") for bits in (8, 16, 32, 64))
u8, u16, u32, u64 = (DType(f"u{bits}", bits, "uint") for bits in (8, 16, 32, 64))
f16, f32, f64 = (DType(f"f{bits}", bits, "float") for bits in (16, 32, 64))
bf16 = DType("bf16", 16, "float")
mbarrier = DType("mbarrier", 64, "opaque")
tensor_map = DType("tensor_map", 1024, "opaque")
descriptor = DType("wgmma_descriptor", 64, "opaque")

DTYPES: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        bool_, i8, i16, i32, i64, u8, u16, u32, u64, f16, bf16, f32, f64,
        mbarrier, tensor_map, descriptor,
    )
}  # fmt: skip

_LONG_NAMES = {
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16",
    "half": "f16", "float": "f32",
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
    if name == "bf16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    if name == "bool":
        return np.dtype(np.bool_)
    long = {short: full for full, short in _LONG_NAMES.items() if full not in ("half", "float")}
    return np.dtype(long[name])


def promote(a: DType, b: DType) -> DType:
    """The type in which an operation of the two is done: the wider of a kind, float over integer.

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
        return a if a.is_float else b
    if a.bits != b.bits:
        return a if a.bits > b.bits else b
    if a.is_float:
        raise TypeMismatch("TLC0111", f"{a} and {b} have no common type", hint="cast one of them")
    return a if a.kind == "uint" else b
