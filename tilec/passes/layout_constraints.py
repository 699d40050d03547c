"""What each op asks of the layouts of the tiles it touches: statements for the solver, no solving
here.

An op's statements are made by the rule of its class in the registry's table "layouts":
`rule(op, group)` yields constraints. Variables are the tile values themselves, `("loop", nest)` for
the iterations of a Parallel nest and `("use", op, n)` for what op demands of its n-th tile operand
where a conversion may stand between (`use` states that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from ..errors import LayoutConflict, TargetUnsupported
from ..ir.core import Block, Op, Value, walk
from ..ir.layout import (
    RegisterLayout,
    packed_layout,
    unpacked_layout,
)
from ..ir.layout.constraints import (
    Choice,
    Constraint,
    Convert,
    Default,
    Derived,
    Equal,
    Fixed,
    Option,
    Variable,
)
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If, Parallel, While
from ..ir.ops.gemm import Gemm, Side
from ..ir.ops.pipeline import InFlight, Pipeline, Receive, Send, Stage, Wait
from ..ir.ops.reduce import Reduce, Scan
from ..ir.ops.tile import (
    ConvertLayout,
    ExtractTile,
    InsertTile,
    LoadTile,
    PackTile,
    RegroupTile,
    ReshapeTile,
    Splat,
    StoreTile,
    Undefined,
    UnpackTile,
)
from ..ir.registry import Registry
from ..target import Target
from .context import PassContext
from .default_layouts import default_layout, nest_layout
from .dependence import is_tile, tile_type
from .nest_accesses import accessed_along
from .variants import (
    accumulator_layout,
    accumulator_type,
    copies_of,
    gemm_shape,
    multiplied_dtype,
    operand_layout,
    variants_of,
)

OPERAND_WEIGHT = 4.0  # of a conversion that a matrix instruction waits for
TABLE = "layouts"


@dataclass(frozen=True)
class Group:
    """The threads that run an op: how many, and on what machine."""

    threads: int
    target: Target


Rule = Callable[..., Iterable[Constraint]]
"""`rule(op, group)`: what `op`, of one class, asks of its tiles."""


def register_layout_rules(registry: Registry) -> None:
    """Enters tilec's own rules into the registry's table "layouts"."""
    rules: dict[type[Op], Rule] = {
        Splat: _by_default,
        LoadTile: _by_default,
        Undefined: _by_default,
        StoreTile: _store_tile,
        Elementwise: _elementwise,
        InsertTile: _insert_tile,
        ExtractTile: _extract_tile,
        ReshapeTile: _reshape_tile,
        RegroupTile: _regroup_tile,
        UnpackTile: _unpack_tile,
        PackTile: _pack_tile,
        ConvertLayout: _convert_layout,
        Gemm: _gemm,
        Reduce: _reduce,
        Scan: _scan,
        Parallel: _parallel,
        For: _loop,
        Pipeline: _loop,
        While: _while,
        If: _branches,
        Stage: _branches,
        Wait: _wait,
        InFlight: _in_flight,
        Send: _through_channel,
        Receive: _through_channel,
    }
    registry.table(TABLE).update(rules)


def demand(op: Op, number: int) -> tuple[str, Op, int]:
    """The variable of what `op` demands of its tile operand, input `number`."""
    return ("use", op, number)


def use(op: Op, number: int, value: Value, weight: float = 1.0) -> Convert:
    """States that a conversion may stand between `value` and the op's input `number`."""
    return Convert(value, demand(op, number), weight, why=why(op))


def constraints_of(block: Block, threads: int, context: PassContext) -> Iterator[Constraint]:
    """All constraints of a block that `threads` threads run."""
    group = Group(threads, context.target)
    for op in walk(block):
        rule = context.registry.lookup(TABLE, type(op))
        if rule is not None:
            yield from rule(op, group)
        elif not op.terminator and any(is_tile(v) for v in (*op.inputs, *op.results)):
            raise TargetUnsupported(
                "TLC0408",
                f"{op.name} says nothing of the layouts of its tiles",
                loc=op.loc,
                hint=f"enter a rule for its class in the registry's table {TABLE!r}",
            )


def uses_in(constraints: Iterable[Constraint]) -> dict[Op, list[tuple[int, Value]]]:
    """The tile operands before which a conversion may be put, with their numbers, of every op."""
    found: dict[Op, list[tuple[int, Value]]] = {}
    for constraint in constraints:
        match constraint:
            case Convert(Value() as value, ("use", Op() as op, int(number))):
                found.setdefault(op, []).append((number, value))
    return found


def why(op: Op) -> str:
    """How a conflict names the op that a constraint comes from."""
    return f"{op.name} at {op.loc}"


# Tiles


def _by_default(op: Splat | LoadTile | Undefined, group: Group) -> Iterator[Constraint]:
    layout = default_layout(tile_type(op.result), group.threads, group.target)
    yield Default(op.result, layout, why=why(op))


def _store_tile(op: StoreTile, group: Group) -> Iterator[Constraint]:
    layout = default_layout(tile_type(op.tile), group.threads, group.target)
    yield Default(op.tile, layout, why=why(op))


