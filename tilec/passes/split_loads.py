"""A load that passes through registers becomes two stages: fetch now, deposit an iteration later.

Needs: roles assigned. Leaves: no copy with instruction "registers" in a load stage: its stage is
split into "fetch" (global to registers) and "deposit" (registers to shared), joined by a channel of
registers, so that the loads are in flight while an iteration is computed. Stages that mix cp.async
and registers are split apart by copy. Where the registers do not suffice for all copies beside the
tiles that are live, the largest that fit are fetched ahead; the others are copied as they are by the
deposit stage, some elements at a time.

On every machine a nest that does nothing but fill a buffer with what it loads from global memory
element by element (rows that a table names, patches of an image) is split likewise: it fills a tile in
a fetch stage, and its own stage stores that.

    stage <label = "load"> {                 stage <label = "fetch"> {
      %s = put %ca                             %t = load_tile %A[...] ; send %ra, %t }
      copy %A[...], %s                 ->    stage <label = "deposit"> {
          <instruction = "registers">          %t = receive %ra ; %s = put %ca
      commit %ca }                             store_tile %t, %s[0, 0] ; commit %ca }
"""

from __future__ import annotations

import math

from ..ir.build import Builder
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.arith import Cast
from ..ir.ops.control import Launch, Parallel, Yield, map_launches
from ..ir.ops.memory import Load, memory_type
from ..ir.ops.pipeline import Channel, Commit, Put, Receive, Send, Stage
from ..ir.ops.tile import Copy, LoadTile, StoreTile, Undefined
from ..ir.rewrite import transform
from ..ir.types import ChannelType, MemoryType, Space, TileType
from .context import PassContext, Remark
from .dependence import is_global, is_statement, slice_of
from .lift_stores import only_store
from .live_tiles import live_registers
from .variants import ADDRESS_REGISTERS
from .vector_access import FACT_BYTES, is_aligned, is_below

REGISTER_BYTES = 4
ADDRESS = 2  # registers of one of 64 bits


