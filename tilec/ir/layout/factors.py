"""Layouts as labelled factors: the form in which the algebra rearranges them.

A stored layout numbers its modes; every operation of the algebra would otherwise be an exercise in
renumbering. Here each mode has a label, operations move labels about, and `number` turns the result
back into numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Label = tuple[int, ...]
Entry = Label | int
"""A label, or a negative int -n: a replication of extent n."""


@dataclass(frozen=True, slots=True)
class Factors:
    """Labelled factors: per dimension (outermost first), and in the lists of threads and registers
    (most significant first)."""

    dims: tuple[tuple[Label, ...], ...]
    extents: Mapping[Label, int]
    thread: tuple[Entry, ...]
    reg: tuple[Entry, ...]

    def extent(self, entry: Entry) -> int:
        """How many values the entry takes."""
        return -entry if isinstance(entry, int) else self.extents[entry]

    def split(self, label: Label, inner: int) -> Factors:
        """The same map with `label` as (label, 0) over (label, 1), the latter of extent `inner`."""
        outer_label, inner_label = (*label, 0), (*label, 1)
        extents = dict(self.extents)
        extents[outer_label] = extents.pop(label) // inner
        extents[inner_label] = inner

        def widen(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            out: list[Entry] = []
            for entry in entries:
                out.extend((outer_label, inner_label) if entry == label else (entry,))
            return tuple(out)

        dims = tuple(
            tuple(x for e in dim for x in ((outer_label, inner_label) if e == label else (e,)))
            for dim in self.dims
        )
        return Factors(dims, extents, widen(self.thread), widen(self.reg))


Numbered = tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[int, ...]]


def label(
    modes: Sequence[Sequence[int]],
    thread: Sequence[int],
    reg: Sequence[int],
    prefix: Label = (),
) -> Factors:
    """The factors of numbered modes; `prefix` keeps the labels of two layouts apart."""
    labels = [(*prefix, d, k) for d, dim in enumerate(modes) for k in range(len(dim))]
    flat = [extent for dim in modes for extent in dim]
    dims = tuple(tuple((*prefix, d, k) for k in range(len(dim))) for d, dim in enumerate(modes))

    def named(entries: Sequence[int]) -> tuple[Entry, ...]:
        return tuple(entry if entry < 0 else labels[entry] for entry in entries)

    return Factors(dims, dict(zip(labels, flat, strict=True)), named(thread), named(reg))


def number(factors: Factors) -> Numbered:
    """Modes, thread and reg in lowest terms.

    Factors of extent 1 vanish and neighbours that move together become one factor. Equal maps so
    have one form, and equality of layouts is equality of their fields.
    """
    extents = dict(factors.extents)
    dims = [[x for x in dim if extents[x] != 1] for dim in factors.dims]
    follower = {a: b for dim in dims for a, b in pairwise(dim)}
    lists = [_merged(entries, extents, follower, dims) for entries in (factors.thread, factors.reg)]
    numbers = {x: i for i, x in enumerate(x for dim in dims for x in dim)}
    modes = tuple(tuple(extents[x] for x in dim) for dim in dims)
    thread, reg = (
        tuple(entry if isinstance(entry, int) else numbers[entry] for entry in entries)
        for entries in lists
    )
    return modes, thread, reg


def _merged(
    entries: Sequence[Entry],
    extents: dict[Label, int],
    follower: dict[Label, Label],
    dims: list[list[Label]],
) -> list[Entry]:
    """One list in lowest terms; `extents`, `follower` and `dims` shrink with it."""
    out: list[Entry] = []
    for entry in entries:
        if isinstance(entry, int):
            if out and isinstance(out[-1], int):
                out[-1] = -(out[-1] * entry)
            elif entry != -1:
                out.append(entry)
            continue
        if extents[entry] == 1:
            continue
        last = out[-1] if out else None
        if last is None or isinstance(last, int) or follower.get(last) != entry:
            out.append(entry)
            continue
        extents[last] *= extents[entry]
        if entry in follower:
            follower[last] = follower[entry]
        else:
            del follower[last]
        for dim in dims:
            if entry in dim:
                dim.remove(entry)
    return out


def validate(
    shape: Sequence[int],
    modes: Sequence[Sequence[int]],
    thread: Sequence[int],
    reg: Sequence[int],
) -> None:
    """Refuse fields that do not describe a layout.

    Raises:
        ValueError: a dimension is not the product of its modes, or a mode is not used exactly once.
    """
    if len(modes) != len(shape):
        raise ValueError(f"shape {tuple(shape)} has {len(shape)} dimensions, modes {len(modes)}")
    for d, (extent, dim) in enumerate(zip(shape, modes, strict=True)):
        if extent < 1 or any(f < 1 for f in dim):
            raise ValueError(f"dimension {d}: extent {extent} and modes {tuple(dim)} must be >= 1")
        if math.prod(dim) != extent:
            raise ValueError(f"dimension {d}: modes {tuple(dim)} do not multiply to {extent}")
    if any(entry < 0 for entry in reg):
        raise ValueError(f"registers {tuple(reg)} cannot hold a replication")
    used = sorted(entry for entry in (*thread, *reg) if entry >= 0)
    count = sum(len(dim) for dim in modes)
    if used != list(range(count)):
        raise ValueError(
            f"thread {tuple(thread)} and reg {tuple(reg)} must name each of the {count} modes once"
        )
