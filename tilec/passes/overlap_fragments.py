"""Matrix instructions run one trip behind their fragment loads, over the barrier of the loop around
them too, so that neither a load's latency nor the barrier leaves the matrix units idle.

Needs: thread level, before memory is flattened. Leaves: fragments in two buffers, one that is
loaded while the other is multiplied; the last trip's matrix instructions after the outer loop.

    for 0, %n, 1 (%k) {                          fill_registers %a, 0, 0.0 <count = 2 * 16>
      barrier                                    for 0, %n, 1 (%k) {
      %a = alloc f16[16]                           barrier
      for 0, 4, 1 <unroll = 0> (%kk) {             for 0, 4, 1 <unroll = 0> (%kk) {
        ldmatrix %a, 0, %A[... %kk ...]    ->        ldmatrix %a, (%kk & 1) * 16, %A[... %kk ...]
        mma %acc, 0, %a, 0, ... } }                  mma %acc, 0, %a, ((%kk + 1) & 1) * 16, ... } }
                                                 mma %acc, 0, %a, 16, ...

Only instructions on registers move, so memory and its synchronisation stay as they were. Before the
first trip the fragments are zeros, whose products add nothing: a branch there would keep the C
compiler from mixing the instructions. It pays only where the loop around synchronises; inside one
trip the C compiler reorders by itself. (The scheme is that of register-level software pipelining in
dense GEMMs, e.g. Kerr et al., "CUTLASS: Fast Linear Algebra in CUDA C++", 2017.)

Zeros added to -0.0 give +0.0. So where a loop may not run, and accumulators may hold -0.0 before it, the
last trip's matrix instructions stand under the condition that it does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.clone import clone_op
from ..ir.core import Access, Block, Constant, Level, Op, Program, Value, at, constant_of, walk
from ..ir.dtypes import bool_
from ..ir.ops import arith
from ..ir.ops.control import For, Launch, Role, map_launches
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.nvidia import LdMatrix, Mma
from ..ir.ops.thread import Barrier, FillRegisters, VectorLoad
from ..ir.rewrite import defining_ops, free_values, substitute, uses
from ..ir.types import MemoryType, Space
from .context import PassContext
from .mixed_products import FRAGMENT_LOADS, mixed
from .spread_copies import holds, unrolled_trips
from .vector_access import is_zeros

ADDRESSES = 56  # registers kept for addresses, predicates and counters beside arrays,
BY_ELEMENTS = 16  # and so many more where lanes read elements: the C compiler reads some ahead
BUFFERS = 2


def overlap_fragments(program: Program, context: PassContext) -> Program:
    """Overlaps the matrix loops of every launch where registers suffice."""
    assert program.level is Level.THREAD, "overlap_fragments works on threads' programs"
    return map_launches(
        program,
        lambda launch: launch.map_regions(_Overlap(_register_limit(launch, context)).block),
    )


def _register_limit(launch: Launch, context: PassContext) -> int:
    """Registers that one thread may have, where no role says otherwise."""
    threads = launch.launched_threads or launch.threads
    return min(context.target.max_registers, context.target.registers // threads)


@dataclass(frozen=True)
class _Plan:
    """One loop of trips in one loop of steps: fragments, the ops of a trip that move (they stand
    together).
    """

    trips: For
    fragments: tuple[Alloc, ...]
    multiply: tuple[Op, ...]
    from_zero: bool
    """Whether adding zeros to the accumulators as the loop finds them leaves their bits alone."""


class _Overlap:
    def __init__(self, registers: int) -> None:
        self.registers = registers

    def block(self, block: Block) -> Block:
        b = Builder()
        for place, op in enumerate(block.ops):
            if isinstance(op, Role):
                limit = op.registers or self.registers
                b.emit(op.map_regions(_Overlap(limit).block))
                continue
            op = op.map_regions(self.block)
            plan = self._plan(op, block.ops[:place]) if isinstance(op, For) else None
            if plan is None:
                b.emit(op)
            else:
                assert isinstance(op, For)
                with at(plan.trips.loc):
                    _emit(b, op, plan)
        return block.with_ops(b.ops)

    def _plan(self, steps: For, before: Sequence[Op]) -> _Plan | None:
        """How a loop behind some ops of its block is overlapped; None where it cannot be, or where it would not pay."""
        if steps.unroll != 1 or not any(isinstance(op, Barrier) for op in steps.body.ops):
            return None
        found = [op for op in steps.body.ops if unrolled_trips(op) and holds(op, Mma)]
        if len(found) != 1 or unrolled_trips(found[0]) % BUFFERS:
            return None  # an odd number of trips would find the buffers exchanged in the next step
        trips = found[0]
        assert isinstance(trips, For)
        matrix = [i for i, op in enumerate(trips.body.ops) if holds(op, Mma)]
        load = trips.body.ops[: matrix[0]]
        multiply = trips.body.ops[matrix[0] : matrix[-1] + 1]
        names = dict.fromkeys(v for op in walk(Block((), multiply)) for v in _operands(op))
        allocs = {op.result: op for op in steps.body.ops if isinstance(op, Alloc)}
        fragments = tuple(allocs[name] for name in names if name in allocs)
        accumulators = {op.accumulator for op in walk(Block((), multiply)) if isinstance(op, Mma)}
        from_zero = all(_is_cleared(array, before) for array in accumulators)
        plan = _Plan(trips, fragments, multiply, from_zero)
        legal = (
            len(fragments) == len(names)
            and all(_is_reloaded(alloc, load, plan, steps) for alloc in fragments)
            and _is_closed(plan, steps)
            and _is_alone(plan, steps)
        )
        return plan if legal and self._fits(plan, steps) else None

    def _fits(self, plan: _Plan, steps: For) -> bool:
        """Whether the arrays alive in the loop leave registers for everything else."""
        arrays = {
            v
            for op in walk(steps.body)
            for v in op.inputs
            if isinstance(v.type, MemoryType) and v.type.space is Space.LOCAL
        }
        words = sum(map(_words, arrays)) + sum(_words(op.result) for op in plan.fragments)
        kept = ADDRESSES + BY_ELEMENTS * holds(plan.trips, VectorLoad)
        return words + kept <= self.registers


def _words(array: Value) -> int:
    type_ = memory_type(array)
    return -(-math.prod(int(d) for d in type_.shape) * type_.dtype.bits // 32)


def _operands(op: Op) -> tuple[Value, ...]:
    return (op.a, op.b) if isinstance(op, Mma) else ()


# Legality -----------------------------------------------------------------------------------------


def _is_reloaded(alloc: Alloc, load: Sequence[Op], plan: _Plan, steps: For) -> bool:
    """Whether every trip loads all of a fragment's registers from shared memory, and nothing but its
    loads and matrix instructions touches them.
    """
    array = alloc.result
    loads = [op for op in walk(Block((), tuple(load))) if array in op.inputs]
    reads = [op for op in walk(Block((), plan.multiply)) if array in op.inputs]
    if len(loads) + len(reads) != len(uses(steps.body)[array]):
        return False
    if not all(_is_load(op) and op.memory is not array for op in loads):  # type: ignore[attr-defined]
        return False
    if not all(isinstance(op, Mma) and op.accumulator is not array for op in reads):
        return False
    written: set[int] = set()
    for offset, count in _loads(load, array, {}):
        if offset is None:
            return False
        written.update(range(offset, offset + count))
    return written == set(range(math.prod(int(d) for d in alloc.type.shape)))


def _is_load(op: Op) -> bool:
    """Whether an op loads registers of a fragment from shared memory, whatever the thread."""
    if isinstance(op, VectorLoad):
        return not op.predicate and memory_type(op.memory).space is Space.SHARED
    return isinstance(op, LdMatrix)


def _loads(
    ops: Sequence[Op], array: Value, known: dict[Value, int]
) -> Iterator[tuple[int | None, int]]:
    """(offset, registers) of every load into `array`, unrolled loops run; offset None where it is
    not known.
    """
    for op in ops:
        trips = unrolled_trips(op)
        if isinstance(op, LdMatrix) and op.registers is array:
            per_word = 32 // memory_type(array).dtype.bits
            yield _number(op.offset, known), op.matrices * per_word
        elif isinstance(op, VectorLoad) and op.registers is array:
            yield _number(op.offset, known), op.count
        elif trips and holds(op, FRAGMENT_LOADS):
            assert isinstance(op, For)
            for index in range(trips):
                yield from _loads(op.body.ops, array, {**known, op.body.params[0]: index})
        elif op.regions and holds(op, FRAGMENT_LOADS):
            yield None, 0  # not in every trip
        elif isinstance(op, arith.Elementwise) and not op.regions:
            numbers = [_number(v, known) for v in op.inputs]
            if None not in numbers and arith.element_dtype(op.result).is_integer:
                known[op.result] = int(op.evaluate(*numbers))


def _number(value: Value, known: Mapping[Value, int]) -> int | None:
    number = constant_of(value) if isinstance(value, Constant) else known.get(value)
    return None if number is None else int(number)


def _is_closed(plan: _Plan, steps: For) -> bool:
    """Whether the ops that move need nothing of a step but the trip's number and the fragments."""
    inside = set(defining_ops(steps.body)) | set(steps.body.params)
    own = {plan.trips.body.params[0], *(op.result for op in plan.fragments)}
    return inside.isdisjoint(set(free_values(Block((), plan.multiply))) - own)


