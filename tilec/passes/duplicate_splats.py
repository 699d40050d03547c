"""Every use of a constant tile gets a constant tile of its own, so that each may have its layout.

Equal splats are one value after canonicalize; two accumulators that start from it would be held to
one layout. A splat costs the same wherever it stands, and none before the op that starts from it.

    %z = splat 0.0                                %z = splat 0.0
    %c = gemm %a, %b, %z                   ->     %c = gemm %a, %b, %z
    %d = gemm %b, %a, %z                          %z1 = splat 0.0
                                                  %d = gemm %b, %a, %z1

A pipeline consists of stages: what it carries on that is constant is made by the stage that it is
carried to, behind all that the stage does with what came before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Value, walk, with_results
from ..ir.ops.control import Yield
from ..ir.ops.pipeline import Pipeline
from ..ir.ops.tile import Splat, Undefined
from .dependence import used_values


def splats_duplicated(block: Block) -> Block:
    """The block with one splat (or undefined tile) before each use of one, and none elsewhere."""
    splats = {op.result: op for op in walk(block) if isinstance(op, (Splat, Undefined))}
    return _rebuilt(block, splats) if splats else block


def _rebuilt(block: Block, splats: Mapping[Value, Op]) -> Block:
    ops: list[Op] = []

    def own(value: Value) -> Value:
        if value not in splats:
            return value
        copy = clone_op(splats[value], {})
        ops.append(copy)
        return copy.results[0]

    for op in block.ops:
        if isinstance(op, Pipeline):
            op = _carried_by_stages(op, splats, own)
        if not isinstance(op, (Splat, Undefined)):
            new = op.map(own, lambda inner: _rebuilt(inner, splats))
            ops.append(new)
    return block.with_ops(ops)


def _carried_by_stages(
    loop: Pipeline, splats: Mapping[Value, Op], own: Callable[[Value], Value]
) -> Op:
    """The pipeline with every constant tile that it carries on yielded by the one stage that takes
    it. Where several do, or none, it stays outside: a tile of its own before the loop.
    """
    *stages, end = loop.body.ops
    values = list(end.inputs)
    for n, value in enumerate(values):
        if value not in splats:
            continue
        carried = loop.body.params[1 + n]
        takers = [i for i, stage in enumerate(stages) if carried in used_values(stage)]
        if len(takers) == 1:
            stages[takers[0]], values[n] = _yielding(stages[takers[0]], value)
        else:
            values[n] = own(value)
    return loop.replace(body=loop.body.with_ops([*stages, end.replace(values=tuple(values))]))


def _yielding(stage: Op, value: Value) -> tuple[Op, Value]:
    """The stage with `value` as one result more, and that result."""
    (body,) = stage.regions
    *ops, end = body.ops
    more = Yield((*end.inputs, value))
    new = stage.replace(body=body.with_ops([*ops, more]))
    return with_results(new, (*stage.results, new.results[-1])), new.results[-1]
