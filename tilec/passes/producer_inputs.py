"""What a producer has to know: which tiles to load, and how often the loops around them run.

It runs beside the consumers and computes that by itself: from arguments, from memory that the launch
does not write, and from variables, of which each thread has its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import Loc
from ..ir.core import Access, Op, Value, walk
from ..ir.ops.control import Launch
from ..ir.ops.memory import Load
from ..ir.ops.pipeline import Pipeline, Stage
from ..ir.rewrite import defining_ops
from ..ir.types import ScalarType
from .dependence import computes_alone, is_local, writes


def producer_refusal(launch: Launch, loads: Iterable[Stage]) -> tuple[str, Loc] | None:
    """Why a producer cannot find out by itself what the stages `loads` load, and where; None if it
    can. The scalars that a loop or a branch around them carries count as needed.
    """
    written = writes(launch)
    makers = defining_ops(launch.body)
    around: dict[Op, Op] = {}
    stores: dict[Value, list[Op]] = {}
    for op in walk(launch.body):
        for region in op.regions:
            around.update((inner, op) for inner in region.ops)
            makers.update((param, op) for param in region.params)
        for effect in op.effects():
            if effect.access is Access.WRITE and effect.memory is not None:
                stores.setdefault(effect.memory, []).append(op)
    work = [op for stage in loads for op in stage.walk()]
    given = {launch, *work}
    seen: set[Op] = set()
    while work:
        op = work.pop()
        if op in seen or op is launch:
            continue
        seen.add(op)
        if op not in given and not (computes_alone(op) or isinstance(op, Pipeline)):
            return (
                f"what is loaded depends on {op.name}, which only the program's threads do",
                op.loc,
            )
        if isinstance(op, Load) and is_local(op.memory):
            work += stores.get(op.memory, [])
        elif isinstance(op, Load) and op.memory in written:
            name = op.memory.hint or "memory"
            return f"what is loaded depends on {name}, which the launch writes", op.loc
        ends = [region.terminator for region in op.regions if region.terminator is not None]
        values = [v for o in (op, *ends) for v in o.inputs if isinstance(v.type, ScalarType)]
        work += [makers[v] for v in values if v in makers]
        work += [around[op]] if op in around else []
    return None
