"""Operands of MFMA that come in rows of m or n, and lie in shared memory in chunks of consecutive k
(`k_pack`).

    %t = load_tile %B[%k, %n] ; store_tile %t, %B_s[0, 0]     B_s[k, n]: 8 k of one n together
    gemm %A_s, %B_s, %acc

A lane of MFMA takes consecutive k. Of rows of n it would read them one by one, in every wave that
needs them. Where a buffer is filled from registers, its threads can put them together once: they
load blocks of some rows, and store the columns of their blocks. On gfx950, 16-bit elements are read
transposed instead, from copies that pass no register.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.core import Access, Op, Value, constant_of, walk
from ..ir.layout import RegisterLayout, SharedLayout, chunked, crosswise
from ..ir.ops.arith import Cast
from ..ir.ops.control import Launch
from ..ir.ops.gemm import SIDES, Gemm
from ..ir.ops.memory import Alloc
from ..ir.ops.pipeline import Channel, Get, Put, Receive
from ..ir.ops.tile import LoadTile, StoreTile
from ..ir.rewrite import defining_ops
from ..ir.types import MemoryType, Space, TileType
from ..target import Target
from .dependence import is_global

TRANSPOSED_BITS = 16  # of the elements that lanes can read transposed, where they can
READ_BITS = 128  # of the widest read of LDS
INSTRUCTION_BITS = (
    64  # of an operand that a lane holds for one instruction, of 8- and 16-bit elements
)


@dataclass(frozen=True)
class Packing:
    """How a buffer lies, and the tiles that are stored to it."""

    memory: SharedLayout
    registers: RegisterLayout


def packed_operands(launch: Launch, target: Target) -> dict[Value, Packing]:
    """Such buffers of a launch, allocs and channels, by their handles."""
    found: dict[Value, Packing] = {}
    made = defining_ops(launch.body)
    users = _users(launch)
    for owner, ops in users.items():
        type_ = made[owner].type  # type: ignore[attr-defined]
        memory = type_ if isinstance(type_, MemoryType) else type_.memory
        if memory.layout is not None or len(memory.shape) != 2:
            continue
        if target.transposed_reads and memory.dtype.bits == TRANSPOSED_BITS:
            continue
        if not all(_multiplies(op, handle) or _deposits(op, memory, made) for op, handle in ops):
            continue
        if not {Gemm, StoreTile} <= {type(op) for op, _ in ops}:
            continue
        shape, bits = (int(memory.shape[0]), int(memory.shape[1])), memory.dtype.bits
        chunk = min(_together(op, handle) for op, handle in ops if isinstance(op, Gemm)) // bits
        layout = chunked(shape, bits, chunk) if chunk > 1 else None
        registers = crosswise(shape, bits, chunk, launch.threads) if layout else None
        if layout is not None and registers is not None:
            found[owner] = Packing(layout, registers)
    return found


def _together(gemm: Gemm, handle: Value) -> int:
    """Bits of consecutive k that a lane reads at once: of one instruction where the other operand is in
    registers, in which k is as the instruction has it, else of two where that is wider.
    """
    other = gemm.b if gemm.a is handle else gemm.a
    return READ_BITS if isinstance(other.type, MemoryType) else INSTRUCTION_BITS


def buffer_of(launch: Launch) -> dict[Value, Value]:
    """The alloc or channel that each handle of shared memory stands for."""
    owners: dict[Value, Value] = {}
    for op in walk(launch.body):
        if isinstance(op, (Put, Get)):
            owners[op.result] = op.channel
        elif isinstance(op, (Alloc, Channel)) and _is_of_shared_memory(op):
            owners[op.result] = op.result
    return owners


def _is_of_shared_memory(op: Alloc | Channel) -> bool:
    memory = op.type if isinstance(op, Alloc) else op.type.memory
    return isinstance(memory, MemoryType) and memory.space is Space.SHARED


def _users(launch: Launch) -> Mapping[Value, list[tuple[Op, Value]]]:
    """What touches each buffer, with the handle by which it does."""
    owners = buffer_of(launch)
    users: dict[Value, list[tuple[Op, Value]]] = {}
    for op in walk(launch.body):
        for effect in op.effects():
            if effect.access in (Access.READ, Access.WRITE) and effect.memory in owners:
                users.setdefault(owners[effect.memory], []).append((op, effect.memory))
    return users


def _multiplies(op: Op, handle: Value) -> bool:
    """Whether an op is a product by MFMA that takes the buffer's rows along m or n."""
    if not isinstance(op, Gemm) or op.instruction != "mfma":
        return False
    read = [matrix for side in SIDES if (matrix := op.matrix(side)).value is handle]
    return bool(read) and not any(matrix.k_major for matrix in read)  # else it holds scales


def _deposits(op: Op, memory: MemoryType, made: Mapping[Value, Op]) -> bool:
    """Whether an op fills the whole buffer with a tile that was loaded from global memory."""
    if not isinstance(op, StoreTile) or op.dims != (0, 1):
        return False
    assert isinstance(op.tile.type, TileType)
    if op.tile.type.shape != memory.shape or any(constant_of(i) != 0 for i in op.indices):
        return False
    source = made.get(op.tile)
    if isinstance(source, Cast):
        source = made.get(source.x)
    return isinstance(source, Receive) or (
        isinstance(source, LoadTile) and is_global(source.source)
    )
