"""Layouts of tiles and of Parallel nests that nothing else prescribes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from ..ir.core import Block, Op, Value, walk
from ..ir.layout import VECTOR_BITS, RegisterLayout, blocked, rows_over_warps
from ..ir.ops.control import For, If, Parallel, While
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.rewrite import defining_ops
from ..ir.types import Space, TileType
from ..target import Target
from .affine import affine, depends
from .dependence import tile_type

_Access = Load | Store
MANY = 16  # registers of a tile in a thread, from which on fewer are worth more than wide vectors


def default_layout(tile: TileType, threads: int, target: Target) -> RegisterLayout:
    """Rows over threads in vectors of 16 bytes, or as wide as the row divides."""
    vector = VECTOR_BITS // tile.dtype.bits
    while vector > 1 and (tile.shape[-1] % vector or _too_wide(tile, vector, threads)):
        vector //= 2
    return _dealt(tile.shape, vector, threads, target)


def nest_layout(nest: Parallel, threads: int, target: Target) -> RegisterLayout | None:
    """Of the iterations of a nest. None where a nest without fragments is better dealt out vector by
    vector, as it would leave idle threads that could have shortened the work.
    """
    vector = nest_vector(nest, threads)
    layout = _spread(nest.extents, vector, threads, target)
    if nest.reads or nest.updates:
        return _dealt(nest.extents, vector, threads, target)
    vectors = math.prod(nest.extents) // vector
    return None if layout.registers // vector > -(-vectors // threads) else layout


def nest_vector(nest: Parallel, threads: int) -> int:
    """How many iterations along the last index a thread takes at once: 16 bytes of the first tile, or
    of the widest element that has vectors, or as many as divide the extent. Without tiles no more
    than leave a vector for every thread, and one where no tensor has any: neighbouring threads then
    take neighbouring elements. Iterations that loop take turns only where there are more than threads.
    """
    tile = next((v for v in (*nest.updates, *nest.reads)), None)
    bits = tile_type(tile).dtype.bits if tile is not None else _element_bits(nest)
    vector = max(1, VECTOR_BITS // bits)
    size = math.prod(nest.extents)
    busy = threads if size >= threads else size if _loops(nest) else 0
    while vector > 1 and (nest.extents[-1] % vector or (tile is None and size // vector < busy)):
        vector //= 2
    return vector


def _loops(nest: Parallel) -> bool:
    return any(isinstance(op, For | While) for op in walk(nest.body))


def _element_bits(nest: Parallel) -> int:
    """The widest element that the nest loads or stores, of those that change along the last index:
    the others, an entry of a table of rows, are no parts of vectors.
    """
    last = frozenset({nest.body.params[len(nest.extents) - 1]})
    made_by = defining_ops(nest.body)
    every = [op for op in walk(nest.body) if isinstance(op, (Load, Store))]
    along = [op for op in every if any(depends(i, last, made_by) for i in op.indices)]
    tensors = [op for op in along if memory_type(op.memory).space is Space.GLOBAL]
    same_side = {*_unconditional(nest.body, last, made_by)}
    runs = [op for op in tensors if op in same_side and _may_run(op, tensors, last, made_by)]
    if tensors and not runs:
        return VECTOR_BITS
    return max((memory_type(op.memory).dtype.bits for op in along or every), default=32)


def _unconditional(
    block: Block, last: frozenset[Value], made_by: Mapping[Value, Op]
) -> Iterator[Op]:
    """The ops of a nest that iterations next to each other run together."""
    for op in block.ops:
        yield op
        if isinstance(op, If) and not depends(op.condition, last, made_by):
            yield from _unconditional(op.then, last, made_by)
            yield from _unconditional(op.orelse, last, made_by)


def _may_run(
    access: _Access, others: Sequence[_Access], last: frozenset[Value], made_by: Mapping[Value, Op]
) -> bool:
    """Whether an access may be at consecutive elements in consecutive iterations, alone or with the
    others of its tensor: not one that strides, runs along another dimension, or is where a load
    says.
    """
    loaded = frozenset(
        op.result
        for op in made_by.values()
        if isinstance(op, Load) and any(depends(i, last, made_by) for i in op.indices)
    )
    if any(depends(i, loaded, made_by) for i in access.indices):
        return False
    if not memory_type(access.memory).unit_stride:
        return False
    *outer, inner = (affine(i, last, made_by) for i in access.indices)
    if any(form is not None and form.coefficients for form in outer):
        return False
    together = sum(op.memory is access.memory for op in others)
    return inner is None or 0 < sum(inner.coefficients.values()) <= together


def _dealt(shape: tuple[int, ...], vector: int, threads: int, target: Target) -> RegisterLayout:
    """As _spread, in narrower vectors where these leave fewer registers of many: an extent whose
    vectors no power of two divides is held by few threads.
    """
    widest = _spread(shape, vector, threads, target)
    if widest.registers <= MANY:
        return widest
    narrower = (vector >> n for n in range(vector.bit_length()))
    return min((_spread(shape, v, threads, target) for v in narrower), key=lambda x: x.registers)


def _spread(shape: tuple[int, ...], vector: int, threads: int, target: Target) -> RegisterLayout:
    """Rows over warps where a warp takes whole vectors of one, so that what is joined along rows
    stays in warps; else one vector after the other over all threads.
    """
    lanes = target.warp_size
    if threads % lanes == 0 and shape[-1] % (vector * lanes) == 0:
        return rows_over_warps(shape, threads // lanes, lanes, vector)
    return blocked(shape, threads, vector)


def _too_wide(tile: TileType, vector: int, threads: int) -> bool:
    size = math.prod(tile.shape)
    return size // vector < threads and size >= threads
