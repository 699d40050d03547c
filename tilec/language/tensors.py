"""What a kernel says of its parameters: tensors, their dimensions, and symbols."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import Loc, TypeMismatch
from ..ir.core import Value
from ..ir.dtypes import PAIRS, DType, i32
from .dtypes import ElementType, element_type, row_dtype
from .extents import Computed, combined, parse_extent
from .operand import Operand
from .trace import Here, current, refuse, tracing


@dataclass(frozen=True, eq=False)
class Dynamic(Operand):
    """A symbol: an extent that is known at run time, and what it is promised to be a multiple of."""

    name: str
    multiple_of: int = 1
    ir: DType = i32

    def _value(self) -> Value:
        trace = current(f"the symbol {self.name}")
        with trace.here():
            trace.promise(self.name, self.multiple_of)
            return trace.symbol(self.name)

    def __repr__(self) -> str:
        return f"T.dynamic({self.name!r})"

    # Outside of a kernel there is no value to compute with: what is computed is another extent.

    def __add__(self, other: Any) -> Any:
        return super().__add__(other) if tracing() else combined("+", self, other)

    def __radd__(self, other: Any) -> Any:
        return super().__radd__(other) if tracing() else combined("+", other, self)

    def __sub__(self, other: Any) -> Any:
        return super().__sub__(other) if tracing() else combined("-", self, other)

    def __rsub__(self, other: Any) -> Any:
        return super().__rsub__(other) if tracing() else combined("-", other, self)

    def __mul__(self, other: Any) -> Any:
        return super().__mul__(other) if tracing() else combined("*", self, other)

    def __rmul__(self, other: Any) -> Any:
        return super().__rmul__(other) if tracing() else combined("*", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return super().__floordiv__(other) if tracing() else combined("//", self, other)


@dataclass(frozen=True)
class ConstDim:
    """A dimension that specialises the kernel, before its value is known."""

    name: str

    def __str__(self) -> str:
        return self.name

    def __mul__(self, other: Any) -> Derived:
        return _derived("*", self, other)

    def __rmul__(self, other: Any) -> Derived:
        return _derived("*", other, self)

    def __add__(self, other: Any) -> Derived:
        return _derived("+", self, other)

    def __radd__(self, other: Any) -> Derived:
        return _derived("+", other, self)

    def __sub__(self, other: Any) -> Derived:
        return _derived("-", self, other)

    def __rsub__(self, other: Any) -> Derived:
        return _derived("-", other, self)

    def __floordiv__(self, other: Any) -> Derived:
        return _derived("//", self, other)

    def __neg__(self) -> Derived:
        return Derived(f"-{self.name}")


@dataclass(frozen=True)
class Derived(ConstDim):
    """A dimension computed from others, its name the text of that. It binds nothing; the trace
    computes it again, from values.
    """


def _derived(operator: str, left: Any, right: Any) -> Derived:
    inner = (f"({x})" if isinstance(x, Derived) else str(x) for x in (left, right))
    return Derived(f" {operator} ".join(inner))


DimSpec = int | str | Dynamic | ConstDim | Computed | Operand


@dataclass(frozen=True)
class TensorSpec:
    """The annotation of a tensor parameter: dimensions (int, symbol name, Dynamic, what is computed
    from them) and dtype; strides in elements, or None for row-major without gaps."""

    shape: tuple[DimSpec, ...]
    dtype: DType
    strides: tuple[DimSpec, ...] | None = None

    def __str__(self) -> str:
        shape, dtype = _text(self.shape), ElementType(self.dtype)
        if self.strides is None:
            return f"T.Tensor({shape}, {dtype})"
        return f"T.StridedTensor({shape}, {_text(self.strides)}, {dtype})"


def _text(dims: tuple[DimSpec, ...]) -> str:
    return f"({', '.join(str(getattr(d, 'name', d)) for d in dims)})"


def _names(names: Any) -> list[str]:
    """Those of "M, N"; none where it is no text."""
    parts = names.split(",") if isinstance(names, str) else ()
    return [part.strip() for part in parts if part.strip()]


def _dims(shape: Any) -> tuple[DimSpec, ...]:
    if isinstance(shape, str) and _is_dtype(shape):
        raise refuse(
            "TLC0113",
            f"a tensor whose shape is {shape!r}, an element type",
            hint=f'the shape comes first: T.Tensor(("M", "N"), "{shape}")',
        )
    several = isinstance(shape, Iterable) and not isinstance(shape, DimSpec)
    dims = tuple(shape) if several else (shape,)
    if not dims:
        raise refuse(
            "TLC0113",
            "a tensor has no dimension",
            hint='T.Tensor((1,), "float16") is one element; `x: T.float32` passes a number',
        )
    return tuple(_dim(dim) for dim in dims)


def _is_dtype(name: str) -> bool:
    try:
        element_type(name)
    except TypeMismatch:
        return False
    return True


def _dim(dim: Any) -> DimSpec:
    if isinstance(dim, np.integer):
        dim = int(dim)
    if isinstance(dim, bool) or not isinstance(dim, DimSpec):
        raise refuse(
            "TLC0113",
            f"{dim!r} is no dimension of a tensor",
            hint="a dimension is an int, the name of a symbol, T.dynamic, T.const or computed from such",
        )
    if isinstance(dim, int) and dim < 0:
        raise refuse(
            "TLC0113",
            f"a tensor has a dimension or stride of {dim}",
            hint='it is 0 or more; one that only the call knows is a name: "M"',
        )
    return parse_extent(dim) if isinstance(dim, str) and not dim.isidentifier() else dim


def Tensor(shape: Any, dtype: object = "float32") -> TensorSpec:
    """Annotates a parameter as a tensor in global memory, row-major without gaps.

    Args:
        shape: one dimension or several; each an int (checked), a symbol (a string or T.dynamic:
            a run-time value), what follows from symbols that are dimensions themselves
            ("K // 2": checked), or a T.const (a compile-time value).
        dtype: of the elements, in any spelling.

    Raises:
        LanguageError: a dimension is none of these.
        TypeMismatch: there is no such dtype, or a row of 4-bit elements ends within a byte.
    """
    with _here():
        dims = _dims(shape)
        return TensorSpec(dims, row_dtype(dtype, dims))


def StridedTensor(shape: Any, strides: Any, dtype: object = "float32") -> TensorSpec:
    """Annotates a parameter as a tensor in global memory whose elements may lie apart: a view, a
    slice, a transposed or (where it is only read) a broadcast array.

    Vectors and TMA need a last stride that is the int 1; what the others come to decides, call by
    call, which variant of the kernel runs.

    Args:
        shape: as for T.Tensor.
        strides: one for each dimension, in elements, not negative: an int (checked), or a symbol.
        dtype: of the elements, in any spelling.

    Raises:
        LanguageError: a dimension or stride is none of these, or their numbers differ.
        TypeMismatch: there is no such dtype, or it is one of 4-bit elements.
    """
    with _here():
        spec = TensorSpec(_dims(shape), element_type(dtype), _dims(strides))
        if spec.dtype in PAIRS:
            raise TypeMismatch(
                "TLC0152",
                f"{spec}: 4-bit elements lie row by row, two to a byte",
                hint="T.Tensor, without strides",
            )
        if len(spec.shape) != len(spec.strides or ()):
            raise refuse(
                "TLC0113",
                f"{spec} has not one stride for each dimension",
                hint="strides are in elements, a number or a symbol for each, the last often 1",
            )
        return spec


def _here() -> Here | Loc:
    """Context: errors get the user's present place."""
    trace = tracing()
    return trace.here() if trace is not None else refuse("TLC0113", "").loc


