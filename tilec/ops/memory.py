"""Calls like an earlier one: its kernel, and how arrays are passed to it, without a second look.

What a product comes to depends on shapes, strides, dtypes, devices and the low bits of addresses,
and on options that are compared by value. Whether `out` lies apart is looked at in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from typing import Any

from ..language.kernel import Kernel
from ..runtime.allocate import allocate
from ..runtime.arrays import ADAPTERS, ArrayView, adapter_of, is_array, view_array

WAYS: dict[str, Callable[[Any], Any]] = {
    "T": attrgetter("T"),
    "row": itemgetter(0),
    "column": itemgetter((slice(None), 0)),
}
"""How a kernel may take a matrix of any library: transposed, or its first row or column."""
_LIBRARIES = ("numpy", "cupy", "torch")  # whose matrices have these ways
_ADDRESS_BITS = 127  # all that alignment is asked of
_MOST = 1024


@dataclass(frozen=True)
class Passed:
    """How the arrays of a call are passed: for each parameter which of a, b and out it is, and a
    name in WAYS, or "" for the array itself."""

    kernel: Kernel
    order: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Remembered:
    """A call that may be repeated on other arrays of the same kind."""

    passed: Passed
    bytes: tuple[int, ...]  # that a, b and out reach over
    made: ArrayView  # what is allocated where the caller has no `out`

    @classmethod
    def of(cls, passed: Passed, a: Any, b: Any, result: Any) -> Remembered:
        """A call that was made, with its result."""
        views = [view_array(x) for x in (a, b, result)]
        made = replace(views[2], owner=None, pointer=0)
        return cls(passed, tuple(view.extent_bytes for view in views), made)

    def repeat(
        self, arrays: tuple[Any, ...], pointers: list[int], stream: Any, handle: int | None
    ) -> Any:
        """The result of a call with other arrays, `out` the third of them if there is one; None
        where it may lie in the memory of the others."""
        if len(arrays) == 2:
            made = self.made
            out = allocate(made.library, made.device, made.shape, made.dtype, handle)
            arrays = (*arrays, out)
        else:
            start, end = pointers[2], pointers[2] + self.bytes[2]
            for first, size in zip(pointers[:2], self.bytes[:2], strict=True):
                if first < end and start < first + size:
                    return None
        arguments = [WAYS[way](arrays[n]) if way else arrays[n] for n, way in self.passed.order]
        if stream is None:
            self.passed.kernel(*arguments)
        else:
            self.passed.kernel(*arguments, stream=stream)
        return arrays[2]


class Memory:
    """Calls by their keys, the latest ones."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, Remembered] = {}

    def key(self, arrays: tuple[Any, ...], options: tuple[Any, ...]) -> tuple[Hashable, list[int]]:
        """What a call depends on, and the addresses of its arrays; None for a key where that is not
        told by these."""
        parts: list[Any] = []
        pointers = []
        for array in arrays:
            adapter = ADAPTERS.get(type(array))
            if adapter is None:
                if not is_array(array):
                    return None, []
                adapter = adapter_of(array)
            if adapter.library not in _LIBRARIES:
                return None, []
            pointer, *rest = adapter.fingerprint(array)
            parts.extend((type(array), pointer & _ADDRESS_BITS, *rest))
            pointers.append(pointer)
        key = (*parts, *options)
        try:
            hash(key)
        except TypeError:
            return None, []
        return key, pointers

    def find(self, key: Hashable) -> Remembered | None:
        """The call of a key."""
        return self._calls.get(key) if key is not None else None

    def keep(self, key: Hashable, call: Remembered) -> None:
        """Remembers a call."""
        while len(self._calls) >= _MOST:
            self._calls.pop(next(iter(self._calls)), None)
        self._calls[key] = call
