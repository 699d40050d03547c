"""Shared layouts and swizzles against their oracle, `offsets`."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilec.ir.layout import SharedLayout, Swizzle, choose_swizzle

from .strategies import shared_layouts

FAST = settings(max_examples=60, deadline=None)


def by_hand(layout: SharedLayout) -> np.ndarray:
    """offsets, coordinate by coordinate, from the definition."""
    out = np.zeros(layout.shape, dtype=np.int64)
    for at in itertools.product(*(range(n) for n in layout.shape)):
        offset = 0
        for index, modes, strides in zip(at, layout.modes, layout.strides, strict=True):
            for extent, stride in zip(reversed(modes), reversed(strides), strict=True):
                offset += index % extent * stride
                index //= extent
        s = layout.swizzle
        chosen = offset >> (s.base + s.shift) & ((1 << s.bits) - 1)
        out[at] = offset ^ (chosen << s.base)
    return out


@FAST
@given(shared_layouts())
def test_offsets_follow_the_definition(layout: SharedLayout) -> None:
    offsets = by_hand(layout)
    assert np.array_equal(layout.offsets(), offsets)
    assert layout.is_injective == (len(set(offsets.ravel())) == offsets.size)
    assert layout.is_injective, "a swizzle of an injective layout is injective"
    assert layout.size == offsets.max() + 1


@pytest.mark.parametrize(
    "layout",
    [
        SharedLayout.row_major((24, 40)), SharedLayout.swizzled((64, 64), 16, 128),
        SharedLayout.swizzled((3, 16, 128), 16, 128), SharedLayout.swizzled((4, 64), 16, 128),
        SharedLayout((6, 8), ((2, 3), (8,)), ((8, 16), (1,)), Swizzle.none()),
        SharedLayout.row_major((8, 16)).transpose((1, 0)),
    ],
)  # fmt: skip
def test_coordinates_of_a_dense_layout_are_those_of_its_offsets(layout: SharedLayout) -> None:
    assert layout.is_dense
    offsets = layout.linear().offsets()
    for dim, coordinate in enumerate(np.indices(layout.shape)):
        terms = layout.coordinate_terms(dim)
        assert np.array_equal(sum(t.value(offsets) for t in terms), coordinate)


def test_gaps_are_not_dense() -> None:
    assert not SharedLayout.row_major((8, 16), pad=1).is_dense
    assert not SharedLayout((4, 4), ((4,), (4,)), ((4,), (0,)), Swizzle.none()).is_dense


def test_not_injective() -> None:
    assert not SharedLayout((4,), ((4,),), ((0,),), Swizzle.none()).is_injective


@FAST
@given(shared_layouts())
def test_terms_equal_the_oracle(layout: SharedLayout) -> None:
    index = np.indices(layout.shape)
    total = np.zeros(layout.shape, dtype=np.int64)
    for term in layout.offset_terms():
        total += term.value(index[term.source])
    assert np.array_equal(layout.swizzle.apply(total), layout.offsets())
    assert np.array_equal(layout.linear().offsets(), total)


@FAST
@given(shared_layouts(), st.data())
def test_vector_width_is_the_longest_run(layout: SharedLayout, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, layout.rank - 1))
    rows = np.moveaxis(layout.offsets(), dim, -1)

    def runs(width: int) -> bool:
        return layout.shape[dim] % width == 0 and all(
            row[i] % width == 0 and list(row[i : i + width]) == list(range(row[i], row[i] + width))
            for row in rows.reshape(-1, layout.shape[dim])
            for i in range(0, layout.shape[dim], width)
        )

    width = layout.vector_width(dim)
    assert runs(width)
    assert not runs(2 * width)


@FAST
@given(shared_layouts(), st.data())
def test_transpose(layout: SharedLayout, data: st.DataObject) -> None:
    perm = data.draw(st.permutations(range(layout.rank)))
    assert np.array_equal(layout.transpose(perm).offsets(), layout.offsets().transpose(perm))


@FAST
@given(shared_layouts())
def test_from_function_finds_every_layout(layout: SharedLayout) -> None:
    found = SharedLayout.from_function(layout.shape, lambda *index: layout.offsets()[index])
    assert np.array_equal(found.offsets(), layout.offsets())
    if layout.swizzle.bits == 0:
        assert found == layout


def test_from_function_of_users() -> None:
    swizzled = SharedLayout.swizzled((128, 64), 16, 128)
    by_offset = SharedLayout.from_function((128, 64), lambda i, j: i * 64 + (j ^ ((i % 8) * 8)))
    by_index = SharedLayout.from_function(
        (128, 64), lambda i, j: [i, (j // 8 ^ (i % 8)) * 8 + j % 8]
    )
    half = SharedLayout.from_function(
        (128, 32), lambda i, j: (i, (j // 8 ^ (i // 2 % 4)) * 8 + j % 8)
    )
    assert by_offset == by_index == swizzled
    assert half == SharedLayout.swizzled((128, 32), 16, 64)
    assert SharedLayout.from_function((8, 6), lambda i, j: (j, i)) == SharedLayout.row_major(
        (6, 8)
    ).transpose((1, 0))
    padded = SharedLayout.from_function((8, 64), lambda i, j: i * 72 + j)
    assert padded == SharedLayout.row_major((8, 64), pad=8)


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda i, j: i * 64 + (j + i) % 64, "no sum of strides"),
        (lambda i, j: (i * i) * 64 + j, "no sum of strides"),
        (lambda i, j: i * 64 + j + 1, "offset 0"),
        (lambda i, j: i * 64 - j, "negative offset"),
        (lambda i, j: (i - 1, j), "negative index"),
        (lambda i, j: i * 1e3, "integers"),
        (lambda i, j: i * (1 << 30), "out of reach"),
    ],
)
def test_from_function_refuses_with_a_reason(fn: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SharedLayout.from_function((16, 64), fn)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("span", [32, 64, 128])
def test_swizzle_on_byte_addresses(bits: int, span: int) -> None:
    """addr[6:4] ^= addr[9:7], addr[5:4] ^= addr[8:7], addr[4] ^= addr[7]."""
    swizzle = Swizzle.for_bytes(span, bits)
    mask = {128: 7, 64: 3, 32: 1}[span]
    offset = np.arange(4096)
    address = offset * bits // 8
    want = address ^ ((address >> 7 & mask) << 4)
    assert np.array_equal(swizzle.apply(offset) * bits // 8, want)
    assert np.array_equal(swizzle.apply(swizzle.apply(offset)), offset)
    assert swizzle.period * bits // 8 == 8 * span
    assert swizzle.span(bits) == span


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
def test_swizzle_of_larger_chunks(bits: int) -> None:
    """Those of 32 bytes: addr[6:5] ^= addr[8:7], of rows of 64 addr[5] ^= addr[7]; of 64 addr[6] ^= addr[7].
    The lines of 128 bytes are permuted by the same bits, whatever moves in them."""
    address = np.arange(0, 4096, bits // 8)
    for span, chunk, mask in ((128, 32, 3), (64, 32, 1), (128, 64, 1)):
        swizzle = Swizzle.for_bytes(span, bits, chunk)
        want = address ^ (address >> 7 & mask) * chunk
        assert np.array_equal(swizzle.apply(address * 8 // bits) * bits // 8, want)
        assert swizzle.period * bits // 8 == 128 * span // chunk and swizzle.span(bits) is None
    assert Swizzle.for_bytes(32, bits, 32) == Swizzle.none()
    tile = SharedLayout.swizzled((16, 512 // bits), bits, 64, 32)
    assert tile.is_dense and tile.vector_width() == 256 // bits


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "span", "chunk_xor"),
    [
        (64, 64, 16, 128, lambda row: row & 7),
        (64, 32, 16, 64, lambda row: row >> 1 & 3),
        (64, 16, 16, 32, lambda row: row >> 2 & 1),
        (64, 128, 8, 128, lambda row: row & 7),
    ],
)
def test_swizzled_rows(rows: int, columns: int, bits: int, span: int, chunk_xor: object) -> None:
    """The chunk of 16 bytes in a row moves by the XOR with the row's bits."""
    layout = SharedLayout.swizzled((rows, columns), bits, span)
    each = 128 // bits
    for row in range(rows):
        for column in range(columns):
            chunk = column // each ^ chunk_xor(row)  # type: ignore[operator]
            assert layout.offsets()[row, column] == row * columns + chunk * each + column % each