Buffer = Tensor


def dynamic(name: str, dtype: object = "int32", *, multiple_of: int = 1) -> Any:
    """A symbol for a dimension that is known at run time; several for "M, N".

    Args:
        multiple_of: the value is a multiple of this: each call is checked, and rows of such an
            extent are read and written in vectors without asking. What several tensors say of one
            symbol holds together.

    Raises:
        LanguageError: no name, another dtype, or a multiple that is no positive int.
    """
    names = _names(name)
    if not names or not all(part.isidentifier() for part in names):
        raise refuse(
            "TLC0113", f"{name!r} names no symbol", hint='T.dynamic("M"), T.dynamic("M, N")'
        )
    if element_type(dtype) != i32:
        raise refuse("TLC0113", f"a symbol of {dtype}", hint="symbols are int32: leave it out")
    if isinstance(multiple_of, bool) or not isinstance(multiple_of, int) or multiple_of < 1:
        raise refuse(
            "TLC0113", f"multiple_of={multiple_of!r} promises nothing", hint="a positive int"
        )
    found = tuple(Dynamic(part, multiple_of) for part in names)
    return found[0] if len(found) == 1 else found


symbolic = dynamic


def const(names: str) -> Any:
    """Dimensions as compile-time ints, taken from the arguments: `M, N = T.const("M, N")`.

    The kernel is compiled anew for each combination of their values.
    """
    trace = current(
        "T.const",
        'in the body, which also annotates what has it: N = T.const("N"), then '
        'A: T.Tensor((N,), "float16") of a parameter that the signature only names',
    )
    wanted = _names(names)
    found = tuple(_constant(trace.const_dims, name) for name in wanted)
    if not found:
        raise refuse("TLC0113", f"{names!r} names no dimension", hint='M, N = T.const("M, N")')
    return found[0] if len(found) == 1 else found


class ConstantNames(dict[str, int]):
    """Stands for the values of T.const while only the names are wanted."""


def _constant(known: dict[str, int], name: str) -> Any:
    if isinstance(known, ConstantNames):
        return ConstDim(name)
    if name not in known:
        raise refuse(
            "TLC0126",
            f"the value of {name} is not known: T.const takes it from the arguments",
            hint=f"some tensor must have {name} itself as a dimension, unquoted, not in an expression",
        )
    return known[name]
