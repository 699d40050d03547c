"""Decides how each copy and each gemm is done, and so whether a launch is run by roles.

Needs: planned pipelines. Leaves: `instruction` set on every copy of a load stage ("tma",
"cp_async", "buffer_copy", "registers") and on every store of a tile to global memory ("tma" where it is staged
through shared memory); on gemms "wgmma" where the launch's pipelines are fed by TMA and every gemm
has one, else "mma" or "mfma", or "fma" where no matrix instruction takes the dtype or fits the
tile. All or nothing in a launch: one copy that TMA cannot do (another
dtype, an inner dimension that is not the tensor's, arrays that are not 16-byte aligned) and the
launch is run by one role. Where the program says who does what, its own copies and products are
checked, and each other gemm of a role is a wgmma if it can be.

    copy %A[%m, %k] -> %s[0, 0] <shape = ...>  ->  copy %A[%m, %k] -> %s[0, 0] <shape = ..., instruction = "tma">
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ..errors import Loc, TargetUnsupported
from ..ir.core import Block, Op, Program, Value, constant_of, walk
from ..ir.layout import filled_by_waves
from ..ir.ops import arith
from ..ir.ops.amd import COPY_BYTES
from ..ir.ops.arith import is_harmless
from ..ir.ops.control import Launch, Parallel, Role, Yield, map_launches
from ..ir.ops.gemm import SIDES, Gemm
from ..ir.ops.memory import Load, Store, memory_type
from ..ir.ops.nvidia import ASYNC_BYTES, WARPGROUP
from ..ir.ops.pipeline import Commit, Pipeline, Put, Stage
from ..ir.ops.tile import Copy, StoreTile
from ..ir.rewrite import defining_ops
from ..ir.types import MemoryType, TileType
from ..target import Target
from .context import PassContext, Remark
from .dependence import is_global, is_shared, tile_type, writes
from .engine_needs import (
    alignment_refusal,
    dtypes_of,
    entry_refusal,
    gemm_refusal,
    start_refusal,
    tma_refusal,
)
from .explicit_work import check_explicit, registers_of
from .producer_inputs import producer_refusal
from .role_registers import split_registers
from .thread_copies import gathered_runs
from .value_ranges import ValueRanges, value_ranges
from .variants import (
    gemm_shape,
    is_converted,
    multiplied_dtype,
    read_by_matrices,
    takes,
    variants_of,
)
from .vector_access import is_aligned, is_below, is_whole, is_zeros

MATRIX_ROW = 128  # bits of a matrix's row for ldmatrix
LANE = 64  # bits of consecutive k that a lane of MFMA holds
MOVES = (
    Load, Store, arith.Cast, arith.Reinterpret, arith.ShiftLeft, arith.ShiftRight, arith.BitOr, arith.BitAnd,
    arith.Add, arith.Sub, arith.Mul, arith.FloorDiv, arith.FloorMod, arith.Compare, arith.Select,
)  # fmt: skip
"""What a nest does that joins or parts elements: bits moved, and places computed."""


def choose_instructions(program: Program, context: PassContext) -> Program:
    """Chooses copy instructions, and the kind of matrix instruction that they allow."""
    ranges = value_ranges(program.body, context.multiples)
    return map_launches(program, lambda launch: _launch(launch, context, ranges))


def _launch(launch: Launch, context: PassContext, ranges: ValueRanges) -> Launch:
    check_explicit(launch, context, ranges)
    _tell_of_other_widths(launch, context)
    if launch.explicit:
        return launch.replace(body=_by_role(launch, context, ranges))  # type: ignore[return-value]
    pipelined = any(isinstance(op, Pipeline) for op in walk(launch.body))
    roles = pipelined and context.target.warp_roles and context.target.tma
    if roles:
        refusal = role_refusal(launch, context, ranges)
        if refusal is not None:
            context.remark(
                Remark("TLC0320", f"one role runs the whole launch: {refusal[0]}", refusal[1])
            )
            roles = False
    body = _rewrite(launch.body, launch.threads, roles, context, ranges, lambda _: roles)
    return launch.replace(body=body)  # type: ignore[return-value]


def _by_role(launch: Launch, context: PassContext, ranges: ValueRanges) -> Block:
    """The body of a launch whose program says who does what: a role's copies and gemms are shared by
    the threads of that role alone.
    """
    target = context.target
    start = registers_of(None, launch, target)

    def part(block: Block, role: Role | None) -> Block:
        threads = launch.threads if role is None else role.threads
        held = registers_of(role, launch, target)

        def by_wgmma(gemm: Gemm) -> bool:
            return gemm.asynchronous or not (
                gemm_refusal(gemm, threads, held, target, ranges)
                or entry_refusal(gemm, threads, start, target)
            )

        return _rewrite(block, threads, False, context, ranges, by_wgmma)

    ops: list[Op] = []
    for op in launch.body.ops:
        if isinstance(op, Role):
            ops.append(op.replace(body=part(op.body, op)))
        else:
            ops += part(Block((), (op,)), None).ops
    return launch.body.with_ops(ops)


def _rewrite(
    block: Block,
    threads: int,
    roles: bool,
    context: PassContext,
    ranges: ValueRanges,
    by_wgmma: Callable[[Gemm], bool],
    stage: Stage | None = None,
) -> Block:
    """`by_wgmma` says whether that does a gemm."""

    def one(op: Op) -> Op:
        inside = op if isinstance(op, Stage) else stage
        op = op.map_regions(
            lambda b: _rewrite(b, threads, roles, context, ranges, by_wgmma, inside),
        )
        match op:
            case Copy() if op.instruction:
                return op  # as the program says
            case Copy() if is_global(op.source) and is_shared(op.destination):
                if roles and _loads(stage):
                    return op.replace(instruction="tma")
                return op.replace(instruction=_by_threads(op, stage, threads, context, ranges))
            case StoreTile() if roles and _tma_store(op, context, ranges):
                return op.replace(instruction="tma")
            case Gemm():
                return op.replace(
                    instruction="wgmma" if by_wgmma(op) else _without_wgmma(op, threads, context)
                )
        return op

    return block.with_ops([one(op) for op in block.ops])


def _without_wgmma(gemm: Gemm, threads: int, context: PassContext) -> str:
    """The family of matrix instructions of a warp or wave that does a gemm, or "fma". What is
    slower than the program may expect is remarked on.
    """
    target = context.target
    families = dict.fromkeys(i.family for i in target.matrix if i.family != "wgmma")
    reason = f"{target.name} has no matrix instruction for {dtypes_of(gemm)}"
    for family in families:
        dtype = multiplied_dtype(gemm, family, target)
        if dtype is None:
            continue
        if variants_of(gemm, family, threads, target):
            if is_converted(gemm, family, target):
                if takes(gemm, family, target):
                    k = gemm_shape(gemm)[2]
                    reason = f"no {family} for {dtypes_of(gemm)} divides K = {k}"
                text = f"{reason}: operands are converted to {dtype}"
                context.remark(Remark("TLC0326", text, gemm.loc))
            for text in _scattered(gemm, family, target):
                context.remark(Remark("TLC0327", text, gemm.loc))
            return family
        m, n, k = gemm_shape(gemm)
        reason = f"no {family} of {dtype} splits {m} x {n} x {k} over {threads} threads"
    if gemm.scales:
        raise TargetUnsupported(
            "TLC0527",
            f"{target.name} has no matrix instruction with scales for this gemm of {dtypes_of(gemm)}",
            loc=gemm.loc,
            hint="hip:gfx950 has, of 16 x 16 x 128 and 32 x 32 x 64; elsewhere multiply by the scales first",
        )
    text = f"{reason}: threads multiply and add"
    context.remark(Remark("TLC0322", text, gemm.loc))
    return "fma"


def _tell_of_other_widths(launch: Launch, context: PassContext) -> None:
    """A remark for each operand of a gemm that threads put together from shared memory of elements of
    another width, as a view of it is read.
    """
    made = defining_ops(launch.body)
    for op in walk(launch.body):
        for side in SIDES if isinstance(op, Gemm) else ():
            nest = made.get(op.matrix(side).value)  # type: ignore[attr-defined]
            memory = _seen_in_another_width(nest) if isinstance(nest, Parallel) else None
            if memory is not None:
                name, dtype = memory.hint or "its memory", memory_type(memory).dtype
                text = (
                    f"operand {side.upper()} of a gemm is a view of {name}, which holds {dtype}: threads "
                    "read it into registers, and no matrix instruction reads it there"
                )
                context.remark(Remark("TLC0333", text, op.loc))


def _seen_in_another_width(nest: Parallel) -> Value | None:
    """The shared memory whose bits, and nothing else, a nest makes into elements of another width."""
    ops = [op for op in walk(nest.body) if op not in nest.body.ops[-1:]]
    read = {op.memory for op in ops if isinstance(op, Load)}
    if len(read) != 1 or not any(isinstance(op, arith.Reinterpret) for op in ops):
        return None
    (memory,) = read
    bits = {tile_type(tile).dtype.bits for tile in nest.updates}
    moves = all(isinstance(op, MOVES) for op in ops)
    return (
        memory
        if is_shared(memory) and moves and memory_type(memory).dtype.bits not in bits
        else None
    )


def _scattered(gemm: Gemm, family: str, target: Target) -> Iterator[str]:
    """Of which operands the layout that the program gives their memory keeps apart what a thread, or
    ldmatrix, would read at once."""
    for side in SIDES:
        matrix, dtype = gemm.matrix(side), multiplied_dtype(gemm, family, target, side)
        type_ = matrix.value.type
        if not isinstance(type_, MemoryType) or type_.layout is None or dtype is None:
            continue
        if family == "mma" and not (target.ldmatrix and read_by_matrices(gemm, side, dtype)):
            continue  # read by elements in any layout
        if family != "mma" and not matrix.k_major:
            continue
        reader, bits = (
            ("ldmatrix", MATRIX_ROW) if family == "mma" else (f"a lane of {family}", LANE)
        )
        wanted, inner = bits // type_.dtype.bits, max(matrix.mn_dim, matrix.k_dim)
        together = type_.layout.vector_width(inner)
        if together < wanted:
            name = matrix.value.hint or "its memory"
            yield (
                f"{reader} cannot read operand {side.upper()} of a gemm: it takes {wanted} elements "
                f"of a row, and the layout of {name} keeps {together} together; threads load the "
                "elements one by one"
            )


def _by_threads(
    copy: Copy, stage: Stage | None, threads: int, context: PassContext, ranges: ValueRanges
) -> str:
    """How threads copy: asynchronously where the target can and 16 bytes always lie together."""
    source, destination = memory_type(copy.source), memory_type(copy.destination)
    inner = source.dtype.bytes * copy.shape[-1]
    target = context.target
    by_buffer = target.buffer_copies and threads % target.warp_size == 0
    if (
        (target.async_copy or (by_buffer and _by_buffer(copy, stage, threads, ranges)))
        and source.dtype == destination.dtype
        and is_zeros(copy.safe_value)
        and copy.source_dims[-1] == len(source.shape) - 1
        and inner % ASYNC_BYTES == 0
        and source.unit_stride
        and is_aligned(copy.source, ASYNC_BYTES, context)
    ):
        if target.async_copy:
            return "cp_async"
        if is_whole(copy.source, ASYNC_BYTES // source.dtype.bytes, context):
            return "buffer_copy" if is_below(copy.source, context) else "registers"
    return "registers"


def _by_buffer(copy: Copy, stage: Stage | None, threads: int, ranges: ValueRanges) -> bool:
    """Whether whole waves can fill a buffer by buffer_copy, all of them by as many; in a stage it must
    be harmless to start them for an iteration that there is not.
    """
    type_ = memory_type(copy.destination)
    whole = copy.shape == type_.shape and all(constant_of(i) == 0 for i in copy.destination_indices)
    if not whole or math.prod(copy.shape) * type_.dtype.bytes % (COPY_BYTES * threads):
        return False
    if type_.layout is not None and not filled_by_waves(type_.layout, type_.dtype.bits):
        return False
    if start_refusal(copy.source, copy.source_indices, ranges):
        return False
    return stage is None or _may_run_on(stage)


def _may_run_on(stage: Stage) -> bool:
    """Whether a stage only loads into slots of its own."""
    slots = {op.result for op in stage.body.ops if isinstance(op, Put)}
    for op in stage.body.ops:
        match op:
            case Copy():
                if op.destination not in slots:
                    return False
            case Load():
                if not is_global(op.memory):
                    return False
            case Put() | Commit() | Yield():
                pass
            case _:
                if not is_harmless(op):
                    return False
    return True


# What roles need


def role_refusal(
    launch: Launch, context: PassContext, ranges: ValueRanges
) -> tuple[str, Loc] | None:
    """Why a launch with pipelines cannot be run by roles, and where; None if it can."""
    if launch.threads % WARPGROUP:
        return f"{launch.threads} threads are not whole warpgroups", launch.loc
    if launch.threads + WARPGROUP > context.target.max_threads:
        return f"{launch.threads} threads leave no room for a producer", launch.loc
    for op in walk(launch.body):
        if isinstance(op, Gemm):
            clusters, gathered = launch.cluster_blocks > 1, gathered_runs(launch.body, WARPGROUP)
            _, registers = split_registers(launch.threads, 1, context.target, clusters, gathered)
            reason = gemm_refusal(op, launch.threads, registers, context.target, ranges)
            if reason:
                return reason, op.loc
    pipelines = [op for op in walk(launch.body) if isinstance(op, Pipeline)]
    inside = [op for p in pipelines for op in p.walk()]
    written = writes(launch)
    for op in inside:
        if isinstance(op, Copy) and is_global(op.source) and op.source in written:
            return f"the launch writes {op.source.hint}, and TMA may read it too early", op.loc
        if isinstance(op, Copy) and is_global(op.source):
            reason = tma_refusal(op, op.source, op.source_dims, op.shape)
            reason = reason or alignment_refusal(op.source, context)
            reason = reason or start_refusal(op.source, op.source_indices, ranges)
            if reason:
                return reason, op.loc
    if not any(isinstance(op, Gemm) for op in inside):
        return "no pipeline multiplies matrices", launch.loc
    if not any(isinstance(op, Stage) and _loads(op) for op in inside):
        return "what it gathers is loaded by the program's own threads", launch.loc
    return producer_refusal(launch, (op for op in inside if isinstance(op, Stage) and _loads(op)))


def _loads(stage: Stage | None) -> bool:
    return stage is not None and stage.label.startswith("load")


def _tma_store(op: StoreTile, context: PassContext, ranges: ValueRanges) -> bool:
    """Whether TMA can store the tile. Stores take no negative coordinate; loads do."""
    assert isinstance(op.tile.type, TileType)
    if not is_global(op.destination) or len(op.tile.type.shape) != 2:
        return False
    return (
        not tma_refusal(op, op.destination, op.dims, op.tile.type.shape)
        and not alignment_refusal(op.destination, context)
        and not start_refusal(op.destination, op.indices, ranges)
        and all(ranges.of_index(index).low >= 0 for index in op.indices)
    )
