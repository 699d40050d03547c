"""Two waves a SIMD take turns: while one multiplies, the other loads (8-wave ping-pong).

Needs: thread level, before copies are spread; a launch of twice as many waves as a multiprocessor
has SIMDs. Leaves: in the loops where it is legal and pays, each step of k as its reads, a barrier,
its products, a barrier; the loop's own barriers gone; the second half of the waves one barrier behind
the first for as long as the loop runs.

    for 0, %n, 1 (%k) {                            barrier
      barrier                                      if %second { barrier }
      vector_store %A_s[1 - %k % 2, ...]           for 0, %n, 1 (%k) {
      for 0, 2, 1 <unroll = 0> (%kk) {               vector_store %A_s[1 - %k % 2, ...]
        vector_load %frag, %A_s[%k % 2, ...]         for 0, 2, 1 <unroll = 0> (%kk) {
        mfma ... } }                       ->          vector_load %frag, %A_s[%k % 2, ...]
                                                       barrier
                                                       mfma ...
                                                       barrier } }
                                                   if %first { barrier }

The hardware deals a block's waves to its SIMDs in turn, so that each has one wave of either half, and
a barrier counts arrivals, wherever in the code they are. Every wave arrives equally often.

Why this is the same program: number the barriers that a wave passes in the loop. What the first half
does behind its barrier b comes after all that the second half did before its barrier b - 1; the other
way round the distance is smaller still. So an order that one barrier kept needs two between its ends.
Each barrier that is left out stood behind products with no use of shared memory between, and these
products have a barrier on either side. A wait for copies goes with it, before the first of the two.
At the end of the loop the halves stand level again, also when it did not run.

Source: Hu et al., "HipKittens: Fast and Furious AMD Kernels", arXiv 2511.08083, 8-wave ping-pong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Access, Block, Level, Op, Program, Value, at, walk
from ..ir.effects import touched
from ..ir.ops.amd import BufferCopyWait, LoadTransposed, Mfma
from ..ir.ops.control import For, Launch, Role, ThreadId, WarpUniform, While, Yield, map_launches
from ..ir.ops.memory import Load, memory_type
from ..ir.ops.thread import Ballot, Barrier, Shuffle, ShuffleXor, VectorLoad, WarpSync
from .context import PassContext, Remark
from .dependence import is_global, is_shared, writes
from .spread_copies import holds, unrolled_trips

LEAST_READ = 4  # bytes: shorter reads take as long
READ_CYCLES = 32  # of the LDS for a read of 16 bytes a lane by four waves, at 128 bytes a cycle
LEAST_CYCLES = 128  # of products between barriers: fewer would not pay for meeting (not measured)


def alternate_waves(program: Program, context: PassContext) -> Program:
    """Lets the halves of a block's waves alternate in every loop where they can."""
    assert program.level is Level.THREAD, "alternate_waves works on threads' programs"

    def run(launch: Launch) -> Op:
        target = context.target
        halves = 2 * target.simds * target.warp_size == launch.threads
        if not halves or any(isinstance(op, Role) for op in launch.body.ops):
            return launch
        return launch.map_regions(_Alternation(launch.threads, context).block)

    return map_launches(program, run)


@dataclass(frozen=True)
class _Step:
    """Statements `first` to `last` of a loop's body that multiply: an unrolled loop that reads and then
    multiplies in each trip, or products alone, whose reads stand before.
    """

    first: int
    last: int
    reads: tuple[Op, ...]
    products: tuple[Op, ...]
    loop: For | None = None

    @property
    def reading(self) -> int:
        """Cycles of the LDS that the reads of half of the waves take."""
        return _total(self.reads, _read_cycles)

    @property
    def multiplying(self) -> int:
        """Cycles of a SIMD that the products of a wave take: an instruction of 32 x 32 takes 32, one
        of 16 x 16 takes 16 (CDNA3 ISA, 7.1; the widest k of a dtype).
        """
        return _total(self.products, lambda op: op.m if isinstance(op, Mfma) else 0)

    def emit(self, b: Builder, waits: list[Op]) -> None:
        """The same, products between barriers; `waits` before the last of them."""
        if self.loop is None:
            b.extend(waits)
            _between_barriers(b, self.products)
            return
        inner = Builder()
        inner.extend(self.reads)
        if waits:
            last = unrolled_trips(self.loop) - 1
            with inner.when(inner.compare("eq", self.loop.body.params[0], last)):
                inner.extend(waits)
        _between_barriers(inner, self.products)
        inner.emit(Yield(()))
        b.emit(self.loop.replace(body=self.loop.body.with_ops(inner.ops)))


