"""Tile ops: collective over the block (or over the role that runs them)."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import ELEMENTS, HELD, MIXED, PAIRS, DType, e2m1, e2m3, e3m2, e4m3, e5m2, u8
from ..layout.register import RegisterLayout
from ..types import InflightType, MemoryType, ScalarType, Space, TileType, Type
from .arith import element_dtype
from .memory import check_indices, memory_type


def _check_region(
    memory: Value, indices: tuple[Value, ...], dims: tuple[int, ...], shape: tuple[int, ...],
    within: tuple[int, ...] = (),
) -> None:  # fmt: skip
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
    TMA load may then bring a part of it to each of them, and the others the rest.
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
    safe_value: float = attribute(default=0.0)
    instruction: str = attribute(default="")
    multicast: tuple[int, ...] = attribute(default=())

    def infer(self) -> tuple[Type, ...]:
        _check_region(self.source, self.source_indices, self.source_dims, self.shape)
        _check_region(self.destination, self.destination_indices, self.destination_dims, self.shape)
        if self.predicate and self.instruction != "buffer_copy":
            raise TypeMismatch("TLC0273", f"a copy by {self.instruction or 'any'} has a predicate")
        if self.multicast and self.instruction != "tma":
            raise TypeMismatch(
                "TLC0274", f"a multicast copy by {self.instruction or 'any'}, not tma"
            )
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
    safe_value: float = attribute(default=0.0)
    layout: RegisterLayout | None = attribute(default=None)
    within: tuple[int, ...] = attribute(default=())

    @property
    def region(self) -> tuple[int, ...]:
        """The extents of what is loaded."""
        return self.within or self.shape

    def infer(self) -> tuple[Type, ...]:
        _check_region(self.source, self.indices, self.dims, self.shape, self.within)
        return (TileType(memory_type(self.source).dtype, self.shape, self.layout),)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.READ, self.source),)


class StoreTile(Op, name="store_tile", level=Level.TILE):
    """Writes a tile to a region of memory of its dtype. Outside a global destination it is dropped.

    With instruction "tma" it goes through `staging` buffers of shared memory. With `within` only that
    much of it is written: so many elements along each dimension.
    """

    tile: Value = operand()
    destination: Value = operand()
    indices: tuple[Value, ...] = operands()
    dims: tuple[int, ...] = attribute()
    instruction: str = attribute(default="")
    staging: int = attribute(default=2)
    within: tuple[int, ...] = attribute(default=())

    @property
    def region(self) -> tuple[int, ...]:
        """The extents of what is written."""
        return self.within or self.tile.type.shape  # type: ignore[attr-defined]

    def infer(self) -> tuple[Type, ...]:
        type_ = self.tile.type
        if not isinstance(type_, TileType) or type_.dtype != memory_type(self.destination).dtype:
            raise TypeMismatch("TLC0241", f"a {type_} stored into {self.destination.type}")
        _check_region(self.destination, self.indices, self.dims, type_.shape, self.within)
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


Side = Literal["a", "b"]
"""An operand of a gemm: left or right."""
SIDES: tuple[Side, Side] = ("a", "b")
SCALED = 32  # consecutive k of a row of A or a column of B that share a scale
SCALED_DTYPES = (e4m3, e5m2, e2m3, e3m2, e2m1)
"""What a gemm with scales multiplies with each other."""


class Matrix(NamedTuple):
    """An operand of a gemm: where it starts in memory (no indices: at 0), and its extents along the
    dimensions of the memory, or tile, that are mn (a row of the left operand, a column of the right
    one) and k. An element of the memory holds `per` of those of the matrix, consecutive k: 2 of pairs
    of 4 bits. `k` counts those of the matrix.
    """

    value: Value
    indices: tuple[Value, ...]
    mn_dim: int
    k_dim: int
    mn: int
    k: int
    per: int = 1

    @property
    def k_major(self) -> bool:
        """Whether consecutive k lie together."""
        return self.k_dim > self.mn_dim


class Gemm(Op, name="gemm", level=Level.TILE):
    """accumulator + op(a) @ op(b), shapes (M, N) + (M, K) @ (K, N).

    a and b are shared memory or tiles; `transpose_a` says a is stored (K, M), `transpose_b` that b
    is stored (N, K). Of a shared memory it takes all, or the region of `a_shape` along `a_dims`
    that starts at `a_indices`; so for b. `clear` starts from zero, and so does an `accumulate` (at most one bool) that
    is false. On a fragment handle it writes; on a tile it gives a new tile; `asynchronous`, the
    result is in flight. `policy` ("square", "full_row", "full_col") is the user's warp split;
    `instruction` the family ("mma", "wgmma", "mfma") that choose_instructions set; `variant` the
    shape and warp arrangement that infer_layouts did. With `scales`, two shared memories (M, K / 32) and
    (N, K / 32) of u8, an element of a counts times 2^(s - 127), s that of its row and of its 32 k, and so
    one of b by its column (E8M0: OCP Microscaling Formats, 1.0); of s = 255 all is NaN. Only with scales
    are elements of 4 bits multiplied, in shared memory where a byte's two are consecutive k.
    """

    a: Value = operand()
    b: Value = operand()
    accumulator: Value = operand()
    accumulate: tuple[Value, ...] = operands(default=())
    a_indices: tuple[Value, ...] = operands(default=())
    b_indices: tuple[Value, ...] = operands(default=())
    scales: tuple[Value, ...] = operands(default=())
    a_shape: tuple[int, ...] = attribute(default=())
    a_dims: tuple[int, ...] = attribute(default=())
    b_shape: tuple[int, ...] = attribute(default=())
    b_dims: tuple[int, ...] = attribute(default=())
    transpose_a: bool = attribute(default=False)
    transpose_b: bool = attribute(default=False)
    clear: bool = attribute(default=False)
    policy: str = attribute(default="square")
    asynchronous: bool = attribute(default=False)
    instruction: str = attribute(default="")
    variant: tuple[object, ...] = attribute(default=())

    def infer(self) -> tuple[Type, ...]:
        a, b = self.matrix("a"), self.matrix("b")
        _, c = _matrix(self.accumulator)
        if (a.mn, b.mn) != c or a.k != b.k:
            raise TypeMismatch(
                "TLC0245",
                f"gemm of {_described(a)} and {_described(b)} into {self.accumulator.type}",
                hint=f"with these transposes it is ({a.mn}, {a.k}) @ ({b.k}, {b.mn})",
            )
        type_ = self.accumulator.type
        tile = type_.tile if isinstance(type_, InflightType) else type_
        assert isinstance(tile, (MemoryType, TileType))
        left, right = self.dtype_of("a"), self.dtype_of("b")
        for side in SIDES:
            self._check_bytes(side)
        alike = left == right or any({left, right} <= kinds for kinds in MIXED)
        if not alike and not self.scales:
            raise TypeMismatch("TLC0253", f"gemm of {left} and {right}", hint="convert one of them")
        if left.is_float and not tile.dtype.is_float:
            raise TypeMismatch(
                "TLC0249",
                f"gemm of {left} into {tile.dtype}",
                hint="products of floats are summed in floats: float32, or float64 for float64",
            )
        for side, scale in zip(SIDES, self.scales, strict=bool(self.scales)):
            self._check_scale(side, scale)
        if isinstance(type_, MemoryType):
            return ()
        return (InflightType(tile) if self.asynchronous else tile,)  # type: ignore[arg-type]

    def effects(self) -> tuple[Effect, ...]:
        proxy = "async" if self.asynchronous else "generic"
        found = [
            Effect(Access.READ, v, proxy)
            for v in (self.a, self.b, *self.scales)
            if isinstance(v.type, MemoryType)
        ]
        if isinstance(self.accumulator.type, MemoryType):
            found += [Effect(Access.READ, self.accumulator), Effect(Access.WRITE, self.accumulator)]
        return tuple(found)

    def matrix(self, side: Side) -> Matrix:
        """What is multiplied of a or b. Raises TypeMismatch where that is no matrix."""
        if side == "a":
            value, indices, k_first = self.a, self.a_indices, self.transpose_a
            dims, shape = self.a_dims, self.a_shape
        else:
            value, indices, k_first = self.b, self.b_indices, not self.transpose_b
            dims, shape = self.b_dims, self.b_shape
        if indices:
            _check_region(value, indices, dims, shape)
            if len(dims) != 2 or memory_type(value).space is not Space.SHARED:
                raise _no_matrix(f"a region {shape} of a {value.type}")
        else:
            dims, shape = _matrix(value)
        (k_dim, mn_dim), (k, mn) = (
            dims if k_first else dims[::-1],
            shape if k_first else shape[::-1],
        )
        per = 2 if getattr(value.type, "dtype", None) in ELEMENTS else 1
        return Matrix(value, indices, mn_dim, k_dim, mn, per * k, per)

    def _check_bytes(self, side: Side) -> None:
        """Raises TypeMismatch for 4-bit elements that no instruction takes as they lie."""
        matrix, dtype = self.matrix(side), self.dtype_of(side)
        if dtype not in PAIRS:
            return
        type_ = matrix.value.type
        what = f"{side.upper()} of a gemm with scales is {_described(matrix)}"
        if not self.scales or dtype not in SCALED_DTYPES:
            what = f"gemm is not defined for elements of {dtype}"
            hint = "T.copy them to a buffer of int8, or of a float, first"
        elif not (isinstance(type_, MemoryType) and type_.space is Space.SHARED):
            hint = "elements of 4 bits are multiplied from shared memory: T.copy them there"
        elif not matrix.k_major:
            what += f", in rows along {'M' if side == 'a' else 'N'}"
            hint = "the two elements of a byte are consecutive k: A is (M, K), B (N, K) with transpose_B"
        else:
            return
        raise TypeMismatch("TLC0152", what, hint=hint)

    def _check_scale(self, side: Side, scale: Value) -> None:
        matrix, type_ = self.matrix(side), memory_type(scale)
        wanted = (matrix.mn, matrix.k // SCALED)
        if matrix.k % SCALED or type_.shape != wanted or type_.dtype != u8:
            raise TypeMismatch(
                "TLC0254",
                f"the scales of {side.upper()} are {type_}, and {_described(matrix)} takes u8{list(wanted)}",
                hint=f"one for {SCALED} elements along K, which is a multiple of that",
            )
        if type_.space is not Space.SHARED or self.dtype_of(side) not in SCALED_DTYPES:
            raise TypeMismatch(
                "TLC0254",
                f"a gemm with scales of {self.dtype_of(side)}, the scales of {side.upper()} in "
                f"{type_.space.value} memory",
                hint="scales are in shared memory, of operands of float8_e4m3fn, float8_e5m2, "
                "float6_e2m3fn, float6_e3m2fn or float4_e2m1fn",
            )

    def dtype_of(self, side: Side) -> DType:
        """The dtype of the elements of a or b."""
        type_ = (self.a if side == "a" else self.b).type
        assert isinstance(type_, (MemoryType, TileType))
        return ELEMENTS.get(type_.dtype, type_.dtype)


def _matrix(value: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two dimensions of a memory or tile that make it a matrix, and its extents along them."""
    type_ = value.type.tile if isinstance(value.type, InflightType) else value.type
    if isinstance(type_, (MemoryType, TileType)):
        dims = tuple(range(len(type_.shape)))
        if len(dims) > 2 and isinstance(type_, MemoryType) and type_.space is Space.SHARED:
            dims = tuple(d for d in dims if type_.shape[d] != 1)  # a slot
        extents = tuple(n for n in (type_.shape[d] for d in dims) if isinstance(n, int))
        if len(dims) == len(extents) == 2:
            if not (isinstance(type_, MemoryType) and type_.space is Space.GLOBAL):
                return dims, extents
    raise _no_matrix(f"a {value.type}")


def _no_matrix(what: str) -> TypeMismatch:
    return TypeMismatch(
        "TLC0246",
        f"{what} is not a matrix that gemm can take",
        hint="operands are matrices of known extents in shared memory or a fragment; a vector is "
        "one of extents (1, K)",
    )


def _described(matrix: Matrix) -> str:
    if not matrix.indices:
        return str(matrix.value.type)
    rows, columns = (matrix.mn, matrix.k) if matrix.k_major else (matrix.k, matrix.mn)
    return f"a region [{rows}, {columns}] of {matrix.value.type}"


OPS: tuple[type[Op], ...] = (
    Copy, LoadTile, StoreTile, Fill, Splat, Undefined, InsertTile, ExtractTile,
    ReshapeTile, RegroupTile, UnpackTile, PackTile, ConvertLayout, Gemm,
)  # fmt: skip
