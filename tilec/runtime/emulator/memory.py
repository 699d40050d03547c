"""The memory that the caller and the emulator's process share, and how arrays lie in it."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import EmulatorError

PAGE = mmap.PAGESIZE
_KEEP = 16  # an array's address modulo this many bytes is the same here and there
_GAP = 256  # bytes between arrays, so that none begins where another ends


class SharedMemory:
    """A nameless file mapped by both processes; it grows and never shrinks."""

    def __init__(self) -> None:
        memfd = getattr(os, "memfd_create", None)
        if memfd is not None:
            self.file: int = memfd("tilec-emulator")
        else:
            with tempfile.TemporaryFile() as file:
                self.file = os.dup(file.fileno())
        self._map: mmap.mmap | None = None
        self.size = 0

    def reserve(self, size: int) -> mmap.mmap:
        """The mapping, of at least `size` bytes."""
        if self._map is None or size > self.size:
            if self._map is not None:
                self._map.close()
            self.size = max(size + size // 2, 16 * PAGE) // PAGE * PAGE + PAGE
            os.ftruncate(self.file, self.size)
            self._map = mmap.mmap(self.file, self.size)
        return self._map

    def close(self) -> None:
        """Gives the memory back."""
        if self._map is not None:
            self._map.close()
            self._map = None
        os.close(self.file)


@dataclass(frozen=True)
class Extent:
    """The bytes of one array: address, count, and their offset in the shared memory."""

    address: int
    bytes: int
    offset: int


def place_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[dict[str, Extent], int]:
    """Where each array's bytes go, and the size of the whole.

    Arrays whose bytes overlap overlap there too. EmulatorError for negative strides.
    """
    spans: dict[str, tuple[int, int]] = {name: _span(name, array) for name, array in arrays.items()}
    extents: dict[str, Extent] = {}
    at, group_start, group_end, group_offset = _GAP, 0, -1, 0
    for name, (start, end) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        if start >= group_end:
            group_offset = (at + _GAP - 1) // _GAP * _GAP + start % _KEEP
            group_start, group_end = start, end
        else:
            group_end = max(group_end, end)
        extents[name] = Extent(start, end - start, group_offset + start - group_start)
        at = group_offset + (group_end - group_start) + _GAP
    return extents, at + _GAP


def _span(name: str, array: NDArray[np.generic]) -> tuple[int, int]:
    start = int(array.__array_interface__["data"][0])
    if array.size == 0:
        return start, start
    if any(
        stride < 0 and extent > 1 for stride, extent in zip(array.strides, array.shape, strict=True)
    ):
        raise EmulatorError("TLC0781", f"{name}: an array with negative strides")
    last = sum(
        stride * (extent - 1) for stride, extent in zip(array.strides, array.shape, strict=True)
    )
    return start, start + last + array.itemsize
