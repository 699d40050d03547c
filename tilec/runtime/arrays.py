"""Arrays of any library as the runtime sees them: an address, a shape, strides, a dtype, a device.

No library is imported here: an array of a library is only met when that library is loaded. cupy and
torch are read through their own attributes, which is several times faster than the protocols; NumPy
by its own; every other array by `__cuda_array_interface__` or `__dlpack__`."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.launcher.arrays import Strided, contiguous_strides
from ..errors import ArgumentError
from .dlpack import view_dlpack

_CPU = "cpu"
_LEGACY_STREAM = 1  # what __dlpack__() without a stream makes an array safe on
_ITEM_BYTES = {
    "bool": 1, "e4m3": 1, "e5m2": 1, "e4m3fnuz": 1, "e5m2fnuz": 1, "e2m3": 1, "e3m2": 1,
    "e8m0": 1, "e2m1x2": 1,
}  # fmt: skip

LONG_DTYPES = {
    "bool": "bool", "bool_": "bool",
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "float16": "f16", "float32": "f32", "float64": "f64", "bfloat16": "bf16",
    "float8_e4m3fn": "e4m3", "float8_e5m2": "e5m2",
    "float8_e4m3fnuz": "e4m3fnuz", "float8_e5m2fnuz": "e5m2fnuz",
    "float6_e2m3fn": "e2m3", "float6_e3m2fn": "e3m2", "float4_e2m1fn_x2": "e2m1x2",
    "half": "f16", "float": "f32", "double": "f64",
}  # fmt: skip
"""Names of dtypes in NumPy, ml_dtypes, cupy, JAX and torch -> tilec's short names."""


