"""Reductions and scans of tiles along a dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import TypeMismatch
from ..conversion import convert_array
from ..core import Access, Effect, Level, Op, Value, attribute, operand, operands
from ..dtypes import DType, f32, i32, u32
from ..layout.register import RegisterLayout
from ..types import MemoryType, TileType, Type
from .arith import (
    Abs,
    Add,
    Binary,
    BitAnd,
    BitOr,
    BitXor,
    Cast,
    Compare,
    Max,
    Min,
    Select,
    extremum,
)
from .arith import element_dtype as scalar_dtype

KINDS: dict[str, tuple[type[Binary], bool]] = {
    "sum": (Add, False),
    "max": (Max, False),
    "min": (Min, False),
    "absmax": (Max, True),
    "abssum": (Add, True),
    "bitand": (BitAnd, False),
    "bitor": (BitOr, False),
    "bitxor": (BitXor, False),
}
"""What joins two elements, and whether their absolute values are taken first."""

Append = Callable[[Op], Value]
"""Appends a pure op to a program and gives its result, or something equal."""


def accumulation_dtype(destination: DType) -> DType:
    """In what elements are joined: the destination's dtype, but nothing narrower than 32 bits."""
    if destination.bits >= 32:
        return destination
    if destination.is_float:
        return f32
    return i32 if destination.kind == "int" else u32


class Reduction(Op):
    """Base of what joins elements of a tile: of `source` (a tile, or a fragment or shared memory),
    converted to `dtype` first.

    Gives a tile, or writes the one handle in `destination`, converted to its dtype. A NaN gives way
    to a number in "max", "min" and "absmax", unless `propagate_nan`.
    """

    source: Value
    destination: tuple[Value, ...]
    kind: str
    dim: int
    dtype: DType
    propagate_nan: bool

    def infer(self) -> tuple[Type, ...]:
        type_ = self.source.type
        if not isinstance(type_, (MemoryType, TileType)):
            raise TypeMismatch("TLC0247", f"a {self.name} of a {type_}")
        if self.kind not in KINDS or not 0 <= self.dim < len(type_.shape):
            raise TypeMismatch("TLC0247", f"a {self.name} {self.kind!r} of dimension {self.dim}")
        if self.kind.startswith("bit") and not self.dtype.is_integer:
            raise TypeMismatch("TLC0247", f"{self.kind} of {self.dtype}: it takes integers")
        shape = self.result_shape(tuple(int(d) for d in type_.shape))
        if not self.destination:
            return (TileType(self.dtype, shape, self.result_layout(type_.layout)),)
        (target,) = self.destination
        if not isinstance(target.type, MemoryType) or target.type.shape != shape:
            raise TypeMismatch("TLC0247", f"a {self.name} of {type_} into {target.type}")
        return ()

    def effects(self) -> tuple[Effect, ...]:
        found = [Effect(Access.READ, self.source)] if _is_memory(self.source) else []
        return (*found, *(Effect(Access.WRITE, v) for v in self.destination))

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The extents of the result."""
        raise NotImplementedError

    def result_layout(self, layout: Any) -> RegisterLayout | None:
        """The layout of the result, given the source's."""
        raise NotImplementedError

    def element(self, append: Append, x: Value) -> Value:
        """An element (or a tile) of the source as it is joined."""
        if scalar_dtype(x) != self.dtype:
            x = append(Cast(x, dtype=self.dtype))
        return append(Abs(x)) if KINDS[self.kind][1] and self.dtype.kind != "uint" else x

    def join(self, append: Append, x: Value, y: Value) -> Value:
        """Two elements (or tiles) that `element` gave, as one."""
        joined = append(KINDS[self.kind][0](x, y))
        if self.propagate_nan and self.dtype.is_float and KINDS[self.kind][0] is not Add:
            joined = append(Select(append(Compare(y, y, predicate="ne")), y, joined))
            joined = append(Select(append(Compare(x, x, predicate="ne")), x, joined))
        return joined

    def elements(self, x: Any) -> Any:
        """`element` in NumPy."""
        x = convert_array(np.asarray(x), self.dtype)
        return np.abs(x) if KINDS[self.kind][1] else x

    def _joined(self, x: Any, y: Any) -> Any:
        """`join` in NumPy."""
        extreme = KINDS[self.kind][0] in (Max, Min)
        return extremum(self.ufunc, x, y) if extreme else self.ufunc(x, y)

    def _signed(self, found: Any, x: Any, some: Any, **how: Any) -> Any:
        """The zeros of what is `found` in x, as `extremum` has them: `some` says where there is one
        that wins."""
        zeros, least = np.equal(found, 0), KINDS[self.kind][0] is Min
        if KINDS[self.kind][0] not in (Max, Min) or x.dtype.kind in "iub" or not zeros.any():
            return found
        wins = np.equal(x, 0) & (np.signbit(x) == least)
        negative = some(wins, axis=self.dim, **how) == least
        return np.where(zeros, np.where(negative, -0.0, 0.0).astype(found.dtype), found)

    @property
    def ufunc(self) -> np.ufunc:
        """`join` in NumPy."""
        if self.propagate_nan and KINDS[self.kind][0] is not Add:
            return {Max: np.maximum, Min: np.minimum}[KINDS[self.kind][0]]
        return _UFUNCS[KINDS[self.kind][0]]


