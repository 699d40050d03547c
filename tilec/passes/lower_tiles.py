"""Tiles become registers of threads: the only crossing from the tile level to the thread level.

Needs: layouts inferred, pipelines lowered. Leaves: one thread's program. A tile is a local array
(register r of its layout at offset r); values that flow into each other share one (coalesce.py).
Each tile op is lowered by the rule of its class in the registry's table "lower": `rule(op,
lowering)` appends thread-level ops to `lowering.b`.

    %c = add %a, %b : tile f32[64, 64] #l    ->    for 0, 32, 1 (%r) <unroll = 0> {
                                                     %x = load %a[%r] ; %y = load %b[%r]
                                                     store (add %x, %y), %c[%r] }
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import LayoutConflict, OutOfResources, TargetUnsupported
from ..ir.core import Block, Level, Op, Program, Value, at, constant_of, walk
from ..ir.dtypes import DType
from ..ir.layout import RegisterLayout
from ..ir.ops.arith import Elementwise
from ..ir.ops.control import (
    For,
    If,
    Launch,
    Parallel,
    Role,
    Simt,
    ThreadId,
    WarpUniform,
    While,
    Yield,
    map_launches,
)
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import InFlight, Wait
from ..ir.ops.reduce import Reduce, Scan
from ..ir.ops.thread import Barrier, ConvertRegisters, Shuffle
from ..ir.ops.tile import (
    ConvertLayout,
    Copy,
    ExtractTile,
    Fill,
    InsertTile,
    LoadTile,
    PackTile,
    RegroupTile,
    ReshapeTile,
    Splat,
    StoreTile,
    Undefined,
    UnpackTile,
)
from ..ir.registry import Registry
from ..ir.types import InflightType, MemoryType, Space
from .clusters import share_of
from .coalesce import coalesce, parallel_moves, sink_constants, tied_pairs
from .context import PassContext, Remark
from .convert_layouts import lower_convert_layout
from .dependence import is_tile, tile_type
from .index_builder import IndexBuilder
from .lower_copies import lower_copy, lower_fill
from .lower_elementwise import (
    lower_elementwise,
    lower_extract,
    lower_insert,
    lower_pack,
    lower_regroup,
    lower_reshape,
    lower_splat,
    lower_undefined,
    lower_unpack,
)
from .lower_fma import lower_fma
from .lower_mfma import lower_mfma
from .lower_mma import lower_mma
from .lower_nests import lower_parallel, lower_simt
from .lower_reductions import lower_reduce
from .lower_scans import lower_scan
from .lower_tile_moves import lower_load_tile, lower_store_tile
from .lower_wgmma import lower_in_flight, lower_wait, lower_wgmma
from .ranges import Range
from .vector_access import VectorAccess

_MOST_TILE_BYTES = 16 * 255 * 4  # of a tile in one thread: its registers, sixteen times

Rule = Callable[..., None]
"""`rule(op, lowering)`: appends what `op`, of one class, is at thread level."""

REMARKED_COPY = 16  # registers copied in a loop that are worth a remark


def lower_tiles(program: Program, context: PassContext) -> Program:
    """Lowers every launch. Raises TargetUnsupported where an op has no lowering."""
    return map_launches(program, lambda launch: _launch(launch, context), Level.THREAD)


def register_lowerings(registry: Registry) -> None:
    """Enters tilec's own rules into the registry's table "lower"."""
    table = registry.table("lower")
    rules: dict[type[Op], Rule] = {
        Copy: lower_copy,
        Fill: lower_fill,
        LoadTile: lower_load_tile,
        StoreTile: lower_store_tile,
        Elementwise: lower_elementwise,
        Splat: lower_splat,
        Undefined: lower_undefined,
        InsertTile: lower_insert,
        ExtractTile: lower_extract,
        ReshapeTile: lower_reshape,
        RegroupTile: lower_regroup,
        UnpackTile: lower_unpack,
        PackTile: lower_pack,
        Parallel: lower_parallel,
        Simt: lower_simt,
        Gemm: _lower_gemm,
        Reduce: lower_reduce,
        Scan: lower_scan,
        Wait: lower_wait,
        InFlight: lower_in_flight,
        ConvertLayout: lower_convert_layout,
    }
    table.update(rules)


def _lower_gemm(op: Gemm, lowering: Lowering) -> None:
    families: dict[str, Rule] = {
        "mma": lower_mma, "wgmma": lower_wgmma, "mfma": lower_mfma, "fma": lower_fma
    }  # fmt: skip
    assert op.instruction in families, f"a gemm by {op.instruction!r}"
    families[op.instruction](op, lowering)


def _launch(launch: Launch, context: PassContext) -> Launch:
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    threads = launch.launched_threads or launch.threads  # all of them, before roles part
    outer = Lowering(context, threads, cluster=launch.cluster, parting=bool(roles))
    rest = launch.body.with_ops(
        [op for op in launch.body.ops if op not in roles and not op.terminator]
    )
    with outer.b.inside(launch):
        body = outer.run(rest)
        lowered: list[Op] = list(body.ops)
        for role in roles:
            inner = Lowering(context, role.threads, role=role, outer=outer)
            with inner.b.inside(role):
                lowered.append(role.replace(body=inner.run(role.body)))
    with at(launch.loc):
        lowered.append(Yield(()))
    body = Block(launch.body.params, tuple(lowered))
    return launch.replace(body=body)  # type: ignore[return-value]


class Lowering:
    """One role's body (or a launch's without roles) while it is lowered. Rules append to `b`."""

    def __init__(
        self,
        context: PassContext,
        threads: int,
        role: Role | None = None,
        outer: Lowering | None = None,
        cluster: tuple[int, ...] = (),
        parting: bool = False,
    ) -> None:
        self.b: IndexBuilder = IndexBuilder(context.multiples) if outer is None else outer.b.child()
        self.context: PassContext = context
        self.threads = threads
        self.role, self.parting = role, parting
        self.cluster: tuple[int, ...] = outer.cluster if outer else cluster
        self.loops = 0  # around the op that is being lowered
        self.splats: dict[Value, Value] = {}  # what every element of a tile is
        self.access = VectorAccess(self.b, context, self.at_top)
        self._names: dict[Value, Value] = dict(outer._names) if outer else {}
        self._definitions: dict[Value, Op] = dict(outer._definitions) if outer else {}
        self._arrays: dict[Value, Value] = {}
        self._kept: dict[str, Value] = {}
        self._shares: dict[tuple[int, ...], tuple[Value, Value]] = {}
        self._top: list[Op] = []

    def run(self, body: Block) -> Block:
        """The body at thread level: what all of it needs first, then its ops in order."""
        body = sink_constants(body)
        self._coalesced = coalesce(body)
        products = [op for op in walk(body) if isinstance(op, Gemm) and op.instruction == "wgmma"]
        self._multiplied = {self._coalesced.of(op.a) for op in products if is_tile(op.a)}
        with self.b.region() as ops:
            self._ops(body)
        return body.with_ops([*self._top, *ops])

    # What rules use -------------------------------------------------------------------------------

    def thread(self) -> Value:
        """This thread's number in the role; before roles part, in the launched block."""
        number = ThreadId(launched=self.parting)
        return self._keep("t", lambda: self.b.emit(number).result, self.threads)

    def warp(self) -> Value:
        """The number of this thread's warp (wave) in the role."""
        size = self.context.target.warp_size
        if self.threads <= size:
            return self.b.const(0)
        thread = self.thread()
        return self._keep("warp", lambda: self.b.floordiv(thread, size), -(-self.threads // size))

    def uniform_warp(self) -> Value:
        """The same number, told to be the same for all threads of the warp."""
        warp = self.warp()
        if constant_of(warp) is not None:
            return warp
        count = -(-self.threads // self.context.target.warp_size)
        return self._keep("wave", lambda: self.b.emit(WarpUniform(warp)).result, count)

    def lane(self) -> Value:
        """The number of this thread in its warp (wave)."""
        size = self.context.target.warp_size
        thread = self.thread()
        if self.threads <= size:
            return thread
        return self._keep("lane", lambda: self.b.floormod(thread, size), size)

    def share(self, axes: tuple[int, ...]) -> tuple[Value, Value]:
        """This block's number among those of its cluster that have a tile in common which is the
        same along `axes`, and the mask of all of them.
        """
        if axes not in self._shares:
            with self.b.region() as ops:
                self._shares[axes] = share_of(self.b, self.cluster, axes)
            self._top.extend(ops)
        return self._shares[axes]

    def barrier(self) -> None:
        """All threads of the role meet here."""
        if self.role is None or self.role.barrier == 0:
            self.b.emit(Barrier())
        else:
            self.b.emit(Barrier(barrier=self.role.barrier, threads=self.role.threads))

    def value(self, value: Value) -> Value:
        """What stands for a scalar or a memory handle."""
        return self._names.get(value, value)

    def values(self, values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple(self.value(v) for v in values)

    def rename(self, old: Value, new: Value) -> None:
        """From here on `new` stands for `old`."""
        self._names[old] = new

    def definition(self, value: Value) -> Op | None:
        """The op that defined a value of the tile-level program (its operands are of that program
        too).
        """
        return self._definitions.get(value)

    def layout(self, tile: Value) -> RegisterLayout:
        """The register layout of a tile."""
        layout = tile_type(tile).layout
        assert layout is not None, f"{tile!r} has no layout"
        return layout

    def is_multiplied(self, tile: Value) -> bool:
        """Whether wgmma reads the array that holds a tile."""
        return self._coalesced.of(tile) in self._multiplied

    def registers(self, tile: Value) -> Value:
        """The array that holds a tile, one element a register of its layout."""
        group = self._coalesced.of(tile)
        if group not in self._arrays:
            self._arrays[group] = self._alloc_array(tile)
        array = self._arrays[group]
        array.hint = array.hint or tile.hint
        return array

    def _alloc_array(self, tile: Value) -> Value:
        count = self.layout(tile).registers
        if count * tile_type(tile).dtype.bytes > _MOST_TILE_BYTES:
            raise OutOfResources(
                "TLC0518",
                f"{tile.hint or 'a tile'} of {tile_type(tile).shape} puts {count} elements into the "
                f"registers of each of {self.layout(tile).threads} threads",
                hint=f"a thread has 255 registers of 4 bytes; beyond {_MOST_TILE_BYTES} bytes a tile "
                "is refused: use smaller tiles or more threads",
            )
        type_ = MemoryType(tile_type(tile).dtype, (count,), Space.LOCAL)
        return self.at_top(lambda: self.b.emit(Alloc(type=type_)).result)

    def scratch(self, dtype: DType, count: int, hint: str) -> Value:
        """A new array of this thread, allocated here."""
        array = self.b.emit(Alloc(type=MemoryType(dtype, (count,), Space.LOCAL))).result
        array.hint = hint
        return array

    def at_top(self, make: Callable[[], Value]) -> Value:
        """What `make` builds, put at the start of the role, where all of it sees it."""
        with self.b.region() as ops:
            value = make()
        self._top.extend(ops)
        return value

    def _keep(self, name: str, make: Callable[[], Value], size: int) -> Value:
        if name not in self._kept:
            value = self.at_top(make)
            value.hint = value.hint or name
            self.b.assume(value, Range.between(0, size - 1))
            self._kept[name] = value
        return self._kept[name]

    def copy_registers(self, destination: Value, source: Value) -> None:
        """All registers of one tile to another of the same type."""
        count = self.layout(destination).registers
        if count > REMARKED_COPY and self.loops:
            name = source.hint or "a tile"
            self.context.remark(
                Remark("TLC0433", f"{count} registers of {name} are copied in a loop")
            )
        zero = self.b.const(0)
        self.b.emit(
            ConvertRegisters(
                self.registers(destination), zero, self.registers(source), zero, count=count
            )
        )

    # Walking --------------------------------------------------------------------------------------

    def _ops(self, block: Block) -> None:
        for op in block.ops:
            self.nested(op)

    def nested(self, op: Op) -> None:
        """Appends an op of a region that a rule takes over, as an op of the thread level."""
        self._definitions.update({v: op for v in op.results})
        with at(op.loc), op.loc:
            self.op(op)

    def op(self, op: Op) -> None:
        """Appends what an op of the tile level is at thread level."""
        match op:
            case For():
                self._for(op)
            case If():
                self._if(op)
            case While():
                self._while(op)
            case Yield():
                self.b.emit(Yield(self.values([v for v in op.values if not is_tile(v)])))
            case Shuffle() if op.width:
                self._shuffle(op)
            case _ if op.level is Level.TILE or any(is_tile(v) for v in (*op.inputs, *op.results)):
                self._by_rule(op)
            case _:
                self._plain(op)

    def _by_rule(self, op: Op) -> None:
        rule = self.context.registry.lookup("lower", type(op))
        if rule is None:
            raise TargetUnsupported(
                "TLC0431",
                f"{op.name} has no lowering",
                loc=op.loc,
                hint="enter one for its class in the registry's table 'lower'",
            )
        self._move([(result, tied) for tied, result in tied_pairs(op)])
        rule(op, self)

    def _shuffle(self, op: Shuffle) -> None:
        """Lanes are numbered in the warp."""
        b, lane = self.b, self.value(op.lane)
        if op.width != self.context.target.warp_size:
            lane = b.add(b.mul(b.floordiv(self.lane(), op.width), op.width), lane)
        new = b.emit(Shuffle(self.value(op.x), lane))
        new.result.hint = op.result.hint
        self.rename(op.result, new.result)

    def _plain(self, op: Op) -> None:
        new = op.map(self.value, self.plain_block)
        for old, result in zip(op.results, new.results, strict=True):
            if old is not result:
                self.rename(old, result)
        self.b.emit(new)

    def plain_block(self, block: Block) -> Block:
        """A block of thread-level code with what stands for its values."""
        with self.b.region() as ops:
            self._ops(block)
        return Block(block.params, tuple(ops))

    def _move(self, moves: Sequence[tuple[Value, Value]]) -> None:
        """(destination, source) pairs of tiles, all at once; nothing where they share an array."""
        apart = [(d, s) for d, s in moves if is_tile(d) and not self._coalesced.shared(d, s)]
        for destination, source in apart:
            if isinstance(source.type, InflightType) and not isinstance(
                self.definition(source), Undefined
            ):
                raise LayoutConflict(
                    "TLC0430",
                    f"{destination.hint or 'a tile'} is a copy of registers that are still written",
                    hint="use the result of a gemm only in the next gemm on it, or after its loop",
                )
        apart = [m for m in apart if not isinstance(self.definition(m[1]), Undefined)]
        group = self._coalesced.of
        of = {group(v): v for m in apart for v in m}
        ordered, saved = parallel_moves([(group(d), group(s)) for d, s in apart])
        copies: dict[Value, Value] = {}
        for source in saved:
            count, hint = self.layout(source).registers, f"{of[source].hint or 'tile'}_saved"
            copies[source] = self.scratch(tile_type(source).dtype, count, hint)
            self._convert(copies[source], self.registers(source), count)
        for destination, source in ordered:
            if source in copies:
                count = self.layout(source).registers
                self._convert(self.registers(destination), copies[source], count)
            else:
                self.copy_registers(of[destination], of[source])

    def _convert(self, destination: Value, source: Value, count: int) -> None:
        zero = self.b.const(0)
        self.b.emit(ConvertRegisters(destination, zero, source, zero, count=count))

    # Control --------------------------------------------------------------------------------------

    def _for(self, op: For) -> None:
        end = op.body.terminator
        assert end is not None
        self._move(
            [(p, i) for p, i in zip(op.body.params[1:], op.inits, strict=True) if is_tile(p)]
        )
        index, *carried = op.body.params
        new_start, new_stop, new_step = (self.value(v) for v in (op.start, op.stop, op.step))
        self.b.assume(index, self.b.index_range(new_start, new_stop, new_step))
        self.loops += 1
        with self.b.region() as ops:
            self._ops(op.body.with_ops(op.body.ops[:-1]))
            self._move([(p, v) for p, v in zip(carried, end.inputs, strict=True) if is_tile(p)])
            self.op(end)
        self.loops -= 1
        scalars = tuple(p for p in carried if not is_tile(p))
        inits = self.values([v for v in op.inits if not is_tile(v)])
        body = Block((index, *scalars), tuple(ops))
        self._emit_control(
            op,
            For(
                new_start, new_stop, new_step, inits, body,
                kind=op.kind, stages=op.stages, unroll=op.unroll, entered=op.entered,
            ),
        )  # fmt: skip

    def _if(self, op: If) -> None:
        condition = self.value(op.condition)
        blocks = []
        for block, holds in ((op.then, True), (op.orelse, False)):
            end = block.terminator
            assert end is not None
            with self.b.region() as ops, self._knowing(condition, holds):
                self._ops(block.with_ops(block.ops[:-1]))
                self._move(
                    [(r, v) for r, v in zip(op.results, end.inputs, strict=True) if is_tile(r)]
                )
                self.op(end)
            blocks.append(Block((), tuple(ops)))
        self._emit_control(op, If(condition, *blocks))

    @contextmanager
    def _knowing(self, condition: Value, holds: bool) -> Iterator[None]:
        if not holds:
            yield
            return
        with self.b.assuming(condition):
            yield

    def _while(self, op: While) -> None:
        end = op.body.terminator
        assert end is not None
        params = op.body.params
        self._move([(p, i) for p, i in zip(params, op.inits, strict=True) if is_tile(p)])
        self.loops += 1
        condition = self.plain_block(op.condition)
        with self.b.region() as ops:
            self._ops(op.body.with_ops(op.body.ops[:-1]))
            self._move([(p, v) for p, v in zip(params, end.inputs, strict=True) if is_tile(p)])
            self.op(end)
        self.loops -= 1
        inits = self.values([v for v in op.inits if not is_tile(v)])
        scalars = tuple(p for p in condition.params if not is_tile(p))
        body = Block(tuple(p for p in params if not is_tile(p)), tuple(ops))
        self._emit_control(op, While(inits, Block(scalars, condition.ops), body))

    def _emit_control(self, old: Op, new: Op) -> None:
        self.b.emit(new)
        kept = [v for v in old.results if not is_tile(v)]
        for before, after in zip(kept, new.results, strict=True):
            after.hint = before.hint
            self.rename(before, after)
