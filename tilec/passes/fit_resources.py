"""Slots of channels, staging buffers and registers of roles, so that the launch fits its machine.

Needs: roles assigned, loads split. Leaves: channels with as many slots as shared memory holds
(never more than the program asked for), each role's register budget, and how many blocks are
resident on a multiprocessor. Stores go through narrower slabs where that saves a slot, and tiles for
which registers are short are loaded by the nests that read them (late_loads). What had to fall is a
remark. Raises OutOfResources where even with one slot each the buffers of one statement are too much.
Those whose lives are apart may share a place, and conversions of layouts take some: plan_shared has
the last word, and where it refuses, run_pipeline begins again with a slot less.

    %ca = channel : channel<4> shared f16[128, 64]
      ->  %ca = channel : channel<3> shared f16[128, 64]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from ..errors import OutOfResources
from ..ir.core import Block, Op, Program, Value, walk
from ..ir.ops.control import If, Launch, Role, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.nvidia import WARPGROUP
from ..ir.ops.pipeline import Channel, Put, Receive, Stage
from ..ir.ops.tile import StoreTile
from ..ir.rewrite import transform
from ..ir.types import MemoryType, TileType
from ..target import Target
from .context import PassContext, Remark
from .dependence import is_shared, used_values
from .late_loads import load_late
from .live_tiles import live_registers
from .protocols import with_slots
from .role_registers import (
    registers_at_start,
    split_registers,
    wgmma_registers,
    widest_wgmma,
)
from .schedule_stages import LOADS
from .slabs import NARROW_SLAB_BYTES, NARROWEST_SLAB_BYTES, slab_bytes
from .thread_copies import gathered_runs
from .variants import ADDRESS_REGISTERS, gemm_shape

ALIGNMENT = 1024  # of every shared buffer: the period of the widest swizzle
FULL = "TLC0510"
FEW_SLOTS = 4  # of which one is worth more than wide slabs
BARRIER_BYTES = 1024  # set aside for mbarriers
RESERVED_BYTES = 1024  # of each block, taken by the system


def fit_resources(program: Program, context: PassContext) -> Program:
    """Lowers slots until shared memory suffices, then divides registers."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    launch = _fit_slots(launch, context)
    if not launch.explicit and any(isinstance(op, Role) for op in launch.body.ops):
        launch = _budget_registers(launch, context.target)
    if not launch.explicit:
        launch = _fit_tiles(launch, context.target)
    _warn_of_spills(launch, context)
    return launch


def _fit_tiles(launch: Launch, target: Target) -> Launch:
    """The launch with tiles loaded as late as they are read, where they take registers that a thread
    needs for addresses."""
    live = live_registers(launch, target)
    if live + ADDRESS_REGISTERS <= _most_registers(launch, target):
        return launch
    late = launch.replace(body=load_late(launch.body))
    assert isinstance(late, Launch)
    return late if live_registers(late, target) < live else launch


def _most_registers(launch: Launch, target: Target) -> int:
    """The registers of a thread, or of a consumer's."""
    share = target.registers // max(launch.threads, launch.launched_threads)
    given = [op.registers for op in launch.body.ops if isinstance(op, Role)]
    return max(given, default=0) or min(target.max_registers, share)


def _warn_of_spills(launch: Launch, context: PassContext) -> None:
    """A remark where a thread has not the registers that tiles take: the vendor's compiler keeps the
    rest in memory, and may take minutes to."""
    target = context.target
    most = _most_registers(launch, target)
    needed = live_registers(launch, target)
    if needed > most:
        context.remark(
            Remark(
                "TLC0336",
                f"tiles that live together take {needed} registers of each of {launch.threads} "
                f"threads, and one has {most}: the rest is kept in memory",
                launch.loc,
                warning=True,
            )
        )


def buffer_bytes(type_: MemoryType) -> int:
    """What a shared buffer takes, up to where the next one may start."""
    return _up(own_bytes(type_))


def _up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def own_bytes(type_: MemoryType) -> int:
    """What a shared buffer takes by itself."""
    size = math.prod(int(extent) for extent in type_.shape)
    if type_.layout is not None:
        size = type_.layout.size
    return size * type_.dtype.bytes


def shared_bytes(launch: Launch) -> int:
    """Dynamic shared memory of the launch as planned: channels, buffers, staging, barriers. Without
    roles and engines those whose lives are apart share a place, as in plan_shared."""
    roles = any(isinstance(op, Role) for op in launch.body.ops)
    sizes = buffer_sizes(launch.body)
    apart = not (roles or launch.explicit) and not any(
        _runs_by_itself(op) for op in walk(launch.body)
    )
    total = live_bytes(launch.body, sizes) if apart else sum(sizes.values())
    return total + BARRIER_BYTES * roles + _staging_bytes(launch)


