"""Bank conflicts of shared memory, by enumeration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from .register import RegisterLayout
from .shared import SharedLayout
from .swizzle import CHUNK_BYTES, SPANS
from .term import IntArray

BANK_BYTES = 4

Machine = Literal["cuda", "cdna-read", "cdna-write"]

_CDNA_READ_16 = tuple(
    tuple(range(half + a, half + a + 4)) + tuple(range(half + b, half + b + 4))
    for half in (0, 32)
    for a, b in ((0, 20), (4, 16), (8, 28), (12, 24))
)
"""Lanes that ds_read_b128 serves together (AMD's Composable Kernel documentation, "LDS bank
conflicts"); ds_write_b128 takes eight consecutive ones."""


def access_phases(machine: Machine, width: int, lanes: int) -> tuple[tuple[int, ...], ...]:
    """The groups of lanes whose accesses of `width` bytes are served together.

    On NVIDIA a quarter of a warp at 16 bytes, half of it at 8, all of it below. On CDNA likewise as
    many consecutive lanes as fill 128 bytes, but for reads of 16 bytes: `_CDNA_READ_16`.

    Args:
        machine: "cuda", or CDNA's reads or writes.
        width: bytes a lane accesses, a power of two up to 16.
        lanes: lanes of the warp or wave.

    Raises:
        ValueError: there is no access of that width.
    """
    if width not in (1, 2, 4, 8, 16):
        raise ValueError(f"no access of {width} bytes: 1, 2, 4, 8 or 16")
    if machine == "cdna-read" and width == 16 and lanes == 64:
        return _CDNA_READ_16
    group = min(lanes, 32, 128 // width)
    return tuple(tuple(range(i, min(i + group, lanes))) for i in range(0, lanes, group))


def bank_conflicts(
    addresses: IntArray, width: int, phases: Sequence[Sequence[int]], banks: int = 32
) -> int:
    """How often the busiest bank is accessed in one phase; 1 is free of conflicts.

    Lanes that access the same word are served at once.

    Args:
        addresses: byte addresses, int [..., lanes]; the worst of all leading indices counts.
        width: bytes that each lane accesses from its address on.
        phases: groups of lanes that are served together.
        banks: number of banks of 4 bytes.
    """
    rows = addresses.reshape(-1, addresses.shape[-1])
    words = max(1, width // BANK_BYTES)
    steps = np.arange(words, dtype=np.int64)
    worst = 1
    for phase in phases:
        first = rows[:, list(phase)] // BANK_BYTES
        touched = (first[:, :, None] + steps).reshape(len(rows), -1)
        touched.sort(axis=1)
        fresh = np.ones_like(touched, dtype=bool)
        fresh[:, 1:] = touched[:, 1:] != touched[:, :-1]
        counts = np.zeros((len(rows), banks), dtype=np.int64)
        row = np.broadcast_to(np.arange(len(rows))[:, None], touched.shape)
        np.add.at(counts, (row[fresh], touched[fresh] % banks), 1)
        worst = max(worst, int(counts.max()))
    return worst


@lru_cache(maxsize=1024)
def conflict_degree(
    layout: SharedLayout,
    itemsize_bits: int,
    access: RegisterLayout,
    machine: Machine = "cuda",
    warp_size: int = 32,
) -> int:
    """The worst number of times a bank is hit when threads access a tile by vectors; 1 is ideal.

    Args:
        layout: where the tile lies in shared memory.
        itemsize_bits: width of an element.
        access: which element each register of each thread loads or stores. Vectors are as wide as
            both layouts allow along the last dimension, at most 16 bytes.
        machine: whose phases count.
        warp_size: lanes that access together.

    Raises:
        ValueError: the shapes differ.
    """
    if layout.shape != access.shape:
        raise ValueError(f"access to {access.shape} of a tile of {layout.shape}")
    limit = 128 // itemsize_bits
    vector = min(layout.vector_width(), access.vector_width(), limit)
    coords = access.coords()[:, ::vector]
    offsets = layout.offsets()[tuple(np.moveaxis(coords, -1, 0))]
    lanes = min(warp_size, access.threads)
    rows = offsets.reshape(-1, lanes, offsets.shape[1]).swapaxes(1, 2)
    width = max(1, vector * itemsize_bits // 8)
    phases = access_phases(machine, width, lanes)
    return bank_conflicts(rows * itemsize_bits // 8, width, phases)


@lru_cache(maxsize=1024)
def quietest_layout(
    shape: tuple[int, ...], itemsize_bits: int, access: RegisterLayout, by_tma: bool = False
) -> SharedLayout:
    """The layout of rows, swizzled or plain, under which `access` hits a bank least often on an
    NVIDIA machine; of equals the one of the widest span, which copies of whole rows write in the
    fewest cycles, and by the smallest chunks.

    Args:
        shape: of the tile.
        itemsize_bits: width of an element.
        access: which element each register of each thread loads.
        by_tma: only layouts that TMA fills.
    """
    row = shape[-1] * itemsize_bits
    chunks = (CHUNK_BYTES,) if by_tma else (CHUNK_BYTES, *SPANS[::-1])
    swizzles = [(s, c) for s in SPANS for c in chunks if row % (s * 8) == 0 and c <= s]
    layouts = [SharedLayout.swizzled(shape, itemsize_bits, *swizzle) for swizzle in swizzles]
    layouts.append(SharedLayout.row_major(shape))
    return min(layouts, key=lambda layout: conflict_degree(layout, itemsize_bits, access))


@lru_cache(maxsize=1024)
def ldmatrix_conflicts(layout: SharedLayout, itemsize_bits: int) -> int:
    """The worst number of times a bank is hit by one 8 x 16-byte matrix of ldmatrix or stmatrix.

    The matrices are eight consecutive rows from a multiple of eight, and 16 bytes of the last
    dimension.

    Raises:
        ValueError: `layout` has no such rows (see `ldmatrix_rows`).
    """
    chunk = 128 // itemsize_bits
    if not ldmatrix_rows(layout, itemsize_bits):
        raise ValueError(f"ldmatrix cannot read {layout}")
    starts = layout.offsets()[..., ::chunk].reshape(
        -1, *layout.shape[-2:-1], _chunks(layout, chunk)
    )
    rows = starts.swapaxes(1, 2).reshape(-1, 8)
    return bank_conflicts(rows * itemsize_bits // 8, 16, (range(8),))


def ldmatrix_rows(layout: SharedLayout, itemsize_bits: int) -> bool:
    """Whether ldmatrix can read any 8 rows x 16 bytes: each row contiguous and 16-byte aligned."""
    chunk = 128 // itemsize_bits
    return (
        layout.rank >= 2
        and itemsize_bits in (4, 8, 16, 32)
        and layout.shape[-2] % 8 == 0
        and layout.shape[-1] % chunk == 0
        and layout.vector_width() >= chunk
    )


def _chunks(layout: SharedLayout, chunk: int) -> int:
    return layout.shape[-1] // chunk