@dataclass(frozen=True, slots=True)
class ArrayDevice:
    """Where an array lives: "cpu", "cuda" or "hip", and which one."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == _CPU else f"{self.kind}:{self.index}"


@dataclass(frozen=True, slots=True)
class ArrayView(Strided):
    """One array: `pointer` is the address of element 0, `strides` are in bytes, `dtype` is a short
    name (or the library's own where tilec has none). `owner` keeps the memory alive. `stream` is
    one that still may be writing the array, where its library says so."""

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    device: ArrayDevice
    readonly: bool
    library: str
    owner: object
    stream: int | None = None

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return item_bytes(self.dtype)


Fingerprint = tuple[Any, ...]
"""The address of an array, and behind it what is equal only for arrays of equal shape, strides,
dtype, device and library."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """How to read the arrays of one library: `view` in full; for the path of every call
    `fingerprint`, which raises AttributeError for what is no such array, and `place`, which is equal
    for arrays of one type on one device alone. `dense` names the attributes that tell as much as a
    fingerprint of an array that is row-major without gaps, for less: its address, whether it is so,
    and others, of which the last is its device."""

    library: str
    view: Callable[[Any], ArrayView]
    fingerprint: Callable[[Any], Fingerprint]
    place: Callable[[Any], Hashable]
    dense: tuple[str, ...] = ()


def item_bytes(dtype: str) -> int:
    """Bytes of one element of a short dtype name; 0 for a dtype that tilec does not know."""
    if dtype in _ITEM_BYTES:
        return _ITEM_BYTES[dtype]
    digits = dtype.lstrip("abcdefghijklmnopqrstuvwxyz")
    return int(digits) // 8 if digits.isdigit() else 0


def short_dtype(dtype: object) -> str:
    """The short name of a library's dtype, or the library's own name where there is none."""
    name = getattr(dtype, "name", None)
    text = name if isinstance(name, str) else str(dtype).removeprefix("torch.")
    if not getattr(dtype, "isnative", True):
        return f"{text} in another machine's order of bytes"
    return LONG_DTYPES.get(text, text)


ADAPTERS: dict[type, Adapter] = {}
"""Adapters of the types met so far."""


def adapter_of(array: object) -> Adapter:
    """How to read `array`. Raises ArgumentError for what is no array."""
    found = ADAPTERS.get(type(array))
    if found is None:
        found = ADAPTERS[type(array)] = _find_adapter(array)
    return found


def adapter_if_array(value: object) -> Adapter | None:
    """How to read `value`; None for what is no array."""
    found = ADAPTERS.get(type(value))
    return adapter_of(value) if found is None and is_array(value) else found


def view_array(array: object) -> ArrayView:
    """`array` as the runtime sees it. Raises ArgumentError for what is no array."""
    return adapter_of(array).view(array)


def is_array(value: object) -> bool:
    """Whether `value` is an array of some library rather than a number."""
    if isinstance(value, np.generic):
        return False
    return type(value) in ADAPTERS or _protocol(value) != ""


def _protocol(value: object) -> str:
    if isinstance(value, np.ndarray):
        return "numpy"
    module = type(value).__module__.partition(".")[0]
    if module == "cupy" and hasattr(value, "data") and hasattr(value, "strides"):
        return "cupy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    if hasattr(
        type(value), "__dlpack__"
    ):  # first: JAX has both, and the other fails for its CPU arrays
        return "dlpack"
    if hasattr(type(value), "__cuda_array_interface__"):
        return "interface"
    return ""


def _find_adapter(array: object) -> Adapter:
    match _protocol(array):
        case "numpy":
            if hasattr(array, "mask"):  # numpy.ma's
                raise _masked()
            return Adapter("numpy", _view_numpy, _fingerprint_numpy, lambda array: _CPU)
        case "cupy":
            place = operator.attrgetter("data.device_id")
            dense = _DENSE_CUPY if hasattr(array, "_c_contiguous") else ()
            return Adapter("cupy", _view_cupy, _fingerprint_cupy, place, dense)
        case "torch":
            return Adapter("torch", _view_torch, _fingerprint_torch, operator.attrgetter("device"))
        case "interface":
            library = type(array).__module__.partition(".")[0]
            return _slow_adapter(library, _view_interface)
        case "dlpack":
            library = type(array).__module__.partition(".")[0].removesuffix("lib")
            return _slow_adapter(library, _view_exporter)
    raise ArgumentError(
        "TLC0801",
        f"an array was expected, not {type(array).__name__}",
        hint="pass a NumPy, cupy, torch or JAX array, or anything with __dlpack__",
    )


def _masked() -> ArgumentError:
    return ArgumentError(
        "TLC0801",
        "an array with a mask cannot be passed to a kernel",
        hint="pass its values, x.filled(0), and the mask as an array of its own",
    )


def _view_numpy(array: np.ndarray[Any, Any]) -> ArrayView:
    return ArrayView(
        array.ctypes.data, array.shape, array.strides, short_dtype(array.dtype),
        ArrayDevice(_CPU), not array.flags.writeable, "numpy", array,
    )  # fmt: skip


def _fingerprint_numpy(array: np.ndarray[Any, Any]) -> Fingerprint:
    return array.ctypes.data, array.shape, array.strides, array.dtype, array.flags.writeable


def _view_cupy(array: Any) -> ArrayView:
    kind = "hip" if sys.modules["cupy"].cuda.runtime.is_hip else "cuda"
    return ArrayView(
        int(array.data.ptr), tuple(array.shape), tuple(array.strides), short_dtype(array.dtype),
        ArrayDevice(kind, int(array.data.device_id)), False, "cupy", array,
    )  # fmt: skip


_fingerprint_cupy = operator.attrgetter("data.ptr", "shape", "strides", "dtype", "data.device_id")
# One call of C's for all five: they are most of what the host does in a call. Strides, which cupy
# makes a tuple of for each who asks, are a fifth of it; what `flags.c_contiguous` is made of tells
# as much of a dense array.
_DENSE_CUPY = ("data.ptr", "_c_contiguous", "shape", "dtype", "data.device_id")


def _view_torch(tensor: Any) -> ArrayView:
    kind = tensor.device.type
    if kind == "cuda" and sys.modules["torch"].version.hip:
        kind = "hip"
    itemsize = tensor.element_size()
    return ArrayView(
        tensor.data_ptr(), tuple(tensor.shape), tuple(s * itemsize for s in tensor.stride()),
        short_dtype(tensor.dtype), ArrayDevice(kind, tensor.device.index or 0), False, "torch",
        tensor,
    )  # fmt: skip


def _fingerprint_torch(tensor: Any) -> Fingerprint:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _view_interface(array: Any) -> ArrayView:
    """By `__cuda_array_interface__`, versions 2 and 3 (Numba's specification)."""
    interface = array.__cuda_array_interface__
    pointer, readonly = interface["data"]
    shape = tuple(interface["shape"])
    dtype = np.dtype(interface["typestr"])
    own = getattr(array, "dtype", None)
    name = short_dtype(own if own is not None else dtype)
    strides = interface.get("strides")
    if strides is None:
        strides = contiguous_strides(shape, dtype.itemsize)
    if interface.get("mask") is not None:
        raise _masked()
    index = getattr(getattr(array, "device", None), "id", 0)
    stream = interface.get("stream")
    return ArrayView(
        int(pointer or 0), shape, tuple(strides), name,
        ArrayDevice("cuda", index if isinstance(index, int) else 0),
        bool(readonly), type(array).__module__.partition(".")[0], array, stream,
    )  # fmt: skip


def _view_exporter(array: Any) -> ArrayView:
    """By `__dlpack__`: the capsule is kept, so the memory lives as long as the view."""
    library = type(array).__module__.partition(".")[0].removesuffix("lib")
    raw = view_dlpack(array)
    on_device = raw.device_kind != _CPU
    return ArrayView(
        raw.pointer, raw.shape, raw.strides, LONG_DTYPES.get(raw.dtype, raw.dtype),
        ArrayDevice(raw.device_kind, raw.device_index), raw.readonly or library == "jax", library,
        (array, raw.capsule), _LEGACY_STREAM if on_device else None,
    )  # fmt: skip


def _slow_adapter(library: str, view: Callable[[Any], ArrayView]) -> Adapter:
    """The adapter of a library whose arrays are known by their views alone."""
    return Adapter(library, view, _fingerprint_view(view), lambda array: view(array).device)


def _fingerprint_view(view: Callable[[Any], ArrayView]) -> Callable[[Any], Fingerprint]:
    def fingerprint(array: Any) -> Fingerprint:
        seen = view(array)
        place = (seen.library, seen.device, seen.readonly, seen.stream is None)
        return seen.pointer, seen.shape, seen.strides, seen.dtype, place

    return fingerprint


def _same(view: ArrayView) -> ArrayView:
    return view


ADAPTERS[ArrayView] = _slow_adapter("view", _same)
