"""start_engines: barriers made once, copies started by one thread, fences before what threads wrote is read."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.kernels import hand_written
from tests.modules import HOPPER, example
from tests.passes.planning import Planned, plan, specialised
from tilec.ir.core import Op, Program, walk
from tilec.ir.ops.control import If, Launch, Role, ThreadId
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.nvidia import (
    CpAsyncWait,
    FenceProxyAsync,
    MbarrierArrive,
    MbarrierInit,
    MbarrierInitFence,
)
from tilec.ir.ops.thread import Barrier
from tilec.ir.ops.tile import Copy
from tilec.ir.types import Space
from tilec.passes.pipeline import PIPELINE


def planned(kernel: Any, last: str = "start_engines") -> Planned:
    return plan(specialised(kernel), last, HOPPER, passes=PIPELINE)


def after(kernel: Any) -> Program:
    return planned(kernel).program


def launch_of(program: Program) -> Launch:
    return next(op for op in program.body.ops if isinstance(op, Launch))


def parents(program: Program) -> dict[Op, Op]:
    return {inner: op for op in walk(program.body) for b in op.regions for inner in b.ops}


def test_barriers_are_made_by_one_thread_before_all_roles() -> None:
    program = after(example("gemm_warp_specialized").pingpong)
    launch, around = launch_of(program), parents(program)
    made = [op for op in walk(launch.body) if isinstance(op, MbarrierInit)]
    assert [(op.barriers.hint, op.count) for op in made] == [
        ("full", 1),
        ("empty", 1),
        ("turn", 128),
    ]
    ops = list(launch.body.ops)
    branch = next(op for op in ops if isinstance(op, If))
    assert any(isinstance(op, MbarrierInitFence) for op in branch.then.ops)
    thread = next(op for op in ops if isinstance(op, ThreadId))
    assert thread.launched and isinstance(ops[ops.index(branch) + 1], Barrier)
    assert all(around[around[op]] is branch for op in made)
    assert all(isinstance(op, Role) for op in ops[ops.index(branch) + 2 :] if not op.terminator)


def test_a_copy_is_started_by_the_first_thread_of_its_role() -> None:
    program = after(example("gemm_warp_specialized").matmul)
    around = parents(program)
    copies = [op for op in walk(program.body) if isinstance(op, Copy) and op.instruction == "tma"]
    assert len(copies) == 6 and all(isinstance(around[op], If) for op in copies)


def test_whose_synchronisation_a_buffer_is() -> None:
    for name, kernel in (
        ("matmul", example("gemm_warp_specialized").matmul),
        ("met", hand_written.met),
    ):
        buffers = {
            op.result.hint: op.managed
            for op in walk(after(kernel).body)
            if isinstance(op, Alloc) and op.type.space is Space.SHARED and not op.arrivals
        }
        assert buffers.pop("A_s") and buffers.pop("B_s"), name
        assert not any(buffers.values()), f"{name}: {buffers}"


@pytest.mark.parametrize("kernel", [hand_written.copied, hand_written.met], ids=lambda k: k.name)
def test_what_threads_wrote_is_shown_before_they_arrive(kernel: Any) -> None:
    """In the role that writes, and in no other; what they copied asynchronously has landed."""
    launch = launch_of(after(kernel))
    fences = {}
    for role in launch.body.ops:
        if isinstance(role, Role):
            kinds = [type(op) for op in role.walk()]
            fences[role.label] = kinds.count(FenceProxyAsync)
            if CpAsyncWait in kinds:
                last = len(kinds) - 1 - kinds[::-1].index(CpAsyncWait)
                assert last < len(kinds) - 1 - kinds[::-1].index(FenceProxyAsync)
    assert fences["ws(0)"] >= 1 and fences["ws(1)"] == 0
    around = parents(after(kernel))
    for op, parent in around.items():
        if isinstance(op, (MbarrierArrive, Barrier)) and getattr(op, "barrier", 1):
            ops = next(b.ops for b in parent.regions if op in b.ops)
            before = ops[ops.index(op) - 1] if ops.index(op) else None
            role = parent
            while not isinstance(role, Role):
                role = around[role]
            assert isinstance(before, FenceProxyAsync) == (role.label == "ws(0)")


@tilec.kernel
def piped(A: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float32")):
    """A loop that asks for stages in a launch that has a barrier of its own."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((64, 16), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        full = T.alloc_barrier(128)
        T.clear(acc)
        for k in T.Pipelined(4, num_stages=2):
            T.copy(A[0, k * 16], S)
            T.gemm(S, S, acc, transpose_B=True)
        T.mbarrier_arrive(full)
        T.mbarrier_wait_parity(full, 0)
        T.copy(acc, C)


def test_nothing_is_planned_a_second_time() -> None:
    found = planned(piped, "lower_pipelines")
    assert "the program itself says when" in found.remark("TLC0310").message
    launch = launch_of(found.program)
    assert launch.explicit and not launch.persistent and not launch.in_turn
    assert launch.launched_threads == 128
    assert not any(isinstance(op, Role) for op in launch.body.ops)
