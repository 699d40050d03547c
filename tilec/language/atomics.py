"""Atomics: `T.atomic_add`, `T.atomic_max`, `T.atomic_min`."""

from __future__ import annotations

from typing import Any

from ..errors import LanguageError
from ..ir.core import Value
from ..ir.ops.memory import Atomic, Load
from ..ir.types import Space
from .areas import paired_areas, shifted
from .buffers import Buffer, Element, Slice, stored_value
from .operand import convert, wrap
from .tile import each_in_parallel
from .trace import Trace, current, refuse


def atomic_add(
    dst: Any,
    value: Any,
    memory_order: str | None = None,
    return_prev: bool = False,
    use_tma: bool = False,
) -> Any:
    """dst += value, each element in one step that no other thread sees half of.

    Args:
        dst: an element of global or shared memory, or a tile there: a buffer or a region of one.
        value: a scalar for an element; a fragment, shared buffer or region of one for a tile.
            It is converted to dst's dtype, which has 16 bits or more.
        memory_order: "relaxed", which is what None means; no other memory is ordered by it.
        return_prev: gives what the element held before; of an element only.
        use_tma: a hint that changes no result.

    What lies outside a tensor is dropped (and gives 0). Floating-point sums depend on the order.
    """
    return _atomic("add", dst, value, memory_order, return_prev)


def atomic_max(
    dst: Any, value: Any, memory_order: str | None = None, return_prev: bool = False
) -> Any:
    """dst = max(dst, value), in one step; a NaN gives way to a number. Else as T.atomic_add."""
    return _atomic("max", dst, value, memory_order, return_prev)


def atomic_min(
    dst: Any, value: Any, memory_order: str | None = None, return_prev: bool = False
) -> Any:
    """dst = min(dst, value), in one step; a NaN gives way to a number. Else as T.atomic_add."""
    return _atomic("min", dst, value, memory_order, return_prev)


def _atomic(kind: str, dst: Any, value: Any, memory_order: str | None, return_prev: bool) -> Any:
    what = f"T.atomic_{kind}"
    trace = current(what)
    trace.need_launch(what)
    if memory_order not in (None, "relaxed"):
        raise refuse(
            "TLC0135",
            f"{what} with memory_order={memory_order!r}",
            hint="only 'relaxed' is there: it orders no other memory, and a launch orders all",
        )
    with trace.here():
        if isinstance(dst, Element) and not isinstance(value, Buffer | Slice):
            _check_place(what, dst.buffer)
            return _one(trace, kind, dst.buffer, dst.indices, value, return_prev)
        if return_prev:
            raise LanguageError(
                "TLC0135", f"{what} of a tile has no return_prev", hint="do it element by element"
            )
        _tile(trace, kind, dst, value)
        return None


def _one(
    trace: Trace, kind: str, buffer: Buffer, indices: tuple[Value, ...], value: Any, fetch: bool
) -> Any:
    stored = stored_value(value, buffer.type.dtype)
    op = trace.builder.emit(Atomic(stored, buffer.handle(), indices, kind=kind, fetch=fetch))
    return wrap(trace, op.result) if fetch else None


def _tile(trace: Trace, kind: str, dst: Any, value: Any) -> None:
    """Every element of a region, in a nest."""
    what = f"T.atomic_{kind}"
    trace.need_tile_level(what)
    source, target = paired_areas(trace, what, value, dst)
    _check_place(what, target.buffer)
    if source.buffer.type.space is Space.LOCAL:
        raise LanguageError("TLC0135", f"{what} of a thread's own memory, which is no tile")

    def change(indices: tuple[Value, ...]) -> None:
        safe = trace.safe_value(source.memory)
        load = Load(source.memory, shifted(trace, source, indices), safe_value=safe)
        element = convert(trace.builder.emit(load).result, target.buffer.type.dtype)
        place = shifted(trace, target, indices)
        trace.builder.emit(Atomic(element, target.memory, place, kind=kind))

    each_in_parallel(trace, target.shape, change)


def _check_place(what: str, buffer: Buffer) -> None:
    type_ = buffer.type
    if type_.space not in (Space.GLOBAL, Space.SHARED):
        raise LanguageError(
            "TLC0135",
            f"{what} on {buffer.label}, which is in {buffer.scope()} memory",
            hint="an atomic changes global or shared memory; other memory is one thread's own",
        )
    if type_.dtype.bits < 16:
        raise LanguageError(
            "TLC0135",
            f"{what} on {buffer.label} of {type_.dtype}: elements have 16 bits or more",
            hint="keep the sums in int32, and convert them when they are complete",
        )
