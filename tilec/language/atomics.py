"""Atomics: `T.atomic_add`, `T.atomic_addx2`, `T.atomic_max`, `T.atomic_min`, `T.atomic_or`,
`T.atomic_load`, `T.atomic_store`; what they order, and `T.threadfence`.

A release shows what the block did before it, all its threads and statements, to every block that
then acquires from the same element; blocks may wait for each other that way. The compiler lets the
threads of the block meet where one of them does it for all.
"""

from __future__ import annotations

from typing import Any

from ..errors import LanguageError
from ..ir.core import Value
from ..ir.ops.memory import ORDERS, Atomic, Load
from ..ir.ops.thread import MemoryFence
from ..ir.types import Space
from .areas import Area, area_of, paired_areas, shifted, times
from .buffers import Buffer, Element, Slice, stored_value
from .flags import flag
from .nests import each_in_parallel
from .operand import are_scalars, convert, wrap
from .tile import each_in_series
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
        memory_order: "relaxed", which is what None means: no other memory is ordered by it.
            "release": what this block did before is seen by blocks that acquire from the element;
            "acquire" (or "consume"): what was released there is seen from here on; "acq_rel",
            both; "seq_cst", and all agree on the order of such. Of an element only.
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


def atomic_or(dst: Any, value: Any, memory_order: str | None = None) -> None:
    """dst = dst | value, in one step, of an integer. Else as T.atomic_add."""
    element = _element("T.atomic_or", dst)
    if element.buffer.type.dtype.is_float:
        raise refuse(
            "TLC0135",
            f"T.atomic_or on {element.buffer.label}, which holds floats",
            hint="of integers; T.view sees floats as such",
        )
    _atomic("or", dst, value, memory_order, False)


def atomic_addx2(dst: Any, src: Any, return_prev: bool = False) -> None:
    """dst += src, of two elements that follow each other along the last dimension.

    Args:
        dst: the first element, of global or shared memory.
        src: the first of two elements, or a buffer or region of two, also of the thread's own memory.
        return_prev: False; what was there before is given by T.atomic_add of one element.

    Each element is changed in one step, the two of them together only where the machine can.
    """
    _add_several("T.atomic_addx2", 2, dst, src, return_prev)


def atomic_addx4(dst: Any, src: Any, return_prev: bool = False) -> None:
    """dst += src, of four elements that follow each other; else as T.atomic_addx2."""
    _add_several("T.atomic_addx4", 4, dst, src, return_prev)


def _add_several(what: str, count: int, dst: Any, src: Any, return_prev: bool) -> None:
    trace = current(what)
    trace.need_launch(what)
    with trace.here():
        if return_prev:
            raise LanguageError(
                "TLC0135", f"{what} has no return_prev", hint="T.atomic_add of each element has it"
            )
        place, source = _element(what, dst), area_of(trace, what, src)
        _check_place(what, place.buffer)
        row = (1,) * (len(place.indices) - 1) + (count,)
        target = Area(place.buffer, place.indices, row)
        if source.extents is None:
            row = (1,) * (len(source.indices) - 1) + (count,)
            source = Area(source.buffer, source.indices, row)
        if source.shape != (count,):
            raise LanguageError(
                "TLC0135",
                f"{what} of {times(source.extents or ())} of {source.buffer.label}",
                hint=f"name the first of {count} elements, or a region of {count}",
            )

        def change(indices: tuple[Value, ...]) -> None:
            element = convert(source.load(trace, indices), place.buffer.type.dtype)
            at = shifted(trace, target, indices)
            trace.builder.emit(Atomic(element, target.memory, at, kind="add"))

        each_in_series(trace, (count,), change, kind="vectorized")


def atomic_load(src: Any, memory_order: str = "seq_cst") -> Any:
    """What the element `src` of global or shared memory holds, read in one step; 0 outside a tensor.

    memory_order: "relaxed", "acquire" (or "consume") or "seq_cst"; T.atomic_add says what they mean.
    A loop that waits for another block reads this way: `while T.atomic_load(F[i], "acquire") == 0`.
    """
    what = "T.atomic_load"
    trace = current(what)
    trace.need_launch(what)
    order = _order(what, memory_order, ("relaxed", "acquire", "seq_cst"))
    with trace.here():
        return _one(trace, "load", _element(what, src), 0, order, True)


