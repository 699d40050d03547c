"""The algebra of register layouts against their oracle, `coords`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import RegisterLayout, Term, blocked, mma_m16n8, replicated, wgmma_accumulator

from .strategies import register_layouts

FAST = settings(max_examples=60, deadline=None)


def by_hand(layout: RegisterLayout) -> np.ndarray:
    """coords, digit by digit, straight from the definition in the class's docstring."""
    flat = [extent for dim in layout.modes for extent in dim]
    owner = [d for d, dim in enumerate(layout.modes) for _ in dim]
    out = np.zeros((layout.threads, layout.registers, layout.rank), dtype=np.int64)
    for t, r in itertools.product(range(layout.threads), range(layout.registers)):
        digit = {}
        for source, entries in ((t, layout.thread), (r, layout.reg)):
            for entry in reversed(entries):
                extent = -entry if entry < 0 else flat[entry]
                digit[entry] = source % extent
                source //= extent
        for mode, extent in enumerate(flat):
            out[t, r, owner[mode]] = out[t, r, owner[mode]] * extent + digit[mode]
    return out


def evaluate(terms: tuple[Term, ...], sources: dict[object, np.ndarray]) -> np.ndarray:
    return sum((term.value(sources[term.source]) for term in terms), np.int64(0))


@FAST
@given(register_layouts(limit=128))
def test_coords_follow_the_definition(layout: RegisterLayout) -> None:
    assert np.array_equal(layout.coords(), by_hand(layout))


@FAST
@given(register_layouts())
def test_every_coordinate_is_held_replication_times(layout: RegisterLayout) -> None:
    flat = np.ravel_multi_index(tuple(np.moveaxis(layout.coords(), -1, 0)), layout.shape)
    _, counts = np.unique(flat, return_counts=True)
    assert len(counts) == math.prod(layout.shape)
    assert (counts == layout.replication).all()
    assert layout.threads * layout.registers == math.prod(layout.shape) * layout.replication


@FAST
@given(register_layouts())
def test_terms_equal_the_oracle(layout: RegisterLayout) -> None:
    coords = layout.coords()
    threads = np.arange(layout.threads)[:, None] + np.zeros(coords.shape[:2], dtype=np.int64)
    registers = np.arange(layout.registers)[None, :] + np.zeros(coords.shape[:2], dtype=np.int64)
    for dim in range(layout.rank):
        terms = layout.coordinate_terms(dim)
        value = evaluate(terms, {"thread": threads, "register": registers})
        assert np.array_equal(np.broadcast_to(value, coords.shape[:2]), coords[..., dim])
    thread, register = layout.owner(coords)
    assert np.array_equal(register, registers)
    primary = layout.is_primary()
    assert np.array_equal(thread[primary], threads[primary])
    assert np.array_equal(coords[thread, register], coords)
    replica = np.broadcast_to(evaluate(layout.replica_terms(), {"thread": threads}), threads.shape)
    assert sorted(set(replica.ravel())) == list(range(layout.replication))
    assert np.array_equal(replica[:, 0] == 0, primary)


