"""Which values may differ between the threads of a block.

A thread's number differs, and what an atomic gives it; so does what is computed from a value that
differs, what is kept in a thread's own memory under a condition that differs, and what a loop or
branch with such a bound or condition gives. A load from shared or global memory is the same for all
threads if its indices are.
"""

from __future__ import annotations

from ..ir.core import Block, Op, Value
from ..ir.ops.control import For, If, Parallel, Simt, ThreadId, While
from ..ir.ops.memory import Atomic, Store
from ..ir.types import MemoryType, Space


def differing(block: Block) -> set[Value]:
    """The values of a block, and the local memories, that two threads may see differently."""
    found: set[Value] = set()
    while True:
        before = len(found)
        _visit(block, False, found)
        if len(found) == before:
            return found


def _visit(block: Block, diverged: bool, found: set[Value]) -> None:
    """One round; `diverged`: the threads that run this block may not be all."""
    for op in block.ops:
        if isinstance(op, ThreadId | Atomic) or _any_input(op, found):
            found.update(op.results)  # of a load too: its memory is an operand
        match op:
            case Store() if _is_local(op.memory) and (diverged or _any_input(op, found)):
                found.add(op.memory)
            case Simt() | Parallel():
                found.update(op.body.params)
                _visit(op.body, diverged, found)
            case For():
                parts = any(v in found for v in (op.start, op.stop, op.step))
                _loop(op, op.body.params[1:], op.body, diverged or parts, found)
                if parts:
                    found.add(op.body.params[0])
            case While():
                _visit(op.condition, diverged, found)
                end = op.condition.terminator
                parts = end is not None and _any_input(end, found)
                if _any_input(op, found):
                    found.update(op.condition.params)
                _loop(op, op.body.params, op.body, diverged or parts, found)
            case If():
                parts = op.condition in found
                for inner in op.regions:
                    _visit(inner, diverged or parts, found)
                    _results(op, inner, found)
                if parts:
                    found.update(op.results)
            case _:
                for inner in op.regions:
                    _visit(inner, diverged, found)


def _loop(
    op: For | While, params: tuple[Value, ...], body: Block, diverged: bool, found: set[Value]
) -> None:
    end = body.terminator
    given = end.inputs if end is not None else ()
    for param, init, again in zip(params, op.inits, given, strict=False):
        if init in found or again in found:
            found.add(param)
    _visit(body, diverged, found)
    _results(op, body, found)
    if diverged:
        found.update(op.results)


def _results(op: Op, body: Block, found: set[Value]) -> None:
    end = body.terminator
    for result, value in zip(op.results, end.inputs if end is not None else (), strict=False):
        if value in found:
            found.add(result)


def _any_input(op: Op, found: set[Value]) -> bool:
    return any(v in found for v in op.inputs)


def _is_local(memory: Value) -> bool:
    return isinstance(memory.type, MemoryType) and memory.type.space is Space.LOCAL
