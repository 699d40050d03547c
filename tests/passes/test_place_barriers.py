"""place_barriers: a barrier wherever threads exchange data, none where they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import specialised
from tilec.ir.core import Block, Op, Program, walk
from tilec.ir.ops.control import For, Launch, Role, While
from tilec.ir.ops.nvidia import CpAsync, CpAsyncCommit, CpAsyncWait, FenceProxyAsync
from tilec.ir.ops.thread import Barrier
from tilec.ir.print import print_program
from tilec.passes.context import Facts, PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.passes.place_barriers import _Placer
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

OUT = T.Tensor((128,), "float32")


def placed(
    kernel: Any, target: str = "cuda:sm_80", *, after: str = "place_barriers", **constants: Any
) -> Program:
    context = PassContext(find_target(target), standard_registry(), Facts())
    return run_pipeline(specialised(kernel, **constants), context, after=after)


def names(block: Block) -> list[str]:
    """The statements of a block and of the regions in it, in order; regions in brackets."""
    found: list[str] = []
    for op in block.ops:
        if op.regions:
            found.append(op.name + "[")
            for inner in op.regions:
                found.extend(names(inner))
            found.append("]")
        elif not op.pure and op.name not in ("yield", "alloc"):
            found.append(op.name)
    return found


def body(program: Program) -> list[str]:
    (launch,) = [op for op in program.body.ops if isinstance(op, Launch)]
    return names(launch.body)


def count(program: Program, kind: type[Op]) -> int:
    return sum(isinstance(op, kind) for op in walk(program.body))


# Tiles
# -------------------------------------------------------------------------------------------------


def test_a_gemm_without_a_pipeline(golden: Any) -> None:
    """Wait and barrier before the product reads, a barrier before the next copy overwrites."""
    program = placed(kernels.gemm_nt, stages=0)
    loop = next(op for op in walk(program.body) if isinstance(op, For))
    assert names(loop.body) == [
        "barrier", "copy", "copy", "cp_async_commit", "cp_async_wait", "barrier", "gemm",
    ]  # fmt: skip
    (wait,) = [op for op in walk(program.body) if isinstance(op, CpAsyncWait)]
    assert wait.pending == 0
    assert print_program(program) == golden("tir")


def test_copies_outside_of_pipelines_are_one_group() -> None:
    program = placed(kernels.gemm_nt, after="lower_tiles", stages=0)
    assert count(program, CpAsync) == 2
    assert count(program, CpAsyncCommit) == count(program, CpAsyncWait) == 1


def test_without_cp_async_there_is_nothing_to_wait_for() -> None:
    program = placed(kernels.gemm_nt, "hip:gfx942", stages=0)
    loop = next(op for op in walk(program.body) if isinstance(op, For))
    assert names(loop.body) == ["barrier", "copy", "copy", "barrier", "gemm"]
    assert not count(program, CpAsyncCommit) and not count(program, CpAsyncWait)


def test_what_threads_write_is_shown_to_wgmma() -> None:
    """written_twice: A_s is no channel; a product reads it after the threads' stores."""
    program = placed(kernels.written_twice, "cuda:sm_90a")
    (consumer, _) = [op for op in walk(program.body) if isinstance(op, Role)]
    flat = names(consumer.body)
    filled = flat.index("parallel[")
    shown = ["parallel[", "store", "]", "fence_proxy_async", "barrier", "gemm"]
    assert flat[filled : filled + 6] == shown
    meets = [op for op in walk(consumer.body) if isinstance(op, Barrier)]
    assert meets and all((op.barrier, op.threads) == (1, 128) for op in meets)
    assert count(program, FenceProxyAsync) >= 2


def test_channels_are_left_alone() -> None:
    """Their barriers are lower_pipelines' own: the plain GEMM has one a step."""
    program = placed(kernels.gemm_nt)
    (loop,) = [op for op in walk(program.body) if isinstance(op, For)]
    assert names(loop.body).count("barrier") == 1


@tilec.kernel
def loaded_before(A: kernels.IN, B: kernels.IN, C: kernels.OUT, stages: int = 2):
    """A_s is filled before the loop that reads it in every iteration."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.copy(A[0, 0], A_s)
        for k in T.Pipelined(T.ceildiv(B.shape[0], 64), num_stages=stages):
            T.copy(B[k * 64, 0], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[0, 0])


@pytest.mark.parametrize(
    ("target", "stages", "inside"),
    [("cuda:sm_80", 2, 1), ("cuda:sm_80", 0, 2), ("cuda:sm_90a", 2, 0), ("hip:gfx942", 2, 1)],
)
def test_threads_meet_once_for_what_stands_before_a_loop(
    target: str, stages: int, inside: int
) -> None:
    """In the loop there are only the barriers of its own buffer."""
    program = placed(loaded_before, target, stages=stages)
    loops = [op for op in walk(program.body) if isinstance(op, For)]
    (loop,) = [x for x in loops if any(op.name == "gemm" for op in x.body.ops)]
    assert names(loop.body).count("barrier") == inside


# Threads
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def own_elements(A: OUT):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((256,), "float32")
        t = T.get_thread_binding()
        for i in T.serial(2):
            S[i * 128 + t] = 1
        for i in T.serial(2):
            if t < 100 - i:
                S[i * 128 + t] = S[i * 128 + t] + 1
        A[t] = S[128 + t]


@tilec.kernel
def exchange(A: OUT):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        A[t] = S[127 - t]


@tilec.kernel
def carried(A: OUT, n: T.int32):
    """Written after it is read in every iteration: a barrier before each."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        for _ in T.serial(n):
            x = S[127 - t]
            S[t] = x * 2
        A[t] = S[127 - t]