_UFUNCS: dict[type[Binary], np.ufunc] = {
    Add: np.add,
    Max: np.fmax,
    Min: np.fmin,
    BitAnd: np.bitwise_and,
    BitOr: np.bitwise_or,
    BitXor: np.bitwise_xor,
}


class Reduce(Reduction, name="reduce", level=Level.TILE):
    """All elements along `dim` joined into one, a dimension that is gone, or of extent 1 (`keep`).

    Written to a destination, they are joined with what it holds unless `clear`.
    """

    source: Value = operand()
    destination: tuple[Value, ...] = operands()
    kind: str = attribute()
    dim: int = attribute()
    dtype: DType = attribute()
    keep: bool = attribute(default=False)
    clear: bool = attribute(default=True)
    propagate_nan: bool = attribute(default=False)

    def effects(self) -> tuple[Effect, ...]:
        read = () if self.clear else tuple(Effect(Access.READ, v) for v in self.destination)
        return (*read, *super().effects())

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = (1,) if self.keep else ()
        return (*shape[: self.dim], *kept, *shape[self.dim + 1 :])

    def result_layout(self, layout: Any) -> RegisterLayout | None:
        return layout.reduce(self.dim, self.keep) if isinstance(layout, RegisterLayout) else None

    def evaluate(self, *inputs: Any) -> Any:
        """The source reduced; a second input is joined with that."""
        with np.errstate(all="ignore"):
            x = self.elements(inputs[0])
            found = self.ufunc.reduce(x, axis=self.dim, keepdims=self.keep, dtype=x.dtype)
            found = self._signed(found, x, np.logical_or.reduce, keepdims=self.keep)
            for old in inputs[1:]:
                found = self._joined(self.elements(old), found)
        return found


class Scan(Reduction, name="scan", level=Level.TILE):
    """Every element joined with all before it along `dim`, or with all after it (`reverse`)."""

    source: Value = operand()
    destination: tuple[Value, ...] = operands()
    kind: str = attribute()
    dim: int = attribute()
    dtype: DType = attribute()
    reverse: bool = attribute(default=False)
    propagate_nan: bool = attribute(default=False)

    def result_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def result_layout(self, layout: Any) -> RegisterLayout | None:
        return layout if isinstance(layout, RegisterLayout) else None

    def evaluate(self, *inputs: Any) -> Any:
        with np.errstate(all="ignore"):
            x = self.elements(inputs[0])
            x = np.flip(x, self.dim) if self.reverse else x
            found = self.ufunc.accumulate(x, axis=self.dim, dtype=x.dtype)
            found = self._signed(found, x, np.logical_or.accumulate)
        return np.flip(found, self.dim) if self.reverse else found


def _is_memory(value: Value) -> bool:
    return isinstance(value.type, MemoryType)


OPS: tuple[type[Op], ...] = (Reduce, Scan)
