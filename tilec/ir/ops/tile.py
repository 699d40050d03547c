"""Tile ops: collective over the block (or over the role that runs them)."""

from __future__ import annotations

import math

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import ELEMENTS, HELD, DType
from ..layout.register import RegisterLayout
from ..types import InflightType, ScalarType, TileType, Type
from .arith import element_dtype
from .memory import check_indices, memory_type


def check_region(
    memory: Value, indices: tuple[Value, ...], dims: tuple[int, ...], shape: tuple[int, ...],
    within: tuple[int, ...] = (),
) -> None:  # fmt: skip
    """Raises TypeMismatch where a region of this shape is none of the memory, TLC0240."""
    type_ = check_indices(memory, indices)
    if (
        len(dims) != len(shape)
        or list(dims) != sorted(set(dims))
        or any(d >= len(type_.shape) for d in dims)
        or (within and [n for n, m in zip(within, shape, strict=False) if n <= m] != [*within])
    ):
        part = f" within {within}" if within else ""
        raise TypeMismatch("TLC0240", f"a region {shape}{part} along dimensions {dims} of {type_}")


class Copy(Op, name="copy", level=Level.TILE):
    """Moves a region of `shape` between two memories, converting the dtype.

    The region starts at the given indices; its dimension i runs along `source_dims[i]` and
    `destination_dims[i]`, in rising order; it has extent 1 along all others. Elements outside a
    global source read as `safe_value`; outside a global destination they are dropped. `instruction`
    is how it is done, chosen by choose_instructions: "" (not yet), "registers", "cp_async",
    "buffer_copy", "tma". `barrier` operands: the mbarrier ring and slot that a TMA load completes
    on. Where `predicate` (at most one bool, of a buffer_copy) is false, all of the source counts as
    outside. `multicast`: dimensions of the launch's cluster along which all blocks copy the same; a
    TMA load may then bring a part of it to each of them, and the others the rest. `clipped`:
    dimensions along which boxes may end with the tensor; behind them the destination has zeros.
    """

    source: Value = operand()
    source_indices: tuple[Value, ...] = operands()
    destination: Value = operand()
    destination_indices: tuple[Value, ...] = operands()
    barrier: tuple[Value, ...] = operands(default=())
    predicate: tuple[Value, ...] = operands(default=())
    shape: tuple[int, ...] = attribute(default=())
    source_dims: tuple[int, ...] = attribute(default=())
    destination_dims: tuple[int, ...] = attribute(default=())
    safe_value: float | int = attribute(default=0.0)
    instruction: str = attribute(default="")
    multicast: tuple[int, ...] = attribute(default=())
    clipped: tuple[int, ...] = attribute(default=())

    def infer(self) -> tuple[Type, ...]:
        check_region(self.source, self.source_indices, self.source_dims, self.shape)
        check_region(self.destination, self.destination_indices, self.destination_dims, self.shape)
        if self.predicate and self.instruction != "buffer_copy":
            raise TypeMismatch("TLC0273", f"a copy by {self.instruction or 'any'} has a predicate")
        if (self.multicast or self.clipped) and self.instruction != "tma":
            raise TypeMismatch("TLC0274", f"boxes copied by {self.instruction or 'any'}, not tma")
        return ()

    @property
    def asynchronous(self) -> bool:
        """Whether the data lands behind the statement."""
        return self.instruction in ("cp_async", "buffer_copy", "tma")

    def effects(self) -> tuple[Effect, ...]:
        proxy = "async" if self.instruction == "tma" else "generic"
        return (
            Effect(Access.READ, self.source, proxy),
            Effect(Access.WRITE, self.destination, proxy),
        )


