"""Which tile each fragment holds while promote_fragments walks a program, also where it is seen
through views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.core import Op, Value
from ..ir.ops.arith import Reinterpret
from ..ir.ops.memory import View, memory_type
from ..ir.ops.tile import ReshapeTile, Undefined
from ..ir.types import MemoryType, Space, TileType


@dataclass(frozen=True)
class Tiles:
    """The tile that each fragment holds at this point; absent: nothing yet. A view has none of its
    own: `views` has its definition.
    """

    held: dict[Value, Value]
    views: Mapping[Value, View]

    def branch(self, more: Mapping[Value, Value] | None = None) -> Tiles:
        """For a region: what is written there does not come to be known here."""
        return Tiles({**self.held, **(more or {})}, self.views)

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


def held_by(handle: Value, tiles: Tiles, ops: list[Op]) -> Value:
    """The handle's tile; an undefined one where nothing was written yet."""
    if handle in tiles.views:
        whole = held_by(tiles.views[handle].memory, tiles, ops)
        return _seen_as(tile_type_of(handle), whole, ops)
    if handle not in tiles.held:
        ops.append(Undefined(type=tile_type_of(handle)))
        tiles.held[handle] = ops[-1].result
        ops[-1].result.hint = handle.hint
    return tiles.held[handle]


def _seen_as(type_: TileType, tile: Value, ops: list[Op]) -> Value:
    """A tile under the dtype and shape of a view of it, or of what it is a view of."""
    hint = tile.hint
    if tile.type.dtype != type_.dtype:  # type: ignore[attr-defined]
        ops.append(Reinterpret(tile, dtype=type_.dtype))
        tile = ops[-1].result
    if tile.type.shape != type_.shape:  # type: ignore[attr-defined]
        ops.append(ReshapeTile(tile, shape=type_.shape))
        tile = ops[-1].result
    tile.hint = tile.hint or hint
    return tile


def hold(handle: Value, tile: Value, tiles: Tiles, ops: list[Op]) -> None:
    """`tile` is what the handle holds from here on."""
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