def test_equality_is_equality_of_maps() -> None:
    """All layouts of one dimension of 8 or 12 over up to three modes: one form for each map."""
    seen: dict[bytes, RegisterLayout] = {}
    count = 0
    for modes in ((8,), (2, 4), (4, 2), (2, 2, 2), (12,), (2, 6), (3, 4), (2, 3, 2), (3, 2, 2)):
        for order in itertools.permutations(range(len(modes))):
            for cut in range(len(modes) + 1):
                for copies in ((), (-2,), (-2, -3), (-6,)):
                    layout = RegisterLayout(
                        (math.prod(modes),), (modes,), (*copies, *order[:cut]), order[cut:]
                    )
                    key = bytes([layout.threads]) + layout.coords().tobytes()
                    assert seen.setdefault(key, layout) == layout
                    count += 1
    assert count > len(seen) == len(set(seen.values()))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (((4,), ((2,),), (0,), ()), "multiply"),
        (((4,), ((4,),), (), ()), "each of the 1 modes once"),
        (((4,), ((4,),), (0,), (0,)), "once"),
        (((4,), ((2, 2),), (0, 2), ()), "once"),
        (((4,), ((4,),), (0,), (-2,)), "replication"),
        (((4, 4), ((4,),), (0,), ()), "dimensions"),
        (((0,), ((0,),), (0,), ()), ">= 1"),
    ],
)
def test_nonsense_is_refused(fields: tuple[object, ...], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        RegisterLayout(*fields)  # type: ignore[arg-type]


@FAST
@given(register_layouts(limit=32, max_rank=2), st.data())
def test_repeat_tiles(layout: RegisterLayout, data: st.DataObject) -> None:
    counts = tuple(data.draw(st.integers(1, 3)) for _ in layout.shape)
    order = tuple(data.draw(st.permutations(range(layout.rank))))
    for over in ("thread", "register"):
        tiled = layout.repeat(counts, over, order)
        assert tiled.shape == tuple(c * s for c, s in zip(counts, layout.shape, strict=True))
        tiles = itertools.product(*(range(counts[d]) for d in order))
        for number, tile in enumerate(tiles):
            at = np.zeros(layout.rank, dtype=np.int64)
            for d, index in zip(order, tile, strict=True):
                at[d] = index * layout.shape[d]
            if over == "thread":
                part = tiled.coords()[number * layout.threads :][: layout.threads]
            else:
                part = tiled.coords()[:, number * layout.registers :][:, : layout.registers]
            assert np.array_equal(part, layout.coords() + at)


@FAST
@given(register_layouts(), st.data())
def test_transpose(layout: RegisterLayout, data: st.DataObject) -> None:
    perm = data.draw(st.permutations(range(layout.rank)))
    assert np.array_equal(layout.transpose(perm).coords(), layout.coords()[..., perm])


@FAST
@given(register_layouts(extents=(1, 2, 4), limit=64), st.data())
def test_reshape_keeps_row_major_order(layout: RegisterLayout, data: st.DataObject) -> None:
    size = math.prod(layout.shape)
    first = data.draw(st.sampled_from([n for n in (1, 2, 4, 8, 16, 32, 64) if size % n == 0]))
    other = layout.reshape((first, size // first))
    before = np.ravel_multi_index(tuple(np.moveaxis(layout.coords(), -1, 0)), layout.shape)
    after = np.ravel_multi_index(tuple(np.moveaxis(other.coords(), -1, 0)), other.shape)
    assert np.array_equal(before, after)
    assert other.reshape(layout.shape) == layout


def test_reshape_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="sizes"):
        blocked((8,), 8).reshape((4,))
    with pytest.raises(ValueError, match="unevenly"):
        RegisterLayout((3, 2), ((3,), (2,)), (0,), (1,)).reshape((2, 3))


@FAST
@given(register_layouts(), st.data())
def test_slice_registers_selects_the_sub_tile(layout: RegisterLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank - 1))
    start = data.draw(st.integers(0, layout.shape[dim] - 1))
    extent = data.draw(st.integers(1, layout.shape[dim] - start))
    found = layout.slice_registers(dim, start, extent)
    coords = layout.coords()
    inside = (coords[..., dim] >= start) & (coords[..., dim] < start + extent)
    if found is None:
        assert not (inside == inside[0]).all() or not _is_product(layout, dim, start, extent)
        return
    part, registers = found
    assert part.shape[dim] == extent
    shift = np.zeros(layout.rank, dtype=np.int64)
    shift[dim] = start
    assert np.array_equal(part.coords() + shift, coords[:, list(registers)])
    assert len(registers) == int(inside[0].sum())


def _is_product(layout: RegisterLayout, dim: int, start: int, extent: int) -> bool:
    """Whether the range is one digit's range over whole inner digits, so a layout can say it."""
    for digit in layout.digits(dim):
        if start % digit.scale == 0 and extent % digit.scale == 0:
            return True
        if start // digit.scale != (start + extent - 1) // digit.scale:
            return False
    return False


def test_slice_registers_of_an_accumulator() -> None:
    acc = wgmma_accumulator(256)
    found = acc.slice_registers(1, 64, 64)
    assert found == (wgmma_accumulator(64), tuple(range(32, 64)))
    assert acc.slice_registers(0, 0, 16) is None
    assert acc.slice_registers(1, 4, 8) is None
    with pytest.raises(ValueError, match="outside"):
        acc.slice_registers(1, 250, 8)


@FAST
@given(register_layouts(), st.data())
def test_reduce_projects(layout: RegisterLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank - 1))
    reduced = layout.reduce(dim)
    kept = layout.reduce(dim, keep=True)
    rest = [d for d in range(layout.rank) if d != dim]
    assert reduced.threads == kept.threads == layout.threads
    assert kept.shape[dim] == 1
    assert np.array_equal(np.delete(kept.coords(), dim, axis=2), reduced.coords())
    groups = layout.reduction_registers(dim)
    assert sorted(r for group in groups for r in group) == list(range(layout.registers))
    for register, group in enumerate(groups):
        part = layout.coords()[:, list(group)]
        assert (part[..., rest] == reduced.coords()[:, register][:, None]).all()
        assert (np.diff(part[..., dim], axis=1) > 0).all()
    extent = reduced.replication // layout.replication
    assert extent * len(groups[0]) == layout.shape[dim]


