"""Values from other threads of the warp: `T.shfl_xor`, `T.shfl_down`, `T.shfl_up`, `T.shfl_sync`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, BitXor, Compare, FloorMod, Select, Sub, element_dtype
from ..ir.ops.control import ThreadId
from ..ir.ops.thread import Shuffle
from .operand import Expr, convert, value_of
from .trace import Trace, current, refuse

WIDTHS = (2, 4, 8, 16, 32)
FULL_WARP = 0xFFFFFFFF


def shfl_xor(value: Any, delta: Any, width: int = 32, mask: Any = FULL_WARP) -> Any:
    """The value of the thread whose number in its group of `width` differs in the bits of `delta`.

    All threads of a warp come. The value has 8 to 64 bits, and so has the result.

    Args:
        value: a scalar of each thread.
        delta: an integer from 0 to `width - 1`; may be one of the kernel.
        width: 2, 4, 8, 16 or 32.
        mask: the whole warp.

    Raises:
        LanguageError: a thread outside of the group, fewer bits, a part of a warp.
    """

    def lane(trace: Trace, own: Value, by: Value) -> Value:
        return trace.pure(BitXor(own, by))

    return _shuffled("T.shfl_xor", value, delta, width, mask, lane)


def shfl_down(value: Any, delta: Any, width: int = 32, mask: Any = FULL_WARP) -> Any:
    """The value of the thread `delta` further on in the group of `width`; its own where there is none.
    Else as T.shfl_xor.
    """

    def lane(trace: Trace, own: Value, by: Value) -> Value:
        other = trace.pure(Add(own, by))
        inside = trace.pure(Compare(other, constant(width, i32), predicate="lt"))
        return trace.pure(Select(inside, other, own))

    return _shuffled("T.shfl_down", value, delta, width, mask, lane)


def shfl_up(value: Any, delta: Any, width: int = 32, mask: Any = FULL_WARP) -> Any:
    """The value of the thread `delta` before in the group of `width`; its own where there is none.
    Else as T.shfl_xor.
    """

    def lane(trace: Trace, own: Value, by: Value) -> Value:
        other = trace.pure(Sub(own, by))
        inside = trace.pure(Compare(other, constant(0, i32), predicate="ge"))
        return trace.pure(Select(inside, other, own))

    return _shuffled("T.shfl_up", value, delta, width, mask, lane)


def shfl_sync(value: Any, srcLane: Any, width: int = 32, mask: Any = FULL_WARP) -> Any:
    """The value of thread `srcLane` (modulo `width`) of the group of `width`; else as T.shfl_xor."""

    def lane(trace: Trace, own: Value, by: Value) -> Value:
        return trace.pure(FloorMod(by, constant(width, i32)))

    return _shuffled("T.shfl_sync", value, srcLane, width, mask, lane)


def _shuffled(what: str, value: Any, by: Any, width: int, mask: Any, lane: Any) -> Any:
    trace = current(what)
    trace.need_tile_level(what)
    if width not in WIDTHS:
        raise refuse("TLC0167", f"{what} in groups of {width!r}", hint=f"one of {WIDTHS}")
    width = int(width)
    if mask != FULL_WARP:
        raise refuse(
            "TLC0167", f"{what} by a part of a warp is not supported", hint="leave mask out"
        )
    if isinstance(by, int | np.integer) and not 0 <= by < width:
        raise refuse("TLC0167", f"{what} by {by} in a group of {width}", hint=f"0 to {width - 1}")
    with trace.here():
        x = value_of(value)
        dtype = element_dtype(x)
        if dtype.bits < 8:
            raise LanguageError(
                "TLC0167",
                f"{what} of a {dtype}: values of 8 bits and more go from thread to thread",
                hint="T.cast it",
            )
        place = value_of(by)
        if not element_dtype(place).is_integer:
            raise LanguageError(
                "TLC0167",
                f"{what} by {by!r}, a {element_dtype(place)}",
                hint="threads are counted in integers",
            )
        distance = convert(place, i32)
        thread = trace.builder.emit(ThreadId()).result
        own = trace.pure(FloorMod(thread, constant(width, i32)))
        op = trace.builder.emit(Shuffle(x, lane(trace, own, distance), width=width))
        return Expr(op.result, trace.region)
