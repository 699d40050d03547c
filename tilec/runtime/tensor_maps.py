"""TMA descriptors, encoded by libcuda on the host and kept by what they describe."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from ..backends.launcher.tensor_maps import TensorMap, encoding, refused
from ..backends.launcher.unfit import Unfit
from ..backends.manifest import TensorMapSpec
from ..errors import ArgumentError
from ..locks import Lock
from .arrays import ArrayView

Key = tuple[object, ...]


class Encoder(Protocol):
    """The part of a driver that encodes."""

    def encode_tiled(self, *arguments: object) -> int:
        """cuTensorMapEncodeTiled, with ctypes values; returns its status."""


class TensorMapCache:
    """Descriptors by (address, dtype, shape, strides, what the specification says of boxes), the least
    recently used going first. Encoding is pure host work, so one cache serves all devices."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._maps: OrderedDict[Key, TensorMap] = OrderedDict()
        self._lock = Lock()

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
            spec.clipped,
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
    """A new descriptor of an array like `view` that starts at `pointer`; none is needed, and its bytes
    are zero, where that has neither elements nor an address. Raises ArgumentError."""
    made = TensorMap()
    if pointer == 0 and view.empty:
        return made
    try:
        status = encoder.encode_tiled(*encoding(made, spec, view.dtype, view, pointer))
        if status:
            raise refused(status, spec, view)
    except Unfit as problem:
        raise ArgumentError("TLC0804", problem.message) from None
    return made
