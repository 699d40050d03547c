"""What it takes to reduce or scan a tile along a dimension: registers, lanes of a warp, warps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from .factors import Entry, Factors, Label
from .register import RegisterLayout, strides_of


@dataclass(frozen=True, slots=True)
class ReductionPlan:
    """How the threads that share a dimension join its elements.

    Every thread folds its own registers, `folds[r]` into register r of the result. Then it joins
    its value with that of lane `lane ^ mask`, for each of `masks` in turn. What is left is
    `partial`: a tile with the result's dimensions and, last, the groups of warps that hold different
    parts of the dimension. Where there is one group, all threads hold the result.
    """

    folds: tuple[tuple[int, ...], ...]
    masks: tuple[int, ...]
    partial: RegisterLayout

    @property
    def groups(self) -> int:
        """How many parts of the dimension are left to be joined."""
        return self.partial.shape[-1]


@lru_cache(maxsize=512)
def plan_reduction(layout: RegisterLayout, dim: int, lanes: int) -> ReductionPlan:
    """The plan for a tile of this layout, whose warps exchange among `lanes` lanes (1: none do).

    By enumeration it is made sure that every element of the tile is joined exactly once.
    """
    f, joined = _split_lanes(layout.factors(), dim, lanes)
    strides = strides_of(f, f.thread)
    masks = [
        strides[name] << bit for name in joined for bit in range(f.extents[name].bit_length() - 1)
    ]
    plan = ReductionPlan(
        layout.reduction_registers(dim), tuple(sorted(masks)), _partial(f, dim, joined)
    )
    _check(plan, layout, dim)
    return plan


def _split_lanes(f: Factors, dim: int, lanes: int) -> tuple[Factors, set[Label]]:
    """The factors, and those of `dim` that are bits of the lane's number; others are cut so."""
    found: set[Label] = set()
    for name in f.dims[dim]:
        stride = strides_of(f, f.thread).get(name, 0)
        if not stride or stride & (stride - 1) or stride >= lanes:
            continue
        share = math.gcd(f.extents[name], lanes // stride)
        if share == 1:
            continue
        if share < f.extents[name]:
            f = f.split(name, share)
            name = (*name, 1)
        found.add(name)
    return f, found


def _partial(f: Factors, dim: int, joined: set[Label]) -> RegisterLayout:
    """The tile that is left: registers of `dim` gone, joined lanes copies, `dim` at the end."""
    mine = set(f.dims[dim])
    left = tuple(name for name in f.dims[dim] if name in f.thread and name not in joined)
    thread: tuple[Entry, ...] = tuple(-f.extent(x) if x in joined else x for x in f.thread)
    reg = tuple(x for x in f.reg if x not in mine)
    dims = (*f.dims[:dim], *f.dims[dim + 1 :], left)
    return RegisterLayout.of_factors(Factors(dims, f.extents, thread, reg))


def _check(plan: ReductionPlan, layout: RegisterLayout, dim: int) -> None:
    """Every lane that a mask names holds the same part of the result, and the parts that are left
    hold every element of the tile once.
    """
    places = plan.partial.coords()
    threads = np.arange(layout.threads)
    for mask in plan.masks:
        assert np.array_equal(places[threads ^ mask], places), f"lanes {mask} apart in {layout}"
    first = np.flatnonzero(plan.partial.is_primary())
    sets = first[:, None]
    for mask in plan.masks:
        sets = np.concatenate([sets, sets ^ mask], axis=1)
    coords = layout.coords()[sets]  # [parts, lanes, registers, rank]
    others = [d for d in range(layout.rank) if d != dim]
    for register, folded in enumerate(plan.folds):
        held = coords[:, :, list(folded)][..., others]
        wanted = places[first, register, :-1][:, None, None, :]
        assert (held == wanted).all(), f"register {register} of {layout} folds another element"
    flat = np.ravel_multi_index(tuple(np.moveaxis(coords, -1, 0)), layout.shape)
    counts = np.bincount(flat.ravel(), minlength=math.prod(layout.shape))
    assert (counts == 1).all(), f"an element of {layout} is not joined once"


@dataclass(frozen=True, slots=True)
class ScanStep:
    """One digit of the dimension, when all digits inside it are done: each element is then joined
    with all before it in its block, and `blocks` names the registers that hold a block's total.

    `over` says where the digit is: its value is digit `extent`, `stride` of the register's, the
    lane's or the thread's number. A block's elements in a thread are `blocks[i] + inside[j]`.
    `partial`, for threads: the tile of totals, this digit last.
    """

    over: Literal["register", "lane", "thread"]
    extent: int
    stride: int
    blocks: tuple[int, ...]
    inside: tuple[int, ...]
    partial: RegisterLayout


@lru_cache(maxsize=512)
def plan_scan(layout: RegisterLayout, dim: int, lanes: int) -> tuple[ScanStep, ...]:
    """The steps of a scan along `dim`, innermost digit first (1 lane: no shuffles)."""
    f, shuffled = _split_lanes(layout.factors(), dim, lanes)
    thread, register = strides_of(f, f.thread), strides_of(f, f.reg)
    steps = []
    for position in range(len(f.dims[dim]) - 1, -1, -1):
        name, done = f.dims[dim][position], set(f.dims[dim][position + 1 :])
        if f.extents[name] == 1:
            continue
        blocks = [x for x in f.reg if x not in done and x != name]
        steps.append(
            ScanStep(
                "register" if name in register else "lane" if name in shuffled else "thread",
                f.extents[name],
                register.get(name, thread.get(name, 0)),
                _numbers(f, blocks),
                _numbers(f, [x for x in f.dims[dim] if x in done and x in register]),
                _totals(f, dim, position),
            )
        )
    return tuple(steps)


def _numbers(f: Factors, names: Sequence[Entry]) -> tuple[int, ...]:
    """The registers that digits `names` count through, the others being 0."""
    strides = strides_of(f, f.reg)
    found = [0]
    for name in names:
        found = [r + i * strides[name] for r in found for i in range(f.extent(name))]
    return tuple(found)


def _totals(f: Factors, dim: int, position: int) -> RegisterLayout:
    """The tile of one element a block: digits of `dim` from `position` on inwards are gone, but
    for that one, which is a dimension of its own, at the end.
    """
    name, done = f.dims[dim][position], set(f.dims[dim][position + 1 :])
    dims = (*f.dims[:dim], f.dims[dim][:position], *f.dims[dim + 1 :], (name,))
    thread: tuple[Entry, ...] = tuple(-f.extent(x) if x in done else x for x in f.thread)
    reg = tuple(x for x in f.reg if x not in done)
    return RegisterLayout.of_factors(Factors(dims, f.extents, thread, reg))
