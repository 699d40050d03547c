"""assign_roles: producers load, consumers do the rest, and nobody does a thing twice."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tilec.ir.core import walk
from tilec.ir.ops.control import For, If, Launch, Role, Simt
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc, Store
from tilec.ir.ops.pipeline import Get, Pipeline, Put, Stage
from tilec.ir.ops.tile import Copy, Splat, StoreTile
from tilec.ir.types import TileType


def assigned(kernel: Any, target: str = "cuda:sm_90a", **constants: Any) -> Planned:
    # "canonicalize" stands last right after it: each role sheds what it does not need
    return plan(specialised(kernel, **constants), "canonicalize", target)


def roles(result: Planned) -> tuple[Role, Role]:
    consumer, producer = result.all(Role)
    return consumer, producer


@tilec.kernel
def in_a_branch(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", 64), "float32"), n: T.int32):
    """The pipeline stands under a condition and in a loop, beside statements of the consumers."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for i in T.serial(n):
            if i < 2:
                for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
                    T.copy(A[bx * 64 + i, k * 32], A_s)
                    T.gemm(A_s, A_s, acc, transpose_B=True)
            else:
                for r, c in T.Parallel(64, 64):
                    acc[r, c] = acc[r, c] * 2
        T.copy(acc, C[bx * 64, 0])


ROLES = [
    kernels.gemm_nt, kernels.made_by_threads, kernels.two_gemms, kernels.from_table,
    kernels.guarded, kernels.kept_running, kernels.nested, in_a_branch,
]  # fmt: skip


@pytest.mark.parametrize("kernel", ROLES, ids=lambda k: k.name)
def test_the_meaning_stays(kernel: Any) -> None:
    keeps_meaning(kernel.lower_to_ir(), assigned(kernel).program)


@pytest.mark.parametrize("kernel", ROLES, ids=lambda k: k.name)
def test_the_producer_only_loads_and_the_consumer_never_does(kernel: Any) -> None:
    consumer, producer = roles(assigned(kernel))
    theirs = list(walk(producer.body))
    assert not [op for op in theirs if isinstance(op, (Gemm, StoreTile, Splat, Simt, Get))]
    assert [op for op in theirs if isinstance(op, Copy)]
    assert all(op.instruction == "tma" for op in theirs if isinstance(op, Copy))
    assert not [v for op in theirs for v in op.results if isinstance(v.type, TileType)]
    mine = list(walk(consumer.body))
    assert not [op for op in mine if isinstance(op, Copy) and op.instruction == "tma"]
    filled = [{op.channel for op in ops if isinstance(op, Put)} for ops in (mine, theirs)]
    assert not filled[0] & filled[1] and filled[1]


def test_threads_and_barriers() -> None:
    result = assigned(kernels.gemm_nt, bm=128, threads=256)
    launch, (consumer, producer) = result.one(Launch), roles(result)
    assert (consumer.first_thread, consumer.threads) == (0, 256)
    assert (producer.first_thread, producer.threads) == (256, 128)
    assert launch.threads == 256 and launch.launched_threads == 384
    assert consumer.barrier == 1
    assert "256 consumer threads" in result.remark("TLC0323").message


def test_both_roles_walk_the_same_loops() -> None:
    consumer, producer = roles(assigned(in_a_branch))
    for kind in (If, Pipeline):
        counts = [sum(isinstance(op, kind) for op in walk(r.body)) for r in (consumer, producer)]
        assert counts == [1, 1], kind
    loops = [[op for op in walk(r.body) if isinstance(op, For)] for r in (consumer, producer)]
    assert len(loops[0]) == len(loops[1]) == 2


def test_no_role_without_tma() -> None:
    result = assigned(kernels.gemm_nt, "cuda:sm_80")
    assert not result.all(Role) and len(result.all(Stage)) == 2
    launch = result.one(Launch)
    assert launch.launched_threads == launch.threads == 128


def test_values_of_one_role_are_not_used_in_another() -> None:
    for kernel in ROLES:
        consumer, producer = roles(assigned(kernel))
        own = {id(v) for op in walk(consumer.body) for v in op.results}
        assert not [v for op in walk(producer.body) for v in op.inputs if id(v) in own]


def test_golden(golden: Any) -> None:
    assert assigned(kernels.made_by_threads).text == golden("tir")


@tilec.kernel
def by_variables(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", 64), "float32")):
    """Which rows are loaded, and how often, follows a variable."""
    with T.Kernel(1, threads=256):
        A_s = T.alloc_shared((128, 32), "float16")
        acc = T.alloc_fragment((128, 128), "float32")
        row = T.alloc_var("int32")
        row = 0
        T.clear(acc)
        while row < A.shape[0]:
            for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
                T.copy(A[row, k * 32], A_s)
                T.gemm(A_s, A_s, acc, transpose_B=True)
            for i, j in T.Parallel(128, 64):
                C[row + i, j] = acc[i, j]
            row = row + 128


def test_each_role_has_variables_of_its_own() -> None:
    result = assigned(by_variables)
    keeps_meaning(by_variables.lower_to_ir(), result.program)
    for role in roles(result):
        (variable,) = (op.result for op in walk(role.body) if isinstance(op, Alloc))
        stores = [op for op in walk(role.body) if isinstance(op, Store)]
        assert variable.hint == "row" and [op.memory for op in stores][-1] is variable
        simts = [op for op in walk(role.body) if isinstance(op, Simt)]
        assert [op.threads for op in simts] == [role.threads] * 2
