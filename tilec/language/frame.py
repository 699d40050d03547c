"""`with T.Kernel(...)`: one launch, its block indices, its threads, its rasterisation."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import numpy as np

from ..errors import LanguageError, Loc
from ..ir.build import scalar
from ..ir.core import Block, Value
from ..ir.dtypes import i32, i64
from ..ir.ops.arith import element_dtype
from ..ir.ops.control import NO_CLUSTER, WHOLE_GPU, Launch, ThreadId, cluster_problem
from .arithmetic import is_wide
from .arithmetic import max as most
from .flags import flag
from .operand import Expr, Operand, convert, is_number, value_of, wrap
from .simt import shape_launch
from .split_roles import owns_schedule
from .trace import LaunchState, Region, Trace, current, refuse

_MAX_THREADS = 1024
_AXES = ("threadIdx.x", "threadIdx.y", "threadIdx.z")


class LaunchFrame:
    """The context manager that T.Kernel gives; entering it yields the block indices."""

    def __init__(
        self,
        grid: tuple[Value, ...],
        threads: tuple[int, ...],
        persistent: bool | None,
        cooperative: bool,
        cluster: tuple[int, ...] | None,
        stream_k: int | None,
        loc: Loc,
    ) -> None:
        self.grid = grid
        self.threads = threads
        self.persistent = False if cooperative else persistent
        self.cooperative = cooperative
        self.cluster = cluster
        self.stream_k = stream_k
        self.loc = loc
        self.region: Region | None = None

    def __enter__(self) -> Any:
        trace = current("T.Kernel")
        if trace.launch is not None:
            raise refuse(
                "TLC0118",
                "T.Kernel stands in another T.Kernel",
                hint="write it behind the first: launches run one after the other",
                loc=self.loc,
            )
        if len(trace.regions) > 1:
            raise refuse(
                "TLC0118",
                "T.Kernel stands in a branch or loop that is decided when the program runs",
                hint="launch always, and put the condition into the kernel",
                loc=self.loc,
            )
        self.region = trace.open_region("launch", self.loc)
        trace.launch = LaunchState(self.threads, persistent=self.persistent)
        trace.launch.bindings["grid"] = tuple(Expr(v, trace.regions[0]) for v in self.grid)
        self.params = tuple(scalar(i32, hint) for hint in ("bx", "by", "bz"))
        blocks = tuple(Expr(value, self.region) for value in self.params[: len(self.grid)])
        trace.launch.bindings["blocks"] = blocks
        return blocks[0] if len(blocks) == 1 else blocks

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            return
        trace = current("T.Kernel")
        state = trace.launch
        assert self.region is not None and state is not None
        with trace.here(self.loc):
            ops = shape_launch(trace.close_region(self.region), state.threads, trace.shown)
            explicit = any(owns_schedule(inner) for op in ops for inner in op.walk())
            trace.launch = None
            grid = self.grid + (value_of(1, i32),) * (3 - len(self.grid))
            op = Launch(
                grid,
                Block(self.params, tuple(ops)),
                threads=state.threads,
                symbol=kernel_symbol(trace.name, trace.launches),
                persistent=False if explicit else state.persistent,
                explicit=explicit,
                panel=state.panel,
                order=state.order,
                cluster=self.cluster or NO_CLUSTER,
                alone=self.cluster == NO_CLUSTER,
                cooperative=self.cooperative,
                stream_k=self.stream_k,
            )
            trace.builder.emit(op)
        trace.launches += 1


def kernel_symbol(name: str, number: int) -> str:
    """The C name of a kernel's launch, injective in name and number.

    ASCII letters, digits and single underscores stand for themselves; any other character is
    written by its code in hexadecimal, between `_u` and `_`, and so is the underscore of an `_u`
    in the name itself.
    """
    safe = name.replace("_u", "_u5f_u")
    mangled = "".join(c if c.isascii() else f"_u{ord(c):x}_" for c in safe)
    return f"{mangled}_kernel" + (f"{number}" if number else "")


def Kernel(
    *blocks: Any,
    threads: Any = None,
    persistent: bool | None = None,
    cooperative: bool = False,
    cluster: Any = None,
    stream_k: bool | int | None = None,
    prelude: str | None = None,
) -> LaunchFrame:
    """One launch: `with T.Kernel(grid_x, grid_y, threads=128) as (bx, by)`.

    Args:
        blocks: one to three extents of the grid.
        threads: of a block, 128 where not given: the program's threads, which bindings count. A
            tuple of up to three extents numbers them in as many dimensions, the first one fastest.
        persistent: whether fewer blocks may be launched, each running several logical ones in turn:
            True, False (never), or None for where the compiler finds that it pays: on machines
            whose loads run beside the rest, where all blocks do the same work. Blocks of different
            work are given out by the GPU as multiprocessors become free, in the order of the grid,
            so that long ones should come first.
        cooperative: whether all blocks must run at the same time, as blocks do that wait for later
            ones (a barrier of the whole grid). A GPU that cannot hold them refuses the call
            (TLC0910) instead of waiting for ever. Blocks that wait for earlier ones alone, as in a
            scan that looks back, need not ask for it: blocks start in order.
        cluster: how many neighbouring blocks along each dimension of the grid run at the same time
            on multiprocessors that reach each other's shared memory, 8 in all at most: (2, 1). They
            mean what they mean without; data that several of them load is brought once. The grid
            need be no multiple of it. On a target without clusters the kernel is refused. None: for
            calls whose sizes gain by it on the GPU that is here; 1: never.
        stream_k: whether blocks that would have no tile in the last wave do some of the steps along
            K of the others' tiles (Stream-K): True, an int (so many blocks), False (never), or None
            for calls whose sizes gain by it on the GPU that is here.
            The launch's products must be sums of one loop, whose steps do nothing else; they are
            added in an order that the extents alone decide. It takes a workspace of a tile or two
            a block.
    """
    trace = current("T.Kernel")
    if prelude:
        raise refuse(
            "TLC0118",
            "T.Kernel takes no prelude: a program has no text of its own in C",
            hint="leave it out; tilec.extend adds ops",
        )
    if not 1 <= len(blocks) <= 3:
        raise refuse(
            "TLC0118",
            f"T.Kernel has a grid of 1 to 3 extents, not {len(blocks)}",
            hint="T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by)",
        )
    with trace.here() as loc:
        grid = tuple(_extent(block) for block in blocks)
        extents = _cluster(cluster, len(grid))
        blocks_at_once = _stream_k(stream_k)
        if persistent is not None:
            persistent = flag("T.Kernel", "persistent", persistent)
        at_once = flag("T.Kernel", "cooperative", cooperative)
        return LaunchFrame(
            grid, _threads(threads), persistent, at_once, extents, blocks_at_once, loc
        )


def ClusterKernel(
    *blocks: Any, cluster_dims: Any, threads: Any = None, prelude: str | None = None
) -> LaunchFrame:
    """`T.Kernel(*blocks, threads=threads, cluster=cluster_dims)`: TileLang's name for it."""
    return Kernel(*blocks, threads=threads, cluster=cluster_dims, prelude=prelude)


