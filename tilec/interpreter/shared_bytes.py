"""Arrays of one call that are different views of one memory: other shapes, strides or dtypes.

Each has a Storage of its own, whose elements are NumPy's views of the same bytes. What must be known
of both together (who touched what, and by which name) is known of their bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .conflicts import AccessLog, Index, Names
from .memory import Storage
from .numbers import Array, Bits


class SharedBytes:
    """The bytes from the first to the last that some views of one memory have."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        bounds = [np.lib.array_utils.byte_bounds(a) for a in arrays]
        self._first = min(low for low, _ in bounds)
        self._numbers = np.arange(max(high for _, high in bounds) - self._first)
        self._logs: dict[str, AccessLog] = {}

    @property
    def shape(self) -> tuple[int, ...]:
        """That of a log which knows of each byte."""
        return self._numbers.shape

    def places(self, data: Array) -> Array:
        """The number of each byte of each element of a view, along one more axis."""
        step = self._numbers.itemsize
        start = data.__array_interface__["data"][0] - self._first
        return np.lib.stride_tricks.as_strided(
            self._numbers[start:],
            (*data.shape, data.itemsize),
            (*(stride * step for stride in data.strides), step),
            writeable=False,
        )

    def log(self, use: str, data: Array) -> AccessLog:
        """The log for one use, which all views share, asked by the elements of one of them."""
        if use not in self._logs:
            self._logs[use] = AccessLog(self.shape)
        return BytesLog(self._logs[use], self.places(data))


class BytesLog(AccessLog):
    """A log of bytes, asked by the elements of a view."""

    def __init__(self, whole: AccessLog, places: Array) -> None:
        self._whole = whole
        self._places = places

    def _at(self, index: Index) -> Index:
        return (self._places[index],)

    def enter(self, episode: int, parties: int) -> None:
        self._whole.enter(episode, parties)

    def write(self, index: Index, party: Any) -> tuple[Bits, Bits]:
        before, readers = self._whole.write(self._at(index), _of_bytes(party))
        return _any(before), _any(readers)

    def again(self, index: Index, party: Any) -> Bits:
        return np.asarray(self._whole.again(self._at(index), _of_bytes(party)).all(-1))

    def change(self, index: Index, party: Any, where: Bits) -> None:
        self._whole.change(self._at(index), _of_bytes(party), where[..., None])

    def changed(self, index: Index, party: Any) -> Bits | None:
        found = self._whole.changed(self._at(index), _of_bytes(party))
        return None if found is None else _any(found)

    def outdone(self, index: Index, party: Any) -> Bits:
        return _any(self._whole.outdone(self._at(index), _of_bytes(party)))

    def read(self, index: Index, party: Any, repeats: bool) -> Bits:
        return _any(self._whole.read(self._at(index), _of_bytes(party), repeats))

    def written(self, index: Index, party: Any) -> Bits:
        return _any(self._whole.written(self._at(index), _of_bytes(party)))

    def updated(self, index: Index, party: Any) -> Bits | None:
        found = self._whole.updated(self._at(index), _of_bytes(party))
        return None if found is None else _any(found)

    def touched(self, index: Index, party: Any) -> Bits:
        return _any(self._whole.touched(self._at(index), _of_bytes(party)))

    def update(self, index: Index, party: Any) -> tuple[Bits, Bits]:
        before, readers = self._whole.update(self._at(index), _of_bytes(party))
        return _any(before), _any(readers)

    def other(self, index: Index) -> int:
        return max(self._whole.other((byte,)) for byte in self._places[index].tolist())


class BytesNames(Names):
    """By which of several views each byte was written, asked by the elements of one of them."""

    def __init__(self, whole: Names, places: Array) -> None:
        self._whole = whole
        self._places = places

    def others(self, name: str, index: Index) -> Bits:
        return _any(self._whole.others(name, (self._places[index],)))

    def write(self, name: str, index: Index) -> None:
        self._whole.write(name, (self._places[index],))

    def writer(self, name: str, index: Index) -> str:
        there = (self._places[index],)
        byte = there[0][int(np.argmax(self._whole.others(name, there)))]
        return self._whole.writer(name, (byte,))


def _of_bytes(party: Any) -> Any:
    """Parties for the bytes of their elements."""
    return party[..., None] if isinstance(party, np.ndarray) else party


def _any(of_bytes: Bits) -> Bits:
    """Which elements have one of their bytes marked."""
    return np.asarray(of_bytes.any(-1))


def share_bytes(storages: Sequence[Storage]) -> None:
    """Tells storages that are views of one memory so."""
    common = SharedBytes([storage.data for storage in storages])
    for storage in storages:
        storage.common = common


def meeting(arrays: Sequence[Array]) -> list[list[int]]:
    """The arrays of a call, by their places, in groups of those that share memory."""
    groups: list[list[int]] = []
    for n, array in enumerate(arrays):
        met = [g for g in groups if any(meet_in_bytes(array, arrays[m]) for m in g)]
        groups = [g for g in groups if g not in met] + [[*(m for g in met for m in g), n]]
    return groups


def meet_in_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays have a byte in common."""
    return bool(np.shares_memory(a, b))


def same_elements(a: Array, b: Array) -> bool:
    """Whether two arrays are one view of one memory."""
    return _view_of(a) == _view_of(b)


def _view_of(a: Array) -> tuple[Any, ...]:
    return a.__array_interface__["data"][0], a.shape, a.strides, a.dtype
