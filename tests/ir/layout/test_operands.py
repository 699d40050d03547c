"""TMA boxes and wgmma descriptors, by walking memory as the hardware does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from tilec.ir.layout import (
    SharedLayout,
    Swizzle,
    TmaBoxes,
    WgmmaOperand,
    box_bytes,
    tma_boxes,
    wgmma_operand,
)

SPAN = {0: 0, 1: 128, 2: 64, 3: 32}


def xor(address: int, span: int) -> int:
    """The hardware's permutation of absolute addresses."""
    mask = {0: 0, 32: 1, 64: 3, 128: 7}[span]
    return address ^ ((address >> 7 & mask) << 4)


def written_by_tma(boxes: TmaBoxes, shape: tuple[int, ...], itemsize: int) -> np.ndarray:
    """Byte address of every element after all boxes have landed."""
    out = np.full(shape, -1, dtype=np.int64)
    for index in itertools.product(*(range(n) for n in boxes.counts)):
        base = sum(i * s for i, s in zip(index, boxes.steps, strict=True)) * itemsize
        for number, inside in enumerate(itertools.product(*(range(n) for n in boxes.box))):
            at = tuple(i * b + j for i, b, j in zip(index, boxes.box, inside, strict=True))
            assert out[at] == -1
            out[at] = xor(base + number * itemsize, boxes.span)
    return out


@pytest.mark.parametrize(
    ("layout", "itemsize", "box", "span"),
    [
        (SharedLayout.swizzled((64, 64), 16, 128), 2, (64, 64), 128),
        (SharedLayout.swizzled((16, 192), 16, 128), 2, (16, 64), 128),
        (SharedLayout.swizzled((32, 128), 8, 128), 1, (32, 128), 128),
        (SharedLayout.swizzled((32, 64), 8, 32), 1, (32, 32), 32),
        (SharedLayout.swizzled((512, 16), 16, 32), 2, (256, 16), 32),
        (SharedLayout.swizzled((3, 16, 128), 16, 128), 2, (1, 16, 64), 128),
        (SharedLayout.swizzled((2, 8, 64), 16, 128), 2, (2, 8, 64), 128),
        (SharedLayout.row_major((24, 40)), 2, (24, 40), 0),
        (SharedLayout.row_major((4, 512)), 2, (1, 256), 0),
        (SharedLayout.row_major((64,)), 4, (64,), 0),
        (SharedLayout.swizzled((4, 64), 16, 128), 2, (4, 64), 128),
    ],
)
def test_boxes_write_the_layout(
    layout: SharedLayout, itemsize: int, box: tuple[int, ...], span: int
) -> None:
    boxes = tma_boxes(layout, 8 * itemsize)
    assert boxes is not None
    assert (boxes.box, boxes.span) == (box, span)
    got = written_by_tma(boxes, layout.shape, itemsize)
    assert np.array_equal(got, layout.offsets() * itemsize)
    assert box_bytes(boxes, 8 * itemsize) == np.prod(box) * itemsize


