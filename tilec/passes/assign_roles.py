"""The whole body of a launch, partitioned over roles: who loads, and who does everything else.

Needs: instructions chosen, persistence decided. Leaves: a launch that TMA feeds as two roles, each
with its own copy of loops and scalars: a producer warpgroup (outside the program's threads) that
runs the load stages, and the consumers (the program's threads) that run all the rest. Tiles stay
with the consumers. Other launches stay whole.

    for %tile (...) { pipeline { stage <label = "load"> {...} ; stage <label = "mma"> {...} } ; store_tile ... }
  becomes
    role <label = "consumer", threads = 256> {
      for %tile (...) { pipeline { stage <label = "mma"> {...} } ; store_tile ... } }
    role <label = "producer", first_thread = 256, threads = 128> {
      for %tile (...) { pipeline { stage <label = "load"> {...} } } }
"""

from __future__ import annotations

from ..ir.clone import clone_block
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.control import For, If, Launch, Role, Yield, map_launches
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Channel, Pipeline, Stage
from ..ir.ops.tile import Copy
from ..ir.types import InflightType, TileType
from .context import PassContext, Remark
from .dependence import is_statement
from .role_registers import WARPGROUP

CONSUMER_BARRIER = 1  # the named barrier on which the consumers meet


def assign_roles(program: Program, context: PassContext) -> Program:
    """Splits every launch whose load stages use TMA into a consumer and a producer role."""
    return map_launches(program, lambda launch: _launch(launch, context))


def is_producer_stage(stage: Stage) -> bool:
    """Whether a stage is all TMA, so that one thread of another warp can run it ahead."""
    copies = [op for op in stage.body.ops if isinstance(op, Copy)]
    return bool(copies) and all(op.instruction == "tma" for op in copies)


def _launch(launch: Launch, context: PassContext) -> Launch:
    stages = [op for op in walk(launch.body) if isinstance(op, Stage)]  # none where it is explicit
    if not any(is_producer_stage(s) for s in stages):
        return launch.replace(launched_threads=launch.threads)  # type: ignore[return-value]
    memory = [op for op in launch.body.ops if isinstance(op, (Alloc, Channel))]
    rest = Block(
        (), tuple(op for op in launch.body.ops if not isinstance(op, (Alloc, Channel, Yield)))
    )
    with at(launch.loc):
        consumer = Role(
            Block((), (*_restrict(rest, False).ops, Yield(()))),
            label="consumer",
            first_thread=0,
            threads=launch.threads,
            barrier=CONSUMER_BARRIER,
        )
        producer = Role(
            Block((), (*_restrict(clone_block(rest, {}), True).ops, Yield(()))),
            label="producer",
            first_thread=launch.threads,
            threads=WARPGROUP,
        )
        body = Block(launch.body.params, (*memory, consumer, producer, Yield(())))
    context.remark(
        Remark(
            "TLC0323",
            f"a producer warpgroup loads for {launch.threads} consumer threads",
            launch.loc,
        )
    )
    return launch.replace(body=body, launched_threads=launch.threads + WARPGROUP)  # type: ignore[return-value]


def _restrict(block: Block, producer: bool) -> Block:
    """The part of a block that one role runs. Scalars stay; what is not needed falls to dead-code
    elimination.
    """
    ops: list[Op] = []
    for op in block.ops:
        match op:
            case Stage():
                if is_producer_stage(op) == producer:
                    ops.append(op)
            case Pipeline() | For() | If():
                new = op.map(lambda v: v, lambda b: _restrict(b, producer))
                ops.append(_without_tiles(new) if producer else new)
            case Yield():
                ops.append(Yield(tuple(v for v in op.values if not (producer and _is_tile(v)))))
            case _ if not (producer and is_statement(op)):
                ops.append(op)
    return block.with_ops(ops)


def _is_tile(value: Value) -> bool:
    return isinstance(value.type, (TileType, InflightType))


def _without_tiles(op: Op) -> Op:
    """A loop without its carried tiles (their yields are gone already)."""
    if isinstance(op, If):
        return op
    assert isinstance(op, (For, Pipeline))
    body = Block(tuple(p for p in op.body.params if not _is_tile(p)), op.body.ops)
    kept = tuple(r for r in op.results if not _is_tile(r))
    new = op.replace(inits=tuple(v for v in op.inits if not _is_tile(v)), body=body)
    object.__setattr__(new, "results", kept)
    return new