def _is_alone(plan: _Plan, steps: For) -> bool:
    """Whether the ops that move touch registers alone, and what they write is not touched by any
    other op of a step.
    """
    written: set[Value] = set()
    for op in walk(Block((), plan.multiply)):
        for effect in op.effects():
            if effect.memory is None or effect.access not in (Access.READ, Access.WRITE):
                return False
            if memory_type(effect.memory).space is not Space.LOCAL:
                return False
            if effect.access is Access.WRITE:
                written.add(effect.memory)
    moved = list(walk(Block((), plan.multiply)))
    return all(op in moved or written.isdisjoint(op.inputs) for op in walk(steps.body))


def _is_cleared(accumulator: Value, before: Sequence[Op]) -> bool:
    """Whether an accumulator holds no -0.0 behind some ops: it has none, or all of it was filled with
    zeros last.
    """
    type_ = memory_type(accumulator)
    if type_.dtype.is_integer:
        return True
    last = next((op for op in reversed(before) if accumulator in _touched(op)), None)
    if not isinstance(last, FillRegisters) or last.count != math.prod(map(int, type_.shape)):
        return False
    number = constant_of(last.value)
    return number is not None and is_zeros(float(number))


def _touched(op: Op) -> Iterator[Value]:
    return (v for inner in op.walk() for v in inner.inputs)


