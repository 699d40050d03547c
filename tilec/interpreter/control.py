"""Structure: launches, loops, conditions, thread-level regions, parallel nests."""

from __future__ import annotations

import math
import sys
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..ir.core import Block, Op, Value, walk
from ..ir.ops.control import (
    Assume,
    Define,
    DeviceAssert,
    For,
    HardwareBlock,
    If,
    Launch,
    Parallel,
    Print,
    Role,
    Simt,
    Symbol,
    ThreadId,
    WarpUniform,
    While,
)
from ..ir.ops.memory import Alloc, Atomic, Flatten, Slot, View, memory_type
from ..ir.ops.thread import MemoryFence
from ..ir.types import MemoryType, ScalarType, Space
from .blocks import BlockOrder, run_together
from .clocks import Clocks
from .frame import ONE_VALUE, Frame, Pair, Place, Waiting
from .lanes import Lanes
from .mbarriers import check_idle, check_landed, new_mbarriers
from .memory import Memory, Storage, smallest_elements, undefined
from .numbers import Bits
from .roles import finish
from .written import memories, settle, written_by

Steps = Generator[Waiting, None, None]


def run_launch(frame: Frame, op: Op) -> None:
    """Every block of the grid once, in a seeded random order."""
    assert isinstance(op, Launch)
    run = frame.run
    grid = [frame.number(v, "the grid") for v in op.grid]
    grid = grid + [1] * (3 - len(grid))
    run.roles = tuple(r for r in walk(op.body) if isinstance(r, Role))
    count = int(np.prod(grid, dtype=np.int64)) if min(grid) > 0 else 0
    run.order = BlockOrder(count) if _blocks_meet(op) else None
    run.smallest = smallest_elements(op.body)
    settle(frame, op.body)
    launch = run.next_episode()
    if op.in_turn and count:  # a few blocks that take the grid's: they number themselves
        clusters = math.prod(-(-g // n) for g, n in zip(grid, op.cluster, strict=True))
        count = op.cluster_blocks * int(run.random.integers(1, min(clusters, 8) + 1))
        grid = [count, 1, 1]

    def begin(number: int) -> tuple[Frame, Generator[Waiting, None, Any]]:
        bx, rest = number % grid[0], number // grid[0]
        index = (bx, rest % grid[1], rest // grid[1])
        inner = Frame(run)
        inner.env = frame.env if run.order is None else dict(frame.env)
        inner.threads, inner.launch = op.threads, launch
        inner.place = Place(index, number, count)
        for param, i in zip(op.body.params, index, strict=False):
            inner.define(param, run.lasting.scalar(np.int32, i))
        run.mbarriers = []
        return inner, inner.execute(op.body)

    def end(inner: Frame) -> None:
        check_idle(inner)
        check_landed(inner)

    numbers = run.random.permutation(count).tolist()
    if run.order is not None:
        run_together(frame, begin, end, numbers)
        return
    for number in numbers:
        inner, steps = begin(number)
        finish(inner, steps)
        end(inner)


def _blocks_meet(launch: Launch) -> bool:
    """Whether an atomic tells a block what others have done, or orders what they do."""
    return any(
        isinstance(op, MemoryFence)
        or isinstance(op, Atomic)
        and memory_type(op.memory).space is Space.GLOBAL
        and (bool(op.results) or op.order != "relaxed")
        for op in walk(launch.body)
    )


# Loops and conditions -------------------------------------------------------------------------


def run_if(frame: Frame, op: Op) -> Steps:
    """One region; where lanes differ both, each for its lanes."""
    assert isinstance(op, If)
    condition, bad = frame.pair(op.condition)
    frame.arrive(bad, "a condition")
    if condition.ndim == 0:
        pairs = yield from frame.execute(op.then if condition else op.orelse)
        frame.define_all(op.results, pairs)
        return
    outer = _diverge(frame, op)
    yes = condition if outer is None else condition & outer
    no = ~condition if outer is None else ~condition & outer
    arms: list[list[Pair] | None] = []
    for mask, block in ((yes, op.then), (no, op.orelse)):
        frame.mask = mask
        arms.append((yield from frame.execute(block)) if mask.any() else None)
    frame.mask = outer
    then, orelse = arms
    if then is None or orelse is None:
        frame.define_all(op.results, then if then is not None else orelse or ())
        return
    frame.define_all(op.results, _merge(condition, then, orelse))


def _diverge(frame: Frame, op: Op) -> Bits | None:
    """Enters code that only some lanes run; gives the mask so far. From here on threads run in no
    order.
    """
    if frame.lanes is None:
        frame.op = op
        raise frame.fault(
            "TLC0746",
            f"the condition of this {op.name} differs between threads here",
            hint=ONE_VALUE,
        )
    if frame.mask is None and frame.lanes.kind == "thread":
        frame.run.next_episode()
    return frame.mask


def _merge(mask: Bits, new: Sequence[Pair], old: Sequence[Pair]) -> list[Pair]:
    """`new` in the lanes of the mask, `old` in the others."""
    found: list[Pair] = []
    for (a, bad_a), (b, bad_b) in zip(new, old, strict=True):
        if a is b and bad_a is bad_b:
            found.append((a, bad_a))
            continue
        bad: Any = None
        if bad_a is not None or bad_b is not None:
            no = np.False_
            bad = np.where(mask, no if bad_a is None else bad_a, no if bad_b is None else bad_b)
        found.append((np.where(mask, a, b), bad))
    return found


def run_for(frame: Frame, op: Op) -> Steps:
    """The loop; where lanes have bounds of their own, for as long as any lane is in it."""
    assert isinstance(op, For)
    bounds = [frame.value(v) for v in (op.start, op.stop, op.step)]
    for v in (op.start, op.stop, op.step):
        frame.arrive(frame.shadow.get(v), "a loop bound")
    carried = [frame.pair(v) for v in op.inits]
    index, params = op.body.params[0], op.body.params[1:]
    assert isinstance(index.type, ScalarType)
    number_type = index.type.dtype.numpy.type
    if np.any(np.less_equal(bounds[2], 0)):
        raise frame.fault(
            "TLC0750",
            "the step of a loop is not positive",
            hint="a step that counts down is a number; T.assume says what is known",
        )
    if not any(b.ndim for b in bounds):
        for i in range(*(int(b) for b in bounds)):
            frame.define(index, frame.run.lasting.scalar(number_type, i))
            frame.define_all(params, carried)
            carried = yield from frame.execute(op.body)
        frame.define_all(op.results, carried)
        return
    outer = _diverge(frame, op)
    trips = _trips(*bounds)
    trips = trips if outer is None else np.where(outer, trips, 0)
    here = bounds[0] + np.zeros_like(bounds[1])
    for number in range(int(trips.max(initial=0))):
        frame.mask = mask = number < trips
        frame.define(index, here)
        frame.define_all(params, carried)
        carried = _merge(mask, (yield from frame.execute(op.body)), carried)
        here = here + bounds[2]  # of lanes that are done any number
    frame.mask = outer
    frame.define_all(op.results, carried)


def _trips(start: Any, stop: Any, step: Any) -> Any:
    """How often each lane comes to the body: the index of the last time plus the step may be no number of
    its type.
    """
    with np.errstate(over="ignore"):
        apart = stop.astype(np.uint64) - start.astype(np.uint64) - np.uint64(1)
    return np.where(start < stop, apart // step.astype(np.uint64) + np.uint64(1), np.uint64(0))


def run_while(frame: Frame, op: Op) -> Steps:
    """The loop, for as long as the condition holds in any lane."""
    assert isinstance(op, While)
    carried = [frame.pair(v) for v in op.inits]
    outer, diverged = frame.mask, False
    while True:
        frame.define_all(op.condition.params, carried)
        ((condition, bad),) = yield from frame.execute(op.condition)
        frame.arrive(bad, "a condition")
        if condition.ndim and not diverged:
            _diverge(frame, op)
            diverged = True
        if diverged:
            condition = condition if frame.mask is None else condition & frame.mask
            if not np.any(condition):
                break
            frame.mask = condition
        elif not condition:
            break
        frame.define_all(op.body.params, carried)
        after = yield from frame.execute(op.body)
        carried = _merge(condition, after, carried) if diverged else after
    frame.mask = outer
    frame.define_all(op.results, carried)


# Lanes ----------------------------------------------------------------------------------------


def run_simt(frame: Frame, op: Op) -> Steps:
    """The threads of the block as an array axis. Under uniform control each op is done by all
    before the next.
    """
    assert isinstance(op, Simt)
    if frame.lanes is not None:
        raise frame.fault(
            "TLC0748",
            f"simt is code of the whole block, and stands in one {frame.lanes.kind}'s code",
        )
    frame.lanes = Lanes("thread", (op.threads,))
    frame.meet()
    frame.written = frozenset(
        m.storage.identity
        for m in memories(frame, written_by(frame, op.body))
        if m.space is Space.GLOBAL
    )
    for param in op.body.params[:1]:
        frame.run.lasting.keep(frame.lanes.indices()[0])
        frame.define(param, frame.lanes.indices()[0])
    yield from frame.execute(op.body)
    frame.lanes = frame.written = None


def run_parallel(frame: Frame, op: Op) -> Steps:
    """All iterations at once, as array axes; they have no order between them."""
    assert isinstance(op, Parallel)
    outer = frame.lanes
    if outer is not None and outer.kind == "thread":
        raise frame.fault(
            "TLC0748", "a parallel nest is code of the whole block, and stands in one thread's code"
        )
    extents = op.extents if outer is None else (*op.extents, *outer.shape)
    lanes = frame.lanes = Lanes("iteration", tuple(int(n) for n in extents))
    before = frame.written
    if outer is None:
        frame.run.next_episode()
    depth = len(op.extents)
    for param, index in zip(op.body.params, lanes.indices()[:depth], strict=False):
        frame.run.lasting.keep(index)
        frame.define(param, index)
    updates = _bind_tiles(frame, op, op.body.params[depth:])
    scratch = _own_scratch(frame, op.body) if outer is None else {}
    if outer is None:
        frame.written = frozenset(
            m.storage.identity for m in memories(frame, written_by(frame, op.body))
        )
    if lanes.count:
        yield from frame.execute(op.body)
    frame.lanes, frame.written = outer, before
    for v, memory in scratch.items():
        memory.storage.forget()
        frame.env[v] = memory
    for result, update in zip(op.results, updates, strict=True):
        poison = update.storage.poison
        frame.define(
            result, update.storage.data, poison if poison is not None and poison.any() else None
        )


def _bind_tiles(frame: Frame, op: Parallel, params: tuple[Value, ...]) -> list[Memory]:
    """The tiles that the body reads and updates as fragments; gives those it updates."""
    memories: list[Memory] = []
    for v, param in zip((*op.reads, *op.updates), params, strict=True):
        assert isinstance(param.type, MemoryType)
        data, bad = frame.tile(v), frame.shadow.get(v)
        poison = None if bad is None else np.array(np.broadcast_to(bad, data.shape))
        storage = Storage(np.array(data) if len(memories) >= len(op.reads) else data, poison)
        memories.append(
            Memory(param.hint or v.hint or "tile", param.type.dtype, Space.FRAGMENT, storage)
        )
        frame.define(param, memories[-1])
    return memories[len(op.reads) :]


def _own_scratch(frame: Frame, body: Block) -> dict[Value, Memory]:
    """Gives every iteration its own copy of the thread-private memory that the nest writes.

    Which thread runs an iteration is not stated, so what the copy holds at first is undefined, and
    what the memory holds afterwards too.
    """
    found: dict[Value, Memory] = {}
    for v in written_by(frame, body):
        memory = frame.env.get(v)
        if isinstance(memory, Memory) and memory.storage.lanes:
            assert frame.lanes is not None
            found[v] = memory
            storage = undefined(memory.shape, memory.dtype, frame.lanes.shape)
            frame.env[v] = Memory(memory.name, memory.dtype, memory.space, storage)
    return found


# Leaves ---------------------------------------------------------------------------------------


def run_alloc(frame: Frame, op: Op) -> None:
    """Memory with undefined contents; private memory has a copy for each thread, or for each
    iteration.
    """
    assert isinstance(op, Alloc)
    type_ = op.type
    shape = tuple(frame.run.symbols[d] if isinstance(d, str) else d for d in type_.shape)
    lanes: tuple[int, ...] = ()
    if type_.space is Space.LOCAL:
        lanes = frame.lanes.shape if frame.lanes is not None else (frame.threads,)
    if op.arrivals:
        frame.define(op.result, new_mbarriers(frame, op))
        return
    parts = type_.dtype.bits // frame.run.smallest.get(op.result, type_.dtype.bits)
    storage = undefined(shape, type_.dtype, lanes, parts)
    if type_.space is Space.SHARED and frame.run.roles:
        storage.clocks = Clocks(shape)
    memory = Memory(op.result.hint or type_.space.value, type_.dtype, type_.space, storage)
    frame.define(op.result, memory)
    if type_.space is Space.GLOBAL:
        frame.run.globals_[op.result] = memory


def run_slot(frame: Frame, op: Op) -> None:
    assert isinstance(op, Slot)
    ring = frame.memory(op.ring)
    number = frame.number(op.index, f"a slot of {ring.name!r}")
    if not 0 <= number < ring.shape[0]:
        raise frame.fault(
            "TLC0741", f"slot {number} of {ring.name!r} is not one of its {ring.shape[0]}"
        )
    storage = ring.storage.view((number,))
    if ring.storage.clocks is not None:
        storage.clocks = ring.storage.clocks.part(number)
    frame.define(op.result, Memory(ring.name, ring.dtype, ring.space, storage, ring.guard))


def run_flatten(frame: Frame, op: Op) -> None:
    assert isinstance(op, Flatten)
    memory = frame.memory(op.memory)
    type_ = op.memory.type
    if isinstance(type_, MemoryType) and type_.layout is not None:
        raise frame.fault(
            "TLC0740",
            f"{memory.name!r} is flattened in the order of a layout, which the tile level has not",
        )
    frame.define(
        op.result,
        Memory(memory.name, memory.dtype, memory.space, memory.storage.flat(), memory.guard),
    )


def run_view(frame: Frame, op: Op) -> None:
    assert isinstance(op, View)
    memory = frame.memory(op.memory)
    storage = memory.storage.reshaped(op.shape, op.dtype)
    frame.define(op.result, Memory(memory.name, op.dtype, memory.space, storage))


def run_assume(frame: Frame, op: Op) -> None:
    assert isinstance(op, Assume)
    _require(frame, op.condition, "TLC0765", "what T.assume says does not hold")


def run_assert(frame: Frame, op: Op) -> None:
    assert isinstance(op, DeviceAssert)
    _require(frame, op.condition, "TLC0764", op.message or "T.device_assert failed")


def run_print(frame: Frame, op: Op) -> None:
    """A line for each active lane, in the order of their numbers."""
    assert isinstance(op, Print)
    lanes = frame.lanes.shape if frame.lanes is not None else ()
    parts = [np.broadcast_to(frame.value(v), lanes).reshape(-1) for v in op.values]
    active = np.broadcast_to(True if frame.mask is None else frame.mask, lanes).reshape(-1)
    for number in np.flatnonzero(active):
        who = f", {frame.lanes.describe(int(number))}" if frame.lanes is not None else ""
        place = f"[{parts[1][number]}]" if len(parts) > 1 else ""
        value = (
            f" {float(parts[0][number]):g}"
            if parts and parts[0].dtype.kind not in "iub"
            else (f" {int(parts[0][number])}" if parts else "")
        )
        print(f"{op.message}{place}{value} ({frame.place}{who})", file=sys.stderr)


def _require(frame: Frame, value: Value, code: str, message: str) -> None:
    """Raises where a condition does not hold in an active lane."""
    condition, bad = frame.pair(value)
    frame.arrive(bad, "a condition")
    wrong = ~condition if frame.mask is None else ~condition & frame.mask
    if not np.any(wrong):
        return
    where = ""
    if frame.lanes is not None and np.ndim(wrong):
        full = np.broadcast_to(wrong, frame.lanes.shape)
        where = f", in {frame.lanes.describe(int(np.flatnonzero(full)[0]))}"
    raise frame.fault(code, message + where)


def run_symbol(frame: Frame, op: Op) -> None:
    assert isinstance(op, Symbol)
    if op.label not in frame.run.symbols:
        raise frame.fault("TLC0732", f"symbol {op.label!r} has no value")
    frame.define(op.result, op.dtype.numpy.type(frame.run.symbols[op.label]))


def run_define(frame: Frame, op: Op) -> None:
    """An extent of memory that the program allocates."""
    assert isinstance(op, Define)
    value = frame.number(op.value, f"the extent {op.label}")
    bound = frame.run.symbols.get(op.label, value)  # by an array of the caller's
    if value < 0 or bound != value:
        raise frame.fault(
            "TLC0732", f"the extent {op.label} is {value}, and that of an array {bound}"
        )
    frame.run.symbols[op.label] = value


def run_thread_id(frame: Frame, op: Op) -> None:
    assert isinstance(op, ThreadId)
    lanes = frame.lanes
    if lanes is not None and lanes.kind == "iteration":
        raise frame.fault("TLC0746", "which thread runs an iteration is not stated")
    threads = lanes.indices()[0] if lanes is not None else np.arange(frame.threads, dtype=np.int32)
    frame.define(op.result, threads + np.int32(frame.first_thread) if op.launched else threads)


def run_warp_uniform(frame: Frame, op: Op) -> None:
    assert isinstance(op, WarpUniform)
    frame.define(op.result, *frame.pair(op.x))


def run_hardware_block(frame: Frame, op: Op) -> None:
    assert isinstance(op, HardwareBlock)
    place = frame.place
    assert place is not None
    frame.define(op.result, np.int32(place.count if op.count else place.number))
