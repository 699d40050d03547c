"""Rebuilds a thread's program op by op, knowing of its integers what loops, roles and conditions say."""

from __future__ import annotations

from ..ir.core import Block, Op, Value, at
from ..ir.ops.control import For, If, Role
from .context import PassContext
from .index_builder import IndexBuilder


class Rebuilder:
    """A pass overrides `op` for what it changes, and leaves the rest to this one's."""

    def __init__(self, b: IndexBuilder, context: PassContext) -> None:
        self.b = b
        self.context = context
        self.names: dict[Value, Value] = {}

    def block(self, block: Block) -> Block:
        """The block, rebuilt."""
        with self.b.region() as ops:
            for op in block.ops:
                with at(op.loc), op.loc:
                    self.op(op)
        return Block(block.params, tuple(ops))

    def value(self, value: Value) -> Value:
        """What stands for a value of the old program."""
        return self.names.get(value, value)

    def op(self, op: Op) -> None:
        """Emits what becomes of an op: the same, with its regions rebuilt."""
        match op:
            case For():
                self.b.enter_for(op)
                self.emit(op, op.map(self.value, self.block))
            case If():
                condition = self.value(op.condition)
                with self.b.assuming(condition):
                    then = self.block(op.then)
                orelse = self.block(op.orelse)
                self.emit(op, op.replace(condition=condition, then=then, orelse=orelse))
            case Role():
                with self.b.inside(op):
                    self.emit(op, op.map(self.value, self.block))
            case _:
                self.emit(op, op.map(self.value, self.block))

    def emit(self, old: Op, new: Op) -> None:
        """Emits `new`, whose results stand for those of `old`."""
        self.b.emit(new)
        for before, after in zip(old.results, new.results, strict=True):
            if before is not after:
                after.hint = after.hint or before.hint
                self.names[before] = after
