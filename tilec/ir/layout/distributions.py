"""Register layouts for tiles that no instruction prescribes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .factors import Entry, Factors, Label
from .register import RegisterLayout


def replicated(shape: Sequence[int], threads: int) -> RegisterLayout:
    """Every thread holds the whole tile, row-major in its registers."""
    rank = len(shape)
    modes = tuple((extent,) for extent in shape)
    return RegisterLayout(tuple(shape), modes, (-threads,), tuple(range(rank)))


def blocked(
    shape: Sequence[int], threads: int, vector: int = 1, order: Sequence[int] | None = None
) -> RegisterLayout:
    """Consecutive threads hold consecutive vectors, in row-major order, wrapping round.

    Where an extent and the number of threads do not divide each other, as many threads as divide
    it go along it and registers hold the rest; threads that are left over hold copies.

    Args:
        shape: extents of the tile.
        threads: how many threads share it.
        vector: consecutive elements a thread holds along the fastest dimension.
        order: the dimensions from the slowest to the fastest; row-major where it is not given.

    Raises:
        ValueError: `vector` does not divide the fastest extent, or `order` is no permutation.
    """
    rank = len(shape)
    order = tuple(range(rank)) if order is None else tuple(order)
    if sorted(order) != list(range(rank)):
        raise ValueError(f"order {order} is not a permutation of {rank} dimensions")
    if rank == 0 or vector < 1 or shape[order[-1]] % vector:
        raise ValueError(f"vectors of {vector} do not divide the tile {tuple(shape)}")
    dims: list[tuple[Label, ...]] = [()] * rank
    extents: dict[Label, int] = {}
    thread: list[Entry] = []
    reg: list[Entry] = []
    rest = threads
    for position, dim in enumerate(reversed(order)):
        width = vector if position == 0 else 1
        share = math.gcd(rest, shape[dim] // width)
        rest //= share
        outer, middle, inner = ((dim, k) for k in range(3))
        extents |= {outer: shape[dim] // width // share, middle: share, inner: width}
        dims[dim] = (outer, middle, inner)
        thread.insert(0, middle)
        reg.insert(0, outer)
        if position == 0:
            reg.append(inner)
    f = Factors(tuple(dims), extents, (-rest, *thread), _with_ones(dims, extents, reg))
    return RegisterLayout.of_factors(f)


def rows_over_warps(shape: Sequence[int], warps: int, lanes: int, vector: int) -> RegisterLayout:
    """Every warp holds whole rows, its lanes consecutive vectors of them, wrapping round.

    Warps that are more than the rows divide share rows; those that are left over hold copies.

    Raises:
        ValueError: the lanes' vectors do not divide a row.
    """
    if not shape or shape[-1] % (lanes * vector):
        raise ValueError(f"vectors of {vector} in {lanes} lanes do not divide rows of {shape}")
    span = (*(1 for _ in shape[:-1]), lanes * vector)
    layout, rest = blocked(span, lanes, vector), warps
    for dim in range(len(shape)):  # rows first, then along them
        share = math.gcd(rest, shape[dim] // span[dim])
        rest //= share
        layout = layout.repeat(tuple(share if d == dim else 1 for d in range(len(shape))), "thread")
    counts = tuple(n // have for n, have in zip(shape, layout.shape, strict=True))
    return layout.replicate(rest).repeat(counts, "register")


def _with_ones(
    dims: Sequence[Sequence[Label]], extents: dict[Label, int], reg: Sequence[Entry]
) -> tuple[Entry, ...]:
    """`reg` with the innermost factors of slower dimensions, which all have extent 1."""
    missing = [dim[-1] for dim in dims if dim[-1] not in reg]
    assert all(extents[name] == 1 for name in missing)
    return (*reg, *missing)