_INTEGERS = "extents of grids are integers: T.ceildiv(N, 64)"


def _extent(block: Any) -> Value:
    if isinstance(block, bool) or not (isinstance(block, Operand) or is_number(block)):
        raise LanguageError("TLC0118", f"{block!r} is no extent of a grid", hint=_INTEGERS)
    value = value_of(block)
    if not element_dtype(value).is_integer:
        raise LanguageError(
            "TLC0118", f"an extent of a grid is a {element_dtype(value)}", hint=_INTEGERS
        )
    if is_number(block) and not 0 <= block < 2**31:
        raise LanguageError(
            "TLC0118",
            f"a grid has an extent of {block}",
            hint="an extent is 0 or more: T.ceildiv(M, block) blocks cover M rows"
            if block < 0
            else "an extent is below 2^31: give each block more of the work",
        )
    if is_wide(value):  # launchers refuse what 32 bits do not hold; below 0 there are no blocks
        value = value_of(most(wrap(current("a grid"), convert(value, i64)), 0))
    return convert(value, i32)


def _threads(threads: Any) -> tuple[int, ...]:
    """The extents of a block's threads, one to three."""
    extents = (128,) if threads is None else threads
    extents = tuple(extents) if isinstance(extents, tuple | list) else (extents,)
    if not 1 <= len(extents) <= 3:
        raise LanguageError(
            "TLC0118", f"threads={extents}: a block has 1 to 3 dimensions", hint="threads=(x, y, z)"
        )
    for extent in extents:
        if isinstance(extent, bool) or not isinstance(extent, int | np.integer):
            raise LanguageError(
                "TLC0118",
                f"threads={threads!r} is no compile-time int",
                hint="make it a number, or a compile-time parameter of the kernel",
            )
    if not all(n >= 1 for n in extents) or math.prod(extents) > _MAX_THREADS:
        raise LanguageError(
            "TLC0118",
            f"threads={threads}: a block has 1 to {_MAX_THREADS}",
            hint="use fewer threads, each with more of the tile"
            if max(extents) > 1
            else "e.g. 128",
        )
    return tuple(int(n) for n in extents)


