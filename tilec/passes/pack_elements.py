"""4-bit elements become bytes.

Needs: fragments as tiles (promote_fragments), stores gathered (gather_pairs). Leaves: no 4-bit
dtype. Global and shared memory of N such elements a row is memory of N / 2 pairs; tiles, variables
and scalars have a byte an element (i8 for i4, u8 for u4, e2m1b for e2m1).

    %s = alloc : shared i4[64, 32]              %s = alloc : shared i4x2[64, 16]
    copy %B[%n, %k], %s[0, 0]                   %h = floordiv %k, 2
      <shape = [64, 32], …>                     copy %B[%n, %h], %s[0, 0] <shape = [64, 16], …>
    %t = load_tile %s : tile i4[64, 32]    ->   %p = load_tile %s : tile i4x2[64, 16]
                                                %t = unpack_tile %p : tile i8[64, 32]

A byte is written whole. What would write half of one is refused: two threads that write the halves
of a byte would race.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile

from ..errors import TypeMismatch
from ..ir.build import Builder
from ..ir.core import Block, Constant, Level, Op, Program, Value, at, constant, walk
from ..ir.dtypes import HELD, PAIRS, DType, i32
from ..ir.ops.arith import Cast, FloorDiv, Reinterpret, element_dtype
from ..ir.ops.control import Define, Launch, Parallel, Return, Symbol
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Load, Slot, Store, memory_type
from ..ir.ops.tile import (
    ConvertLayout,
    Copy,
    ExtractTile,
    Fill,
    InsertTile,
    LoadTile,
    PackTile,
    ReshapeTile,
    Splat,
    StoreTile,
    Undefined,
    UnpackTile,
)
from ..ir.types import Dim, MemoryType, ScalarType, Space, TileType
from .context import PassContext
from .nibbles import narrowed, packed, reread, twice, unpacked
from .ranges import Range
from .value_ranges import value_ranges

_MOVES = (Splat, InsertTile, ExtractTile, ReshapeTile, Parallel, Copy, Fill, ConvertLayout)
"""Tile ops that only move elements, however many bits they have."""


def pack_elements(program: Program, context: PassContext) -> Program:
    """Rewrites memory, tiles and scalars of 4-bit dtypes.

    Raises TypeMismatch (TLC0151, TLC0152) for what cannot be done in whole bytes, at its place.
    """
    values = (*program.params, *(v for op in walk(program.body) for v in (*op.results, *op.inputs)))
    if not any(_four_bits(v) for v in values):
        return program
    return _Packer(program).program()


def _four_bits(value: Value) -> bool:
    return getattr(value.type, "dtype", None) in PAIRS


def _in_pairs(value: Value) -> bool:
    type_ = value.type
    return (
        isinstance(type_, MemoryType)
        and type_.dtype in PAIRS
        and type_.space in (Space.GLOBAL, Space.SHARED)
    )


class _Packer:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._values: dict[Value, Value] = {}
        self._ranges = value_ranges(program.body, program.multiples)
        self._symbols = list(program.symbols)
        self._multiples = dict(program.multiples)
        self._b = Builder()

    def program(self) -> Program:
        before = list(takewhile(lambda op: not isinstance(op, Launch), self._program.body.ops))
        for op in before:  # what the extents of parameters may follow from
            self._op(op)
        params = tuple(self._param(param) for param in self._program.params)
        for op in self._program.body.ops[len(before) :]:
            self._op(op)
        new = replace(
            self._program, params=params, symbols=tuple(self._symbols), multiples=self._multiples
        )
        return new.with_body(self._program.body.with_ops(self._b.ops))

    # Values and types -----------------------------------------------------------------------------

    def _value(self, value: Value) -> Value:
        if isinstance(value, Constant) and _four_bits(value):
            return constant(value.value, HELD[element_dtype(value)])
        return self._values.get(value, value)

    def _param(self, param: Value) -> Value:
        """A parameter of the program, or of a region."""
        if not _four_bits(param):
            return param
        type_ = param.type
        assert isinstance(type_, (ScalarType, MemoryType, TileType))
        new: ScalarType | MemoryType | TileType
        if isinstance(type_, MemoryType) and _in_pairs(param):
            with at(self._program.loc), self._program.loc:
                new = self._packed(type_)
        elif isinstance(type_, ScalarType) and param in self._program.params:
            raise TypeMismatch(
                "TLC0152", f"{param.hint} is a scalar of {type_}", loc=self._program.loc,
                hint="declare it as " + ("f16" if type_.dtype.is_float else str(HELD[type_.dtype])),
            )  # fmt: skip
        else:
            new = replace(type_, dtype=HELD[type_.dtype])
        self._values[param] = Value(new, param.hint)
        return self._values[param]

    def _packed(self, type_: MemoryType) -> MemoryType:
        """The type of the same memory in bytes."""
        if type_.strides is not None or type_.layout is not None:
            raise TypeMismatch(
                "TLC0152", f"{type_} has strides or a layout of its own",
                hint="4-bit elements lie row by row, two to a byte",
            )  # fmt: skip
        shape = (*type_.shape[:-1], self._half(type_))
        return replace(type_, dtype=PAIRS[type_.dtype], shape=shape)

    def _half(self, type_: MemoryType) -> Dim:
        extent = type_.shape[-1]
        if isinstance(extent, int):
            if extent % 2:
                raise TypeMismatch(
                    "TLC0151", f"a row of {type_} has an odd number of elements",
                    hint="two elements share a byte: make the last extent even",
                )  # fmt: skip
            return extent // 2
        label = f"{extent}_pairs"
        if label not in self._symbols:
            self._symbols.append(label)
            pairs, odd = divmod(self._multiples.get(extent, 1), 2)
            if pairs > 1 and not odd:
                self._multiples[label] = pairs
            symbol = self._b.emit_outside(Symbol(label=extent))
            half = self._b.emit_outside(FloorDiv(symbol.result, constant(2, i32)))
            self._b.emit_outside(Define(half.result, label=label))
        return label

    # Ops ------------------------------------------------------------------------------------------

    def _region(self, block: Block) -> Block:
        params = tuple(self._param(param) for param in block.params)
        with self._b.region() as ops:
            for op in block.ops:
                self._op(op)
        return Block(params, tuple(ops))

    def _op(self, op: Op) -> None:
        with at(op.loc), op.loc:
            match op:
                case Alloc() if op.type.dtype in PAIRS:
                    shared = _in_pairs(op.result)
                    held = replace(op.type, dtype=HELD[op.type.dtype])
                    self._keep(op, op.replace(type=self._packed(op.type) if shared else held))
                case Load() if _in_pairs(op.memory):
                    self._load(op)
                case Fill() if _in_pairs(op.memory):
                    value, dtype = self._value(op.value), PAIRS[element_dtype(op.value)]
                    pair = packed(self._b, value, value, dtype)
                    self._b.emit(Fill(self._value(op.memory), pair))
                case LoadTile() if _in_pairs(op.source):
                    tile = self._load_tile(op, op.source, op.indices, op.dims, op.shape)
                    self._set(op.result, tile)
                case StoreTile() if _in_pairs(op.destination):
                    tile = self._value(op.tile)
                    self._store_tile(op, tile, op.destination, op.indices, op.dims)
                case Copy() if _in_pairs(op.source) or _in_pairs(op.destination):
                    self._copy(op)
                case Slot() if len(memory_type(op.ring).shape) > 1:  # whole rows
                    self._keep(op, op.map(self._value, self._region))
                case Gemm() if _in_pairs(op.a) or _in_pairs(op.b):
                    self._gemm(op)
                case Cast() if op.dtype in PAIRS:
                    self._set(op.result, narrowed(self._b, self._value(op.x), op.dtype))
                case Reinterpret() if op.dtype in PAIRS:
                    self._set(op.result, reread(self._b, self._value(op.x), op.dtype))
                case Undefined(type=TileType() as type_) if type_.dtype in PAIRS:
                    self._keep(op, op.replace(type=replace(type_, dtype=HELD[type_.dtype])))
                case _:
                    self._other(op)

    def _other(self, op: Op) -> None:
        """An op that does not care how many bits its elements have, or cannot do with so few."""
        if isinstance(op, Store) and _in_pairs(op.memory):
            raise TypeMismatch(
                "TLC0152", f"a single element of {op.memory.type} is written",
                hint="two elements share a byte: T.copy them from a fragment, or store them in a "
                "T.Parallel nest, at an offset plus its loop variables, without a condition, and load "
                "them in another",
            )  # fmt: skip
        refused = [v for v in op.inputs if _in_pairs(v)]
        if op.level is Level.TILE and not isinstance(op, _MOVES):
            refused = [v for v in (*op.inputs, *op.results) if _four_bits(v)]
        if refused and not isinstance(op, Return):
            raise TypeMismatch(
                "TLC0152", f"{op.name} is not defined for {refused[0].type}",
                hint="T.copy it to a buffer of int8, or of a float, first",
            )  # fmt: skip
        self._keep(op, op.map(self._value, self._region))

    def _keep(self, old: Op, new: Op) -> None:
        self._b.emit(new)
        for before, after in zip(old.results, new.results, strict=True):
            if before is not after:
                self._set(before, after)

    def _set(self, before: Value, after: Value) -> None:
        self._values[before] = after
        after.hint = after.hint or before.hint

    def _load(self, op: Load) -> None:
        *outer, index = (self._value(v) for v in op.indices)
        dtype = element_dtype(op.result)
        predicate = tuple(self._value(v) for v in op.predicate)
        place = (*outer, self._b.floordiv(index, 2))
        safe = twice(op.safe_value, dtype)
        pair = self._b.emit(Load(self._value(op.memory), place, predicate, safe_value=safe)).result
        self._set(op.result, unpacked(self._b, pair, self._b.cast(index, i32), dtype))

    # Regions of memory ----------------------------------------------------------------------------

    def _copy(self, op: Copy) -> None:
        source, destination = _in_pairs(op.source), _in_pairs(op.destination)
        if source and destination and _same_bits(_dtype(op.source), _dtype(op.destination)):
            self._b.emit(
                Copy(
                    self._value(op.source),
                    self._bytes(op.source, op.source_indices, op.source_dims, op.shape),
                    self._value(op.destination),
                    self._bytes(
                        op.destination, op.destination_indices, op.destination_dims, op.shape
                    ),
                    shape=_halved(op.shape),
                    source_dims=op.source_dims,
                    destination_dims=op.destination_dims,
                    safe_value=twice(op.safe_value, _dtype(op.source)),
                )
            )
            return
        if source:
            tile = self._load_tile(op, op.source, op.source_indices, op.source_dims, op.shape)
        else:
            indices = tuple(self._value(v) for v in op.source_indices)
            load = LoadTile(
                op.source, indices, shape=op.shape, dims=op.source_dims, safe_value=op.safe_value
            )
            tile = self._b.emit(load).result
        to, indices = _dtype(op.destination), op.destination_indices
        if destination:
            tile = narrowed(self._b, tile, to)
            self._store_tile(op, tile, op.destination, indices, op.destination_dims)
        else:
            places = tuple(self._value(v) for v in indices)
            tile = self._b.cast(tile, to)
            self._b.emit(StoreTile(tile, op.destination, places, dims=op.destination_dims))

    def _gemm(self, op: Gemm) -> None:
        """The same product, of pairs: their rows run along k, which is what Gemm asks."""
        packed: dict[str, object] = {"a": self._value(op.a), "b": self._value(op.b)}
        for side, memory in (("a", op.a), ("b", op.b)):
            indices, dims, shape = (
                getattr(op, f"{side}_{what}") for what in ("indices", "dims", "shape")
            )
            if _in_pairs(memory) and indices:
                packed[f"{side}_indices"] = self._bytes(memory, indices, dims, shape)
                packed[f"{side}_shape"] = _halved(shape)
        self._keep(op, op.replace(**packed).map(self._value, self._region))

    def _load_tile(
        self,
        op: Copy | LoadTile,
        memory: Value,
        indices: Sequence[Value],
        dims: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> Value:
        place = self._bytes(memory, indices, dims, shape)
        safe = twice(op.safe_value, _dtype(memory))
        load = LoadTile(
            self._value(memory), place, shape=_halved(shape), dims=dims, safe_value=safe
        )
        return self._b.emit(UnpackTile(self._b.emit(load).result)).result

    def _store_tile(
        self, op: Op, tile: Value, memory: Value, indices: Sequence[Value], dims: tuple[int, ...]
    ) -> None:
        assert isinstance(tile.type, TileType)
        place = self._bytes(memory, indices, dims, tile.type.shape)
        pairs = self._b.emit(PackTile(tile, dtype=PAIRS[_dtype(memory)])).result
        self._b.emit(StoreTile(pairs, self._value(memory), place, dims=dims))

    def _bytes(
        self, memory: Value, indices: Sequence[Value], dims: tuple[int, ...], shape: tuple[int, ...]
    ) -> tuple[Value, ...]:
        """The corner of a region in bytes. Raises TypeMismatch where one is cut through."""
        *outer, index = (self._value(v) for v in indices)
        whole = dims and dims[-1] == len(outer) and shape[-1] % 2 == 0
        if not whole or not self._is_even(indices[-1]):
            raise TypeMismatch(
                "TLC0152", f"a region of {memory.type} that may begin or end within a byte",
                hint="two elements share a byte: make the tile's width even, and its offset along "
                "the last dimension a product with an even number",
            )  # fmt: skip
        return (*outer, self._b.floordiv(index, 2))

    def _is_even(self, index: Value) -> bool:
        found = (
            Range.exactly(int(index.value))
            if isinstance(index, Constant)
            else self._ranges.of(index)
        )
        return found.modulus % 2 == 0 and found.residue % 2 == 0


def _dtype(memory: Value) -> DType:
    assert isinstance(memory.type, MemoryType)
    return memory.type.dtype


def _same_bits(source: DType, destination: DType) -> bool:
    """Whether a conversion keeps all bits: integers wrap around."""
    return source == destination or (source.is_integer and destination.is_integer)


def _halved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-1], shape[-1] // 2)
