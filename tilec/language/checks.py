"""What a kernel says of itself: `T.assume`, `T.device_assert`, `T.print`."""

from __future__ import annotations

from typing import Any

from ..errors import LanguageError
from ..ir.core import Block, Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Add, Compare, Mul
from ..ir.ops.control import Assume, DeviceAssert, If, Print, ThreadId, Yield
from ..ir.types import Space
from .areas import area_of
from .arithmetic import truth
from .buffers import Buffer
from .nests import each_in_parallel
from .operand import Operand, value_of
from .tile import each_in_series
from .trace import Trace, current, refuse


def assume(condition: Any) -> None:
    """A fact about indices and extents, such as n % 8 == 0 or i < n, that the compiler may use.

    The interpreter checks it; compiled code does not. A false one known at compile time is an
    error.
    """
    trace = current("T.assume")
    trace.need_launch("T.assume")
    if not isinstance(condition, Operand):
        if not condition:
            raise refuse(
                "TLC0142",
                "what T.assume says is false already at compile time",
                hint="say what holds of every call, or leave it out",
            )
        return
    with trace.here():
        trace.builder.emit(Assume(truth(condition)))


def device_assert(condition: Any, msg: str = "", no_stack_info: bool = False) -> None:
    """The program stops where `condition` is false, in any thread that comes here.

    The interpreter and the emulator tell the place and `msg`. The CUDA driver writes them, with the
    block and the thread, to the standard error stream, and whatever waits for the launch fails with
    CUDA_ERROR_ASSERT; an AMD device only traps.

    Args:
        msg: text known at compile time.
        no_stack_info: a hint that changes nothing.
    """
    trace = current("T.device_assert")
    trace.need_launch("T.device_assert")
    if not isinstance(msg, str):
        raise _no_text("T.device_assert", msg)
    if not isinstance(condition, Operand):
        if condition:
            return
        if trace.region.kind == "launch":  # else it may be that no thread comes here
            raise refuse(
                "TLC0142",
                f"T.device_assert fails already at compile time: {msg}",
                hint="`assert` is for what the compiler knows",
            )
    with trace.here():
        trace.builder.emit(DeviceAssert(truth(condition), message=msg))


def _no_text(what: str, message: object) -> LanguageError:
    return refuse(
        "TLC0142",
        f"the message of {what} is {message!r}, not text",
        hint="T.print(x, msg='x') writes a value beside a text known at compile time",
    )


def print(obj: Any = None, msg: str = "", warp_group_id: int = 0, warp_id: int = 0) -> None:
    """Writes a line with `msg` and a value, by every thread (or iteration) that comes here.

    Args:
        obj: a scalar, or a buffer: of global or shared memory one thread writes the elements, a
            line each; of a fragment each thread those that it holds (the first that does, where
            several do); of a thread's own memory each thread its own. None: the message alone.
        msg: text known at compile time.
        warp_group_id, warp_id: hints that change nothing.

    The interpreter and the emulator write to the standard error stream, in the order of the
    threads; a CUDA device to its output. For AMD devices it is refused.
    """
    trace = current("T.print")
    trace.need_launch("T.print")
    if not isinstance(msg, str):
        raise _no_text("T.print", msg)
    if isinstance(obj, Buffer):
        _print_buffer(trace, obj, msg or obj.name or "buffer")
        return
    with trace.here():
        values = () if obj is None else (value_of(obj),)
        trace.builder.emit(Print(values, message=msg))


def _print_buffer(trace: Trace, buffer: Buffer, msg: str) -> None:
    """Element by element, in row-major order."""
    space = buffer.type.space
    if not all(isinstance(extent, int) for extent in buffer.type.shape):
        raise refuse(
            "TLC0142",
            f"T.print of {buffer.label}, whose extents are known only at run time",
            hint="print elements of it: T.print(A[i, j])",
        )
    shape = tuple(int(extent) for extent in buffer.type.shape)
    if space is not Space.LOCAL:
        trace.need_tile_level("T.print of a buffer")
    with trace.here():

        def line(indices: tuple[Value, ...]) -> None:
            place: Value = constant(0, i32)
            for index, extent in zip(indices, shape, strict=True):
                place = trace.pure(Add(trace.pure(Mul(place, constant(extent, i32))), index))
            value = area.load(trace, tuple(indices[d] for d in area.kept))
            trace.builder.emit(Print((value, place), message=msg))

        area = area_of(trace, "T.print", buffer)
        if space is Space.FRAGMENT:
            each_in_parallel(trace, shape, line)
            return
        with trace.builder.region() as ops:
            each_in_series(trace, shape, line)
        if space is Space.LOCAL:
            trace.builder.extend(ops)
            return
        thread = trace.builder.emit(ThreadId()).result
        number = trace.need_launch("T.print").first_thread
        first = trace.pure(Compare(thread, constant(number, i32), predicate="eq"))
        end = (Yield(()),)
        trace.builder.emit(If(first, Block((), (*ops, *end)), Block((), end)))
