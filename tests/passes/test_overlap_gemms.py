"""overlap_gemms: what moves behind the next product, what waits for what, what keeps its registers."""

from __future__ import annotations

from typing import Any

from tests.kernels.test_overlapped_gemms import attention_like, halved, sometimes
from tests.passes.planning import Planned, plan, specialised
from tilec.ir.core import Op, Value
from tilec.ir.ops.arith import Cast
from tilec.ir.ops.control import For, Role
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.nvidia import MbarrierArrive, MbarrierWait
from tilec.ir.ops.pipeline import Wait
from tilec.passes.coalesce import coalesce
from tilec.passes.pipeline import PIPELINE


def overlapped(step: Any) -> Planned:
    return plan(specialised(attention_like(step)), "overlap_gemms", "cuda:sm_90a", passes=PIPELINE)


def keys_loop(result: Planned) -> For:
    """The innermost loop with products."""
    return [op for op in result.all(For) if any(isinstance(o, Gemm) for o in op.body.ops)][-1]


def inside(op: Op, kind: type[Op]) -> bool:
    return any(isinstance(o, kind) for o in op.walk())


def test_the_late_product_is_issued_behind_the_next_and_waited_for_last() -> None:
    loop = keys_loop(overlapped(halved))
    gemms = [op for op in loop.body.ops if isinstance(op, Gemm)]
    waits = [op for op in loop.body.ops if isinstance(op, Wait)]
    assert [(w.pending, w.later) for w in waits] == [(1, 1), (0, 0)]
    assert [w.inflight for w in waits] == [g.result for g in gemms]
    kinds = [type(op) for op in loop.body.ops]
    first_gemm, late_gemm = (i for i, kind in enumerate(kinds) if kind is Gemm)
    assert (
        kinds[:late_gemm].count(MbarrierWait) == 2 and MbarrierWait in kinds[first_gemm:late_gemm]
    )
    assert gemms[1].a in loop.body.params and gemms[1].accumulator in loop.body.params
    late = loop.body.ops.index(waits[1])
    freed = [i for i, op in enumerate(loop.body.ops) if inside(op, MbarrierArrive)]
    assert loop.body.ops.index(waits[0]) < freed[0] < late < freed[1]
    assert late < kinds.index(Cast), "the weights are made anew where nothing reads the old ones"


def test_the_first_half_stands_before_the_loop_and_the_last_product_behind_it() -> None:
    result = overlapped(halved)
    gemms = result.all(Gemm)
    assert len(gemms) == 4 and [w.pending for w in result.all(Wait)] == [0, 1, 0, 0]
    assert result.codes.count("TLC0329") == 1


def test_a_product_under_a_condition_stays() -> None:
    result = overlapped(sometimes)
    assert "TLC0329" not in result.codes and all(w.pending == 0 for w in result.all(Wait))


def test_what_a_product_reads_from_registers_is_its_own_until_the_wait() -> None:
    """A tile that is made between the issue and the wait lies elsewhere than the operand."""
    result = overlapped(halved)
    loop = keys_loop(result)
    late = [op for op in loop.body.ops if isinstance(op, Gemm)][1]
    (cast,) = (op for op in loop.body.ops if isinstance(op, Cast))
    (role,) = (op for op in result.all(Role) if op.label == "consumer")
    assert coalesce(role.body).shared(cast.result, late.a), "made behind the wait: one array"

    ops = list(loop.body.ops)
    ops.remove(cast)
    wait = next(i for i, op in enumerate(ops) if isinstance(op, Wait) and not op.pending)
    ops.insert(wait, cast)
    early = coalesce(_with_loop(role, loop, ops).body)
    assert not early.shared(cast.result, late.a), "made before it: two"


def _with_loop(role: Role, loop: For, ops: list[Op]) -> Role:
    def rebuilt(op: Op) -> Op:
        if op is loop:
            return loop.replace(body=loop.body.with_ops(ops))
        return op.map(_same, lambda block: block.with_ops([rebuilt(o) for o in block.ops]))

    new = rebuilt(role)
    assert isinstance(new, Role)
    return new


def _same(value: Value) -> Value:
    return value