def _stream_k(asked: Any) -> int | None:
    """How many blocks share the last wave, as a launch says it."""
    if asked is None:
        return None
    if isinstance(asked, bool):
        return WHOLE_GPU if asked else 0
    if not isinstance(asked, int) or asked < 0:
        raise LanguageError(
            "TLC0118",
            f"stream_k={asked!r} is no compile-time number of blocks, nor True, False or None",
            hint="stream_k=True: as many blocks as the GPU has multiprocessors",
        )
    return asked


def _cluster(cluster: Any, dimensions: int) -> tuple[int, ...] | None:
    """The extents of a cluster along the three dimensions of a grid; None if it is left open."""
    if cluster is None:
        return None
    extents = tuple(cluster) if isinstance(cluster, tuple | list) else (cluster,)
    for extent in extents:
        if isinstance(extent, bool) or not isinstance(extent, int | np.integer):
            raise LanguageError(
                "TLC0118",
                f"cluster={cluster!r} is no compile-time int, nor a tuple of them",
                hint="cluster=(2, 1): two neighbouring blocks along the grid's first dimension",
            )
    problem = cluster_problem(extents, dimensions)
    if problem:
        raise LanguageError("TLC0118", f"cluster={cluster}: {problem}", hint="e.g. cluster=(2, 1)")
    return (*map(int, extents), *(1,) * (3 - len(extents)))


def use_swizzle(panel_size: int, order: str = "row", enable: bool = True) -> None:
    """Runs the blocks of the grid in panels of `panel_size` rows (or columns), for the L2 cache."""
    trace = current("T.use_swizzle")
    launch = trace.need_launch("T.use_swizzle")
    if order not in ("row", "column"):
        raise refuse("TLC0118", f"T.use_swizzle knows no order {order!r}", hint="row or column")
    if isinstance(panel_size, bool) or not isinstance(panel_size, int) or panel_size < 1:
        raise refuse(
            "TLC0118",
            f"T.use_swizzle with panels of {panel_size!r}",
            hint="a panel is 1 or more rows of blocks: T.use_swizzle(10)",
        )
    if flag("T.use_swizzle", "enable", enable):
        launch.panel, launch.order = panel_size, order


class ThreadBinding(Operand):
    """T.thread_binding: as a value the thread's index, as a loop its one trip for each thread."""

    __slots__ = ("covers", "start", "stop", "value")

    def __init__(self, value: Any, start: int, stop: int, covers: bool) -> None:
        self.value = value
        self.start = start
        self.stop = stop
        self.covers = covers  # whether every thread of the block has a trip

    def _value(self) -> Value:
        return value_of(self.value)


def thread_index(trace: Trace, what: str, dim: int = 0) -> Any:
    """The thread's index in a dimension of the block, one value for each region that asks."""
    launch = trace.need_launch(what)
    shape = launch.thread_shape
    if not 0 <= dim < len(shape):
        axis = _AXES[dim] if 0 <= dim < len(_AXES) else f"dimension {dim}"
        raise refuse(
            "TLC0118",
            f"there is no {axis}: the block's threads are {shape}",
            hint="T.Kernel(..., threads=(x, y, z)) gives them more dimensions",
        )
    if trace.inside("parallel"):
        raise refuse(
            "TLC0120",
            f"{what} in T.Parallel, whose iterations belong to no thread that one could name",
            hint="use the nest's own indices, or write the loop for threads without T.Parallel",
        )
    with trace.here():
        number: Any = Expr(trace.builder.emit(ThreadId()).result, trace.region)
    below = math.prod(shape[:dim])
    number = number // below if below > 1 else number
    return number % shape[dim] if math.prod(shape[dim + 1 :]) > 1 else number


