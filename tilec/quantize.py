"""Elements of a few bits, packed several to a byte, low bits first: in kernels and in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import LanguageError
from .language.arithmetic import cast
from .language.dtypes import ElementType, element_type
from .language.operand import Operand
from .language.trace import current, refuse

__all__ = ["pack", "packed_to_unsigned_convert", "unpack"]

_BITS = (1, 2, 4, 8)
_OF_ML_DTYPES = ("float4_e2m1fn", "int4", "uint4")  # one in a byte


def packed_to_unsigned_convert(
    storage_type: str = "uint", storage_nbit: int = 8
) -> Callable[..., Any]:
    """The function that unpacks an unsigned value from an element of a kernel.

    Args:
        storage_type: "int" or "uint", and
        storage_nbit: the width in bits: the dtype that the packed values are stored in.

    Returns:
        `convert(nbit, value, position, dtype)`: bits [position * nbit, (position + 1) * nbit) of
        `value`, as a number of `dtype`.

    Raises:
        LanguageError: there is no such storage; in the call, `value` has another dtype.
    """
    if storage_type not in ("int", "uint") or storage_nbit not in (8, 16, 32):
        raise refuse("TLC0132", f"nothing is packed in {storage_type!r} of {storage_nbit!r} bits")
    storage = element_type(f"{storage_type}{storage_nbit}")
    bits = ElementType(element_type(f"uint{storage_nbit}"))

    def convert(nbit: int, value: Any, position: Any, dtype: object = "float16") -> Any:
        trace = current("packed_to_unsigned_convert")
        with trace.here():
            if not isinstance(value, Operand) or value.dtype.ir != storage:
                found = value.dtype if isinstance(value, Operand) else type(value).__name__
                raise LanguageError("TLC0132", f"a {found} where {storage} holds packed values")
            if not 0 < nbit <= storage_nbit or storage_nbit % nbit:
                raise LanguageError("TLC0132", f"values of {nbit} bits in {storage_nbit}")
            # Unsigned, so that the shift brings in zeros whatever the sign bit held.
            shifted = cast(value, bits) >> (position * nbit)
            return cast(shifted & ((1 << nbit) - 1), dtype)

    return convert


def pack(values: NDArray[Any], nbit: int = 4) -> NDArray[np.int8]:
    """Packs integers along the last axis: element i into bits [i * nbit, …) of its byte.

    Args:
        values: integers [..., K], unsigned (0 ... 2^nbit - 1) or signed (-2^(nbit-1) ...); or 4-bit
            elements of ml_dtypes (float4_e2m1fn, int4, uint4). K is a multiple of 8 / nbit.
        nbit: 1, 2, 4 or 8.

    Returns:
        int8 [..., K * nbit / 8].

    Raises:
        ValueError: a value does not fit, or K is no such multiple.
    """
    per_byte = _per_byte(nbit)
    if nbit == 4 and values.dtype.name in _OF_ML_DTYPES:
        values = values.view(np.uint8) & np.uint8(15)
    if values.dtype.kind not in "iu":
        raise ValueError(f"pack takes integers, not {values.dtype}")
    if values.size and (values.min() < -(1 << (nbit - 1)) or values.max() >= 1 << nbit):
        raise ValueError(f"a value between {values.min()} and {values.max()} in {nbit} bits")
    if values.shape[-1] % per_byte:
        raise ValueError(f"{values.shape[-1]} values of {nbit} bits fill no whole bytes")
    low = (values.astype(np.int64) & ((1 << nbit) - 1)).astype(np.uint8)
    groups = low.reshape(*values.shape[:-1], values.shape[-1] // per_byte, per_byte)
    packed = np.zeros(groups.shape[:-1], np.uint8)
    for i in range(per_byte):
        packed |= groups[..., i] << np.uint8(i * nbit)
    return packed.view(np.int8)


def unpack(packed: NDArray[Any], nbit: int = 4, signed: bool = False) -> NDArray[Any]:
    """The inverse of `pack`: int8 or uint8 [..., B] to integers [..., B * 8 / nbit].

    Returns uint8, or int8 with `signed`. Of 4-bit floats the uint8 are their bits:
    `unpack(x).view(ml_dtypes.float4_e2m1fn)`.

    Raises:
        ValueError: `packed` has no bytes, or `nbit` is not 1, 2, 4 or 8.
    """
    per_byte = _per_byte(nbit)
    if packed.dtype not in (np.int8, np.uint8):
        raise ValueError(f"unpack takes bytes, not {packed.dtype}")
    raw = np.ascontiguousarray(packed).view(np.uint8)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(nbit)
    parts = (raw[..., None] >> shifts) & np.uint8((1 << nbit) - 1)
    values = parts.reshape(*packed.shape[:-1], packed.shape[-1] * per_byte)
    if not signed:
        return values
    wide = values.astype(np.int16)
    return np.where(wide >= 1 << (nbit - 1), wide - (1 << nbit), wide).astype(np.int8)


def _per_byte(nbit: int) -> int:
    if nbit not in _BITS:
        raise ValueError(f"values of {nbit} bits: 1, 2, 4 or 8")
    return 8 // nbit
