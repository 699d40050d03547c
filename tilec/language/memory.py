"""Allocation: `T.alloc_shared`, `T.alloc_fragment`, `T.alloc_local`, `T.alloc_var`; annotations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.layout import SharedLayout
from ..ir.ops.memory import Alloc
from ..ir.types import MemoryType, Space
from .buffers import Buffer, Variable
from .dtypes import element_type, row_dtype, storage_of
from .four_bits import check_arithmetic
from .operand import known_number, number_value
from .trace import current, refuse


def _shape(what: str, shape: Any) -> tuple[int, ...]:
    if isinstance(shape, str | bytes):
        raise LanguageError(
            "TLC0129",
            f"{what} of shape {shape!r}",
            hint=f"the shape comes first, and consists of numbers: {what}((64, 64), 'float16')",
        )
    dims = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer):
            raise LanguageError(
                "TLC0129",
                f"{what} takes compile-time extents, and {dim!r} is not one",
                hint="make it a compile-time parameter of the kernel, or T.const",
            )
        if dim < 1:
            raise LanguageError(
                "TLC0129", f"{what} with an extent of {dim}", hint="extents are 1 or more"
            )
    if not dims:
        raise LanguageError(
            "TLC0129", f"{what} without an extent", hint="one element is of shape (1,)"
        )
    return tuple(int(dim) for dim in dims)


def _allocate(what: str, space: Space, shape: Any, dtype: object) -> Buffer:
    trace = current(what)
    if space in (Space.SHARED, Space.FRAGMENT):
        trace.need_tile_level(what)
    else:
        trace.need_launch(what)
    with trace.here():
        dims = _shape(what, shape)
        elements = row_dtype(dtype, dims) if space is Space.SHARED else element_type(dtype)
        type_ = MemoryType(storage_of(elements), dims, space)
        memory = trace.builder.emit(Alloc(type=type_)).result
        return Buffer(memory, trace.region, elements=elements)


def _scope(what: str, scope: str, accepted: tuple[str, ...]) -> None:
    if scope not in accepted:
        raise refuse("TLC0129", f"{what} knows no scope {scope!r}", hint=f"it knows {accepted}")


def alloc_shared(shape: Any, dtype: object, scope: str = "shared.dyn") -> Buffer:
    """Memory of the block that all its threads see. Its contents are undefined.

    Args:
        shape: compile-time extents, row-major unless T.annotate_layout says otherwise.
        dtype: of the elements.
    """
    _scope("T.alloc_shared", scope, ("shared", "shared.dyn"))
    return _allocate("T.alloc_shared", Space.SHARED, shape, dtype)


def alloc_fragment(shape: Any, dtype: object, scope: str = "local.fragment") -> Buffer:
    """A tile in the registers of the block's threads, its layout chosen by the compiler.

    With scope "local" it is T.alloc_local.
    """
    _scope("T.alloc_fragment", scope, ("local.fragment", "local"))
    if scope == "local":
        return _allocate("T.alloc_fragment", Space.LOCAL, shape, dtype)
    return _allocate("T.alloc_fragment", Space.FRAGMENT, shape, dtype)


def alloc_local(shape: Any, dtype: object, scope: str = "local") -> Buffer:
    """An array that each thread has for itself. Its contents are undefined.

    Args:
        shape: compile-time extents.
        dtype: of the elements.
    """
    _scope("T.alloc_local", scope, ("local",))
    return _allocate("T.alloc_local", Space.LOCAL, shape, dtype)


def alloc_var(dtype: object, init: Any = None, scope: str = "local.var") -> Variable:
    """A scalar of each thread that can be assigned to, also in traced loops and branches.

    Args:
        init: its first value; undefined where it is None.
    """
    _scope("T.alloc_var", scope, ("local.var",))
    variable = Variable(_allocate("T.alloc_var", Space.LOCAL, 1, dtype))
    if init is not None:
        variable.store(init)
    return variable


def annotate_safe_value(values: Mapping[Buffer, Any]) -> None:
    """What reads outside of a tensor give from here on, {tensor: number}; 0 where nothing is said.

    Raises:
        LanguageError: a key is no tensor in global memory, or a value no number of its dtype.
    """
    trace = current("T.annotate_safe_value")
    launch = trace.need_launch("T.annotate_safe_value")
    with trace.here():
        for buffer, value in values.items():
            if not isinstance(buffer, Buffer) or buffer.type.space is not Space.GLOBAL:
                raise LanguageError(
                    "TLC0127",
                    f"{buffer!r} is no tensor in global memory",
                    hint="only those are read outside of their extents: {A: 0.0}",
                )
            number = known_number(value)
            if number is None:
                raise LanguageError(
                    "TLC0127",
                    f"the safe value of {buffer.label} is {value!r}",
                    hint="give a number, T.infinity or T.min_value, or a sum of such",
                )
            known = number_value(number, buffer.type.dtype).value
            rounds = isinstance(known, int) and float(known) != known  # large, of 64 bits
            launch.safe_values[buffer.handle()] = known if rounds else float(known)


def annotate_layout(layouts: Mapping[Buffer, Any]) -> None:
    """Fixes how shared buffers lie in memory: {buffer: Layout}.

    Raises:
        LanguageError: a key is no shared buffer, or a layout is not one of the buffer's shape.
    """
    trace = current("T.annotate_layout")
    trace.need_launch("T.annotate_layout")
    if not isinstance(layouts, Mapping):
        raise refuse(
            "TLC0127",
            f"T.annotate_layout takes a dict, not {layouts!r}",
            hint="T.annotate_layout({S: tilec.layout.make_swizzle_layout(S)})",
        )
    with trace.here():
        for buffer, layout in layouts.items():
            if not isinstance(buffer, Buffer) or buffer.type.space is not Space.SHARED:
                raise LanguageError(
                    "TLC0127", f"{buffer!r} is no shared buffer", hint="others have no annotation"
                )
            if not isinstance(layout, SharedLayout):
                raise LanguageError(
                    "TLC0127",
                    f"the layout of {buffer.label} is a {type(layout).__name__}",
                    hint="tilec.layout.make_swizzle_layout(buffer) and its relatives make one",
                )
            check_arithmetic("T.annotate_layout", buffer.type.dtype)
            if layout.shape != buffer.type.shape:
                raise LanguageError(
                    "TLC0127",
                    f"a layout of shape {layout.shape} for {buffer.label}: {buffer.type}",
                    hint="make it from the buffer itself: tilec.layout.make_swizzle_layout(S)",
                )
            _need_injective(buffer, layout)
            # The allocation takes the handle's type when the launch is complete.
            buffer.handle().type = buffer.type.with_layout(layout)


def _need_injective(buffer: Buffer, layout: SharedLayout) -> None:
    """Raises LanguageError where two elements would lie in one place."""
    offsets = layout.offsets().ravel()
    order = np.argsort(offsets, kind="stable")
    same = np.flatnonzero(np.diff(offsets[order]) == 0)
    if not same.size:
        return
    pair = [np.unravel_index(order[same[0] + i], layout.shape) for i in (0, 1)]
    one, other = (tuple(int(n) for n in place) for place in pair)
    raise LanguageError(
        "TLC0127",
        f"the layout of {buffer.label} puts {one} and {other} at one place, "
        f"{int(offsets[order[same[0]]])}",
        hint="every element needs a place of its own: strides that do not meet, or "
        "tilec.layout.make_padded_layout and its relatives",
    )
