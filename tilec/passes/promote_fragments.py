"""Fragment handles become SSA tiles.

Needs: a tile-level program as the frontend leaves it. Leaves: no fragment allocs and no handle of a
fragment outside Parallel bodies; a fragment written in a loop or branch is a carried value of it.

    %acc = alloc : fragment f32[128, 256]          %0 = splat 0.0 : tile f32[128, 256]
    fill %acc, 0.0                                 %2 = for %lo, %hi, 1 [%0] (%k, %1: tile ...) {
    for %lo, %hi, 1 (%k) {                  ->       %n = gemm %As, %Bs, %1
      gemm %As, %Bs, %acc                            yield [%n]
    }                                              }
    copy %acc[0, 0], %C[...]                       %3 = cast %2 <dtype = f16>
                                                   store_tile %3, %C[...]

An asynchronous product leaves its accumulator in flight, and a `wait_gemms` becomes a `wait` of
each fragment that is: those whose products are all older than what may be pending are tiles again.
What a loop or branch may leave in flight it carries so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from ..errors import LanguageError
from ..ir.core import (
    Access,
    Block,
    Op,
    Program,
    Value,
    at,
    constant,
    constant_of,
    walk,
    with_results,
)
from ..ir.dtypes import i32
from ..ir.ops.arith import Cast
from ..ir.ops.control import For, If, Parallel, While, Yield
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Load, Store, View, memory_type
from ..ir.ops.pipeline import WaitGemms
from ..ir.ops.reduce import Reduce, Reduction, Scan
from ..ir.ops.tile import Copy, ExtractTile, Fill, InsertTile, LoadTile, Splat, StoreTile
from ..ir.types import InflightType
from .context import PassContext
from .fragment_tiles import (
    Ages,
    Tiles,
    aged,
    ages_after,
    ages_in_loop,
    define,
    held_by,
    hold,
    is_fragment,
    issue,
    land,
    latest,
    need_same_block,
    tile_type_of,
)


def promote_fragments(program: Program, context: PassContext) -> Program:
    """Rewrites every fragment handle into tile values. Raises LanguageError for uses that cannot be
    tiles.
    """
    views = {op.result: op for op in walk(program.body) if isinstance(op, View)}
    return program.with_body(_block(program.body, Tiles({}, views), (), ()))


def _block(
    block: Block,
    tiles: Tiles,
    params: tuple[Value, ...],
    out: tuple[Value, ...],
    flying: Ages | None = None,
) -> Block:
    """The block with fragments promoted. `out`: handles whose tiles it yields in addition; those of
    `flying` in flight.
    """
    ops: list[Op] = []
    for op in block.ops:
        with at(op.loc), op.loc:
            if isinstance(op, Yield):
                last = (latest(h, tiles, ops, h in (flying or {})) for h in out)
                ops.append(Yield((*op.values, *last)))
                continue
            after = dict(aged(op, tiles.ages, tiles))
            _RULES.get(type(op), _other)(op, tiles, ops)
            tiles.ages.clear()
            tiles.ages.update(after)
    return Block((*block.params, *params), tuple(ops))


def _other(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    """An op without fragments of its own: promote inside its regions, refuse handles elsewhere."""
    for value in op.inputs:
        if is_fragment(value):
            raise LanguageError(
                "TLC0311",
                f"{op.name} uses fragment {value.hint!r} element by element",
                hint="access fragments in T.Parallel, T.copy, T.fill or T.gemm",
            )
    changes: dict[str, Block] = {}
    for name, kind in op.fields:
        if kind == "region":
            _need_landed(getattr(op, name), tiles)
            changes[name] = _block(getattr(op, name), tiles.branch(), (), ())
    ops.append(op.replace(**changes) if changes else op)


def _need_landed(block: Block, tiles: Tiles) -> None:
    """Raises LanguageError where products are still in flight at the end of a launch or a role."""
    left = ages_after(block, {}, tiles)
    for op in walk(block):
        if isinstance(op, Gemm) and op.asynchronous and tiles.fragment(op.accumulator) in left:
            name = op.accumulator.hint or "a fragment"
            raise LanguageError(
                "TLC0317",
                f"{name} may still be written when the threads end: nobody waits for this product",
                loc=op.loc,
                hint="T.wait_wgmma(0) behind the last one",
            )


def _alloc(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    if not is_fragment(op.result):
        ops.append(op)


def _fill(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, Fill)
    if is_fragment(op.memory):
        define(op.memory, Splat(op.value, shape=tile_type_of(op.memory).shape), tiles, ops)
    else:
        ops.append(op)


def _gemm(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, Gemm)
    kept = op.asynchronous
    a, b = (held_by(v, tiles, ops, kept) if is_fragment(v) else v for v in (op.a, op.b))
    if not is_fragment(op.accumulator):
        raise LanguageError(
            "TLC0312", "gemm accumulates into a fragment", hint="use T.alloc_fragment"
        )
    if op.asynchronous:
        handle = op.accumulator
        issue(op.replace(accumulator=latest(handle, tiles, ops), a=a, b=b), handle, tiles, ops)  # type: ignore[arg-type]
        return
    if op.clear:
        type_ = tile_type_of(op.accumulator)
        ops.append(Splat(constant(0, type_.dtype), shape=type_.shape))
        accumulator = ops[-1].result
    else:
        accumulator = held_by(op.accumulator, tiles, ops)
    define(op.accumulator, op.replace(a=a, b=b, accumulator=accumulator, clear=False), tiles, ops)


def _wait_gemms(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, WaitGemms)
    land(op, tiles, ops)


def _reduction(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    """The whole source as a tile, reduced in the accumulation dtype; then what is asked of the
    destination.
    """
    assert isinstance(op, Reduction)

    def append(op: Op) -> Value:
        ops.append(op)
        return op.result

    (destination,) = op.destination
    changes: dict[str, object] = {"source": _whole(op.source, tiles, ops), "destination": ()}
    if isinstance(op, Reduce):
        changes["clear"] = True
    found = append(op.replace(**changes))
    if isinstance(op, Reduce) and not op.clear:
        old = _whole(destination, tiles, ops)
        found = op.join(append, found, op.element(append, old))
    target = memory_type(destination)
    if op.dtype != target.dtype:
        found = append(Cast(found, dtype=target.dtype))
    if is_fragment(destination):
        found.hint = destination.hint
        hold(destination, found, tiles, ops)
    else:
        rank = len(target.shape)
        zeros = (constant(0, i32),) * rank
        ops.append(StoreTile(found, destination, zeros, dims=tuple(range(rank))))


def _whole(handle: Value, tiles: Tiles, ops: list[Op]) -> Value:
    """All of a fragment or of shared memory as a tile."""
    if is_fragment(handle):
        return held_by(handle, tiles, ops)
    shape = tuple(int(d) for d in memory_type(handle).shape)
    zeros = (constant(0, i32),) * len(shape)
    ops.append(LoadTile(handle, zeros, shape=shape, dims=tuple(range(len(shape)))))
    return ops[-1].result


def _copy(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, Copy)
    source, destination = is_fragment(op.source), is_fragment(op.destination)
    if not source and not destination:
        ops.append(op)
        return
    op = _with_single_rows(op, op.source if source else op.destination)
    if source:
        tile = _read(op, tiles, ops)
    else:
        load = LoadTile(
            op.source,
            op.source_indices,
            shape=op.shape,
            dims=op.source_dims,
            safe_value=op.safe_value,
        )
        ops.append(load)
        tile = load.result
    target = memory_type(op.destination)
    if tile.type.dtype != target.dtype:  # type: ignore[attr-defined]
        ops.append(Cast(tile, dtype=target.dtype))
        tile = ops[-1].result
    if destination:
        _write(op, tile, tiles, ops)
    else:
        ops.append(
            StoreTile(tile, op.destination, op.destination_indices, dims=op.destination_dims)
        )


def _with_single_rows(op: Copy, fragment: Value) -> Copy:
    """The copy along dimensions of the fragment of which the region has one element too, where the
    other side has dimensions that may stand for them.
    """
    held, other = op.source_dims, op.destination_dims
    if fragment is not op.source:
        held, other = other, held
    pairs = list(zip(held, other, op.shape, strict=True))
    rank = len(memory_type(op.destination if fragment is op.source else op.source).shape)
    for dim in range(len(memory_type(fragment).shape)):
        at = sum(d < dim for d, _, _ in pairs)
        before = pairs[at - 1][1] if at else -1
        after = pairs[at][1] if at < len(pairs) else rank
        if dim not in held and after - before > 1:
            pairs.insert(at, (dim, after - 1, 1))
    if len(pairs) == len(held):
        return op
    held, other, shape = (tuple(values) for values in zip(*pairs, strict=True))
    if fragment is not op.source:
        held, other = other, held
    return op.replace(shape=shape, source_dims=held, destination_dims=other)  # type: ignore[return-value]


def _offsets(
    op: Copy, handle: Value, indices: tuple[Value, ...], dims: tuple[int, ...]
) -> tuple[int, ...]:
    """The constant corner of a region of a fragment. Its dimensions must all take part."""
    numbers = tuple(constant_of(i) for i in indices)
    if len(dims) != len(memory_type(handle).shape) or any(n is None for n in numbers):
        raise LanguageError(
            "TLC0313",
            f"a region of fragment {handle.hint!r} must have constant corners and all of its "
            "dimensions",
            hint="registers cannot be indexed at run time",
        )
    return tuple(int(n) for n in numbers if n is not None)


def _read(op: Copy, tiles: Tiles, ops: list[Op]) -> Value:
    offsets = _offsets(op, op.source, op.source_indices, op.source_dims)
    tile = held_by(op.source, tiles, ops)
    if op.shape == tile_type_of(op.source).shape:
        return tile
    ops.append(ExtractTile(tile, offsets=offsets, shape=op.shape))
    return ops[-1].result


def _write(op: Copy, tile: Value, tiles: Tiles, ops: list[Op]) -> None:
    handle = op.destination
    offsets = _offsets(op, handle, op.destination_indices, op.destination_dims)
    if op.shape == tile_type_of(handle).shape:
        hold(handle, tile, tiles, ops)
    else:
        define(handle, InsertTile(tile, held_by(handle, tiles, ops), offsets=offsets), tiles, ops)


def _parallel(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, Parallel)
    body = op.body.with_ops([inner for inner in op.body.ops if not isinstance(inner, View)])
    written = _written(body)
    read = _read_ways(body, written)
    _one_shape(op, tiles, written, [handle for handle, _ in read])
    keys = (*read, *((v, ()) for v in written))
    inner = [Value(memory_type(v), v.hint) for v, _ in keys]
    names = dict(zip(keys, inner, strict=True))
    body = _rename(Block((*body.params, *inner), body.ops), names)
    new = Parallel(
        tuple(held_by(v, tiles, ops) for v, _ in read),
        tuple(held_by(v, tiles, ops) for v in written),
        body,
        extents=op.extents,
    )
    ops.append(new)
    for handle, result in zip(written, new.results, strict=True):
        result.hint = handle.hint
        hold(handle, result, tiles, ops)


def _one_shape(op: Op, tiles: Tiles, written: Sequence[Value], read: Sequence[Value]) -> None:
    """Raises LanguageError for a fragment that a nest writes and uses under another shape too."""
    for handle in written:
        other = next(
            (
                v
                for v in (*written, *read)
                if v is not handle and tiles.fragment(v) is tiles.fragment(handle)
            ),
            None,
        )
        if other is not None:
            raise LanguageError(
                "TLC0316",
                f"T.Parallel writes fragment {tiles.fragment(handle).hint!r} and uses it under two "
                "shapes",
                loc=op.loc,
                hint="use one view of it in the loop, or copy it before",
            )


def _view(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    """Nothing: the tile is seen in another shape where the handle is used."""


def _for(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, For)
    need_same_block(op, tiles)
    flying = ages_in_loop(op.body, tiles.ages, tiles)
    written = _written_fragments(tiles, op.body)
    inits = tuple(latest(h, tiles, ops, h in flying) for h in written)
    body = _carrying(op.body, written, tiles, flying)
    _adopt(op, op.replace(inits=(*op.inits, *inits), body=body), written, tiles, ops)


def _while(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, While)
    need_same_block(op, tiles)
    flying = ages_in_loop(op.body, tiles.ages, tiles)
    written = _written_fragments(tiles, op.body)
    inits = tuple(latest(h, tiles, ops, h in flying) for h in written)
    condition = op.condition  # of scalars: it is given the tiles, and uses none
    new = op.replace(
        inits=(*op.inits, *inits),
        condition=Block((*condition.params, *_params(written, flying)), condition.ops),
        body=_carrying(op.body, written, tiles, flying),
    )
    _adopt(op, new, written, tiles, ops)


def _params(written: tuple[Value, ...], flying: Ages) -> tuple[Value, ...]:
    types = (tile_type_of(h) for h in written)
    return tuple(
        Value(InflightType(type_) if h in flying else type_, h.hint)
        for h, type_ in zip(written, types, strict=True)
    )


def _carrying(body: Block, written: tuple[Value, ...], tiles: Tiles, flying: Ages) -> Block:
    """A loop's body that takes the tiles of `written` and yields the next ones."""
    params = _params(written, flying)
    own = tiles.branch(dict(zip(written, params, strict=True)), flying)
    return _block(body, own, params, written, flying)


