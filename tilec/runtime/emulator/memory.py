"""The memory that the caller and the emulator's process share, and how arrays lie in it."""

from __future__ import annotations

import ctypes
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
_MOST_SLACK = 1 << 28  # bytes that are reserved beyond what is asked for
_SPARSE = 1 << 28  # from so many bytes on, what is zero is not copied
_CHUNK = 1 << 21


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
        """The mapping, of at least `size` bytes. EmulatorError where there is no room for it."""
        if self._map is None or size > self.size:
            if self._map is not None:
                self._map.close()
            slack = min(size // 2, _MOST_SLACK)
            self.size = max(size + slack, 16 * PAGE) // PAGE * PAGE + PAGE
            try:
                os.ftruncate(self.file, self.size)
                self._map = mmap.mmap(self.file, self.size)
            except (OSError, ValueError) as problem:
                self._map, self.size = None, 0
                raise EmulatorError(
                    "TLC0781", f"the arrays take {size} bytes, which cannot be mapped: {problem}"
                ) from problem
        return self._map

    def copy_in(self, extent: Extent) -> None:
        """Copies an array's bytes here. Large ones that are mostly zero take little memory: what is
        zero in them stays a hole of the file."""
        assert self._map is not None
        if extent.bytes < _SPARSE:
            end = extent.offset + extent.bytes
            self._map[extent.offset : end] = ctypes.string_at(extent.address, extent.bytes)
            return
        self._clear(extent)
        for at in range(0, extent.bytes, _CHUNK):
            count = min(_CHUNK, extent.bytes - at)
            chunk = memoryview((ctypes.c_char * count).from_address(extent.address + at)).cast("B")
            if np.frombuffer(chunk, np.uint8).any():
                self._map[extent.offset + at : extent.offset + at + count] = bytes(chunk)

    def copy_out(self, extent: Extent) -> None:
        """Copies the bytes back, but for the holes that large arrays have."""
        assert self._map is not None
        at, end = extent.offset, extent.offset + extent.bytes
        while at < end:
            stop = end
            if extent.bytes >= _SPARSE:
                at, stop = self._data(at, end)
            part = self._map[at:stop]
            ctypes.memmove(extent.address + at - extent.offset, part, len(part))
            at = stop

    def _clear(self, extent: Extent) -> None:
        """Makes a hole of an extent, up to the pages that it shares."""
        assert self._map is not None
        end = extent.offset + extent.bytes
        first, last = -(-extent.offset // PAGE) * PAGE, end // PAGE * PAGE
        self._map.madvise(mmap.MADV_REMOVE, first, last - first)
        self._map[extent.offset : first] = bytes(first - extent.offset)
        self._map[last:end] = bytes(end - last)

    def _data(self, start: int, end: int) -> tuple[int, int]:
        """The next bytes from `start` on that are no hole; (end, end) where there are none."""
        try:
            at = os.lseek(self.file, start, os.SEEK_DATA)
        except OSError:
            return end, end  # what follows is one hole
        if at >= end:
            return end, end
        return at, min(os.lseek(self.file, at, os.SEEK_HOLE), end, at + _CHUNK)

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

    def meets(self, other: Extent) -> bool:
        """Whether some byte is in both."""
        distance = other.offset - self.offset
        return -other.bytes < distance < self.bytes


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