class LoadTile(Op, name="load_tile", level=Level.TILE):
    """A region of memory as a tile of the memory's dtype. Outside a global source: `safe_value`. Where
    `predicate` (at most one bool, of a global source) is false, all of it counts as outside. With
    `within`, one extent a dimension, the region has those, and the tile has no contents beyond.
    """

    source: Value = operand()
    indices: tuple[Value, ...] = operands()
    predicate: tuple[Value, ...] = operands(default=())
    shape: tuple[int, ...] = attribute(default=())
    dims: tuple[int, ...] = attribute(default=())
    safe_value: float | int = attribute(default=0.0)
    layout: RegisterLayout | None = attribute(default=None)
    within: tuple[int, ...] = attribute(default=())

    @property
    def region(self) -> tuple[int, ...]:
        """The extents of what is loaded."""
        return self.within or self.shape

    def infer(self) -> tuple[Type, ...]:
        check_region(self.source, self.indices, self.dims, self.shape, self.within)
        return (TileType(memory_type(self.source).dtype, self.shape, self.layout),)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.source),)


class StoreTile(Op, name="store_tile", level=Level.TILE):
    """Writes a tile to a region of memory of its dtype. Outside a global destination it is dropped.

    With instruction "tma" it goes through `staging` buffers of shared memory, whose rows are of `slab`
    bytes at most. With `within` only that much of it is written: so many elements along each dimension.
    """

    tile: Value = operand()
    destination: Value = operand()
    indices: tuple[Value, ...] = operands()
    dims: tuple[int, ...] = attribute()
    instruction: str = attribute(default="")
    staging: int = attribute(default=2)
    slab: int = attribute(default=128)
    within: tuple[int, ...] = attribute(default=())

    @property
    def region(self) -> tuple[int, ...]:
        """The extents of what is written."""
        return self.within or self.tile.type.shape  # type: ignore[attr-defined]

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType) or type_.dtype != memory_type(self.destination).dtype:
            raise TypeMismatch("TLC0241", f"a {type_} stored into {self.destination.type}")
        check_region(self.destination, self.indices, self.dims, type_.shape, self.within)
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.destination),)


class Fill(Op, name="fill", level=Level.TILE):
    """Sets every element of a memory to `value`."""

    memory: Value = operand()
    value: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        if self.value.type != ScalarType(memory_type(self.memory).dtype):
            raise TypeMismatch("TLC0242", f"{self.memory.type} filled with a {self.value.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.WRITE, self.memory),)


class Splat(Op, name="splat", level=Level.TILE, pure=True):
    """A tile whose elements are all `value`."""

    value: Value = operand()
    shape: tuple[int, ...] = attribute()
    layout: RegisterLayout | None = attribute(default=None)

    def infer(self) -> tuple[Type, ...]:
        if not isinstance(self.value.type, ScalarType):
            raise TypeMismatch("TLC0242", f"a tile filled with a {self.value.type}")
        return (TileType(self.value.type.dtype, self.shape, self.layout),)


class Undefined(Op, name="undefined", level=Level.TILE, pure=True):
    """A tile with no contents: reading an element of it is reading uninitialised memory."""

    type: TileType | InflightType = attribute()

    def infer(self) -> tuple[Type, ...]:
        return (self.type,)


class InsertTile(Op, name="insert_tile", level=Level.TILE, pure=True):
    """`into` with the region that starts at `offsets` replaced by `tile`."""

    tile: Value = operand()
    into: Value = operand()
    offsets: tuple[int, ...] = attribute()

    def infer(self) -> tuple[Type, ...]:
        tile, into = self.tile.type, self.into.type
        if (
            not isinstance(tile, TileType)
            or not isinstance(into, TileType)
            or tile.dtype != into.dtype
        ):
            raise TypeMismatch("TLC0243", f"a {tile} inserted into a {into}")
        if any(o + n > m for o, n, m in zip(self.offsets, tile.shape, into.shape, strict=True)):
            raise TypeMismatch("TLC0243", f"{tile} at {self.offsets} is not inside {into}")
        return (into,)


class ExtractTile(Op, name="extract_tile", level=Level.TILE, pure=True):
    """The region of `shape` of a tile that starts at `offsets`."""

    tile: Value = operand()
    offsets: tuple[int, ...] = attribute()
    shape: tuple[int, ...] = attribute()
    layout: RegisterLayout | None = attribute(default=None)

    def infer(self) -> tuple[Type, ...]:
        tile = self.tile.type
        if not isinstance(tile, TileType) or any(
            o + n > m for o, n, m in zip(self.offsets, self.shape, tile.shape, strict=True)
        ):
            raise TypeMismatch("TLC0243", f"a region {self.shape} at {self.offsets} of a {tile}")
        return (TileType(tile.dtype, self.shape, self.layout),)


class ReshapeTile(Op, name="reshape_tile", level=Level.TILE, pure=True):
    """The elements of a tile in row-major order under another shape: each stays where it is."""

    tile: Value = operand()
    shape: tuple[int, ...] = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType) or math.prod(type_.shape) != math.prod(self.shape):
            raise TypeMismatch("TLC0252", f"a {type_} under the shape {list(self.shape)}")
        return (TileType(type_.dtype, self.shape),)


