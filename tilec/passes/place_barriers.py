"""Barriers, cp.async waits and proxy fences for shared memory outside channels.

Needs: pipelines lowered (managed buffers have their synchronisation already). Leaves: a barrier of
the role between any two statements that touch one shared buffer from different threads, at least
one writing it; before it the wait for what cp.async writes, and a fence where an engine reads what
threads wrote. A tensor that one statement writes and another reads or writes is such a buffer too,
as far as the block goes; within a simt region that holds of elements that are the same for all
threads, while those of a thread are the program's to order. Atomics of one kind
are unordered among themselves; those of another kind, and plain accesses, wait for them.

    copy %A[...] -> %As <instruction = "cp_async">     copy %A[...] -> %As
    %x = gemm %As, %Bs, %acc                     ->    cp_async_commit ; cp_async_wait <pending = 0> ; barrier
                                                       %x = gemm %As, %Bs, %acc

What was written before a loop is met for ahead of it, where that saves a barrier in every
iteration.

Where the launch releases memory to other blocks or acquires it from them (an atomic of an order, a
fence), the threads meet before a release by one of them of what others did, and after what one has
acquired, before others use it. What an engine stores is waited for before it is released.

Within a simt region a buffer of which each element that is written only one thread touches
(private_elements) needs no barrier. A barrier that would stand under a condition or loop bound that
depends on the thread is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import HazardError
from ..ir.core import Access, Block, Effect, Level, Op, Program, Value, at, walk
from ..ir.ops.amd import BufferCopyWait
from ..ir.ops.control import For, If, Launch, Role, Simt, While, Yield, map_launches
from ..ir.ops.memory import Alloc, Slot
from ..ir.ops.nvidia import BulkWait, CpAsyncCommit, CpAsyncWait, FenceProxyAsync
from ..ir.ops.thread import Barrier
from ..ir.rewrite import defining_ops
from .context import PassContext
from .dependence import is_global, is_shared, orders
from .private_elements import is_private, one_thread_takes, parts_apart
from .store_regions import StoreRegions, shared_tensors
from .thread_copies import ThreadCopies, thread_copies
from .uniformity import differing

Written = tuple[Value, Op]
"""A tensor, and the statement that writes it."""
Update = tuple[Value, str]
"""What atomics change, and their kind: those of one kind are unordered among themselves."""
_Reached = tuple[Op, tuple[frozenset[Any], ...], ThreadCopies | None]
"""A loop, what is open before it, and how the last asynchronous copy before it is awaited."""
Outer = Literal["touches", "stores", "sends", "releases", "acquires"]
"""What is done to global memory. An engine `sends` what it stores until a bulk_wait says otherwise."""


def place_barriers(program: Program, context: PassContext) -> Program:
    """Synchronises unmanaged shared memory in every launch."""
    return map_launches(program, _launch)


def _launch(launch: Launch) -> Launch:
    placer = _Placer(launch)
    return launch.replace(body=placer.block(launch.body, _Pending()))  # type: ignore[return-value]


@dataclass
class _Pending:
    """Accesses since the last barrier, by buffer; writes that engines have not been shown; what
    asynchronous copies of threads write, before their group is committed and after.
    """

    reads: set[Value] = field(default_factory=set)
    writes: set[Value] = field(default_factory=set)
    updates: set[Update] = field(default_factory=set)
    unfenced: set[Value] = field(default_factory=set)
    copies: set[Value] = field(default_factory=set)
    groups: set[Value] = field(default_factory=set)
    stores: set[Written] = field(default_factory=set)  # to tensors
    sent: set[Written] = field(default_factory=set)  # those of engines
    outer: set[Outer] = field(default_factory=set)  # of global memory

    def _sets(self) -> tuple[set[Any], ...]:
        return (
            self.reads,
            self.writes,
            self.updates,
            self.unfenced,
            self.copies,
            self.groups,
            self.stores,
            self.sent,
            self.outer,
        )

    def copy(self) -> _Pending:
        return _Pending(*map(set[Any], self._sets()))

    def merge(self, other: _Pending) -> None:
        for mine, more in zip(self._sets(), other._sets(), strict=True):
            mine |= more

    def become(self, other: _Pending) -> None:
        """Is replaced by what another path leaves."""
        for mine in self._sets():
            mine.clear()
        self.merge(other)

    def conflict(self, effect: Effect, buffer: Value, op: Op, regions: StoreRegions) -> bool:
        """Whether a statement's access to a buffer must come after what is open, atomics of other kinds
        aside."""
        stores = effect.access is Access.WRITE and not effect.atomic
        for tensor, other in self.stores:
            if tensor is buffer and not (stores and regions.unordered(other, op, tensor)):
                return True
        if effect.atomic:
            return buffer in self.writes or buffer in self.reads
        updated = any(changed is buffer for changed, _ in self.updates)
        return buffer in self.writes or updated or (stores and buffer in self.reads)

    def mixes(self, effect: Effect, buffer: Value) -> bool:
        """Whether a statement changes a buffer by another kind of atomics than are open."""
        return bool(effect.atomic) and any(
            changed is buffer and kind != effect.atomic for changed, kind in self.updates
        )

    def is_open(self, does: set[Outer]) -> bool:
        """Whether what is done to global memory must come after what other threads did."""
        if "releases" in does and self.outer & {"touches", "sends", "acquires"}:
            return True
        return "touches" in does and "acquires" in self.outer

    @property
    def stored(self) -> bool:
        """Whether stores to global memory are open that somebody may release."""
        return "stores" in self.outer

    def note(self, effect: Effect, buffer: Value, op: Op) -> None:
        """A statement's access to a buffer is open."""
        if effect.atomic:
            self.updates.add((buffer, effect.atomic))
        elif effect.access is Access.READ:
            self.reads.add(buffer)
        elif is_global(buffer):
            self.stores.add((buffer, op))
            self.sent |= {(buffer, op)} if effect.proxy == "async" else set()
            return
        else:
            self.writes.add(buffer)
        if effect.access is Access.WRITE and effect.proxy == "generic":
            self.unfenced.add(buffer)

    def state(self) -> tuple[frozenset[Any], ...]:
        return tuple(map(frozenset, self._sets()))

    def synchronise(self, op: CpAsyncCommit | CpAsyncWait | BufferCopyWait) -> None:
        """A group of copies is closed, or copies are waited for."""
        if not isinstance(op, CpAsyncWait):
            self.groups |= self.copies
            self.copies.clear()
        if not isinstance(op, CpAsyncCommit) and op.pending == 0:
            self.groups.clear()