def _if(op: Op, tiles: Tiles, ops: list[Op]) -> None:
    assert isinstance(op, If)
    need_same_block(op, tiles)
    written = _written_fragments(tiles, op.then, op.orelse)
    flying = aged(op, tiles.ages, tiles)
    for handle in written:
        latest(handle, tiles, ops)
    then = _block(op.then, tiles.branch(), (), written, flying)
    orelse = _block(op.orelse, tiles.branch(), (), written, flying)
    _adopt(op, op.replace(then=then, orelse=orelse), written, tiles, ops)


def _adopt(old: Op, new: Op, written: tuple[Value, ...], tiles: Tiles, ops: list[Op]) -> None:
    """Appends a region op whose last results are the tiles of `written`; the earlier ones are the
    old op's own.
    """
    own = len(old.results)
    ops.append(with_results(new, (*old.results, *new.results[own:])))
    for handle, result in zip(written, new.results[own:], strict=True):
        result.hint = handle.hint
        tiles.held[handle] = result


def _touched(*blocks: Block) -> tuple[Value, ...]:
    """Fragment handles that ops of the blocks name, in order of first use."""
    found: dict[Value, None] = {}
    for block in blocks:
        for op in walk(block):
            found.update(dict.fromkeys(v for v in op.inputs if is_fragment(v)))
    return tuple(found)


