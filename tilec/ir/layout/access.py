"""The offsets at which registers access shared memory, as short sums to print."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .register import RegisterLayout
from .shared import SharedLayout
from .term import Source, Term


@dataclass(frozen=True, slots=True)
class Access:
    """The offset of every register of every thread in a shared tile, in elements.

    offset = swizzle(sum of `thread_terms` + sum of `register_terms`). Where `constants` is not
    None, it also is (swizzle(sum of `thread_terms`) ^ x) + a with (x, a) = constants[register]: the
    swizzle is applied once a thread, and what varies by register is known to the compiler.
    """

    thread_terms: tuple[Term, ...]
    register_terms: tuple[Term, ...]
    constants: tuple[tuple[int, int], ...] | None
    vector: int
    """Elements that consecutive registers hold at consecutive, aligned offsets; a power of two."""


class _Piece(NamedTuple):
    """A stretch of a dimension within one digit of the register layout and one shared mode."""

    source: Source
    divisor: int
    extent: int
    stride: int


@lru_cache(maxsize=1024)
def access_terms(layout: SharedLayout, access: RegisterLayout) -> Access | None:
    """How threads with registers in `access` address a tile that lies in shared memory as `layout`.

    Returns:
        None where the modes of the two cut a dimension at places that do not divide each other, so
        that no sum of terms exists; coordinates, then `offset_terms`, always serve.

    Raises:
        ValueError: the shapes differ.
    """
    if layout.shape != access.shape:
        raise ValueError(f"access to {access.shape} of a tile of {layout.shape}")
    pieces: list[_Piece] = []
    for dim in range(layout.rank):
        found = _pieces(layout, access, dim)
        if found is None:
            return None
        pieces += found
    terms = {
        source: _joined([p for p in pieces if p.source == source], limit)
        for source, limit in (("thread", access.threads), ("register", access.registers))
    }
    constants = _constants(layout, access, terms["thread"], terms["register"])
    vector = min(layout.vector_width(), access.vector_width())
    return Access(terms["thread"], terms["register"], constants, vector)


def _pieces(layout: SharedLayout, access: RegisterLayout, dim: int) -> list[_Piece] | None:
    """One dimension, cut wherever either layout cuts it; None where the cuts do not divide."""
    modes = []
    scale = layout.shape[dim]
    for extent, stride in zip(layout.modes[dim], layout.strides[dim], strict=True):
        scale //= extent
        modes.append((scale, extent, stride))
    digits = access.digits(dim)
    cuts = sorted({1, layout.shape[dim], *(m[0] for m in modes), *(d.scale for d in digits)})
    out = []
    for low, high in pairwise(cuts):
        if high % low:
            return None
        digit = next(d for d in digits if d.scale <= low < d.scale * d.extent)
        base, _, stride = next(m for m in modes if m[0] <= low < m[0] * m[1])
        divisor = digit.stride * (low // digit.scale)
        out.append(_Piece(digit.source, divisor, high // low, stride * (low // base)))
    return out


def _joined(pieces: list[_Piece], limit: int) -> tuple[Term, ...]:
    """Terms of one source, whose index is below `limit`: neighbours that step alike are one."""
    runs: list[_Piece] = []
    for piece in sorted(pieces, key=lambda p: p.divisor):
        last = runs[-1] if runs else None
        if (
            last is not None
            and piece.divisor == last.divisor * last.extent
            and piece.stride == last.stride * last.extent
        ):
            runs[-1] = last._replace(extent=last.extent * piece.extent)
        else:
            runs.append(piece)
    return tuple(
        Term(p.source, p.divisor, None if p.divisor * p.extent == limit else p.extent, p.stride)
        for p in reversed(runs)
    )


def _constants(
    layout: SharedLayout,
    access: RegisterLayout,
    thread_terms: tuple[Term, ...],
    register_terms: tuple[Term, ...],
) -> tuple[tuple[int, int], ...] | None:
    """The pair of each register, if the swizzle of the sum splits; checked for all threads."""
    thread = np.zeros(access.threads, dtype=np.int64)
    for term in thread_terms:
        thread = thread + term.value(np.arange(access.threads, dtype=np.int64))
    register = np.zeros(access.registers, dtype=np.int64)
    for term in register_terms:
        register = register + term.value(np.arange(access.registers, dtype=np.int64))
    moved = layout.swizzle.apply(register)
    exchanged = moved & layout.swizzle.mask
    added = moved - exchanged
    split = (layout.swizzle.apply(thread)[:, None] ^ exchanged) + added
    if not np.array_equal(split, layout.swizzle.apply(thread[:, None] + register)):
        return None
    return tuple((int(x), int(a)) for x, a in zip(exchanged, added, strict=True))