def _elementwise(op: Elementwise, group: Group) -> Iterator[Constraint]:
    """One layout for all: the first tile's, to which the others are converted."""
    tiles = [v for v in op.inputs if is_tile(v)]
    if not tiles:
        return
    yield Equal(tiles[0], op.result, why=why(op))
    for number, value in enumerate(op.inputs):
        if is_tile(value) and value is not tiles[0]:
            yield use(op, number, value)
            yield Equal(demand(op, number), op.result, why=why(op))


def _insert_tile(op: InsertTile, group: Group) -> Iterator[Constraint]:
    yield use(op, 0, op.tile)
    yield Equal(op.into, op.result, why=why(op))
    yield _slice(demand(op, 0), op.result, op.offsets, tile_type(op.tile).shape, op)


def _extract_tile(op: ExtractTile, group: Group) -> Iterator[Constraint]:
    """Some registers of the tile, converted where its layout does not let registers select."""
    yield use(op, 0, op.tile)
    yield _slice(op.result, demand(op, 0), op.offsets, op.shape, op, tile_type(op.tile).shape)


def _reshape_tile(op: ReshapeTile, group: Group) -> Iterator[Constraint]:
    """Registers stay what they are, where no mode is cut unevenly; else the tile is converted."""
    yield use(op, 0, op.tile)
    to, back = (
        partial(RegisterLayout.reshape, shape=n) for n in (op.shape, tile_type(op.tile).shape)
    )
    yield Derived(op.result, demand(op, 0), to, back, exact=True, why=why(op))


def _regroup_tile(op: RegroupTile, group: Group) -> Iterator[Constraint]:
    """The parts of an element are registers of one thread, side by side; else the tile is converted."""
    yield use(op, 0, op.tile)
    cut, join = (partial(f, parts=op.parts) for f in (unpacked_layout, packed_layout))
    to, back = (join, cut) if op.joins else (cut, join)
    yield Derived(op.result, demand(op, 0), to, back, exact=True, why=why(op))
    if op.joins:  # where the parts are with several threads, they go to where the whole would be
        layout = default_layout(tile_type(op.result), group.threads, group.target)
        yield Default(op.result, layout, why=why(op))


def _unpack_tile(op: UnpackTile, group: Group) -> Iterator[Constraint]:
    yield Derived(op.result, op.tile, unpacked_layout, packed_layout, why=why(op))


def _pack_tile(op: PackTile, group: Group) -> Iterator[Constraint]:
    """Bytes lie as they are best stored; the elements are converted to that."""
    pairs = default_layout(tile_type(op.result), group.threads, group.target)
    layouts: dict[Variable, RegisterLayout] = {
        op.result: pairs,
        demand(op, 0): unpacked_layout(pairs),
    }
    yield use(op, 0, op.tile)
    yield Choice(op, (Option("pairs", layouts, 0.0),), why=why(op))


def _convert_layout(op: ConvertLayout, group: Group) -> Iterator[Constraint]:
    yield Fixed(op.result, op.layout, why=why(op))


def _reduce(op: Reduce, group: Group) -> Iterator[Constraint]:
    """The result is held by all threads that share what is reduced."""
    extent = tile_type(op.source).shape[op.dim]

    def inverse(layout: RegisterLayout) -> RegisterLayout:
        return (layout.reduce(op.dim) if op.keep else layout).broadcast(op.dim, extent)

    yield use(op, 0, op.source)
    yield Derived(op.result, demand(op, 0), op.result_layout, inverse, why=why(op))


def _scan(op: Scan, group: Group) -> Iterator[Constraint]:
    yield use(op, 0, op.source)
    yield Equal(demand(op, 0), op.result, why=why(op))


# Values that are one over the edges of regions


def _same(op: Op, a: Sequence[Value], b: Sequence[Value]) -> Iterator[Constraint]:
    """Values of `a` and `b` that are the same registers, pair by pair."""
    for x, y in zip(a, b, strict=True):
        if is_tile(x):
            yield Equal(x, y, why=why(op))


def _loop(op: For | Pipeline, group: Group) -> Iterator[Constraint]:
    end = op.body.terminator
    assert end is not None
    carried = op.body.params[1:]
    yield from _same(op, op.inits, carried)
    yield from _same(op, carried, end.inputs)
    yield from _same(op, end.inputs, op.results)


def _while(op: While, group: Group) -> Iterator[Constraint]:
    end = op.body.terminator
    assert end is not None
    yield from _same(op, op.inits, op.body.params)
    yield from _same(op, op.body.params, op.condition.params)
    yield from _same(op, op.body.params, end.inputs)
    yield from _same(op, end.inputs, op.results)


def _branches(op: If | Stage, group: Group) -> Iterator[Constraint]:
    for block in op.regions:
        end = block.terminator
        yield from _same(op, end.inputs if end else (), op.results)


def _wait(op: Wait, group: Group) -> Iterator[Constraint]:
    yield Equal(op.inflight, op.result, why=why(op))


def _in_flight(op: InFlight, group: Group) -> Iterator[Constraint]:
    yield use(op, 0, op.tile)
    yield Equal(demand(op, 0), op.result, why=why(op))


