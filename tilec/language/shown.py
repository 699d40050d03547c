"""Elements of fragments that are read outside of T.Parallel: the block shows them to all its threads.

    if thread == 0:                      %m = alloc : shared f32[1]
        Y[b] = F[0]           becomes    copy %F[0] -> %m[0]
                                         if thread == 0: store (load %m[0]), %Y[%b]

Showing is done by the whole block, in shared memory, as early as the fragment has its value: before
the branches and loops that do not change it, so that they may differ from thread to thread. What the
condition of a `while` reads is shown before the loop and at the end of its body.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..ir.clone import clone_op
from ..ir.core import Access, Block, Op, Value, constant
from ..ir.dtypes import i32
from ..ir.ops.control import For, If, While
from ..ir.ops.memory import Alloc, Load, memory_type
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space
from .trace import Trace


def shown_to_all(
    trace: Trace, fragment: Value, indices: tuple[Value, ...]
) -> tuple[Value, tuple[Value, ...]]:
    """Shared memory, and the index in it, where all threads find an element of a fragment."""
    type_ = memory_type(fragment)
    shape, dims = (1,) * len(type_.shape), tuple(range(len(type_.shape)))
    memory = trace.builder.emit(Alloc(type=MemoryType(type_.dtype, shape, Space.SHARED))).result
    memory.hint = fragment.hint
    start = (constant(0, i32),) * len(shape)
    trace.builder.emit(
        Copy(fragment, indices, memory, start, (),
             shape=shape, source_dims=dims, destination_dims=dims)
    )  # fmt: skip
    trace.shown.add(memory)
    return memory, start


def show_early(ops: Sequence[Op], shown: set[Value]) -> list[Op]:
    """The statements with what they show (into the memories `shown`) where it may be, if it is
    looked at.
    """
    looked_at = {inner.memory for op in ops for inner in op.walk() if isinstance(inner, Load)}
    return _early(ops, shown, shown & looked_at) if shown else list(ops)


def _early(ops: Sequence[Op], shown: set[Value], used: set[Value]) -> list[Op]:
    out: list[Op] = []
    for op in ops:
        if _shows(op, shown) and not _shows(op, used):
            continue
        op = op.map_regions(lambda block: block.with_ops(_early(block.ops, shown, used)))
        if isinstance(op, (For, If, While)):
            before, op = _lifted(op, used)
            out += before
        out.append(op)
    return out


def _lifted(op: Op, shown: set[Value]) -> tuple[list[Op], Op]:
    """What is shown before a branch or loop, and the rest of it."""
    changed = set(_changed(op))
    before: list[Op] = []
    again: list[Op] = []  # for the condition of the next trip

    def region(block: Block) -> Block:
        tested = isinstance(op, While) and block is op.condition
        kept: list[Op] = []
        lifted: set[Value] = set()
        for inner in reversed(block.ops):  # a copy, and before it the memory that it fills
            if isinstance(inner, Copy) and inner.destination in shown:
                stays = inner.source in changed
                if not stays or tested:
                    lifted.add(inner.destination)
                    before.append(inner)
                if stays and tested:
                    again.append(inner)
                if not stays or tested:
                    continue
            elif isinstance(inner, Alloc) and inner.result in lifted:
                before.append(inner)
                continue
            kept.append(inner)
        return block.with_ops(kept[::-1])

    new = op.map_regions(region)
    if again:
        assert isinstance(new, While)
        *body, end = new.body.ops
        copies = [clone_op(copy, {}) for copy in reversed(again)]
        new = new.replace(body=new.body.with_ops([*body, *copies, end]))
    return before[::-1], new


def _shows(op: Op, shown: set[Value]) -> bool:
    """Whether an op is a part of showing something into one of these memories."""
    return (isinstance(op, Copy) and op.destination in shown) or (
        isinstance(op, Alloc) and op.result in shown
    )


def _changed(op: Op) -> Iterator[Value]:
    """The memory that an op and its regions write, or make."""
    for inner in op.walk():
        yield from (inner.results if isinstance(inner, Alloc) else ())
        for effect in inner.effects():
            if effect.access is Access.WRITE and effect.memory is not None:
                yield effect.memory
