"""One kernel launch with everything fixed but addresses, scalars and the stream.

The driver takes an array of addresses, one for each C parameter, and copies as many bytes from each
as the parameter has. Here every pointer and scalar has an 8-byte word of its own in one block of
memory, and the array of addresses is made once; a call only writes words. (Rebuilding all of it
costs four times as much, and is most of the host's time of a small kernel.)"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..backends.launcher.tensor_maps import TensorMap
from ..backends.manifest import LaunchSpec, TensorMapSpec
from .allocate import numpy_dtype
from .arrays import ArrayView
from .gpu_driver import GpuDriver
from .tensor_maps import Encoder, TensorMapCache

Number = int | float
_WORD = 8
_STRUCTS = {"f16": ("<e", "<H"), "f32": ("<f", "<I"), "f64": ("<d", "<Q")}
_SIGNED_BITS = {"i8": 8, "i16": 16, "i32": 32, "i64": 64}


def word_of(dtype: str) -> Callable[[Number], int]:
    """A function from a number to the word whose low bytes are that number as `dtype`."""
    if dtype in _SIGNED_BITS:
        mask = (1 << _SIGNED_BITS[dtype]) - 1
        return lambda value: int(value) & mask
    if dtype in _STRUCTS:
        pack, unpack = (struct.Struct(code) for code in _STRUCTS[dtype])
        return lambda value: int(unpack.unpack(pack.pack(value))[0])
    if dtype[0] == "u" or dtype == "bool":
        return int
    element = numpy_dtype(dtype)
    return lambda value: int.from_bytes(np.array(value, dtype=element).tobytes(), "little")


class KernelCall:
    """A launch of one function. `patch` writes what changes from call to call."""

    __slots__ = ("_bind", "_maps", "_params", "_pointers", "_scalars", "_words", "spec")

    def __init__(
        self,
        driver: GpuDriver,
        function: int,
        spec: LaunchSpec,
        grid: tuple[int, int, int],
        symbols: Mapping[str, int],
        tensors: Mapping[str, tuple[int, ArrayView]],
        scalars: Mapping[str, tuple[int, str]],
    ) -> None:
        """`tensors` gives each array's place in the pointers of `patch` and what it looks like;
        `scalars` each scalar's place among the scalars, and its dtype."""
        self.spec = spec
        self._bind = driver.binding(function, grid, spec)
        count = len(spec.arguments)
        self._words = (ctypes.c_uint64 * max(1, count))()
        base = ctypes.addressof(self._words)
        self._params = (ctypes.c_void_p * max(1, count))(*(base + _WORD * i for i in range(count)))
        self._pointers: list[tuple[int, int]] = []
        self._scalars: list[tuple[int, int, Callable[[Number], int]]] = []
        self._maps: list[_MapSlot] = []
        for position, argument in enumerate(spec.arguments):
            if argument.tensor_map is not None:
                index, view = tensors[argument.tensor_map.tensor]
                self._maps.append(_MapSlot(position, index, view, argument.tensor_map))
            elif argument.kind == "pointer":
                self._pointers.append((position, tensors[argument.name][0]))
            elif argument.kind == "symbol":
                self._words[position] = word_of(argument.dtype or "i32")(symbols[argument.name])
            else:
                place, dtype = scalars[argument.name]
                self._scalars.append((position, place, word_of(argument.dtype or dtype)))

    def patch(
        self,
        pointers: Sequence[int],
        scalars: Sequence[Number],
        maps: TensorMapCache,
        encoder: Encoder,
    ) -> None:
        """Writes addresses and scalars into the argument block."""
        words = self._words
        for position, index in self._pointers:
            words[position] = pointers[index]
        for position, index, word in self._scalars:
            words[position] = word(scalars[index])
        for slot in self._maps:
            pointer = pointers[slot.index]
            if slot.pointer != pointer:
                slot.held = maps.find(encoder, slot.view, slot.spec, pointer)
                slot.pointer = pointer
                self._params[slot.position] = slot.held.address

    def on(self, stream: int) -> Callable[[], int]:
        """The launch on a stream: called, it launches and returns the driver's status."""
        return self._bind(stream, self._params)


class _MapSlot:
    """A tensor map argument: where it goes, what it describes, and the descriptor in use."""

    __slots__ = ("held", "index", "pointer", "position", "spec", "view")

    def __init__(self, position: int, index: int, view: ArrayView, spec: TensorMapSpec) -> None:
        self.position = position
        self.index = index
        self.view = view
        self.spec = spec
        self.pointer = -1
        self.held: TensorMap | None = None
