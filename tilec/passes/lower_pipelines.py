"""Planned loops become loops: slots, waits, barriers, prologue and steady state, by the protocol
table of protocols.py.

Needs: layouts inferred, stages scheduled. Leaves: no channel, pipeline, stage, put, get, commit,
free, send or receive; rings as managed allocs, mbarriers made at the top of the launch, register
budgets set at the top of roles.

    pipeline %lo, %n, [] {                              for 0, %trips, 1 (%i) {
      stage <label = "load"> {                            mbarrier_wait %empty, %slot, %phase ^ 1
        %s = put %ca                              ->      mbarrier_expect %full, %slot, 16384
        copy %A[...] -> %s ; commit %ca } }               copy %A[...] -> %ring[%slot], [%full, %slot] <"tma">
                                                          advance %slot, %phase }

Steps of one thread program: step s runs iteration s + lead of each stage in turn; steps -max(lead)
... -1 are the prologue. Where barriers and waits stand within a step is worked out once from the
dependences between the ends of the channels (step_plan.py), and is the same in every step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..ir.build import Builder, Number, fresh, scalar
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at, constant_of, walk
from ..ir.dtypes import i32
from ..ir.ops.arith import is_harmless
from ..ir.ops.control import For, If, Launch, Role, While, Yield, map_launches
from ..ir.ops.memory import Load
from ..ir.ops.nvidia import ClusterBarrier, FenceProxyAsync, SetRegisters
from ..ir.ops.pipeline import (
    Channel,
    Commit,
    Free,
    Get,
    Pipeline,
    Put,
    Receive,
    Send,
    Stage,
    Wait,
)
from ..ir.ops.thread import Barrier
from ..ir.ops.tile import Copy, LoadTile, StoreTile, Undefined
from ..ir.types import InflightType, TileType
from .assign_roles import is_producer_stage
from .context import PassContext
from .dependence import is_global
from .protocols import (
    Bundle,
    Ring,
    advance,
    announce,
    bundle_rings,
    by_first,
    expect,
    find_rings,
    initialise,
    open_place,
    release,
    wait_empty,
    wait_full,
)
from .step_plan import StepPlan, plan_steps
from .thread_copies import ThreadCopies, thread_copies


def lower_pipelines(program: Program, context: PassContext) -> Program:
    """Lowers every pipeline of every launch."""
    return map_launches(program, lambda launch: _Lowering(launch, context).run())


@dataclass
class _State:
    """What changes from step to step of one pipeline: carried values, and tiles in channels of
    registers.
    """

    carried: list[Value]
    registers: dict[Value, Value] = field(default_factory=dict)

    @property
    def values(self) -> tuple[Value, ...]:
        return (*self.carried, *self.registers.values())

    def adopt(self, values: tuple[Value, ...]) -> _State:
        """The same state with other values."""
        n = len(self.carried)
        return _State(list(values[:n]), dict(zip(self.registers, values[n:], strict=True)))


class _Lowering:
    """One launch: its rings, bundles and roles."""

    def __init__(self, launch: Launch, context: PassContext) -> None:
        self.launch = launch
        self.context = context
        channels = [op for op in launch.body.ops if isinstance(op, Channel)]
        self.tiles = {c.result: c for c in channels if isinstance(c.type.memory, TileType)}
        self.rings = {r.channel.result: r for r in find_rings(launch.body, channels)}
        self.bundles = bundle_rings(list(self.rings.values()), launch.cluster_blocks)
        self.role: Role | None = None
        self.depth = 0  # loops around the current block, in its role
        self.tail: list[Op] = []  # frees that must follow the wait after a pipeline

    def run(self) -> Launch:
        b = Builder()
        with at(self.launch.loc):
            for ring in self.rings.values():
                b.emit(ring.alloc)
            for bundle in self.bundles:
                b.extend((bundle.full, bundle.empty))
            if self.bundles:
                initialise(b, self.bundles)
        rest = self.launch.body.with_ops(
            [op for op in self.launch.body.ops if not isinstance(op, Channel)]
        )
        lowered = self._block(rest, {})
        return self.launch.replace(body=lowered.with_ops([*b.ops, *lowered.ops]))  # type: ignore[return-value]

    # Walking

    def _block(self, block: Block, names: Renaming) -> Block:
        b = Builder()
        for op in block.ops:
            with at(op.loc):
                match op:
                    case Pipeline():
                        self._pipeline(b, op.map(lambda v: names.get(v, v)), names, op.results)
                    case Role():
                        b.emit(self._role(op, names))
                    case _:
                        if isinstance(op, Yield):
                            self._flush(b)
                        b.emit(self._nested(op, names))
                        if isinstance(op, Wait):
                            self._flush(b)
        return Block(block.params, b.ops)

    def _flush(self, b: Builder) -> None:
        b.extend(self.tail)
        self.tail = []

    def _nested(self, op: Op, names: Renaming) -> Op:
        loop = isinstance(op, (For, While))
        self.depth += loop
        new = op.map(lambda v: names.get(v, v), lambda inner: self._block(inner, names))
        self.depth -= loop
        if new is not op:
            names.update({o: n for o, n in zip(op.results, new.results, strict=True) if o is not n})
        return new

    def _role(self, role: Role, names: Renaming) -> Role:
        b = Builder()
        self.role, self.depth = role, 0
        mine = [x for x in self.bundles if role in (x.rings[0].writer_role, x.rings[0].reader_role)]
        if role.registers:
            resident = max(1, self.launch.resident)
            entry = self.launch.launched_threads * role.registers * resident
            b.emit(
                SetRegisters(count=role.registers, increase=entry > self.context.target.registers)
            )
        for number, bundle in enumerate(mine):
            label = bundle.rings[0].channel.label if len(mine) > 1 else "ring"
            open_place(b, bundle, f"{label}{number or ''}_{role.label}")
        body = self._block(role.body, names)
        stages = [op for op in walk(role.body) if isinstance(op, Stage)]
        copies = any(_copies_of(s) for s in stages)
        with by_first(b, bool(stages) and not copies and all(map(is_producer_stage, stages))):
            b.extend([op for op in body.ops if not isinstance(op, Yield)])
        if any(bundle.blocks > 1 for bundle in self.bundles):
            b.emit(ClusterBarrier())  # until then the others may arrive at barriers of this block
        b.emit(Yield(()))
        self.role = None
        return role.replace(body=Block((), b.ops))  # type: ignore[return-value]

    # One pipeline

    def _pipeline(self, b: Builder, op: Op, names: Renaming, results: tuple[Value, ...]) -> None:
        assert isinstance(op, Pipeline)
        stages = [s for s in op.body.ops if isinstance(s, Stage)]
        rings = [r for r in self.rings.values() if r.writer in stages and r.reader in stages]
        plan = plan_steps(stages, rings, self.launch.threads)
        trips = b.sub(op.stop, op.start)
        state = _State(list(op.inits), self._empty_registers(b, stages))
        if self.depth and plan.positions:
            for copies in {kind: None for stage in stages for kind in _copies_of(stage)}:
                if copies.commit is None:  # the last steps have started some that nobody awaits
                    b.extend(copies.land_all())
            b.emit(self._barrier())  # the last run of this loop has done with the slots
        for step in range(-plan.most_lead, 0):
            state = self._step(b, op, stages, plan, step, b.const(step), trips, state)
        index = scalar(i32, op.body.params[0].hint or "k")
        params = tuple(fresh(v.type, v.hint) for v in state.values)
        with b.region() as body:
            after = self._step(b, op, stages, plan, None, index, trips, state.adopt(params))
            b.emit(Yield(after.values))
        # What is in flight starts in the loop (issue_gemms sees to it that there is an iteration). A
        # compiler that thinks the loop may be passed by sees a way to the wait without a wgmma, and
        # where a later condition tells the two ways apart, ptxas serialises them (C7515).
        entered = any(isinstance(v.type, InflightType) for v in op.inits)
        block = Block((index, *params), tuple(body))
        loop = b.emit(For(b.const(0), trips, b.const(1), state.values, block, entered=entered))
        for result, old in zip(loop.results, state.values, strict=True):
            result.hint = old.hint
        names.update(zip(results, loop.results, strict=False))
        self._drain(b, stages, trips)

    def _empty_registers(self, b: Builder, stages: list[Stage]) -> dict[Value, Value]:
        used = [i.channel for s in stages for i in walk(s.body) if isinstance(i, Send)]
        found: dict[Value, Value] = {}
        for channel in used:
            type_ = self.tiles[channel].type.memory
            assert isinstance(type_, TileType)
            found[channel] = b.emit(Undefined(type=type_)).result
            found[channel].hint = self.tiles[channel].label
        return found

    def _drain(self, b: Builder, stages: list[Stage], trips: Value) -> None:
        """The frees that a deferral left: after the wait that follows the loop."""
        deferred: dict[Bundle, int] = {}
        for stage in stages:
            for op in stage.body.ops:
                if isinstance(op, Free) and op.defer and op.channel in self.rings:
                    bundle = self.rings[op.channel].bundle
                    if bundle is not None:
                        deferred[bundle] = op.defer
        with b.region() as ops:
            for bundle, defer in deferred.items():
                for lag in range(defer, 0, -1):
                    with b.when(b.compare("ge", trips, lag)):
                        self._release(b, bundle, lag)
        self.tail = list(ops)

    def _barrier(self) -> Barrier:
        if self.role is None:
            return Barrier()
        return Barrier(barrier=self.role.barrier, threads=self.role.threads)

    # One step

    def _step(
        self,
        b: Builder,
        pipeline: Pipeline,
        stages: list[Stage],
        plan: StepPlan,
        step: int | None,
        base: Value,
        trips: Value,
        state: _State,
    ) -> _State:
        """Every stage's iteration of one step: `step` is its number in the prologue, None in the
        steady state.
        """
        results: Renaming = {}
        for position, stage in enumerate(stages):
            point = plan.positions.get(position)
            if point is not None and (step is None or point.active_in(step)):
                if point.landing is not None and point.pending is not None:
                    b.emit(point.landing.wait(pending=point.pending))
                b.emit(self._barrier())
            if step is not None and step + stage.lead < 0:
                continue
            iteration = b.add(base, stage.lead)
            guarded = step is not None or stage.lead > 0
            state = self._guarded(b, pipeline, stage, iteration, trips, state, results, guarded)
            for copies in _copies_of(stage) if self.role is None else ():
                if copies.commit is not None:
                    b.emit(copies.commit())
        if step is not None:
            return state
        end = pipeline.body.terminator
        assert end is not None
        params = dict(zip(pipeline.body.params[1:], state.carried, strict=True))
        carried = [results.get(v, params.get(v, v)) for v in end.inputs]
        return _State(carried, state.registers)

    def _guarded(
        self,
        b: Builder,
        pipeline: Pipeline,
        stage: Stage,
        iteration: Value,
        trips: Value,
        state: _State,
        results: Renaming,
        guarded: bool,
    ) -> _State:
        """One stage's iteration, only if there is one."""
        if not guarded:
            return self._stage(b, pipeline, stage, iteration, state, results)
        exists = b.compare("lt", iteration, trips)
        if constant_of(exists) is not None:
            return (
                self._stage(b, pipeline, stage, iteration, state, results)
                if constant_of(exists)
                else state
            )
        if any(copies.commit is None for copies in _copies_of(stage)) or (
            self.context.target.buffer_loads and _passes_through_registers(stage)
        ):
            return self._stage(b, pipeline, stage, iteration, state, results, (exists,))
        with b.region() as then:
            after = self._stage(b, pipeline, stage, iteration, state, {})
            b.emit(Yield(tuple(after.registers.values())))
        orelse = Block((), (Yield(tuple(state.registers.values())),))
        branch = b.emit(If(exists, Block((), tuple(then)), orelse))
        for result, (channel, value) in zip(branch.results, state.registers.items(), strict=True):
            result.hint = value.hint or channel.hint
        return _State(state.carried, dict(zip(state.registers, branch.results, strict=True)))

    def _stage(
        self,
        b: Builder,
        pipeline: Pipeline,
        stage: Stage,
        iteration: Value,
        state: _State,
        results: Renaming,
        exists: tuple[Value, ...] = (),
    ) -> _State:
        """The ops of one stage with its channel ops replaced by their protocols. `exists` says whether
        there is the iteration, where copies and loads are started all the same.
        """
        names: Renaming = dict(zip(pipeline.body.params[1:], state.carried, strict=True))
        names[pipeline.body.params[0]] = b.add(pipeline.start, iteration)
        names.update(results)
        registers = dict(state.registers)
        slots: dict[Bundle, Value] = {}
        released: set[Bundle] = set()
        announced: set[Bundle] = set()  # what the first thread alone brings to them
        last = {
            self.rings[op.channel].bundle: op for op in stage.body.ops if isinstance(op, Commit)
        }
        for op in stage.body.ops:
            with at(op.loc):
                match op:
                    case Put() | Get():
                        names[op.result] = self._open(b, op, stage, iteration, slots)
                    case Commit():
                        ring = self.rings[op.channel]
                        if ring.bundle is None or last[ring.bundle] is op:
                            self._commit(b, ring, slots)
                    case Free():
                        bundle = self.rings[op.channel].bundle
                        if bundle is not None and bundle not in released:
                            released.add(bundle)
                            self._free(b, bundle, op.defer, iteration)
                    case Send():
                        tile = registers[op.channel] = names.get(op.tile, op.tile)
                        tile.hint = tile.hint or op.channel.hint
                    case Receive():
                        names[op.result] = registers[op.channel]
                    case Yield():
                        results.update(
                            zip(stage.results, (names.get(v, v) for v in op.values), strict=True)
                        )
                    case Copy() if self.role is not None and _beside_copies(op, stage):
                        with by_first(b, True):
                            for bundle in [x for x in slots if x not in announced]:
                                expect(b, bundle, slots[bundle])
                            announced.update(slots)
                            b.emit(self._copied(op, names, stage, slots, exists))
                    case _:
                        b.emit(self._copied(op, names, stage, slots, exists))
        for bundle in slots:
            advance(b, bundle, bundle.places[self._place_label(bundle)])
        return _State(state.carried, registers)

    def _copied(
        self,
        op: Op,
        names: Renaming,
        stage: Stage,
        slots: dict[Bundle, Value],
        exists: tuple[Value, ...],
    ) -> Op:
        new = clone_op(op, names)
        if (thread_copies(op) is not None or isinstance(op, LoadTile)) and exists:
            return new.replace(predicate=exists)
        if isinstance(op, Copy) and isinstance(new, Copy) and op.instruction == "tma":
            put = next(
                p for p in stage.body.ops if isinstance(p, Put) and p.result is op.destination
            )
            ring = self.rings[put.channel]
            assert ring.bundle is not None
            barrier = (ring.bundle.full.result, slots[ring.bundle])
            return new.replace(barrier=barrier, clipped=ring.clipped)
        return new

    # Ends of channels

    def _place_label(self, bundle: Bundle) -> str:
        assert self.role is not None
        return next(label for label in bundle.places if label.endswith("_" + self.role.label))

    def _open(
        self, b: Builder, op: Put | Get, stage: Stage, iteration: Value, slots: dict[Bundle, Value]
    ) -> Value:
        """The slot's handle, once it is free (put) or full (get). Where one thread runs the stage, it
        announces what TMA will bring; where all do, the first one does, with its copies.
        """
        ring = self.rings[op.channel]
        bundle = ring.bundle
        if bundle is None:
            return ring.slot(b, b.floormod(iteration, ring.slots))
        if bundle not in slots:
            place = bundle.places[self._place_label(bundle)]
            slots[bundle] = b.emit(Load(place.slot, ())).result
            slots[bundle].hint = "slot"
            (wait_empty if isinstance(op, Put) else wait_full)(b, bundle, place, slots[bundle])
            if isinstance(op, Put) and not _copies_of(stage):
                expect(b, bundle, slots[bundle])
        return ring.slot(b, slots[bundle])

    def _commit(self, b: Builder, ring: Ring, slots: dict[Bundle, Value]) -> None:
        if ring.bundle is not None:
            announce(b, ring.bundle, slots[ring.bundle])
        elif ring.read_by_engine:
            b.emit(FenceProxyAsync())

    def _free(self, b: Builder, bundle: Bundle, defer: int, iteration: Value) -> None:
        if defer == 0:
            place = bundle.places[self._place_label(bundle)]
            release(b, bundle, b.emit(Load(place.slot, ())).result)
            return
        with b.when(b.compare("ge", iteration, defer)):
            self._release(b, bundle, defer)

    def _release(self, b: Builder, bundle: Bundle, lag: Number) -> None:
        """Frees the slot taken `lag` turns before the next one."""
        assert isinstance(lag, int)
        place = bundle.places[self._place_label(bundle)]
        slot = b.emit(Load(place.slot, ())).result
        earlier = b.sub(slot, lag)
        release(
            b, bundle, b.select(b.compare("lt", earlier, 0), b.add(earlier, bundle.slots), earlier)
        )


def _passes_through_registers(stage: Stage) -> bool:
    """Whether a stage fetches or deposits, and nothing of it can fail where there is no iteration: the
    loads give what lies outside, and a slot that is free is filled with that. Without a branch they
    stand in one block with the matrix instructions, and buffers check the bounds by themselves.
    """
    slots = {op.result for op in stage.body.ops if isinstance(op, Put)}
    for op in stage.body.ops:
        match op:
            case Load() if is_global(op.memory):
                pass
            case LoadTile() if is_global(op.source):
                pass
            case StoreTile() if op.destination in slots:
                pass
            case Put() | Commit() | Send() | Receive() | Yield():
                pass
            case _ if not is_harmless(op):
                return False
    return True


def _beside_copies(op: Op, stage: Stage) -> bool:
    """Whether an op is a copy by TMA in a stage whose threads start copies, too."""
    return isinstance(op, Copy) and op.instruction == "tma" and bool(_copies_of(stage))


def _copies_of(stage: Stage) -> list[ThreadCopies]:
    """The kinds of asynchronous copies that threads start in a stage."""
    found = dict.fromkeys(thread_copies(op) for op in stage.body.ops)
    return [kind for kind in found if kind is not None]