@pytest.mark.parametrize(
    ("layout", "height"),
    [
        (SharedLayout.swizzled((64, 64), 16, 128), 0),
        (SharedLayout.swizzled((16, 192), 16, 128), 0),
        (SharedLayout.swizzled((512, 16), 16, 32), None),
        (SharedLayout.swizzled((3, 16, 128), 16, 128), 1),
        (SharedLayout.swizzled((2, 8, 64), 16, 128), 0),
        (SharedLayout.swizzled((1, 24, 64), 16, 64), 1),
        (SharedLayout.row_major((24, 40)), 0),
        (SharedLayout.row_major((4, 512)), None),
        (SharedLayout.row_major((64,)), None),
    ],
)
def test_what_lower_boxes_hold_lies_as_in_whole_ones(
    layout: SharedLayout, height: int | None
) -> None:
    boxes = tma_boxes(layout, 16)
    assert boxes is not None and boxes.height == height
    if height is None:
        return
    for rows in {1, layout.shape[height] // 2 + 1, layout.shape[height] - 1}:
        box = tuple(rows if d == height else n for d, n in enumerate(boxes.box))
        got = written_by_tma(replace(boxes, box=box), layout.shape, 2)
        inside = tuple(slice(rows) if d == height else slice(None) for d in range(layout.rank))
        assert np.array_equal(got[inside], layout.offsets()[inside] * 2)


@pytest.mark.parametrize(
    ("layout", "part", "box"),
    [
        (SharedLayout.swizzled((64, 192), 16, 128), (64, 192), (64, 64)),
        (SharedLayout.swizzled((64, 192), 16, 128), (32, 192), (32, 64)),
        (SharedLayout.swizzled((64, 192), 16, 128), (64, 64), (64, 64)),
        (SharedLayout.swizzled((64, 192), 16, 128), (8, 128), (8, 64)),
        (SharedLayout.swizzled((64, 192), 16, 128), (64, 32), None),
        (SharedLayout.swizzled((64, 192), 16, 128), (4, 192), None),
        (SharedLayout.row_major((64, 192)), (64, 96), None),
        (SharedLayout.swizzled((2, 16, 64), 16, 128), (1, 16, 64), None),
        (SharedLayout.swizzled((512, 16), 16, 32), (256, 16), (256, 16)),
        (SharedLayout.swizzled((512, 16), 16, 32), (128, 16), None),
    ],
)
def test_a_part_of_a_tile_is_boxes_where_they_lie_in_it(
    layout: SharedLayout, part: tuple[int, ...], box: tuple[int, ...] | None
) -> None:
    boxes = tma_boxes(layout, 16)
    assert boxes is not None
    found = boxes.part(part)
    assert (found and found.box) == box
    if found is not None:
        inside = tuple(slice(n) for n in part)
        assert np.array_equal(written_by_tma(found, part, 2), layout.offsets()[inside] * 2)


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        (SharedLayout.row_major((64, 64), pad=8), 16),
        (SharedLayout.row_major((64, 4)), 16),
        (SharedLayout.row_major((64, 16)).transpose((1, 0)), 16),
        (SharedLayout((64, 64), ((64,), (64,)), ((64,), (1,)), Swizzle(3, 2, 3)), 16),
        (SharedLayout((64, 64), ((64,), (64,)), ((64,), (1,)), Swizzle(3, 3, 4)), 16),
        (SharedLayout.swizzled((12, 128), 16, 128), 16),
        (SharedLayout((8, 128), ((8,), (128,)), ((128,), (1,)), Swizzle(3, 3, 3)), 16),
        (SharedLayout.row_major((8, 64)), 6),
        (SharedLayout.row_major((2,) * 6), 16),
    ],
)
def test_what_tma_cannot_write(layout: SharedLayout, bits: int) -> None:
    assert tma_boxes(layout, bits) is None


