"""What a nest reads of a tensor along some of its dimensions is loaded once, not for every element.

Needs: layouts inferred, so that it is known how many iterations of a thread read the same. Leaves: nests
whose loads of global memory at `base + loop variable` along fewer dimensions than the nest has are tiles,
loaded before it, where a thread would load each element several times and has registers for it: a row's
or a column's number beside the sums of a product (a bias, the scales of quantised operands). The C
compiler would do it only where no load has a guard.

    parallel [%acc] <extents = [128, 64],           %t = load_tile %X[%col] <shape = [64], layout = #l
        layout = #l> (%i, %j, %a) {                     along j>
      %c = add %col, %j                        ->   parallel [%acc, %t] <...> (%i, %j, %a, %x) {
      %x = load %X[%c] ; ... }                        %x = load %x[%j] ; ... }
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at
from ..ir.layout import RegisterLayout
from ..ir.ops.control import Parallel
from ..ir.ops.memory import Load, memory_type
from ..ir.ops.tile import LoadTile
from ..ir.rewrite import defining_ops, transform
from ..ir.types import MemoryType, Space
from .affine import Affine
from .context import PassContext
from .dependence import invariant_ops, is_global, still_memory, tile_type
from .lift_copies import find_corner, is_looked_up

SHARE = 3  # of a nest's registers, how many there are to one that holds what is loaded before it;
FEW = 16  # or so many in any case


def load_once(program: Program, context: PassContext) -> Program:
    """Loads before every nest what its iterations read alike."""
    return program.with_body(transform(program.body, _nest))


@dataclass(frozen=True)
class _Alike:
    """A load that iterations along other dimensions than `along` (each loop variable, and the
    memory's dimension that it runs along) repeat, and the layout of what is loaded."""

    load: Load
    along: Mapping[Value, int]
    forms: Sequence[Affine]
    layout: RegisterLayout

    @property
    def words(self) -> int:
        """Registers of 32 bits that hold it."""
        return -(-self.layout.registers * memory_type(self.load.memory).dtype.bits // 32)

    @property
    def place(self) -> object:
        """The same for loads of the same elements."""
        forms = tuple((form.rest, form.constant) for form in self.forms)
        return self.load.memory, tuple(self.along.items()), forms, self.load.safe_value


def _nest(nest: Op) -> tuple[Op, ...] | None:
    """The ops that do the same as a nest, or None."""
    if not isinstance(nest, Parallel) or nest.layout is None or nest.instruction:
        return None  # what copies do asynchronously reads its rows' places before the loop (hoist_addresses)
    before, inside = invariant_ops(nest.body)
    found = _chosen(_alike(nest, inside), max(FEW, nest.layout.registers // SHARE))
    if not found:
        return None
    b = Builder()
    b.extend(before)
    tiles: dict[object, Value] = {}
    handles: dict[object, Value] = {}
    loads: dict[Op, Op] = {}
    for alike in found:
        load, place = alike.load, alike.place
        if place not in tiles:
            with at(load.loc):
                tile = b.emit(_tile(alike, nest, b)).result
            tile.hint = load.memory.hint
            type_ = tile_type(tile)
            handle = MemoryType(type_.dtype, type_.shape, Space.FRAGMENT)
            handles[place] = Value(handle, hint=tile.hint)
            tiles[place] = tile
        loads[load] = load.replace(memory=handles[place], indices=tuple(alike.along))
    last = len(nest.extents) + len(nest.reads)
    params = (*nest.body.params[:last], *handles.values(), *nest.body.params[last:])
    body = Block(params, tuple(loads.get(op, op) for op in inside))
    b.emit(nest.replace(reads=(*nest.reads, *tiles.values()), body=body))
    return b.ops


def _tile(alike: _Alike, nest: Parallel, b: Builder) -> LoadTile:
    variables = nest.body.params[: len(nest.extents)]
    return LoadTile(
        alike.load.memory,
        tuple(form.base(b) for form in alike.forms),
        shape=tuple(nest.extents[variables.index(v)] for v in alike.along),
        dims=tuple(alike.along.values()),
        safe_value=alike.load.safe_value,
        layout=alike.layout,
    )


def _alike(nest: Parallel, inside: Sequence[Op]) -> list[_Alike]:
    """The loads of a nest that a thread would repeat."""
    assert nest.layout is not None
    variables = nest.body.params[: len(nest.extents)]
    still = still_memory(nest)
    defined_by = defining_ops(nest.body)
    found: list[_Alike] = []
    for op in inside:
        if not isinstance(op, Load) or not is_global(op.memory) or op.memory not in still:
            continue
        corner = None if op.predicate else find_corner(op.indices, variables, defined_by)
        if corner is None or not 0 < len(corner[0]) < len(variables):
            continue
        if is_looked_up(corner[1], inside):
            continue
        layout = nest.layout.along(tuple(variables.index(v) for v in corner[0]))
        if 2 * layout.registers <= nest.layout.registers:
            found.append(_Alike(op, *corner, layout))
    return found


def _chosen(found: Sequence[_Alike], words: int) -> list[_Alike]:
    """As many as have room in `words` registers, the smallest first."""
    places: dict[object, int] = {}
    for alike in sorted(found, key=lambda alike: alike.words):
        if alike.place not in places and sum(places.values()) + alike.words <= words:
            places[alike.place] = alike.words
    return [alike for alike in found if alike.place in places]
