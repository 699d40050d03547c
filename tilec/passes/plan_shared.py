"""Places of shared buffers in the block's shared memory.

Needs: thread level, flattened memory (an alloc's size is its layout's). Leaves: `offset` on every
shared alloc, `shared_bytes` on every launch. Raises OutOfResources where the target has less.

    %A_s = alloc : shared f16[32768]    ->    %A_s = alloc <offset = 0> : shared f16[32768]

Buffers lie one after another in order of declaration, swizzled ones (all of 1024 bytes or more)
first aligned to the period of the widest swizzle, 1024 bytes; small ones to 16.
"""

from __future__ import annotations

from ..errors import OutOfResources
from ..ir.core import Block, Op, Program, walk
from ..ir.ops.control import Launch
from ..ir.ops.memory import Alloc, memory_type
from .context import PassContext
from .dependence import is_shared

LARGE, SMALL = 1024, 16  # alignments in bytes
SWIZZLED = 256  # bytes from which a buffer may be swizzled


def plan_shared(program: Program, context: PassContext) -> Program:
    """Gives every shared buffer its offset."""
    ops = [_launch(op, context) if isinstance(op, Launch) else op for op in program.body.ops]
    return program.with_body(program.body.with_ops(ops))


def _launch(launch: Launch, context: PassContext) -> Launch:
    buffers = [op for op in walk(launch.body) if isinstance(op, Alloc) and is_shared(op.result)]
    offsets: dict[int, int] = {}
    end = 0
    for op in sorted(buffers, key=lambda b: _size(b) < SWIZZLED):
        alignment = LARGE if _size(op) >= SWIZZLED else SMALL
        start = -(-end // alignment) * alignment
        offsets[id(op)] = start
        end = start + _size(op)
    if end > context.target.shared_bytes:
        raise OutOfResources(
            "TLC0510",
            f"the kernel needs {end} bytes of shared memory, "
            f"{context.target.name} has {context.target.shared_bytes}",
            loc=launch.loc,
            hint="use smaller tiles or fewer stages",
        )

    def place(block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if id(op) in offsets:
                op = op.replace(offset=offsets[id(op)])
            ops.append(op.map(lambda v: v, place))
        return block.with_ops(ops)

    return launch.replace(body=place(launch.body), shared_bytes=end)  # type: ignore[return-value]


def _size(op: Alloc) -> int:
    type_ = memory_type(op.result)
    size = 1
    for extent in type_.shape:
        size *= int(extent)
    return (type_.layout.size if type_.layout is not None else size) * type_.dtype.bytes
