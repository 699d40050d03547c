"""New arrays in the caller's own library, for outputs and workspaces, and the way back to that
library."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from ..backends.launcher.arrays import PACKED
from ..errors import ArgumentError
from ..ir.dtypes import DTYPES
from .arrays import ArrayDevice


def numpy_dtype(dtype: str) -> np.dtype[Any]:
    """The NumPy dtype of a short name; two 4-bit elements are one byte."""
    if dtype in PACKED:
        return np.dtype(np.int8 if dtype == "i4" else np.uint8)
    return DTYPES[dtype].numpy


def allocate(
    library: str, device: ArrayDevice, shape: tuple[int, ...], dtype: str, stream: int | None
) -> Any:
    """An uninitialised row-major array of `library` on `device`. `stream` is the one it will be
    used on, where that is not the library's current one. Libraries whose arrays cannot be written
    in place get cupy's, which `hand_over` turns into theirs. 6-bit
    floats that torch lacks are bytes. Raises ArgumentError where nothing can
    allocate."""
    if library == "numpy":
        return np.empty(shape, numpy_dtype(dtype))
    if library == "torch":
        torch: Any = sys.modules["torch"]
        name = str(numpy_dtype(dtype))
        name = name if hasattr(torch, name) or not name.startswith("float6") else "uint8"
        with _torch_stream(torch, device, stream):
            return torch.empty(shape, dtype=getattr(torch, name), device=f"cuda:{device.index}")
    cupy: Any = sys.modules.get("cupy")
    if cupy is None:
        raise ArgumentError(
            "TLC0805",
            f"an output cannot be allocated for arrays of {library}",
            hint="import cupy first, or pass an array to write into",
        )
    with cupy.cuda.Device(device.index), _cupy_stream(cupy, device, stream):
        return cupy.empty(shape, dtype=numpy_dtype(dtype))


def library_on_device() -> str:
    """The library that makes arrays for a call which passes none."""
    return "torch" if "torch" in sys.modules and "cupy" not in sys.modules else "cupy"


def hand_over(library: str, array: Any) -> Any:
    """`array`, made by `allocate(library, ...)`, as an array of `library`; nothing is copied."""
    if library == "jax" and not isinstance(array, np.ndarray):
        return sys.modules["jax"].dlpack.from_dlpack(array)
    return array


def as_result(made: Sequence[Any]) -> Any:
    """What a call gives its caller: nothing, the only array, or a tuple of them."""
    if len(made) == 1:
        return made[0]
    return tuple(made) or None


def _torch_stream(
    torch: Any, device: ArrayDevice, stream: int | None
) -> AbstractContextManager[Any]:
    if stream is None:
        return nullcontext()
    found: AbstractContextManager[Any] = torch.cuda.stream(
        torch.cuda.ExternalStream(stream, device=f"cuda:{device.index}")
    )
    return found


def _cupy_stream(cupy: Any, device: ArrayDevice, stream: int | None) -> AbstractContextManager[Any]:
    if stream is None:
        return nullcontext()
    adopt = getattr(cupy.cuda.Stream, "from_external", None)  # cupy 14 and later
    found: AbstractContextManager[Any] = (
        adopt(_Handle(stream)) if adopt else cupy.cuda.ExternalStream(stream, device.index)
    )
    return found


class _Handle:
    """A stream's number as other libraries take it."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._stream
