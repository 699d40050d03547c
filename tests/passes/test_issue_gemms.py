"""issue_gemms: which products stay in flight, and where they are waited for."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tilec.ir.core import walk
from tilec.ir.ops.control import If
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.pipeline import Free, Pipeline, Stage, Wait
from tilec.ir.ops.tile import Splat, Undefined
from tilec.ir.types import InflightType, TileType

ROLES = [
    k for k in kernels.ALL
    if k.name not in ("no_load", "loaded_in_a_branch", "address_from_shared", "carried_address", "mixed")
]  # fmt: skip


def issued(kernel: Any, target: str = "cuda:sm_90a", **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "issue_gemms", target)


@pytest.mark.parametrize("kernel", ROLES, ids=lambda k: k.name)
def test_every_product_is_asynchronous_and_the_meaning_stays(kernel: Any) -> None:
    result = issued(kernel)
    gemms = result.all(Gemm)
    assert gemms and all(op.asynchronous and op.instruction == "wgmma" for op in gemms)
    assert {id(op.results[0]) for op in gemms} <= {id(op.inflight) for op in result.all(Wait)}
    keeps_meaning(kernel.lower_to_ir(), result.program, (0, 3))


def test_the_accumulator_of_a_pipeline_stays_in_flight() -> None:
    result = issued(kernels.gemm_nt)
    (gemm,) = result.all(Gemm)
    inner, outer = result.all(Wait)
    assert (inner.inflight, inner.pending, outer.pending) == (gemm.result, 1, 0)
    assert [op.defer for op in result.all(Free)] == [1, 1]
    loop = next(op for op in result.all(Pipeline) if op.results)
    assert outer.inflight is loop.result and isinstance(loop.result.type, InflightType)
    assert loop.inits == (result.one(Undefined).result,)
    (first,) = gemm.accumulate  # from zero in the first iteration
    defines = {r: op for op in walk(result.program.body) for r in op.results}
    assert defines[first].inputs[0] is loop.body.params[0]


def test_a_loop_that_may_not_run_gives_zero() -> None:
    result = issued(kernels.gemm_nt)
    (branch,) = result.all(If)
    assert any(isinstance(op, Pipeline) for op in branch.then.ops)
    (zero,) = [op for op in branch.orelse.ops if isinstance(op, Splat)]
    end = branch.orelse.terminator
    assert end is not None and end.inputs == (zero.result,)
    assert isinstance(branch.results[0].type, TileType)


@pytest.mark.parametrize(
    "kernel",
    [
        kernels.guarded,  # not in every iteration
        kernels.kept_running,  # used within the loop
        kernels.used_after, kernels.partly_made,  # reads a buffer that the next iteration rewrites
        kernels.half_made,  # the buffer has one slot
    ],
    ids=lambda k: k.name,
)  # fmt: skip
def test_others_are_waited_for_at_once(kernel: Any) -> None:
    result = issued(kernel)
    for block in [b for op in walk(result.program.body) for b in op.regions]:
        for op, following in zip(block.ops, block.ops[1:], strict=False):
            if isinstance(op, Gemm):
                assert isinstance(following, Wait) and following.inflight is op.result
                assert following.pending == 0 and not op.accumulate
    assert all(op.defer == 0 for op in result.all(Free))
    assert not [p for op in result.all(Stage) for p in op.results if _in_flight(p)]


@tilec.kernel
def several(
    A: T.Tensor(("M", "K"), "float16"), C: T.Tensor((128, 64), "float32"), how: str = "apart",
):  # fmt: skip
    """Two products, apart or into one accumulator, or with something between."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        c, d = T.alloc_fragment((64, 64), "float32"), T.alloc_fragment((64, 64), "float32")
        T.clear(c)
        T.clear(d)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=2):
            T.copy(A[0, k * 32], A_s)
            T.gemm(A_s, A_s, c, transpose_B=True)
            if how == "between":
                for i, j in T.Parallel(64, 64):
                    d[i, j] += c[i, j]
            T.gemm(A_s, A_s, c if how == "chained" else d, transpose_B=True)
        T.copy(c, C[0, 0])
        T.copy(d, C[64, 0])


@pytest.mark.parametrize(
    ("how", "order"),
    [
        ("apart", ["gemm", "gemm", "wait", "wait", "free"]),
        ("chained", ["gemm", "wait", "gemm", "wait", "free"]),
        ("between", ["gemm", "wait", "parallel", "gemm", "wait", "free"]),
    ],
)
def test_products_that_need_nothing_of_each_other_are_issued_together(
    how: str, order: list[str]
) -> None:
    result = issued(several, how=how)
    (stage,) = [s for s in result.all(Stage) if s.label == "mma"]
    assert [op.name for op in stage.body.ops if op.name in order] == order
    waits = [op for op in stage.body.ops if isinstance(op, Wait)]
    assert [op.pending for op in waits] == ([1, 0] if how == "apart" else [0, 0])
    assert all(op.completes for op in waits)
    keeps_meaning(several.trace({"how": how}), result.program)


def _in_flight(value: Any) -> bool:
    return isinstance(value.type, InflightType)


def test_one_slot_leaves_nothing_in_flight() -> None:
    result = issued(kernels.gemm_nt, stages=1)
    assert [op.pending for op in result.all(Wait)] == [0]


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_synchronous_instructions_stay(target: str) -> None:
    result = issued(kernels.gemm_nt, target)
    assert not result.all(Wait) and not result.one(Gemm).asynchronous


def test_golden(golden: Any) -> None:
    assert issued(kernels.gemm_nt).text == golden("tir")