def split_loads(program: Program, context: PassContext) -> Program:
    """Splits load stages whose copies pass through registers."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    channels: list[Op] = []
    ahead = _fetched_ahead(launch, context)

    def block(body: Block) -> Block:
        ops: list[Op] = []
        for op in body.ops:
            if isinstance(op, Stage) and _through_registers(op):
                ops.extend(_split(op, channels, ahead))
            elif isinstance(op, Stage) and (nest := _gather(op)) is not None and nest in ahead:
                ops.extend(_split_gather(op, nest, channels))
            else:
                ops.append(op.map_regions(block))
        return body.with_ops(ops)

    body = block(launch.body)
    return launch.replace(body=body.with_ops([*channels, *body.ops]))  # type: ignore[return-value]


def _fetched_ahead(launch: Launch, context: PassContext) -> set[Op]:
    """The copies whose data may wait in registers while an iteration is computed: the largest
    first, as long as there are registers. The others are remarked on.
    """
    stages = [op for op in walk(launch.body) if isinstance(op, Stage)]
    copies = [
        op
        for stage in stages
        if _through_registers(stage)
        for op in stage.body.ops
        if isinstance(op, Copy) and op.instruction == "registers"
    ]
    gathers = [nest for stage in stages if (nest := _gather(stage)) is not None]
    limit = min(context.target.max_registers, context.target.registers // launch.threads)
    spare = limit - live_registers(launch, context.target) - ADDRESS_REGISTERS
    most = sum(_most_registers(copy, launch) for copy in copies)
    if most + sum(_gathered_registers(nest, launch) for nest in gathers) <= spare:
        return {*copies, *gathers}  # whatever holds of the arguments: they are not asked
    found: set[Op] = set()
    sizes: dict[Op, int] = {copy: _registers(copy, launch, context) for copy in copies}
    sizes |= {nest: _gathered_registers(nest, launch) for nest in gathers}
    for op, needed in sorted(sizes.items(), key=lambda item: -item[1]):
        if needed <= spare:
            spare -= needed
            found.add(op)
        else:
            name = (op.source.hint if isinstance(op, Copy) else "") or "a tile"
            text = f"{name} is not loaded ahead: {needed} registers a thread, {max(spare, 0)} left"
            context.remark(Remark("TLC0325", text, op.loc))
    return found


def _gathered_registers(nest: Parallel, launch: Launch) -> int:
    """Registers a thread that hold what a nest gathers."""
    store = only_store(nest)
    assert store is not None
    size = math.prod(nest.extents) * memory_type(store.memory).dtype.bytes
    return -(-size // (launch.threads * REGISTER_BYTES))


def _registers(copy: Copy, launch: Launch, context: PassContext) -> int:
    """Registers a thread that hold a copy in flight, and the addresses that are live with it."""
    type_ = memory_type(copy.source)
    size, inner = type_.dtype.bytes, type_.shape[-1]
    words = _words(copy, launch)
    whole = type_.unit_stride and (not isinstance(inner, int) or inner * size % FACT_BYTES == 0)
    if size < REGISTER_BYTES and whole and is_aligned(copy.source, FACT_BYTES, context):
        words = -(-words * size // REGISTER_BYTES)
    return words if is_below(copy.source, context) else words + _addresses(copy, launch)


def _most_registers(copy: Copy, launch: Launch) -> int:
    return _words(copy, launch) + _addresses(copy, launch)


def _words(copy: Copy, launch: Launch) -> int:
    """Registers of elements that are loaded one by one: they are packed only once they are there."""
    elements = -(-math.prod(copy.shape) // launch.threads)
    return elements * -(-memory_type(copy.source).dtype.bytes // REGISTER_BYTES)


def _addresses(copy: Copy, launch: Launch) -> int:
    """Registers of addresses beyond 32 bits: each run of a vector's length needs its own, and they
    stay over the loop.
    """
    size = math.prod(copy.shape) * memory_type(copy.source).dtype.bytes
    return ADDRESS * -(-size // (launch.threads * FACT_BYTES))


def _through_registers(stage: Stage) -> bool:
    """Whether the stage does nothing but load, some of it through registers."""
    loads = all(
        isinstance(op, (Copy, Put, Commit, Yield)) or not is_statement(op) for op in stage.body.ops
    )
    return loads and any(
        isinstance(op, Copy) and op.instruction == "registers" for op in stage.body.ops
    )


def _gather(stage: Stage) -> Parallel | None:
    """The nest of a stage that does nothing but fill a buffer with what it loads from global memory,
    element by element in the order of its variables."""
    statements = [op for op in stage.body.ops if is_statement(op) and not isinstance(op, Yield)]
    if stage.results or [type(op) for op in statements] != [Put, Parallel, Commit]:
        return None
    put, nest, _ = statements
    assert isinstance(put, Put) and isinstance(nest, Parallel)
    store = only_store(nest)
    loads = [op for op in nest.body.ops if isinstance(op, Load)]
    if store is None or nest.reads or not loads or not all(is_global(op.memory) for op in loads):
        return None
    whole = memory_type(put.result).shape == nest.extents
    return (
        nest if whole and store.memory is put.result and store.indices == nest.body.params else None
    )


def _split_gather(stage: Stage, nest: Parallel, channels: list[Op]) -> list[Op]:
    """A stage that gathers, as a nest that fills a tile in a fetch stage, and a store of that in the
    stage itself."""
    store = only_store(nest)
    assert store is not None
    buffer = memory_type(store.memory)
    fetch, deposit = Builder(), Builder()
    with at(nest.loc):
        shape = nest.extents
        type_ = TileType(buffer.dtype, shape)
        channel = Channel(type=ChannelType(type_, 1), label=store.memory.hint + "_registers")
        channel.result.hint = channel.label
        channels.append(channel)
        fetch.extend([op for op in stage.body.ops if not is_statement(op)])
        tile = fetch.emit(Undefined(type=type_)).result
        handle = Value(MemoryType(buffer.dtype, shape, Space.FRAGMENT), hint="gathered")
        filled = transform(nest.body, lambda op: op.replace(memory=handle) if op is store else None)
        body = Block((*nest.body.params, handle), filled.ops)
        fetch.emit(
            Send(channel.result, fetch.emit(nest.replace(updates=(tile,), body=body)).result)
        )
        put, commit = (op for op in stage.body.ops if isinstance(op, (Put, Commit)))
        deposit.emit(put)
        received = deposit.emit(Receive(channel.result)).result
        corner = tuple(deposit.const(0) for _ in shape)
        deposit.emit(StoreTile(received, store.memory, corner, dims=tuple(range(len(shape)))))
        deposit.emit(commit)
    stages: list[Op] = []
    with at(stage.loc):
        for label, part in ((f"fetch to {stage.label}", fetch), (stage.label, deposit)):
            ops = (*_needed(list(part.ops)), Yield(()))
            stages.append(Stage(Block((), ops), label=label))
    return stages


def _split(stage: Stage, channels: list[Op], ahead: set[Op]) -> list[Op]:
    fetch: list[Op] = []
    deposit: list[Op] = []
    others: list[Op] = []
    here: Renaming = {}
    moved = {
        op.destination
        for op in stage.body.ops
        if isinstance(op, Copy) and op.instruction == "registers"
    }
    through = {op.channel for op in stage.body.ops if isinstance(op, Put) and op.result in moved}
    for op in stage.body.ops:
        with at(op.loc):
            if op in ahead and isinstance(op, Copy):
                _move(op, fetch, deposit, here, channels)
            elif isinstance(op, Copy) and op.destination in moved:
                deposit.append(clone_op(op, here))
            elif isinstance(op, (Put, Commit)):
                mine = op.channel in through
                (deposit if mine else others).append(clone_op(op, here) if mine else op)
            elif op.pure or not isinstance(op, (Copy, Yield)):
                fetch.append(op)
                others.append(op)
                deposit.append(clone_op(op, here))
            elif isinstance(op, Copy):
                others.append(op)
    with at(stage.loc):
        end = Yield(())
        stages: list[Op] = [Stage(Block((), (*_needed(deposit), end)), label="deposit")]
        if any(isinstance(op, LoadTile) for op in fetch):
            stages.append(Stage(Block((), (*_needed(fetch), end)), label="fetch"))
        if any(isinstance(op, Copy) for op in others):
            renaming: Renaming = {}
            kept = tuple(clone_op(op, renaming) for op in _needed(others))
            stages.insert(0, Stage(Block((), (*kept, end)), label=stage.label))
    return stages[::-1]


def _needed(ops: list[Op]) -> list[Op]:
    """The statements and the scalars that they use: no address is read in vain."""
    return slice_of([op for op in ops if is_statement(op)], tuple(ops))


def _move(
    copy: Copy, fetch: list[Op], deposit: list[Op], here: Renaming, channels: list[Op]
) -> None:
    """One copy as a load in the fetch stage and a store in the deposit stage."""
    source, destination = memory_type(copy.source), memory_type(copy.destination)
    load = LoadTile(
        copy.source,
        copy.source_indices,
        shape=copy.shape,
        dims=copy.source_dims,
        safe_value=copy.safe_value,
    )
    channel = Channel(
        type=ChannelType(TileType(source.dtype, copy.shape), 1),
        label=copy.source.hint + "_registers",
    )
    channel.result.hint = channel.label
    channels.append(channel)
    fetch += [load, Send(channel.result, load.result)]
    received = Receive(channel.result)
    deposit.append(received)
    tile = received.result
    if source.dtype != destination.dtype:
        cast = Cast(tile, dtype=destination.dtype)
        deposit.append(cast)
        tile = cast.result
    indices = tuple(here.get(i, i) for i in copy.destination_indices)
    slot = here.get(copy.destination, copy.destination)
    deposit.append(StoreTile(tile, slot, indices, dims=copy.destination_dims))
