"""Stores of tiles by TMA go through shared memory, a slab of columns at a time.

Needs: layouts inferred, so that a slab is a choice of registers. Leaves: no store_tile with
instruction "tma"; for each of them slabs of 128 bytes of columns through its staging buffers, and a
wait for the engine at the end of the role. What cannot be cut so is stored directly, with a remark.

    store_tile %c, %C[%m, %n]    ->  if (thread 0) { bulk_wait <pending = 1, read> }
      <instruction = "tma">          barrier                  the last slab of this buffer is read
                                     store_tile (extract_tile %c <offsets = [0, 64 q]>), %stage_q
                                     fence_proxy_async ; barrier
                                     if (thread 0) { copy %stage_q -> %C[%m, %n + 64 q]
                                                       <instruction = "tma"> ; bulk_commit }

A buffer is written again two slabs later, when at most one younger slab is still being read. Where
the number of slabs is odd, the first slab of the next round meets the buffer of the last one, so it
waits for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.build import Builder
from ..ir.core import Block, Op, Program, Value, at, walk
from ..ir.dtypes import DType
from ..ir.layout import RegisterLayout, SharedLayout, choose_swizzle
from ..ir.ops.arith import Cast
from ..ir.ops.control import Launch, Role, ThreadId, Yield
from ..ir.ops.memory import Alloc
from ..ir.ops.nvidia import BulkCommit, BulkWait, FenceProxyAsync
from ..ir.ops.thread import Barrier
from ..ir.ops.tile import Copy, ExtractTile, StoreTile
from ..ir.types import MemoryType, Space, TileType
from .context import PassContext, Remark

SLAB_BYTES = 128  # of columns: the widest row that TMA swizzles
ROW_UNIT = 16  # bytes of which a box's row is a multiple


def stage_stores(program: Program, context: PassContext) -> Program:
    """Stages the TMA stores of every launch."""
    ops = [_launch(op, context) if isinstance(op, Launch) else op for op in program.body.ops]
    return program.with_body(program.body.with_ops(ops))


@dataclass(frozen=True)
class Slabs:
    """How one tile is cut: slabs of `columns`, each with its offset and register layout."""

    columns: int
    span: int
    parts: tuple[tuple[int, RegisterLayout], ...]


@dataclass
class _Staging:
    """Buffers for slabs of one type in one role, and whether all its stores have an even number of
    slabs.
    """

    buffers: list[Alloc]
    even: bool = True


def slab_columns(columns: int, bits: int) -> tuple[int, int]:
    """The width of a slab in elements and its swizzle in bytes, for rows of `columns` elements.

    0, 0 where a row is not whole units of TMA.
    """
    span = choose_swizzle((columns,), bits)
    if span:
        return span * 8 // bits, span
    units, rest = divmod(columns * bits, ROW_UNIT * 8)
    if rest:
        return 0, 0
    fitting = [n for n in range(1, SLAB_BYTES // ROW_UNIT + 1) if units % n == 0]
    return max(fitting) * ROW_UNIT * 8 // bits, 0


def cut_slabs(tile: TileType) -> Slabs | None:
    """The slabs of a tile; None where one of them is not a choice of registers."""
    layout = tile.layout
    if layout is None or tile.dtype.bits < 16 or len(tile.shape) != 2:
        return None
    columns, span = slab_columns(tile.shape[1], tile.dtype.bits)
    if not columns:
        return None
    parts = []
    for start in range(0, tile.shape[1], columns):
        sliced = layout.slice_registers(1, start, columns)
        if sliced is None:
            return None
        parts.append((start, sliced[0]))
    return Slabs(columns, span, tuple(parts))


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
        self.allocs: list[Alloc] = []
        self.casts = {op.result: op for op in walk(launch.body) if isinstance(op, Cast)}
        self.slabs: dict[Op, Slabs | None] = {}
        self.staging: dict[tuple[DType, tuple[int, ...]], _Staging] = {}
        self.barrier = Barrier()

    def role(self, role: Role) -> Role:
        barrier = Barrier(barrier=role.barrier, threads=role.threads) if role.barrier else Barrier()
        body = self.body(role.body, barrier)
        return role if body is role.body else role.replace(body=body)  # type: ignore[return-value]

    def body(self, body: Block, barrier: Barrier) -> Block:
        """The body of a role, or of a launch without roles, whose threads meet at `barrier`."""
        self.barrier, self.staging = barrier, {}
        stores = [op for op in walk(body) if isinstance(op, StoreTile) and op.instruction == "tma"]
        for op in stores:
            self._plan(op)
        if not stores:
            return body
        block = self._block(body)
        if not self.staging:
            return block
        b = Builder()
        end = block.terminator
        b.extend(block.ops[:-1] if end is not None else block.ops)
        with at(stores[-1].loc), b.when(_first_thread(b)):
            b.emit(BulkWait(pending=0))  # shared memory is given back when the block ends
        b.emit(end if end is not None else Yield(()))
        return block.with_ops(b.ops)

    def _plan(self, op: StoreTile) -> None:
        tile = op.tile.type
        assert isinstance(tile, TileType)
        slabs = self.slabs[op] = cut_slabs(tile)
        if slabs is None:
            name = op.destination.hint or "the result"
            self.context.remark(
                Remark(
                    "TLC0425",
                    f"{name} is stored by its threads, not by TMA: {SLAB_BYTES} bytes of columns "
                    f"of {tile} are not a part of every thread's registers",
                    op.loc,
                )
            )
            return
        key = (tile.dtype, (tile.shape[0], slabs.columns))
        staging = self.staging.setdefault(key, _Staging([]))
        staging.even = staging.even and len(slabs.parts) % 2 == 0
        while len(staging.buffers) < min(op.staging, len(slabs.parts)):
            layout = SharedLayout.swizzled(key[1], tile.dtype.bits, slabs.span)
            type_ = MemoryType(tile.dtype, key[1], Space.SHARED, layout)
            with at(op.loc):
                alloc = Alloc(type=type_, managed=True)
            alloc.result.hint = f"{op.destination.hint or 'tile'}_stage"
            staging.buffers.append(alloc)
            self.allocs.append(alloc)

    def _block(self, block: Block) -> Block:
        ops: list[Op] = []
        for op in block.ops:
            if isinstance(op, StoreTile) and op.instruction == "tma":
                slabs = self.slabs[op]
                with at(op.loc):
                    ops.extend(
                        (op.replace(instruction="", staging=2),)
                        if slabs is None
                        else self._store(op, slabs)
                    )
            else:
                ops.append(op.map(lambda v: v, self._block))
        return block.with_ops(ops)

    def _store(self, op: StoreTile, slabs: Slabs) -> tuple[Op, ...]:
        tile = op.tile.type
        assert isinstance(tile, TileType)
        staging = self.staging[(tile.dtype, (tile.shape[0], slabs.columns))]
        b = Builder()
        first = _first_thread(b)
        with b.when(first):
            b.emit(BulkWait(pending=op.staging - 1 if staging.even else 0, read=True))
        for number, (start, layout) in enumerate(slabs.parts):
            buffer = staging.buffers[number % len(staging.buffers)].result
            b.emit(self._meet())
            self._fill(b, op.tile, buffer, start, layout)
            b.emit(FenceProxyAsync())
            b.emit(self._meet())
            with b.when(first):
                self._send(b, op, buffer, start)
                if number + 1 < len(slabs.parts):  # the next slab's buffer has been read
                    b.emit(BulkWait(pending=op.staging - 1, read=True))
        return b.ops

    def _meet(self) -> Barrier:
        return Barrier(barrier=self.barrier.barrier, threads=self.barrier.threads)

    def _fill(
        self, b: Builder, tile: Value, buffer: Value, start: int, layout: RegisterLayout
    ) -> None:
        cast = self.casts.get(tile)
        whole = tile if cast is None else cast.x  # converted slab by slab, not all at once
        slab = b.emit(
            ExtractTile(whole, offsets=(0, start), shape=layout.shape, layout=layout)
        ).result
        if cast is not None:
            slab = b.emit(Cast(slab, dtype=cast.dtype)).result
        slab.hint = "slab"
        b.emit(StoreTile(slab, buffer, (b.const(0), b.const(0)), dims=(0, 1)))

    def _send(self, b: Builder, op: StoreTile, buffer: Value, start: int) -> None:
        indices = list(op.indices)
        indices[op.dims[1]] = b.add(indices[op.dims[1]], start)
        type_ = buffer.type
        assert isinstance(type_, MemoryType)
        b.emit(
            Copy(
                buffer, (b.const(0), b.const(0)), op.destination, tuple(indices),
                shape=tuple(int(d) for d in type_.shape),
                source_dims=(0, 1), destination_dims=op.dims, instruction="tma",
            )
        )  # fmt: skip
        b.emit(BulkCommit())


def _first_thread(b: Builder) -> Value:
    """The bool that this is thread 0 of the role, which issues all stores."""
    return b.compare("eq", b.emit(ThreadId()).result, 0)
