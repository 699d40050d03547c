"""Asynchronous copies that threads start: cp.async, and buffer loads to LDS."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..ir.core import Block, Op, walk
from ..ir.ops.amd import COPY_BYTES, BufferCopy, BufferCopyWait
from ..ir.ops.control import Parallel
from ..ir.ops.memory import memory_type
from ..ir.ops.nvidia import CpAsync, CpAsyncCommit, CpAsyncWait
from ..ir.ops.pipeline import Stage
from ..ir.ops.tile import Copy


@dataclass(frozen=True)
class ThreadCopies:
    """Asynchronous copies that threads start by `copy` and that land behind them in the order of
    their start. A wait says how many may still be under way: groups, each closed by a `commit`, or
    where there is none, copies; so these are started in every step, whether it has data or not.
    """

    copy: type[Op]
    wait: type[CpAsyncWait] | type[BufferCopyWait]
    commit: type[CpAsyncCommit] | None = None

    def land_all(self) -> list[Op]:
        """Waits for every copy that this thread has started."""
        return [*([self.commit()] if self.commit else []), self.wait(pending=0)]

    def counted(self, stage: Stage, threads: int) -> int:
        """What one iteration of a stage adds to what its waits count."""
        if self.commit is not None:
            return 1
        mine = [op for op in stage.body.ops if isinstance(op, Copy) and thread_copies(op) is self]
        return sum(buffer_copies(op, threads) for op in mine)


_THREAD_COPIES = {
    "cp_async": ThreadCopies(CpAsync, CpAsyncWait, CpAsyncCommit),
    "buffer_copy": ThreadCopies(BufferCopy, BufferCopyWait),
}
THREAD_COPIES = tuple(_THREAD_COPIES.values())


def thread_copies(op: Op) -> ThreadCopies | None:
    """How threads start and await a copy, or what a nest gathers; None for what is no such copy."""
    return _THREAD_COPIES.get(op.instruction) if isinstance(op, (Copy, Parallel)) else None


def gathered_runs(block: Block, threads: int) -> int:
    """Copies that each of so many threads starts for all nests of a block that gather."""
    nests = [op for op in walk(block) if isinstance(op, Parallel) and op.instruction]
    return sum(-(-math.prod(op.extents) // (op.run * threads)) for op in nests)


def buffer_copies(copy: Copy, threads: int) -> int:
    """How many a thread starts for a tile: all threads the same number."""
    size = math.prod(copy.shape) * memory_type(copy.destination).dtype.bytes
    assert size % (COPY_BYTES * threads) == 0, (
        f"{size} bytes are no whole copies of {threads} lanes"
    )
    return size // (COPY_BYTES * threads)
