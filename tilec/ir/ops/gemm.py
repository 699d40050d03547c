"""The product of two matrices of a block, and what its operands are."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ...errors import TypeMismatch
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import ELEMENTS, MIXED, PAIRS, DType, e2m1, e2m3, e3m2, e4m3, e5m2, u8
from ..types import InflightType, MemoryType, Space, TileType, Type
from .memory import memory_type
from .tile import check_region

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

    a and b are shared memory or tiles; `transpose_a` says a is stored (K, M), `transpose_b` that b is
    stored (N, K). Of a shared memory it takes all, or the region of `a_shape` along `a_dims` that
    starts at `a_indices`; so for b. `clear` starts from zero, and so does an `accumulate` (at most one
    bool) that is false. On a fragment handle it writes; on a tile it gives a new tile; `asynchronous`,
    the result is in flight. `policy` ("square", "full_row", "full_col") is the user's warp split;
    `instruction` the family ("mma", "wgmma", "mfma") that choose_instructions set; `variant` the shape
    and warp arrangement that infer_layouts did. With `scales`, two shared memories (M, K / 32) and (N,
    K / 32) of u8, an element of a counts times 2^(s - 127), s that of its row and of its 32 k, and so
    one of b by its column (E8M0: OCP Microscaling Formats, 1.0); of s = 255 all is NaN. Only with
    scales are elements of 4 bits multiplied, in shared memory where a byte's two are consecutive k.
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
        if left.is_float and (not tile.dtype.is_float or tile.dtype.bits < 16):
            raise TypeMismatch(
                "TLC0249",
                f"gemm of {left} into {tile.dtype}",
                hint="products of floats are summed in floats of 16 bits or more: float32, or float64 for "
                "float64",
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

    @property
    def products(self) -> int:
        """How many products it adds up."""
        a, b = self.matrix("a"), self.matrix("b")
        return a.mn * a.k * b.mn

    def matrix(self, side: Side) -> Matrix:
        """What is multiplied of a or b. Raises TypeMismatch where that is no matrix."""
        if side == "a":
            value, indices, k_first = self.a, self.a_indices, self.transpose_a
            dims, shape = self.a_dims, self.a_shape
        else:
            value, indices, k_first = self.b, self.b_indices, not self.transpose_b
            dims, shape = self.b_dims, self.b_shape
        if indices:
            check_region(value, indices, dims, shape)
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


OPS: tuple[type[Op], ...] = (Gemm,)
