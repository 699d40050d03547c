"""Arrays of one call that share memory.

A kernel that writes an array and reads another which begins elsewhere in the same memory has no
order between the two: blocks run in any. Such a call is refused, at every call, since only addresses
make it so. One array may be passed twice: then it is the kernel's own accesses that are in order or
not. Of arrays with gaps nothing is said: their elements may lie between one another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .arrays import Strided
from .unfit import Unfit


class Apart(NamedTuple):
    """Two arrays of a call, by their places among its arrays, that may not partly overlap: the first
    is written. Sizes are in bytes."""

    written: int
    written_bytes: int
    other: int
    other_bytes: int


def kept_apart(tensors: Sequence[Any], arrays: Mapping[str, Strided]) -> tuple[Apart, ...]:
    """The pairs among the arrays of a call, by the names of its parameters `tensors`."""
    whole = [(i, t, arrays[t.name]) for i, t in enumerate(tensors) if arrays[t.name].contiguous]
    return tuple(
        Apart(i, array.extent_bytes, j, seen.extent_bytes)
        for i, written, array in whole
        for j, _, seen in whole
        if i != j and "w" in written.access and not (array.empty or seen.empty)
    )


def overlapping(pairs: Sequence[Apart], addresses: Sequence[int]) -> Apart | None:
    """The first pair that overlaps where the arrays of a call begin at `addresses`."""
    for pair in pairs:
        written, written_bytes, other, other_bytes = pair
        distance = addresses[other] - addresses[written]
        if distance and -other_bytes < distance < written_bytes:
            return pair
    return None


def check_overlaps(tensors: Sequence[Any], arrays: Mapping[str, Strided]) -> None:
    """Raises Unfit for an array to be written that lies partly in the memory of another."""
    addresses = [arrays[tensor.name].pointer for tensor in tensors]
    found = overlapping(kept_apart(tensors, arrays), addresses)
    if found is not None:
        written, other = tensors[found.written].name, tensors[found.other].name
        told = f"{written}, which the kernel writes, lies partly in the memory of {other}"
        raise Unfit(told, "pass a copy, or one array for both")