# Rewriting ----------------------------------------------------------------------------------------


def _emit(b: Builder, steps: For, plan: _Plan) -> None:
    """The fragments, the outer loop, and the last trip's matrix instructions."""
    trips = plan.trips
    buffers: dict[Value, Value] = {}
    sizes: dict[Value, int] = {}
    for alloc in plan.fragments:
        size = math.prod(int(d) for d in alloc.type.shape)
        type_ = MemoryType(alloc.type.dtype, (BUFFERS * size,), Space.LOCAL)
        array = b.emit(Alloc(type=type_)).result
        array.hint = alloc.result.hint
        zero = b.const(0.0, type_.dtype)
        b.emit(FillRegisters(array, b.const(0), zero, count=BUFFERS * size))
        buffers[alloc.result], sizes[array] = array, size
    first = trips.body.ops.index(plan.multiply[0])
    load = substitute(trips.body.with_ops(trips.body.ops[:first]), buffers)
    inner = Builder()
    step = trips.body.params[0]
    loads, products = _into(load.ops, sizes, step), _multiplied(plan, buffers, sizes, step)
    inner.extend(mixed(loads, products))
    inner.extend(trips.body.ops[first + len(plan.multiply) :])
    loop = trips.replace(body=Block(trips.body.params, inner.ops))
    kept = [loop if op is trips else op for op in steps.body.ops if op not in plan.fragments]
    b.emit(steps.replace(body=steps.body.with_ops(kept)))
    runs = b.const(True, bool_) if plan.from_zero else b.compare("lt", steps.start, steps.stop)
    with b.when(runs):
        b.extend(_multiplied(plan, buffers, sizes, b.const(unrolled_trips(trips))))


def _into(ops: Sequence[Op], sizes: Mapping[Value, int], step: Value) -> list[Op]:
    """Fragment loads into the buffer of trip `step`."""
    b = Builder()
    for op in ops:
        if isinstance(op, FRAGMENT_LOADS) and op.registers in sizes:
            offset = b.add(_buffer(b, step, sizes[op.registers]), op.offset)
            b.emit(op.replace(offset=offset))
        else:
            b.emit(op.map_regions(lambda inner: inner.with_ops(_into(inner.ops, sizes, step))))
    return list(b.ops)


def _multiplied(
    plan: _Plan, buffers: Mapping[Value, Value], sizes: Mapping[Value, int], step: Value
) -> list[Op]:
    """The matrix instructions of the trip before `step`."""
    b = Builder()
    names = {**buffers, plan.trips.body.params[0]: b.sub(step, 1)}
    moved = [clone_op(op, names) for op in plan.multiply]
    return [*b.ops, *_from(moved, sizes, step)]


def _from(ops: Sequence[Op], sizes: Mapping[Value, int], step: Value) -> list[Op]:
    b = Builder()
    for op in ops:
        if isinstance(op, Mma):
            before = b.add(step, 1)
            b.emit(
                op.replace(
                    a_offset=b.add(_buffer(b, before, sizes[op.a]), op.a_offset),
                    b_offset=b.add(_buffer(b, before, sizes[op.b]), op.b_offset),
                )
            )
        else:
            b.emit(op.map_regions(lambda inner: inner.with_ops(_from(inner.ops, sizes, step))))
    return list(b.ops)


def _buffer(b: Builder, step: Value, size: int) -> Value:
    """Where the buffer of a trip starts."""
    return b.mul(b.bit_and(step, BUFFERS - 1), size)