class RegroupTile(Op, name="regroup_tile", level=Level.TILE, pure=True):
    """The bits of a tile's rows as elements of another size: [..., N] of n bits as [..., N * n / m]
    of m, the lowest bits first.
    """

    tile: Value = operand()
    dtype: DType = attribute()

    @property
    def parts(self) -> int:
        """How many of the smaller elements make one of the larger."""
        small, large = sorted((element_dtype(self.tile).bits, self.dtype.bits))
        return large // small

    @property
    def joins(self) -> bool:
        """Whether the result's elements are the larger ones."""
        return self.dtype.bits > element_dtype(self.tile).bits

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType) or type_.dtype.bits == self.dtype.bits:
            raise TypeMismatch("TLC0248", f"a {type_} as elements of {self.dtype}")
        last, rest = divmod(type_.shape[-1] * type_.dtype.bits, self.dtype.bits)
        if rest or type_.dtype.bits % self.dtype.bits and self.dtype.bits % type_.dtype.bits:
            raise TypeMismatch("TLC0248", f"a {type_} as elements of {self.dtype}")
        return (TileType(self.dtype, (*type_.shape[:-1], last)),)


class UnpackTile(Op, name="unpack_tile", level=Level.TILE, pure=True):
    """A tile of pairs of 4-bit elements [..., N / 2] as one element a byte [..., N]."""

    tile: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType) or type_.dtype not in ELEMENTS:
            raise TypeMismatch("TLC0248", f"a {type_} holds no pairs")
        shape = (*type_.shape[:-1], 2 * type_.shape[-1])
        return (TileType(HELD[ELEMENTS[type_.dtype]], shape),)


class PackTile(Op, name="pack_tile", level=Level.TILE, pure=True):
    """The inverse: the low four bits of elements [..., N], one a byte, in pairs of `dtype`."""

    tile: Value = operand()
    dtype: DType = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        held = HELD[ELEMENTS[self.dtype]]
        if not isinstance(type_, TileType) or type_.dtype != held or type_.shape[-1] % 2:
            raise TypeMismatch("TLC0248", f"a {type_} cannot be packed in pairs")
        return (TileType(self.dtype, (*type_.shape[:-1], type_.shape[-1] // 2)),)


class ConvertLayout(Op, name="convert_layout", level=Level.TILE, pure=True):
    """The same tile held by other threads and registers."""

    tile: Value = operand()
    layout: RegisterLayout = attribute()

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType):
            raise TypeMismatch("TLC0244", f"a {type_} has no register layout")
        return (type_.with_layout(self.layout),)


OPS: tuple[type[Op], ...] = (
    Copy, LoadTile, StoreTile, Fill, Splat, Undefined, InsertTile, ExtractTile,
    ReshapeTile, RegroupTile, UnpackTile, PackTile, ConvertLayout,
)  # fmt: skip
