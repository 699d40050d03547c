"""A load that passes through registers becomes two stages: fetch now, deposit an iteration later.

Needs: roles assigned. Leaves: no copy with instruction "registers" in a load stage: its stage is
split into "fetch" (global to registers) and "deposit" (registers to shared), joined by a channel of
registers, so that the loads are in flight while an iteration is computed. Stages that mix cp.async
and registers are split apart by copy. Where the registers do not suffice for all copies beside the
tiles that are live, the largest that fit are fetched ahead; the others are copied as they are by the
deposit stage, some elements at a time.

    stage <label = "load"> {                 stage <label = "fetch"> {
      %s = put %ca                             %t = load_tile %A[...] ; send %ra, %t }
      copy %A[...], %s                 ->    stage <label = "deposit"> {
          <instruction = "registers">          %t = receive %ra ; %s = put %ca
      commit %ca }                             store_tile %t, %s[0, 0] ; commit %ca }
"""

from __future__ import annotations

import math

from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, at, walk
from ..ir.ops.arith import Cast
from ..ir.ops.control import Launch, Yield, map_launches
from ..ir.ops.memory import memory_type
from ..ir.ops.pipeline import Channel, Commit, Put, Receive, Send, Stage
from ..ir.ops.tile import Copy, LoadTile, StoreTile
from ..ir.types import ChannelType, TileType
from .context import PassContext, Remark
from .dependence import is_statement, slice_of
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
            else:
                ops.append(op.map_regions(block))
        return body.with_ops(ops)

    body = block(launch.body)
    return launch.replace(body=body.with_ops([*channels, *body.ops]))  # type: ignore[return-value]


def _fetched_ahead(launch: Launch, context: PassContext) -> set[Op]:
    """The copies whose data may wait in registers while an iteration is computed: the largest
    first, as long as there are registers. The others are remarked on.
    """
    copies = [
        op
        for stage in walk(launch.body)
        if isinstance(stage, Stage) and _through_registers(stage)
        for op in stage.body.ops
        if isinstance(op, Copy) and op.instruction == "registers"
    ]
    limit = min(context.target.max_registers, context.target.registers // launch.threads)
    spare = limit - live_registers(launch, context.target) - ADDRESS_REGISTERS
    if sum(_most_registers(copy, launch) for copy in copies) <= spare:
        return set(copies)  # whatever holds of the arguments: they are not asked
    found: set[Op] = set()
    sizes = {copy: _registers(copy, launch, context) for copy in copies}
    for copy, needed in sorted(sizes.items(), key=lambda item: -item[1]):
        if needed <= spare:
            spare -= needed
            found.add(copy)
        else:
            name = copy.source.hint or "a tile"
            text = f"{name} is not loaded ahead: {needed} registers a thread, {max(spare, 0)} left"
            context.remark(Remark("TLC0325", text, copy.loc))
    return found


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
