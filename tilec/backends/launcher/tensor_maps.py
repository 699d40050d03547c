"""TMA descriptors (CUtensorMap): what libcuda is told, to encode one.

PTX ISA 9.x, "Tensor-map"; CUDA driver API, cuTensorMapEncodeTiled. A descriptor is 128 opaque
bytes, at a host address that is a multiple of 64 for encoding, and is passed to the kernel by
value."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from .arrays import Strided
from .unfit import Unfit

MAP_BYTES = 128
_ALIGNMENT = 128
_ELEMENTS = {"i32": 3, "i64": 5, "f16": 6, "f32": 7, "tf32": 7, "f64": 8, "bf16": 9}
_UNSIGNED = {1: 0, 2: 1, 4: 2, 8: 4}  # by bytes: these, and what else is so wide
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_L2_PROMOTIONS = {0: 0, 64: 1, 128: 2, 256: 3}
_MAX_RANK = 5
_SECTOR = 32
"""Bytes that the L2 cache moves at least."""


class TensorMap:
    """128 bytes of host memory at a multiple of 128. `address` is where they are."""

    __slots__ = ("_memory", "address")

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(MAP_BYTES + _ALIGNMENT)
        start = ctypes.addressof(self._memory)
        self.address = -(-start // _ALIGNMENT) * _ALIGNMENT

    def to_bytes(self) -> bytes:
        """The descriptor."""
        return ctypes.string_at(self.address, MAP_BYTES)


def encoding(made: TensorMap, spec: Any, dtype: str, array: Strided, pointer: int) -> list[Any]:
    """The arguments of cuTensorMapEncodeTiled for a descriptor of a whole array like `array`, of
    elements of a short dtype, that starts at `pointer`. Raises Unfit where TMA cannot address it."""
    element = _ELEMENTS.get(dtype, _UNSIGNED.get(array.itemsize))
    if element is None:
        raise _unfit(spec, f"TMA has no element type {dtype}")
    dims, strides = geometry(spec, array.shape, array.strides, array.itemsize, pointer)
    rank = len(dims)
    return [
        ctypes.c_void_p(made.address),
        ctypes.c_int(element),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * rank)(*dims),
        (ctypes.c_uint64 * max(1, rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*reversed(clipped_box(spec, array.shape))),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        ctypes.c_int(0),
        ctypes.c_int(_SWIZZLES[spec.swizzle]),
        ctypes.c_int(_L2_PROMOTIONS[_promotion(spec, pointer, strides)]),
        ctypes.c_int(0),
    ]


def clipped_box(spec: Any, shape: Sequence[int]) -> list[int]:
    """The box over an array of `shape`: along the dimensions in `clipped` no longer than the array, but
    an element at least. Kernels expect the bytes of exactly that box."""
    return [min(n, max(1, shape[d])) if d in spec.clipped else n for d, n in enumerate(spec.box)]


def refused(status: int, spec: Any, array: Strided) -> Unfit:
    """What cuTensorMapEncodeTiled did not take."""
    return _unfit(
        spec, f"cuTensorMapEncodeTiled gave {status} for shape {array.shape}, "
        f"strides {array.strides}, box {tuple(clipped_box(spec, array.shape))}, swizzle {spec.swizzle}"
    )  # fmt: skip


def geometry(
    spec: Any, shape: Sequence[int], steps: Sequence[int], size: int, pointer: int
) -> tuple[list[int], list[int]]:
    """Extents, innermost first, and the strides in bytes of all but the innermost, for an array of a
    shape and strides whose elements have `size` bytes. An array without elements gets a single one
    for each empty extent: nothing is ever read through its map, but that must be valid. Raises Unfit."""
    rank = len(shape)
    if not 1 <= rank <= _MAX_RANK or rank != len(spec.box):
        raise _unfit(
            spec, f"an array of {rank} dimensions, a box of {len(spec.box)} (1 to {_MAX_RANK})"
        )
    if pointer % 16:
        raise _unfit(spec, f"it starts at {pointer:#x}, expected a multiple of 16 bytes")
    if shape[-1] > 1 and steps[-1] != size:
        raise _unfit(spec, f"its last stride is {steps[-1]} bytes, expected {size}")
    row = spec.box[-1] * size
    if row % 16 or (spec.swizzle and row > spec.swizzle):
        limit = f", at most {spec.swizzle}" if spec.swizzle else ""
        raise _unfit(spec, f"rows of {row} bytes in the box, expected a multiple of 16{limit}")
    dims = [max(1, extent) for extent in reversed(shape)]
    strides: list[int] = []
    span = -(-dims[0] * size // 16) * 16
    outer = zip(reversed(shape[:-1]), reversed(steps[:-1]), strict=True)
    for extent, stride in outer:
        # The stride of a single row says nothing: any valid one does.
        used = stride if extent > 1 else span
        if used % 16 or not 0 <= used < 1 << 40:
            raise _unfit(spec, f"a stride of {used} bytes, expected a multiple of 16 below 2^40")
        strides.append(used)
        span = max(span, used * max(1, extent))
    if max(dims) > 1 << 32:
        raise _unfit(spec, f"shape {tuple(shape)}: extents go to 2^32")
    return dims, strides


def _promotion(spec: Any, pointer: int, strides: list[int]) -> int:
    """The bytes by which the L2 cache fetches: as asked for, but 128 at most where rows do not start
    on sectors. A row of a box then ends within a line, and its neighbour would be fetched in vain
    (decisions.md 73)."""
    within = any(n % _SECTOR for n in (pointer, *strides))
    return min(spec.l2promotion, 128) if within else int(spec.l2promotion)


def _unfit(spec: Any, message: str) -> Unfit:
    return Unfit(f"{spec.tensor} cannot be read by TMA: {message}")
