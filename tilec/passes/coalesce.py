"""Which tile values share one array of registers: out of SSA, with a copy only where two are live
at once.

Values that flow into each other (a loop's initial, carried and final value, what a branch yields,
an accumulator and the result of its gemm) take one array unless one is still needed when another is
written. Liveness is that of structured control flow: what a loop reads from outside is live in all
of it. What an asynchronous gemm reads from registers is live until its wait.

    %a1 = gemm %x, %y, %a0    one array where %a0 is not used after; else %a0 is copied before
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..ir.clone import clone_op
from ..ir.core import Block, Op, Value, walk
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import For, If, Parallel, While
from ..ir.ops.gemm import Gemm
from ..ir.ops.pipeline import InFlight, Wait
from ..ir.ops.tile import InsertTile, ReshapeTile, Splat, Undefined
from .dependence import is_tile, tile_type


def tied_pairs(op: Op) -> list[tuple[Value, Value]]:
    """(operand, result) of ops that change a tile in place."""
    match op:
        case Gemm() if op.results:
            return [(op.accumulator, op.result)]
        case Wait():
            return [(op.inflight, op.result)]
        case ReshapeTile() | InFlight():
            return [(op.tile, op.result)]
        case InsertTile():
            return [(op.into, op.result)]
        case Parallel():
            return list(zip(op.updates, op.results, strict=True))
    return []


@dataclass(frozen=True)
class Arrays:
    """The representative of every tile value: values with the same one share an array."""

    representative: dict[Value, Value]

    def of(self, value: Value) -> Value:
        return self.representative[value]

    def shared(self, a: Value, b: Value) -> bool:
        return self.representative[a] is self.representative[b]


def _as_array(tile: Value) -> tuple[object, ...]:
    """What an array that holds a tile is: reshaped, it is the same."""
    type_ = tile_type(tile)
    return type_.dtype, type_.layout.registers if type_.layout is not None else type_.shape


def coalesce(block: Block) -> Arrays:
    """Assigns the tile values of a role's (or launch's) body to arrays."""
    return _Coalescing(block).run()


@dataclass(eq=False)
class _Group:
    """Values that share an array, and those that may not join them."""

    members: set[Value]
    conflicts: set[Value] = field(default_factory=set)


class _Coalescing:
    def __init__(self, block: Block) -> None:
        self._block = block
        self._groups: dict[Value, _Group] = {}
        self._ties: list[tuple[int, int, Value, Value]] = []  # (-depth, order, a, b)
        self._always: list[tuple[Value, Value]] = []
        self._issued = _products(block)

    def run(self) -> Arrays:
        self._scan(self._block, set(), 0)
        for a, b in self._always:
            self._join(self._group(a), self._group(b))
        for _, _, a, b in sorted(self._ties, key=lambda tie: tie[:2]):
            one, other = self._group(a), self._group(b)
            fits = _as_array(a) == _as_array(b) and not (
                one.members & other.conflicts or one.conflicts & other.members
            )
            if one is not other and fits:
                self._join(one, other)
        first: dict[_Group, Value] = {}
        return Arrays({v: first.setdefault(group, v) for v, group in self._groups.items()})

    def _group(self, value: Value) -> _Group:
        if value not in self._groups:
            self._groups[value] = _Group({value})
        return self._groups[value]

    def _join(self, a: _Group, b: _Group) -> None:
        if a is b:
            return
        a.members |= b.members
        a.conflicts |= b.conflicts
        for value in b.members:
            self._groups[value] = a

    # Liveness, backwards --------------------------------------------------------------------------

    def _scan(self, block: Block, live: set[Value], depth: int) -> set[Value]:
        """Notes the conflicts in a block at whose end `live` is live; gives what is live at its
        start.
        """
        live = set(live)
        for op in reversed(block.ops):
            results = [v for v in op.results if is_tile(v)]
            live -= set(results)
            self._define(results, live)
            match op:
                case For():
                    live = self._for(op, live, depth)
                case If():
                    live = self._if(op, live, depth)
                case While():
                    live = self._while(op, live, depth)
                case _:
                    self._leaf(op, results, depth)
                    live |= tiles_used(op) | self._still_read(op)
        return live

    def _still_read(self, op: Op) -> set[Value]:
        """Tiles that gemms which are waited for have been reading until now."""
        gemms = self._issued.get(op.inflight, ()) if isinstance(op, Wait) else ()
        return {v for gemm in gemms for v in (gemm.a, gemm.b) if is_tile(v)}

    def _define(self, values: Sequence[Value], live: Iterable[Value]) -> None:
        """`values` are written at once where `live` is live: none may share with another."""
        for value in values:
            group = self._group(value)
            group.conflicts |= {v for v in (*values, *live) if v is not value}
            for other in live:
                self._group(other).conflicts.add(value)

    def _leaf(self, op: Op, results: list[Value], depth: int) -> None:
        ties = tied_pairs(op)
        for tied, result in ties:
            self._tie(tied, result, depth)
        if isinstance(op, Wait):
            self._always.append((op.inflight, op.result))
        if not isinstance(op, Elementwise):  # which reads a register before it writes the same one
            for result in results:
                own = [t for t, r in ties if r is result and op.inputs.count(t) == 1]
                self._define([result], [v for v in op.inputs if is_tile(v) and v not in own])

    def _tie(self, a: Value, b: Value, depth: int) -> None:
        if is_tile(a):
            self._ties.append((-depth, len(self._ties), a, b))

    def _for(self, op: For, after: set[Value], depth: int) -> set[Value]:
        return self._loop(op, op.body.params[1:], after, depth)

    def _while(self, op: While, after: set[Value], depth: int) -> set[Value]:
        for given, param in zip(op.condition.params, op.body.params, strict=True):
            if is_tile(param):
                self._group(given)
                self._always.append((given, param))
        return self._loop(op, op.body.params, after | outer_tiles(op.condition), depth)

    def _loop(
        self, op: For | While, params: Sequence[Value], after: set[Value], depth: int
    ) -> set[Value]:
        end = op.body.terminator
        assert end is not None
        for init, param, last, result in zip(op.inits, params, end.inputs, op.results, strict=True):
            if is_tile(param):
                self._group(param)
                self._group(result)
                self._always.append((param, result))
                self._tie(init, param, depth)
                self._tie(last, param, depth + 1)
        through = after | outer_tiles(op.body)
        live = self._scan(op.body, through, depth + 1)
        tiles = [p for p in params if is_tile(p)]
        self._define(tiles, live - set(tiles))
        return (live - set(tiles)) | through | {v for v in op.inits if is_tile(v)}

    def _if(self, op: If, after: set[Value], depth: int) -> set[Value]:
        live: set[Value] = set(after)
        for block in op.regions:
            end = block.terminator
            for value, result in zip(end.inputs if end else (), op.results, strict=True):
                if is_tile(result):
                    self._tie(value, result, depth)
            live |= self._scan(block, after, depth)
        return live


def _products(block: Block) -> dict[Value, tuple[Gemm, ...]]:
    """The gemms that may still write each tile in flight, in the block where they are issued."""
    found: dict[Value, tuple[Gemm, ...]] = {}
    for op in walk(block):
        if isinstance(op, Gemm) and op.results:
            found[op.result] = (op, *found.get(op.accumulator, ()))
        elif isinstance(op, Wait) and not op.completes:
            found[op.result] = found.get(op.inflight, ())
    return found


def tiles_used(op: Op) -> set[Value]:
    """Tiles from outside that an op, or one in its regions, reads."""
    inside = {v for inner in op.walk() for v in inner.results}
    return {v for inner in op.walk() for v in inner.inputs if is_tile(v)} - (
        inside - set(op.results)
    )


def outer_tiles(block: Block) -> set[Value]:
    """Tiles that a block reads and does not define."""
    defined = set(block.params) | {v for op in walk(block) for v in op.results}
    defined |= {p for op in walk(block) for inner in op.regions for p in inner.params}
    return {v for op in walk(block) for v in op.inputs if is_tile(v)} - defined


# Constants ----------------------------------------------------------------------------------------


def sink_constants(block: Block) -> Block:
    """The block with a splat (or undefined tile) of its own right before each use, so that none is
    live for long.
    """
    return _sunk(block, {})


def _sunk(block: Block, made: dict[Value, Op]) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        if isinstance(op, (Splat, Undefined)):
            made[op.result] = op
            continue
        ops.extend(_with_own(op, made))
    return block.with_ops(ops)


def _with_own(op: Op, made: dict[Value, Op]) -> Iterator[Op]:
    clones: list[Op] = []

    def own(value: Value) -> Value:
        if value not in made:
            return value
        clones.append(clone_op(made[value], {}))
        return clones[-1].result

    new = op.map(own, lambda inner: _sunk(inner, made))
    yield from clones
    yield new


def parallel_moves(
    moves: Sequence[tuple[Value, Value]],
) -> tuple[list[tuple[Value, Value]], list[Value]]:
    """(destination, source) moves that happen at once, as a sequence; and sources to be saved
    before it.

    A cycle is cut by saving one of its sources; moves from that read what was saved.
    """
    pending = [(d, s) for d, s in moves if d is not s]
    ordered: list[tuple[Value, Value]] = []
    saved: list[Value] = []
    while pending:
        ready = next(
            (
                m
                for m in pending
                if not any(m[0] is s and s not in saved for d, s in pending if d is not m[0])
            ),
            None,
        )
        if ready is None:
            saved.append(pending[0][0])
            continue
        pending.remove(ready)
        ordered.append(ready)
    return ordered, saved
