"""Loops of the kernel: what `for … in` runs over. The frontend turns them into IR."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import LanguageError
from ..ir.core import Value, constant, constant_of
from ..ir.dtypes import i32, i64
from ..ir.ops.arith import Add, Sub, element_dtype
from .arithmetic import is_wide, narrowed
from .arithmetic import min as least
from .checks import assume, device_assert
from .operand import Operand, convert, is_number, value_of, wrap
from .trace import current, refuse


class TracedLoop:
    """Base of what a traced `for` runs over."""

    def __iter__(self) -> Iterator[Any]:
        raise refuse(
            "TLC0125",
            "Python runs over a loop that the kernel runs",
            hint="write it as a `for` of a kernel or of a T.macro",
        )


@dataclass(frozen=True)
class Counted(TracedLoop):
    """start, start + step, … below stop. A step that is known only when the kernel runs is asserted to be
    positive, for what follows counts on that. `kind` and `stages` as ir.ops.control.For has them. With an
    `origin` the loop counts from it, in its dtype, and `down` or up; the rest is of 32 bits."""

    start: Value
    stop: Value
    step: Value
    kind: str = "serial"
    stages: int = 0
    unroll: int = 1
    origin: Value | None = None
    down: bool = False

    @property
    def loops(self) -> tuple[Counted, ...]:
        """The loops, outermost first: itself."""
        return (self,)

    def __reversed__(self) -> Counted:
        """The same indices, the last one first. Raises LanguageError where they are in no order, or it
        takes 64 bits, or a step that is no number, to say which is the last."""
        trace, by = current("reversed"), constant_of(self.step)
        if self.origin is not None or by is None or self.kind not in ("serial", "unroll"):
            raise refuse(
                "TLC0125",
                "this loop has no order that can be reversed",
                hint="T.serial(n - 1, -1, -1) counts down",
            )
        start, stop = (wrap(trace, bound) for bound in (self.start, self.stop))
        last = start + (stop - start - 1) // int(by) * int(by)
        return counted("reversed", last, start - 1, -int(by), kind=self.kind, unroll=self.unroll)

    def given(self, indices: tuple[Any, ...]) -> Any:
        """What the name behind `for` holds in a trip: the index."""
        (index,) = indices
        if self.origin is None:
            return index
        trace = current("a loop")
        done = convert(value_of(index), element_dtype(self.origin))
        return wrap(trace, trace.pure((Sub if self.down else Add)(self.origin, done)))


@dataclass(frozen=True)
class Nest(TracedLoop):
    """Counted loops one inside the other, giving a tuple of indices."""

    loops: tuple[Counted, ...]

    def given(self, indices: tuple[Any, ...]) -> Any:
        """What the names behind `for` hold in a trip: the indices."""
        return tuple(loop.given((index,)) for loop, index in zip(self.loops, indices, strict=True))


@dataclass(frozen=True)
class TileLoop(Nest):
    """One loop over the numbers of tiles, giving a tile's place in a domain of `extents`, in panels
    of `group` along the first of them."""

    extents: tuple[Any, ...] = ()
    group: int = 8

    def given(self, indices: tuple[Any, ...]) -> Any:
        """The place of the tile in the domain."""
        (tile,) = indices
        outermost, *others = self.extents
        if not others:
            return tile
        in_panel = self.group * math.prod(others)
        first = tile // in_panel * self.group
        rows = least(outermost - first, self.group)
        rest = tile % in_panel
        place = [first + rest % rows]
        rest = rest // rows
        for n, extent in enumerate(others):
            inner = math.prod(others[n + 1 :])
            place.append(rest // inner % extent if n else rest // inner)
        for index, extent in zip(
            place, self.extents, strict=True
        ):  # which arithmetic does not tell
            assume(index >= 0)
            assume(index < extent)
        return tuple(place)


@dataclass(frozen=True)
class ParallelNest(TracedLoop):
    """Every index of `extents` once, in any order."""

    extents: tuple[int, ...]


def _bound(what: str, x: Any) -> Value:
    if isinstance(x, bool) or not (isinstance(x, Operand) or is_number(x)):
        raise LanguageError("TLC0122", f"{x!r} is no bound of {what}", hint="bounds are integers")
    value = value_of(x)
    if not element_dtype(value).is_integer:
        raise LanguageError(
            "TLC0122",
            f"a bound of {what} is a {element_dtype(value)}, not an integer",
            hint="T.ceildiv(n, 4) is n / 4 of integers, rounded up; T.cast(x, 'int32') converts",
        )
    return value if is_wide(value) else convert(value, i32)


def counted(
    what: str, start: Any, stop: Any, step: Any, *, kind: str, stages: int = 0, unroll: int = 1
) -> Counted:
    """A loop from what the user gave: `start` alone counts from 0."""
    trace = current(what)
    with trace.here():
        if stop is None:
            start, stop = 0, start
        step = 1 if step is None else step
        if is_number(step) and step == 0:
            raise LanguageError(
                "TLC0122", f"{what} with a step of 0", hint="1 counts up, and -1 down"
            )
        down = is_number(step) and step < 0
        first, last, by = (_bound(what, x) for x in (start, stop, -step if down else step))
        if isinstance(step, Operand):
            device_assert(wrap(trace, by) > 0, "the step of a loop is not positive")
        origin = None
        if down or is_wide(first):
            wide = i64 if is_wide(first) or is_wide(last) else i32
            origin, end = convert(first, wide), convert(last, wide)
            first = constant(0, i32)
            last = trace.pure(Sub(origin, end) if down else Sub(end, origin))
        return Counted(first, narrowed(last), narrowed(by), kind, stages, unroll, origin, down)


def serial(start: Any, stop: Any = None, step: Any = None, *, annotations: Any = None) -> Counted:
    """A loop that stays a loop: serial(stop) or serial(start, stop, step). A step is above 0, or a
    number below 0, which counts down."""
    _no_annotations("T.serial", annotations)
    return counted("T.serial", start, stop, step, kind="serial")


def unroll(
    start: Any,
    stop: Any = None,
    step: Any = None,
    *,
    explicit: bool = False,
    unroll_factor: int | None = None,
    annotations: Any = None,
) -> Counted:
    """A loop that is unrolled: in full, or `unroll_factor` trips at a time."""
    _no_annotations("T.unroll", annotations)
    factor = 0 if unroll_factor is None else unroll_factor
    counts = isinstance(factor, int | np.integer) and not isinstance(factor, bool)
    if not counts or (factor < 1 and unroll_factor is not None):
        raise refuse(
            "TLC0122",
            f"T.unroll with unroll_factor={unroll_factor!r}",
            hint="trips at a time, 1 or more, known at compile time; without it, all of them",
        )
    return counted("T.unroll", start, stop, step, kind="unroll", unroll=int(factor))


def vectorized(start: Any, stop: Any = None, *, annotations: Any = None) -> Counted:
    """A loop whose trips may be done as one wide access."""
    _no_annotations("T.vectorized", annotations)
    return counted("T.vectorized", start, stop, None, kind="vectorized")


def Pipelined(
    start: Any,
    stop: Any = None,
    num_stages: int = 0,
    order: Any = None,
    stage: Any = None,
    sync: Any = None,
    group: Any = None,
    annotations: Any = None,
) -> Counted:
    """A loop whose copies run ahead of its arithmetic by up to `num_stages` buffers.

    The results are those of the plain loop. The compiler may use fewer stages, with a remark.
    """
    for name, given in (("order", order), ("stage", stage), ("sync", sync), ("group", group)):
        if given is not None:
            raise refuse(
                "TLC0122",
                f"T.Pipelined takes no schedule by hand ({name}=…)",
                hint="num_stages is enough: the compiler plans the stages",
            )
    _no_annotations("T.Pipelined", annotations)
    if not isinstance(num_stages, int | np.integer) or num_stages < 0:
        raise refuse(
            "TLC0122",
            f"num_stages={num_stages!r} is no number of stages",
            hint="0 copies when it is used, 2 or more load so many iterations ahead",
        )
    return counted("T.Pipelined", start, stop, None, kind="pipelined", stages=int(num_stages))


def Parallel(
    *extents: Any,
    coalesced_width: int | None = None,
    loop_layout: Any = None,
    prefer_async: bool | None = None,
    annotations: Any = None,
) -> ParallelNest:
    """A nest whose iterations are independent: each is done once, by some thread, in any order.

    Args:
        extents: compile-time ints, one an index.
        coalesced_width, prefer_async: hints that tilec does not need.
    """
    _no_annotations("T.Parallel", annotations)
    if loop_layout is not None:
        raise refuse(
            "TLC0122",
            "T.Parallel takes no loop_layout: the compiler chooses it",
            hint="leave it out",
        )
    trace = current("T.Parallel")
    trace.need_launch("T.Parallel")
    if trace.inside("parallel"):
        raise refuse(
            "TLC0120",
            "T.Parallel stands in another T.Parallel",
            hint="write one nest: for i, j in T.Parallel(n, m)",
        )
    if not extents:
        raise refuse(
            "TLC0122", "T.Parallel without an extent", hint="for i, j in T.Parallel(64, 128)"
        )
    for extent in extents:
        if isinstance(extent, bool) or not isinstance(extent, int | np.integer) or extent < 0:
            raise refuse(
                "TLC0122",
                f"T.Parallel takes compile-time extents, and {extent!r} is not one",
                hint="an extent is an integer of 0 or more"
                if is_number(extent)
                else "run over the whole tile and guard with `if`",
            )
    if math.prod(extents) >= 1 << 31:
        raise refuse(
            "TLC0122",
            f"T.Parallel over {math.prod(extents)} elements: a tile has fewer than 2^31",
            hint="give the blocks of the grid a tile each",
        )
    return ParallelNest(tuple(int(extent) for extent in extents))


def Persistent(domain: Any, wave_size: Any, index: Any, group_size: int = 8) -> TileLoop:
    """The tiles index, index + wave_size, … of a domain: `for bm, bn in T.Persistent([m, n], blocks, b)`.

    Each tile is given once where index is 0 … wave_size - 1 in turn, whatever the domain's extents.

    Args:
        domain: the extents, ints or values of the kernel, one or more.
        wave_size: how many tiles are taken at a time: the blocks of the grid.
        index: which of them are this block's, 0 … wave_size - 1.
        group_size: rows along the first extent that are taken together, for the L2 cache.
    """
    trace = current("T.Persistent")
    extents = tuple(domain) if isinstance(domain, list | tuple) else (domain,)
    if not extents:
        raise refuse("TLC0122", "T.Persistent over no extents", hint="T.Persistent([m, n], ...)")
    if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
        raise refuse("TLC0122", f"T.Persistent in groups of {group_size!r}", hint="1 or more")
    with trace.here():
        bounds = tuple(wrap(trace, _bound("T.Persistent", extent)) for extent in extents)
    loop = counted("T.Persistent", index, math.prod(bounds), wave_size, kind="serial")
    return TileLoop((loop,), bounds, group_size)


def grid(*extents: Any) -> Nest:
    """Serial loops one inside the other: `for i, j in T.grid(n, m)`."""
    if not extents:
        raise refuse("TLC0122", "T.grid without an extent", hint="for i, j in T.grid(64, 128)")
    return Nest(tuple(counted("T.grid", e, None, None, kind="serial") for e in extents))


def _no_annotations(what: str, annotations: Any) -> None:
    if annotations:
        raise refuse("TLC0122", f"{what} takes no annotations", hint="leave them out")


Serial, Unroll, Vectorized = serial, unroll, vectorized
