"""Copies by the engine that the program starts and awaits itself: `T.tma_copy` and its waits."""

from __future__ import annotations

import math
from typing import Any

from ..errors import LanguageError
from ..ir.core import Block, Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Compare
from ..ir.ops.control import If, ThreadId, Yield
from ..ir.ops.nvidia import BulkCommit, BulkWait, MbarrierExpect
from ..ir.ops.tile import Copy
from ..ir.types import Space
from .areas import Area, paired_areas, slot_of
from .barriers import barrier_operands
from .flags import flag
from .trace import Trace, current, refuse


def tma_copy(
    src: Any,
    dst: Any,
    *,
    barrier: Any = None,
    cluster_mask: Any = None,
    leader_scope_threads: Any = None,
    eviction_policy: str | None = None,
    annotations: Any = None,
    expect_tx: bool = True,
) -> None:
    """Starts a copy by TMA between a tensor and all of a shared buffer, `A_s`, or of one buffer of a
    ring of them, `A_s[slot, :, :]`. The first of the threads that come here starts it.

    Args:
        src, dst: as T.copy takes them; one in global memory, the other shared, of one dtype.
        barrier: of a load the mbarrier, `full[slot]`, on which its bytes complete. The program arrives
            there and waits. A store has none: T.tma_store_arrive and T.tma_store_wait.
        expect_tx: announces the bytes of a load to the barrier, before it starts. False leaves that to
            T.mbarrier_expect_tx or T.mbarrier_arrive_expect_tx.
        eviction_policy, leader_scope_threads: hints; they change no result.

    What a load brings outside of the tensor is 0; what a store has there is dropped. The engine reads
    what threads wrote to shared memory only behind T.fence_proxy_async.
    """
    what = "T.tma_copy"
    trace = current(what)
    trace.need_tile_level(what)
    if annotations:
        raise refuse("TLC0163", f"{what} takes no annotations", hint="leave them out")
    if cluster_mask is not None:
        raise refuse(
            "TLC0163",
            f"{what} to several blocks (cluster_mask) is not supported",
            hint="leave cluster_mask out: each block loads for itself",
        )
    with trace.here():
        source, target = paired_areas(trace, what, src, dst)
        spaces = (source.buffer.type.space, target.buffer.type.space)
        if spaces == (Space.GLOBAL, Space.SHARED):
            _load(trace, source, target, barrier, expect_tx)
        elif spaces == (Space.SHARED, Space.GLOBAL):
            if barrier is not None:
                raise LanguageError(
                    "TLC0163",
                    f"{what} to {target.buffer.label} completes on no mbarrier",
                    hint="T.tma_store_arrive(), and T.tma_store_wait(0) before its source is written",
                )
            _emit(trace, source, target)
        else:
            raise LanguageError(
                "TLC0163",
                f"{what} from {source.buffer.label} in {spaces[0].value} memory to "
                f"{target.buffer.label} in {spaces[1].value} memory",
                hint="the engine copies between global and shared memory; T.copy does the rest",
            )


def _load(trace: Trace, source: Area, target: Area, barrier: Any, expect_tx: bool) -> None:
    if barrier is None:
        raise LanguageError(
            "TLC0163",
            f"T.tma_copy to {target.buffer.label} without a barrier: nobody could know when it is done",
            hint="barrier=full[slot], with full = T.alloc_barrier([1] * stages)",
        )
    operands = barrier_operands("T.tma_copy", barrier)
    if flag("T.tma_copy", "expect_tx", expect_tx):
        size = math.prod(target.shape) * target.buffer.type.dtype.bits // 8
        first = trace.need_launch("T.tma_copy").first_thread
        thread = trace.builder.emit(ThreadId()).result
        condition = trace.pure(Compare(thread, constant(first, i32), predicate="eq"))
        with trace.builder.region() as ops:
            trace.builder.emit(MbarrierExpect(*operands, constant(size, i32), arrives=False))
        end = (Yield(()),)
        trace.builder.emit(If(condition, Block((), (*ops, *end)), Block((), end)))
    _emit(trace, source, target, operands)


def _emit(trace: Trace, source: Area, target: Area, barrier: Any = ()) -> None:
    if source.buffer.type.dtype != target.buffer.type.dtype:
        raise LanguageError(
            "TLC0163",
            f"T.tma_copy of {source.buffer.type.dtype} to {target.buffer.type.dtype}: the engine "
            "converts nothing",
            hint="T.copy converts",
        )
    (memory, indices, extents), (other, other_indices, other_extents) = (
        _side(trace, area) for area in (source, target)
    )
    if extents == other_extents:  # those of 1 too, which a buffer of one row has
        shape, dims, other_dims = extents, tuple(range(len(extents))), tuple(range(len(extents)))
    else:
        shape, dims, other_dims = source.shape, _kept(extents), _kept(other_extents)
    trace.builder.emit(
        Copy(
            memory, indices, other, other_indices, barrier,
            shape=shape, source_dims=dims, destination_dims=other_dims,
            safe_value=trace.safe_value(source.memory), instruction="tma",
        )
    )  # fmt: skip


def _side(trace: Trace, area: Area) -> tuple[Value, tuple[Value, ...], tuple[int, ...]]:
    """The memory of one side, where the region starts and its extents: a buffer of a ring is memory of
    its own."""
    extents = area.extents or ()
    slot = slot_of(trace, area)
    if slot is None:
        return area.memory, area.indices, extents
    return slot, (constant(0, i32),) * len(extents[1:]), extents[1:]


def _kept(extents: tuple[int, ...]) -> tuple[int, ...]:
    """The dimensions of more than one element."""
    return tuple(d for d, n in enumerate(extents) if n != 1)


def tma_store_arrive() -> None:
    """Closes the group of the stores by T.tma_copy that this thread has started."""
    what = "T.tma_store_arrive"
    trace = current(what)
    trace.need_tile_level(what)
    with trace.here():
        trace.builder.emit(BulkCommit())


def tma_store_wait(count: int = 0, read: bool = True) -> None:
    """Waits until at most `count` of the groups that this thread has closed are under way: have read
    their source, or with `read=False` also written the tensor.
    """
    what = "T.tma_store_wait"
    trace = current(what)
    trace.need_tile_level(what)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise refuse(
            "TLC0163", f"{what}({count!r}): a compile-time int, 0 or more", hint="0 waits for all"
        )
    with trace.here():
        trace.builder.emit(BulkWait(pending=count, read=flag(what, "read", read)))
