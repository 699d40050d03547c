"""Which memory ops access, and in which space it lies."""

from __future__ import annotations

from .core import Access, Op, Value
from .types import MemoryType, Space


def touched(op: Op, access: Access) -> dict[Value, None]:
    """Memory handles that `op`, or an op in its regions, accesses so, in order."""
    return {
        effect.memory: None
        for inner in op.walk()
        for effect in inner.effects()
        if effect.access is access and effect.memory is not None
    }


def space_of(value: Value) -> Space | None:
    """Where the memory lies that `value` is a handle of; None for what is none."""
    return value.type.space if isinstance(value.type, MemoryType) else None
