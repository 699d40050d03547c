"""The last gemm of an iteration runs under the next one's: its products beside the arithmetic on tiles
that would otherwise leave the tensor cores idle.

Needs: pipelines lowered, gemms issued. Leaves: in a loop of two gemms or more, of which only the
last one's accumulator is carried from it, that gemm with all that belongs to it (the wait for its
operand, what frees the operand) one trip behind, from the issue of the gemm before it to where its
result is needed first. The first trip's other half stands before the loop, the last gemm behind it.

    for 0, %n, 1, [%o] (%k, %o1) {             if 0 < %n { [first half of trip 0: %u0, %w0]
      %s = gemm %Q, %K[%k]                       for 1, %n, 1, [%u0, %w0] (%k, %u1, %w1) {
      %s1 = wait %s                                %s = gemm %Q, %K[%k]
      %w = exp2 %s1                                mbarrier_wait %full_V ; %x = gemm %w1, %V[%k - 1], %u1
      %u = mul %o1, ...                   ->       %s1 = wait %s <pending = 1, later = 1>
      mbarrier_wait %full_V                        %e = exp2 %s1
      %x = gemm %w, %V[%k], %u                     %o1 = wait %x ; mbarrier_arrive %empty_V
      %o2 = wait %x                                %u = mul %o1, ... ; %w = ... %e
      mbarrier_arrive %empty_V                     yield %u, %w }
      yield %o2 }                                mbarrier_wait %full_V ; %x = gemm %w, %V[%n - 1], %u
                                                 %o = wait %x ; mbarrier_arrive %empty_V ; yield %o }

What belongs to a gemm is found by what it touches: the mbarriers and the variables that its operand's
slot is taken by, and every statement that touches one of them. Whatever needs the result of the gemm,
or makes anew what it reads from registers, stands behind the wait. A loop stays as it is where another
role waits for the one slot that the late gemm frees before it brings what the next trip begins with:
that trip would wait for ever. Source: Shah et al.,
"FlashAttention-3" (2024), section 3.2, where the softmax of one block overlaps the products of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..ir.build import Builder, fresh
from ..ir.clone import Renaming, clone_op
from ..ir.core import Block, Op, Program, Value, at, constant_of, walk, with_results
from ..ir.dtypes import mbarrier
from ..ir.effects import space_of
from ..ir.ops.control import For, If, Launch, Role, Yield, map_launches
from ..ir.ops.gemm import Gemm
from ..ir.ops.memory import Slot, memory_type
from ..ir.ops.nvidia import FenceProxyAsync, MbarrierArrive, MbarrierWait
from ..ir.ops.pipeline import Wait
from ..ir.types import MemoryType, Space
from .context import PassContext, Remark
from .dependence import is_tile, used_values
from .live_tiles import live_registers
from .variants import ADDRESS_REGISTERS


def overlap_gemms(program: Program, context: PassContext) -> Program:
    """Overlaps the loops of every role in whose registers the tiles of two iterations fit."""
    return map_launches(program, lambda launch: _launch(launch, context))


def _launch(launch: Launch, context: PassContext) -> Launch:
    if launch.explicit:
        return launch
    ops: list[Op] = []
    for op in launch.body.ops:
        if isinstance(op, Role):
            op = _role(op, launch, context)
        ops.append(op)
    return launch.replace(body=launch.body.with_ops(ops))  # type: ignore[return-value]


def _role(role: Role, launch: Launch, context: PassContext) -> Role:
    found: list[Gemm] = []
    others = [op for op in launch.body.ops if isinstance(op, Role) and op is not role]
    body = _block(role.body, others, found)
    if not found:
        return role
    alone = launch.replace(body=body, threads=role.threads)
    assert isinstance(alone, Launch)
    needed = live_registers(alone, context.target) + ADDRESS_REGISTERS
    if needed > role.registers:
        text = f"no product is under way over an iteration: {needed} registers a thread are needed"
        context.remark(Remark("TLC0328", f"{text}, of {role.registers}", found[0].loc))
        return role
    for gemm in found:
        text = "this product runs beside the next iteration's"
        context.remark(Remark("TLC0329", text, gemm.loc))
    return role.replace(body=body)  # type: ignore[return-value]


def _block(block: Block, others: list[Role], found: list[Gemm]) -> Block:
    b = Builder()
    for op in block.ops:
        plan = _plan(op) if isinstance(op, For) else None
        if plan is None or _stalls(plan, others):
            b.emit(op.map_regions(lambda inner: _block(inner, others, found)))
        else:
            found.append(plan.gemm)
            with at(op.loc):
                _emit(b, plan)
    return block.with_ops(b.ops)


@dataclass(frozen=True)
class _Plan:
    """A loop, cut. `front` goes up to the gemm `before`; `early` needs nothing of the late gemm;
    `late` stands behind its wait. `issue` is what goes with the late gemm, up to it, `land` its wait
    and what follows that. `handed` are the tiles of an iteration that the late gemm reads.
    """

    loop: For
    gemm: Gemm
    wait: Wait
    before: Gemm
    front: tuple[Op, ...]
    early: tuple[Op, ...]
    late: tuple[Op, ...]
    issue: tuple[Op, ...]
    land: tuple[Op, ...]
    handed: tuple[Value, ...]

    @property
    def end(self) -> Op:
        end = self.loop.body.terminator
        assert end is not None
        return end

    @property
    def position(self) -> int:
        """Which of the carried values the gemm makes."""
        return self.end.inputs.index(self.wait.result)


# What is cut --------------------------------------------------------------------------------------


def _plan(loop: For) -> _Plan | None:
    """How a loop is cut; None where it cannot be."""
    body, end = loop.body.ops, loop.body.terminator
    assert end is not None
    gemms = [op for op in body if isinstance(op, Gemm) and op.asynchronous]
    every = sum(isinstance(op, Gemm) for op in walk(loop.body))
    if len(gemms) < 2 or every > len(gemms) or constant_of(loop.step) != 1:
        return None
    before, gemm = gemms[-2:]
    waits = {op.inflight: op for op in body if isinstance(op, Wait) and not op.pending}
    if before.result not in waits or gemm.result not in waits:
        return None
    wait = waits[gemm.result]
    if [op for op in body if wait.result in used_values(op)] != [end]:
        return None
    if end.inputs.count(wait.result) != 1:
        return None
    moved = _belongings(loop, gemm, wait)
    if moved is None or before in moved:
        return None
    copied = _copied(loop, moved)
    read = {v for op in (*moved, *copied) for v in used_values(op)}
    made = {v for op in body if op not in moved and op not in copied for v in op.results}
    param = loop.body.params[1 + end.inputs.index(wait.result)]
    handed = tuple(v for v in dict.fromkeys(_operands(gemm)) if v in made or v is param)
    if (read & made) - set(handed) or read & set(loop.body.params[1:]) - {param}:
        return None
    kept = [op for op in body if op not in moved and op is not end]
    parts = _divided(kept, before, param, {op for op in kept if set(op.results) & set(handed)})
    if parts is None:
        return None
    tail = [op for op in body if op in moved or op in copied]
    at_gemm = tail.index(gemm) + 1
    return _Plan(
        loop, gemm, wait, before, *parts, tuple(tail[:at_gemm]), tuple(tail[at_gemm:]), handed
    )


def _stalls(plan: _Plan, others: Iterable[Role]) -> bool:
    """Whether one of the other roles waits for a slot that the late gemm frees, the only one of its ring,
    before it brings what the front waits for.
    """
    needed = {op.barriers for op in _inside(plan.front) if isinstance(op, MbarrierWait)}
    freed = {
        op.barriers
        for op in _inside(plan.land)
        if isinstance(op, MbarrierArrive) and memory_type(op.barriers).shape == (1,)
    }
    for role in others:
        waiting = False
        for op in walk(role.body):
            if isinstance(op, MbarrierWait):
                waiting = waiting or op.barriers in freed
            elif waiting and needed & used_values(op):
                return True
    return False


def _inside(ops: Iterable[Op]) -> Iterator[Op]:
    return (inner for op in ops for inner in op.walk())


def _operands(gemm: Gemm) -> tuple[Value, ...]:
    """The tiles that a gemm reads."""
    return tuple(v for v in (gemm.a, gemm.b, gemm.accumulator) if is_tile(v))


def _belongings(loop: For, gemm: Gemm, wait: Wait) -> set[Op] | None:
    """The ops of the body that go where the gemm and its wait go: those that touch a variable or an
    mbarrier that one of them touches, and those that need what one of them gives. None where they
    include other statements, or where the gemm reads memory that is not handed over by an mbarrier.
    """
    body = loop.body.ops[:-1]
    defined_by = {v: op for op in body for v in op.results}
    moved: set[Op] = {gemm, wait}
    while True:
        read = {v for op in (*moved, *_copied(loop, moved)) for v in used_values(op)}
        given = {v for op in moved for v in op.results}
        state = {v for v in read if _is_state(v)}
        more = {op for op in body if used_values(op) & (state | given)}
        more |= {op for v in read if (op := defined_by.get(v)) and not op.pure and not is_tile(v)}
        more |= {fence for wait, fence in _fences(body) if wait in moved}
        if more <= moved:
            break
        moved |= more
    own = [op for op in moved if op is not gemm and op is not wait]
    if any(is_tile(v) for op in own for v in op.results) or not all(map(_is_own, own)):
        return None
    slots = [defined_by.get(v) for v in (gemm.a, gemm.b) if not is_tile(v)]
    handed_over = any(isinstance(op, MbarrierWait) for op in own)
    if not all(isinstance(slot, Slot) and slot in moved for slot in slots):
        return None
    return moved if handed_over or not slots else None


def _fences(body: Sequence[Op]) -> Iterator[tuple[Op, Op]]:
    """Waits for a slot with the fence that shows what has landed in it, between a wait and the slot."""
    for wait, fence, slot in zip(body, body[1:], body[2:], strict=False):
        if isinstance(wait, MbarrierWait) and isinstance(fence, FenceProxyAsync):
            if isinstance(slot, Slot):
                yield wait, fence


def _copied(loop: For, moved: set[Op]) -> set[Op]:
    """Scalars of the body that the moved ops need and that are computed once more for them."""
    defined_by = {v: op for op in loop.body.ops for v in op.results}
    found: set[Op] = set()
    work = [v for op in moved for v in used_values(op)]
    while work:
        value = work.pop()
        op = defined_by.get(value)
        if op is not None and op.pure and not is_tile(value) and op not in moved | found:
            found.add(op)
            work.extend(used_values(op))
    return found


def _is_state(value: Value) -> bool:
    """Whether a value is a thread's variable, or mbarriers."""
    type_ = value.type
    return isinstance(type_, MemoryType) and (
        type_.space is Space.LOCAL or (type_.space is Space.SHARED and type_.dtype == mbarrier)
    )


