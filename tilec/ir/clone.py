"""Copies of ops with results of their own, so that one piece of a program can stand in two
places.
"""

from __future__ import annotations

from typing import Any

from .core import Block, Op, Value, at

Renaming = dict[Value, Value]
"""What stands for a value of the original in the copy. Values that are absent stand for themselves.
"""


def clone_op(op: Op, renaming: Renaming) -> Op:
    """A copy of `op` on renamed operands; its results are fresh and are added to `renaming`."""
    values: dict[str, Any] = {}
    for name, kind in op.fields:
        old = getattr(op, name)
        match kind:
            case "operand":
                values[name] = renaming.get(old, old)
            case "operands":
                values[name] = tuple(renaming.get(v, v) for v in old)
            case "region":
                values[name] = clone_block(old, renaming)
            case _:
                values[name] = old
    with at(op.loc):
        new = type(op).build(values, op)
    for old_result, result in zip(op.results, new.results, strict=True):
        result.hint = old_result.hint
        result.type = old_result.type
        renaming[old_result] = result
    return new


def clone_block(block: Block, renaming: Renaming) -> Block:
    """A copy of `block` with fresh parameters and values, all of them added to `renaming`."""
    params = []
    for param in block.params:
        fresh = Value(param.type, param.hint)
        renaming[param] = fresh
        params.append(fresh)
    return Block(tuple(params), tuple(clone_op(op, renaming) for op in block.ops))
