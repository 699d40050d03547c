"""What it takes to bring a tile from one register layout into another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from .register import RegisterLayout
from .term import IntArray, Term

Kind = Literal["same", "permute", "shuffle", "shared"]

SHUFFLE_COST = 2.0
"""Cost of one shuffle or select; a register through shared memory, one way, costs 1."""

SHARED_COST = 32.0
"""Fixed cost of a trip through shared memory: two barriers and the address arithmetic."""


@dataclass(frozen=True, slots=True)
class ShuffleStep:
    """Part of a shuffle: `dst[dst_register] = src[src_register]` of another lane, in some lanes.

    Lane l reads from lane `base + sum(term.value(l))`, a lane of its warp for every l, and keeps
    the value where bit l of `lanes` is set. `moves` is False where every such lane reads itself,
    so that a select will do.
    """

    dst_register: int
    src_register: int
    base: int
    terms: tuple[Term, ...]
    lanes: int
    moves: bool

    def source_lane(self, lane: IntArray) -> IntArray:
        """The lane that each lane reads from, elementwise."""
        source = np.full_like(lane, self.base)
        for term in self.terms:
            source = source + term.value(lane)
        return source


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to convert between two register layouts, cheapest kind that serves.

    - "same": nothing to do.
    - "permute": register r of the result is register `registers[r]` of the source, in every thread.
    - "shuffle": `steps`, in any order; every register and lane of the result is written once.
    - "shared": through shared memory; also where every thread holds what it needs, but in a
      register that follows its warp.
    """

    kind: Kind
    cost: float
    registers: tuple[int, ...] = ()
    steps: tuple[ShuffleStep, ...] = ()


@lru_cache(maxsize=4096)
def classify(src: RegisterLayout, dst: RegisterLayout, warp_size: int) -> Conversion:
    """The cheapest conversion of a tile from `src` to `dst`.

    Args:
        src: the layout that the tile has.
        dst: the layout that it shall have.
        warp_size: lanes that can shuffle with each other, a power of two.

    Raises:
        ValueError: the shapes differ.
    """
    if src.shape != dst.shape:
        raise ValueError(f"cannot convert a tile of shape {src.shape} to shape {dst.shape}")
    if src == dst:
        return Conversion("same", 0.0, tuple(range(dst.registers)))
    shared = Conversion("shared", SHARED_COST + src.registers + dst.registers)
    if src.threads != dst.threads:
        return shared
    thread, register = _nearest(src, dst)
    own = np.arange(dst.threads, dtype=np.int64)[:, None]
    if (
        np.array_equal(thread, np.broadcast_to(own, thread.shape))
        and (register == register[0]).all()
    ):
        return Conversion("permute", 0.0, tuple(int(r) for r in register[0]))
    steps = _shuffle(thread, register, warp_size, int(shared.cost / SHUFFLE_COST))
    if steps is None:
        return shared
    return Conversion("shuffle", SHUFFLE_COST * len(steps), steps=steps)


def _nearest(src: RegisterLayout, dst: RegisterLayout) -> tuple[IntArray, IntArray]:
    """The thread and register of `src` to read for each of `dst`: int [threads, registers] twice.

    Among the copies of an element that one is taken whose thread index differs from the reader's
    in the least significant bits only: the reader itself, else its warp, where they hold one.
    """
    thread, register = src.owner(dst.coords())
    own = np.arange(dst.threads, dtype=np.int64)[:, None]
    best = thread
    for replica in _replica_offsets(src):
        candidate = thread + replica
        best = np.where((candidate ^ own) < (best ^ own), candidate, best)
    return best, register


def _replica_offsets(layout: RegisterLayout) -> list[int]:
    """What to add to the first thread that holds an element to reach each of the others."""
    offsets = [0]
    stride = 1
    f = layout.factors()
    for entry in reversed(f.thread):
        if isinstance(entry, int):
            offsets = [o + i * stride for o in offsets for i in range(-entry)]
        stride *= f.extent(entry)
    return offsets


def _shuffle(
    thread: IntArray, register: IntArray, warp_size: int, limit: int
) -> tuple[ShuffleStep, ...] | None:
    """Steps of a shuffle; None where they exceed `limit`, leave the warp or differ by warp."""
    threads, registers = thread.shape
    width = min(warp_size, threads)
    if threads % width:
        return None
    warps = thread.reshape(-1, width, registers)
    table = register.reshape(-1, width, registers)
    lane = warps % width
    here = np.arange(threads // width, dtype=np.int64)[:, None, None]
    if (warps // width != here).any() or (lane != lane[0]).any() or (table != table[0]).any():
        return None
    pairs = [(dst, int(s)) for dst in range(registers) for s in np.unique(table[0, :, dst])]
    if len(pairs) > limit:
        return None
    steps: list[ShuffleStep] = []
    for dst, source in pairs:
        step = _step(lane[0, :, dst], table[0, :, dst] == source, dst, source)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps)


def _step(lane: IntArray, chosen: np.ndarray, dst: int, source: int) -> ShuffleStep | None:
    """One step of a shuffle; None where its source lanes follow no sum of terms."""
    lanes = np.flatnonzero(chosen)
    mask = sum(1 << int(index) for index in lanes)
    moves = bool((lane[lanes] != lanes).any())
    fit = _fit(lane) or _fit_masked(lane, lanes)
    if fit is None:
        return None
    return ShuffleStep(dst, source, fit[0], fit[1], mask, moves)


Fit = tuple[int, tuple[Term, ...]]


def _fit(lane: IntArray) -> Fit | None:
    """base and terms with lane[l] == base + sum(term.value(l)) for all l, bit by bit of l."""
    width = len(lane)
    if width & (width - 1):
        return None
    base = int(lane[0])
    gains = [int(lane[1 << bit]) - base for bit in range(width.bit_length() - 1)]
    return _checked(lane, np.arange(width), base, gains)


def _fit_masked(lane: IntArray, lanes: IntArray) -> Fit | None:
    """As `_fit`, where only some lanes count: bits that these never vary alone get no term."""
    width = len(lane)
    if width & (width - 1):
        return None
    first = int(lanes[0])
    members = {int(index) for index in lanes}
    gains = []
    for bit in range(width.bit_length() - 1):
        other = first ^ (1 << bit)
        step = int(lane[other] - lane[first]) if other in members else 0
        gains.append(step if other > first else -step)
    base = int(lane[first]) - sum(g for bit, g in enumerate(gains) if first >> bit & 1)
    return _checked(lane, lanes, base, gains)


def _checked(lane: IntArray, lanes: IntArray, base: int, gains: list[int]) -> Fit | None:
    """The fit with terms of neighbouring bits joined, if it holds for all of `lanes`."""
    terms: list[Term] = []
    bit = 0
    while bit < len(gains):
        count = 1
        while bit + count < len(gains) and gains[bit + count] == gains[bit] << count:
            count += 1
        if gains[bit]:
            top = bit + count == len(gains)
            terms.append(Term("thread", 1 << bit, None if top else 1 << count, gains[bit]))
        bit += count
    step = ShuffleStep(0, 0, base, tuple(terms), 0, True)
    everywhere = step.source_lane(np.arange(len(lane)))
    if everywhere.min() < 0 or everywhere.max() >= len(lane):
        return None
    if not np.array_equal(everywhere[lanes], lane[lanes]):
        return None
    return base, tuple(terms)
