"""Who does what, said by the program: `T.ws`, registers by role."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from ..errors import Loc
from ..ir.core import Block, Value, constant
from ..ir.dtypes import i32
from ..ir.ops.arith import Compare, FloorMod
from ..ir.ops.control import Role, ThreadId, Yield
from ..ir.ops.nvidia import WARPGROUP, SetRegisters
from .operand import Expr
from .trace import Region, current, refuse

LEAST_REGISTERS, MOST_REGISTERS, GRANULE = 24, 256, 8  # of setmaxnreg


class RoleFrame:
    """The context manager that T.ws gives: what stands in it is done by some warpgroups alone."""

    def __init__(self, first: int, threads: int, label: str, loc: Loc) -> None:
        self.first, self.threads, self.label, self.loc = first, threads, label, loc
        self.region: Region | None = None

    def __enter__(self) -> None:
        trace = current("T.ws")
        launch = trace.need_tile_level("T.ws")
        self.region = trace.open_region("ws", self.loc)
        launch.group = (self.first, self.threads)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        trace = current("T.ws")
        assert self.region is not None and trace.launch is not None
        trace.launch.group = None
        with trace.here(self.loc):
            body = Block((), (*trace.close_region(self.region), Yield(())))
            trace.builder.emit(
                Role(body, label=self.label, first_thread=self.first, threads=self.threads)
            )


def ws(*warp_group_idx: int) -> RoleFrame:
    """`with T.ws(0, 1):` what stands in it is done by warpgroups 0 and 1 of the block, together.

    Each distinct choice of warpgroups is a role: it runs its statements, and the loops and branches
    around them, by itself, at its own pace. Fragments and other registers are each role's own;
    through shared memory roles speak by barriers, which are the program's. Statements outside of
    every T.ws are values, allocations, and what only fills registers.

    Args:
        warp_group_idx: numbers of warpgroups (128 threads each; the last of the block may be
            smaller), one after the other.
    """
    trace = current("T.ws")
    launch = trace.need_tile_level("T.ws")
    if launch.group is not None:
        raise refuse("TLC0160", "T.ws stands in another T.ws", hint="end the first before")
    count = -(-launch.threads // WARPGROUP)
    groups = list(warp_group_idx)
    for group in groups:
        if isinstance(group, bool) or not isinstance(group, int | np.integer):
            raise refuse(
                "TLC0160", f"T.ws of {group!r}, which is no compile-time int", hint="T.ws(0, 1)"
            )
        if not 0 <= group < count:
            raise refuse(
                "TLC0160",
                f"T.ws({group}): {launch.threads} threads are warpgroups 0 to {count - 1}",
                hint=f"T.Kernel(..., threads={WARPGROUP * (group + 1)})" if group > 0 else "",
            )
    if not groups or groups != list(range(groups[0], groups[0] + len(groups))):
        raise refuse(
            "TLC0160",
            f"T.ws({', '.join(map(str, groups))}): warpgroups that do one thing lie side by side",
            hint="T.ws(0, 1), in rising order",
        )
    first = WARPGROUP * groups[0]
    threads = min(WARPGROUP * len(groups), launch.threads - first)
    label = f"ws({', '.join(map(str, groups))})"
    with trace.here() as loc:
        return RoleFrame(first, threads, label, loc)


def set_max_nreg(reg_count: int, is_inc: Any) -> None:
    """The warpgroups of the T.ws around have `reg_count` registers a thread from here on.

    Args:
        reg_count: a multiple of 8, 24 … 256.
        is_inc: whether that is more than before (1), or less (0).

    A launch starts with an equal share of the multiprocessor's 65536 registers for all threads; what
    some give up others may take. Source: PTX ISA 8.0, 9.7.19.5 (setmaxnreg).
    """
    what = "T.set_max_nreg"
    trace = current(what)
    launch = trace.need_tile_level(what)
    if launch.group is None or launch.group[1] % WARPGROUP:
        raise refuse(
            "TLC0165",
            f"{what} stands where not whole warpgroups come",
            hint="put it at the top of a T.ws of whole warpgroups",
        )
    if isinstance(reg_count, bool) or not isinstance(reg_count, int | np.integer):
        raise refuse(
            "TLC0165", f"{what} of {reg_count!r}, which is no compile-time int", hint="e.g. 232"
        )
    if reg_count % GRANULE or not LEAST_REGISTERS <= reg_count <= MOST_REGISTERS:
        raise refuse(
            "TLC0165",
            f"{what} of {reg_count} registers: they are given out in eights, "
            f"{LEAST_REGISTERS} to {MOST_REGISTERS} a thread",
            hint=f"such as {max(LEAST_REGISTERS, min(MOST_REGISTERS, reg_count // GRANULE * GRANULE))}",
        )
    with trace.here():
        trace.builder.emit(SetRegisters(count=int(reg_count), increase=bool(is_inc)))


def inc_max_nreg(reg_count: int) -> None:
    """T.set_max_nreg to more registers than before."""
    set_max_nreg(reg_count, 1)


def dec_max_nreg(reg_count: int) -> None:
    """T.set_max_nreg to fewer registers than before."""
    set_max_nreg(reg_count, 0)


def no_set_max_nreg() -> None:
    """Nothing: in a kernel with T.ws registers are as the program sets them."""
    current("T.no_set_max_nreg").need_launch("T.no_set_max_nreg")


disable_warp_group_reg_alloc = no_set_max_nreg


def shuffle_elect(thread_extent: int) -> Any:
    """A condition that holds in one of every `thread_extent` threads of the block: 32 a warp's, 128 a
    warpgroup's first. 0: in the first thread of the block."""
    what = "T.shuffle_elect"
    trace = current(what)
    trace.need_tile_level(what)
    if isinstance(thread_extent, bool) or not isinstance(thread_extent, int) or thread_extent < 0:
        raise refuse(
            "TLC0160", f"{what} of {thread_extent!r} threads", hint="32 for a warp, 128, or 0"
        )
    with trace.here():
        number: Value = trace.builder.emit(ThreadId()).result
        if thread_extent:
            number = trace.pure(FloorMod(number, constant(thread_extent, i32)))
        first = trace.pure(Compare(number, constant(0, i32), predicate="eq"))
        return Expr(first, trace.region)