def buffer_sizes(body: Block, size: Callable[[MemoryType], int] = buffer_bytes) -> dict[Value, int]:
    """What each buffer and channel takes, by what its memory takes once."""
    sizes: dict[Value, int] = {}
    for op in walk(body):
        match op:
            case Alloc() if is_shared(op.result) and not op.arrivals:
                sizes[op.result] = size(memory_type(op.result))
            case Channel() if isinstance(op.type.memory, MemoryType):
                sizes[op.result] = op.type.slots * size(op.type.memory)
    return sizes


def _runs_by_itself(op: Op) -> bool:
    """Whether an engine does it, at a time that the order of statements does not tell."""
    return any(effect.proxy != "generic" for effect in op.effects())


def live_bytes(body: Block, sizes: Mapping[Value, int]) -> int:
    """What those buffers take that live at one time: each from the first to the last statement of the
    launch that uses it."""
    lives: dict[Value, tuple[int, int]] = {}
    made_of = {value: value for value in sizes}
    for number, statement in enumerate(body.ops):
        for buffer in {made_of[v]: None for v in used_values(statement) if v in made_of}:
            lives[buffer] = (lives.get(buffer, (number,))[0], number)
            handles = [v for v in statement.results if isinstance(v.type, MemoryType)]
            made_of.update(dict.fromkeys(handles, buffer))
    return max(
        (
            sum(sizes[v] for v, (first, last) in lives.items() if first <= number <= last)
            for number in range(len(body.ops))
        ),
        default=0,
    )


def _least_bytes(launch: Launch) -> int:
    """What the launch takes at least: the buffers of a statement live together, of an `if` those of the
    larger branch, of roles all."""
    sizes = buffer_sizes(launch.body, own_bytes)
    if any(isinstance(op, Role) for op in launch.body.ops):
        return sum(sizes.values())

    def together(block: Block) -> int:
        return max(map(of_statement, block.ops), default=0)

    def of_statement(op: Op) -> int:
        if isinstance(op, If):
            return max(map(together, op.regions))
        return sum(sizes.get(v, 0) for v in used_values(op))

    return together(launch.body)


def shared_memory_full(launch: Launch, needed: int, target: Target) -> OutOfResources:
    """The refusal of a launch that takes more shared memory than there is: by how much, and what
    the largest buffers take. It stands at the largest.
    """
    sizes: list[tuple[int, Op]] = []
    for op in walk(launch.body):
        match op:
            case Alloc() if is_shared(op.result):
                sizes.append((buffer_bytes(memory_type(op.result)), op))
            case Channel() if isinstance(op.type.memory, MemoryType):
                sizes.append((op.type.slots * buffer_bytes(op.type.memory), op))
    sizes.sort(key=lambda size: -size[0])
    takes = [f"{op.results[0].hint} takes {size}" for size, op in sizes[:3] if op.results[0].hint]
    loc = next((op.loc for _, op in sizes if op.loc.known), launch.loc)
    return OutOfResources(
        FULL,
        f"the kernel needs {needed} bytes of shared memory, {needed - target.shared_bytes} more than "
        f"the {target.shared_bytes} of {target.name}" + (": " if takes else "") + ", ".join(takes),
        loc=loc,
        hint="use smaller tiles",
    )


def _staging_bytes(launch: Launch) -> int:
    """The buffers of the widest slabs that TMA stores. Layouts may ask for other slabs (slabs.py),
    which are hardly ever larger."""
    slabs = [
        op.staging * _up(slab_bytes(op.tile.type.shape, op.tile.type.dtype.bits, op.slab))
        for op in _tma_stores(launch.body)
        if isinstance(op.tile.type, TileType)
    ]
    return max(slabs, default=0)


def _tma_stores(body: Block) -> Iterator[StoreTile]:
    for op in walk(body):
        if isinstance(op, StoreTile) and op.instruction == "tma":
            yield op


def _fit_slots(launch: Launch, context: PassContext) -> Launch:
    asked = {op.result: op.type.slots for op in launch.body.ops if isinstance(op, Channel)}
    through = _through_registers(launch)
    deep = [
        op
        for op in launch.body.ops
        if isinstance(op, Channel) and op.result in through and op.type.slots > 2
    ]
    # one tile in flight in registers, one being read: more slots than two never fill
    launch = with_slots(launch, {op: 2 for op in deep})
    alone = dict(_more_than_fit(launch, context.target))
    launch = with_slots(launch, alone)
    full, more = bool(alone), context.fewer_slots
    while shared_bytes(launch) > context.target.shared_bytes or more > 0:
        channels = [op for op in launch.body.ops if isinstance(op, Channel) and op.type.slots > 1]
        narrow = None if more else _narrower_stores(launch, channels, context.target)
        if narrow is not None:
            launch = narrow
            break
        if not channels:
            least = _least_bytes(launch)
            if least > context.target.shared_bytes:
                raise shared_memory_full(launch, least, context.target)
            break
        more -= shared_bytes(launch) <= context.target.shared_bytes
        full = True
        launch = with_slots(launch, {op: op.type.slots - 1 for op in _deepest(launch, channels)})
    fallen = max((asked[v] for v in asked), default=0)
    now = max((op.type.slots for op in launch.body.ops if isinstance(op, Channel)), default=0)
    if now < fallen:
        context.remark(
            Remark(
                "TLC0324",
                f"num_stages falls from {fallen} to {now}: {_why(full)}",
                launch.loc,
            )
        )
    return launch


