"""Whether launches gain by sharing their last wave (share_last_wave), at the sizes of a call.

It is asked of the program as it was traced, so that a call of new sizes costs no pass. Whether a last
wave can be shared is seen later, by the pass; one that cannot stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from ..ir.core import Op, Program, Value, constant_of, walk
from ..ir.ops.arith import Elementwise, element_dtype
from ..ir.ops.control import IF_POSSIBLE, Define, For, Launch, Symbol
from ..ir.ops.gemm import Gemm
from ..ir.rewrite import in_order
from ..ir.types import MemoryType, ScalarType, Space
from ..target import Target
from .last_wave import LastWave, Numbers, leaves_few

# Products that take as long as leaving and taking the parts, and the launch before,
_WORTH_IT = 5 * 2**23
_TORN = 2**25  # and more where a helper does steps of two tiles,
_STEP = 2**19  # and as many as a step takes as long as that has fewer: 300 clocks.
_IN_TURN = 50  # times less than all steps: what it costs blocks to run in turn, without roles


def sizes_matter(program: Program) -> bool:
    """Whether a launch may share its last wave or not, by the sizes of a call."""
    return any(True for _ in _candidates(program))


def with_last_waves(program: Program, sizes: Mapping[str, int], target: Target) -> Program:
    """The program whose launches share their last wave, if that is possible, where they gain by it
    at these sizes (of symbols and scalar parameters, by name) on the GPU that is here; the same
    object for the same choice. Others are as they were."""
    if not (target.present and target.async_copy and target.multiprocessors):
        return program
    chosen = tuple(
        place
        for place, launch, loop in _candidates(program)
        if _gains(launch, loop, _Numbers(sizes, program, launch), target)
    )
    made: Program | None = program.made.get(chosen) if chosen else program
    return made or program.made.setdefault(chosen, _sharing(program, chosen))


def _sharing(program: Program, launches: tuple[int, ...]) -> Program:
    ops = [
        op.replace(stream_k=IF_POSSIBLE) if place in launches else op
        for place, op in enumerate(program.body.ops)
    ]
    return program.with_body(program.body.with_ops(ops))


def _candidates(program: Program) -> Iterator[tuple[int, Launch, For]]:
    """The launches that may share their last wave, with their places and loops."""
    for place, op in enumerate(program.body.ops):
        loop = _candidate(op) if isinstance(op, Launch) else None
        if loop is not None:
            assert isinstance(op, Launch)
            yield place, op, loop


def _candidate(launch: Launch) -> For | None:
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


def _gains(launch: Launch, loop: For, numbers: _Numbers, target: Target) -> bool:
    """Whether sharing is faster: who helps has one or two tiles to help with, blocks are alone on
    their multiprocessors, and the products that the last wave is shorter by take longer than leaving
    and taking the parts, and, where blocks would not run in turn otherwise, than a fiftieth of all.
    Measured by code for sm_80 and sm_90a alone, on an H200 (docs/decisions.md 91)."""
    extents = [numbers.of(extent) for extent in launch.grid]
    start, stop = numbers.of(loop.start), numbers.of(loop.stop)
    if start is None or stop is None or None in extents:
        return False
    workers, steps = target.multiprocessors, max(stop - start, 0)
    waves, rest = divmod(math.prod(extent or 0 for extent in extents), workers)
    wave = LastWave.of(Numbers(), rest, steps, workers)
    worth_it = wave.given * max(_products(loop), _STEP) >= _WORTH_IT + _TORN * wave.torn
    in_turn = target.warp_roles or _IN_TURN * wave.given >= (waves + 1) * steps
    alone = 2 * _held(loop) > target.multiprocessor_shared_bytes
    return alone and leaves_few(rest, workers) and worth_it and in_turn


def _products(loop: For) -> int:
    """How many products a step adds up."""
    gemms = [op for op in loop.walk() if isinstance(op, Gemm)]
    return sum(op.matrix("a").mn * op.matrix("a").k * op.matrix("b").mn for op in gemms)


def _held(loop: For) -> int:
    """Bytes of shared memory that the loop is going to hold."""
    used = {v: v.type for op in loop.walk() for v in op.inputs}
    buffers = [t for t in used.values() if isinstance(t, MemoryType) and t.space is Space.SHARED]
    bits = sum(math.prod(int(n) for n in t.shape) * t.dtype.bits for t in buffers)
    return max(loop.stages, 1) * bits // 8


class _Numbers:
    """What integers of a program are at the sizes of a call, each computed once."""

    def __init__(self, sizes: Mapping[str, int], program: Program, launch: Launch) -> None:
        self.sizes = sizes
        self.labels = {op.label: op.value for op in program.body.ops if isinstance(op, Define)}
        ops = (*program.body.ops, *launch.body.ops)
        self.defined: dict[Value, Op] = {result: op for op in ops for result in op.results}
        self.known: dict[Value, int | None] = {}

    def of(self, value: Value) -> int | None:
        """A number, or None for what is not known: the index of a block, an element of a tensor."""
        for one in in_order(value, self.known, self._made_of):
            self.known[one] = self._number(one)
        return self.known[value]

    def _made_of(self, value: Value) -> tuple[Value, ...]:
        """The values that one is computed from."""
        op = self.defined.get(value)
        if isinstance(op, Symbol):
            return (self.labels[op.label],) if op.label in self.labels else ()
        return op.inputs if isinstance(op, Elementwise) and op.pure else ()

    def _number(self, value: Value) -> int | None:
        number = constant_of(value)
        if number is not None:
            return int(number)
        op, parts = self.defined.get(value), self._made_of(value)
        if op is None:
            return self.sizes.get(value.hint) if isinstance(value.type, ScalarType) else None
        numbers = [self.known[v] for v in parts]
        if isinstance(op, Symbol):
            return numbers[0] if parts else self.sizes.get(op.label)
        if not parts or None in numbers:
            return None
        arrays = [element_dtype(v).numpy.type(n) for v, n in zip(parts, numbers, strict=True)]
        assert isinstance(op, Elementwise)
        return int(op.evaluate(*arrays))
