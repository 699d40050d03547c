"""What a nest makes of a product's sums and stores to global memory becomes a tile, stored whole.

Needs: a tile-level program, fragments promoted. Leaves: `store_tile` for every nest of a launch with a
gemm that reads a tile of its own extents element by element, and whose only effect is one store to
global memory at `base + loop variable`, each variable along one dimension. The tile has its dimensions
in the order of the memory's: a nest that stores transposed makes a transposed tile. So an epilogue that
is written as a loop goes through shared memory or by TMA as a copy does. A nest that reads what it
stores to stays: its elements are in memory in any case. So do those of launches that release what they
stored to other blocks, which would wait for the engine.

    parallel [%acc] <extents = [128, 64]> (%i, %j, %a) {
      %r = add %row, %i ; %c = add %col, %j        %u = undefined <type = tile f16[128, 64]>
      %x = load %a[%i, %j]                         %t = parallel [%acc], [%u] (%i, %j, %a, %o) {
      %y = max %x, 0.0                       ->      ... store %z, %o[%i, %j] }
      %z = cast %y <dtype = f16>                   store_tile %t, %C[%row, %col] <dims = [0, 1]>
      store %z, %C[%r, %c]
    }
"""

from __future__ import annotations

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.control import Launch, Parallel, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.ops.tile import StoreTile, Undefined
from ..ir.rewrite import defining_ops, transform
from ..ir.types import MemoryType, Space, TileType
from .context import PassContext
from .dependence import invariant_ops, is_global, orders
from .lift_copies import find_corner, is_looked_up


def lift_stores(program: Program, context: PassContext) -> Program:
    """Splits nests that store what they compute of a product into a nest and a store."""
    return map_launches(program, _launch)


def _launch(launch: Launch) -> Launch:
    inside = list(walk(launch.body))
    if not any(isinstance(op, Gemm) for op in inside) or any(map(orders, inside)):
        return launch
    return launch.replace(body=transform(launch.body, _lift))  # type: ignore[return-value]


def _lift(nest: Op) -> tuple[Op, ...] | None:
    """The ops that do the same as a nest, or None."""
    if not isinstance(nest, Parallel):
        return None
    store = _only_store(nest)
    if store is None or not _reads_own_elements(nest):
        return None
    variables = nest.body.params[: len(nest.extents)]
    defined_by = defining_ops(nest.body)
    corner = find_corner(store.indices, variables, defined_by)
    if corner is None or len(corner[0]) != len(variables):
        return None
    along, forms = corner
    before, inside = invariant_ops(nest.body)
    if is_looked_up(forms, inside):
        return None
    b = Builder()
    with at(nest.loc):
        b.extend(before)
        dtype = memory_type(store.memory).dtype
        extents = dict(zip(variables, nest.extents, strict=True))
        shape = tuple(extents[v] for v in along)
        tile = b.emit(Undefined(type=TileType(dtype, shape))).result
        handle = Value(MemoryType(dtype, shape, Space.FRAGMENT), hint="result")
        kept = [
            op.replace(memory=handle, indices=tuple(along)) if op is store else op for op in inside
        ]
        body = Block((*nest.body.params, handle), tuple(kept))
        result = b.emit(nest.replace(updates=(tile,), body=body)).result
        result.hint = "result"
        indices = tuple(form.base(b) for form in forms)
        b.emit(StoreTile(result, store.memory, indices, dims=tuple(along.values())))
    return b.ops


def _only_store(nest: Parallel) -> Store | None:
    """The nest's only effect but loads, where that is a store to a global memory that it does not
    read."""
    if nest.updates or any(op.regions for op in nest.body.ops):
        return None
    effects = [op for op in nest.body.ops if not op.pure and not isinstance(op, Yield)]
    stores = [op for op in effects if not isinstance(op, Load)]
    if len(stores) != 1 or not isinstance(stores[0], Store) or stores[0].predicate:
        return None
    store = stores[0]
    read = any(isinstance(op, Load) and op.memory is store.memory for op in effects)
    return None if read or not is_global(store.memory) else store


def _reads_own_elements(nest: Parallel) -> bool:
    """Whether each iteration reads its element of a tile of the nest's extents."""
    variables = nest.body.params[: len(nest.extents)]
    handles = nest.body.params[len(nest.extents) :]
    return any(
        isinstance(op, Load)
        and op.memory in handles
        and op.indices == variables
        and memory_type(op.memory).shape == nest.extents
        for op in nest.body.ops
    )