def _narrower_stores(launch: Launch, channels: Sequence[Channel], target: Target) -> Launch | None:
    """The launch with slabs narrow enough that all slots fit, if they are worth it."""
    few = max((op.type.slots for op in channels), default=0) <= FEW_SLOTS
    for widest in (NARROW_SLAB_BYTES, *[NARROWEST_SLAB_BYTES] * few):
        narrow = _with_stores(launch, slab=widest)
        if shared_bytes(narrow) <= target.shared_bytes:
            return narrow
    return None


def _more_than_fit(launch: Launch, target: Target) -> Iterator[tuple[Channel, int]]:
    """Channels with more slots than shared memory has room for, whatever else there is, and what it
    has room for."""
    for op in launch.body.ops:
        if isinstance(op, Channel) and isinstance(op.type.memory, MemoryType):
            room = max(1, target.shared_bytes // max(1, buffer_bytes(op.type.memory)))
            if op.type.slots > room:
                yield op, room


def _deepest(launch: Launch, channels: list[Channel]) -> list[Channel]:
    """The channels to take a slot from: those with the most, and of these first the ones that only
    part two stages of the same threads, since loads need theirs to run ahead.
    """
    most = max(op.type.slots for op in channels)
    deepest = [op for op in channels if op.type.slots == most]
    loaded: set[Value] = set()
    for stage in walk(launch.body):
        if isinstance(stage, Stage) and stage.label.startswith(LOADS):
            loaded |= {op.channel for op in stage.body.ops if isinstance(op, Put)}
    return [op for op in deepest if op.result not in loaded] or deepest


def _why(full: bool) -> str:
    return "shared memory is full" if full else "the loads pass through registers"


def _through_registers(launch: Launch) -> set[Value]:
    """Channels that a stage fills from a channel of registers."""
    found: set[Value] = set()
    for op in walk(launch.body):
        if isinstance(op, Stage) and any(isinstance(inner, Receive) for inner in op.body.ops):
            found |= {inner.channel for inner in op.body.ops if isinstance(inner, Put)}
    return found


def _budget_registers(launch: Launch, target: Target) -> Launch:
    """Registers by role (sum over warpgroups at most the machine's, multiples of 8) and resident
    blocks; one staging buffer for stores instead of two where that lets another block in.
    """
    blocks = _resident(launch, target)
    lean = _with_stores(launch, staging=1)
    if _resident(lean, target) > blocks:
        launch, blocks = lean, _resident(lean, target)
    producer, consumer = _split(launch, blocks, target)
    ops = []
    for op in launch.body.ops:
        if isinstance(op, Role):
            op = op.replace(registers=consumer if op.first_thread == 0 else producer)
        ops.append(op)
    body = launch.body.with_ops(ops)
    return launch.replace(body=body, resident=blocks)  # type: ignore[return-value]


def _resident(launch: Launch, target: Target) -> int:
    """Blocks of the launch that a multiprocessor holds, at most two, with registers enough for the
    tiles that are live together.
    """
    fit = target.multiprocessor_shared_bytes // (shared_bytes(launch) + RESERVED_BYTES)
    blocks = max(1, min(2, fit))
    needed = live_registers(launch, target) + ADDRESS_REGISTERS
    if registers_at_start(launch.launched_threads, blocks, target) < _wgmma(launch, target):
        return 1
    return blocks if _split(launch, blocks, target)[1] >= needed else 1


def _split(launch: Launch, blocks: int, target: Target) -> tuple[int, int]:
    gathered = gathered_runs(launch.body, WARPGROUP)
    return split_registers(launch.threads, blocks, target, launch.cluster_blocks > 1, gathered)


def _wgmma(launch: Launch, target: Target) -> int:
    """Registers that the widest wgmma of the launch needs at its start."""
    widest = max((gemm_shape(op)[1] for op in walk(launch.body) if isinstance(op, Gemm)), default=0)
    return wgmma_registers(min(widest, widest_wgmma(launch.threads, target)))


def _with_stores(launch: Launch, **attributes: int) -> Launch:
    """The launch with these attributes of its stores by TMA."""

    def changed(op: Op) -> Op | None:
        by_tma = isinstance(op, StoreTile) and op.instruction == "tma"
        return op.replace(**attributes) if by_tma else None

    return launch.replace(body=transform(launch.body, changed))  # type: ignore[return-value]
