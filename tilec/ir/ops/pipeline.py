"""A planned loop: stages joined by channels (design D4, docs/pipelines.md).

    %ca = channel : channel<4> shared f16[128, 64]
    %out = pipeline %lo, %hi, [%acc0] (%k: i32, %acc: tile f32[128, 256]) {
      stage <label = "load", lead = 3> { %s = put %ca ; copy %A[%m, %k64] -> %s[0, 0] ; commit %ca ;
      yield } %n = stage <label = "mma", lead = 0> { %a = get %ca ; %x = gemm %a, ... ; free %ca ;
      yield %x } yield %n
    }

Stage s runs its iteration i as soon as the last stage runs i - lead(s): in one thread program the
stages are interleaved with those leads, across roles each runs as far ahead as its channels let it.
Meaning: the sequential loop.
"""

from __future__ import annotations

from ...errors import TypeMismatch
from ..core import Access, Block, Effect, Level, Op, Value, attribute, operand, operands, region
from ..types import ChannelType, InflightType, TileType, Type


def channel_type(value: Value) -> ChannelType:
    """The type of a channel. Raises TypeMismatch for anything else."""
    if isinstance(value.type, ChannelType):
        return value.type
    raise TypeMismatch("TLC0250", f"a {value.type} is not a channel")


class Channel(Op, name="channel", level=Level.TILE):
    """A ring of buffers. `label` is the user's name of the buffer."""

    type: ChannelType = attribute()
    label: str = attribute(default="")

    def infer(self) -> tuple[Type, ...]:
        return (self.type,)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.ALLOCATE),)


class Pipeline(Op, name="pipeline", level=Level.TILE):
    """The loop for index = start ... stop-1, its body a list of stages and a yield of the carried
    values.
    """

    start: Value = operand()
    stop: Value = operand()
    inits: tuple[Value, ...] = operands()
    body: Block = region()

    def infer(self) -> tuple[Type, ...]:
        return tuple(p.type for p in self.body.params[1:])


class Stage(Op, name="stage", level=Level.TILE):
    """A part of the body that runs `lead` iterations ahead of the last stage. `role` is the label
    of who runs it.
    """

    body: Block = region()
    label: str = attribute()
    lead: int = attribute(default=0)
    role: str = attribute(default="")

    def infer(self) -> tuple[Type, ...]:
        end = self.body.terminator
        return tuple(v.type for v in end.inputs) if end is not None else ()


class _ChannelOp(Op):
    channel: Value

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE, self.channel),)


class Put(_ChannelOp, name="put", level=Level.TILE):
    """The next buffer to write, once it is free. Ends with `commit`."""

    channel: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (channel_type(self.channel).memory,)


class Commit(_ChannelOp, name="commit", level=Level.TILE):
    """What was put last may be got: now, or once the asynchronous copies into it have landed."""

    channel: Value = operand()


class Get(_ChannelOp, name="get", level=Level.TILE):
    """The oldest buffer not yet got, once its data is there. Ends with `free`."""

    channel: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (channel_type(self.channel).memory,)


class Free(_ChannelOp, name="free", level=Level.TILE):
    """The buffer got `defer` iterations ago may be put again (a deferral: an asynchronous reader of
    it is in flight).
    """

    channel: Value = operand()
    defer: int = attribute(default=0)


class Send(_ChannelOp, name="send", level=Level.TILE):
    """Puts a tile into a channel of registers."""

    channel: Value = operand()
    tile: Value = operand()


class Receive(_ChannelOp, name="receive", level=Level.TILE):
    """The tile that was sent first and not yet received."""

    channel: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        return (channel_type(self.channel).memory,)


class Wait(Op, name="wait", level=Level.TILE):
    """The tile that was in flight, once at most `pending` asynchronous groups are. `later` groups
    were issued after the tile's own: it is complete if no more than those may still be in flight.
    """

    inflight: Value = operand()
    pending: int = attribute(default=0)
    later: int = attribute(default=0)

    @property
    def completes(self) -> bool:
        """Whether the result is the tile, no longer in flight."""
        return self.pending <= self.later

    def infer(self) -> tuple[Type, ...]:
        type_ = self.inflight.type
        if not isinstance(type_, InflightType):
            raise TypeMismatch("TLC0251", f"a {type_} is not in flight")
        return (type_.tile if self.completes else type_,)

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


class InFlight(Op, name="in_flight", level=Level.TILE, pure=True):
    """A tile as one in flight, with nothing under way: where a loop or a branch that issues products
    into it carries it so.
    """

    tile: Value = operand()

    def infer(self) -> tuple[Type, ...]:
        if not isinstance(self.tile.type, TileType):
            raise TypeMismatch("TLC0251", f"a {self.tile.type} is no tile to be in flight")
        return (InflightType(self.tile.type),)


class WaitGemms(Op, name="wait_gemms", level=Level.TILE):
    """At most `pending` of the asynchronous products of these threads are in flight from here on.
    promote_fragments turns it into a `wait` of each fragment that is in flight.
    """

    pending: int = attribute()

    def effects(self) -> tuple[Effect, ...]:
        return (Effect(Access.SYNCHRONISE),)


CHANNEL_OPS = (Put, Commit, Get, Free, Send, Receive)
"""What the ends of a channel do."""

OPS: tuple[type[Op], ...] = (
    Channel, Pipeline, Stage, Put, Commit, Get, Free, Send, Receive, Wait, InFlight, WaitGemms,
)  # fmt: skip
