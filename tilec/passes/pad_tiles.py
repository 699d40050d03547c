"""Tiles of extents that the number of threads has little in common with become larger ones, of which
every thread holds a part.

A layout deals a dimension out to threads by factors: of 100 x 100 elements 128 threads share 16, and
each holds 625; of 104 x 112 they share 128, and each holds 91. What is beyond has no contents: it is
neither loaded nor stored, and where a reduction or scan would come to it, it is what changes nothing.

Needs: planned and scheduled loops, no layouts. Leaves: tiles of which `within` of the ops that load and
store them, and the conditions of nests, say how much there is. Tiles that meet an op with a layout
of its own (a product, a part of a tile) stay as they are.

    %x = load_tile %A[0, 0] <shape = [100, 100]>
    parallel (%i, %j) in [100, 100] { ... }
    store_tile %x, %B[0, 0]
      ->  %x = load_tile %A[0, 0] <shape = [104, 112], within = [100, 100]>
          parallel (%i, %j) in [104, 112] { if %i < 100 and %j < 100 { ... } }
          store_tile %x, %B[0, 0] <within = [100, 100]>
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, constant, walk
from ..ir.dtypes import DType, bool_
from ..ir.layout.constraints import Convert, Default, Equal
from ..ir.ops import arith
from ..ir.ops.control import If, Launch, Parallel, Role, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.ops.pipeline import Channel
from ..ir.ops.reduce import KINDS, Reduce, Reduction, Scan
from ..ir.ops.tile import LoadTile, Splat, StoreTile, Undefined
from ..ir.types import ChannelType, MemoryType, Space, TileType
from .context import PassContext
from .default_layouts import MANY
from .dependence import is_tile
from .layout_constraints import TABLE, Group
from .nest_accesses import accessed_along

SEARCHED = 3  # dimensions that hang together, of which all ways to pad are tried
Dim = tuple[object, int]
"""A dimension of a tile, of what an op demands of one, or of a nest."""


def pad_tiles(program: Program, context: PassContext) -> Program:
    """Pads the tiles of every launch."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    ops = [
        op.replace(body=_padded(op.body, op.threads, context)) if isinstance(op, Role) else op
        for op in launch.body.ops
    ]
    if any(isinstance(op, Role) for op in ops):
        return launch.replace(body=launch.body.with_ops(ops))  # type: ignore[return-value]
    body = _padded(launch.body, launch.threads, context)
    return launch if body is launch.body else launch.replace(body=body)  # type: ignore[return-value]


def _padded(block: Block, threads: int, context: PassContext) -> Block:
    shapes = {
        v.type.shape for op in walk(block) for v in op.results if isinstance(v.type, TileType)
    }
    if not any(_is_held_by_few(shape, threads) for shape in shapes):
        return block  # as nearly every program: nothing to find out
    dims = _Dimensions(block, Group(threads, context.target), context)
    extents = dims.padded(threads)
    return _Padding(dims, extents).block(block) if extents else block


def _is_held_by_few(shape: Sequence[int], threads: int) -> bool:
    """Whether half of the threads, at most, would hold a tile, and each many elements."""
    registers = _registers(shape, threads)
    return registers > MANY and registers * threads >= 2 * math.prod(shape)


def _tile(value: Value) -> TileType | None:
    """The type of a tile, or of those of a channel."""
    type_ = value.type.memory if isinstance(value.type, ChannelType) else value.type
    return type_ if isinstance(type_, TileType) else None


def _registers(shape: Sequence[int], threads: int) -> int:
    """How many elements each thread holds of a tile that is dealt out by factors."""
    registers = 1
    for extent in reversed(shape):
        share = math.gcd(threads, extent)
        threads //= share
        registers *= extent // share
    return registers


# Which dimensions are one -------------------------------------------------------------------------