def _between_barriers(b: Builder, products: tuple[Op, ...]) -> None:
    b.emit(Barrier())
    b.extend(products)
    b.emit(Barrier())


class _Alternation:
    """A launch whose waves are two to a SIMD."""

    def __init__(self, threads: int, context: PassContext) -> None:
        self.threads, self.context = threads, context

    def block(self, block: Block) -> Block:
        b = Builder()
        for op in block.ops:
            new = op.map_regions(self.block)
            if isinstance(new, For) and new.unroll != 0 and _multiplies(new.body):
                self._loop(b, new)
            else:
                b.emit(new)
        return block.with_ops(b.ops)

    def _loop(self, b: Builder, loop: For) -> None:
        steps = _steps(loop.body.ops)
        why = _refusal(loop, steps)
        waves = self.threads // self.context.target.warp_size
        if why:
            text = f"{waves} waves go in step: {why}"
        else:
            half = waves // 2
            counts = ", ".join(
                f"{_total(s.products, _is_product)} products with {_total(s.reads, _is_read)} reads"
                for s in steps
            )
            text = f"{waves} waves in ping-pong, {half} multiply while {half} load: {counts}"
        loc = next(op for op in loop.body.ops if holds(op, Mfma)).loc
        self.context.remark(Remark("TLC0335", text, loc))
        if why:
            b.emit(loop)
            return
        with at(loc):
            self._emit(b, loop, steps)

    def _emit(self, b: Builder, loop: For, steps: list[_Step]) -> None:
        """The loop, between barriers of one half each."""
        starts = {step.first: step for step in steps}
        waits: dict[int, list[Op]] = {step.first: [] for step in steps}
        inner = Builder()
        seen, leading = steps[-1].first, True
        for position, op in enumerate(loop.body.ops):
            if position in starts:
                seen, leading = position, False
            elif isinstance(op, (Barrier, BufferCopyWait)):
                if leading:
                    b.emit(op.replace())
                if isinstance(op, BufferCopyWait):
                    waits[seen].append(op)
        for position, op in enumerate(loop.body.ops):
            if position in starts:
                starts[position].emit(inner, [op.replace() for op in waits[position]])
            elif not isinstance(op, (Barrier, BufferCopyWait)) and not any(
                step.first < position <= step.last for step in steps
            ):
                inner.emit(op)
        second = b.floordiv(b.emit(ThreadId()).result, self.threads // 2)
        second = b.emit(WarpUniform(second)).result
        with b.when(b.compare("eq", second, 1)):
            b.emit(Barrier())
        b.emit(loop.replace(body=loop.body.with_ops(inner.ops)))
        with b.when(b.compare("eq", second, 0)):
            b.emit(Barrier())


# Legality -----------------------------------------------------------------------------------------


def _multiplies(body: Block) -> bool:
    """Whether products stand in a loop's body, in no other loop but unrolled ones."""
    return any(
        isinstance(op, Mfma)
        or (not (isinstance(op, For) and op.unroll != 0) and any(map(_multiplies, op.regions)))
        for op in body.ops
    )


def _steps(ops: Sequence[Op]) -> list[_Step]:
    """The steps of a loop's body, as far as reads and products can be told apart."""
    found: list[_Step] = []
    reads: list[Op] = []
    position = 0
    while position < len(ops):
        op, first = ops[position], position
        position += 1
        if not holds(op, Mfma):
            reads.append(op)
            continue
        if _is_product_alone(op):
            while position < len(ops) and _is_product_alone(ops[position]):
                position += 1
            found.append(_Step(first, position - 1, tuple(reads), tuple(ops[first:position])))
        elif unrolled_trips(op):
            assert isinstance(op, For)
            inner = _steps(op.body.ops[:-1])
            if len(inner) == 1 and inner[0].last == len(op.body.ops) - 2 and inner[0].loop is None:
                found.append(_Step(first, first, inner[0].reads, inner[0].products, op))
        reads = []
    return found


def _is_product_alone(op: Op) -> bool:
    """Whether an op is products, in unrolled loops that touch no shared memory."""
    control = [inner for inner in op.walk() if inner.regions and holds(inner, Mfma)]
    return holds(op, Mfma) and all(map(unrolled_trips, control)) and not _shared(op)


def _refusal(loop: For, steps: list[_Step]) -> str:
    """Why the waves of a loop cannot alternate, or would gain nothing; empty if they can."""
    inside = sum(isinstance(i, Mfma) for s in steps for op in s.products for i in op.walk())
    if inside != sum(isinstance(op, Mfma) for op in walk(loop.body)):
        return "a product stands under a condition, or has reads behind it"
    barriers = [op for op in walk(loop.body) if isinstance(op, (Barrier, BufferCopyWait))]
    if any(op not in loop.body.ops or getattr(op, "barrier", 0) for op in barriers):
        return "threads meet elsewhere than between the statements of the loop"
    if any(is_global(memory) for memory in writes(loop)):
        return "the loop writes global memory"
    if any(isinstance(op, While) or _waits_for_others(op) for op in walk(loop.body)):
        return "the loop waits for what other threads do"
    used = _used_after(loop, steps)
    if used is not None:
        name = used.hint or "shared memory"
        return f"{name} is used between the products and the next barrier, so it needs another slot"
    if any(step.multiplying < step.reading for step in steps):
        return "the products of a step take less time than its reads"
    if any(step.multiplying < LEAST_CYCLES for step in steps):
        return "the products of a step are too few to meet around them"
    return ""


def _waits_for_others(op: Op) -> bool:
    known = isinstance(op, (Barrier, BufferCopyWait, WarpSync, Shuffle, ShuffleXor, Ballot))
    return not known and any(effect.access is Access.SYNCHRONISE for effect in op.effects())


def _used_after(loop: For, steps: list[_Step]) -> Value | None:
    """Shared memory that is used behind products and before the next barrier, from the last products
    of a turn on to the first of the next.
    """
    ops = loop.body.ops
    start = steps[-1].last + 1
    products = {position for step in steps for position in range(step.first, step.last + 1)}
    used: Value | None = None
    for position in (*range(start, len(ops)), *range(start)):
        op = ops[position]
        if position in products:
            used = None
        elif isinstance(op, (Barrier, BufferCopyWait)):
            if used is not None:
                return used
        else:
            used = used or next(iter(_shared(op)), None)
    return None


def _shared(op: Op) -> list[Value]:
    """The shared memory that an op touches."""
    found = (*touched(op, Access.READ), *touched(op, Access.WRITE))
    return [memory for memory in found if is_shared(memory)]


# How long it takes --------------------------------------------------------------------------------


def _total(ops: tuple[Op, ...], weight: Callable[[Op], int]) -> int:
    """The sum of what ops weigh, as often as unrolled loops run them."""
    found = 0
    for op in ops:
        times = unrolled_trips(op) or 1
        found += weight(op) + times * sum(_total(region.ops, weight) for region in op.regions)
    return found


def _read_bytes(op: Op) -> int:
    """What a lane reads of shared memory."""
    match op:
        case VectorLoad() if is_shared(op.memory):
            return op.count * memory_type(op.memory).dtype.bytes
        case LoadTransposed():
            return 8
        case Load() if is_shared(op.memory):
            return memory_type(op.memory).dtype.bytes
    return 0


def _is_read(op: Op) -> int:
    return int(_read_bytes(op) > 0)


def _is_product(op: Op) -> int:
    return int(isinstance(op, Mfma))


def _read_cycles(op: Op) -> int:
    size = _read_bytes(op)
    return READ_CYCLES * max(size, LEAST_READ) // 16 if size else 0