class _Placer:
    """One launch: which buffers are its own to synchronise, and on which barrier the current role
    meets.
    """

    def __init__(self, launch: Launch) -> None:
        self.buffers = {
            op.result
            for op in walk(launch.body)
            if isinstance(op, Alloc) and is_shared(op.result) and not op.managed
        }
        self.defined_by = defining_ops(launch.body)
        self.differing = differing(launch.body)
        self.regions = StoreRegions(launch, self.differing)
        self.tensors = shared_tensors(launch, self.regions)
        ordering = [op for op in walk(launch.body) if orders(op)]
        self.ordering, self.releasing = bool(ordering), any(op.releases for op in ordering)
        self.barrier = Barrier()
        self.simt: Simt | None = None
        self.private: set[Value] = set()
        self.divergent: Op | None = None
        self.copies: ThreadCopies | None = None  # how the last asynchronous copy is awaited
        self.loops: dict[_Reached, tuple[Op, _Pending, ThreadCopies | None]] = {}

    def block(self, block: Block, pending: _Pending) -> Block:
        """The block with barriers; `pending` is updated to what is open at its end."""
        ops: list[Op] = []
        for op in block.ops:
            with at(op.loc):
                self._op(op, pending, ops)
        return block.with_ops(ops)

    def _op(self, op: Op, pending: _Pending, ops: list[Op]) -> None:
        match op:
            case Role():
                self.barrier = Barrier(barrier=op.barrier, threads=op.threads)
                ops.append(op.replace(body=self.block(op.body, pending.copy())))
                self.barrier = Barrier()
            case Simt():
                self.simt, outer = op, self.simt
                self.private = {b for b in self.buffers if is_private(op, b, self.defined_by)}
                self._before(op, pending, ops, self._accesses(op))
                body = self._region(op.body, pending)
                self.simt = outer
                self.private = set()
                self._note(op, self._accesses(op), pending)
                ops.append(op.replace(body=body))
            case For() | While():
                self._ahead(op, pending, ops)
                self._ahead_of_loop(op, pending, ops)
                ops.append(self._loop(op, pending))
            case If():
                self._ahead(op, pending, ops)
                branches = []
                after = _Pending()
                for block in op.regions:
                    inner = pending.copy()
                    branches.append(self._guarded(op, block, inner))
                    after.merge(inner)
                pending.become(after)
                ops.append(op.replace(then=branches[0], orelse=branches[1]))
            case Barrier() if op.barrier and op.threads < self.barrier.threads:
                ops.append(op)  # of some threads: orders nothing for the others
            case Barrier():
                if self.divergent is not None:
                    raise HazardError(
                        "TLC0341",
                        "a barrier stands under control flow that depends on the thread",
                        loc=op.loc,
                        hint="move it out of the condition: all threads must come",
                    )
                ops.append((op if op.barrier else self.barrier).replace(stores=pending.stored))
                self._met(pending)
            case FenceProxyAsync():  # of what has landed
                pending.unfenced &= pending.copies | pending.groups
                ops.append(op)
            case CpAsyncCommit() | CpAsyncWait() | BufferCopyWait():
                pending.synchronise(op)
                ops.append(op)
            case Yield():
                ops.append(op)
            case _:
                self._check_collective(op)
                accesses = self._accesses(op)
                self._before(op, pending, ops, accesses)
                self._note(op, accesses, pending)
                copies = thread_copies(op)
                if copies is not None:
                    self.copies = copies
                    pending.copies |= {b for e, b in accesses if e.access is Access.WRITE}
                ops.append(op)

    def _check_collective(self, op: Op) -> None:
        """Refuses what the whole block does together where some threads may not come."""
        if self.divergent is None or op.level is not Level.TILE or op.pure:
            return
        if getattr(op, "instruction", "") != "tma":  # which one thread issues
            raise HazardError(
                "TLC0341",
                "the whole block does this together, under control flow that depends on the thread",
                loc=op.loc,
                hint="let the condition be the same for all threads, or use statements of a thread",
            )

    def _region(self, block: Block, pending: _Pending) -> Block:
        """A simt body: its accesses conflict with each other only where they are not private."""
        inner = _Pending(unfenced=pending.unfenced)
        return self.block(block, inner)

    def _ahead(self, op: For | While | If, pending: _Pending, ops: list[Op]) -> None:
        """Before threads part ways they meet, if what they do then needs what others did before."""
        if self.divergent is None and self._parts(op):
            self._before(op, pending, ops, self._accesses(op))

    def _ahead_of_loop(self, op: For | While, pending: _Pending, ops: list[Op]) -> None:
        """Before a loop threads meet, if its iterations then meet less often."""
        met, extra = pending.copy(), list[Op]()
        self._before(op, met, extra, self._accesses(op))
        if not extra:
            return
        barriers = [
            sum(isinstance(inner, Barrier) for inner in self._loop(op, start.copy()).walk())
            for start in (pending, met)
        ]
        if barriers[1] < barriers[0]:
            ops += extra
            pending.become(met)

    def _parts(self, op: For | While | If) -> bool:
        """Whether some threads may run the op's regions (as often) and others not."""
        match op:
            case For():
                bounds: tuple[Value, ...] = (op.start, op.stop, op.step)
            case While():
                end = op.condition.terminator
                bounds = end.inputs if end is not None else ()
            case If():
                bounds = (op.condition,)
        return any(v in self.differing for v in bounds)

    def _loop(self, op: For | While, pending: _Pending) -> Op:
        """The loop with barriers, as it is where `pending` is open before it. Loops around it ask many
        times, so that without the answers kept, a nest would take time exponential in its depth.
        """
        key = op, pending.state(), self.copies
        if key not in self.loops:
            after = pending.copy()
            new = self._settled(op, after)
            self.loops[key] = new, after, self.copies
        new, after, self.copies = self.loops[key]
        pending.become(after)
        return new

    def _settled(self, op: For | While, pending: _Pending) -> Op:
        """A loop's regions see what is open before it and what they leave open themselves."""
        outer = self.divergent
        if self._parts(op):
            self.divergent = op
        while True:
            before = pending.state()
            trial = pending.copy()
            new = self._turn(op, trial)
            pending.merge(trial)
            if pending.state() == before:
                break
        if isinstance(op, While):  # its condition is what runs last
            self.block(op.condition, pending)
        self.divergent = outer
        return new

    def _turn(self, op: For | While, pending: _Pending) -> Op:
        """One iteration: a while loop's condition, then the body."""
        if isinstance(op, For):
            return op.replace(body=self.block(op.body, pending))
        condition = self.block(op.condition, pending)
        return op.replace(condition=condition, body=self.block(op.body, pending))

    def _guarded(self, op: If, block: Block, pending: _Pending) -> Block:
        """One arm. Threads that have parted may still use elements that only one of them touches
        there: what others did before has been ordered ahead, and what follows sees all accesses.
        """
        outer, private = self.divergent, self.private
        if self._parts(op):
            self.divergent = op
            if self.simt is not None and outer is None:
                self.private = private | self._private_in(op, self.simt)
        body = self.block(block, pending)
        self.divergent, self.private = outer, private
        if self._parts(op):
            self._note(op, self._accesses(op), pending)
        return body

    def _private_in(self, branch: If, region: Simt) -> set[Value]:
        """The buffers of which no element that one thread writes in a branch is another's there."""
        if one_thread_takes(branch, region, self.defined_by, self.differing):
            return self.buffers
        return {
            b
            for b in self.buffers
            if parts_apart(branch, b, self.defined_by, self.differing)
            or is_private(region, b, self.defined_by, branch)
        }

    # Accesses

    def _accesses(self, op: Op) -> list[tuple[Effect, Value]]:
        """Every effect of `op` and its regions on a buffer of ours, with the buffer."""
        found: list[tuple[Effect, Value]] = []
        for inner in op.walk() if isinstance(op, Simt) or not op.regions else [op, *_inside(op)]:
            for effect in inner.effects():
                if effect.memory is not None and effect.access in (Access.READ, Access.WRITE):
                    buffer = self._buffer(effect.memory)
                    if buffer is not None and (
                        self.simt is None
                        or isinstance(op, Simt)
                        or buffer not in self.private | self.tensors
                        or buffer in self.tensors
                        and self.regions.is_the_blocks(inner, buffer)
                    ):
                        found.append((effect, buffer))
        return found

    def _buffer(self, handle: Value) -> Value | None:
        op = self.defined_by.get(handle)
        if isinstance(op, Slot):
            handle = op.ring
        return handle if handle in self.buffers or handle in self.tensors else None

    def _before(
        self, op: Op, pending: _Pending, ops: list[Op], accesses: list[tuple[Effect, Value]]
    ) -> None:
        """Emits what must stand before `op`."""
        fence = any(e.proxy == "async" and buffer in pending.unfenced for e, buffer in accesses)
        clashing = {
            buffer for e, buffer in accesses if pending.conflict(e, buffer, op, self.regions)
        }
        mixed = {buffer for e, buffer in accesses if pending.mixes(e, buffer)}
        tensors = (clashing | mixed) & self.tensors
        conflict = bool(clashing - tensors)
        if self.divergent is None:  # where threads have parted each orders what it does itself
            conflict = conflict or bool(tensors | mixed)
            conflict = conflict or self.ordering and pending.is_open(self._outer(op))
        if not conflict and not fence:
            return
        if self.divergent is not None:
            raise HazardError(
                "TLC0340",
                "threads exchange data through shared memory under control flow that depends on "
                "the thread",
                loc=op.loc,
                hint="put the condition into a T.Parallel nest, which has a barrier before and after; or "
                "index by the thread's number and loops of known bounds, so that it shows that nobody "
                "touches what another writes",
            )
        if (pending.copies or pending.groups) and self.copies is not None:
            ops += self.copies.land_all()
            pending.copies.clear()
            pending.groups.clear()
        if fence:
            ops.append(FenceProxyAsync())
            pending.unfenced.clear()
        released = "sends" in pending.outer and "releases" in self._outer(op)
        if released or any(tensor in tensors for tensor, _ in pending.sent):
            ops.append(BulkWait(pending=0))
            pending.outer.discard("sends")
            pending.sent.clear()
        ops.append(self.barrier.replace(stores=pending.stored or bool(tensors)))
        self._met(pending)

    def _met(self, pending: _Pending) -> None:
        """After a barrier nothing is open, but what asynchronous copies still bring."""
        pending.reads.clear()
        pending.updates.clear()
        pending.outer &= {"sends"}
        pending.writes = pending.copies | pending.groups
        pending.stores = set(pending.sent)

    def _note(self, op: Op, accesses: list[tuple[Effect, Value]], pending: _Pending) -> None:
        for effect, buffer in accesses:
            pending.note(effect, buffer, op)
        if self.ordering:
            pending.outer |= self._outer(op) - {"releases"}

    def _outer(self, op: Op) -> set[Outer]:
        """What an op and its regions do to global memory."""
        found: set[Outer] = set()
        for inner in op.walk():
            if orders(inner):
                found |= {"releases"} if inner.releases else set()
                found |= {"acquires"} if inner.acquires else set()
                continue
            for effect in inner.effects():
                if effect.memory is not None and is_global(effect.memory):
                    found.add("touches")
                    if self.releasing and effect.access is Access.WRITE:
                        found.add("sends" if effect.proxy == "async" else "stores")
        return found


def _inside(op: Op) -> list[Op]:
    return [inner for block in op.regions for inner in walk(block)]