def thread_binding(
    start: Any, stop: Any = None, thread: str = "threadIdx.x", *, annotations: Any = None
) -> ThreadBinding:
    """The thread's index along an axis, start … stop - 1: a value, or the iterable of a `for`.

    Raises:
        LanguageError: another axis than threadIdx.x, .y or .z, or a count above the block's
            threads along it (as a loop fewer are allowed: the others skip it).
    """
    if isinstance(stop, str):
        stop, thread = None, stop
    trace = current("T.thread_binding")
    launch = trace.need_launch("T.thread_binding")
    if annotations:
        raise refuse("TLC0122", "T.thread_binding takes no annotations", hint="leave them out")
    if thread not in _AXES:
        hint = (
            "T.Kernel gives the block's indices"
            if thread.startswith("blockIdx")
            else "threads are threadIdx.x, threadIdx.y or threadIdx.z"
        )
        raise refuse("TLC0118", f"T.thread_binding of {thread!r}, not of a threadIdx", hint=hint)
    if stop is None:
        start, stop = 0, start
    if not (isinstance(start, int) and isinstance(stop, int)) or stop <= start:
        raise refuse(
            "TLC0118",
            "T.thread_binding takes compile-time bounds, start below stop",
            hint="T.thread_binding(128), or (start, stop)",
        )
    dim = _AXES.index(thread)
    index = thread_index(trace, "T.thread_binding", dim)
    extent = launch.thread_shape[dim]
    if stop - start > extent:
        raise refuse(
            "TLC0118",
            f"T.thread_binding of {stop - start} threads: the block has {extent}",
            hint=f"T.Kernel(..., threads={stop - start}), or bind {extent}",
        )
    return ThreadBinding(index + start if start else index, start, stop, stop - start == extent)


def get_thread_binding(dim: int = 0) -> Any:
    """The thread's index in a dimension of the block."""
    return thread_index(current("T.get_thread_binding"), "T.get_thread_binding", dim)


def get_thread_bindings() -> tuple[Any, ...]:
    """The thread's indices in the block."""
    what = "T.get_thread_bindings"
    trace = current(what)
    count = len(trace.need_launch(what).thread_shape)
    return tuple(thread_index(trace, what, dim) for dim in range(count))


def get_block_binding(dim: int = 0) -> Any:
    """The block's index in a dimension of the grid."""
    launch = current("T.get_block_binding").need_launch("T.get_block_binding")
    blocks = launch.bindings["blocks"]
    if not 0 <= dim < len(blocks):
        raise refuse(
            "TLC0118",
            f"the grid has {len(blocks)} dimensions, not a dimension {dim}",
            hint="dimensions count from 0",
        )
    return blocks[dim]


def get_block_bindings() -> tuple[Any, ...]:
    """The block's indices in the grid."""
    launch = current("T.get_block_bindings").need_launch("T.get_block_bindings")
    return tuple(launch.bindings["blocks"])


def get_block_extent(dim: int = 0) -> Any:
    """The grid's extent in a dimension."""
    return _grid("T.get_block_extent", dim)


def get_block_extents() -> tuple[Any, ...]:
    """The grid's extents."""
    launch = current("T.get_block_extents").need_launch("T.get_block_extents")
    return tuple(_grid("T.get_block_extents", d) for d in range(len(launch.bindings["grid"])))


def _grid(what: str, dim: int) -> Any:
    trace = current(what)
    grid = trace.need_launch(what).bindings["grid"]
    if not 0 <= dim < len(grid):
        raise refuse(
            "TLC0118",
            f"the grid has {len(grid)} dimensions, not a dimension {dim}",
            hint="dimensions count from 0",
        )
    return wrap(trace, grid[dim]._value())


def get_thread_extent(dim: int = 0) -> int:
    """The program's threads in a block, along a dimension."""
    launch = current("T.get_thread_extent").need_launch("T.get_thread_extent")
    shape = launch.thread_shape
    return shape[dim] if 0 <= dim < len(shape) else 1


def get_thread_extents() -> tuple[int, ...]:
    """The program's threads in a block, along every dimension."""
    return current("T.get_thread_extents").need_launch("T.get_thread_extents").thread_shape
