"""Reductions and scans: NumPy's, in the dtype that the op accumulates in."""

from __future__ import annotations

from ..ir.conversion import convert_array
from ..ir.core import Op, Value
from ..ir.ops.reduce import Reduce, Reduction
from ..ir.types import MemoryType
from .frame import Frame
from .numbers import Array
from .regions import read_region, whole, write_region
from .tiles import collective


def run_reduction(frame: Frame, op: Op) -> None:
    """Joins elements of a tile or memory, as a new tile or into memory."""
    assert isinstance(op, Reduction)
    collective(frame, op)
    inputs = [_elements(frame, op.source, op)]
    if isinstance(op, Reduce) and not op.clear:
        inputs += [_elements(frame, v, op) for v in op.destination]
    found = op.evaluate(*inputs)
    if not op.destination:
        frame.define(op.result, found)
        return
    memory = frame.memory(op.destination[0])
    write_region(frame, whole(memory), convert_array(found, memory.dtype), None)


def _elements(frame: Frame, value: Value, op: Reduction) -> Array:
    """All elements, every one of them initialised."""
    if isinstance(value.type, MemoryType):
        data, bad = read_region(frame, whole(frame.memory(value)), 0.0)
    else:
        data, bad = frame.tile(value), frame.shadow.get(value)
    frame.arrive(bad, f"a {op.name}")
    return data
