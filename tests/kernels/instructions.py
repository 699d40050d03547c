"""How many instructions a thread-level program stands for: its ops, times the trips of the loops
that its text unrolls."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from tilec.ir.core import Block, Op, Program, Value, constant_of
from tilec.ir.ops.amd import BufferCopy, BufferLoad
from tilec.ir.ops.control import For, If
from tilec.ir.ops.memory import memory_type
from tilec.ir.ops.thread import VectorLoad, VectorStore
from tilec.ir.types import ScalarType, Space

WIDE = 16  # bytes of the widest access


def count_instructions(program: Program) -> Counter[str]:
    """How often each op stands in the machine code of `program`, by its name; loads and stores
    of 16 bytes by space too ("load_shared_16").

    Loops with unroll 0 stand as often as they run, others as often as their unroll says: the
    text forbids the compiler more. Of an `if` whose condition the indices of unrolled loops
    decide, one arm is left.
    """
    found: Counter[str] = Counter()
    _count(program.body, {}, found)
    return found


def _count(block: Block, known: dict[Value, Any], found: Counter[str]) -> None:
    for op in block.ops:
        found[op.name] += 1
        wide = _wide_access(op)
        if wide:
            found[wide] += 1
        match op:
            case For():
                _count_loop(op, known, found)
            case If() if (condition := _number(op.condition, known)) is not None:
                _count(op.then if condition else op.orelse, known, found)
            case _:
                _evaluate(op, known)
                for region in op.regions:
                    _count(region, known, found)


def _count_loop(loop: For, known: dict[Value, Any], found: Counter[str]) -> None:
    if loop.unroll == 1:
        _count(loop.body, known, found)
        return
    bounds = [_number(v, known) for v in (loop.start, loop.stop, loop.step)]
    trips = range(*(int(b) for b in bounds if b is not None))
    if loop.unroll == 0:
        for index in trips:
            _count(loop.body, {**known, loop.body.params[0]: np.int32(index)}, found)
        return
    assert len(trips) % loop.unroll == 0, "no remainder"
    for _ in range(loop.unroll):
        _count(loop.body, known, found)


def _evaluate(op: Op, known: dict[Value, Any]) -> None:
    """Adds the result of scalar arithmetic to what is known."""
    if not op.pure or len(op.results) != 1 or not isinstance(op.results[0].type, ScalarType):
        return
    inputs = [_number(v, known) for v in op.inputs]
    if inputs and all(n is not None for n in inputs):
        known[op.results[0]] = op.evaluate(*inputs)


def _number(value: Value, known: dict[Value, Any]) -> Any:
    """The number that a value is known to be, or None."""
    if value in known:
        return known[value]
    number = constant_of(value)
    if number is None or not isinstance(value.type, ScalarType):
        return None
    return np.asarray(number, value.type.dtype.numpy)[()]


def _wide_access(op: Op) -> str:
    """The name under which an access of 16 bytes is counted; "" for anything else."""
    match op:
        case BufferCopy():
            return f"load_buffer_{WIDE}"
        case BufferLoad() if op.count * memory_type(op.registers).dtype.bytes == WIDE:
            return f"load_buffer_{WIDE}"
        case VectorLoad() if op.count * memory_type(op.memory).dtype.bytes == WIDE:
            return f"load_{_space(op)}_{WIDE}"
        case VectorStore() if op.count * memory_type(op.memory).dtype.bytes == WIDE:
            return f"store_{_space(op)}_{WIDE}"
    return ""


def _space(op: VectorLoad | VectorStore) -> Space:
    return memory_type(op.memory).space.value  # type: ignore[return-value]
