"""Structure: loops, conditions, launches, roles, and the values that the machine gives (indices,
symbols).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import PurePath

from ...errors import TypeMismatch
from ..core import Block, Level, Op, Program, Value, attribute, operand, operands, region
from ..dtypes import DType, bool_, i32
from ..layout.register import RegisterLayout
from ..types import MemoryType, ScalarType, Space, Type

PORTABLE_CLUSTER = 8  # most blocks of a cluster that every part of an architecture runs
NO_CLUSTER = (1, 1, 1)
"""The extents of a cluster of one block, which is none."""


def _types(values: tuple[Value, ...]) -> tuple[Type, ...]:
    return tuple(v.type for v in values)


class Yield(Op, name="yield", terminator=True):
    """Ends a region and gives its values to the op that owns it."""

    values: tuple[Value, ...] = operands()


class For(Op, name="for"):
    """Runs `body(index, *carried)` for index = start, start + step, ... below stop.

    The body yields the next carried values; the results are the last ones (`inits` where it never
    ran). `kind` is "serial", "unroll", "vectorized" or "pipelined" (with `stages`, the user's
    num_stages); `unroll` is what the printed loop states: 0 full, 1 not, n by n. `entered` says that
    start is below stop: the text says so too, for compilers that cannot find out.
    """

    start: Value = operand()
    stop: Value = operand()
    step: Value = operand()
    inits: tuple[Value, ...] = operands()
    body: Block = region()
    kind: str = attribute(default="serial")
    stages: int = attribute(default=0)
    unroll: int = attribute(default=1)
    entered: bool = attribute(default=False)

    def infer(self) -> tuple[Type, ...]:
        for value in (self.start, self.stop, self.step):
            if not (isinstance(value.type, ScalarType) and value.type.dtype.is_integer):
                raise TypeMismatch("TLC0220", f"a loop bound is a {value.type}, not an integer")
        if len(self.body.params) != 1 + len(self.inits):
            raise TypeMismatch("TLC0221", "a loop's body takes its index and the carried values")
        return tuple(p.type for p in self.body.params[1:])


class While(Op, name="while"):
    """Runs `body` as long as `condition` (a region that yields a bool) holds."""

    inits: tuple[Value, ...] = operands()
    condition: Block = region()
    body: Block = region()

    def infer(self) -> tuple[Type, ...]:
        return _types(self.inits)


class If(Op, name="if"):
    """Runs one of two regions; the results are what it yields."""

    condition: Value = operand()
    then: Block = region()
    orelse: Block = region()

    def infer(self) -> tuple[Type, ...]:
        _check_condition(self.condition)
        end = self.then.terminator
        return _types(end.inputs) if end is not None else ()


WHOLE_GPU = -1
"""As many blocks as there are multiprocessors,"""
IF_POSSIBLE = -2
"""and so many if the launch can be shared, else as it is."""


class Launch(Op, name="launch"):
    """One kernel: `body(bx, by, bz)` for every block of `grid` (three integers), by `threads`
    program threads.

    Fewer blocks than the grid may run, each several logical blocks `in_turn`, where `persistent`
    allows it (None: where the compiler finds that it pays): `resident` for each multiprocessor at
    most. `resident` is how many a multiprocessor is to hold at the same time, which decides their
    registers (0: whatever fits). `raster` (panel > 0) groups the logical blocks in panels of that
    many rows ("row") or columns ("column"). `explicit`: the program itself says who does what and
    when, by roles, barriers or asynchronous copies, so that nothing is pipelined, made persistent
    or given roles. `cluster`: the extents along the grid of the groups of neighbouring blocks that run at the same
    time and may reach each other's shared memory; what the blocks mean stays the same, and the grid
    need be no multiple of it; extents of 1 are none, and left to who makes the call unless the blocks are
    to stay `alone`. `cooperative`: the machine runs all blocks at the same time, or refuses
    the launch. `stream_k`: so many blocks take the grid's in turn, and share the last of them; WHOLE_GPU
    and IF_POSSIBLE as many as there are multiprocessors, 0 never (None: left to who makes the call).
    `launched_threads` is what the hardware gets, set by assign_roles;
    `shared_bytes` by plan_shared.
    """

    grid: tuple[Value, ...] = operands()
    body: Block = region()
    threads: int = attribute()
    symbol: str = attribute(default="kernel")
    persistent: bool | None = attribute(default=None)
    in_turn: bool = attribute(default=False)
    resident: int = attribute(default=0)
    panel: int = attribute(default=0)
    order: str = attribute(default="row")
    explicit: bool = attribute(default=False)
    cluster: tuple[int, ...] = attribute(default=NO_CLUSTER)
    alone: bool = attribute(default=False)
    cooperative: bool = attribute(default=False)
    stream_k: int | None = attribute(default=None)
    launched_threads: int = attribute(default=0)
    shared_bytes: int = attribute(default=0)

    @property
    def cluster_blocks(self) -> int:
        """Blocks of a cluster."""
        return math.prod(self.cluster)

    def infer(self) -> tuple[Type, ...]:
        problem = cluster_problem(self.cluster, len(self.grid))
        if problem:
            extents = " x ".join(map(str, self.cluster))
            raise TypeMismatch("TLC0225", f"a launch in clusters of {extents} blocks: {problem}")
        return ()


def cluster_problem(extents: tuple[int, ...], dimensions: int) -> str:
    """What is wrong with the extents of a cluster of a grid; nothing where every machine with
    clusters runs it (CUDA Programming Guide, "Thread Block Clusters").
    """
    if any(n != 1 for n in extents[dimensions:]):
        return f"the grid has {dimensions} dimensions"
    if min(extents, default=0) < 1:
        return "an extent is 1 or more"
    if math.prod(extents) > PORTABLE_CLUSTER:
        return f"a cluster has at most {PORTABLE_CLUSTER} blocks"
    return ""


def map_launches(
    program: Program, rewrite: Callable[[Launch], Op], level: Level | None = None
) -> Program:
    """`program` with every launch rewritten, at `level` where one is given; itself where nothing
    changes."""
    ops = [rewrite(op) if isinstance(op, Launch) else op for op in program.body.ops]
    body = program.body.with_ops(ops)
    return program if level is None and body is program.body else program.with_body(body, level)


class Role(Op, name="role"):
    """A part of the block's threads with a program of its own: [first_thread, first_thread +
    threads).

    Roles stand side by side at the end of a launch's body. `registers` > 0 asks setmaxnreg for that
    many a thread. `barrier` is the hardware barrier on which the role's threads meet (0: the whole
    block's).
    """

    body: Block = region()
    label: str = attribute()
    first_thread: int = attribute()
    threads: int = attribute()
    registers: int = attribute(default=0)
    barrier: int = attribute(default=0)


class Symbol(Op, name="symbol", pure=True):
    """The run-time value of a symbol (an extent of a tensor)."""

    label: str = attribute()
    dtype: DType = attribute(default=i32)

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(self.dtype),)


class Define(Op, name="define"):
    """Gives a symbol its value: the extent of memory that the program allocates, computed before
    its launches from what the caller passes.
    """

    value: Value = operand()
    label: str = attribute()

    def infer(self) -> tuple[Type, ...]:
        if not (isinstance(self.value.type, ScalarType) and self.value.type.dtype.is_integer):
            raise TypeMismatch("TLC0223", f"an extent is a {self.value.type}, not an integer")
        return ()


class Return(Op, name="return", terminator=True):
    """Ends a program: the global memory, allocated by it, that the call gives to its caller."""

    values: tuple[Value, ...] = operands()

    def infer(self) -> tuple[Type, ...]:
        for value in self.values:
            if not (isinstance(value.type, MemoryType) and value.type.space is Space.GLOBAL):
                raise TypeMismatch("TLC0224", f"a program returns global memory, not {value.type}")
        return ()


class ThreadId(Op, name="thread_id", pure=True):
    """This thread's number in its role (program threads), or with `launched` in the whole launched
    block.
    """

    launched: bool = attribute(default=False)

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(i32),)


class HardwareBlock(Op, name="hardware_block", pure=True):
    """The launched block's index in dimension 0, and with `count` the number of launched blocks."""

    count: bool = attribute(default=False)

    def infer(self) -> tuple[Type, ...]:
        return (ScalarType(i32),)