def read_by_wgmma(found: WgmmaOperand, mn: int, k: int, itemsize: int) -> np.ndarray:
    """Byte address at which the instructions of a tile [MN, K] read each element.

    Canonical layouts of the PTX manual, element by element, the swizzle on absolute addresses.
    """
    span = SPAN[found.swizzle]
    out = np.zeros((mn, k), dtype=np.int64)
    step = 32 // itemsize
    for i, j in itertools.product(range(mn), range(k)):
        kk = j % step
        if found.major == "k" and span:
            at = i % 8 * span + i // 8 * found.sbo + kk * itemsize
        elif found.major == "k":
            at = i % 8 * 16 + i // 8 * found.sbo + kk * itemsize // 16 * found.lbo
            at += kk * itemsize % 16
        elif span:
            width = span // itemsize
            at = i % width * itemsize + i // width * found.lbo + kk % 8 * span + kk // 8 * found.sbo
        else:
            at = i % 8 * itemsize + i // 8 * found.sbo + kk % 8 * 16 + kk // 8 * found.lbo
        out[i, j] = xor(found.k_offsets[j // step] + at, span)
    return out


def core_matrices(mn: int, k: int, itemsize: int, k_outer: bool) -> SharedLayout:
    """Unswizzled [MN, K]: 8 rows x 16 bytes contiguous, such blocks in one of two orders."""
    each = 16 // itemsize
    block = 8 * each
    row, column = (block, mn // 8 * block) if k_outer else (k // each * block, block)
    return SharedLayout(
        (mn, k), ((mn // 8, 8), (k // each, each)), ((row, each), (column, 1)), Swizzle.none()
    )


@pytest.mark.parametrize(
    ("layout", "major", "itemsize", "swizzle", "lbo", "sbo", "steps"),
    [
        (SharedLayout.swizzled((128, 64), 16, 128), "k", 2, 1, 16, 1024, (0, 32, 64, 96)),
        (SharedLayout.swizzled((64, 128), 8, 128), "k", 1, 1, 16, 1024, (0, 32, 64, 96)),
        (SharedLayout.swizzled((64, 32), 32, 128), "k", 4, 1, 16, 1024, (0, 32, 64, 96)),
        (SharedLayout.swizzled((64, 32), 16, 64), "k", 2, 2, 16, 512, (0, 32)),
        (SharedLayout.swizzled((64, 16), 16, 32), "k", 2, 3, 16, 256, (0,)),
        (
            SharedLayout.swizzled((64, 128), 16, 128),
            "k",
            2,
            1,
            16,
            1024,
            (0, 32, 64, 96, 8192, 8224, 8256, 8288),
        ),
        (core_matrices(64, 32, 2, True), "k", 2, 0, 1024, 128, (0, 2048)),
        (core_matrices(64, 32, 2, False), "k", 2, 0, 128, 512, (0, 256)),
        # MN-major: shape [K, MN]; LBO = BK * span bytes, SBO = 8 spans
        (SharedLayout.swizzled((32, 256), 16, 128), "mn", 2, 1, 32 * 128, 1024, (0, 2048)),
        (SharedLayout.swizzled((32, 96), 16, 64), "mn", 2, 2, 32 * 64, 512, (0, 1024)),
        (SharedLayout.swizzled((32, 48), 16, 32), "mn", 2, 3, 32 * 32, 256, (0, 512)),
        (core_matrices(32, 64, 2, False), "mn", 2, 0, 1024, 128, (0, 2048)),
    ],
)
def test_descriptors_read_the_layout(
    layout: SharedLayout,
    major: str,
    itemsize: int,
    swizzle: int,
    lbo: int,
    sbo: int,
    steps: tuple[int, ...],
) -> None:
    found = wgmma_operand(layout, major, 8 * itemsize)  # type: ignore[arg-type]
    assert found is not None
    assert (found.swizzle, found.lbo, found.sbo) == (swizzle, lbo, sbo)
    assert found.k_offsets == steps
    by_mn = layout.offsets() if major == "k" else layout.offsets().T
    mn, k = by_mn.shape
    assert np.array_equal(read_by_wgmma(found, mn, k, itemsize), by_mn * itemsize)
    linear = layout.linear().offsets() if major == "k" else layout.linear().offsets().T
    if mn > 64:
        assert found.mn_step == linear[64, 0] * itemsize
    for rows in range(0, mn, 64):
        assert found.mn_offset(rows) == linear[rows, 0] * itemsize
    assert found.alignment == max(128, 8 * SPAN[swizzle])


@pytest.mark.parametrize(
    ("layout", "major", "bits"),
    [
        (SharedLayout.row_major((64, 64)), "k", 16),
        (SharedLayout.row_major((64, 64), pad=8), "k", 16),
        (SharedLayout.swizzled((64, 64), 8, 64), "mn", 8),
        (SharedLayout.swizzled((12, 64), 16, 128), "k", 16),
        (SharedLayout.swizzled((2, 64, 64), 16, 128), "k", 16),
        (SharedLayout.swizzled((64, 64), 64, 128), "k", 64),
        (SharedLayout.swizzled((64, 64), 16, 64), "mn", 8),
        (SharedLayout((64, 64), ((64,), (64,)), ((64,), (1,)), Swizzle(3, 2, 3)), "k", 16),
        (SharedLayout((64, 128), ((64,), (128,)), ((128,), (1,)), Swizzle(3, 3, 3)), "k", 16),
        # Groups of eight rows that start inside a swizzle atom.
        (SharedLayout((64, 64), ((8, 8), (64,)), ((576, 64), (1,)), Swizzle(3, 3, 3)), "k", 16),
    ],
)
def test_what_wgmma_cannot_read(layout: SharedLayout, major: str, bits: int) -> None:
    assert wgmma_operand(layout, major, bits) is None  # type: ignore[arg-type]


def test_a_descriptor_starts_at_whole_units() -> None:
    found = wgmma_operand(SharedLayout.swizzled((128, 64), 16, 128), "k", 16)
    assert found is not None
    assert found.mn_offset(24) == 3 * 1024
    with pytest.raises(ValueError, match="multiple of 8"):
        found.mn_offset(12)
