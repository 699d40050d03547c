"""What memory there is: global memory as named regions with exact ends, and a block's shared
memory (LDS). Both are read and written a number of bytes a lane, at an address of each.

An access outside of what is there, or at an address that the hardware would not take, is an
IsaError: no kernel of ours may rely on what the hardware does then.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.backends.hip.cdna.decode import IsaError

Array = NDArray[Any]
_REGION_BITS = 36  # a region begins at each multiple of 64 GiB


@dataclass
class Region:
    """Bytes that a kernel is given; `writable` where it may change them."""

    name: str
    bytes: Array
    writable: bool = True
    base: int = 0


class GlobalMemory:
    """Regions, far apart."""

    def __init__(self) -> None:
        self.regions: list[Region] = []

    def add(self, name: str, data: Array, writable: bool = True) -> int:
        """The address of `data`, a contiguous array, which is read and written in place. Its
        alignment is the array's own, up to 256 bytes."""
        flat = data.reshape(-1).view(np.uint8) if data.size else np.zeros(0, np.uint8)
        if data.size and not np.shares_memory(flat, data):
            raise ValueError(f"{name} is not contiguous")
        base = (len(self.regions) + 1 << _REGION_BITS) + data.ctypes.data % 256
        self.regions.append(Region(name, flat, writable, base))
        return base

    def _region(self, addresses: Array, size: int, align: int, write: bool) -> Region:
        """The region that holds every address."""
        number = int(addresses[0]) >> _REGION_BITS
        if not 1 <= number <= len(self.regions):
            raise IsaError(f"access to address {int(addresses[0]):#x}, where nothing is")
        region = self.regions[number - 1]
        first, last = int(addresses.min()), int(addresses.max())
        if first < region.base or last + size > region.base + region.bytes.size:
            raise IsaError(
                f"{size} bytes at {first - region.base} to {last - region.base} of {region.name}, "
                f"which has {region.bytes.size}"
            )
        if np.any(addresses % np.uint64(align)):
            raise IsaError(f"{size} bytes of {region.name} at no multiple of {align}")
        if write and not region.writable:
            raise IsaError(f"a write to {region.name}, which is read-only")
        return region

    def read(self, addresses: Array, size: int) -> Array:
        """(n, size) bytes from n addresses."""
        if not addresses.size:
            return np.zeros((0, size), np.uint8)
        region = self._region(addresses, size, min(size, 4), write=False)
        return region.bytes[_places(addresses - np.uint64(region.base), size)]

    def check(self, addresses: Array, size: int, write: bool) -> None:
        """Raises IsaError if `read` or `write` would."""
        if addresses.size:
            self._region(addresses, size, min(size, 4), write)

    def write(self, addresses: Array, data: Array) -> None:
        """(n, size) bytes to n addresses."""
        if addresses.size:
            region = self._region(addresses, data.shape[1], min(data.shape[1], 4), write=True)
            places = _places(addresses - np.uint64(region.base), data.shape[1])
            region.bytes[places] = data


class SharedMemory:
    """The LDS of a block: begins with bytes that are NaN in every format."""

    def __init__(self, size: int) -> None:
        self.bytes = np.full(size, 0xFF, np.uint8)

    def check(self, addresses: Array, size: int, align: int) -> None:
        """Raises IsaError for an access outside, or at no multiple of `align`."""
        if not addresses.size:
            return
        if int(addresses.max()) + size > self.bytes.size:
            raise IsaError(
                f"{size} bytes at {int(addresses.max())} of shared memory, "
                f"which has {self.bytes.size}"
            )
        if np.any(addresses % np.uint64(align)):
            raise IsaError(f"{size} bytes of shared memory at no multiple of {align}")

    def read(self, addresses: Array, size: int) -> Array:
        return self.bytes[_places(addresses, size)]

    def write(self, addresses: Array, data: Array) -> None:
        self.bytes[_places(addresses, data.shape[1])] = data


def _places(offsets: Array, size: int) -> Array:
    return offsets[:, None].astype(np.int64) + np.arange(size)
