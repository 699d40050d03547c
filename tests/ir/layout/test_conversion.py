"""Conversions, executed on data: after one, every register holds the element its layout says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import (
    Conversion,
    RegisterLayout,
    blocked,
    classify,
    mfma,
    mma_m16n8,
    replicated,
    wgmma_a,
    wgmma_accumulator,
)

from .strategies import register_layouts

FAST = settings(max_examples=80, deadline=None)


def elements(layout: RegisterLayout) -> np.ndarray:
    """The number of the element in each register of each thread."""
    return np.ravel_multi_index(tuple(np.moveaxis(layout.coords(), -1, 0)), layout.shape)


def execute(conversion: Conversion, src: RegisterLayout, warp: int, registers: int) -> np.ndarray:
    """What each register of each thread holds after the conversion of a tile in `src`."""
    data = elements(src)
    if conversion.kind in ("same", "permute"):
        return data[:, list(conversion.registers)]
    out = np.full((src.threads, registers), -1, dtype=np.int64)
    lane = np.arange(src.threads) % min(warp, src.threads)
    base = np.arange(src.threads) - lane
    for step in conversion.steps:
        source = step.source_lane(lane)
        assert ((source >= 0) & (source < warp)).all()
        chosen = np.array([bool(step.lanes >> int(x) & 1) for x in lane])
        assert (out[chosen, step.dst_register] == -1).all(), "written twice"
        assert step.moves == bool((source != lane)[chosen].any())
        out[chosen, step.dst_register] = data[base + source, step.src_register][chosen]
    return out


def check(src: RegisterLayout, dst: RegisterLayout, warp: int = 32) -> Conversion:
    conversion = classify(src, dst, warp)
    if conversion.kind != "shared":
        assert np.array_equal(execute(conversion, src, warp, dst.registers), elements(dst))
    return conversion


@FAST
@given(register_layouts(extents=(1, 2, 4), max_rank=2, limit=64), st.data())
def test_conversions_deliver(src: RegisterLayout, data: st.DataObject) -> None:
    """Between a layout and its own factors in another order, warps of 8 lanes."""
    f = src.factors()
    names = [x for dim in f.dims for x in dim]
    order = data.draw(st.permutations(names))
    cut = data.draw(st.integers(0, len(names)))
    copies = data.draw(st.sampled_from([(), (-2,), (-4,)]))
    numbers = {x: i for i, x in enumerate(names)}
    dst = RegisterLayout(
        src.shape,
        src.modes,
        (*copies, *(numbers[x] for x in order[:cut])),
        tuple(numbers[x] for x in order[cut:]),
    )
    conversion = check(src, dst, 8)
    if src.threads == dst.threads <= 8:
        # Within one warp there are steps always; shared memory wins only where it is cheaper.
        assert conversion.kind != "shared" or conversion.cost <= 2 * dst.registers * src.registers
    if src == dst:
        assert (conversion.kind, conversion.cost) == ("same", 0.0)


def test_kinds() -> None:
    acc = mma_m16n8("c", 16, 16)
    swapped = RegisterLayout((16, 8), acc.modes, acc.thread, (3, 0))
    assert check(acc, acc).kind == "same"
    permute = check(acc, swapped)
    assert (permute.kind, permute.registers) == ("permute", (0, 2, 1, 3))
    assert check(replicated((4,), 32), replicated((2, 2), 32).reshape((4,))).kind == "same"
    assert check(wgmma_accumulator(64), wgmma_a(16).repeat((1, 4), "register")).kind == "same"
    assert check(acc, blocked((16, 8), 32, 4)).kind == "shuffle"
    assert check(blocked((64, 64), 128, 8), wgmma_accumulator(64)).kind == "shared"
    assert check(blocked((16, 8), 64), blocked((16, 8), 32)).kind == "shared"


def test_a_replica_in_the_own_warp_is_preferred() -> None:
    """A row held by every warp is rearranged without leaving the warp."""
    src = RegisterLayout((32,), ((32,),), (-4, 0), ())
    dst = RegisterLayout((32,), ((4, 8),), (-4, 1, 0), ())
    assert check(src, dst).kind == "shuffle"
    assert [step.moves for step in classify(src, dst, 32).steps] == [True]


def test_choice_of_a_register_by_lane_is_a_select() -> None:
    src = replicated((4,), 32)
    dst = RegisterLayout((4,), ((4,),), (-8, 0), ())
    conversion = check(src, dst)
    assert conversion.kind == "shuffle"
    assert not any(step.moves for step in conversion.steps)


def test_choice_of_a_register_by_warp_goes_through_shared_memory() -> None:
    """A shuffle's steps are the same in every warp, so a register that follows the warp is none."""
    dst = RegisterLayout((4,), ((4,),), (0, -32), ())
    assert replicated((4,), 128).contains(dst)
    assert check(replicated((4,), 128), dst).kind == "shared"


def test_mfma_score_to_operand_costs_something_unless_transposed() -> None:
    score = mfma("c", 16, 16, 16, 16)
    operand = mfma("a", 16, 16, 16, 16)
    assert check(score.transpose((1, 0)), operand, 64).kind == "same"
    assert check(score, operand, 64).cost > 0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        classify(blocked((8,), 8), blocked((4,), 4), 32)
