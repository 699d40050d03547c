"""What to call values that nobody named, after what they are used for.

A value compared with the extent M of a tensor is an `m`, an index into A_s an `A_s_index`, the
bound of a loop over k its `k_end`. A name that the program gave goes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..ir.core import Constant, Op, Value
from ..ir.ops.arith import Compare
from ..ir.ops.control import For, Symbol
from ..ir.ops.memory import Flatten

Suggest = Callable[[Value, str], None]

_INDICES = {
    "indices": ("memory", "buffer"),
    "source_indices": ("source",),
    "destination_indices": ("destination",),
}
"""Fields that hold an index, with the fields of the memory that it is into."""


def suggest_names(ops: Iterable[Op], suggest: Suggest) -> None:
    """Calls `suggest(value, name)` for values without a hint; of several names the first rules."""
    found: dict[Value, str] = {}
    symbols: dict[Value, str] = {}
    rows: dict[Value, str] = {}  # views that print as the memory they are of
    for op in ops:
        match op:
            case Symbol():
                symbols[op.result] = op.label
            case Flatten():
                rows[op.result] = op.memory.hint or rows.get(op.memory, "")
            case Compare() if op.predicate == "lt" and op.y in symbols:
                found[op.x] = symbols[op.y].lower()  # says more than an index does
            case For():
                found.setdefault(op.stop, f"{op.body.params[0].hint or 'i'}_end")
            case _:
                for value, name in _indices(op, rows):
                    found.setdefault(value, name)
    for value, name in found.items():
        if not value.hint and not isinstance(value, Constant):
            suggest(value, name)


def _indices(op: Op, rows: Mapping[Value, str]) -> Iterable[tuple[Value, str]]:
    """The index of each memory that an op touches by one."""
    for field, kind in op.fields:
        if kind != "operands" or field not in _INDICES or len(getattr(op, field)) != 1:
            continue
        memory = next((getattr(op, m) for m in _INDICES[field] if hasattr(op, m)), None)
        name = (memory.hint or rows.get(memory, "")) if isinstance(memory, Value) else ""
        if name:
            yield getattr(op, field)[0], f"{name}_index"
