"""Matrices whose outer dimension lies together in chunks of 8 or 16 bytes, and how threads fill them.

A matrix of K x N elements comes in rows of n. A lane of MFMA takes consecutive k of one n (CDNA3 ISA
manual, 7.1: m k / 64 elements), or those of two instructions at once. In memory of `chunked` that is
one read: chunk k / c of column n, c elements, is number (k / c) N + n of all chunks. Lanes that read
the chunks of consecutive n find them in different banks; the swizzle is for those that write: threads
hold v columns each, `crosswise`, and store one column after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from .register import RegisterLayout
from .shared import SharedLayout
from .swizzle import Swizzle

LINE_BITS = 1024  # that the banks serve at once
VECTOR_BITS = 128  # of a thread's widest access
WORD_BITS = 32  # of the narrowest store that pays


def chunked(shape: Sequence[int], bits: int, chunk: int) -> SharedLayout | None:
    """The layout of a matrix K x N of elements of `bits` bits in chunks of `chunk` elements along K;
    None where K is no multiple of a chunk, or N none of the chunks that banks serve at once.
    """
    if len(shape) != 2 or shape[0] % chunk or shape[1] % (LINE_BITS // (chunk * bits)):
        return None
    depth, width = shape
    exchanged = _exchanged(width, bits, chunk).bit_length() - 1
    line = (LINE_BITS // (chunk * bits)).bit_length() - 1
    swizzle = Swizzle(exchanged, chunk.bit_length() - 1, line)
    modes = ((depth // chunk, chunk), (width,))
    return SharedLayout((depth, width), modes, ((width * chunk, 1), (chunk,)), swizzle)


@lru_cache(maxsize=256)
def crosswise(shape: tuple[int, int], bits: int, chunk: int, threads: int) -> RegisterLayout | None:
    """Blocks of k x v elements a thread, v of a row in consecutive registers: rows are loaded in
    vectors of up to 16 bytes, columns of a block stored in others within a chunk. The block with the
    fewest accesses; None where threads and blocks do not divide each other.
    """
    held = shape[0] * shape[1] // threads
    found = [
        (held / k + held / v, -v, layout)
        for k, v in _blocks(
            chunk, min(VECTOR_BITS // bits, _exchanged(shape[1], bits, chunk)), held
        )
        if k * bits >= WORD_BITS and (layout := _blocked(shape, threads, chunk, k, v)) is not None
    ]
    return min(found, key=lambda entry: entry[:2])[2] if found else None


def _exchanged(width: int, bits: int, chunk: int) -> int:
    """How many chunks of a line are exchanged, which is how many columns a block may have. Half of
    them where reads of 16 bytes, whose phases are no consecutive lanes, would meet two lines apart.
    """
    line = LINE_BITS // (chunk * bits)
    apart = chunk * bits == VECTOR_BITS and width % (line * line)
    return line // 2 if apart else line


def _blocks(most_k: int, most_v: int, held: int) -> Iterator[tuple[int, int]]:
    """Powers of two whose product divides what a thread holds."""
    for k in (1 << n for n in range(1, most_k.bit_length())):
        for v in (1 << n for n in range(most_v.bit_length())):
            if held and held % (k * v) == 0:
                yield k, v


def _blocked(
    shape: tuple[int, int], threads: int, chunk: int, k: int, v: int
) -> RegisterLayout | None:
    """Consecutive threads take the blocks of a chunk, then columns, then chunks."""
    depth, width = shape
    parts = chunk // k
    if depth % chunk or width % v or threads % parts:
        return None
    chunks, columns, rest = depth // chunk, width // v, threads // parts
    across = min(rest, columns)
    if columns % across or rest % across or chunks % (rest // across):
        return None
    down = rest // across
    return RegisterLayout(
        shape,
        ((chunks // down, down, parts, k), (columns // across, across, v)),
        (1, 5, 2),
        (0, 4, 3, 6),
    )
