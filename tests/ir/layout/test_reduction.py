"""Plans of reductions and scans over any layout: run in NumPy, register by register and lane by
lane, they give NumPy's result in every thread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import (
    RegisterLayout,
    blocked,
    plan_reduction,
    plan_scan,
    rows_over_warps,
    wgmma_accumulator,
)

from .strategies import register_layouts


def reduce_by_plan(layout: RegisterLayout, dim: int, lanes: int, x: np.ndarray) -> None:
    """Follows the plan; fails unless every thread ends with its part of the sum."""
    plan = plan_reduction(layout, dim, lanes)
    held = x[tuple(np.moveaxis(layout.coords(), -1, 0))]
    part = np.stack([held[:, list(folded)].sum(1) for folded in plan.folds], axis=1)
    threads = np.arange(layout.threads)
    for mask in plan.masks:
        part = part + part[threads ^ mask]
    places = tuple(np.moveaxis(plan.partial.coords(), -1, 0))
    groups = np.zeros(plan.partial.shape, x.dtype)
    groups[places] = part
    assert np.array_equal(groups[places], part), "copies of a part differ"
    assert np.array_equal(groups.sum(-1), x.sum(dim))
    assert plan.partial.reduce(-1) == layout.reduce(dim)


@settings(max_examples=80, deadline=None)
@given(register_layouts(), st.data())
def test_any_layout_reduces(layout: RegisterLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank - 1))
    lanes = data.draw(st.sampled_from([1, 2, 8, 32, 64]))
    x = np.random.default_rng(0).integers(-50, 50, layout.shape)
    reduce_by_plan(layout, dim, lanes, x)


@settings(max_examples=80, deadline=None)
@given(register_layouts(), st.data())
def test_steps_of_a_scan_are_the_digits(layout: RegisterLayout, data: st.DataObject) -> None:
    """Their extents make up the dimension, and a step's blocks and elements all registers."""
    dim = data.draw(st.integers(0, layout.rank - 1))
    steps = plan_scan(layout, dim, data.draw(st.sampled_from([1, 4, 32])))
    assert np.prod([step.extent for step in steps], dtype=int) == layout.shape[dim]
    for step in steps:
        ahead = range(step.extent) if step.over == "register" else range(1)
        places = [b + i + d * step.stride for b in step.blocks for i in step.inside for d in ahead]
        assert sorted(places) == list(range(layout.registers))


@pytest.mark.parametrize(
    ("shape", "warps", "lanes", "vector"),
    [((4, 256), 4, 32, 8), ((1, 1024), 4, 32, 4), ((3, 512), 4, 64, 8), ((2, 3, 256), 8, 32, 8)],
)
def test_rows_over_warps(shape: tuple[int, ...], warps: int, lanes: int, vector: int) -> None:
    layout = rows_over_warps(shape, warps, lanes, vector)
    assert layout.shape == shape and layout.threads == warps * lanes
    assert layout.vector_width() >= vector
    seen = np.zeros(shape, int)
    coords = layout.coords()
    np.add.at(seen, tuple(np.moveaxis(coords, -1, 0)), 1)
    assert (seen == layout.replication).all()
    first = coords[:lanes, 0, -1]
    assert np.array_equal(first, np.arange(lanes) * vector), "lanes side by side"
    if shape[0] % warps == 0:
        assert not plan_reduction(layout, len(shape) - 1, lanes).groups > 1
    with pytest.raises(ValueError, match="do not divide"):
        rows_over_warps((4, 24), warps, lanes, vector)


def test_what_an_accumulator_takes() -> None:
    """Rows of wgmma: two shuffles; of rows over all warps: the lanes, then the warps."""
    assert plan_reduction(wgmma_accumulator(128), 1, 32).masks == (1, 2)
    assert plan_reduction(wgmma_accumulator(128), 1, 32).groups == 1
    plan = plan_reduction(blocked((1, 1024), 128, 8), 1, 32)
    assert plan.masks == (1, 2, 4, 8, 16) and plan.groups == 4
    assert plan_reduction(blocked((1, 1024), 128, 8), 1, 1).groups == 128
