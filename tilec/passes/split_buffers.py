"""Shared buffers that are filled anew become several, so that loops can be pipelined.

Needs: lifted copies. Leaves: of a buffer that a pipelined loop loads, one for each of its contents
that nobody needs after it was filled anew: plan_pipelines makes a channel of a buffer that one loop
alone uses. Those whose lives are apart share a place again (plan_shared). A buffer stays whole where
the launch says itself when things are done, or where one slot of each would be too much.

    %s = alloc : shared                       %s = alloc : shared
    for ... <kind = "pipelined"> {            %s_1 = alloc : shared
      copy %A[...], %s[0, 0]                  for ... <kind = "pipelined"> {
      %x = gemm %s, ... }             ->        copy %A[...], %s[0, 0]
    store_tile %x, %s[0, 0]                     %x = gemm %s, ... }
    copy %s[0, 0], %C[...]                    store_tile %x, %s_1[0, 0]
                                              copy %s_1[0, 0], %C[...]

A statement that covers a buffer and does not read it begins new contents. Contents are one where a
statement may find either of them, after a branch or on the way around a loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Program, Value, walk
from ..ir.ops.control import For, If, Launch, Parallel, Simt, map_launches
from ..ir.ops.memory import Alloc
from ..ir.ops.tile import Copy
from ..ir.rewrite import defining_ops, substitute
from ..target import Target
from .context import PassContext
from .dependence import allocations, covers, is_global, is_shared, reads, used_values, writes
from .fit_resources import buffer_sizes, live_bytes


def split_buffers(program: Program, context: PassContext) -> Program:
    """Splits every such buffer of a program."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    if launch.explicit:
        return launch
    loaded = _loaded(launch.body)
    if not loaded:
        return launch
    contents = _Contents(loaded, launch.body)
    allocs = allocations(launch.body)
    parts: dict[Value, dict[int, Alloc]] = {}
    split = launch.body
    for handle in loaded:
        first, *others = contents.of(handle)
        alloc = allocs[handle]
        more = {**parts, handle: {first: alloc, **{n: _another(alloc) for n in others}}}
        body = _renamed(launch.body, more, contents)
        if others and _fits(body, context.target):
            parts, split = more, body
    return launch.replace(body=split) if parts else launch  # type: ignore[return-value]


def _fits(body: Block, target: Target) -> bool:
    """Whether there is room for the buffers. Where roles run side by side, all live throughout."""
    sizes = buffer_sizes(body)
    needed = sum(sizes.values()) if target.warp_roles else live_bytes(body, sizes)
    return needed <= target.shared_bytes


def _another(alloc: Alloc) -> Alloc:
    clone = clone_op(alloc, {})
    assert isinstance(clone, Alloc)
    return clone


def _loaded(body: Block) -> list[Value]:
    """Shared buffers that a pipelined loop copies to from global memory, and that are written
    elsewhere too."""
    own = {h for h, alloc in allocations(body).items() if is_shared(h) and not alloc.arrivals}
    loops = [op for op in walk(body) if isinstance(op, For) and op.kind == "pipelined"]
    loads = {
        op.destination: None
        for loop in loops
        if loop.stages > 0
        for op in loop.body.ops
        if isinstance(op, Copy) and is_global(op.source) and op.destination in own
    }
    leaves = [op for op in walk(body) if not op.regions]
    known = {h for h in loads if all(h in _touched(op) for op in leaves if h in op.inputs)}
    return [h for h in loads if h in known and sum(h in writes(op) for op in leaves) > 1]


def _touched(op: Op) -> set[Value]:
    return {*reads(op), *writes(op)}


class _Contents:
    """Which contents of some buffers each statement finds or makes: those that a statement may find
    are one. They are numbered by the statements that begin them; 0 is what the allocation holds."""

    def __init__(self, handles: Iterable[Value], body: Block) -> None:
        self._places = {id(op): place for place, op in enumerate(walk(body), start=1)}
        self._defined_by = defining_ops(body)
        self._found: dict[tuple[Value, int], int] = {}  # by buffer and place of a statement
        self._joined: dict[tuple[Value, int], int] = {}
        self._now = {handle: frozenset({0}) for handle in handles}
        self._ends: dict[Op, Mapping[Value, frozenset[int]]] = {}  # what a loop's trips leave
        start, seen = self._now, None
        while seen != self._ends:  # what a trip finds, those before it made
            seen, self._now = dict(self._ends), dict(start)
            self._visit(body)

    def of(self, handle: Value) -> list[int]:
        """All contents of a buffer, in order."""
        found = (self._least(handle, n) for (h, _), n in self._found.items() if h is handle)
        return list(dict.fromkeys(found))

    def at(self, op: Op, handle: Value) -> int:
        """Those that a statement finds in a buffer, or makes."""
        return self._least(handle, self._found[handle, self._places[id(op)]])

    def _least(self, handle: Value, contents: int) -> int:
        """The least number of contents that are one with these."""
        while (handle, contents) in self._joined:
            contents = self._joined[handle, contents]
        return contents

    def _visit(self, block: Block) -> None:
        for op in block.ops:
            if isinstance(op, Alloc) and op.result in self._now:
                self._now[op.result] = frozenset({0})
            elif not op.regions or isinstance(op, (Parallel, Simt)):
                self._statement(op)
            elif isinstance(op, If):
                self._branches(op)
            else:
                self._loop(op)

    def _branches(self, op: Op) -> None:
        before, after = self._now, []
        for region in op.regions:
            self._now = dict(before)
            self._visit(region)
            after.append(self._now)
        self._now = {h: frozenset().union(*(state[h] for state in after)) for h in before}

    def _loop(self, op: Op) -> None:
        """No trip, or any number."""
        before = self._now
        ends = self._ends.get(op, before)
        self._now = {h: contents | ends[h] for h, contents in before.items()}
        for region in op.regions:
            self._visit(region)
        self._ends[op] = self._now
        self._now = {h: contents | self._now[h] for h, contents in before.items()}

    def _statement(self, op: Op) -> None:
        read, written = reads(op), writes(op)
        for handle in self._now.keys() & {*read, *written}:
            place = self._places[id(op)]
            if handle not in read and covers([op], handle, self._defined_by):
                self._now[handle] = frozenset({place})
            else:
                self._join(handle, self._now[handle])
            self._found[handle, place] = min(self._now[handle])

    def _join(self, handle: Value, contents: frozenset[int]) -> None:
        least, *others = sorted({self._least(handle, n) for n in contents})
        for other in others:
            self._joined[handle, other] = least


def _renamed(block: Block, parts: Mapping[Value, Mapping[int, Alloc]], by: _Contents) -> Block:
    """The block with each statement's own buffer in place of one that was split."""
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, Alloc) and op.result in parts:
            ops.extend(parts[op.result].values())
        elif op.regions and not isinstance(op, (Parallel, Simt)):
            ops.append(op.map_regions(lambda region: _renamed(region, parts, by)))
        else:
            own = {
                handle: parts[handle][by.at(op, handle)].result
                for handle in used_values(op) & parts.keys()
            }
            ops.extend(substitute(Block((), (op,)), own).ops if own else (op,))
    return block.with_ops(ops)
