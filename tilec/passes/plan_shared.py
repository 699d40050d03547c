"""Places of shared buffers in the block's shared memory; buffers whose lives are apart share one.

Needs: thread level, flattened memory (an alloc's size is its layout's). Leaves: `offset` on every
shared alloc, `shared_bytes` on every launch, a barrier where a place changes its buffer. Raises
OutOfResources where the target has less.

    for 0, %n, 1 (%k) {                           for 0, %n, 1 (%k) {
      ... %A_s ... }                                ... %A_s ... }
    %C_s = alloc : shared f16[8192]       ->      %C_s = alloc <offset = 0> : shared f16[8192]
    vector_store %C_s, ...                        cp_async_commit ; cp_async_wait <pending = 0>
                                                  barrier
                                                  vector_store %C_s, ...

A life goes from the first to the last statement of the launch that touches the buffer, in whatever
loop or branch of it. Where roles run side by side, or engines (TMA, wgmma) touch memory at times
that the order of statements does not tell, all buffers live throughout.

Small buffers (those of reductions) share no place, which would cost a barrier, while there is room.
A buffer goes to the first place that is free, in order of declaration: swizzled ones (all of 1024
bytes or more) first, aligned to the period of the widest swizzle, 1024 bytes; small ones to 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.control import Launch, Role, map_launches
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.thread import Barrier
from .context import PassContext
from .dependence import is_shared
from .fit_resources import shared_memory_full
from .protocols import THREAD_COPIES, ThreadCopies

LARGE, SMALL = 1024, 16  # alignments in bytes
SWIZZLED = 256  # bytes from which a buffer may be swizzled
NOT_SHARED = 1024  # bytes that are not worth a barrier, while there is room


def plan_shared(program: Program, context: PassContext) -> Program:
    """Gives every shared buffer its offset."""
    return map_launches(program, lambda launch: _launch(launch, context))


_Life = tuple[int, int, "ThreadCopies | None"]
"""Of a buffer the numbers of the first and the last statement that touches it, and how copies that
threads start into it are awaited.
"""


@dataclass(frozen=True)
class _Place:
    """A buffer's bytes from `start` to `end`, and the numbers of the first and the last statement
    that touches it; how copies that threads start into it are awaited.
    """

    start: int
    end: int
    first: int
    last: int
    copied: ThreadCopies | None

    def lives_with(self, other: _Place) -> bool:
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: _Place) -> bool:
        return self.start < other.end and other.start < self.end


def _launch(launch: Launch, context: PassContext) -> Launch:
    buffers = [op for op in walk(launch.body) if isinstance(op, Alloc) and is_shared(op.result)]
    lives = _lives(launch.body)
    always: _Life = (0, len(launch.body.ops), None)
    apart = {op.result: always for op in buffers if _size(op) <= NOT_SHARED}
    places, end = _placed(buffers, {**lives, **apart}, always)
    if end > context.target.shared_bytes:
        places, end = _placed(buffers, lives, always)
    if end > context.target.shared_bytes:
        raise shared_memory_full(launch, end, context.target)
    body = _with_turns(launch.body, tuple(places.values()))
    return launch.replace(body=_with_offsets(body, places), shared_bytes=end)  # type: ignore[return-value]


def _placed(
    buffers: Sequence[Alloc],
    lives: Mapping[Value, _Life],
    always: _Life,
) -> tuple[dict[Alloc, _Place], int]:
    """A place for every buffer, and where the last one ends."""
    places: dict[Alloc, _Place] = {}
    for op in sorted(buffers, key=lambda b: _size(b) < SWIZZLED):
        life = lives.get(op.result, always)
        places[op] = _first_free(op, life, tuple(places.values()))
    return places, max((place.end for place in places.values()), default=0)


def _first_free(op: Alloc, life: _Life, placed: Sequence[_Place]) -> _Place:
    size = _size(op)
    alignment = LARGE if size >= SWIZZLED else SMALL
    for end in sorted({0, *(place.end for place in placed)}):
        start = -(-end // alignment) * alignment
        place = _Place(start, start + size, *life)
        if not any(place.overlaps(other) and place.lives_with(other) for other in placed):
            return place
    raise AssertionError("behind all others there is room")


def _with_offsets(block: Block, places: Mapping[Alloc, _Place]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Alloc) and op in places:
            op = op.replace(offset=places[op].start)
        ops.append(op.map_regions(lambda inner: _with_offsets(inner, places)))
    return block.with_ops(ops)


def _size(op: Alloc) -> int:
    type_ = memory_type(op.result)
    size = 1
    for extent in type_.shape:
        size *= int(extent)
    return (type_.layout.size if type_.layout is not None else size) * type_.dtype.bytes


# Lives --------------------------------------------------------------------------------------------


def _lives(body: Block) -> dict[Value, _Life]:
    """The lives of shared buffers. Those that are not named live throughout."""
    lives: dict[Value, _Life] = {}
    if _in_order(body):
        for number, buffer, op in _touches(body):
            first, _, copied = lives.get(buffer, (number, number, None))
            kind = next((kind for kind in THREAD_COPIES if isinstance(op, kind.copy)), None)
            lives[buffer] = first, number, copied or kind
    return lives


def _in_order(body: Block) -> bool:
    """Whether what a statement does to memory is done, but for copies that threads start, when the
    next one runs.
    """
    return not any(
        isinstance(op, Role) or any(effect.proxy != "generic" for effect in op.effects())
        for op in walk(body)
    )


def _touches(body: Block) -> Iterator[tuple[int, Value, Op]]:
    """(statement, buffer, op) for every op that does something to a shared buffer, or to a handle
    made of one.
    """
    made_of: dict[Value, Value] = {}
    for number, statement in enumerate(body.ops):
        for op in statement.walk():
            if isinstance(op, Alloc) and is_shared(op.result):
                made_of[op.result] = op.result
                continue
            for buffer in {made_of[v]: None for v in op.inputs if v in made_of}:
                made_of.update(dict.fromkeys(op.results, buffer))
                if not op.pure:
                    yield number, buffer, op


# Turns --------------------------------------------------------------------------------------------


def _with_turns(body: Block, places: Sequence[_Place]) -> Block:
    """The launch with a barrier between the lives of buffers that share bytes: all threads are done
    with the first one, and no copy into it is under way: not even one whose commit stands in a loop
    that had no trip. One barrier may be between many.
    """
    turns: dict[int, ThreadCopies | None] = {}
    for new in sorted(places, key=lambda place: place.first):
        for old in places:
            if old.last < new.first and new.overlaps(old):
                turn = next((n for n in turns if old.last < n <= new.first), new.first)
                turns[turn] = turns.get(turn) or old.copied
    b = Builder()
    for number, op in enumerate(body.ops):
        if number in turns:
            with at(op.loc):
                copies = turns[number]
                if copies is not None:
                    b.extend(copies.land_all())
                b.emit(Barrier())
        b.emit(op)
    return body.with_ops(b.ops) if turns else body