def _is_own(op: Op) -> bool:
    """Whether all that an op does is done to variables and mbarriers, or it shows what they hand over."""
    if isinstance(op, FenceProxyAsync):
        return True
    effects = [effect for inner in op.walk() for effect in inner.effects()]
    return all(effect.memory is not None and _is_state(effect.memory) for effect in effects)


def _divided(
    kept: Sequence[Op], before: Gemm, param: Value, makers: set[Op]
) -> tuple[tuple[Op, ...], tuple[Op, ...], tuple[Op, ...]] | None:
    """`kept` in front of the late gemm, beside it and behind it: behind is what needs its result
    (`param`), what makes its operands anew, and every action after the first of these. None where the
    result is needed in front.
    """
    cut = kept.index(before) + 1
    front, rest = kept[:cut], kept[cut:]
    if any(param in used_values(op) for op in front):
        return None
    needed, acts = {param}, False
    early: list[Op] = []
    late: list[Op] = []
    for op in rest:
        if op in makers or used_values(op) & needed or (acts and _acts(op)):
            late.append(op)
            needed.update(op.results)
            acts = acts or _acts(op)
        else:
            early.append(op)
    return (tuple(front), tuple(early), tuple(late))


def _acts(op: Op) -> bool:
    """Whether an op does anything to memory, or synchronises."""
    effects = [effect for inner in op.walk() for effect in inner.effects()]
    return any(e.memory is None or space_of(e.memory) is not Space.FRAGMENT for e in effects)


