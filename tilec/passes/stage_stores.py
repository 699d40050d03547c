"""Stores of tiles go through shared memory, a slab at a time, where TMA does them or where the
threads' registers lie badly for global memory.

Needs: layouts inferred, so that a slab is a choice of registers; slots fitted, so that it is known
how large buffers are. Leaves: no store_tile with instruction "tma" and no scattered one (below)
that has room; what cannot be cut so, or has none, is stored directly, with a remark.

    store_tile %c, %C[%m, %n]    ->  if (thread 0) { bulk_wait <pending = 1, read> }
      <instruction = "tma">          barrier                  the last slab of this buffer is read
                                     store_tile (extract_tile %c <offsets = [0, 64 q]>), %stage_q
                                     fence_proxy_async ; barrier
                                     if (thread 0) { copy %stage_q -> %C[%m, %n + 64 q]
                                                       <instruction = "tma"> ; bulk_commit }

Where the threads of each warpgroup hold rows of their own of every slab (columns, of a product that is stored
transposed), and nothing else lets all of the role meet in shared memory, each warpgroup meets by itself (on
barriers that the program leaves) and stores its part: one may be in the next tile's products while another stores.

A buffer is written again two slabs later, when at most one younger slab is still being read. Where
the number of slabs is odd, the first slab of the next round meets the buffer of the last one, so it
waits for all. At the end of the role there is a wait for the engine. The waits count slabs of every
dtype and shape, so all stores of a role take turns at two places (`Alloc.place`), each a buffer of its
own there; of warpgroups by themselves those whose parts lie at the same bytes.

A store is scattered where one store instruction of a warp leaves the sectors that it touches in part
unwritten, or moves less than a register a lane: the accumulators of mma hold 8 rows of 16 bytes of
halves. Its slabs are written by the threads and copied by the threads, in rows of 128 bytes, as many at a
time as there are buffers past their use (plan_shared puts the slabs there, so no other block loses
its place on the multiprocessor), or, in loops, as a block leaves room for that is alone there; the
barriers between are place_barriers', as for any buffer.

    store_tile %c, %C[%m, %n]    ->  store_tile (extract_tile %c <offsets = [0, 64 q]>), %stage_q  ...
                                     copy %stage_q -> %C[%m, %n + 64 q]                            ...
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.dtypes import DType
from ..ir.layout import RegisterLayout
from ..ir.ops.arith import Cast
from ..ir.ops.control import If, Launch, Role, ThreadId, WarpUniform, Yield, map_launches
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.nvidia import WARPGROUP, BulkCommit, BulkWait, FenceProxyAsync
from ..ir.ops.pipeline import Channel, Put
from ..ir.ops.thread import NAMED_BARRIERS, Barrier
from ..ir.ops.tile import Copy, ExtractTile, StoreTile
from ..ir.types import MemoryType, Space, TileType
from ..target import Target
from .cluster_gains import SECTOR_BYTES
from .context import PassContext, Remark
from .dependence import is_global, is_shared
from .fit_resources import buffer_bytes, shared_bytes
from .slabs import ROW_UNIT, Slabs, apart_along, cut_slabs, own_part

REGISTER = 4  # bytes


def stage_stores(program: Program, context: PassContext) -> Program:
    """Stages the TMA stores and the scattered stores of every launch."""
    return map_launches(program, lambda launch: _launch(launch, context))


_Kind = tuple[DType, tuple[int, int]]
"""Of slabs their dtype and shape."""


@dataclass
class _Staging:
    """Buffers that slabs of one role take turns at, those of each kind by themselves: `first` is the
    number of the place of a kind's first one (-1: places of their own). Whether all stores have an
    even number of slabs.
    """

    first: int
    buffers: dict[_Kind, list[Alloc]] = field(default_factory=dict)
    even: bool = True


def is_scattered(layout: RegisterLayout, bits: int, warp: int) -> bool:
    """Whether a warp that stores a row-major tile of `layout` moves less than a register a lane, or
    leaves a part of a sector to another instruction.
    """
    width = min(layout.vector_width() * bits // 8, ROW_UNIT)
    if width < REGISTER:
        return True
    lanes = np.unique(layout.coords()[:warp, 0], axis=0)
    sectors = {(*row, column * bits // 8 // SECTOR_BYTES) for *row, column in lanes.tolist()}
    return len(lanes) * width < len(sectors) * SECTOR_BYTES


def _launch(launch: Launch, context: PassContext) -> Launch:
    stager = _Stager(launch, context)
    if any(isinstance(op, Role) for op in launch.body.ops):
        ops = [stager.role(op) if isinstance(op, Role) else op for op in launch.body.ops]
    else:
        ops = list(stager.body(launch.body, Barrier()).ops)
    body = launch.body.with_ops([*stager.allocs, *ops])
    return launch.replace(body=body)  # type: ignore[return-value]


class _Stager:
    """The stores of one launch, and the buffers that they go through."""

    def __init__(self, launch: Launch, context: PassContext) -> None:
        self.context = context
        self.launch = launch
        self.allocs: list[Alloc] = []
        self.casts = {op.result: op for op in walk(launch.body) if isinstance(op, Cast)}
        self.slabs: dict[Op, Slabs | None] = {}
        self.staging: dict[tuple[int, ...], _Staging] = {}
        self.places = 0
        self.holes: list[int] = []
        self.barrier = Barrier()
        self.warpgroups = 1  # that may store by themselves, on the barriers from `free` on
        named = [op.barrier for op in walk(launch.body) if isinstance(op, (Role, Barrier))]
        self.free = 1 + max(named, default=0)

    def role(self, role: Role) -> Role:
        barrier = Barrier(barrier=role.barrier, threads=role.threads) if role.barrier else Barrier()
        groups = role.threads // WARPGROUP
        whole = role.barrier and role.threads % WARPGROUP == 0
        if whole and self.free + groups <= NAMED_BARRIERS and not self._meets_otherwise(role):
            self.warpgroups = groups
        body = self.body(role.body, barrier)
        self.free += groups if self.warpgroups > 1 else 0
        self.warpgroups = 1
        return role if body is role.body else role.replace(body=body)  # type: ignore[return-value]

    def _meets_otherwise(self, role: Role) -> bool:
        """Whether the threads of a role meet for more than what the engine stores."""
        plain = {
            op.result
            for op in walk(self.launch.body)
            if isinstance(op, Alloc) and is_shared(op.result) and not op.managed
        }
        return any(
            isinstance(op, (Barrier, Put)) or not plain.isdisjoint(op.inputs)
            for op in walk(role.body)
        )

    def body(self, body: Block, barrier: Barrier) -> Block:
        """The body of a role, or of a launch without roles, whose threads meet at `barrier`."""
        self.barrier, self.staging = barrier, {}
        stores = [op for op in walk(body) if isinstance(op, StoreTile) and self._is_staged(op)]
        self.holes = _holes(self.launch, stores, self.context.target)
        for op in stores:
            self._plan(op)
        if not stores:
            return body
        block = self._block(body)
        by_engine = [op for op in stores if op.instruction and self.slabs[op] is not None]
        if not by_engine:
            return block
        b = Builder()
        end = block.terminator
        b.extend(block.ops[:-1] if end is not None else block.ops)
        groups = max(self._groups(op)[0] for op in by_engine)
        with at(by_engine[-1].loc), b.when(_first_thread(b, groups)):
            b.emit(BulkWait(pending=0))  # shared memory is given back when the block ends
        b.emit(end if end is not None else Yield(()))
        return block.with_ops(b.ops)

    def _is_staged(self, op: StoreTile) -> bool:
        """Whether a store goes through shared memory if it can."""
        tile, memory = op.tile.type, memory_type(op.destination)
        assert isinstance(tile, TileType)
        if op.instruction == "tma":
            return True
        return (
            not op.within
            and is_global(op.destination)
            and tile.layout is not None
            and tile.layout.replication == 1
            and op.dims[-1:] == (len(memory.shape) - 1,)
            and tile.shape[-1] * tile.dtype.bits >= SECTOR_BYTES * 8
            and is_scattered(tile.layout, tile.dtype.bits, self.context.target.warp_size)
        )

    def _plan(self, op: StoreTile) -> None:
        tile = op.tile.type
        assert isinstance(tile, TileType)
        slabs = self.slabs[op] = cut_slabs(tile, bool(op.instruction), op.slab)
        if slabs is None:
            self._refuse(op, f"no slab of {tile} is a part of every thread's registers")
            return
        slab_bytes = tile.dtype.bytes * slabs.shape[0] * slabs.shape[1]
        staging = self._staging(op, tile.dtype, slabs)
        staging.even = staging.even and len(slabs.parts) % 2 == 0
        buffers = staging.buffers.setdefault((tile.dtype, slabs.shape), [])
        most = min(op.staging, len(slabs.parts)) if op.instruction else len(slabs.parts)
        while len(buffers) < most and (op.instruction or self._take(slab_bytes)):
            place = staging.first + len(buffers) if op.instruction else -1
            with at(op.loc):
                type_ = MemoryType(tile.dtype, slabs.shape, Space.SHARED, slabs.buffer)
                alloc = Alloc(type=type_, managed=bool(op.instruction), place=place)
            alloc.result.hint = f"{op.destination.hint or 'tile'}_stage"
            buffers.append(alloc)
            self.allocs.append(alloc)
        if not buffers:
            self.slabs[op] = None
            self._refuse(op, f"no buffer of {slab_bytes} bytes is past its use where it is stored")

    def _staging(self, op: StoreTile, dtype: DType, slabs: Slabs) -> _Staging:
        """The places where the slabs of a store lie.

        Threads that all meet put slabs of any kind there. Warpgroups that do not meet each other need
        their parts at the same bytes of each: as many rows, as wide, cut along the same dimension.
        """
        groups, dim = self._groups(op)
        rows, columns = slabs.shape
        key = (groups, *((dim, rows, columns * dtype.bytes) if groups > 1 else ()))
        if not op.instruction:
            return self.staging.setdefault((0,), _Staging(-1))
        if key not in self.staging:
            self.staging[key] = _Staging(self.places)
            self.places += op.staging
        return self.staging[key]

    def _take(self, size: int) -> bool:
        """Whether there is a buffer past its use with `size` bytes, which are taken."""
        for number, hole in enumerate(self.holes):
            if hole >= size:
                self.holes[number] -= size
                return True
        return False

    def _refuse(self, op: StoreTile, why: str) -> None:
        name = op.destination.hint or "the result"
        how = "by TMA" if op.instruction else "in whole rows"
        text = f"{name} is stored by its threads as they hold it, not {how}: {why}"
        self.context.remark(Remark("TLC0425", text, op.loc))

    def _block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            slabs = self.slabs.get(op)
            if slabs is not None:
                assert isinstance(op, StoreTile)
                with at(op.loc):
                    ops.extend(self._store(op, slabs))
            elif op in self.slabs:
                with at(op.loc):
                    ops.append(op.replace(instruction=""))
            else:
                ops.append(op.map_regions(self._block))
        return block.with_ops(ops)

    def _store(self, op: StoreTile, slabs: Slabs) -> tuple[Op, ...]:
        tile = op.tile.type
        assert isinstance(tile, TileType)
        staging = self._staging(op, tile.dtype, slabs)
        buffers = [alloc.result for alloc in staging.buffers[tile.dtype, slabs.shape]]
        b = Builder()
        if not op.instruction:
            for done in range(0, len(slabs.parts), len(buffers)):
                parts = slabs.parts[done : done + len(buffers)]
                for memory, (corner, layout) in zip(buffers, parts, strict=False):
                    self._fill(b, op.tile, memory, corner, layout)
                for memory, (corner, _) in zip(buffers, parts, strict=False):
                    self._send(b, op, memory, corner)
            return b.ops
        groups, _ = self._groups(op)
        group = _warpgroup(b) if groups > 1 else None
        first = _first_thread(b, groups)
        with b.when(first):
            b.emit(BulkWait(pending=op.staging - 1 if staging.even else 0, read=True))
        for number, (corner, layout) in enumerate(slabs.parts):
            buffer = buffers[number % len(buffers)]
            self._meet(b, group, groups)
            self._fill(b, op.tile, buffer, corner, layout)
            b.emit(FenceProxyAsync())
            self._meet(b, group, groups)
            with b.when(first):
                self._send(b, op, buffer, corner, group)
                b.emit(BulkCommit())
                if number + 1 < len(slabs.parts):  # the next slab's buffer has been read
                    b.emit(BulkWait(pending=op.staging - 1, read=True))
        return b.ops

    def _groups(self, op: StoreTile) -> tuple[int, int]:
        """How many warpgroups store their own part of a tile, and the dimension along which they hold
        it; 1 where all threads do it together.
        """
        slabs, bits = self.slabs[op], memory_type(op.destination).dtype.bits
        dim = None if slabs is None else apart_along(slabs, bits, self.warpgroups)
        return (1, 0) if dim is None else (self.warpgroups, dim)

    def _meet(self, b: Builder, group: Value | None, groups: int) -> None:
        """All threads of the role meet, or those of each of its warpgroups."""
        if group is None:
            b.emit(Barrier(barrier=self.barrier.barrier, threads=self.barrier.threads))
            return
        last = self.free + groups - 1
        meeting = Block((), (Barrier(barrier=last, threads=WARPGROUP), Yield(())))
        for one in reversed(range(groups - 1)):
            own = Block((), (Barrier(barrier=self.free + one, threads=WARPGROUP), Yield(())))
            inner = Builder()
            inner.emit(If(inner.compare("eq", group, one), own, meeting))
            inner.emit(Yield(()))
            meeting = Block((), inner.ops)
        b.extend(meeting.ops[:-1])

    def _fill(
        self,
        b: Builder,
        tile: Value,
        buffer: Value,
        corner: tuple[int, int],
        layout: RegisterLayout,
    ) -> None:
        cast = self.casts.get(tile)
        whole = tile if cast is None else cast.x  # converted slab by slab, not all at once
        slab = b.emit(ExtractTile(whole, offsets=corner, shape=layout.shape, layout=layout)).result
        if cast is not None:
            slab = b.emit(Cast(slab, dtype=cast.dtype)).result
        slab.hint = "slab"
        b.emit(StoreTile(slab, buffer, (b.const(0), b.const(0)), dims=(0, 1)))

    def _send(
        self,
        b: Builder,
        op: StoreTile,
        buffer: Value,
        corner: tuple[int, int],
        group: Value | None = None,
    ) -> None:
        """A slab's copy to global memory, or that of a warpgroup's part of it."""
        indices = list(op.indices)
        for dim, start in zip(op.dims, corner, strict=True):
            indices[dim] = b.add(indices[dim], start)
        rows, columns = memory_type(buffer).shape
        shape = (int(rows), int(columns))
        place: list[Value] = [b.const(0), b.const(0)]
        if group is not None:
            groups, dim = self._groups(op)
            shape = own_part(shape, dim, groups)
            place[dim] = b.mul(group, shape[dim])
            indices[op.dims[dim]] = b.add(indices[op.dims[dim]], place[dim])
        b.emit(
            Copy(
                buffer, tuple(place), op.destination, tuple(indices), shape=shape,
                source_dims=(0, 1), destination_dims=op.dims, instruction=op.instruction,
            )
        )  # fmt: skip


def _holes(launch: Launch, stores: Sequence[StoreTile], target: Target) -> list[int]:
    """Bytes of each part of shared memory that the slabs of scattered stores may have: buffers that
    are past their use where the first of those stands, which plan_shared can give to another one.
    Where all stand in loops or branches, what a block leaves that is alone on its multiprocessor:
    plan_shared knows the lives of buffers by the statements of the launch. None in a launch of roles.
    """
    body = launch.body
    scattered: set[Op] = {op for op in stores if not op.instruction}
    if not scattered or any(isinstance(op, Role) for op in body.ops):
        return []
    starts = [n for n, op in enumerate(body.ops) if op in scattered]
    if not starts:
        taken = shared_bytes(launch)
        alone = 2 * taken > target.multiprocessor_shared_bytes
        return [target.shared_bytes - taken] if alone else []
    later = {value for op in walk(body.with_ops(body.ops[starts[0] :])) for value in op.inputs}
    sizes = []
    for op in walk(body):
        if not isinstance(op, Alloc | Channel) or op.result in later:
            continue
        if isinstance(op, Alloc) and is_shared(op.result):
            sizes.append(buffer_bytes(memory_type(op.result)))
        elif isinstance(op, Channel) and isinstance(op.type.memory, MemoryType):
            sizes.append(buffer_bytes(op.type.memory) * op.type.slots)
    return sizes


def _first_thread(b: Builder, groups: int = 1) -> Value:
    """The bool that this is thread 0 of the role, or of its warpgroup, which issues the stores."""
    thread = b.emit(ThreadId()).result
    return b.compare("eq", b.floormod(thread, WARPGROUP) if groups > 1 else thread, 0)


def _warpgroup(b: Builder) -> Value:
    """The number of this thread's warpgroup in the role."""
    group = b.emit(WarpUniform(b.floordiv(b.emit(ThreadId()).result, WARPGROUP))).result
    group.hint = "group"
    return group
