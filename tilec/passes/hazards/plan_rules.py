"""What a plan must obey on its face, without executing it.

- A channel has one writing and one reading stage; within a stage each put is followed by one commit
and each get by one
  free, at the stage's own level, and the slot is used between them (a deferred free keeps it to the
  stage's end).
- A stage that runs ahead neither takes nor gives values of the loop; a value of one stage is used
by stages with the same
  lead only.
- Memory outside channels that one stage writes is not used by a stage with another lead, nor by
another role.
- A tile in flight goes into the next gemm, a wait, or on into the next iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...errors import HazardError
from ...ir.core import Access, Block, Constant, Op, Value, walk
from ...ir.ops.control import For, If, Launch, Role, While, Yield
from ...ir.ops.gemm import Gemm
from ...ir.ops.pipeline import (
    CHANNEL_OPS,
    Channel,
    Commit,
    Free,
    Get,
    Pipeline,
    Put,
    Send,
    Stage,
    Wait,
)
from ...ir.types import InflightType, MemoryType

_WRITING = (Put, Commit, Send)


def check_rules(launch: Launch) -> None:
    """Raises HazardError (TLC0350, TLC0352, TLC0359) at the first rule that is broken."""
    names = {
        op.result: op.label or op.result.hint for op in walk(launch.body) if isinstance(op, Channel)
    }
    _check_ends(launch, names)
    for op in walk(launch.body):
        if isinstance(op, Stage):
            _check_stage(op, names)
        elif isinstance(op, Pipeline):
            _check_values(op)
            _check_order(op)
    _check_roles(launch)
    _check_inflight(launch.body)


@dataclass
class _Ends:
    writers: dict[Stage, None] = field(default_factory=dict)
    readers: dict[Stage, None] = field(default_factory=dict)


def _check_ends(launch: Launch, names: dict[Value, str]) -> None:
    """One writing and one reading stage a channel; its ops at the level of stages."""
    ends: dict[Value, _Ends] = {channel: _Ends() for channel in names}
    placed: set[Op] = set()
    for stage in (op for op in walk(launch.body) if isinstance(op, Stage)):
        for op in stage.body.ops:
            if isinstance(op, CHANNEL_OPS):
                placed.add(op)
                end = ends.setdefault(op.channel, _Ends())
                (end.writers if isinstance(op, _WRITING) else end.readers)[stage] = None
    for op in walk(launch.body):
        if isinstance(op, CHANNEL_OPS) and op not in placed:
            name = names.get(op.channel, "")
            raise _broken(f"{op.name} of {name} does not stand directly in a stage", op)
    for channel, end in ends.items():
        for what, stages in (("written", list(end.writers)), ("read", list(end.readers))):
            if len(stages) > 1:
                labels = " and ".join(s.label for s in stages)
                raise _broken(f"{names[channel]} is {what} by two stages, {labels}", stages[1])
        if bool(end.writers) != bool(end.readers):
            missing = "reads" if end.writers else "writes"
            stage = next(iter(end.writers or end.readers))
            raise _broken(f"no stage {missing} {names[channel]}", stage)


def _check_stage(stage: Stage, names: dict[Value, str]) -> None:
    """Pairs of put and commit, get and free, and uses of slots within them."""
    open_: dict[Value, Put | Get] = {}
    closed: dict[Value, Op] = {}
    slots: dict[Value, Value] = {}
    for op in stage.body.ops:
        for inner in op.walk():
            for value in inner.inputs:
                if value in slots and slots[value] in closed:
                    name, end = names[slots[value]], closed[slots[value]]
                    raise HazardError(
                        "TLC0352", f"{inner.name} uses {name} after its {end.name}", loc=inner.loc
                    )
        if isinstance(op, (Put, Get)):
            if op.channel in open_ or op.channel in closed:
                raise _broken(
                    f"a second {op.name} of {names[op.channel]} in stage {stage.label}", op
                )
            open_[op.channel] = op
            slots[op.result] = op.channel
        elif isinstance(op, (Commit, Free)):
            begun = open_.pop(op.channel, None)
            wanted = Put if isinstance(op, Commit) else Get
            if not isinstance(begun, wanted):
                raise _broken(f"a {op.name} of {names[op.channel]} without its {wanted.name}", op)
            if isinstance(op, Commit) or op.defer == 0:
                closed[op.channel] = op
    for channel, left in open_.items():
        missing = "commit" if isinstance(left, Put) else "free"
        raise _broken(f"a {left.name} of {names[channel]} without its {missing}", left)


def _check_values(pipeline: Pipeline) -> None:
    """Values of the loop and of stages against leads."""
    carried = set(pipeline.body.params[1:])
    made: dict[Value, Stage] = {}
    for stage in (op for op in pipeline.body.ops if isinstance(op, Stage)):
        for op in stage.body.ops:
            for inner in op.walk():
                for value in inner.inputs:
                    if value in carried and stage.lead:
                        what = "uses a value that the loop carries"
                        raise _broken(
                            f"stage {stage.label} runs {stage.lead} ahead and {what}", inner
                        )
                    other = made.get(value)
                    if other is not None and other.lead != stage.lead:
                        what = f"a value of stage {other.label}, which has another lead"
                        raise _broken(f"stage {stage.label} uses {what}", inner)
        made.update(dict.fromkeys(stage.results, stage))
    end = pipeline.body.terminator
    for value in end.inputs if end is not None else ():
        if value in made and made[value].lead:
            raise _broken(
                f"the loop carries a value of stage {made[value].label}, which runs ahead",
                made[value],
            )


def _touched(op: Op) -> Iterator[tuple[Value, bool, Op]]:
    """(memory, whether it is written, by what) for memory outside channels."""
    for inner in op.walk():
        for effect in inner.effects():
            if effect.memory is not None and isinstance(effect.memory.type, MemoryType):
                if effect.access in (Access.READ, Access.WRITE):
                    yield effect.memory, effect.access is Access.WRITE, inner


def _check_order(pipeline: Pipeline) -> None:
    """Memory outside channels keeps the order of the sequential loop only within one lead."""
    used: dict[Value, list[tuple[Stage, bool, Op]]] = {}
    for stage in (op for op in pipeline.body.ops if isinstance(op, Stage)):
        own = {op.result for op in stage.body.ops if isinstance(op, (Put, Get))}
        for memory, writes, op in _touched(stage):
            if memory in own:
                continue
            for other, wrote, _ in used.get(memory, ()):
                if other.lead != stage.lead and (writes or wrote):
                    name = memory.hint or "memory"
                    who = f"stages {other.label} and {stage.label}, which have different leads"
                    raise HazardError("TLC0352", f"{name} is used by {who}", loc=op.loc)
            used.setdefault(memory, []).append((stage, writes, op))


def _check_roles(launch: Launch) -> None:
    """Roles share channels, and memory that none of them writes."""
    owner: dict[Value, Role] = {}
    used: dict[Value, list[tuple[Role, bool]]] = {}
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    for role in roles:
        owner.update({v: role for op in walk(role.body) for v in op.results})
        for memory, writes, op in _touched(role):
            for other, wrote in used.get(memory, ()):
                if other is not role and (writes or wrote):
                    name = memory.hint or "memory"
                    who = f"roles {other.label} and {role.label}, and one of them writes it"
                    raise HazardError("TLC0350", f"{name} is used by {who}", loc=op.loc)
            if (role, writes) not in used.setdefault(memory, []):
                used[memory].append((role, writes))
    for role in roles:
        for op in walk(role.body):
            for value in op.inputs:
                if not isinstance(value, Constant) and owner.get(value, role) is not role:
                    raise _broken(
                        f"role {role.label} uses a value of role {owner[value].label}", op
                    )
    if roles:
        _check_outside(launch)


def _check_outside(launch: Launch) -> None:
    for op in launch.body.ops:
        if not isinstance(op, (Role, Channel, Yield)) and any(True for _ in _touched(op)):
            raise _broken(f"{op.name} stands beside the roles", op)


def _check_inflight(block: Block) -> None:
    """Who may use a tile in flight."""
    for op in walk(block):
        allowed = isinstance(op, (Wait, Yield, For, While, If, Pipeline))
        for value in op.inputs:
            if isinstance(value.type, InflightType) and not allowed:
                if not (isinstance(op, Gemm) and value is op.accumulator and op.asynchronous):
                    raise HazardError(
                        "TLC0359", f"{op.name} uses a tile that is still in flight", loc=op.loc
                    )


def _broken(message: str, op: Op) -> HazardError:
    return HazardError("TLC0350", message, loc=op.loc)
