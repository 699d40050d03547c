"""What the 32 threads of a warp find out together: `T.warp_reduce_sum`, `T.ballot`, `T.any_sync`, …

A warp is 32 threads whose numbers follow each other, on every target: half of a wave where the
machine runs 64 as one. All of them come, so these stand where the block's threads have not parted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import LanguageError
from ..ir.core import Value, constant
from ..ir.dtypes import i32, u32, u64
from ..ir.ops.arith import Compare, FloorDiv, FloorMod, Not
from ..ir.ops.control import ThreadId
from ..ir.ops.nvidia import WARP, WARPGROUP
from ..ir.ops.thread import Ballot
from .arithmetic import bitwise_and, bitwise_or, max, min, truth
from .operand import Expr, convert
from .shuffles import FULL_WARP, shfl_xor
from .trace import Trace, current, refuse


def _add(x: Any, y: Any) -> Any:
    return x + y


def warp_reduce_sum(value: Any) -> Any:
    """The sum of the values of the warp's threads, in each of them; the same bits on every target."""
    return _reduced("T.warp_reduce_sum", value, _add)


def warp_reduce_max(value: Any) -> Any:
    """The greatest of the values of the warp's threads, in each of them."""
    return _reduced("T.warp_reduce_max", value, max)


def warp_reduce_min(value: Any) -> Any:
    """The least of the values of the warp's threads, in each of them."""
    return _reduced("T.warp_reduce_min", value, min)


def warp_reduce_bitand(value: Any) -> Any:
    """The bits that the integers of all threads of the warp have, in each of them."""
    return _reduced("T.warp_reduce_bitand", value, bitwise_and)


def warp_reduce_bitor(value: Any) -> Any:
    """The bits that the integer of a thread of the warp has, in each of them."""
    return _reduced("T.warp_reduce_bitor", value, bitwise_or)


def _reduced(what: str, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """A butterfly: threads that differ in one bit of their numbers join what they have."""
    _whole_warps(what)
    for bit in range(WARP.bit_length() - 1):
        value = join(value, shfl_xor(value, 1 << bit))
    return value


def ballot(predicate: Any) -> Any:
    """Which threads of the warp have a true (or nonzero) `predicate`: bit n of a uint64 is the answer
    of thread n of the warp, bits 32 to 63 are 0.
    """
    return _votes("T.ballot", predicate, lambda votes: convert(votes, u64))


def ballot_sync(predicate: Any, mask: Any = FULL_WARP) -> Any:
    """T.ballot; `mask` names the whole warp."""
    _whole_mask("T.ballot_sync", mask)
    return ballot(predicate)


def activemask() -> Any:
    """The threads of the warp that there are, as T.ballot names them: all but in a last warp that the
    block does not fill.
    """
    return ballot(True)


def any_sync(predicate: Any, mask: Any = FULL_WARP) -> Any:
    """Whether a thread of the warp has a true (or nonzero) `predicate`."""
    _whole_mask("T.any_sync", mask)
    zero = constant(0, u32)
    return _votes("T.any_sync", predicate, lambda votes: _compared(votes, zero, "ne"))


def all_sync(predicate: Any, mask: Any = FULL_WARP) -> Any:
    """Whether all threads of the warp have a true (or nonzero) `predicate`."""
    _whole_mask("T.all_sync", mask)
    zero = constant(0, u32)

    def none(votes: Value) -> Value:
        return _compared(votes, zero, "eq")

    return _votes("T.all_sync", predicate, none, against=True)


def _votes(
    what: str, predicate: Any, result: Callable[[Value], Value], against: bool = False
) -> Any:
    """The result of a ballot on a predicate, or on its opposite."""
    trace = current(what)
    trace.need_tile_level(what)
    with trace.here():
        answer = truth(predicate)
        if against:
            answer = trace.pure(Not(answer))
        return Expr(result(trace.builder.emit(Ballot(answer)).result), trace.region)


def _compared(x: Value, y: Value, predicate: str) -> Value:
    return current("a comparison").pure(Compare(x, y, predicate=predicate))


def _whole_mask(what: str, mask: Any) -> None:
    if mask != FULL_WARP:
        raise refuse(
            "TLC0167", f"{what} of a part of a warp is not supported", hint="leave mask out"
        )


def _whole_warps(what: str) -> None:
    threads = current(what).need_tile_level(what).threads
    if threads % WARP:
        raise refuse(
            "TLC0167",
            f"{what} in a block of {threads} threads, whose last warp is not whole",
            hint=f"threads={-(-threads // WARP) * WARP}, of which some have nothing to add",
        )


def get_lane_idx(warp_size: int | None = None) -> Any:
    """The thread's number in its warp of 32 (or `warp_size`) threads."""
    trace = current("T.get_lane_idx")
    return _index(trace, "T.get_lane_idx", FloorMod, _size("T.get_lane_idx", warp_size, WARP))


def get_warp_idx(warp_size: int | None = None) -> Any:
    """The number of the thread's warp of 32 (or `warp_size`) threads in the block."""
    trace = current("T.get_warp_idx")
    return _index(trace, "T.get_warp_idx", FloorDiv, _size("T.get_warp_idx", warp_size, WARP))


get_warp_idx_sync = get_warp_idx


def get_warp_group_idx(warp_size: int | None = None, warps_per_group: int | None = None) -> Any:
    """The number of the thread's warpgroup, four warps (or `warps_per_group`), in the block."""
    what = "T.get_warp_group_idx"
    size = _size(what, warp_size, WARP) * _size(what, warps_per_group, WARPGROUP // WARP)
    return _index(current(what), what, FloorDiv, size)


def _size(what: str, given: int | None, usual: int) -> int:
    if given is not None and (not isinstance(given, int) or given < 1):
        raise refuse("TLC0167", f"{what} of groups of {given!r}", hint=f"{usual}, or leave it out")
    return given or usual


def _index(trace: Trace, what: str, op: type[FloorDiv | FloorMod], size: int) -> Any:
    trace.need_launch(what)
    with trace.here():
        if trace.inside("parallel"):
            raise LanguageError(
                "TLC0120", f"{what} names a thread, and T.Parallel chooses the threads itself",
                hint="move it out of the nest",
            )  # fmt: skip
        thread = trace.builder.emit(ThreadId()).result
        return Expr(trace.pure(op(thread, constant(size, i32))), trace.region)
