"""Reading a DLPack capsule by ctypes: what `__dlpack__` hands over, without any library's help.

The structures are those of DLPack 1.x (dmlc/dlpack, dlpack.h); a producer that does not know
`max_version` gives the unversioned form. The capsule is read and kept, never consumed: its own
destructor releases the memory.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentError

_DEVICES = {
    1: "cpu",
    2: "cuda",
    3: "cuda",
    10: "hip",
    11: "hip",
    13: "cuda",
}  # 3, 11: pinned, 13: managed
_HOST_PINNED = (3, 11)
_KINDS = {0: "int", 1: "uint", 2: "float"}
_WHOLE = {
    4: "bfloat16", 6: "bool", 7: "float8_e3m4", 8: "float8_e4m3", 9: "float8_e4m3b11fnuz",
    10: "float8_e4m3fn", 11: "float8_e4m3fnuz", 12: "float8_e5m2", 13: "float8_e5m2fnuz",
    14: "float8_e8m0fnu",
}  # fmt: skip
_READ_ONLY = 1


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("rank", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    ]


@dataclass(frozen=True)
class RawTensor:
    """A tensor as DLPack describes it, strides in bytes, with the capsule that keeps it alive."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device_kind: str
    device_index: int
    readonly: bool
    capsule: object


def view_dlpack(array: Any) -> RawTensor:
    """The memory of `array`, after its producer made it safe to use on a stream of its choice. Raises
    ArgumentError where tilec cannot read it."""
    try:
        capsule = array.__dlpack__(max_version=(1, 0))
    except TypeError:
        capsule = array.__dlpack__()
    except (BufferError, RuntimeError, ValueError) as refusal:
        raise ArgumentError(
            "TLC0801", f"{type(array).__name__}.__dlpack__ refused: {refusal}"
        ) from refusal
    versioned = _capsule_pointer(capsule, b"dltensor_versioned")
    if versioned:
        managed = _Versioned.from_address(versioned)
        if managed.major > 1:
            raise ArgumentError("TLC0801", f"DLPack {managed.major} is newer than tilec reads (1)")
        return _read(managed.tensor, bool(managed.flags & _READ_ONLY), capsule)
    plain = _capsule_pointer(capsule, b"dltensor")
    if not plain:
        raise ArgumentError("TLC0801", f"{type(array).__name__}.__dlpack__ gave no DLPack capsule")
    return _read(_Tensor.from_address(plain), False, capsule)


def _read(tensor: _Tensor, readonly: bool, capsule: object) -> RawTensor:
    shape = tuple(tensor.shape[i] for i in range(tensor.rank))
    dtype = tensor.dtype
    if dtype.lanes != 1 or dtype.bits % 8:
        raise ArgumentError(
            "TLC0801", f"an element of {dtype.lanes} x {dtype.bits} bits cannot be passed"
        )
    name = _WHOLE.get(dtype.code) or f"{_KINDS.get(dtype.code, f'dlpack{dtype.code}_')}{dtype.bits}"
    itemsize = dtype.bits // 8
    if tensor.strides:
        strides = tuple(tensor.strides[i] * itemsize for i in range(tensor.rank))
    else:
        step, reverse = itemsize, []
        for extent in reversed(shape):
            reverse.append(step)
            step *= max(1, extent)
        strides = tuple(reversed(reverse))
    kind = (
        "cpu" if tensor.device.kind in _HOST_PINNED else _DEVICES.get(tensor.device.kind, "other")
    )
    pointer = (tensor.data or 0) + tensor.byte_offset
    return RawTensor(pointer, shape, strides, name, kind, tensor.device.index, readonly, capsule)


def _capsule_pointer(capsule: object, name: bytes) -> int:
    """The address in `capsule` where it has that name, else 0."""
    is_valid = ctypes.pythonapi.PyCapsule_IsValid
    is_valid.argtypes, is_valid.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int
    if not is_valid(capsule, name):
        return 0
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.argtypes, get.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    return int(get(capsule, name) or 0)
