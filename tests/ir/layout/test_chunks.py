"""Chunks of consecutive k, and the blocks by which threads fill them: every element once, reads and
writes free of bank conflicts in the phases of each width."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tilec.ir.layout import access_phases, bank_conflicts, chunked, crosswise

WAVE = 64
CASES = [
    (shape, bits, chunk_bits // bits, threads)
    for shape in ((32, 64), (32, 128), (64, 128), (64, 256), (32, 96), (16, 64))
    for bits in (8, 16, 32)
    for chunk_bits in (64, 128)
    for threads in (64, 128, 256, 512)
]


@pytest.mark.parametrize("shape", [(32, 64), (64, 128), (48, 96), (16, 8), (8, 16)])
@pytest.mark.parametrize(("bits", "chunk"), [(8, 16), (8, 8), (16, 8), (16, 4), (32, 4), (32, 2)])
def test_chunks_lie_together_and_are_read_without_conflicts(
    shape: tuple[int, int], bits: int, chunk: int
) -> None:
    layout = chunked(shape, bits, chunk)
    line = 1024 // (bits * chunk)
    if shape[0] % chunk or shape[1] % line:
        assert layout is None
        return
    assert layout is not None and layout.is_injective
    assert layout.vector_width(0) == chunk and layout.vector_width(1) == 1
    # A lane reads a chunk; of 16 or 32 lanes with consecutive n each group has its own chunk.
    width = bits * chunk // 8
    for columns in (16, 32):
        lane = np.arange(WAVE)
        n = lane % columns % shape[1]
        k = lane // columns * chunk % shape[0]
        address = layout.offsets()[k, n] * bits // 8
        assert bank_conflicts(address, width, access_phases("cdna-read", width, WAVE)) == 1


@pytest.mark.parametrize(("shape", "bits", "chunk", "threads"), CASES)
def test_blocks_cover_the_matrix_and_are_stored_without_conflicts(
    shape: tuple[int, int], bits: int, chunk: int, threads: int
) -> None:
    layout, blocks = chunked(shape, bits, chunk), crosswise(shape, bits, chunk, threads)
    held = shape[0] * shape[1] // threads
    if layout is None or blocks is None:
        # too few elements for a block of two k, or parts that do not divide each other
        assert layout is None or held * bits < 64 or shape[1] & (shape[1] - 1)
        return
    coords = blocks.coords()
    assert coords.shape == (threads, held, 2)
    flat = coords[..., 0] * shape[1] + coords[..., 1]
    assert np.array_equal(np.sort(flat.ravel()), np.arange(shape[0] * shape[1]))
    down = next(d for d in blocks.digits(0) if (d.scale, d.source) == (1, "register"))
    count = math.gcd(down.extent, chunk)  # of a store: a thread may hold several chunks
    width = count * bits // 8
    assert width >= 4 and blocks.vector_width(1) * bits <= 128
    phases = access_phases("cdna-write", width, WAVE)
    offsets = layout.offsets()
    for register in range(held):
        if register // down.stride % count:
            continue  # not the first of its column
        for wave in range(threads // WAVE):
            k, n = coords[wave * WAVE : (wave + 1) * WAVE, register].T
            run = offsets[k[:, None] + np.arange(count), n[:, None]]
            assert (np.diff(run, axis=1) == 1).all()
            assert bank_conflicts(run[:, 0] * bits // 8, width, phases) == 1
