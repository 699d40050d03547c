"""Whether a launch gains by sharing its last wave (share_last_wave), at the sizes of a call."""

from __future__ import annotations

import math

from ..ir.core import walk
from ..ir.ops.control import For, Launch
from ..ir.ops.gemm import Gemm
from ..ir.types import MemoryType, Space
from ..target import Target
from .call_numbers import CallNumbers
from .last_wave import LastWave, Numbers, leaves_few

# Products that take as long as leaving and taking the parts, and the launch before,
_WORTH_IT = 5 * 2**23
_TORN = 2**25  # and more where a helper does steps of two tiles,
_STEP = 2**19  # and as many as a step takes as long as that has fewer: 300 clocks.
_IN_TURN = 50  # times less than all steps: what it costs blocks to run in turn, without roles


def sharable_loop(launch: Launch) -> For | None:
    """The loop whose sums may be shared, if the launch leaves that to the compiler: the only
    statement with products, which does nothing else with what they are added to."""
    if launch.stream_k is not None or launch.persistent is False or launch.cluster_blocks > 1:
        return None
    multiplying = [op for op in launch.body.ops if any(isinstance(x, Gemm) for x in op.walk())]
    loop = multiplying[0] if len(multiplying) == 1 else None
    if not isinstance(loop, For) or loop.kind != "pipelined":
        return None
    inner = tuple(walk(loop.body))
    sums = {op.accumulator for op in inner if isinstance(op, Gemm) and not op.clear}
    others = [op for op in inner if not isinstance(op, Gemm)]
    return loop if sums.isdisjoint(v for op in others for v in op.inputs) else None


def wave_gain(launch: Launch, numbers: CallNumbers, target: Target) -> float:
    """How many times as long the launch takes that does not share its last wave; 1 where sharing is
    no faster, or not all is known.

    It is where who helps has one or two tiles to help with, blocks are alone on their
    multiprocessors, and the products that the last wave is shorter by take longer than leaving and
    taking the parts, and, where blocks would not run in turn otherwise, than a fiftieth of all.
    Measured by code for sm_80 and sm_90a alone, on an H200 (docs/decisions.md 91)."""
    loop, extents = sharable_loop(launch), [numbers.of(extent) for extent in launch.grid]
    if loop is None or None in extents or not target.async_copy:
        return 1.0
    start, stop = numbers.of(loop.start), numbers.of(loop.stop)
    if start is None or stop is None:
        return 1.0
    workers, steps = target.multiprocessors, max(stop - start, 0)
    waves, rest = divmod(math.prod(extent or 0 for extent in extents), workers)
    wave, whole = LastWave.of(Numbers(), rest, steps, workers), (waves + 1) * steps
    worth_it = wave.given * max(_products(loop), _STEP) >= _WORTH_IT + _TORN * wave.torn
    in_turn = target.warp_roles or _IN_TURN * wave.given >= whole
    alone = 2 * _held(loop) > target.multiprocessor_shared_bytes
    if not (alone and leaves_few(rest, workers) and worth_it and in_turn):
        return 1.0
    return float(whole / (whole - wave.given))


def _products(loop: For) -> int:
    """How many products a step adds up."""
    return sum(op.products for op in loop.walk() if isinstance(op, Gemm))


def _held(loop: For) -> int:
    """Bytes of shared memory that the loop is going to hold."""
    used = {v: v.type for op in loop.walk() for v in op.inputs}
    buffers = [t for t in used.values() if isinstance(t, MemoryType) and t.space is Space.SHARED]
    bits = sum(math.prod(int(n) for n in t.shape) * t.dtype.bits for t in buffers)
    return max(loop.stages, 1) * bits // 8
