"""From a user's function of indices to a shared layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .shared import SharedLayout
from .swizzle import Swizzle
from .term import IntArray

_SAMPLES = 256
"""Coordinates on which a candidate swizzle is tried before it is tried on all; most fail here."""

_LIMIT = 1 << 24
"""The largest offset that a tile in shared memory can have, with room to spare."""


def fit_offsets(shape: tuple[int, ...], fn: Callable[..., Any]) -> SharedLayout:
    """The layout that `fn` describes; see `SharedLayout.from_function`.

    Raises:
        ValueError: with the reason why there is none.
    """
    if not shape or any(extent < 1 for extent in shape):
        raise ValueError(f"a layout needs extents of at least 1, not {shape}")
    offsets = _evaluate(shape, fn)
    if int(offsets.min()) < 0:
        where = tuple(int(i) for i in np.argwhere(offsets < 0)[0])
        raise ValueError(f"the function gives a negative offset at {where}")
    if int(offsets.max()) >= _LIMIT:
        raise ValueError(f"the function's largest offset, {int(offsets.max())}, is out of reach")
    if offsets[(0,) * len(shape)] != 0:
        raise ValueError(f"the first element must lie at offset 0, not {offsets.flat[0]}")
    for swizzle in _candidates(int(offsets.max())):
        layout = _linear(swizzle.apply(offsets), swizzle)
        if layout is not None:
            return layout
    raise ValueError(
        "the function is no sum of strides of mixed-radix digits, with or without an exchange of"
        f" bits (swizzle): {_witness(offsets)}"
    )


def _evaluate(shape: tuple[int, ...], fn: Callable[..., Any]) -> IntArray:
    """The function's offsets at all coordinates."""
    indices = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in shape), indexing="ij")
    result = fn(*indices)
    if not isinstance(result, (tuple, list)):
        return _integers(result, shape)
    offsets = np.zeros(shape, dtype=np.int64)
    for part in result:
        index = _integers(part, shape)
        if int(index.min()) < 0:
            raise ValueError("the function gives a negative index")
        offsets = offsets * (int(index.max()) + 1) + index
    return offsets


def _integers(value: Any, shape: tuple[int, ...]) -> IntArray:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"the function must give integers, not {array.dtype}")
    return np.broadcast_to(array.astype(np.int64), shape)


def _candidates(largest: int) -> Iterator[Swizzle]:
    """Every swizzle that could act on offsets up to `largest`, none first."""
    yield Swizzle.none()
    top = largest.bit_length()
    for bits in range(min(5, top // 2), 0, -1):
        for base in range(top - 2 * bits + 1):
            for shift in range(bits, top - base - bits + 1):
                yield Swizzle(bits, base, shift)


def _linear(offsets: IntArray, swizzle: Swizzle) -> SharedLayout | None:
    """The layout with these offsets before its swizzle, if they are sums of digits and strides."""
    shape = offsets.shape
    axes = [_axis(offsets, dim) for dim in range(len(shape))]
    picks = np.linspace(0, offsets.size - 1, min(offsets.size, _SAMPLES)).astype(np.int64)
    where = np.unravel_index(picks, shape)
    guess = np.zeros(len(picks), dtype=np.int64)
    for axis, index in zip(axes, where, strict=True):
        guess = guess + axis[index]
    if not np.array_equal(guess, offsets[where]):
        return None
    total = np.zeros(shape, dtype=np.int64)
    for dim, axis in enumerate(axes):
        total = total + axis.reshape([-1 if d == dim else 1 for d in range(len(shape))])
    if not np.array_equal(total, offsets):
        return None
    digits = [_digits(axis) for axis in axes]
    if any(found is None for found in digits):
        return None
    found = [pairs for pairs in digits if pairs is not None]
    return SharedLayout(
        shape,
        tuple(tuple(extent for extent, _ in pairs) for pairs in found),
        tuple(tuple(stride for _, stride in pairs) for pairs in found),
        swizzle,
    )


def _axis(offsets: IntArray, dim: int) -> IntArray:
    """Offsets along `dim`, all other coordinates zero."""
    index: list[int | slice] = [0] * offsets.ndim
    index[dim] = slice(None)
    return offsets[tuple(index)]


def _digits(axis: IntArray) -> list[tuple[int, int]] | None:
    """(extent, stride) of the modes of one dimension, outermost first; None if it has none."""
    pairs: list[tuple[int, int]] = []
    while len(axis) > 1:
        stride = int(axis[1])
        ramp = np.arange(len(axis), dtype=np.int64) * stride
        same = axis == ramp
        run = len(axis) if same.all() else int(np.argmin(same))
        extent = next((f for f in range(run, 1, -1) if _splits(axis, f, stride)), None)
        if extent is None or stride < 0:
            return None
        pairs.insert(0, (extent, stride))
        axis = axis[::extent]
    return pairs


def _splits(axis: IntArray, extent: int, stride: int) -> bool:
    """Whether the innermost `extent` indices contribute `stride` each, whatever the others do."""
    if len(axis) % extent:
        return False
    rows = axis.reshape(-1, extent)
    steps = np.arange(extent, dtype=np.int64) * stride
    return bool(np.array_equal(rows, rows[:, :1] + steps))


def _witness(offsets: IntArray) -> str:
    """Two elements that show it, in words."""
    total = np.zeros(offsets.shape, dtype=np.int64)
    for dim in range(offsets.ndim):
        axis: Sequence[int] = [-1 if d == dim else 1 for d in range(offsets.ndim)]
        total = total + _axis(offsets, dim).reshape(axis)
    wrong = np.argwhere(total != offsets)
    if not len(wrong):
        return "along one dimension its steps follow no factoring of the extent"
    where = tuple(int(i) for i in wrong[0])
    return f"at {where} it gives {offsets[where]}, its dimensions alone {total[where]}"
