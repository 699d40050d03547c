"""What launches leave to the sizes of a call: whether they share their last wave (wave_gains), and in
which clusters their blocks run (cluster_gains).

It is asked of the program as it was traced, so that a call of new sizes costs no pass. Whether it is
possible is seen later, by the passes; what is not stays as it is, and every text is right for all
sizes. A launch in clusters shares no last wave: it gets what it gains more by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..ir.core import Program
from ..ir.ops.control import IF_POSSIBLE, Launch
from ..target import Target
from .call_numbers import CallNumbers
from .cluster_gains import cluster_gain, may_be_clustered
from .wave_gains import sharable_loop, wave_gain


def sizes_matter(program: Program, target: Target) -> bool:
    """Whether a launch may be another one by the sizes of a call."""
    return any(True for _ in _open_launches(program, target))


def for_sizes(program: Program, sizes: Mapping[str, int], target: Target) -> Program:
    """The program whose launches are what they gain by at these sizes (of symbols and scalar
    parameters, by name) on the GPU that is here; the same object for the same choices. Others are
    as they were."""
    if not (target.present and target.multiprocessors):
        return program
    choices = {
        place: _chosen(launch, CallNumbers(sizes, program, launch), target)
        for place, launch in _open_launches(program, target)
    }
    chosen = tuple((place, choice) for place, choice in choices.items() if choice is not None)
    made: Program | None = program.made.get(chosen) if chosen else program
    return made or program.made.setdefault(chosen, _with(program, dict(chosen)))


Choice = tuple[str, object]
"""An attribute of a launch, and what it becomes."""


def _chosen(launch: Launch, numbers: CallNumbers, target: Target) -> Choice | None:
    """What a launch gains most by."""
    cluster, less = cluster_gain(launch, numbers, target)
    if wave_gain(launch, numbers, target) > less:
        return "stream_k", IF_POSSIBLE
    return ("cluster", cluster) if less > 1 else None


def _with(program: Program, choices: Mapping[int, Choice]) -> Program:
    ops = [
        op.replace(**dict([choices[place]])) if place in choices else op
        for place, op in enumerate(program.body.ops)
    ]
    return program.with_body(program.body.with_ops(ops))


def _open_launches(program: Program, target: Target) -> Iterator[tuple[int, Launch]]:
    """The launches to which sizes matter, with their places."""
    for place, op in enumerate(program.body.ops):
        if isinstance(op, Launch) and (may_be_clustered(op, target) or sharable_loop(op)):
            yield place, op
