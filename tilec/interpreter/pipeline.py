"""Planned loops: stages interleaved by their leads, each iteration's values kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..ir.core import Op, Value
from ..ir.ops.pipeline import Pipeline, Stage
from ..ir.types import ScalarType
from .control import Steps
from .frame import Frame, Pair


@dataclass(frozen=True, eq=False)
class _Part:
    """A stage with the scalar ops that stand before it."""

    ops: tuple[Op, ...]
    lead: int


@dataclass(eq=False)
class _Loop:
    """The values that each iteration in flight has produced; `carried[i]` what iteration i starts
    with.
    """

    op: Pipeline
    made: dict[int, dict[Value, Pair]] = field(default_factory=dict)
    carried: dict[int, dict[int, Pair]] = field(default_factory=dict)
    local: frozenset[Value] = frozenset()

    def finish_part(self, frame: Frame, iteration: int, part: _Part) -> None:
        """Keeps what a part gave, and hands on what the next iteration may now have."""
        made = self.made.setdefault(iteration, {})
        for op in part.ops:
            for v in op.results:
                made[v] = frame.pair(v)
        self.hand_on(frame, iteration)

    def hand_on(self, frame: Frame, iteration: int) -> None:
        end = self.op.body.terminator
        params = self.op.body.params[1:]
        following = self.carried.setdefault(iteration + 1, {})
        for position, v in enumerate(end.inputs if end is not None else ()):
            if v in params:
                source = self.carried.get(iteration, {}).get(params.index(v))
            elif v in self.local:
                source = self.made.get(iteration, {}).get(v)
            elif v is self.op.body.params[0]:
                source = (self._index(frame, iteration), None)
            else:
                source = frame.pair(v)
            if source is not None:
                following[position] = source

    def enter(self, frame: Frame, iteration: int) -> None:
        """Sets the values of an iteration; what has not been made yet is absent."""
        frame.define(self.op.body.params[0], self._index(frame, iteration))
        if iteration > 0:
            self.hand_on(frame, iteration - 1)
        ready = self.carried.get(iteration, {})
        for position, param in enumerate(self.op.body.params[1:]):
            _set(frame, param, ready.get(position))
        made = self.made.get(iteration, {})
        for v in self.local:
            _set(frame, v, made.get(v))

    def _index(self, frame: Frame, iteration: int) -> np.generic:
        index = self.op.body.params[0]
        assert isinstance(index.type, ScalarType)
        start = frame.number(self.op.start, "a loop bound")
        kind = index.type.dtype.numpy.type
        number: np.generic = frame.run.lasting.scalar(kind, start + iteration)
        return number


def _set(frame: Frame, v: Value, pair: Pair | None) -> None:
    if pair is None:
        frame.env.pop(v, None)
        frame.shadow.pop(v, None)
    else:
        frame.define(v, *pair)


def run_pipeline(frame: Frame, op: Op) -> Steps:
    """The loop. At each step every stage runs the iteration that its lead gives, in the order of
    the body.
    """
    assert isinstance(op, Pipeline)
    count = max(0, frame.number(op.stop, "a loop bound") - frame.number(op.start, "a loop bound"))
    parts = _parts(op)
    loop = _Loop(op, local=frozenset(r for inner in op.body.ops for r in inner.results))
    loop.carried[0] = {n: frame.pair(v) for n, v in enumerate(op.inits)}
    leads = [p.lead for p in parts] or [0]
    for step in range(-max(leads), count - min(leads)):
        for part in parts:
            iteration = step + part.lead
            if not 0 <= iteration < count:
                continue
            loop.enter(frame, iteration)
            for inner in part.ops:
                yield from frame.execute_op(inner)
            loop.finish_part(frame, iteration, part)
        old = step + min(leads) - 1
        loop.made.pop(old, None)
        loop.carried.pop(old, None)
    if count > 0:
        loop.hand_on(frame, count - 1)
    last = loop.carried.get(count, {})
    for position, result in enumerate(op.results):
        _set(frame, result, last.get(position))


def _parts(op: Pipeline) -> tuple[_Part, ...]:
    parts: list[_Part] = []
    ahead: list[Op] = []
    for inner in op.body.ops:
        if inner.terminator:
            continue
        ahead.append(inner)
        if isinstance(inner, Stage):
            parts.append(_Part(tuple(ahead), inner.lead))
            ahead = []
    if ahead:
        parts.append(_Part(tuple(ahead), parts[-1].lead if parts else 0))
    return tuple(parts)


def run_stage(frame: Frame, op: Op) -> Steps:
    assert isinstance(op, Stage)
    pairs = yield from frame.execute(op.body)
    frame.define_all(op.results, pairs)
