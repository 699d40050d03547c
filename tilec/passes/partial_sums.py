"""The loop of a launch that only adds products up, so that blocks may each do some of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.core import Access, Block, Op, Value, constant_of, walk
from ..ir.ops.arith import Add
from ..ir.ops.control import For, If, Launch, Parallel, Print, Yield
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Alloc, Load, Store, View
from ..ir.ops.pipeline import Pipeline, Put, Stage
from ..ir.ops.tile import Splat
from ..ir.rewrite import defining_ops
from .dependence import (
    covers,
    is_global,
    is_statement,
    orders,
    reads,
    used_values,
    writes,
)
from .fragment_tiles import is_fragment


@dataclass(frozen=True)
class SummingLoop:
    """Such a loop, with what stands before and behind it in the launch."""

    loop: For | Pipeline
    before: tuple[Op, ...]
    after: tuple[Op, ...]


def summing_loop(launch: Launch) -> SummingLoop | str:
    """The only loop of the launch with products, if each step of it adds to sums that begin at
    zero, and does nothing else that is seen: or why there is no such loop.

    What stands before it then may run several times for a block of the grid, once for each who
    does some of the steps.
    """
    ops = tuple(op for op in launch.body.ops if not isinstance(op, Yield))
    with_products = [n for n, op in enumerate(ops) if any(isinstance(x, Gemm) for x in op.walk())]
    if len(with_products) != 1:
        return "not all its products are in one loop" if with_products else "it has no products"
    at = with_products[0]
    loop, before, after = ops[at], ops[:at], ops[at + 1 :]
    if not isinstance(loop, (For, Pipeline)):
        return "its products are in no loop of their own"
    if isinstance(loop, For) and (constant_of(loop.step) != 1 or loop.kind == "unroll"):
        return "the loop with its products is unrolled, or has a step"
    return (
        _not_sums(loop, before)
        or _seen_before(before)
        or _seen_within(loop, launch)
        or SummingLoop(loop, before, after)
    )


def _not_sums(loop: For | Pipeline, before: Sequence[Op]) -> str:
    """Why what a loop carries are no sums of products that begin at zero."""
    zeros = {op.result for op in before if isinstance(op, Splat) and constant_of(op.value) == 0}
    if not loop.inits:
        return "the loop with its products carries no sums"
    if not zeros.issuperset(loop.inits):
        return "its sums do not begin at zero"
    end = loop.body.terminator
    assert end is not None
    for param, last in zip(loop.body.params[1:], end.inputs, strict=True):
        sums = {param}
        if not _only_added_to(loop.body, sums) or last not in sums:
            return "the loop with its products does more with its sums than add to them"
    return ""


def _only_added_to(block: Block, sums: set[Value]) -> bool:
    """Whether the block does nothing with `sums` but add to them and hand them on; what it makes of
    them is put among them. A block's yield is asked about by who gets it."""
    return all(_only_adds(op, sums) for op in block.ops if not isinstance(op, Yield))


def _only_adds(op: Op, sums: set[Value]) -> bool:
    """The same for an op."""
    match op:
        case Gemm() if op.accumulator in sums:
            sums.add(op.result)
            return not (op.clear or op.accumulate) and sums.isdisjoint((op.a, op.b))
        case Parallel() if sums.isdisjoint(op.reads):
            for place, tile in enumerate(op.updates):
                if tile in sums:
                    if not _adds_to(op.body, op.body.params[place - len(op.updates)]):
                        return False
                    sums.add(op.results[place])
            return True
        case For():
            pairs = zip(op.inits, op.body.params[1:], strict=True)
            sums.update(param for init, param in pairs if init in sums)
            return _only_added_to(op.body, sums) and _handed_on(op, (op.inits,), sums)
        case Stage() | If():
            return all(_only_added_to(r, sums) for r in op.regions) and _handed_on(op, (), sums)
    return sums.isdisjoint(used_values(op))


def _handed_on(op: Op, given: tuple[Sequence[Value], ...], sums: set[Value]) -> bool:
    """Whether each result of an op with regions is a sum in all cases, and so put among them, or in
    none."""
    ends = [region.terminator.inputs for region in op.regions if region.terminator is not None]
    for result, *values in zip(op.results, *given, *ends, strict=True):
        if sums.issuperset(values):
            sums.add(result)
        elif not sums.isdisjoint(values):
            return False
    return True


def _adds_to(body: Block, handle: Value) -> bool:
    """Whether all that the body of a nest does with a tile is to add something to elements of it."""
    touching = [op for op in walk(body) if handle in op.inputs]
    if len(touching) != 2:
        return False
    load, store = touching
    if not (isinstance(load, Load) and isinstance(store, Store) and store in body.ops):
        return False
    adds = [op for op in walk(body) if load.result in op.inputs]
    if len(adds) != 1 or not isinstance(adds[0], Add) or adds[0].x is adds[0].y:
        return False
    users = [op for op in walk(body) if adds[0].result in op.inputs]
    return users == [store] and store.value is adds[0].result and store.indices == load.indices


def _seen_before(before: Sequence[Op]) -> str:
    """What of the ops before the loop would be seen if they ran twice."""
    if any(_is_seen(op) for op in before):
        return "what stands before the loop with its products is seen outside of the block"
    return ""


def _is_seen(op: Op) -> bool:
    """Whether others see that `op` runs."""
    return any(isinstance(inner, Print) or orders(inner) for inner in op.walk()) or any(
        effect.access in (Access.READ, Access.WRITE)
        if effect.memory is None
        else effect.access is Access.WRITE and is_global(effect.memory)
        for inner in op.walk()
        for effect in inner.effects()
    )


def _seen_within(loop: For | Pipeline, launch: Launch) -> str:
    """What of a step of the loop is seen by another step or outside of it, but for the sums."""
    if _is_seen(loop):
        return "a step of the loop with its products is seen outside of the block"
    inside = {id(op) for op in walk(loop.body)}
    outside = {v for op in walk(launch.body) if id(op) not in inside for v in op.inputs}
    viewed = {op.memory for op in walk(launch.body) if isinstance(op, View)}
    buffers = {op.result for op in walk(loop.body) if isinstance(op, Put)}
    defined_by = defining_ops(launch.body)
    statements = list(_statements(loop.body))
    for memory in writes(loop):
        if memory in buffers or is_fragment(memory):
            continue  # of a channel: who gets it was written in the same step; a tile in a nest
        first = next(op for op in statements if memory in used_values(op))
        whole = covers([first], memory, defined_by) and memory not in reads(first)
        own = isinstance(defined_by.get(memory), Alloc) and memory not in outside | viewed
        if not (whole and own and is_statement(first)):
            return "steps of the loop with its products meet in memory"
    return ""


def _statements(body: Block) -> list[Op]:
    """The ops of a loop's body, those of its stages one after another."""
    found: list[Op] = []
    for op in body.ops:
        found += op.body.ops if isinstance(op, Stage) else [op]
    return found
