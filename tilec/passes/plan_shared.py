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
loop or branch of it. A block takes one branch of an `if` that stands in no loop and asks the same of
all threads: what only one of the branches touches does not live with what only the other one does.
Where roles run side by side, or engines (TMA, wgmma) touch memory at times
that the order of statements does not tell, all buffers live throughout.

Small buffers (those of reductions) share no place, which would cost a barrier, while there is room.
A buffer goes to the first place that is free, in order of declaration: swizzled ones (all of 1024
bytes or more) first, aligned to the period of the widest swizzle, 1024 bytes; small ones to 16, those
that TMA loads or stores to the 128 that it asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.ops.control import If, Launch, Role, map_launches
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.thread import Barrier
from .context import PassContext
from .dependence import is_shared
from .fit_resources import own_bytes, shared_memory_full
from .thread_copies import THREAD_COPIES, ThreadCopies
from .uniformity import differing

LARGE, BOX, SMALL = 1024, 128, 16  # alignments in bytes
SWIZZLED = 256  # bytes from which a buffer may be swizzled
NOT_SHARED = 1024  # bytes that are not worth a barrier, while there is room


def plan_shared(program: Program, context: PassContext) -> Program:
    """Gives every shared buffer its offset."""
    return map_launches(program, lambda launch: _launch(launch, context))


_Branches = tuple[tuple[If, int], ...]
"""Branches around an op, each the region of an `if`, outermost first: those of which a block takes
one or the other, once.
"""


@dataclass(frozen=True)
class _Life:
    """Of a buffer the numbers of the first and the last statement that touches it, the branches around
    all that does, and how copies that threads start into it are awaited.
    """

    first: int
    last: int
    branches: _Branches = ()
    copied: ThreadCopies | None = None

    def meets(self, other: _Life) -> bool:
        for (mine, taken), (its, other_taken) in zip(self.branches, other.branches, strict=False):
            if mine is not its:
                break
            if taken != other_taken:
                return False
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class _Place:
    """A buffer's bytes from `start` to `end`, and its life."""

    start: int
    end: int
    life: _Life

    def overlaps(self, other: _Place) -> bool:
        return self.start < other.end and other.start < self.end


def _launch(launch: Launch, context: PassContext) -> Launch:
    buffers = [op for op in walk(launch.body) if isinstance(op, Alloc) and is_shared(op.result)]
    lives = _lives(launch.body)
    always = _Life(0, len(launch.body.ops))
    boxes = {
        b for _, _, b, op in _touches(launch.body) if any(e.proxy == "async" for e in op.effects())
    }
    apart = {op.result: always for op in buffers if _size(op) <= NOT_SHARED}
    places, end = _placed(buffers, {**lives, **apart}, always, boxes)
    if end > context.target.shared_bytes:
        places, end = _placed(buffers, lives, always, boxes)
    if end > context.target.shared_bytes:
        raise shared_memory_full(launch, end, context.target)
    body = _with_turns(launch.body, tuple(places.values()))
    return launch.replace(body=_with_offsets(body, places), shared_bytes=end)  # type: ignore[return-value]


def _placed(
    buffers: Sequence[Alloc],
    lives: Mapping[Value, _Life],
    always: _Life,
    boxes: Set[Value],
) -> tuple[dict[Alloc, _Place], int]:
    """A place for every buffer, and where the last one ends. Engines touch those of `boxes`."""
    places: dict[Alloc, _Place] = {}
    together = {op: [b for b in buffers if b is op or b.place == op.place >= 0] for op in buffers}
    for op in sorted(buffers, key=lambda b: _size(b) < SWIZZLED):
        if op not in places:
            life = lives.get(op.result, always)
            size = max(map(_size, together[op]))
            boxed = any(b.result in boxes for b in together[op])
            alignment = LARGE if size >= SWIZZLED else BOX if boxed else SMALL
            place = _first_free(size, alignment, life, places.values())
            places.update(dict.fromkeys(together[op], place))
    return places, max((place.end for place in places.values()), default=0)


def _first_free(size: int, alignment: int, life: _Life, placed: Iterable[_Place]) -> _Place:
    """The lowest place for so many bytes beside those of buffers that live at the same time."""
    start = 0
    for other in sorted((p for p in placed if life.meets(p.life)), key=lambda place: place.start):
        if start + size <= other.start:
            break
        start = max(start, -(-other.end // alignment) * alignment)
    return _Place(start, start + size, life)


def _with_offsets(block: Block, places: Mapping[Alloc, _Place]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Alloc) and op in places:
            op = op.replace(offset=places[op].start)
        ops.append(op.map_regions(lambda inner: _with_offsets(inner, places)))
    return block.with_ops(ops)


def _size(op: Alloc) -> int:
    return own_bytes(memory_type(op.result))


# Lives --------------------------------------------------------------------------------------------


def _lives(body: Block) -> dict[Value, _Life]:
    """The lives of shared buffers. Those that are not named live throughout."""
    lives: dict[Value, _Life] = {}
    if _in_order(body):
        for number, branches, buffer, op in _touches(body):
            kind = next((kind for kind in THREAD_COPIES if isinstance(op, kind.copy)), None)
            life = lives.get(buffer, _Life(number, number, branches, kind))
            around = tuple(_common(life.branches, branches))
            lives[buffer] = _Life(life.first, number, around, life.copied or kind)
    return lives


def _in_order(body: Block) -> bool:
    """Whether what a statement does to memory is done, but for copies that threads start, when the
    next one runs.
    """
    return not any(
        isinstance(op, Role) or any(effect.proxy != "generic" for effect in op.effects())
        for op in walk(body)
    )


def _touches(body: Block) -> Iterator[tuple[int, _Branches, Value, Op]]:
    """(statement, branches around it, buffer, op) for every op that does something to a shared buffer,
    or to a handle made of one.
    """
    made_of: dict[Value, Value] = {}
    varying = differing(body)
    for number, statement in enumerate(body.ops):
        for op, branches in _with_branches(statement, (), varying):
            if isinstance(op, Alloc) and is_shared(op.result):
                made_of[op.result] = op.result
                continue
            for buffer in {made_of[v]: None for v in op.inputs if v in made_of}:
                made_of.update(dict.fromkeys(op.results, buffer))
                if not op.pure:
                    yield number, branches, buffer, op


def _with_branches(
    op: Op, around: _Branches, varying: Set[Value]
) -> Iterator[tuple[Op, _Branches]]:
    """An op and what is in it, in order, each with the branches around it."""
    if not isinstance(op, If) or op.condition in varying:
        yield from ((inner, around) for inner in op.walk())
        return
    yield op, around
    for number, region in enumerate(op.regions):
        for inner in region.ops:
            yield from _with_branches(inner, (*around, (op, number)), varying)


def _common(one: _Branches, other: _Branches) -> Iterator[tuple[If, int]]:
    """The branches around both."""
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            return
        yield mine


# Turns --------------------------------------------------------------------------------------------


def _with_turns(body: Block, places: Sequence[_Place]) -> Block:
    """The launch with a barrier between the lives of buffers that share bytes: all threads are done
    with the first one, and no copy into it is under way: not even one whose commit stands in a loop
    that had no trip. One barrier may be between many.
    """
    turns: dict[int, ThreadCopies | None] = {}
    for new in sorted(places, key=lambda place: place.life.first):
        for old in places:
            last, first = old.life.last, new.life.first
            if last < first and new.overlaps(old):
                turn = next((n for n in turns if last < n <= first), first)
                turns[turn] = turns.get(turn) or old.life.copied
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