# The loop anew ------------------------------------------------------------------------------------


def _emit(b: Builder, plan: _Plan) -> None:
    """Emits the loop with its gemm a trip behind, under the condition that it runs at all."""
    loop = plan.loop
    with b.region() as then:
        results = _Trips(b, plan).emit()
        b.emit(Yield(results))
    otherwise = Block((), (Yield(loop.inits),))
    runs = b.compare("lt", loop.start, loop.stop)
    b.emit(with_results(If(runs, Block((), tuple(then)), otherwise), loop.results))


class _Trips:
    """The first trip's half, the loop of the others, and the last gemm."""

    def __init__(self, b: Builder, plan: _Plan) -> None:
        self.b, self.plan = b, plan
        self.index, *self.params = plan.loop.body.params
        self.param = self.params[plan.position]

    def emit(self) -> tuple[Value, ...]:
        """Emits all three; gives the loop's results."""
        b, plan, loop = self.b, self.plan, self.plan.loop
        first: Renaming = {
            self.index: loop.start,
            **dict(zip(self.params, loop.inits, strict=True)),
        }
        self._copies((*plan.front, *plan.early, *plan.late), first)
        inits = self._carried(first)
        index = fresh(self.index.type, self.index.hint)
        params = tuple(fresh(v.type, v.hint) for v in inits)
        with b.region() as body:
            b.emit(Yield(self._trip(index, params)))
        others = For(
            b.add(loop.start, 1), loop.stop, b.const(1), inits, Block((index, *params), tuple(body)),
            kind=loop.kind, stages=loop.stages, unroll=loop.unroll,
        )  # fmt: skip
        b.emit(others)
        names = self._behind(b.sub(loop.stop, 1), others.results)
        self._copies((*plan.issue, *plan.land), names)
        results = list(others.results[: len(self.params) - 1])
        results.insert(plan.position, names[plan.wait.result])
        return tuple(results)

    def _trip(self, index: Value, params: tuple[Value, ...]) -> tuple[Value, ...]:
        """One iteration, and the gemm of the one before it."""
        plan = self.plan
        others = [p for p in self.params if p is not self.param]
        names: Renaming = {self.index: index, **dict(zip(others, params, strict=False))}
        behind = self._behind(self.b.sub(index, 1), params)
        self._copies(plan.front, names)
        self._copies(plan.issue, behind)
        self._copies(map(self._leaving_one, plan.early), names)
        self._copies(plan.land, behind)
        names[self.param] = behind[plan.wait.result]
        self._copies(plan.late, names)
        return self._carried(names)

    def _behind(self, index: Value, carried: Sequence[Value]) -> Renaming:
        """What the late gemm calls the things of its own iteration."""
        handed = carried[len(self.params) - 1 :]
        return {self.index: index, **dict(zip(self.plan.handed, handed, strict=True))}

    def _carried(self, names: Renaming) -> tuple[Value, ...]:
        """What one trip hands to the next: the carried values but the gemm's, and its operands."""
        ends = [v for i, v in enumerate(self.plan.end.inputs) if i != self.plan.position]
        return tuple(names.get(v, v) for v in (*ends, *self.plan.handed))

    def _leaving_one(self, op: Op) -> Op:
        """The wait for the gemm before leaves the late gemm, which was issued after it, in flight."""
        if isinstance(op, Wait) and op.inflight is self.plan.before.result:
            return with_results(op.replace(pending=1, later=1), op.results)
        return op

    def _copies(self, ops: Iterable[Op], names: Renaming) -> None:
        for op in ops:
            self.b.emit(clone_op(op, names))