def _written(*blocks: Block) -> tuple[Value, ...]:
    """Fragment handles from outside that ops of the blocks write, in order of first write."""
    found: dict[Value, None] = {}
    local: set[Value] = set()
    for block in blocks:
        for op in walk(block):
            if isinstance(op, Alloc):
                local.add(op.result)
            for effect in op.effects():
                memory = effect.memory
                if effect.access is Access.WRITE and memory is not None and is_fragment(memory):
                    found[memory] = None
    return tuple(v for v in found if v not in local)


def _written_fragments(tiles: Tiles, *blocks: Block) -> tuple[Value, ...]:
    """Fragments from outside that ops of the blocks write, themselves or through views, or wait
    for.
    """
    local = {op.result for b in blocks for op in walk(b) if isinstance(op, Alloc)}
    found = dict.fromkeys(tiles.fragment(v) for v in _written(*blocks))
    if any(isinstance(op, WaitGemms) for block in blocks for op in walk(block)):
        found.update(dict.fromkeys(tiles.ages))
    return tuple(v for v in found if v not in local)


Way = tuple[Value, tuple[object, ...]]
"""A fragment's handle and the indices of a load; none for one that is written."""


def _read_ways(block: Block, written: Sequence[Value]) -> tuple[Way, ...]:
    """Fragments that a nest reads and does not write, once for each way it indexes them: read along
    other loops, a fragment is needed in another layout.
    """
    loads = [op for op in walk(block) if isinstance(op, Load) and is_fragment(op.memory)]
    return tuple(dict.fromkeys(_way(op) for op in loads if op.memory not in written))


