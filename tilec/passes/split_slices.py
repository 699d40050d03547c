"""Shared buffers that are used slice by slice become one for each slice, so that loops can be pipelined.

Needs: lifted copies. Leaves: of a buffer that a pipelined loop loads, and of which everything else takes
slices along the outermost dimension by number, a buffer a slice: plan_pipelines makes channels of whole
buffers.

    %w = alloc : shared [2, 64, 64]                 %w0 = alloc : shared [64, 64] ; %w1 = alloc ...
    for ... <kind = "pipelined"> {                  for ... <kind = "pipelined"> {
      copy %W[0, %n, %k], %w[0, 0, 0]                 copy %W[0, %n, %k], %w0[0, 0]
      %a = slot %w, 0 ; %x = gemm %s, %a, %x1    ->   copy %W[1, %n, %k], %w1[0, 0]
      %b = slot %w, 1 ; %y = gemm %s, %b, %y1 }       %x = gemm %s, %w0, %x1 ; %y = gemm %s, %w1, %y1 }
"""

from __future__ import annotations

from collections.abc import Iterator

from ..ir.clone import Renaming
from ..ir.core import Block, Op, Program, Value, at, constant, constant_of, walk
from ..ir.ops.arith import Add, element_dtype
from ..ir.ops.control import For, Launch, map_launches
from ..ir.ops.memory import Alloc, Slot
from ..ir.ops.tile import Copy
from ..ir.types import MemoryType
from .context import PassContext
from .dependence import allocations, is_global, is_shared

MOST = 8  # slices of a buffer

_Slices = dict[Value, list[Alloc]]
"""The buffers of the slices, by the handle of the whole one."""


def split_slices(program: Program, context: PassContext) -> Program:
    """Splits every such buffer of a program."""
    return map_launches(program, _launch)


def _launch(launch: Launch) -> Launch:
    if launch.explicit:
        return launch
    loops = [op for op in walk(launch.body) if isinstance(op, For) and op.kind == "pipelined"]
    loaded = {
        op.destination
        for loop in loops
        if loop.stages > 0
        for op in walk(loop.body)
        if isinstance(op, Copy) and is_global(op.source)
    }
    slices = {
        handle: [_slice(alloc, number) for number in range(int(alloc.type.shape[0]))]
        for handle, alloc in allocations(launch.body).items()
        if handle in loaded and is_shared(handle) and _is_sliced(alloc, launch.body)
    }
    return launch.replace(body=_split(launch.body, slices, {})) if slices else launch  # type: ignore[return-value]


def _is_sliced(alloc: Alloc, body: Block) -> bool:
    """Whether all that uses a buffer takes slices of it by number, or copies whole ones to it."""
    type_, handle = alloc.type, alloc.result
    if alloc.arrivals or type_.layout is not None or len(type_.shape) < 3:
        return False
    users = [op for op in walk(body) if handle in op.inputs]
    return (
        int(type_.shape[0]) <= MOST
        and any(isinstance(op, Slot) for op in users)
        and all(_takes_slices(op, handle) for op in users)
    )


def _takes_slices(op: Op, handle: Value) -> bool:
    match op:
        case Slot():
            return constant_of(op.index) is not None
        case Copy():
            own = op.source is not handle and constant_of(op.destination_indices[0]) is not None
            return own and not (op.barrier or op.predicate)
    return False


def _slice(alloc: Alloc, number: int) -> Alloc:
    type_ = alloc.type
    with at(alloc.loc):
        own = Alloc(type=MemoryType(type_.dtype, type_.shape[1:], type_.space))
    own.result.hint = f"{alloc.result.hint or 'slice'}{number}"
    return own


def _split(block: Block, slices: _Slices, names: Renaming) -> Block:
    ops: list[Op] = []
    for op in block.ops:
        match op:
            case Alloc() if op.result in slices:
                ops += slices[op.result]
            case Slot() if op.ring in slices:
                names[op.result] = slices[op.ring][int(constant_of(op.index) or 0)].result
            case Copy() if op.destination in slices:
                with at(op.loc):
                    ops += _copies(op, slices[op.destination], names)
            case _:
                new = op.map(lambda v: names.get(v, v), lambda b: _split(b, slices, names))
                changed = zip(op.results, new.results, strict=True)
                names.update({old: made for old, made in changed if old is not made})
                ops.append(new)
    return block.with_ops(ops)


def _copies(op: Copy, slices: list[Alloc], names: Renaming) -> Iterator[Op]:
    """The copies to each of the slices that a copy reaches."""
    first, *rest = op.destination_indices
    dims = op.destination_dims
    along = dims.index(0) if 0 in dims else None
    kept = [n for n in range(len(dims)) if n != along]
    for number in range(op.shape[along] if along is not None else 1):
        indices = [names.get(i, i) for i in op.source_indices]
        if along is not None and number:
            dim = op.source_dims[along]
            index = indices[dim]
            step = Add(index, constant(number, element_dtype(index)))
            yield step
            indices[dim] = step.result
        yield op.replace(
            source=names.get(op.source, op.source),
            source_indices=tuple(indices),
            destination=slices[int(constant_of(first) or 0) + number].result,
            destination_indices=tuple(names.get(i, i) for i in rest),
            shape=tuple(op.shape[n] for n in kept),
            source_dims=tuple(op.source_dims[n] for n in kept),
            destination_dims=tuple(dims[n] - 1 for n in kept),
        )
