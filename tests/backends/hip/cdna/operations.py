"""What each operation of the vector unit computes, a lane: the types of its result and operands,
and a function of NumPy arrays.

Source: AMD Instinct MI300 (CDNA3) ISA, "Vector ALU Instructions". Integers wrap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.backends.hip.cdna import floats
from tests.backends.hip.cdna.decode import IsaError
from tests.backends.hip.cdna.floats import fma32, fma64

Array = NDArray[Any]


class Operation(NamedTuple):
    """`accumulates`: the old value of the result is the last operand."""

    result: str
    operands: tuple[str, ...]
    compute: Callable[..., Array]
    accumulates: bool = False


def _op(types: str, compute: Callable[..., Array], accumulates: bool = False) -> Operation:
    """`types` is "result operand operand …"."""
    result, *operands = types.split()
    return Operation(result, tuple(operands), compute, accumulates)


def _u(x: int) -> Any:
    return np.uint32(x)


def _signed_24(x: Array) -> Array:
    return x << 8 >> 8


def _high(a: Array, b: Array, wide: Any) -> Array:
    return (a.astype(wide) * b.astype(wide)) >> wide(32)


def _extract(x: Array, offset: Array, size: Array) -> Array:
    mask = (np.uint64(1) << (size & _u(31)).astype(np.uint64)) - np.uint64(1)
    return ((x >> (offset & _u(31))).astype(np.uint64) & mask).astype(np.uint32)


def _extract_signed(x: Array, offset: Array, size: Array) -> Array:
    bits = _extract(x.view(np.uint32), offset, size).view(np.int32)
    unused = np.where(size & _u(31) == 0, _u(0), _u(32) - (size & _u(31))).astype(np.int32)
    return np.where(size & _u(31) == 0, np.int32(0), bits << unused >> unused)


def _align(high: Array, low: Array, shift: Array) -> Array:
    wide = high.astype(np.uint64) << np.uint64(32) | low
    return (wide >> (shift & _u(31)).astype(np.uint64)).astype(np.uint32)


def _permute(high: Array, low: Array, selector: Array) -> Array:
    """Each byte of the selector names a byte of the pair, 12 is zero."""
    wide = high.astype(np.uint64) << np.uint64(32) | low
    result = np.zeros(np.broadcast_shapes(wide.shape, selector.shape), np.uint32)
    for byte in range(4):
        chosen = selector >> _u(8 * byte) & _u(255)
        if np.any((chosen > 7) & (chosen != 12)):
            raise IsaError(f"v_perm_b32 with selector {selector}")
        found = wide >> (chosen & _u(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
        found = np.where(chosen == 12, np.uint64(0), found)
        result |= found.astype(np.uint32) << _u(8 * byte)
    return result


def _reverse_bits(x: Array) -> Array:
    octets = np.ascontiguousarray(x, np.uint32).view(np.uint8).reshape(-1, 4)
    reversed_bits = np.packbits(np.unpackbits(octets, bitorder="little", axis=1), axis=1)
    return np.ascontiguousarray(reversed_bits[:, ::-1]).view(np.uint32)[:, 0]


def _leading_zeros(x: Array) -> Array:
    """Of 32 bits; -1 where there is no one."""
    return np.where(x == 0, -1, 31 - np.log2(x.astype(np.float64) + (x == 0)).astype(np.int64))


def _dot(a: Array, b: Array, c: Array, octet: Any, wide: Any) -> Array:
    """c plus the products of four bytes."""
    a, b = np.broadcast_arrays(a, b)
    x, y = (np.ascontiguousarray(v).view(octet).reshape(-1, 4).astype(wide) for v in (a, b))
    return (x * y).sum(axis=1, dtype=wide) + c


def _packed(dtype: Any) -> Callable[..., Array]:
    """Two f32, rounded, in the halves of 32 bits."""

    def compute(a: Array, b: Array) -> Array:
        low, high = (x.astype(dtype).view(np.uint16).astype(np.uint32) for x in (a, b))
        return low | high << _u(16)

    return compute


def _median(a: Array, b: Array, c: Array) -> Array:
    return np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))


def _ldexp(x: Array, n: Array) -> Array:
    return np.ldexp(x.astype(np.float64), np.clip(n, -400, 400)).astype(np.float32)


def _float_and_integer(kind: str, numpy: Any) -> dict[str, Operation]:
    """Conversions that NumPy rounds as the hardware does."""
    return {
        f"v_cvt_{kind}_{source}": _op(f"{kind} {source}", lambda a: a.astype(numpy))
        for source in ("i32", "u32", "f16", "f32", "f64", "u16", "i16")
        if source != kind
    }


_F16 = {
    f"v_{name}_f16": _op("f16 f16 f16", function)
    for name, function in {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "max": np.fmax, "min": np.fmin,
    }.items()
}  # fmt: skip

OPERATIONS: dict[str, Operation] = {
    # Moves and bits
    "v_mov_b32": _op("u32 u32", lambda a: a),
    "v_mov_b64": _op("u64 u64", lambda a: a),
    "v_accvgpr_read_b32": _op("u32 u32", lambda a: a),
    "v_accvgpr_write_b32": _op("u32 u32", lambda a: a),
    "v_accvgpr_mov_b32": _op("u32 u32", lambda a: a),
    "v_not_b32": _op("u32 u32", np.invert),
    "v_bfrev_b32": _op("u32 u32", _reverse_bits),
    "v_ffbh_u32": _op("i32 u32", _leading_zeros),
    "v_bcnt_u32_b32": _op("u32 u32 u32", lambda a, b: np.bitwise_count(a) + b),
    "v_and_b32": _op("u32 u32 u32", np.bitwise_and),
    "v_or_b32": _op("u32 u32 u32", np.bitwise_or),
    "v_xor_b32": _op("u32 u32 u32", np.bitwise_xor),
    "v_xnor_b32": _op("u32 u32 u32", lambda a, b: ~(a ^ b)),
    "v_or3_b32": _op("u32 u32 u32 u32", lambda a, b, c: a | b | c),
    "v_and_or_b32": _op("u32 u32 u32 u32", lambda a, b, c: a & b | c),
    "v_xad_u32": _op("u32 u32 u32 u32", lambda a, b, c: (a ^ b) + c),
    "v_bfi_b32": _op("u32 u32 u32 u32", lambda a, b, c: a & b | ~a & c),
    "v_bfe_u32": _op("u32 u32 u32 u32", _extract),
    "v_bfe_i32": _op("i32 i32 u32 u32", _extract_signed),
    "v_alignbit_b32": _op("u32 u32 u32 u32", _align),
    "v_alignbyte_b32": _op("u32 u32 u32 u32", lambda a, b, c: _align(a, b, (c & _u(3)) * _u(8))),
    "v_perm_b32": _op("u32 u32 u32 u32", _permute),
    "v_pack_b32_f16": _op("u32 u16 u16", lambda a, b: a.astype(np.uint32) | b.astype(np.uint32) << _u(16)),
    # Shifts: the amount comes first
    "v_lshlrev_b32": _op("u32 u32 u32", lambda a, b: b << (a & _u(31))),
    "v_lshrrev_b32": _op("u32 u32 u32", lambda a, b: b >> (a & _u(31))),
    "v_ashrrev_i32": _op("i32 i32 i32", lambda a, b: b >> (a & 31)),
    "v_lshlrev_b16": _op("u16 u16 u16", lambda a, b: b << (a & np.uint16(15))),
    "v_lshrrev_b16": _op("u16 u16 u16", lambda a, b: b >> (a & np.uint16(15))),
    "v_ashrrev_i16": _op("i16 i16 i16", lambda a, b: b >> (a & np.int16(15))),
    "v_lshlrev_b64": _op("u64 u32 u64", lambda a, b: b << (a & _u(63)).astype(np.uint64)),
    "v_lshrrev_b64": _op("u64 u32 u64", lambda a, b: b >> (a & _u(63)).astype(np.uint64)),
    "v_ashrrev_i64": _op("i64 u32 i64", lambda a, b: b >> (a & _u(63)).astype(np.int64)),
    "v_lshl_or_b32": _op("u32 u32 u32 u32", lambda a, b, c: a << (b & _u(31)) | c),
    "v_lshl_add_u32": _op("u32 u32 u32 u32", lambda a, b, c: (a << (b & _u(31))) + c),
    "v_add_lshl_u32": _op("u32 u32 u32 u32", lambda a, b, c: (a + b) << (c & _u(31))),
    "v_lshl_add_u64": _op("u64 u64 u32 u64", lambda a, b, c: (a << b.astype(np.uint64)) + c),
    # Integers
    "v_add_u32": _op("u32 u32 u32", np.add),
    "v_sub_u32": _op("u32 u32 u32", np.subtract),
    "v_subrev_u32": _op("u32 u32 u32", lambda a, b: b - a),
    "v_add3_u32": _op("u32 u32 u32 u32", lambda a, b, c: a + b + c),
    "v_add_u16": _op("u16 u16 u16", np.add),
    "v_sub_u16": _op("u16 u16 u16", np.subtract),
    "v_subrev_u16": _op("u16 u16 u16", lambda a, b: b - a),
    "v_mul_lo_u16": _op("u16 u16 u16", np.multiply),
    "v_mad_legacy_u16": _op("u16 u16 u16 u16", lambda a, b, c: a * b + c),
    "v_mul_lo_u32": _op("u32 u32 u32", np.multiply),
    "v_mul_hi_u32": _op("u32 u32 u32", lambda a, b: _high(a, b, np.uint64)),
    "v_mul_hi_i32": _op("i32 i32 i32", lambda a, b: _high(a, b, np.int64)),
    "v_mul_u32_u24": _op("u32 u32 u32", lambda a, b: (a & _u(0xFFFFFF)) * (b & _u(0xFFFFFF))),
    "v_mul_i32_i24": _op("i32 i32 i32", lambda a, b: _signed_24(a) * _signed_24(b)),
    "v_mad_u32_u24": _op("u32 u32 u32 u32", lambda a, b, c: (a & _u(0xFFFFFF)) * (b & _u(0xFFFFFF)) + c),
    "v_mad_i32_i24": _op("i32 i32 i32 i32", lambda a, b, c: _signed_24(a) * _signed_24(b) + c),
    "v_min_i32": _op("i32 i32 i32", np.minimum),
    "v_max_i32": _op("i32 i32 i32", np.maximum),
    "v_min_u32": _op("u32 u32 u32", np.minimum),
    "v_max_u32": _op("u32 u32 u32", np.maximum),
    "v_min_i16": _op("i16 i16 i16", np.minimum),
    "v_max_i16": _op("i16 i16 i16", np.maximum),
    "v_min_u16": _op("u16 u16 u16", np.minimum),
    "v_max_u16": _op("u16 u16 u16", np.maximum),
    "v_min3_i32": _op("i32 i32 i32 i32", lambda a, b, c: np.minimum(np.minimum(a, b), c)),
    "v_max3_i32": _op("i32 i32 i32 i32", lambda a, b, c: np.maximum(np.maximum(a, b), c)),
    "v_med3_i32": _op("i32 i32 i32 i32", _median),
    "v_med3_u32": _op("u32 u32 u32 u32", _median),
    "v_dot4_u32_u8": _op("u32 u32 u32 u32", lambda a, b, c: _dot(a, b, c, np.uint8, np.uint32)),
    "v_dot4_i32_i8": _op("i32 i32 i32 i32", lambda a, b, c: _dot(a, b, c, np.int8, np.int32)),
    "v_dot4c_i32_i8": _op("i32 i32 i32 i32", lambda a, b, c: _dot(a, b, c, np.int8, np.int32), True),
    # f32
    "v_add_f32": _op("f32 f32 f32", np.add),
    "v_sub_f32": _op("f32 f32 f32", np.subtract),
    "v_subrev_f32": _op("f32 f32 f32", lambda a, b: b - a),
    "v_mul_f32": _op("f32 f32 f32", np.multiply),
    "v_max_f32": _op("f32 f32 f32", np.fmax),
    "v_min_f32": _op("f32 f32 f32", np.fmin),
    "v_max3_f32": _op("f32 f32 f32 f32", lambda a, b, c: np.fmax(np.fmax(a, b), c)),
    "v_min3_f32": _op("f32 f32 f32 f32", lambda a, b, c: np.fmin(np.fmin(a, b), c)),
    "v_fma_f32": _op("f32 f32 f32 f32", fma32),
    "v_fmac_f32": _op("f32 f32 f32 f32", fma32, True),
    "v_fmaak_f32": _op("f32 f32 f32 f32", fma32),
    "v_fmamk_f32": _op("f32 f32 f32 f32", fma32),
    "v_div_fixup_f32": _op("f32 f32 f32 f32", floats.div_fixup),
    "v_exp_f32": _op("f32 f32", floats.exp2),
    "v_log_f32": _op("f32 f32", floats.log2),
    "v_rcp_f32": _op("f32 f32", floats.reciprocal),
    "v_rcp_iflag_f32": _op("f32 f32", floats.reciprocal),
    "v_rsq_f32": _op("f32 f32", floats.inverse_root),
    "v_sqrt_f32": _op("f32 f32", floats.approximated(np.sqrt)),
    "v_sin_f32": _op("f32 f32", floats.sine),
    "v_cos_f32": _op("f32 f32", floats.cosine),
    "v_rndne_f32": _op("f32 f32", np.rint),
    "v_floor_f32": _op("f32 f32", np.floor),
    "v_ceil_f32": _op("f32 f32", np.ceil),
    "v_trunc_f32": _op("f32 f32", np.trunc),
    "v_fract_f32": _op("f32 f32", lambda a: a - np.floor(a)),
    "v_ldexp_f32": _op("f32 f32 i32", _ldexp),
    "v_cvt_i32_f32": _op("i32 f32", floats.to_integer("i32")),
    "v_cvt_u32_f32": _op("u32 f32", floats.to_integer("u32")),
    "v_cvt_i32_f64": _op("i32 f64", floats.to_integer("i32")),
    "v_cvt_u32_f64": _op("u32 f64", floats.to_integer("u32")),
    **{
        f"v_cvt_f32_ubyte{i}": _op(
            "f32 u32", lambda a, i=i: (a >> _u(8 * i) & _u(255)).astype(np.float32)
        )
        for i in range(4)
    },
    **_float_and_integer("f16", np.float16),
    **_float_and_integer("f32", np.float32),
    **_float_and_integer("f64", np.float64),
    **_F16,
    "v_cvt_pk_f16_f32": _op("u32 f32 f32", _packed(np.float16)),
    "v_cvt_pk_bf16_f32": _op("u32 f32 f32", _packed(ml_dtypes.bfloat16)),
    # f64
    "v_add_f64": _op("f64 f64 f64", np.add),
    "v_mul_f64": _op("f64 f64 f64", np.multiply),
    "v_max_f64": _op("f64 f64 f64", np.fmax),
    "v_min_f64": _op("f64 f64 f64", np.fmin),
    "v_fma_f64": _op("f64 f64 f64 f64", fma64),
    "v_fmac_f64": _op("f64 f64 f64 f64", fma64, True),
}  # fmt: skip
"""Mnemonic without its ending -> what it computes."""

RELATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal, "ne": np.not_equal, "lg": lambda a, b: (a < b) | (a > b), "lt": np.less,
    "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)), "u": lambda a, b: np.isnan(a) | np.isnan(b),
    "nlt": lambda a, b: ~(a < b), "nle": lambda a, b: ~(a <= b), "ngt": lambda a, b: ~(a > b),
    "nge": lambda a, b: ~(a >= b), "neq": lambda a, b: ~(a == b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
}  # fmt: skip
"""v_cmp_<relation>_<type>."""
