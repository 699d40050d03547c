"""Which tile each fragment holds while promote_fragments walks a program, also where it is seen
through views, and which of them asynchronous products still write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import LanguageError
from ..ir.core import Block, Op, Value
from ..ir.ops.arith import Reinterpret
from ..ir.ops.control import For, If, While
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import View, memory_type
from ..ir.ops.pipeline import InFlight, Wait, WaitGemms
from ..ir.ops.tile import RegroupTile, ReshapeTile, Undefined
from ..ir.types import InflightType, MemoryType, Space, TileType

Ages = dict[Value, int]
"""Of each fragment that asynchronous products may still write: how many groups of products were
issued since the last of them, itself included. At most so many are younger than all of its own."""


@dataclass(frozen=True)
class Tiles:
    """The tile that each fragment holds at this point; absent: nothing yet. A view has none of its
    own: `views` has its definition. `ages`: of the fragments in flight; `reading`: the tiles that their
    products read from registers.
    """

    held: dict[Value, Value]
    views: Mapping[Value, View]
    ages: Ages = field(default_factory=dict)
    reading: dict[Value, tuple[Value, ...]] = field(default_factory=dict)

    def branch(self, more: Mapping[Value, Value] | None = None, ages: Ages | None = None) -> Tiles:
        """For a region: what is written there does not come to be known here."""
        own = dict(self.ages if ages is None else ages)
        return Tiles({**self.held, **(more or {})}, self.views, own, dict(self.reading))

    def fragment(self, handle: Value) -> Value:
        """The fragment that a handle stands for."""
        while handle in self.views:
            handle = self.views[handle].memory
        return handle


def is_fragment(value: Value) -> bool:
    return isinstance(value.type, MemoryType) and value.type.space is Space.FRAGMENT


def tile_type_of(handle: Value) -> TileType:
    type_ = memory_type(handle)
    return TileType(type_.dtype, tuple(int(d) for d in type_.shape))


def held_by(handle: Value, tiles: Tiles, ops: list[Op], by_product: bool = False) -> Value:
    """The handle's tile; an undefined one where nothing was written yet. Raises LanguageError for one in
    flight, and unless an asynchronous product asks for one that such a product may still read.
    """
    if handle in tiles.views:
        whole = held_by(tiles.views[handle].memory, tiles, ops, by_product)
        return _seen_as(tile_type_of(handle), whole, ops)
    _refuse_in_flight(handle, tiles, by_product)
    return latest(handle, tiles, ops)


def _refuse_in_flight(handle: Value, tiles: Tiles, by_product: bool = False) -> None:
    if handle in tiles.ages:
        younger = tiles.ages[handle] - 1
        raise LanguageError(
            "TLC0317",
            f"{handle.hint or 'a fragment'} is used while T.wgmma_gemm may still write it",
            hint=f"T.wait_wgmma({younger}) before: it waits for all but the last {younger} products"
            if younger
            else "T.wait_wgmma(0) before",
        )
    read = (tile for found in tiles.reading.values() for tile in found)
    if not by_product and any(tiles.held.get(handle) is tile for tile in read):
        raise LanguageError(
            "TLC0317",
            f"{handle.hint or 'a fragment'} is used while T.wgmma_gemm may still read its registers",
            hint="T.wait_wgmma before; what is needed meanwhile can be computed into another fragment "
            "before the product",
        )


def latest(handle: Value, tiles: Tiles, ops: list[Op], in_flight: bool = False) -> Value:
    """What a fragment holds, be it in flight or not; with `in_flight` as a tile in flight."""
    if handle not in tiles.held:
        ops.append(Undefined(type=tile_type_of(handle)))
        tiles.held[handle] = ops[-1].result
        ops[-1].result.hint = handle.hint
    held = tiles.held[handle]
    if in_flight and not isinstance(held.type, InflightType):
        ops.append(InFlight(held))
        ops[-1].result.hint = handle.hint
        return ops[-1].result
    return held


def _seen_as(type_: TileType, tile: Value, ops: list[Op]) -> Value:
    """A tile under the dtype and shape of a view of it, or of what it is a view of."""
    seen = tile
    held = tile.type.dtype  # type: ignore[attr-defined]
    if type_.dtype.bits > held.bits:  # what makes an element of the view becomes a row
        seen = _reshaped(seen, (*type_.shape, type_.dtype.bits // held.bits), ops)
    if type_.dtype.bits != held.bits:
        ops.append(RegroupTile(seen, dtype=type_.dtype))
        seen = ops[-1].result
    elif type_.dtype != held:
        ops.append(Reinterpret(seen, dtype=type_.dtype))
        seen = ops[-1].result
    seen = _reshaped(seen, type_.shape, ops)
    seen.hint = seen.hint or tile.hint
    return seen


def _reshaped(tile: Value, shape: tuple[int, ...], ops: list[Op]) -> Value:
    if tile.type.shape == shape:  # type: ignore[attr-defined]
        return tile
    ops.append(ReshapeTile(tile, shape=shape))
    return ops[-1].result


def hold(handle: Value, tile: Value, tiles: Tiles, ops: list[Op]) -> None:
    """`tile` is what the handle holds from here on. Raises LanguageError for one in flight."""
    _refuse_in_flight(tiles.fragment(handle), tiles)
    tile.hint = tile.hint or handle.hint
    if handle in tiles.views:
        whole = tiles.views[handle].memory
        hold(whole, _seen_as(tile_type_of(whole), tile, ops), tiles, ops)
    else:
        tiles.held[handle] = tile


def define(handle: Value, op: Op, tiles: Tiles, ops: list[Op]) -> None:
    """Appends `op`, whose result is what the handle holds from here on."""
    ops.append(op)
    op.result.hint = handle.hint
    hold(handle, op.result, tiles, ops)


# Asynchronous products ----------------------------------------------------------------------------


def issue(op: Gemm, handle: Value, tiles: Tiles, ops: list[Op]) -> None:
    """Appends an asynchronous product: the fragment is in flight from here on."""
    ops.append(op)
    op.result.hint = handle.hint
    tiles.held[handle] = op.result
    if isinstance(op.a.type, TileType):
        tiles.reading[handle] = (*tiles.reading.get(handle, ()), op.a)


def land(op: WaitGemms, tiles: Tiles, ops: list[Op]) -> None:
    """A wait for all but the last groups: of each fragment in flight, and those whose own groups are
    older than the last are tiles from here on."""
    for handle, age in tiles.ages.items():
        wait = Wait(tiles.held[handle], pending=op.pending, later=min(age - 1, op.pending))
        wait.result.hint = handle.hint
        ops.append(wait)
        tiles.held[handle] = wait.result
        if wait.completes:
            tiles.reading.pop(handle, None)


def need_same_block(op: For | While | If, tiles: Tiles) -> None:
    """Raises LanguageError where a product that reads registers is not waited for in the block that
    issues it: registers are kept for it up to its wait there."""
    inside = list(op.walk())
    products = [o for o in inside if isinstance(o, Gemm) and o.asynchronous]
    left = {handle for block in op.regions for handle in ages_after(block, {}, tiles)}
    touched = {tiles.fragment(o.accumulator) for o in products}
    if any(isinstance(o, WaitGemms) for o in inside):
        touched |= set(tiles.ages)
    early = [o for o in products if is_fragment(o.a) and tiles.fragment(o.accumulator) in left]
    late = [handle for handle in tiles.reading if handle in tiles.ages and handle in touched]
    if early or late:
        name = (early[0].accumulator if early else late[0]).hint or "a fragment"
        raise LanguageError(
            "TLC0317",
            f"a product into {name} that reads registers may be under way where this {op.name} "
            f"{'ends' if early else 'begins'}",
            loc=early[0].loc if early else op.loc,
            hint="T.wait_wgmma for it in the block of statements that issues it",
        )


def ages_after(block: Block, before: Ages, tiles: Tiles) -> Ages:
    """What is in flight at the end of a block."""
    ages = dict(before)
    for op in block.ops:
        ages = aged(op, ages, tiles)
    return ages


def aged(op: Op, ages: Ages, tiles: Tiles) -> Ages:
    """What is in flight after an op."""
    match op:
        case Gemm() if op.asynchronous and is_fragment(op.accumulator):
            older = {handle: age + 1 for handle, age in ages.items()}
            return {**older, tiles.fragment(op.accumulator): 1}
        case WaitGemms():
            return {handle: age for handle, age in ages.items() if age <= op.pending}
        case For() | While():
            return ages_in_loop(op.body, ages, tiles)
        case If():
            return _earliest(ages_after(op.then, ages, tiles), ages_after(op.orelse, ages, tiles))
    return ages


def ages_in_loop(body: Block, before: Ages, tiles: Tiles) -> Ages:
    """What may be in flight at the start of any trip of a loop, and behind it."""
    ages = before
    while True:
        more = _earliest(ages, ages_after(body, ages, tiles))
        if more == ages:
            return ages
        ages = more


def _earliest(one: Ages, other: Ages) -> Ages:
    """What may be in flight where two paths meet."""
    both = {**one, **other}
    return {
        handle: min(one.get(handle, age), other.get(handle, age)) for handle, age in both.items()
    }
