"""What each op asks of the layouts of the tiles it touches: statements for the solver, no solving
here.

Variables are the tile values themselves, `("loop", nest)` for the iterations of a Parallel nest and
`("use", op, n)` for what op demands of its n-th tile operand where a conversion may stand between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import LayoutConflict, TargetUnsupported
from ..ir.core import Block, Op, Value, walk
from ..ir.layout import RegisterLayout, blocked
from ..ir.layout.constraints import (
    Choice,
    Constraint,
    Convert,
    Default,
    Derived,
    Equal,
    Option,
)
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If, Parallel
from ..ir.ops.memory import Load, Store
from ..ir.ops.pipeline import Pipeline, Receive, Send, Stage, Wait
from ..ir.ops.tile import ExtractTile, Gemm, InsertTile, LoadTile, Splat, StoreTile, Undefined
from ..ir.types import InflightType, TileType
from ..target import Target
from .variants import accumulator_layout, gemm_shape, variants_of

VECTOR_BYTES = 16


def is_tile(value: Value) -> bool:
    return isinstance(value.type, (TileType, InflightType))


def tile_of(value: Value) -> TileType:
    """The tile type of a value, in flight or not."""
    type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
    assert isinstance(type_, TileType)
    return type_


def uses_of(op: Op) -> list[tuple[int, Value]]:
    """The tile operands of `op` before which a conversion may be put, with their numbers."""
    match op:
        case Elementwise():
            return [(n, v) for n, v in enumerate(op.inputs) if is_tile(v)][1:]
        case Parallel():
            return list(enumerate(op.reads))
        case InsertTile():
            return [(0, op.tile)]
    return []


def demand(op: Op, number: int) -> tuple[str, Op, int]:
    """The variable of what `op` demands of its tile operand `number`."""
    return ("use", op, number)


def constraints_of(block: Block, threads: int, target: Target) -> Iterator[Constraint]:
    """All constraints of a block that `threads` threads run."""
    for op in walk(block):
        yield from _flow(op)
        for number, value in uses_of(op):
            yield Convert(value, demand(op, number), why=why(op))
        match op:
            case Splat() | LoadTile() | Undefined():
                yield Default(op.result, default_layout(tile_of(op.result), threads), why=why(op))
            case Elementwise() if op.results and is_tile(op.result):
                tiles = [v for v in op.inputs if is_tile(v)]
                yield Equal(tiles[0], op.result, why=why(op))
                for number, _ in uses_of(op):
                    yield Equal(demand(op, number), op.result, why=why(op))
            case InsertTile():
                yield Equal(op.into, op.result, why=why(op))
                yield _slice(demand(op, 0), op.result, op.offsets, tile_of(op.tile).shape, op)
            case ExtractTile():
                yield _slice(op.result, op.tile, op.offsets, op.shape, op)
            case Gemm():
                yield from _gemm(op, threads, target)
            case Parallel():
                yield from _parallel(op, threads)
            case StoreTile():
                yield Default(op.tile, default_layout(tile_of(op.tile), threads), why=why(op))
    yield from _channels(block)


def default_layout(tile: TileType, threads: int) -> RegisterLayout:
    """Rows over threads in vectors of 16 bytes, or as wide as the row divides."""
    vector = VECTOR_BYTES * 8 // tile.dtype.bits
    while vector > 1 and (tile.shape[-1] % vector or _too_wide(tile, vector, threads)):
        vector //= 2
    return blocked(tile.shape, threads, vector)


def _too_wide(tile: TileType, vector: int, threads: int) -> bool:
    size = 1
    for extent in tile.shape:
        size *= extent
    return size // vector < threads and size >= threads


def why(op: Op) -> str:
    """How a conflict names the op that a constraint comes from."""
    return f"{op.name} at {op.loc}"


def _flow(op: Op) -> Iterator[Constraint]:
    """Values that are one over the edges of regions."""
    pairs: list[tuple[Value, Value]] = []
    match op:
        case For() | Pipeline():
            end = op.body.terminator
            assert end is not None
            pairs += zip(op.inits, op.body.params[1:], strict=True)
            pairs += zip(op.body.params[1:], end.inputs, strict=True)
            pairs += zip(end.inputs, op.results, strict=True)
        case If():
            for block in op.regions:
                end = block.terminator
                pairs += zip(end.inputs if end else (), op.results, strict=True)
        case Stage():
            end = op.body.terminator
            pairs += zip(end.inputs if end else (), op.results, strict=True)
        case Wait():
            pairs.append((op.inflight, op.result))
    for a, b in pairs:
        if is_tile(a):
            yield Equal(a, b, why=why(op))


def _channels(block: Block) -> Iterator[Constraint]:
    sent = {op.channel: op.tile for op in walk(block) if isinstance(op, Send)}
    for op in walk(block):
        if isinstance(op, Receive) and op.channel in sent:
            yield Equal(sent[op.channel], op.result, why=why(op))
            yield Equal(op.channel, op.result, why=why(op))


def _gemm(op: Gemm, threads: int, target: Target) -> Iterator[Constraint]:
    if is_tile(op.a) or is_tile(op.b):
        raise TargetUnsupported(
            "TLC0401",
            "a gemm operand in registers is not supported",
            loc=op.loc,
            hint="copy it to shared memory",
        )
    m, n, k = gemm_shape(op)
    variants = variants_of(op, op.instruction, threads, target)
    if not variants:
        raise LayoutConflict(
            "TLC0402",
            f"a gemm of {m} x {n} x {k} cannot be split over {threads} threads with "
            f"{op.instruction} instructions",
            loc=op.loc,
            hint="make the tile a multiple of the instruction times the warps, or use fewer "
            "threads",
        )
    options = []
    for variant, cost in variants:
        layout = accumulator_layout(variant, m, n)
        options.append(Option(str(variant), {op.accumulator: layout, op.result: layout}, cost))
    yield Choice(op, tuple(options), why=why(op))
    yield Equal(op.accumulator, op.result, why=why(op))


def _slice(
    part: object, whole: object, offsets: tuple[int, ...], shape: tuple[int, ...], op: Op
) -> Constraint:
    """`part` is the region of `whole`, where registers alone select it."""

    def forward(layout: RegisterLayout) -> RegisterLayout | None:
        for dim, (start, extent) in enumerate(zip(offsets, shape, strict=True)):
            if extent == layout.shape[dim]:
                continue
            sliced = layout.slice_registers(dim, start, extent)
            if sliced is None:
                return None
            layout = sliced[0]
        return layout

    return Derived(part, whole, forward, why=why(op))


# Parallel nests


def _parallel(nest: Parallel, threads: int) -> Iterator[Constraint]:
    loop = ("loop", nest)
    rank = len(nest.extents)
    indices = nest.body.params[:rank]
    handles = nest.body.params[rank:]
    for position, handle in enumerate(handles):
        is_read = position < len(nest.reads)
        dims = _accessed_along(nest, handle, indices)
        if dims is None:
            continue
        if not is_read:
            _written_once(nest, handle, dims)
        forward = _projection(dims, rank)
        variable = demand(nest, position) if is_read else nest.updates[position - len(nest.reads)]
        if dims == tuple(range(rank)):
            yield Equal(loop, variable, why=why(nest))
        else:
            yield Derived(variable, loop, forward, why=why(nest))
            if len(dims) == rank:  # the same dimensions in another order: either decides the other
                backward = _projection(tuple(dims.index(d) for d in range(rank)), rank)
                yield Derived(loop, variable, backward, why=why(nest))
        if not is_read:
            yield Equal(variable, nest.results[position - len(nest.reads)], why=why(nest))
    first = next((v for v in (*nest.updates, *nest.reads)), None)
    bits = tile_of(first).dtype.bits if first is not None else _element_bits(nest)
    vector = max(1, VECTOR_BYTES * 8 // bits)
    while vector > 1 and nest.extents[-1] % vector:
        vector //= 2
    yield Default(loop, blocked(nest.extents, threads, vector), why=why(nest))


def _element_bits(nest: Parallel) -> int:
    """The widest element that the nest loads or stores."""
    widths = [
        op.memory.type.dtype.bits  # type: ignore[attr-defined]
        for op in walk(nest.body)
        if isinstance(op, (Load, Store))
    ]
    return max(widths, default=32)


def _accessed_along(
    nest: Parallel, handle: Value, indices: tuple[Value, ...]
) -> tuple[int, ...] | None:
    """The loop dimension along each dimension of a fragment; None where it is not accessed."""
    found: set[tuple[int, ...]] = set()
    for op in walk(nest.body):
        if isinstance(op, (Load, Store)) and op.memory is handle:
            if any(i not in indices for i in op.indices):
                raise LayoutConflict(
                    "TLC0403",
                    f"fragment {handle.hint!r} is indexed by something else than the loop "
                    "variables",
                    loc=op.loc,
                    hint="one index tuple of loop variables for each fragment in a T.Parallel nest",
                )
            found.add(tuple(indices.index(i) for i in op.indices))
    if not found:
        return None
    if len(found) > 1:
        raise LayoutConflict(
            "TLC0404", f"fragment {handle.hint!r} is indexed in two ways in one nest", loc=nest.loc
        )
    (dims,) = found
    if len(set(dims)) < len(dims):
        raise LayoutConflict(
            "TLC0407",
            f"fragment {handle.hint!r} is indexed twice by one loop variable",
            loc=nest.loc,
            hint="a nest covers its fragments: one loop variable for each dimension",
        )
    shape = handle.type.shape  # type: ignore[attr-defined]
    if any(nest.extents[d] != extent for d, extent in zip(dims, shape, strict=True)):
        raise LayoutConflict(
            "TLC0405",
            f"a nest over {nest.extents} touches a part of fragment {handle.hint!r} of "
            f"{tuple(shape)}",
            loc=nest.loc,
            hint="let the nest cover the fragment",
        )
    return dims


def _written_once(nest: Parallel, handle: Value, dims: tuple[int, ...]) -> None:
    """Raises LayoutConflict where iterations of the nest share an element that they write."""
    for dim, extent in enumerate(nest.extents):
        if dim not in dims and extent > 1:
            raise LayoutConflict(
                "TLC0407",
                f"all {extent} iterations of loop {dim + 1} of the nest write the same elements of "
                f"fragment {handle.hint!r}",
                loc=nest.loc,
                hint="iterations of T.Parallel run at the same time: each writes its own elements",
            )


def _projection(
    dims: tuple[int, ...], rank: int
) -> Callable[[RegisterLayout], RegisterLayout | None]:
    """A loop layout seen along some of its dimensions: the others reduced away, the rest in the
    given order.
    """

    def forward(layout: RegisterLayout) -> RegisterLayout | None:
        for dim in sorted(set(range(rank)) - set(dims), reverse=True):
            layout = layout.reduce(dim)
        kept = sorted(dims)
        return layout.transpose(tuple(kept.index(d) for d in dims))

    return forward
