"""What a kernel says of itself: `T.assume`, `T.device_assert`, `T.sync_threads`."""

from __future__ import annotations

from typing import Any

from ..ir.ops.control import Assume, DeviceAssert
from ..ir.ops.thread import Barrier
from .arithmetic import truth
from .operand import Operand
from .trace import current, refuse


def assume(condition: Any) -> None:
    """A fact about indices and extents, such as n % 8 == 0 or i < n, that the compiler may use.

    The interpreter checks it; compiled code does not. A false one known at compile time is an
    error.
    """
    trace = current("T.assume")
    trace.need_launch("T.assume")
    if not isinstance(condition, Operand):
        if not condition:
            raise refuse("TLC0142", "what T.assume says is false already at compile time")
        return
    with trace.here():
        trace.builder.emit(Assume(truth(condition)))


def device_assert(condition: Any, msg: str = "", no_stack_info: bool = False) -> None:
    """The program stops where `condition` is false, in any thread that comes here.

    The interpreter and the emulator tell the place and `msg`; a CUDA device prints them before it
    traps, an AMD one only traps.

    Args:
        msg: text known at compile time.
        no_stack_info: a hint that changes nothing.
    """
    trace = current("T.device_assert")
    trace.need_launch("T.device_assert")
    if not isinstance(msg, str):
        raise refuse("TLC0142", f"the message of T.device_assert is {msg!r}, not text")
    if not isinstance(condition, Operand):
        if not condition:
            raise refuse("TLC0142", f"T.device_assert fails already at compile time: {msg}")
        return
    with trace.here():
        trace.builder.emit(DeviceAssert(truth(condition), message=msg))


def sync_threads(barrier_id: Any = None, arrive_count: Any = None) -> None:
    """All threads of the program's block meet, and see each other's writes.

    Barriers that shared memory needs are there anyway; this one orders global memory of the block
    too. It may not stand where threads have parted.
    """
    trace = current("T.sync_threads")
    if barrier_id is not None or arrive_count is not None:
        raise refuse(
            "TLC0142",
            "T.sync_threads takes no barrier of its own: the whole block meets",
            hint="leave the arguments out",
        )
    trace.need_tile_level("T.sync_threads")
    with trace.here():
        trace.builder.emit(Barrier())
