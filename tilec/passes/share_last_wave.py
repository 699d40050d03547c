"""Blocks that have no tile of the last wave do some of the steps of the others' tiles (Stream-K).

Needs: pipelines planned, copies chosen. Leaves: of a launch that asks for it (`stream_k`), or is
asked to do it if it can (wave_gains), two. The first clears counters; in the second so many blocks as run at once take
the grid's blocks in turn, and share the last of them as `LastWave` says. Who helps with a tile leaves
its sums in a workspace; the tile's owner waits for them and adds them, helper after helper, so that
equal inputs give equal bits. Helpers come first in the grid and wait for nobody, so that owners wait
for blocks that have started: there is no deadlock, however few of them run at once.

    launch %gx, %gy, 1 <stream_k = 132> (%bx, %by, %bz) {
      %s = pipeline 0, %steps, [%zero] { ... }
      store_tile %s, %C[...] }
    ->
    %parts = alloc global f32[264, 128, 256]
    %arrived = alloc global i32[132]
    launch ... { %arrived[...] = 0 }
    launch 132, 1, 1 (%worker, ...) {
      for 0, %items, 1 (%item) {
        %bx, %by = raster of the item's tile
        %s = pipeline %first, %last, [%zero] { ... }
        if %helps { %parts[...] = %s ; %arrived[...] += 1 }
        else { %sums = %s, and where the tile is shared the parts ; store_tile %sums, %C[...] } } }
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

from ..errors import TargetUnsupported
from ..ir.build import Builder, scalar
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at
from ..ir.dtypes import i32
from ..ir.ops.arith import Add
from ..ir.ops.control import IF_POSSIBLE, For, If, Launch, Parallel, Simt, While, Yield
from ..ir.ops.memory import Alloc, Atomic, Load, Store
from ..ir.ops.pipeline import Channel
from ..ir.types import MemoryType, Space
from .context import PassContext, Remark
from .dependence import tile_type, waits_for_blocks
from .last_wave import LastWave
from .partial_sums import SummingLoop, summing_loop
from .rasters import as_block, panel_of, rasterize

_CLEARERS = 128  # threads of a block that clears counters


def share_last_wave(program: Program, context: PassContext) -> Program:
    """Shares the last wave of the launches that ask for it."""
    ops: list[Op] = []
    for op in program.body.ops:
        ops += _shared(op, context) if isinstance(op, Launch) else (op,)
    body = program.body.with_ops(ops)
    return program if body is program.body else program.with_body(body)


def _shared(launch: Launch, context: PassContext) -> Sequence[Op]:
    """What stands for the launch; itself where nothing is shared."""
    if not launch.stream_k:
        return (launch,)
    found = _refusal(launch, context) or summing_loop(launch)
    b = Builder()
    with at(launch.loc):
        steps = None if isinstance(found, str) else _steps(b, found, launch)
    if isinstance(found, str) or steps is None:
        if launch.stream_k == IF_POSSIBLE:
            return (launch,)
        why = (
            found if isinstance(found, str) else "how many steps a tile has follows from the block"
        )
        raise TargetUnsupported(
            "TLC0528",
            f"the last wave of this launch cannot be shared: {why}",
            loc=launch.loc,
            hint="leave out stream_k; T.atomic_add and a workspace say the same by hand",
        )
    workers = launch.stream_k if launch.stream_k > 0 else context.target.multiprocessors
    message = f"{workers} blocks take the tiles in turn, and share those of the last wave"
    context.remark(Remark("TLC0338", message, launch.loc))
    with at(launch.loc):
        _Sharing(b, launch, found, steps, workers).emit()
    return b.ops


def _refusal(launch: Launch, context: PassContext) -> str:
    """Why the blocks of a launch cannot be dealt out so."""
    if launch.persistent is False:
        return (
            "blocks do not run in turn (persistent=False, or the program itself says who does what)"
        )
    if launch.cluster_blocks > 1:
        return "its blocks run in clusters"
    if waits_for_blocks(launch.body):
        return "its blocks wait for each other"
    if not context.target.multiprocessors:
        return f"the multiprocessors of {context.target.name} are not known"
    return ""


def _steps(b: Builder, found: SummingLoop, launch: Launch) -> Value | None:
    """How many steps every block does, computed outside of the launch; None where blocks differ."""
    defined = {result: op for op in found.before for result in op.results}
    inside = {*launch.body.params, *defined}
    moved: Renaming = {}

    def outside(value: Value) -> bool:
        if value in moved or value not in inside:
            return True
        op = defined.get(value)
        if op is None or not op.pure or op.regions or not all(map(outside, op.inputs)):
            return False
        b.emit(clone_op(op, moved))
        return True

    start, stop = found.loop.start, found.loop.stop
    if not (outside(start) and outside(stop)):
        return None
    return b.max(b.sub(moved.get(stop, stop), moved.get(start, start)), 0)


@dataclass
class _Sharing:
    """The launches that stand for `launch`, built by `b`, which stands outside of them."""

    b: Builder
    launch: Launch
    found: SummingLoop
    steps: Value
    workers: int

    def emit(self) -> None:
        """Scalars, workspaces, and both launches."""
        b, launch = self.b, self.launch
        tiles = b.mul(b.mul(launch.grid[0], launch.grid[1]), launch.grid[2])
        self.waves = _named("waves", b.floordiv(tiles, self.workers))
        self.rest = _named("rest", b.floormod(tiles, self.workers))
        self.wave = LastWave.of(b, self.rest, self.steps, self.workers)
        for part in fields(LastWave):
            _named(part.name, getattr(self.wave, part.name))
        self.dealt = _named("dealt", b.mul(self.rest, self.wave.given))
        self.each = b.max(self.wave.given, 1)
        self.places = b.max(self.wave.for_each, 2)  # for the parts of a tile
        self.parts = [self._parts(result) for result in self.found.loop.results]
        arrived = Alloc(type=MemoryType(i32, (self.workers,), Space.GLOBAL))
        self.arrived = b.emit(arrived).result
        self.arrived.hint = "arrived"
        self._clear()
        self._take_turns()

    def _parts(self, sums: Value) -> Value:
        tile = tile_type(sums)
        shape = (2 * self.workers, *tile.shape)
        parts = self.b.emit(Alloc(type=MemoryType(tile.dtype, shape, Space.GLOBAL))).result
        parts.hint = "parts"
        return parts

    def _clear(self) -> None:
        """The launch that clears the counters; none where no tile is left for the last wave."""
        b = self.b
        blocks = b.mul(b.min(self.rest, 1), -(-self.workers // _CLEARERS))
        params = tuple(scalar(i32, hint) for hint in ("bx", "by", "bz"))
        with b.region() as ops:
            with _threads(b, _CLEARERS) as t:
                place = b.add(b.mul(params[0], _CLEARERS), t)
                b.emit(Store(b.const(0), self.arrived, (place,)))
            b.emit(Yield(()))
        b.emit(
            Launch(
                (blocks, b.const(1), b.const(1)),
                Block(params, tuple(ops)),
                threads=_CLEARERS,
                symbol=f"{self.launch.symbol}_clear",
            )
        )

    def _take_turns(self) -> None:
        """The launch whose blocks take the tiles, and share the last of them."""
        launch, m = self.launch, Builder()
        memory = [op for op in launch.body.ops if isinstance(op, (Alloc, Channel))]
        worker, *others = (scalar(i32, hint) for hint in ("worker", "by", "bz"))
        wave = self.wave
        # What a helper does of the steps that are given, and the first tile of that.
        helper = m.min(worker, wave.helpers)
        begin = m.min(m.mul(helper, wave.share), self.dealt)
        end = m.min(m.mul(m.add(helper, 1), wave.share), self.dealt)
        head = m.floordiv(begin, self.each)
        owned = m.sub(worker, wave.helpers)  # among the last tiles; below 0 for a helper
        is_helper = m.compare("lt", owned, 0)
        helped = m.sub(m.ceildiv(end, self.each), head)
        owns = m.select(m.compare("lt", owned, self.rest), 1, 0)
        items = m.add(self.waves, m.select(is_helper, helped, owns))
        with m.loop(0, items, hint="item") as item:
            whole = m.compare("lt", item, self.waves)
            late = m.select(is_helper, m.sub(m.add(head, item), self.waves), owned)
            late = m.max(m.min(late, self.workers - 1), 0)
            late.hint = "late"
            self._item(m, _Item(worker, item, whole, is_helper, late, begin, end))
        m.emit(Yield(()))
        body = Block((worker, *others), (*memory, *m.ops))
        one = self.b.const(1)
        self.b.emit(
            launch.replace(
                grid=(self.b.const(self.workers), one, one), body=body, panel=0, stream_k=0
            )
        )

    def _item(self, m: Builder, item: _Item) -> None:
        """A tile, or the steps of it that a helper does."""
        wave, worker = self.wave, item.worker
        left = m.compare("ge", item.number, self.waves)
        helps = m.both(item.is_helper, left)
        offset = m.mul(item.late, wave.given)
        begun = m.min(m.max(m.sub(item.begin, offset), 0), wave.given)
        ended = m.max(m.min(m.sub(item.end, offset), wave.given), 0)
        first = m.select(helps, m.add(wave.own, begun), 0)
        last = m.select(helps, m.add(wave.own, ended), wave.own)
        last = m.select(item.whole, self.steps, last)
        turn = m.add(worker, m.mul(item.number, self.workers))
        tile = m.select(item.whole, turn, m.add(m.mul(self.waves, self.workers), item.late))
        renaming = self._indices(m, m.max(tile, 0))
        m.extend([clone_op(op, renaming) for op in self._kept(self.found.before)])
        sums = self._some_steps(m, renaming, first, last)
        helper = m.floordiv(offset, wave.share)  # the first of this tile
        with m.region() as leaves:
            place = m.add(m.mul(item.late, self.places), m.sub(worker, helper))
            self._leave(m, sums, place, item.late)
            m.emit(Yield(()))
        with m.region() as takes:
            shared = m.both(left, m.compare("gt", wave.given, 0))
            count = m.ceildiv(m.mul(m.add(item.late, 1), wave.given), wave.share)
            count = m.sub(count, helper)
            for old, new in zip(
                self.found.loop.results, self._taken(m, sums, shared, count, item.late), strict=True
            ):
                renaming[old] = new
            m.extend([clone_op(op, renaming) for op in self._kept(self.found.after)])
            m.emit(Yield(()))
        m.emit(If(helps, Block((), tuple(leaves)), Block((), tuple(takes))))

    def _kept(self, ops: Sequence[Op]) -> list[Op]:
        return [op for op in ops if not isinstance(op, (Alloc, Channel))]

    def _indices(self, m: Builder, tile: Value) -> Renaming:
        """The indices of the block of the grid that a tile is."""
        launch = self.launch
        panel = launch.panel or panel_of(launch)
        rows = m.const(panel) if panel else None
        grid = (launch.grid[0], launch.grid[1], launch.grid[2])
        return as_block(launch, rasterize(m, tile, grid, rows, launch.order))

    def _some_steps(
        self, m: Builder, renaming: Renaming, first: Value, last: Value
    ) -> tuple[Value, ...]:
        """The sums of the steps from `first` to `last`, counted from the loop's start."""
        loop = self.found.loop
        start = renaming.get(loop.start, loop.start)
        new = clone_op(loop, renaming).replace(start=m.add(start, first), stop=m.add(start, last))
        return m.emit(new).results

    def _leave(self, m: Builder, sums: Sequence[Value], place: Value, late: Value) -> None:
        """A helper's sums for a tile. Its threads store them as they hold them: by TMA they would
        need a buffer, and that takes a slot of the operands."""
        place = m.max(m.min(place, 2 * self.workers - 1), 0)
        for tile, parts in zip(sums, self.parts, strict=True):
            indices, handle = self._nest(tile)
            with m.region() as ops:
                value = m.emit(Load(handle, indices)).result
                m.emit(Store(value, parts, (place, *indices)))
                m.emit(Yield(()))
            body = Block((*indices, handle), tuple(ops))
            m.emit(Parallel((tile,), (), body, extents=tile_type(tile).shape))
        with self._one_thread(m):
            m.emit(Atomic(m.const(1), self.arrived, (late,), order="release"))

    def _taken(
        self, m: Builder, sums: Sequence[Value], shared: Value, count: Value, late: Value
    ) -> tuple[Value, ...]:
        """The owner's sums, and where the tile is `shared` those of `count` helpers, in their order."""
        with m.region() as takes:
            with self._one_thread(m):
                self._wait_for(m, count, late)
            part, carried = scalar(i32, "part"), [Value(v.type, v.hint) for v in sums]
            with m.region() as adds:
                place = m.min(m.add(m.mul(late, self.places), part), 2 * self.workers - 1)
                added = [
                    self._added(m, tile, parts, place)
                    for tile, parts in zip(carried, self.parts, strict=True)
                ]
                m.emit(Yield(tuple(added)))
            body = Block((part, *carried), tuple(adds))
            loop = For(m.const(0), count, m.const(1), tuple(sums), body)
            m.emit(Yield(m.emit(loop).results))
        return m.emit(If(shared, Block((), tuple(takes)), Block((), (Yield(tuple(sums)),)))).results

    def _added(self, m: Builder, tile: Value, parts: Value, place: Value) -> Value:
        """A tile and the part at a place, added."""
        indices, handle = self._nest(tile)
        with m.region() as ops:
            mine = m.emit(Load(handle, indices)).result
            theirs = m.emit(Load(parts, (place, *indices))).result
            m.emit(Store(m.emit(Add(mine, theirs)).result, handle, indices))
            m.emit(Yield(()))
        body = Block((*indices, handle), tuple(ops))
        return m.emit(Parallel((), (tile,), body, extents=tile_type(tile).shape)).results[0]

    def _wait_for(self, m: Builder, count: Value, late: Value) -> None:
        """Until so many helpers have left their sums for a tile."""
        with m.region() as condition:
            load = Atomic(
                m.const(0), self.arrived, (late,), kind="load", fetch=True, order="acquire"
            )
            m.emit(Yield((m.compare("lt", m.emit(load).results[0], count),)))
        m.emit(While((), Block((), tuple(condition)), Block((), (Yield(()),))))

    def _nest(self, tile: Value) -> tuple[tuple[Value, ...], Value]:
        """The indices of a nest over a tile, and the handle by which it accesses the tile."""
        type_ = tile_type(tile)
        indices = tuple(scalar(i32, hint) for hint in "ijkl"[: len(type_.shape)])
        return indices, Value(MemoryType(type_.dtype, type_.shape, Space.FRAGMENT), tile.hint)

    @contextmanager
    def _one_thread(self, m: Builder) -> Iterator[None]:
        """What the first thread of the block does."""
        with _threads(m, self.launch.threads) as t, m.when(m.compare("eq", t, 0)):
            yield


@dataclass(frozen=True)
class _Item:
    """What a worker does in a turn: the tile `late` of the last wave, or a `whole` one. `begin` and
    `end` are what it does, if it `is_helper`, of the steps that are given."""

    worker: Value
    number: Value
    whole: Value
    is_helper: Value
    late: Value
    begin: Value
    end: Value


def _named(name: str, value: Value) -> Value:
    value.hint = value.hint or name
    return value


@contextmanager
def _threads(b: Builder, threads: int) -> Iterator[Value]:
    """Code of threads, for each of them."""
    t = scalar(i32, "t")
    with b.region() as ops:
        yield t
        b.emit(Yield(()))
    b.emit(Simt(Block((t,), tuple(ops)), threads=threads))