class WarpUniform(Op, name="warp_uniform", pure=True):
    """x, which has the same value in all threads of a warp, told to be so."""

    x: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (self.x.type,)


class Assume(Op, name="assume"):
    """`condition` holds here: a fact about indices, which the interpreter checks. No code."""

    condition: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        _check_condition(self.condition)
        return ()


class DeviceAssert(Op, name="device_assert"):
    """The program stops, with `message` and its place, in a thread where `condition` is false."""

    condition: Value = operand()
    message: str = attribute(default="")

    @property
    def text(self) -> str:
        """The call of the prelude that does it."""
        return "device_assert({condition}, {told}, {file}, {line})"

    @property
    def told(self) -> str:
        """What it says, as a literal of C."""
        return c_string(self.message or "device_assert")

    @property
    def file(self) -> str:
        """The user's file, likewise: no folders, so that builds are alike everywhere."""
        return c_string(PurePath(self.loc.file).name if self.loc.known else "")

    @property
    def line(self) -> int:
        """The user's line."""
        return self.loc.line if self.loc.known else 0

    def infer(self) -> tuple[Type, ...]:
        _check_condition(self.condition)
        return ()


class Print(Op, name="print"):
    """Writes a line: `message`, and a scalar with, for an element of a buffer, its number there."""

    values: tuple[Value, ...] = operands(default=())
    message: str = attribute(default="")

    @property
    def text(self) -> str:
        """The call of the prelude that does it."""
        return "print_value({told}{, values})"

    @property
    def told(self) -> str:
        """The message as a literal of C."""
        return c_string(self.message)


