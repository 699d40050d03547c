"""TMA descriptors (CUtensorMap): encoded by libcuda on the host, kept by what they describe.

PTX ISA 9.x, "Tensor-map"; CUDA driver API, cuTensorMapEncodeTiled. A descriptor is 128 opaque
bytes, at a host address that is a multiple of 64 for encoding, and is passed to the kernel by
value."""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from typing import Protocol

from ..backends.manifest import TensorMapSpec
from ..errors import ArgumentError
from ..ir.dtypes import DTYPES
from .arrays import ArrayView

BYTES = 128
_ALIGNMENT = 128
_BITS = {4: 0, 8: 0, 16: 1, 32: 2, 64: 4}  # unsigned integers, and what else is so wide
_ELEMENTS = {
    **{name: _BITS[dtype.bits] for name, dtype in DTYPES.items() if dtype.bits in _BITS},
    "i32": 3, "i64": 5, "f16": 6, "f32": 7, "tf32": 7, "f64": 8, "bf16": 9,
}  # fmt: skip
_SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}
_L2_PROMOTIONS = {0: 0, 64: 1, 128: 2, 256: 3}
_MAX_RANK = 5
_SECTOR = 32
"""Bytes that the L2 cache moves at least."""

Key = tuple[object, ...]


class Encoder(Protocol):
    """The part of a driver that encodes."""

    def encode_tiled(self, *arguments: object) -> int:
        """cuTensorMapEncodeTiled, with ctypes values; returns its status."""


class TensorMap:
    """128 bytes of host memory at a multiple of 128. `address` is where they are."""

    __slots__ = ("_memory", "address")

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(BYTES + _ALIGNMENT)
        start = ctypes.addressof(self._memory)
        self.address = -(-start // _ALIGNMENT) * _ALIGNMENT

    def to_bytes(self) -> bytes:
        """The descriptor."""
        return ctypes.string_at(self.address, BYTES)


class TensorMapCache:
    """Descriptors by (address, dtype, shape, strides, box, swizzle, L2 promotion), the least
    recently used going first. Encoding is pure host work, so one cache serves all devices."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._maps: OrderedDict[Key, TensorMap] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._maps)

    def find(
        self, encoder: Encoder, view: ArrayView, spec: TensorMapSpec, pointer: int
    ) -> TensorMap:
        """The descriptor of an array like `view` that starts at `pointer`. Raises ArgumentError
        where TMA cannot address it."""
        key = (
            pointer,
            view.dtype,
            view.shape,
            view.strides,
            spec.box,
            spec.swizzle,
            spec.l2promotion,
        )
        with self._lock:
            found = self._maps.get(key)
            if found is not None:
                self._maps.move_to_end(key)
                return found
        made = encode(encoder, view, spec, pointer)
        with self._lock:
            self._maps[key] = made
            while len(self._maps) > self._limit:
                self._maps.popitem(last=False)
        return made


def encode(encoder: Encoder, view: ArrayView, spec: TensorMapSpec, pointer: int) -> TensorMap:
    """A new descriptor. An array without elements gets one over a single element for each empty
    extent: nothing is ever read through it, but it must be valid. Raises ArgumentError."""
    made = TensorMap()
    if pointer == 0 and view.empty:
        return made
    dims, strides = _geometry(view, spec, pointer)
    rank = len(dims)
    status = encoder.encode_tiled(
        ctypes.c_void_p(made.address),
        ctypes.c_int(_ELEMENTS[view.dtype]),
        ctypes.c_uint32(rank),
        ctypes.c_void_p(pointer),
        (ctypes.c_uint64 * rank)(*dims),
        (ctypes.c_uint64 * max(1, rank - 1))(*strides),
        (ctypes.c_uint32 * rank)(*reversed(spec.box)),
        (ctypes.c_uint32 * rank)(*[1] * rank),
        ctypes.c_int(0),
        ctypes.c_int(_SWIZZLES[spec.swizzle]),
        ctypes.c_int(_L2_PROMOTIONS[_promotion(spec, pointer, strides)]),
        ctypes.c_int(0),
    )
    if status:
        raise _refuse(
            spec, f"cuTensorMapEncodeTiled gave {status} for shape {view.shape}, "
            f"strides {view.strides}, box {spec.box}, swizzle {spec.swizzle}"
        )  # fmt: skip
    return made


def _geometry(view: ArrayView, spec: TensorMapSpec, pointer: int) -> tuple[list[int], list[int]]:
    """Extents, innermost first, and the strides in bytes of all but the innermost."""
    rank = len(view.shape)
    if view.dtype not in _ELEMENTS:
        raise _refuse(spec, f"TMA has no element type {view.dtype}")
    if not 1 <= rank <= _MAX_RANK or rank != len(spec.box):
        raise _refuse(
            spec, f"an array of {rank} dimensions, a box of {len(spec.box)} (1 to {_MAX_RANK})"
        )
    if pointer % 16:
        raise _refuse(spec, f"it starts at {pointer:#x}, expected a multiple of 16 bytes")
    if view.shape[-1] > 1 and view.strides[-1] != view.itemsize:
        raise _refuse(
            spec,
            f"its last stride is {view.strides[-1]} bytes, expected {view.itemsize}",
        )
    row = spec.box[-1] * view.itemsize
    if row % 16 or (spec.swizzle and row > spec.swizzle):
        limit = f", at most {spec.swizzle}" if spec.swizzle else ""
        raise _refuse(spec, f"rows of {row} bytes in the box, expected a multiple of 16{limit}")
    dims = [max(1, extent) for extent in reversed(view.shape)]
    strides: list[int] = []
    span = -(-dims[0] * view.itemsize // 16) * 16
    for extent, stride in zip(reversed(view.shape[:-1]), reversed(view.strides[:-1]), strict=True):
        used = (
            stride if extent > 1 else span
        )  # the stride of a single row says nothing: any valid one does
        if used % 16 or not 0 <= used < 1 << 40:
            raise _refuse(spec, f"a stride of {used} bytes, expected a multiple of 16 below 2^40")
        strides.append(used)
        span = max(span, used * max(1, extent))
    if max(dims) > 1 << 32:
        raise _refuse(spec, f"shape {view.shape}: extents go to 2^32")
    return dims, strides


def _promotion(spec: TensorMapSpec, pointer: int, strides: list[int]) -> int:
    """The bytes by which the L2 cache fetches: as asked for, but 128 at most where rows do not start
    on sectors. A row of a box then ends within a line, and its neighbour would be fetched in vain
    (decisions.md 73)."""
    if any(n % _SECTOR for n in (pointer, *strides)):
        return min(spec.l2promotion, 128)
    return spec.l2promotion


def _refuse(spec: TensorMapSpec, message: str) -> ArgumentError:
    return ArgumentError("TLC0804", f"{spec.tensor} cannot be read by TMA: {message}")
