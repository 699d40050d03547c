"""Arrays of one call that share memory.

A kernel that writes an array and reads another which begins elsewhere in the same memory has no
order between the two: blocks run in any. Such a call is refused, at every call, since only addresses
make it so. One array may be passed twice: then it is the kernel's own accesses that are in order or
not. Of arrays with gaps nothing is said: their elements may lie between one another's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..backends.manifest import TensorParam
from .arrays import ArrayView


class Apart(NamedTuple):
    """Two arrays of a call, by their places among its arrays, that may not partly overlap: the first
    is written. Sizes are in bytes."""

    written: int
    written_bytes: int
    other: int
    other_bytes: int


def kept_apart(tensors: Sequence[TensorParam], views: Mapping[str, ArrayView]) -> tuple[Apart, ...]:
    """The pairs among the arrays of a call, whose shapes `views` tells."""
    whole = [(i, t, views[t.name]) for i, t in enumerate(tensors) if views[t.name].contiguous]
    return tuple(
        Apart(i, view.extent_bytes, j, seen.extent_bytes)
        for i, written, view in whole
        for j, _, seen in whole
        if i != j and "w" in written.access and not (view.empty or seen.empty)
    )


def overlapping(pairs: Sequence[Apart], addresses: Sequence[int]) -> Apart | None:
    """The first pair that overlaps where the arrays of a call begin at `addresses`."""
    for pair in pairs:
        written, written_bytes, other, other_bytes = pair
        distance = addresses[other] - addresses[written]
        if distance and -other_bytes < distance < written_bytes:
            return pair
    return None
