"""What it takes to reduce a tile along a dimension: registers, lanes of a warp, then warps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

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
    f = layout.factors()
    masks: list[int] = []
    joined: set[Label] = set()
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
        joined.add(name)
        masks += [stride << bit for bit in range(share.bit_length() - 1)]
    plan = ReductionPlan(
        layout.reduction_registers(dim), tuple(sorted(masks)), _partial(f, dim, joined)
    )
    _check(plan, layout, dim)
    return plan


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