def _way(op: Load | Store) -> Way:
    numbers = (constant_of(i) for i in op.indices)
    return op.memory, tuple(i if n is None else n for i, n in zip(op.indices, numbers, strict=True))


def _rename(block: Block, names: dict[Way, Value]) -> Block:
    """The block with handles replaced, for the body of a Parallel (loads and stores only)."""
    handles = {handle for handle, _ in names}

    def inner(b: Block) -> Block:
        return Block(b.params, tuple(one(op) for op in b.ops))

    def one(op: Op) -> Op:
        if not handles.isdisjoint(op.inputs) or any(is_fragment(v) for v in op.inputs):
            if not isinstance(op, (Load, Store)):
                raise LanguageError(
                    "TLC0315", f"{op.name} of a fragment inside T.Parallel", loc=op.loc
                )
            new = names.get((op.memory, ())) or names[_way(op)]
            return op.map(lambda v: new if v is op.memory else v, inner)
        return op.map_regions(inner)

    return dataclasses.replace(block, ops=inner(block).ops)


_RULES: dict[type[Op], Callable[[Op, Tiles, list[Op]], None]] = {
    Alloc: _alloc,
    View: _view,
    Fill: _fill,
    Gemm: _gemm,
    WaitGemms: _wait_gemms,
    Copy: _copy,
    Reduce: _reduction,
    Scan: _reduction,
    Parallel: _parallel,
    For: _for,
    While: _while,
    If: _if,
}
