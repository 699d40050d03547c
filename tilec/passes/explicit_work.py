"""What a program asks for by name: roles, mbarriers, copies by TMA, products by wgmma, registers.

It is done as it is written or refused, at its place and with the reason; nothing takes its stead.
"""

from __future__ import annotations

from ..errors import LayoutConflict, Loc, OutOfResources, TargetUnsupported
from ..ir.core import Op, walk
from ..ir.ops.control import Launch, Role
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc
from ..ir.ops.nvidia import WARPGROUP, BulkCommit, BulkWait, FenceProxyAsync, SetRegisters
from ..ir.ops.thread import Barrier
from ..ir.ops.tile import Copy
from ..target import Target
from .context import PassContext
from .dependence import is_global
from .engine_needs import entry_refusal, gemm_refusal, require_aligned, start_refusal, tma_refusal
from .role_registers import registers_at_start
from .value_ranges import ValueRanges

MOST_AT_START = 256  # registers of a thread, as they are given out


def registers_set(role: Role) -> list[int]:
    """What a role's `T.set_max_nreg` set, in order."""
    return [op.count for op in walk(role.body) if isinstance(op, SetRegisters)]


def registers_of(role: Role | None, launch: Launch, target: Target) -> int:
    """Registers of each thread of a role: as it sets them, or an equal share of all."""
    given = registers_set(role) if role else []
    share = registers_at_start(launch.launched_threads or launch.threads, 1, target)
    return given[0] if given else min(target.max_registers, share)


def check_explicit(launch: Launch, context: PassContext, ranges: ValueRanges) -> None:
    """Raises TargetUnsupported, LayoutConflict or OutOfResources for what cannot be done as the
    program says.
    """
    target = context.target
    for op in walk(launch.body):
        _need_means(op, target)
    if not launch.explicit:
        return
    roles = [op for op in launch.body.ops if isinstance(op, Role)]
    parts: list[Role | Launch] = [*roles] or [launch]
    for part in parts:
        for op in walk(part.body):
            _check_op(op, part, launch, context, ranges)
    _check_registers(launch, roles, target)


def _need_means(op: Op, target: Target) -> None:
    """Raises TargetUnsupported for an op that the machine has not."""
    match op:
        case Role():
            _need(target.warp_roles, f"T.{op.label}", op.loc, target)
        case Alloc() if op.arrivals:
            _need(target.tma, "T.alloc_barrier", op.loc, target)
        case Copy() if op.instruction == "tma":
            _need(target.tma, "T.tma_copy", op.loc, target)
        case Gemm() if op.asynchronous:
            _need(target.warp_roles, "T.wgmma_gemm", op.loc, target)
        case FenceProxyAsync() | BulkCommit() | BulkWait():
            _need(target.tma, "engine that copies", op.loc, target)
        case Barrier() if op.barrier:
            _need(target.backend == "cuda", "named barriers", op.loc, target)


def _need(has: bool, what: str, loc: Loc, target: Target) -> None:
    if not has:
        raise TargetUnsupported(
            "TLC0525",
            f"{target.name} has no {what}, as cuda:sm_90a has",
            loc=loc,
            hint="the plain program, T.Pipelined, T.copy and T.gemm, is for every target",
        )


def _check_op(
    op: Op, part: Role | Launch, launch: Launch, context: PassContext, ranges: ValueRanges
) -> None:
    target, threads = context.target, part.threads
    match op:
        case Copy() if op.instruction == "tma":
            _check_copy(op, context, ranges)
        case Gemm() if op.asynchronous:
            role = part if isinstance(part, Role) else None
            registers = registers_of(role, launch, target)
            reason = f"{threads} threads are not whole warpgroups" if threads % WARPGROUP else ""
            reason = reason or gemm_refusal(op, threads, registers, target, ranges)
            reason = reason or entry_refusal(
                op, threads, registers_of(None, launch, target), target
            )
            if reason:
                raise LayoutConflict(
                    "TLC0437",
                    f"T.wgmma_gemm cannot do this product: {reason}",
                    loc=op.loc,
                    hint="T.gemm takes what instruction there is",
                )


def _check_copy(op: Copy, context: PassContext, ranges: ValueRanges) -> None:
    load = is_global(op.source)
    tensor, indices, dims = (
        (op.source, op.source_indices, op.source_dims)
        if load
        else (op.destination, op.destination_indices, op.destination_dims)
    )
    reason = tma_refusal(op, tensor, dims, op.shape)
    reason = reason or require_aligned(tensor, context)
    reason = reason or start_refusal(tensor, indices, ranges)
    if not reason and not load and any(ranges.of_index(i).low < 0 for i in indices):
        reason = f"a store to {tensor.hint} may begin before its first element"
    if reason:
        raise LayoutConflict(
            "TLC0436",
            f"no box of TMA does this T.tma_copy: {reason}",
            loc=op.loc,
            hint="T.copy takes what instruction there is",
        )


def _check_registers(launch: Launch, roles: list[Role], target: Target) -> None:
    """What roles set must be there to be had, and change in the direction that they say."""
    start = min(MOST_AT_START, registers_at_start(launch.threads, 1, target))
    total = 0
    last: SetRegisters | None = None
    for role in roles:
        held = start
        for op in walk(role.body):
            if isinstance(op, SetRegisters):
                if op.increase != (op.count >= held) and op.count != held:
                    raise OutOfResources(
                        "TLC0519",
                        f"T.set_max_nreg of {op.count} is no {'in' if op.increase else 'de'}crease: "
                        f"each of {launch.threads} threads has {held} registers here",
                        loc=op.loc,
                        hint=f"T.set_max_nreg({op.count}, {int(not op.increase)})",
                    )
                held, last = op.count, op
        total += held * role.threads
    idle = launch.threads - sum(role.threads for role in roles)
    total += start * idle
    if last is not None and total > start * launch.threads:
        raise OutOfResources(
            "TLC0519",
            f"the roles of this launch hold {total} registers, and its {launch.threads} threads start "
            f"with {start} each, {start * launch.threads} in all",
            loc=last.loc,
            hint="the sum over roles of threads times T.set_max_nreg must not be larger: with 384 "
            "threads 40 for one warpgroup and 232 for two",
        )