@FAST
@given(register_layouts(), st.data())
def test_broadcast_undoes_reduce(layout: RegisterLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank))
    wide = layout.broadcast(dim, data.draw(st.sampled_from((1, 2, 3, 4, 8, 12))))
    assert wide.threads == layout.threads
    assert wide.reduce(dim) == layout
    narrow = layout.reduce(dim % layout.rank)
    extent = layout.shape[dim % layout.rank]
    assert narrow.broadcast(dim % layout.rank, extent, like=layout) == layout


def test_broadcast_declines_a_model_that_needs_other_threads() -> None:
    row = blocked((32,), 32)
    model = blocked((4, 32), 32, 4)
    assert row.broadcast(0, 4, like=model) != model
    assert row.broadcast(0, 4, like=model).reduce(0) == row


@FAST
@given(register_layouts(limit=64), register_layouts(limit=64))
def test_contains(a: RegisterLayout, b: RegisterLayout) -> None:
    def held(layout: RegisterLayout) -> list[set[tuple[int, ...]]]:
        return [{tuple(c) for c in row} for row in layout.coords().tolist()]

    assert a.contains(a)
    assert replicated(a.shape, a.threads).contains(a)
    for other in (b, a.transpose(tuple(reversed(range(a.rank))))):
        same = a.shape == other.shape and a.threads == other.threads
        want = same and all(x >= y for x, y in zip(held(a), held(other), strict=True))
        assert a.contains(other) == want


@FAST
@given(register_layouts(extents=(1, 2, 3, 4, 8)), st.data())
def test_vector_width_is_the_longest_run(layout: RegisterLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank - 1))
    coords = layout.coords()

    def runs(width: int) -> bool:
        if layout.registers % width:
            return False
        rows = coords.reshape(layout.threads, -1, width, layout.rank)
        step = np.zeros((width, layout.rank), dtype=np.int64)
        step[:, dim] = np.arange(width)
        straight = np.array_equal(rows, rows[:, :, :1] + step)
        return straight and not (rows[:, :, 0, dim] % width).any()

    width = layout.vector_width(dim)
    assert runs(width)
    assert not runs(2 * width)


def test_replicate() -> None:
    acc = mma_m16n8("c", 16, 16)
    twice = acc.replicate(2)
    assert (twice.threads, twice.replication) == (64, 2)
    assert np.array_equal(twice.coords()[32:], acc.coords())
    assert acc.replicate(1) == acc


@pytest.mark.parametrize(
    ("shape", "threads", "vector"),
    [((128, 64), 128, 8), ((8, 96), 128, 2), ((3, 5), 32, 1), ((64,), 128, 4), ((4, 4, 80), 64, 8)],
)
def test_blocked(shape: tuple[int, ...], threads: int, vector: int) -> None:
    layout = blocked(shape, threads, vector)
    assert (layout.shape, layout.threads) == (shape, threads)
    width = layout.vector_width()
    assert width % vector == 0
    flat = np.ravel_multi_index(tuple(np.moveaxis(layout.coords(), -1, 0)), shape)
    assert set(flat.ravel()) == set(range(math.prod(shape)))


def test_blocked_is_row_major_and_wraps() -> None:
    layout = blocked((16, 64), 128, 4)
    flat = np.ravel_multi_index(tuple(np.moveaxis(layout.coords(), -1, 0)), (16, 64))
    vectors = flat[:, ::4] // 4
    assert np.array_equal(vectors, np.arange(128)[:, None] + 128 * np.arange(2)[None, :])
    columns = blocked((16, 64), 128, 4, order=(1, 0))
    assert columns.vector_width(0) == 4
    assert np.array_equal(columns.coords()[0, :4, 0], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="divide"):
        blocked((16, 6), 32, 4)
    with pytest.raises(ValueError, match="permutation"):
        blocked((16, 6), 32, 2, order=(0, 0))
