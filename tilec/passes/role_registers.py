"""Registers of a launch by roles: how a producer warpgroup and the consumers share a
multiprocessor's, and how wide a wgmma they allow.

All threads start with an equal share; `setmaxnreg` then moves registers from the producer to the
consumers (PTX ISA, setmaxnreg), of those that the block started with: one that asks for more waits
for ever. The assembler wants a wgmma's registers from the start on (C7602).
"""

from __future__ import annotations

from ..ir.ops.nvidia import WARPGROUP
from ..target import Target

WGMMA_COLUMNS = 256  # widest wgmma
BESIDE_ACCUMULATOR = 26  # registers that the assembler wants for a wgmma beside its accumulator
MOST_REGISTERS = 240  # of a consumer
GATHERER_REGISTERS = 32  # of a producer whose threads start copies, beside those of rows
ROW_REGISTERS = 4  # of each: where it is in the image, or in a table, and whether it is
MOST_ROWS = 16
GRANULE = 8  # registers are moved in eights


def registers_at_start(threads: int, blocks: int, target: Target) -> int:
    """Registers of each of `threads` launched threads where `blocks` blocks are resident."""
    return target.registers // (blocks * threads) // GRANULE * GRANULE


def wgmma_registers(columns: int) -> int:
    """Registers at the start that a wgmma of 64 x `columns` needs: 32 bits each of its
    accumulator, and some more.
    """
    return columns // 2 + BESIDE_ACCUMULATOR


def widest_wgmma(threads: int, target: Target) -> int:
    """Columns of the widest wgmma that `threads` consumers beside a producer have registers for."""
    registers = registers_at_start(threads + WARPGROUP, 1, target)
    return max(0, min(WGMMA_COLUMNS, 2 * (registers - BESIDE_ACCUMULATOR)))


def split_registers(
    threads: int, blocks: int, target: Target, in_clusters: bool = False, gathered: int = 0
) -> tuple[int, int]:
    """Registers a thread of the producer and of each of `threads` consumers, in eights: together
    no more than all of them start with. In clusters a producer keeps more: its rank, and where its
    parts begin; and most where each of its threads starts so many copies of what it has `gathered`: where
    their rows are.
    """
    groups = threads // WARPGROUP
    share = registers_at_start(threads + WARPGROUP, blocks, target) * (groups + 1)
    producer = 40 if in_clusters or (groups >= 2 and share > 400) else 24
    if gathered:
        beside = GATHERER_REGISTERS + ROW_REGISTERS * min(gathered, MOST_ROWS)
        producer = -(-beside // GRANULE) * GRANULE
    consumer = min(MOST_REGISTERS, (share - producer) // groups // GRANULE * GRANULE)
    return producer, consumer
