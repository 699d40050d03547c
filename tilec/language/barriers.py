"""Barriers that the program uses itself: mbarriers, named barriers, warps, fences.

An mbarrier counts the arrivals and the bytes of one phase after the other. Its phase 0 runs from the
start; `T.mbarrier_wait_parity(b, p)` goes on once the phase of parity p is over, so waiting for
parity 1 of a barrier that nobody has used goes on at once. Source: PTX ISA 8.0, 9.7.13.15.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Constant, Op, Value, constant
from ..ir.dtypes import bool_, i32, mbarrier
from ..ir.ops.arith import element_dtype
from ..ir.ops.memory import Alloc
from ..ir.ops.nvidia import (
    WARP,
    FenceProxyAsync,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierWait,
)
from ..ir.ops.thread import NAMED_BARRIERS, Barrier, WarpSync
from ..ir.types import MemoryType, Space
from .buffers import Buffer, index_value
from .operand import Operand, convert, is_number, value_of
from .trace import Trace, current, refuse

MOST_ARRIVALS = (1 << 20) - 1  # of a phase
MOST_BYTES = (1 << 20) - 1  # that may be expected at once


class Barriers(Buffer):
    """What T.alloc_barrier gives: mbarriers in shared memory, `full[slot]` being one of them."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> Mbarrier:
        trace = current("an mbarrier")
        with trace.here():
            return Mbarrier(self, index_value(self, 0, key))

    def __setitem__(self, key: Any, value: Any) -> None:
        raise self._refusal()

    def handle(self, bits: bool = False) -> Value:
        raise self._refusal()

    def _refusal(self) -> LanguageError:
        return refuse(
            "TLC0162",
            f"{self.label} holds mbarriers, which have no value to read, write or copy",
            hint="T.mbarrier_arrive(b[i]), T.mbarrier_wait_parity(b[i], parity), "
            "T.tma_copy(..., barrier=b[i])",
        )


class Mbarrier:
    """One of the barriers that T.alloc_barrier gave."""

    __slots__ = ("barriers", "index")

    def __init__(self, barriers: Barriers, index: Value) -> None:
        self.barriers = barriers
        self.index = index

    @property
    def operands(self) -> tuple[Value, Value]:
        """The ring and the index, as the ops take them. Raises LanguageError once the kernel that
        allocated it has ended."""
        return Buffer.handle(self.barriers), self.index


def alloc_barrier(arrive_count: Any) -> Barriers:
    """mbarriers of the block, ready to be used by all its threads.

    Args:
        arrive_count: arrivals that end a phase, 1 … 2^20 - 1: of one barrier, or a list with those of
            each. An arrival is a thread's: `T.mbarrier_arrive` by 128 threads are 128.
    """
    trace = current("T.alloc_barrier")
    trace.need_tile_level("T.alloc_barrier")
    if trace.region.kind != "launch":
        raise refuse(
            "TLC0162",
            f"T.alloc_barrier stands in a {trace.region.kind} region",
            hint="barriers are made once, before all else: put it at the top of the kernel",
        )
    counts = arrive_count if isinstance(arrive_count, list | tuple) else [arrive_count]
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int | np.integer):
            raise refuse(
                "TLC0162",
                f"T.alloc_barrier for {count!r} arrivals, which is no compile-time int",
                hint="a number, or a list of them: T.alloc_barrier([128] * stages)",
            )
        if not 1 <= count <= MOST_ARRIVALS:
            raise refuse(
                "TLC0162",
                f"T.alloc_barrier for {count} arrivals: a phase takes 1 to {MOST_ARRIVALS}",
                hint="a barrier on which only copies complete takes one arrival too, beside the bytes",
            )
    if not counts:
        raise refuse("TLC0162", "T.alloc_barrier of no barriers", hint="T.alloc_barrier([1] * 4)")
    with trace.here():
        type_ = MemoryType(mbarrier, (len(counts),), Space.SHARED)
        alloc = Alloc(type=type_, managed=True, arrivals=tuple(int(n) for n in counts))
        return Barriers(trace.builder.emit(alloc).result, trace.region)


def barrier_operands(what: str, x: Any) -> tuple[Value, Value]:
    """The ring and the index of a barrier that the user gave: one of several, or the only one."""
    if isinstance(x, Barriers) and x.type.shape == (1,):
        x = x[0]
    if isinstance(x, Mbarrier):
        return x.operands
    raise LanguageError(
        "TLC0162",
        f"{what} takes one mbarrier, not {x!r}",
        hint=f"one of {x.label}'s: {x.name or 'b'}[i]"
        if isinstance(x, Barriers)
        else "full = T.alloc_barrier([128] * 4) makes four, full[0] to full[3]",
    )


def _emit(what: str, make: Any) -> None:
    """Emits what `make` builds, at a place where threads may stand."""
    trace = current(what)
    trace.need_tile_level(what)
    with trace.here():
        op: Op = make(trace)
        trace.builder.emit(op)


def mbarrier_wait_parity(mbarrier: Any, parity: Any) -> None:
    """Each thread that comes here waits until the phase of parity 0 or 1 is over, and then sees what
    those wrote who arrived in it, and what copies brought."""
    what = "T.mbarrier_wait_parity"
    _emit(what, lambda _: MbarrierWait(*barrier_operands(what, mbarrier), _parity(what, parity)))


