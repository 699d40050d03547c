"""Every use of a constant tile gets a constant tile of its own, so that each may have its layout.

Equal splats are one value after canonicalize; two accumulators that start from it would be held to
one layout. A splat costs the same wherever it stands, and none before the op that starts from it.

    %z = splat 0.0                                %z = splat 0.0
    %c = gemm %a, %b, %z                   ->     %c = gemm %a, %b, %z
    %d = gemm %b, %a, %z                          %z1 = splat 0.0
                                                  %d = gemm %b, %a, %z1
"""

from __future__ import annotations

from collections.abc import Mapping

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Value, walk
from ..ir.ops.tile import Splat, Undefined


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
        if not isinstance(op, (Splat, Undefined)):
            new = op.map(own, lambda inner: _rebuilt(inner, splats))
            ops.append(new)
    return block.with_ops(ops)
