"""The body of a launch whose program says who does what: one program for each role.

    alloc %S                                    alloc %S
    for (%k) {                                  role <label = "ws(0)"> {
      role <label = "ws(0)"> { copy ..., %S }     for (%k) { copy ..., %S } }
      role <label = "ws(1)"> { gemm %S, ... }   role <label = "ws(1)"> {
    }                                             for (%k) { gemm %S, ... } }

A role runs what stands in its `T.ws`, with the loops and branches around it, and the scalars, that it
needs. Shared memory is allocated before all roles; everything else outside of a `T.ws` is each role's
own, and may fill nothing but registers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ..errors import LanguageError
from ..ir.clone import clone_block
from ..ir.core import Access, Block, Op, Value, at
from ..ir.ops.control import Role, Yield
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, memory_type
from ..ir.ops.nvidia import MbarrierArrive, MbarrierExpect, MbarrierWait
from ..ir.ops.thread import NAMED_BARRIERS, Barrier
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType, Space


def owns_schedule(op: Op) -> bool:
    """Whether an op says who does something, or when."""
    return (
        isinstance(op, Role)
        or (isinstance(op, Alloc) and bool(op.arrivals))
        or (isinstance(op, Copy) and op.instruction == "tma")
        or (isinstance(op, Gemm) and op.asynchronous)
    )


def holds_role(op: Op) -> bool:
    """Whether an op is a role, or has one in its regions."""
    return any(isinstance(inner, Role) for inner in op.walk())


def split_roles(ops: Sequence[Op]) -> tuple[list[Op], list[Role]]:
    """What stands before the roles, and the roles, their bodies still as they were traced."""
    parties: dict[tuple[int, int], Role] = {}
    for op in ops:
        for inner in op.walk():
            if isinstance(inner, Role):
                parties.setdefault((inner.first_thread, inner.threads), inner)
    found = [parties[party] for party in sorted(parties)]
    for before, after in itertools.pairwise(found):
        if after.first_thread < before.first_thread + before.threads:
            raise LanguageError(
                "TLC0160",
                f"T.{before.label} and T.{after.label} share a warpgroup, and are two roles",
                loc=after.loc,
                hint="a warpgroup belongs to one choice of T.ws in the whole kernel",
            )
    memory = [inner for op in ops for inner in op.walk() if _is_shared(inner)]
    _check_outside(ops)
    numbers = _barriers(ops, len(found))
    roles = []
    for role, number in zip(found, numbers, strict=True):
        with at(role.loc):
            body = clone_block(Block((), tuple(_restrict(ops, role))), {})
            roles.append(role.replace(body=body, barrier=number))
    return memory, roles  # type: ignore[return-value]


def _is_shared(op: Op) -> bool:
    return isinstance(op, Alloc) and op.type.space is Space.SHARED


def _restrict(ops: Sequence[Op], role: Role) -> list[Op]:
    """What one role runs of a block."""
    kept: list[Op] = []
    for op in ops:
        if isinstance(op, Role):
            if op.first_thread == role.first_thread:
                kept += _restrict([o for o in op.body.ops if not isinstance(o, Yield)], role)
        elif not _is_shared(op):
            kept.append(op.map_regions(lambda b: b.with_ops(_restrict(b.ops, role))))
    return kept


def _check_outside(ops: Sequence[Op]) -> None:
    """Raises LanguageError for a statement outside of every role that does more than fill registers."""
    for op in ops:
        if isinstance(op, Role):
            continue
        for effect in op.effects():
            memory = effect.memory
            space = memory_type(memory).space if memory is not None and _is_memory(memory) else None
            if effect.access is Access.ALLOCATE or space in (Space.LOCAL, Space.FRAGMENT):
                continue
            if effect.access is Access.READ and space is Space.GLOBAL:
                continue
            raise LanguageError(
                "TLC0161",
                f"this {op.name} stands outside of every T.ws of a kernel that has them",
                loc=op.loc,
                hint="say which warpgroups do it: with T.ws(0): ...",
            )
        for block in op.regions:
            _check_outside(block.ops)


def _is_memory(value: Value) -> bool:
    return isinstance(value.type, MemoryType)


def _barriers(ops: Sequence[Op], count: int) -> list[int]:
    """Hardware barriers on which the threads of each role meet: those that the program leaves."""
    taken = {o.barrier: o for op in ops for o in op.walk() if isinstance(o, Barrier)}
    free = [number for number in range(1, NAMED_BARRIERS) if number not in taken]
    if len(free) < count:
        last = list(taken.values())[-1]
        raise LanguageError(
            "TLC0162",
            f"T.sync_threads uses {len(taken)} barriers of the block's {NAMED_BARRIERS - 1}, and each of "
            f"{count} roles needs one",
            loc=last.loc,
            hint="use fewer numbers",
        )
    return free[:count]


def check_arrivals(ops: Sequence[Op]) -> None:
    """Raises LanguageError for a barrier that is waited for and at which nobody arrives."""
    every = [inner for op in ops for inner in op.walk()]
    arrived = {
        op.barriers
        for op in every
        if isinstance(op, MbarrierArrive) or (isinstance(op, MbarrierExpect) and op.arrives)
    }
    for op in every:
        if isinstance(op, MbarrierWait) and op.barriers not in arrived:
            raise LanguageError(
                "TLC0162",
                f"{op.barriers.hint or 'a barrier'} is waited for, and nobody arrives at it",
                loc=op.loc,
                hint="T.mbarrier_arrive, or T.mbarrier_arrive_expect_tx, by whoever made the data",
            )