def atomic_store(dst: Any, src: Any, memory_order: str = "seq_cst") -> None:
    """dst = src in one step, `src` converted to dst's dtype; outside a tensor nothing.

    memory_order: "relaxed", "release" or "seq_cst"; T.atomic_add says what they mean.
    """
    what = "T.atomic_store"
    trace = current(what)
    trace.need_launch(what)
    order = _order(what, memory_order, ("relaxed", "release", "seq_cst"))
    with trace.here():
        _one(trace, "store", _element(what, dst), src, order, False)


def threadfence() -> None:
    """What the block did before is ordered with what it does after, as all blocks see it.

    A relaxed atomic after it releases, one before it acquires (T.atomic_add says what that means).
    The threads of the block meet here, so it may not stand where they have parted, unless one of
    them does everything that it orders.
    """
    trace = current("T.threadfence")
    trace.need_launch("T.threadfence")
    with trace.here():
        trace.builder.emit(MemoryFence())


def _atomic(kind: str, dst: Any, value: Any, memory_order: str | None, return_prev: bool) -> Any:
    what = f"T.atomic_{kind}"
    trace = current(what)
    trace.need_launch(what)
    order = _order(what, memory_order, ORDERS)
    return_prev = flag(what, "return_prev", return_prev)
    with trace.here():
        if isinstance(dst, Element) and not isinstance(value, Buffer | Slice):
            return _one(trace, kind, dst, value, order, return_prev)
        if not isinstance(dst, Element | Buffer | Slice):
            raise LanguageError(
                "TLC0135",
                f"{what} on {dst!r}, which is no memory",
                hint="name an element, X[i], a region, or a buffer",
            )
        if are_scalars(value) and not isinstance(value, Element):
            raise LanguageError(
                "TLC0135",
                f"{what} of one value on a tile",
                hint="give it a tile, or do it element by element in T.Parallel",
            )
        if return_prev or order != "relaxed":
            raise LanguageError(
                "TLC0135",
                f"{what} of a tile has no {'return_prev' if return_prev else 'memory_order'}",
                hint="do it element by element"
                if return_prev
                else "let one thread do an atomic of that order, before or after the tile's",
            )
        _tile(trace, kind, dst, value)
        return None


def _order(what: str, memory_order: str | None, allowed: tuple[str, ...]) -> str:
    order = {None: "relaxed", "consume": "acquire"}.get(memory_order, memory_order)
    if order not in allowed:
        raise refuse(
            "TLC0135",
            f"{what} with memory_order={memory_order!r}",
            hint=f"it is one of {', '.join(map(repr, allowed))}",
        )
    assert isinstance(order, str)
    return order


def _one(trace: Trace, kind: str, dst: Element, value: Any, order: str, fetch: bool) -> Any:
    buffer = dst.buffer
    _check_place(f"T.atomic_{kind}", buffer)
    stored = stored_value(value, buffer.type.dtype)
    op = trace.builder.emit(
        Atomic(stored, buffer.handle(), dst.indices, kind=kind, fetch=fetch, order=order)
    )
    return wrap(trace, op.result) if op.results else None


def _element(what: str, place: Any) -> Element:
    if not isinstance(place, Element):
        raise LanguageError("TLC0135", f"{what} takes one element", hint="name one: X[i]")
    return place


def _tile(trace: Trace, kind: str, dst: Any, value: Any) -> None:
    """Every element of a region, in a nest."""
    what = f"T.atomic_{kind}"
    trace.need_tile_level(what)
    source, target = paired_areas(trace, what, value, dst)
    _check_place(what, target.buffer)
    if source.buffer.type.space is Space.LOCAL:
        raise LanguageError(
            "TLC0135",
            f"{what} of a thread's own memory, which is no tile",
            hint="element by element, or make it a T.alloc_fragment",
        )

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
