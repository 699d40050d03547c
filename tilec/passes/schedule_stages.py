"""When each stage runs: how many iterations ahead of the last one, and in which order within a
step.

Needs: slots fitted, gemms issued. Leaves: `lead` set on every stage, the stages of a pipeline in
the order in which one step of the interleaved loop runs them, and channels with no more slots than
the leads use.

In one thread program step s runs iteration s + lead of each stage. A stage that loads runs as far
ahead as its channels have slots; one that prepares shared memory for a matrix op runs one iteration
ahead if its channel has two. Order: loads first (they take longest), then by rising lead, so that a
gemm is issued before the next iteration's preparation overlaps it. A stage in a role of its own
needs no lead: its channels let it run ahead.

    channel %c <4 slots> ... pipeline 0, %n {               channel %c <4 slots> ... pipeline 0, %n {
      stage <label = "load"> { put %c ... }            ->    stage <label = "load", lead = 3> { put %c ... }
      stage <label = "mma"> { get %c ... } }                 stage <label = "mma"> { get %c ... } }
"""

from __future__ import annotations

from ..ir.core import Block, Op, Program, Value, walk
from ..ir.ops.control import Launch, Yield, map_launches
from ..ir.ops.pipeline import Channel, Free, Get, Pipeline, Put, Receive, Send, Stage, channel_type
from .context import PassContext
from .protocols import with_slots

LOADS = ("load", "fetch", "deposit")


def schedule_stages(program: Program, context: PassContext) -> Program:
    """Chooses leads and orders, and trims channels to them."""
    return map_launches(program, _launch)


def _launch(launch: Launch) -> Launch:
    needed: dict[Value, int] = {}

    def block(body: Block) -> Block:
        return body.with_ops(
            [
                _schedule(op, needed) if isinstance(op, Pipeline) else op.map_regions(block)
                for op in body.ops
            ]
        )

    return _trimmed(launch.replace(body=block(launch.body)), needed)  # type: ignore[arg-type]


def _schedule(pipeline: Pipeline, needed: dict[Value, int]) -> Pipeline:
    stages = [op for op in pipeline.body.ops if isinstance(op, Stage)]
    writers = {c: s for s in stages for c in _channels(s, Put)}
    readers = {c: s for s in stages for c in _channels(s, Get)}
    inside = [
        c for c in writers if c in readers
    ]  # channels that this thread program both fills and drains
    leads: dict[int, int] = {id(s): 0 for s in stages}
    for stage in stages:
        made = [c for c in inside if writers[c] is stage]
        if (
            made
            and not _is_load(stage)
            and all(channel_type(c).slots > 1 for c in made)
            and _can_lead(stage, leads)
        ):
            leads[id(stage)] = 1
    for stage in stages:
        made = [c for c in inside if writers[c] is stage]
        if made and _is_load(stage):
            leads[id(stage)] = min(channel_type(c).slots - 1 + leads[id(readers[c])] for c in made)
    _limit(stages, inside, writers, readers, leads)
    for stage in stages:
        for channel in _channels(stage, Send):
            receiver = next(s for s in stages if channel in _channels(s, Receive))
            leads[id(stage)] = leads[id(receiver)] + 1
    for channel in inside:
        writer, reader = writers[channel], readers[channel]
        ahead = leads[id(writer)] - leads[id(reader)]
        fills_first = _is_load(writer) or ahead == 0  # in a step: see _ordered
        needed[channel] = max(1, ahead + 1, ahead + lag(reader, channel) + fills_first)
    return _ordered(pipeline, stages, leads)


def lag(reader: Stage, channel: Value) -> int:
    """How many iterations late a slot is freed, since a product in flight reads it."""
    frees = [op for op in walk(reader.body) if isinstance(op, Free) and op.channel is channel]
    return max((op.defer for op in frees), default=0)


def _limit(
    stages: list[Stage],
    inside: list[Value],
    writers: dict[Value, Stage],
    readers: dict[Value, Stage],
    leads: dict[int, int],
) -> None:
    """A stage that prepares data cannot lead more than what it reads: then it does not lead at
    all.
    """
    for stage in stages:
        sources = [leads[id(writers[c])] for c in inside if readers[c] is stage]
        if leads[id(stage)] and any(lead < leads[id(stage)] for lead in sources):
            leads[id(stage)] = 0
            for channel in inside:
                if readers[channel] is stage:
                    writer = writers[channel]
                    made = [c for c in inside if writers[c] is writer]
                    leads[id(writer)] = min(
                        channel_type(c).slots - 1 + leads[id(readers[c])] for c in made
                    )


def _can_lead(stage: Stage, leads: dict[int, int]) -> bool:
    """A stage can run ahead if no value of it but channels is used by others."""
    return not stage.results and id(stage) in leads


def _is_load(stage: Stage) -> bool:
    return stage.label.startswith(LOADS)


def _channels(stage: Stage, kind: type[Op]) -> list[Value]:
    return [op.channel for op in walk(stage.body) if isinstance(op, kind)]  # type: ignore[attr-defined]


def _ordered(pipeline: Pipeline, stages: list[Stage], leads: dict[int, int]) -> Pipeline:
    """Loads (deposits before fetches, which refill their registers), then the rest by rising
    lead.
    """

    def rank(stage: Stage) -> tuple[int, int]:
        lead = leads[id(stage)]
        if _is_load(stage):
            return (0, lead)
        return (1, lead)

    placed = [s.replace(lead=leads[id(s)]) for s in sorted(stages, key=rank)]
    rest = [op for op in pipeline.body.ops if not isinstance(op, (Stage, Yield))]
    end = pipeline.body.terminator
    assert end is not None
    return pipeline.replace(body=Block(pipeline.body.params, (*rest, *placed, end)))  # type: ignore[return-value]


def _trimmed(launch: Launch, needed: dict[Value, int]) -> Launch:
    """Channels with the slots that the schedule uses."""
    channels = [op for op in launch.body.ops if isinstance(op, Channel) and op.result in needed]
    fewer = {c: needed[c.result] for c in channels if needed[c.result] < c.type.slots}
    return with_slots(launch, fewer)