class _Dimensions:
    """The dimensions of the tiles and nests of a block, those that must have one extent joined."""

    def __init__(self, block: Block, group: Group, context: PassContext) -> None:
        self.extents: dict[Dim, int] = {}
        self.joined: dict[Dim, Dim] = {}
        self.fixed: set[Dim] = set()
        self.shapes: dict[object, tuple[int, ...]] = {}
        for op in walk(block):
            for value in (*op.results, *(p for region in op.regions for p in region.params)):
                self._note(value)
        for op in walk(block):
            self._op(op, group, context)

    def _note(self, value: Value) -> None:
        type_ = _tile(value)
        if type_ is not None:
            self.shapes[value] = type_.shape
            if type_.layout is not None:
                self._fix(value)

    def find(self, dim: Dim) -> Dim:
        while dim in self.joined:
            dim = self.joined[dim]
        return dim

    def _join(self, a: Dim, b: Dim) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.joined[a] = b
            if a in self.fixed:
                self.fixed.add(b)

    def _fix(self, variable: object) -> None:
        for d in range(len(self.shapes.get(variable, ()))):
            self.fixed.add(self.find((variable, d)))

    def _same(self, a: object, b: object) -> None:
        shape = self.shapes.get(a) or self.shapes.get(b)
        if shape is None:  # in flight
            return
        for variable in (a, b):
            if isinstance(variable, Value) and variable not in self.shapes:
                self._fix(a)
                self._fix(b)
                return
            self.shapes[variable] = shape
        for d in range(len(shape)):
            self._join((a, d), (b, d))

    def _op(self, op: Op, group: Group, context: PassContext) -> None:
        match op:
            case Parallel():
                self._nest(op)
            case Reduce() if is_tile(op.source):
                self._reduce(op)
            case Scan() if is_tile(op.source) and not op.destination and _neutral(op) is not None:
                self._same(op.source, op.result)
            case arith.FloorDiv() | arith.FloorMod() if is_tile(op.result):
                self._hold(op)  # by what has no contents
            case Gemm():
                self._hold(op)
            case Splat() | LoadTile() | StoreTile() | Undefined() | Channel():
                pass
            case _ if not op.terminator:
                self._by_rule(op, group, context)

    def _hold(self, op: Op) -> None:
        for value in (*op.inputs, *op.results):
            self._fix(value)

    def _by_rule(self, op: Op, group: Group, context: PassContext) -> None:
        """What the op's rule for layouts says of tiles of one shape; others keep theirs."""
        rule = context.registry.lookup(TABLE, type(op))
        if rule is None:
            self._hold(op)
            return
        for constraint in rule(op, group):
            match constraint:
                case Equal(a, b):
                    self._same(a, b)
                case Convert(a, b):
                    self._same(a, b)
                case Default():
                    pass
                case _:
                    self._hold(op)

    def _nest(self, nest: Parallel) -> None:
        rank = len(nest.extents)
        self.shapes[nest] = nest.extents
        if nest.layout is not None:
            self._fix(nest)
        for tile, result in zip(nest.updates, nest.results, strict=True):
            self._same(tile, result)
        for tile, handle in zip((*nest.reads, *nest.updates), nest.body.params[rank:], strict=True):
            for d, k in enumerate(accessed_along(nest, handle) or ()):
                if k is not None:
                    self._join((tile, d), (nest, k))

    def _reduce(self, op: Reduce) -> None:
        if op.destination or _neutral(op) is None:
            self._hold(op)
            return
        kept = [d for d in range(len(self.shapes[op.source])) if d != op.dim]
        for d in kept:
            self._join((op.source, d), (op.result, d if op.keep or d < op.dim else d - 1))

    # Extents

    def padded(self, threads: int) -> dict[Dim, int]:
        """The extents of the dimensions that are padded."""
        held = {
            variable: tuple(self.find((variable, d)) for d in range(len(shape)))
            for variable, shape in self.shapes.items()
        }
        extents = {
            dim: n for v, dims in held.items() for dim, n in zip(dims, self.shapes[v], strict=True)
        }
        tiles = {dims for v, dims in held.items() if isinstance(v, (Value, Parallel))}
        found: dict[Dim, int] = {}
        for component in _components(tiles):
            own = {dims for dims in tiles if component.issuperset(dims) and dims}
            found |= self._chosen(component, own, extents, threads)
        return found

    def _chosen(
        self,
        component: set[Dim],
        tiles: set[tuple[Dim, ...]],
        extents: Mapping[Dim, int],
        threads: int,
    ) -> dict[Dim, int]:
        """The extents that leave a thread the fewest elements of the tiles, if that is half or less."""
        fixed = {self.find(dim) for dim in self.fixed}
        free = sorted((d for d in component - fixed if extents[d] > 1), key=lambda d: -extents[d])
        free = free[:SEARCHED]
        units = [n for n in range(1, threads + 1) if threads % n == 0]
        choices = [sorted({-(-extents[d] // n) * n for n in units}) for d in free]

        def most(given: Mapping[Dim, int]) -> int:
            return max(
                _registers([given.get(d, extents[d]) for d in dims], threads) for dims in tiles
            )

        if not any(_is_held_by_few([extents[d] for d in dims], threads) for dims in tiles):
            return {}
        before = most({})
        ways = [dict(zip(free, way, strict=True)) for way in itertools.product(*choices)]
        best = min(ways, key=lambda way: (most(way), math.prod(way.values())))
        if most(best) * 2 > before:
            return {}
        return {dim: n for dim, n in best.items() if n != extents[dim]}


def _components(tiles: set[tuple[Dim, ...]]) -> Iterator[set[Dim]]:
    """Dimensions that some tile has together."""
    left = [set(dims) for dims in tiles if dims]
    while left:
        found = left.pop()
        while True:
            more = [dims for dims in left if not found.isdisjoint(dims)]
            if not more:
                break
            left = [dims for dims in left if found.isdisjoint(dims)]
            found = found.union(*more)
        yield found


# What changes nothing -----------------------------------------------------------------------------


def _neutral(op: Reduction) -> float | int | None:
    """An element of the source that leaves every other as it is where they are joined, once converted;
    None where there is none.

    Of sums of floats -0.0, since 0.0 would make +0.0 of -0.0. A NaN gives way to a number, so it
    is what changes nothing unless it propagates.
    """
    assert isinstance(op.source.type, TileType)
    dtype = op.source.type.dtype
    if dtype.is_float:
        return _neutral_float(op) if dtype.bits >= 16 and op.dtype.is_float else None
    if not dtype.is_integer or dtype.bits < 8 or not _keeps(dtype, op.dtype):
        return None
    limits = np.iinfo(dtype.numpy)
    match op.kind:
        case "sum" | "abssum" | "bitor" | "bitxor":
            return 0
        case "max" | "min":
            return int(limits.min if op.kind == "max" else limits.max)
        case "absmax":
            return 0 if dtype.kind == "uint" else None
        case "bitand":
            return -1 if dtype.kind == "int" else int(limits.max)
    return None


def _neutral_float(op: Reduction) -> float | None:
    if KINDS[op.kind][0] is arith.Add:
        return -0.0
    if not op.propagate_nan:
        return math.nan
    return {"max": -math.inf, "min": math.inf, "absmax": 0.0}.get(op.kind)


def _keeps(dtype: DType, joined: DType) -> bool:
    """Whether every integer stays what it is."""
    if joined.is_float:
        return joined.bits >= 32
    if joined.kind == dtype.kind:
        return joined.bits >= dtype.bits
    return dtype.kind == "uint" and joined.bits > dtype.bits


# Rebuilding ---------------------------------------------------------------------------------------


class _Padding:
    """A block rebuilt with padded tiles."""

    def __init__(self, dims: _Dimensions, extents: Mapping[Dim, int]) -> None:
        self.dims = dims
        self.extents = extents
        self.names: dict[Value, Value] = {}

    def _shape(self, variable: object, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(
            self.extents.get(self.dims.find((variable, d)), n) for d, n in enumerate(shape)
        )

    def _type(self, value: Value) -> TileType | None:
        """The type of a tile, or of a channel's, that is padded."""
        type_ = _tile(value)
        if type_ is None:
            return None
        shape = self._shape(value, type_.shape)
        return None if shape == type_.shape else TileType(type_.dtype, shape)

    def _value(self, value: Value) -> Value:
        return self.names.get(value, value)

    def block(self, block: Block) -> Block:
        params = tuple(self._param(param) for param in block.params)
        b = Builder()
        for op in block.ops:
            with at(op.loc):
                self._op(op, b)
        return Block(params, b.ops)

    def _param(self, param: Value) -> Value:
        type_ = self._type(param)
        if type_ is None:
            return param
        self.names[param] = Value(type_, param.hint)
        return self.names[param]

    def _op(self, op: Op, b: Builder) -> None:
        match op:
            case Parallel():
                new = self._nest(op)
            case Reduce() | Scan() if self._type(op.source) is not None:
                new = op.map(lambda v: self._masked(op, b) if v is op.source else self._value(v))
            case Splat() if (type_ := self._type(op.result)) is not None:
                new = op.map(self._value).replace(shape=type_.shape)
            case Undefined() if (type_ := self._type(op.result)) is not None:
                new = op.replace(type=type_)
            case Channel() if (type_ := self._type(op.result)) is not None:
                new = op.replace(type=ChannelType(type_, op.type.slots))
            case LoadTile() if (type_ := self._type(op.result)) is not None:
                new = op.map(self._value).replace(shape=type_.shape, within=op.shape)
            case StoreTile() if self._type(op.tile) is not None:
                new = op.map(self._value).replace(within=op.region, instruction="")
            case _:
                new = op.map(self._value, self.block)
        b.emit(new)
        for old, result in zip(op.results, new.results, strict=True):
            if old is not result:
                result.hint = old.hint
                self.names[old] = result

    def _nest(self, nest: Parallel) -> Op:
        rank, extents = len(nest.extents), self._shape(nest, nest.extents)
        params = list(nest.body.params)
        for n, tile in enumerate((*nest.reads, *nest.updates), start=rank):
            if (type_ := self._type(tile)) is not None:
                handle = params[n]
                params[n] = Value(
                    MemoryType(type_.dtype, type_.shape, memory_type(handle).space), handle.hint
                )
                self.names[handle] = params[n]
        body = self.block(Block((), nest.body.ops)).ops
        if extents != nest.extents:
            body = _guarded(body, params[:rank], nest.extents, extents)
        return nest.replace(
            reads=tuple(map(self._value, nest.reads)),
            updates=tuple(map(self._value, nest.updates)),
            body=Block(tuple(params), body),
            extents=extents,
        )

    def _masked(self, op: Reduction, b: Builder) -> Value:
        """The source with what changes nothing where it has no contents."""
        source = self._value(op.source)
        old, new = op.source.type, source.type
        assert isinstance(old, TileType) and isinstance(new, TileType)
        neutral = _neutral(op)
        assert neutral is not None, "else the source would not be padded"
        start = b.emit(Splat(constant(neutral, new.dtype), shape=new.shape)).result
        start.hint = op.source.hint
        handles = [
            Value(MemoryType(new.dtype, new.shape, Space.FRAGMENT), op.source.hint)
            for _ in range(2)
        ]
        place = tuple(
            Value(b.const(0).type, hint) for hint, _ in zip("ijklmn", new.shape, strict=False)
        )
        inner = Builder()
        inner.emit(Store(inner.emit(Load(handles[0], place)).result, handles[1], place))
        body = _guarded((*inner.ops, Yield(())), place, old.shape, new.shape)
        nest = Parallel((source,), (start,), Block((*place, *handles), body), extents=new.shape)
        b.emit(nest)
        nest.results[0].hint = op.source.hint
        return nest.results[0]


def _guarded(
    body: Sequence[Op], place: Sequence[Value], within: Sequence[int], extents: Sequence[int]
) -> tuple[Op, ...]:
    """The body of a nest over `extents` as one of `within`."""
    b = Builder()
    inside: Value = constant(True, bool_)
    for index, n, m in zip(place, within, extents, strict=True):
        if n != m:
            inside = b.both(inside, b.compare("lt", index, n))
    b.emit(If(inside, Block((), tuple(body)), Block((), (Yield(()),))))
    b.emit(Yield(()))
    return b.ops
