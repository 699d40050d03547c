"""Global memory that a call allocates: outputs (`T.empty`), and workspaces between launches
(`T.alloc_global`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.clone import Renaming, clone_op
from ..ir.core import Value, constant_of
from ..ir.ops.arith import element_dtype
from ..ir.ops.control import Define, Return, Symbol
from ..ir.ops.memory import Alloc
from ..ir.rewrite import in_order
from ..ir.types import Dim, MemoryType, Space
from .buffers import Buffer
from .dtypes import ElementType, row_dtype, storage_of
from .operand import Operand, value_of
from .tensors import ConstDim, Dynamic
from .trace import Trace, current, refuse


def empty(*shape: Any, dtype: Any = "float32") -> Buffer:
    """An output: memory that the call allocates in the caller's library. `return` it.

    T.empty((M, N), "float16"), or T.empty(M, N, dtype="float16"). Its contents are undefined.

    Args:
        shape: extents: ints, symbols, or integers computed from them before the launches.
        dtype: of the elements, in any spelling.

    Raises:
        LanguageError: stands in a launch, or an extent is none of these.
    """
    trace = current("T.empty")
    if trace.launch is not None:
        raise refuse("TLC0118", "T.empty stands in `with T.Kernel(...)`", hint="put it before")
    dims = list(shape)
    if (
        len(dims) == 2
        and isinstance(dims[0], tuple | list)
        or len(dims) > 1
        and isinstance(dims[-1], ElementType)
    ):
        dtype = dims.pop()
    return _allocate("T.empty", dims[0] if len(dims) == 1 else tuple(dims), dtype)


def alloc_global(shape: Any, dtype: object, scope: str = "global") -> Buffer:
    """A workspace: global memory of one call, in which launches leave results for later ones.

    It is allocated in the caller's library before the first launch, wherever it is named; all
    blocks see the same memory. Its contents are undefined.

    Args:
        shape: extents: ints, symbols, or integers computed from them before the launches.
        dtype: of the elements, in any spelling.

    Raises:
        LanguageError: an extent is none of these.
    """
    if scope != "global":
        raise refuse("TLC0129", f"T.alloc_global knows no scope {scope!r}", hint="global")
    return _allocate("T.alloc_global", shape, dtype)


def returned(trace: Trace, result: Any) -> tuple[Value, ...]:
    """The memory that a kernel's `return` names.

    Raises LanguageError for anything but tensors of T.empty, each of them once.
    """
    found: list[Value] = []
    for one in result if isinstance(result, tuple | list) else (result,):
        own = isinstance(one, Buffer) and one.value in trace.allocated
        if not own:
            shown = one.label if isinstance(one, Buffer) else repr(one)
            hint = "return what T.empty gave"
            if isinstance(one, Buffer) and one.type.space is Space.GLOBAL:
                hint = "the caller has its own arrays already: return what T.empty gave"
            raise LanguageError("TLC0136", f"{trace.name} returns {shown}", hint=hint)
        if one.value in found:
            raise LanguageError(
                "TLC0136",
                f"{trace.name} returns {one.label} twice",
                hint="name it once: the caller has one array of it",
            )
        found.append(one.value)
    return tuple(found)


def finish(trace: Trace, values: tuple[Value, ...], taken: set[str]) -> None:
    """Ends the program: what is returned, and a name for each allocation that no other has."""
    for value in trace.allocated:
        base = value.hint or ("output" if value in values else "workspace")
        name, count = base, 0
        while name in taken:
            count += 1
            name = f"{base}{count}"
        taken.add(name)
        value.hint = name
    if values:
        trace.builder.emit(Return(values))


def _allocate(what: str, shape: Any, dtype: object) -> Buffer:
    trace = current(what)
    single = isinstance(shape, int | str | np.integer | Operand | ConstDim)
    with trace.here():
        dims = tuple(extent(trace, what, dim) for dim in ((shape,) if single else tuple(shape)))
        if not dims:
            raise LanguageError(
                "TLC0129", f"{what} without an extent", hint="one element is of shape (1,)"
            )
        elements = row_dtype(dtype, dims)
        op = Alloc(type=MemoryType(storage_of(elements), dims, Space.GLOBAL))
        trace.builder.emit_outside(op)
        trace.allocated.append(op.result)
        return Buffer(op.result, trace.regions[0], elements=elements)


_EXTENTS = "an extent is an integer, 0 or more, known before the launches"


def extent(trace: Trace, what: str, dim: Any) -> Dim:
    """An extent of global memory: a number, or a symbol, which the program defines where it is computed.

    Raises LanguageError for what is none, or is not known before the launches.
    """
    if isinstance(dim, ConstDim):
        return 2  # any even number: only the annotations are wanted, not yet their values
    if isinstance(dim, Dynamic):
        dim = dim.name
    if isinstance(dim, str):
        trace.symbol(dim)
        return dim
    if isinstance(dim, int | np.integer) and not isinstance(dim, bool):
        if dim < 0:
            raise LanguageError("TLC0129", f"{what} with an extent of {dim}", hint=_EXTENTS)
        return int(dim)
    if not isinstance(dim, Operand):
        raise LanguageError("TLC0129", f"{what}: {dim!r} is no extent", hint=_EXTENTS)
    value = value_of(dim)
    if not element_dtype(value).is_integer:
        raise LanguageError(
            "TLC0129", f"{what} with an extent of type {element_dtype(value)}", hint=_EXTENTS
        )
    value = _before_launches(trace, what, value)
    known = next((op for op in trace.symbol_ops if op.result is value), None)
    if isinstance(known, Symbol):
        return known.label
    label = f"extent{sum(isinstance(op, Define) for op in trace.builder.outermost)}"
    trace.define(label, value)
    return label


def _before_launches(trace: Trace, what: str, value: Value) -> Value:
    """A value as it is known before the launches: itself, or what is computed there once more.

    Raises LanguageError where it depends on anything but symbols and scalar parameters.
    """
    seen, names, made_by = trace.host_values(), Renaming(), trace.definitions

    def needs(value: Value) -> tuple[Value, ...]:
        return made_by[value].inputs if value in made_by else ()

    for one in in_order(value, seen, needs):
        seen.add(one)
        if one in made_by:
            again = trace.builder.emit_outside(clone_op(made_by[one], names))
            made_by[again.result] = again
        elif constant_of(one) is None:
            raise LanguageError(
                "TLC0129",
                f"{what} with an extent that is computed in a launch",
                hint="compute it before `with T.Kernel(...)`, from symbols and scalar parameters",
            )
    return names.get(value, value)