def _through_channel(op: Send | Receive, group: Group) -> Iterator[Constraint]:
    yield Equal(op.channel, op.tile if isinstance(op, Send) else op.result, why=why(op))


# Products


def _gemm(op: Gemm, group: Group) -> Iterator[Constraint]:
    m, n, k = gemm_shape(op)
    variants = variants_of(op, op.instruction, group.threads, group.target)
    if not variants:
        warp = group.target.warp_size
        partial = f"threads={group.threads} is no multiple of the warp's {warp}: make it one"
        raise LayoutConflict(
            "TLC0402",
            f"a gemm of {m} x {n} x {k} cannot be split over {group.threads} threads with "
            f"{op.instruction} instructions",
            loc=op.loc,
            hint=partial
            if group.threads % warp
            else "make the tile a multiple of 16 x 8 for every warp, or smaller for the threads",
        )
    sides: tuple[tuple[Side, Value], ...] = (("a", op.a), ("b", op.b))
    bits: dict[Side, int] = {}
    for number, (side, value) in enumerate(sides):
        dtype = multiplied_dtype(op, op.instruction, group.target, side)
        assert dtype is not None, "there are variants"
        bits[side] = dtype.code_bits
        if is_tile(value):
            yield use(op, number, value, OPERAND_WEIGHT)
    options = []
    for variant, cost in variants:
        copies = copies_of(variant, group.threads, group.target)
        accumulator = accumulator_layout(variant, m, n, copies, accumulator_type(op).dtype.bits)
        layouts: dict[Variable, RegisterLayout] = {
            demand(op, number): operand_layout(op, variant, side, bits[side], copies)
            for number, (side, value) in enumerate(sides)
            if is_tile(value)
        }
        layouts |= {op.accumulator: accumulator, op.result: accumulator}
        options.append(Option(str(variant), layouts, cost))
    yield Choice(op, tuple(options), why=why(op))
    yield Equal(op.accumulator, op.result, why=why(op))


def _slice(
    part: object,
    whole: object,
    offsets: tuple[int, ...],
    shape: tuple[int, ...],
    op: Op,
    of: tuple[int, ...] = (),
) -> Constraint:
    """`part` is the region of `whole`, where registers alone select it. With the shape `of` a whole
    that may be converted, its layout can also follow the part's: more registers of the same.
    """

    def forward(layout: RegisterLayout) -> RegisterLayout | None:
        for dim, (start, extent) in enumerate(zip(offsets, shape, strict=True)):
            if extent == layout.shape[dim]:
                continue
            sliced = layout.slice_registers(dim, start, extent)
            if sliced is None:
                return None
            layout = sliced[0]
        return layout

    def inverse(layout: RegisterLayout) -> RegisterLayout | None:
        if any(n % e or o % e for n, e, o in zip(of, shape, offsets, strict=True)):
            return None
        return layout.repeat([n // e for n, e in zip(of, shape, strict=True)], over="register")

    return Derived(part, whole, forward, inverse if of else None, why=why(op))


# Parallel nests


def _parallel(nest: Parallel, group: Group) -> Iterator[Constraint]:
    """A fragment is held as the loop is, seen along the dimensions that index it. What the nest
    reads is converted to that; what it writes has it.
    """
    loop = ("loop", nest)
    for number, value in enumerate(nest.reads):
        yield use(nest, number, value)
    rank = len(nest.extents)
    handles = nest.body.params[rank:]
    for position, handle in enumerate(handles):
        is_read = position < len(nest.reads)
        dims = accessed_along(nest, handle)
        if dims is None:
            continue
        if not is_read:
            _written_once(nest, handle, dims)
        variable = demand(nest, position) if is_read else nest.updates[position - len(nest.reads)]
        if dims == tuple(range(rank)):
            yield Equal(loop, variable, why=why(nest))
        else:
            yield Derived(variable, loop, partial(RegisterLayout.along, dims=dims), why=why(nest))
            if all(d in dims for d in range(rank)):  # in another order: either decides the other
                back = tuple(dims.index(d) for d in range(rank))
                yield Derived(
                    loop, variable, partial(RegisterLayout.along, dims=back), why=why(nest)
                )
        if not is_read:
            yield Equal(variable, nest.results[position - len(nest.reads)], why=why(nest))
    layout = nest_layout(nest, group.threads, group.target)
    if layout is not None:
        yield Default(loop, layout, why=why(nest))


def _written_once(nest: Parallel, handle: Value, dims: tuple[int | None, ...]) -> None:
    """Raises LayoutConflict where iterations of the nest share an element that they write."""
    for dim, extent in enumerate(nest.extents):
        if dim not in dims and extent > 1:
            raise LayoutConflict(
                "TLC0411",
                f"the iterations of loop {dim + 1} of the nest all write the same elements of "
                f"fragment {handle.hint!r}",
                loc=nest.loc,
                hint="iterations of T.Parallel run at the same time: each writes its own elements; "
                "of one iteration alone they are read in a nest without that loop, as x[i, 0]",
            )