def _check_condition(value: Value) -> None:
    if value.type != ScalarType(bool_):
        raise TypeMismatch("TLC0222", f"a condition is a {value.type}, not a bool")


def c_string(text: str) -> str:
    """A literal of C with the UTF-8 bytes of `text`: all but letters, digits and some signs as
    octal numbers.
    """
    plain = frozenset(b" !#$&'()*+,-./:;<=>@[]^_`{|}~")
    return (
        '"'
        + "".join(
            chr(b) if chr(b).isalnum() and b < 128 or b in plain else f"\\{b:03o}"
            for b in text.encode()
        )
        + '"'
    )


class Simt(Op, name="simt", level=Level.TILE):
    """Thread-level code within tile-level code: `body(t)` for every program thread t, one op to the
    planner.
    """

    body: Block = region()
    threads: int = attribute()


class Parallel(Op, name="parallel", level=Level.TILE):
    """`body(*indices, *tiles)` once for every index in `extents`, in any order, by some thread
    each.

    After promote_fragments, `reads` and `updates` are the tiles that the body loads and stores; the
    body's parameters after the indices are fragment handles for them, and the results are the
    updated tiles.

    `instruction` is how a nest that only gathers is done (passes/gathers.py): "" by loads and stores,
    "cp_async" by asynchronous copies, of `run` iterations along the last index each.
    """

    reads: tuple[Value, ...] = operands()
    updates: tuple[Value, ...] = operands()
    body: Block = region()
    extents: tuple[int, ...] = attribute()
    layout: RegisterLayout | None = attribute(default=None)  # which thread runs which iteration
    instruction: str = attribute(default="")
    run: int = attribute(default=1)

    def infer(self) -> tuple[Type, ...]:
        return _types(self.updates)


OPS: tuple[type[Op], ...] = (
    Yield, For, While, If, Launch, Role, Symbol, Define, Return, ThreadId, HardwareBlock,
    WarpUniform, Assume, DeviceAssert, Print, Simt, Parallel,
)  # fmt: skip
