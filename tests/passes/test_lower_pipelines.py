"""lower_pipelines and plan_shared: what is left is loops, slots, waits and places."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tests.passes import planned_kernels as kernels
from tests.passes.planning import found, specialised
from tilec.ir.core import Op, Program, constant_of, walk
from tilec.ir.dtypes import mbarrier
from tilec.ir.ops.control import For, If, Launch, Role
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.nvidia import (
    CpAsyncCommit,
    CpAsyncWait,
    FenceProxyAsync,
    MbarrierArrive,
    MbarrierExpect,
    MbarrierInit,
    MbarrierWait,
    SetRegisters,
)
from tilec.ir.ops.pipeline import OPS as PIPELINE_OPS
from tilec.ir.ops.pipeline import Wait
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import Copy, LoadTile, StoreTile
from tilec.ir.types import Space
from tilec.passes.context import Facts, PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

PIPELINED = [
    k for k in kernels.ALL
    if k.name not in ("no_load", "address_from_shared", "carried_address")
]  # fmt: skip
TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")


def lowered(kernel: Any, target: str, after: str = "lower_pipelines", **constants: Any) -> Program:
    context = PassContext(find_target(target), standard_registry(), Facts())
    return run_pipeline(specialised(kernel, **constants), context, after=after)


def loop_over_k(program: Program) -> For:
    return next(op for op in found(program, For) if op.body.params[0].hint == "k")


def names(block: tuple[Op, ...], wanted: tuple[type[Op], ...]) -> list[str]:
    return [op.name for top in block for op in top.walk() if isinstance(op, wanted)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", PIPELINED, ids=lambda k: k.name)
def test_no_plan_is_left(kernel: Any, target: str) -> None:
    program = lowered(kernel, target)
    planned = tuple(op for op in PIPELINE_OPS if op is not Wait)
    assert not [op for op in walk(program.body) if isinstance(op, planned)]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_cp_async_has_a_prologue_of_one_group_a_step(depth: int) -> None:
    program = lowered(kernels.gemm_nt, "cuda:sm_80", stages=depth)
    launch = found(program, Launch)[0]
    steady = loop_over_k(program)
    before = launch.body.ops[: launch.body.ops.index(steady)]
    kinds = (Copy, CpAsyncCommit, CpAsyncWait, Barrier)
    assert names(before, kinds) == ["copy", "copy", "cp_async_commit"] * (depth - 1)
    assert names(steady.body.ops, kinds) == [
        "cp_async_wait", "barrier", "copy", "copy", "cp_async_commit",
    ]  # fmt: skip
    assert [op.pending for op in found(program, CpAsyncWait)] == [depth - 2]
    # a group is committed whether or not its iteration exists, so that counts stay what they are
    assert all(isinstance(op, CpAsyncCommit) or not names((op,), (CpAsyncCommit,)) for op in before)


def test_registers_are_carried_over_the_barrier() -> None:
    program = lowered(kernels.gemm_nt, "hip:gfx942", stages=2)
    steady = loop_over_k(program)
    assert len(steady.inits) == 3  # the accumulator and two tiles on their way
    assert names(steady.body.ops, (LoadTile, StoreTile, Barrier)) == [
        "barrier", "store_tile", "store_tile", "load_tile", "load_tile",
    ]  # fmt: skip


def test_roles_talk_by_mbarriers() -> None:
    program = lowered(kernels.gemm_nt, "cuda:sm_90a", stages=3)
    full, empty = found(program, MbarrierInit)
    consumer, producer = found(program, Role)
    assert (full.count, empty.count) == (1, 1)  # one thread feeds TMA; one arrival a warpgroup
    (expect,) = [op for op in producer.walk() if isinstance(op, MbarrierExpect)]
    assert expect.barriers is full.barriers  # how many bytes: test_clip_boxes.py
    for copy in (op for op in producer.walk() if isinstance(op, Copy)):
        assert copy.barrier[0] is full.barriers and copy.instruction == "tma"
    waits = {role.label: [op for op in role.walk() if isinstance(op, MbarrierWait)]
             for role in (consumer, producer)}  # fmt: skip
    assert [op.barriers for op in waits["consumer"]] == [full.barriers]
    assert [op.barriers for op in waits["producer"]] == [empty.barriers]
    arrivals = [op for op in consumer.walk() if isinstance(op, MbarrierArrive)]
    assert arrivals and all(op.barriers is empty.barriers for op in arrivals)
    registers = [op for op in walk(program.body) if isinstance(op, SetRegisters)]
    assert [op.count for op in registers] == [consumer.registers, producer.registers]
    # the producer's only thread at work
    (branch,) = [op for op in producer.body.ops if isinstance(op, If)]
    assert names(branch.then.ops, (Copy,)) == ["copy", "copy"]


def test_a_bundle_counts_the_warps_that_make_it() -> None:
    """Threads fill D_s in the role that reads it: barriers and a fence, no mbarrier of its own."""
    program = lowered(kernels.made_by_threads, "cuda:sm_90a")
    assert len(found(program, MbarrierInit)) == 2
    assert [op.count for op in found(program, MbarrierInit)] == [1, 4]  # read by four warps
    assert found(program, FenceProxyAsync)
    consumer = found(program, Role)[0]
    meets = [op for op in consumer.walk() if isinstance(op, Barrier)]
    assert meets and all((op.barrier, op.threads) == (1, 128) for op in meets)


@pytest.mark.parametrize("target", TARGETS)
def test_buffers_lie_apart_and_aligned(target: str) -> None:
    for kernel in (kernels.gemm_nt, kernels.made_by_threads, kernels.address_from_shared):
        program = lowered(kernel, target, after="plan_shared")
        (launch,) = found(program, Launch)
        places = []
        for alloc in found(program, Alloc):
            if alloc.type.space is not Space.SHARED or "stage" in alloc.result.hint:
                continue  # a result on its way out lies where operands did
            (extent,) = alloc.type.shape
            size = extent * alloc.type.dtype.bytes
            assert alloc.offset >= 0 and alloc.offset % (1024 if size >= 1024 else 16) == 0
            if alloc.type.dtype is mbarrier:
                assert alloc.offset % 8 == 0
            places.append((alloc.offset, alloc.offset + size))
        places.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(places)), kernel.name
        assert launch.shared_bytes >= (places[-1][1] if places else 0)


def test_slots_are_taken_in_turn() -> None:
    """The steady loop takes slot k mod slots for reading, and that of its lead for writing."""
    program = lowered(kernels.gemm_nt, "cuda:sm_80", stages=3)
    moduli = [
        constant_of(op.inputs[1]) for op in loop_over_k(program).walk() if op.name == "floormod"
    ]
    assert moduli and set(moduli) == {3}