@tilec.kernel
def under_a_condition(A: OUT):
    """The threads part only after they have met."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        S[t] = A[t]
        if t < 64:
            A[t] = S[127 - t]


@tilec.kernel
def uniform_condition(A: OUT, n: T.int32):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((128,), "float32")
        t = T.get_thread_binding()
        if n > 3:
            S[t] = A[t]
            A[t] = S[127 - t]


@tilec.kernel
def while_reading(A: OUT):
    """The condition reads shared memory that the body writes."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((1,), "float32")
        t = T.get_thread_binding()
        if t == 0:
            S[0] = 0
        while S[0] < 3:
            if t == 0:
                S[0] = S[0] + 1
        A[t] = S[0]


def test_elements_of_one_thread_need_no_barrier() -> None:
    assert not count(placed(own_elements), Barrier)


def test_an_exchange_needs_one() -> None:
    assert body(placed(exchange)) == ["simt[", "load", "store", "barrier", "load", "store", "]"]


def test_a_loop_sees_what_it_leaves_open() -> None:
    assert body(placed(carried)) == [
        "simt[", "load", "store",
        "for[", "barrier", "load", "barrier", "store", "]",
        "barrier", "load", "store", "]",
    ]  # fmt: skip


def test_threads_meet_before_they_part() -> None:
    assert body(placed(under_a_condition)) == [
        "simt[", "load", "store", "barrier", "if[", "load", "store", "]", "]",
    ]  # fmt: skip


def test_all_threads_take_a_uniform_branch() -> None:
    assert body(placed(uniform_condition)) == [
        "simt[", "if[", "load", "store", "barrier", "load", "store", "]", "]",
    ]  # fmt: skip


def test_a_condition_that_reads_shared_memory_is_a_statement() -> None:
    program = placed(while_reading)
    (loop,) = [op for op in walk(program.body) if isinstance(op, While)]
    assert names(loop.condition) == ["barrier", "load"]
    # before thread 0 writes, the others have read the condition
    assert names(loop.body)[:2] == ["barrier", "if["]


@tilec.kernel
def written_behind(A: OUT):
    """All that the loop leaves behind is a condition that not every thread has read."""
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((1,), "float32")
        t = T.get_thread_binding()
        if t == 0:
            S[0] = 0
        T.sync_threads()
        while S[0] < 3:
            T.sync_threads()
            if t == 0:
                S[0] = S[0] + 1
            T.sync_threads()
        if t == 0:
            S[0] = 5
        T.sync_threads()
        A[t] = S[0]


def test_a_condition_is_the_last_that_a_loop_reads() -> None:
    flat = body(placed(written_behind))
    assert flat[flat.index("while[") :] == [
        "while[", "load", "barrier", "if[", "load", "store", "]", "barrier", "]",
        "barrier", "if[", "store", "]", "barrier", "load", "store", "]",
    ]  # fmt: skip
    A = np.full(128, 7, np.float32)
    written_behind(A, device="emulator:cuda:sm_80")
    np.testing.assert_array_equal(A, 5)


@tilec.kernel
def nest_of_loops(A: OUT, n: T.int32):
    with T.Kernel(1, threads=128):
        for a in T.serial(n):
            for b in T.serial(n):
                for c in T.serial(n):
                    for d in T.serial(n):
                        for e in T.serial(n):
                            for f in T.serial(n):
                                A[a + b + c] = A[d + e + f] + 1


def test_a_nest_takes_time_in_proportion_to_its_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = []
    turn = _Placer._turn
    monkeypatch.setattr(_Placer, "_turn", lambda *of: turns.append(of) or turn(*of))
    assert count(placed(nest_of_loops), Barrier) == 2
    assert len(turns) < 60


@tilec.kernel
def shown(A: OUT, F: T.Tensor((4,), "int32"), n: T.int32):
    """What all threads store one shows; what one acquires all load."""
    with T.Kernel(4, threads=128) as b:
        t = T.get_thread_binding()
        A[b * 128 + t] = 1
        if t == 0:
            T.atomic_add(F[b], 1, "release")
            while T.atomic_load(F[n], "acquire") == 0:
                pass
        A[n * 128 + t] = A[n * 128 + t] + 1


@tilec.kernel
def shown_by_each(A: OUT, F: T.Tensor((128,), "int32")):
    """Each thread orders its own accesses: nobody has to meet."""
    with T.Kernel(4, threads=128) as b:
        t = T.get_thread_binding()
        if t < 64:
            A[b * 128 + t] = 1
            T.atomic_store(F[t], 1, "release")


def test_threads_meet_around_what_one_of_them_orders() -> None:
    program = placed(shown)
    assert body(program) == [
        "simt[", "store", "barrier", "if[", "atomic", "while[", "atomic", "]", "]",
        "barrier", "load", "store", "]",
    ]  # fmt: skip
    barriers = [op for op in walk(program.body) if isinstance(op, Barrier)]
    assert [op.stores for op in barriers] == [True, False]
    assert not count(placed(shown_by_each), Barrier)