def test_swizzled_column_blocks_lie_one_after_another() -> None:
    layout = SharedLayout.swizzled((3, 16, 128), 16, 128)
    block = SharedLayout.swizzled((16, 64), 16, 128).offsets()
    for stage, part in itertools.product(range(3), range(2)):
        got = layout.offsets()[stage, :, 64 * part : 64 * part + 64]
        assert np.array_equal(got, block + stage * 16 * 128 + part * 16 * 64)
    assert layout.size == math.prod(layout.shape)
    assert SharedLayout.swizzled((64,), 16, 128).size == 64
    assert SharedLayout.swizzled((8, 8), 16, 0) == SharedLayout.row_major((8, 8))


def test_choose_swizzle() -> None:
    assert [choose_swizzle((8, n), 16) for n in (64, 192, 32, 96, 16, 48, 8, 7)] == [
        128, 128, 64, 64, 32, 32, 0, 0,
    ]  # fmt: skip
    assert choose_swizzle((8, 128), 6) == 0


def test_equal_maps_are_equal() -> None:
    one = SharedLayout((8, 8), ((8,), (8,)), ((8,), (1,)), Swizzle.none())
    two = SharedLayout((8, 8), ((2, 4), (1, 4, 2)), ((32, 8), (7, 2, 1)), Swizzle(0, 3, 2))
    assert one == two == SharedLayout.row_major((8, 8))
    assert hash(one) == hash(two)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Swizzle(3, 0, 2),
        lambda: Swizzle(-1, 0, 2),
        lambda: Swizzle.for_bytes(48, 16),
        lambda: Swizzle.for_bytes(128, 6),
        lambda: Swizzle.for_bytes(64, 16, 128),
        lambda: Swizzle.for_bytes(128, 16, 8),
        lambda: SharedLayout.swizzled((8, 60), 16, 128),
        lambda: SharedLayout.row_major((8, 8), -1),
        lambda: SharedLayout((8,), ((4,),), ((1,),), Swizzle.none()),
        lambda: SharedLayout((8,), ((8,),), ((-1,),), Swizzle.none()),
        lambda: SharedLayout((8,), (), (), Swizzle.none()),
        lambda: SharedLayout.row_major((8, 8)).transpose((0, 0)),
    ],
)
def test_nonsense_is_refused(build: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        build()  # type: ignore[operator]
