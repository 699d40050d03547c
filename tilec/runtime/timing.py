"""How long calls take: on a GPU by its events, the L2 cache flushed before each; else by the host's
clock."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import ArgumentError
from .arrays import is_array, view_array

Clock = Callable[[Callable[[], object]], float]
"""Runs a function once and gives the microseconds that it took."""

_FLUSH_BYTES = 256 << 20  # five times the largest L2 cache of the listed targets
_WARM = 2


@dataclass(frozen=True)
class Timing:
    """Microseconds of several calls."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the calls took no longer."""
        return statistics.median(self.times)

    def __str__(self) -> str:
        return f"{self.median:.1f} us, median of {len(self.times)} ({min(self.times):.1f} least)"


def bench(function: Callable[..., object], *args: Any, rounds: int = 20, **kwargs: Any) -> Timing:
    """Times `function(*args, **kwargs)`: a kernel, or anything else that runs on the arrays' device.

    On a GPU the device's time on the current stream of the arrays' library (cupy or torch); for
    other arrays the host's, which for the interpreter and the emulator says nothing of a GPU.

    Raises ArgumentError for GPU arrays of another library, and fewer rounds than one.
    """
    if rounds < 1:
        raise ArgumentError("TLC0306", f"bench takes one round or more, not {rounds}")
    return measure(lambda: function(*args, **kwargs), clock_of([*args, *kwargs.values()]), rounds)


def measure(run: Callable[[], object], clock: Clock, rounds: int) -> Timing:
    """The times of `rounds` runs, after some that are not counted."""
    for _ in range(_WARM):
        run()
    return Timing(tuple(clock(run) for _ in range(rounds)))


def clock_of(arguments: Sequence[Any]) -> Clock:
    """The clock of the device on which the arguments are."""
    for argument in arguments:
        if is_array(argument):
            view = view_array(argument)
            if view.device.kind != "cpu":
                return _gpu_clock(view.library, view.device.index)
    return _host_clock


def _host_clock(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return 1e6 * (time.perf_counter() - start)


@cache
def _gpu_clock(library: str, index: int) -> Clock:
    if library == "torch":
        return _torch_clock(sys.modules["torch"], index)
    if library == "cupy":
        return _cupy_clock(sys.modules["cupy"], index)
    raise ArgumentError(
        "TLC0306",
        f"arrays of {library} are not timed",
        hint="pass arrays of cupy or torch; from_dlpack converts without a copy",
    )


def _torch_clock(torch: Any, index: int) -> Clock:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=f"cuda:{index}")

    def clock(run: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(index):
            flush.zero_()
            start.record()
            run()
            end.record()
            end.synchronize()
        return 1e3 * float(start.elapsed_time(end))

    return clock


def _cupy_clock(cupy: Any, index: int) -> Clock:
    with cupy.cuda.Device(index):
        flush = cupy.empty(_FLUSH_BYTES, dtype=cupy.uint8)

    def clock(run: Callable[[], object]) -> float:
        with cupy.cuda.Device(index):
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            flush.fill(0)
            start.record()
            run()
            end.record()
            end.synchronize()
        return 1e3 * float(cupy.cuda.get_elapsed_time(start, end))

    return clock
