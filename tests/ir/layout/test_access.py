"""Offsets of registers in shared tiles against both oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import (
    RegisterLayout,
    SharedLayout,
    Swizzle,
    Term,
    access_terms,
    blocked,
    mma_m16n8,
    wgmma_accumulator,
)

from .strategies import register_layouts, shared_layouts


def check(layout: SharedLayout, access: RegisterLayout) -> bool:
    """Whether the access has terms; where it has, they are compared with every element."""
    found = access_terms(layout, access)
    if found is None:
        return False
    want = layout.offsets()[tuple(np.moveaxis(access.coords(), -1, 0))]
    thread = np.zeros(access.threads, dtype=np.int64)
    for term in found.thread_terms:
        assert term.source == "thread"
        thread += term.value(np.arange(access.threads))
    register = np.zeros(access.registers, dtype=np.int64)
    for term in found.register_terms:
        assert term.source == "register"
        register += term.value(np.arange(access.registers))
    assert np.array_equal(layout.swizzle.apply(thread[:, None] + register), want)
    if found.constants is not None:
        x, a = np.array(found.constants).T
        assert np.array_equal((layout.swizzle.apply(thread)[:, None] ^ x) + a, want)
    runs = want.reshape(access.threads, -1, found.vector)
    assert np.array_equal(runs, runs[..., :1] + np.arange(found.vector))
    assert not (runs[..., 0] % found.vector).any()
    return True


@settings(max_examples=100, deadline=None)
@given(register_layouts(extents=(1, 2, 4), max_rank=2), shared_layouts(), st.data())
def test_random_pairs(access: RegisterLayout, other: SharedLayout, data: st.DataObject) -> None:
    """A register layout over a row-major, padded or swizzled tile; then over any of its size."""
    swizzle = other.swizzle
    pad = data.draw(st.sampled_from((0, 0, 1, 8)))
    rows = SharedLayout.row_major(access.shape, pad)
    assert check(SharedLayout(rows.shape, rows.modes, rows.strides, swizzle), access)
    size = math.prod(other.shape)
    if other.rank == 1:
        check(other, blocked(other.shape, 4))
        check(other, RegisterLayout((size,), ((size,),), (), (0,)))


def test_sixteen_byte_stores_into_a_swizzled_tile() -> None:
    layout = SharedLayout.swizzled((64, 64), 16, 128)
    store = blocked((64, 64), 128, 8)
    assert check(layout, store)
    found = access_terms(layout, store)
    assert found is not None
    assert found.thread_terms == (Term("thread", 1, None, 8),)
    assert found.vector == 8
    # Rows 16 apart: the swizzle repeats, so registers add constants.
    assert found.constants is not None
    assert [found.constants[r] for r in (0, 8, 16, 24)] == [(0, 0), (0, 1024), (0, 2048), (0, 3072)]


def test_the_accumulator_exchanges_chunks_and_adds_rows() -> None:
    layout = SharedLayout.swizzled((64, 128), 16, 128)
    assert check(layout, wgmma_accumulator(128))
    found = access_terms(layout, wgmma_accumulator(128))
    assert found is not None
    assert found.constants is not None
    assert found.constants[2] == (0, 8 * 64)
    assert found.constants[4] == (8, 0)
    assert found.constants[32] == (0, 64 * 64)
    assert {x for x, _ in found.constants} == {8 * chunk for chunk in range(8)}
    assert check(SharedLayout.row_major((16, 8), pad=1), mma_m16n8("c", 16, 16))


def test_a_carry_forbids_the_split() -> None:
    """Rows of 12 elements: register steps carry into the swizzled bits."""
    access = RegisterLayout((8, 12), ((8,), (4, 3)), (0, 2), (1,))
    layout = SharedLayout((8, 12), ((8,), (12,)), ((12,), (1,)), Swizzle(2, 0, 2))
    assert check(layout, access)
    found = access_terms(layout, access)
    assert found is not None
    assert found.constants is None


def test_cuts_that_do_not_divide() -> None:
    access = RegisterLayout((6,), ((3, 2),), (0,), (1,))
    layout = SharedLayout((6,), ((2, 3),), ((8, 1),), Swizzle.none())
    assert access_terms(layout, access) is None
    with pytest.raises(ValueError, match="tile"):
        access_terms(layout, blocked((8,), 4))