def _parity(what: str, parity: Any) -> Value:
    if not (isinstance(parity, Operand) or is_number(parity)):
        raise LanguageError("TLC0162", f"{parity!r} is no parity of {what}", hint="it is 0 or 1")
    value = value_of(parity)
    dtype = element_dtype(value)
    if not (dtype.is_integer or dtype == bool_):
        raise LanguageError(
            "TLC0162",
            f"the parity of {what} is a {dtype}, not an integer",
            hint="the parity of turn n of a slot is n % 2, n being k // stages with integers",
        )
    if isinstance(value, Constant) and int(value.value) not in (0, 1):
        raise LanguageError(
            "TLC0162",
            f"the parity of {what} is {value.value}: phases are even or odd",
            hint="take it modulo 2",
        )
    return convert(value, i32)


def mbarrier_arrive(mbarrier: Any, cta_id: Any = None) -> None:
    """One arrival of each thread that comes here: what it did before is seen by those who wait for
    the phase."""
    what = "T.mbarrier_arrive"
    if cta_id is not None:
        raise refuse(
            "TLC0162",
            f"{what} at another block's barrier (cta_id) is not supported",
            hint="leave cta_id out: barriers are those of the block",
        )
    _emit(what, lambda _: MbarrierArrive(*barrier_operands(what, mbarrier)))


def mbarrier_expect_tx(mbarrier: Any, tx: Any) -> None:
    """The phase under way lasts until copies have brought `tx` bytes more. By each thread that comes
    here; no arrival."""
    _expect("T.mbarrier_expect_tx", mbarrier, tx, arrives=False)


def mbarrier_arrive_expect_tx(mbarrier: Any, tx: Any) -> None:
    """One arrival of each thread that comes here, and `tx` bytes more that copies must bring."""
    _expect("T.mbarrier_arrive_expect_tx", mbarrier, tx, arrives=True)


def _expect(what: str, mbarrier: Any, tx: Any, arrives: bool) -> None:
    if isinstance(tx, bool) or not isinstance(tx, int | np.integer):
        raise refuse(
            "TLC0162",
            f"{what} takes a compile-time number of bytes, not {tx!r}",
            hint="rows * columns * bytes of an element, of all tiles that complete on the barrier",
        )
    if not 0 <= tx <= MOST_BYTES:
        raise refuse(
            "TLC0162",
            f"{what} of {tx} bytes: a phase takes up to {MOST_BYTES}",
            hint="as many as the copies of one phase bring",
        )

    def make(_: Trace) -> Op:
        operands = barrier_operands(what, mbarrier)
        return MbarrierExpect(*operands, constant(int(tx), i32), arrives=arrives)

    _emit(what, make)


def fence_proxy_async() -> None:
    """What each thread that comes here wrote to shared memory before is seen by TMA and wgmma after.

    The compiler places the fences for the buffers that it synchronises; this is for the others.
    """
    _emit("T.fence_proxy_async", lambda _: FenceProxyAsync())


def sync_warp(mask: Any = None) -> None:
    """The threads of a warp meet, and see each other's writes."""
    if mask not in (None, 0xFFFFFFFF):
        raise refuse(
            "TLC0162", "T.sync_warp of a part of a warp is not supported", hint="leave mask out"
        )
    _emit("T.sync_warp", lambda _: WarpSync())


def sync_threads(barrier_id: Any = None, arrive_count: Any = None) -> None:
    """Threads meet, and see each other's writes: all of the block, or of the T.ws around.

    Barriers that shared memory needs are there anyway; this one orders global memory of the block
    too. It may not stand where threads have parted.

    Args:
        barrier_id: a hardware barrier, 1 … 15, on which threads of several T.ws may meet.
        arrive_count: how many threads meet there, whole warps; those of the T.ws around where it is
            left out.
    """
    trace = current("T.sync_threads")
    launch = trace.need_tile_level("T.sync_threads")
    if barrier_id is None and arrive_count is None:
        own = launch.group_threads if launch.group is not None else 0
        _emit("T.sync_threads", lambda _: Barrier(threads=own))
        return
    for name, given, least, most in (
        ("barrier_id", barrier_id, 1, NAMED_BARRIERS - 1),
        ("arrive_count", arrive_count, WARP, launch.threads),
    ):
        if given is None and name == "arrive_count":
            continue
        if isinstance(given, bool) or not isinstance(given, int | np.integer):
            raise refuse(
                "TLC0162", f"T.sync_threads with {name}={given!r}, which is no compile-time int",
                hint="T.sync_threads(1, 256): 256 threads meet at barrier 1",
            )  # fmt: skip
        if not least <= given <= most:
            raise refuse(
                "TLC0162", f"T.sync_threads with {name}={given}: " + (
                    f"barriers are {least} to {most}" if name == "barrier_id"
                    else f"whole warps meet, and the block has {launch.threads} threads"
                ),
                hint="barrier 0 is that of the whole block: T.sync_threads()",
            )  # fmt: skip
    count = launch.group_threads if arrive_count is None else int(arrive_count)
    if count < launch.group_threads:
        raise refuse(
            "TLC0162",
            f"T.sync_threads of {count} threads, where {launch.group_threads} come",
            hint="as many as come here, and those of other T.ws that come there",
        )
    if count % WARP:
        raise refuse(
            "TLC0162",
            f"T.sync_threads of {count} threads: they are counted in whole warps",
            hint=f"a multiple of {WARP}",
        )
    _emit("T.sync_threads", lambda _: Barrier(barrier=int(barrier_id), threads=count))


barrier_wait, barrier_arrive = mbarrier_wait_parity, mbarrier_arrive
