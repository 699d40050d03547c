"""The whole body of a launch, partitioned over roles: who loads, and who does everything else.

Needs: instructions chosen, persistence decided. Leaves: a launch whose wgmma copies feed as two roles, each
with its own copy of loops, scalars and variables: a producer warpgroup (outside the program's threads) that
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

from typing import Any

from ..ir.clone import clone_block
from ..ir.core import Block, Op, Program, at, walk, with_results
from ..ir.ops.control import For, If, Launch, Parallel, Role, Simt, While, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc
from ..ir.ops.nvidia import WARPGROUP
from ..ir.ops.pipeline import Channel, Pipeline, Stage
from ..ir.ops.tile import Copy
from .context import PassContext, Remark
from .dependence import computes_alone, is_local, is_statement, is_tile

CONSUMER_BARRIER = 1  # the named barrier on which the consumers meet


def assign_roles(program: Program, context: PassContext) -> Program:
    """Splits every launch whose load stages use TMA into a consumer and a producer role."""
    return map_launches(program, lambda launch: _launch(launch, context))


def is_producer_stage(stage: Stage) -> bool:
    """Whether a stage is all TMA and asynchronous gathers, so that other warps can run it ahead."""
    loads = [op for op in stage.body.ops if isinstance(op, (Copy, Parallel))]
    return bool(loads) and all(
        op.instruction == ("tma" if isinstance(op, Copy) else "cp_async") for op in loads
    )


def _launch(launch: Launch, context: PassContext) -> Launch:
    if not _has_roles(launch):
        return launch.replace(launched_threads=launch.threads)  # type: ignore[return-value]
    memory: list[Op] = []
    own: list[Op] = []  # of each role
    for op in launch.body.ops:
        shared = isinstance(op, Channel) or (isinstance(op, Alloc) and not is_local(op.result))
        if not isinstance(op, Yield):
            (memory if shared else own).append(op)
    rest = Block((), tuple(own))
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


def _has_roles(launch: Launch) -> bool:
    """Whether loads are for a producer: choose_instructions has found that wgmma can read them."""
    stages = [op for op in walk(launch.body) if isinstance(op, Stage)]  # none where it is explicit
    by_wgmma = any(isinstance(op, Gemm) and op.instruction == "wgmma" for op in walk(launch.body))
    return by_wgmma and any(map(is_producer_stage, stages))


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
            case While() if producer and not _is_shared_by_roles(op):
                pass
            case Pipeline() | For() | If() | While():
                new = op.map_regions(lambda b: _restrict(b, producer))
                ops.append(_without_tiles(new) if producer else new)
            case Simt() if producer and all(map(computes_alone, op.walk())):
                ops.append(op.replace(threads=WARPGROUP))
            case Yield():
                ops.append(Yield(tuple(v for v in op.values if not (producer and is_tile(v)))))
            case _ if not (producer and is_statement(op)) or isinstance(op, Alloc):
                ops.append(op)
    return block.with_ops(ops)


def _is_shared_by_roles(op: While) -> bool:
    """Whether a producer goes round the loop too: to load, or for its own variables."""
    return any(isinstance(inner, Stage) for inner in op.walk()) or all(
        map(computes_alone, op.walk())
    )


def _without_tiles(op: Op) -> Op:
    """A loop without its carried tiles (their yields are gone already)."""
    if isinstance(op, If):
        return op
    assert isinstance(op, (For, While, Pipeline))
    kept = tuple(r for r in op.results if not is_tile(r))
    changes: dict[str, Any] = {"inits": tuple(v for v in op.inits if not is_tile(v))}
    for name, kind in op.fields:
        if kind == "region":
            block: Block = getattr(op, name)
            changes[name] = Block(tuple(p for p in block.params if not is_tile(p)), block.ops)
    return with_results(op.replace(**changes), kept)
