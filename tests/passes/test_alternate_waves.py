"""alternate_waves: where the halves of a block take turns, where not and why; that every barrier of the
form is needed, and that they suffice, for the checker of hazards."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import specialised
from tests.passes.test_check_exchanges import changed
from tests.passes.test_check_hazards import check_each_pass
from tilec.errors import HazardError
from tilec.ir.core import Op, Program, walk
from tilec.ir.ops.amd import BufferCopyWait, Mfma, SetPriority
from tilec.ir.ops.control import For, If
from tilec.ir.ops.thread import Barrier
from tilec.passes.check_hazards import CHECKS, check_halves
from tilec.passes.context import PassContext, Remark
from tilec.passes.pipeline import run_pipeline
from tilec.passes.spread_copies import holds
from tilec.runtime.lowering import standard_registry
from tilec.target import TARGETS, find_target

AMD = tuple(name for name in TARGETS if name.startswith("hip"))
TILE = {"bm": 256, "bn": 128, "bk": 32, "threads": 512}


def run(target: str, program: Program, after: str = "alternate_waves") -> tuple[Program, str]:
    """The program behind the pass, and its remark on the form that was chosen."""
    remarks: list[Remark] = []
    context = PassContext(find_target(target), standard_registry(), remark=remarks.append)
    lowered = run_pipeline(program, context, after=after)
    return lowered, "; ".join(r.message for r in remarks if r.code == "TLC0335")


@cache
def alternating(target: str, **constants: Any) -> Program:
    program, form = run(target, specialised(kernels.gemm_nt, **TILE, **constants))
    assert form.startswith("8 waves in ping-pong, 4 multiply while 4 load"), form
    return program


def context(target: str) -> PassContext:
    return PassContext(find_target(target), standard_registry())


def barriers(program: Program) -> list[Op]:
    return [op for op in walk(program.body) if isinstance(op, Barrier)]


def barriers_of_the_form(program: Program) -> list[Op]:
    """Before the loop; of one half; twice around products; of the other half."""
    return barriers(program)[:5]


@pytest.mark.parametrize("target", AMD)
def test_the_form(target: str) -> None:
    """A barrier before the loop, one of each half around it, two around the products; the loop's own
    is gone, and its wait for copies stands in the last step before the products."""
    program = alternating(target)
    (loop,) = (
        op
        for op in walk(program.body)
        if isinstance(op, For) and op.unroll == 1 and holds(op, Mfma)
    )
    (steps,) = (op for op in loop.body.ops if holds(op, Mfma))
    assert isinstance(steps, For)
    kinds = [
        "barrier" if isinstance(op, Barrier) else "products" if holds(op, Mfma) else
        "wait" if holds(op, BufferCopyWait) else ""
        for op in steps.body.ops
    ]  # fmt: skip
    waits = ["wait"] if target == "hip:gfx950" else []
    assert [k for k in kinds if k] == [*waits, "barrier", "products", "barrier"]
    assert sum(holds(op, Barrier) for op in loop.body.ops) == 1
    around = [op for op in walk(program.body) if isinstance(op, If) and holds(op, Barrier)]
    assert [len(op.then.ops) for op in around] == [2, 2]
    lowered, _ = run(target, specialised(kernels.gemm_nt, **TILE), after="interleave_reads")
    assert [op.priority for op in walk(lowered.body) if isinstance(op, SetPriority)] == [1, 0]


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("stages", [2, 3, 4])
def test_barriers_suffice_and_each_is_needed(target: str, stages: int) -> None:
    program = alternating(target, stages=stages)
    assert check_halves(program, context(target)) is program
    for barrier in barriers_of_the_form(program):
        with pytest.raises(HazardError) as caught:
            check_halves(changed(program, barrier), context(target))
        assert caught.value.code in ("TLC0353", "TLC0357"), caught.value
        assert (
            caught.value.loc.known
            and caught.value.hint.startswith("found with")
            or (caught.value.code == "TLC0357")
        )


@pytest.mark.parametrize("stages", [3, 4])
def test_a_wait_that_is_missing_or_too_weak_is_found(stages: int) -> None:
    program = alternating("hip:gfx950", stages=stages)
    waits = [op for op in walk(program.body) if isinstance(op, BufferCopyWait)]
    assert len(waits) == 2
    for wait in waits:
        weak = wait.replace(pending=wait.pending + 1)
        for new in ((), (weak,)):
            with pytest.raises(HazardError, match="no barrier orders that with"):
                check_halves(changed(program, wait, new), context("hip:gfx950"))


@pytest.mark.parametrize("target", AMD)
def test_checks_pass_after_each_pass(target: str) -> None:
    program = specialised(kernels.gemm_nt, **TILE)
    assert check_each_pass(program, target) == list(CHECKS)


@tilec.kernel
def guarded(A: kernels.IN, mask: T.Tensor(("P",), "int32"), C: T.Tensor(("M", 128), "float32")):
    with T.Kernel(T.ceildiv(A.shape[0], 256), threads=512) as bx:
        A_s, B_s = T.alloc_shared((256, 32), "float16"), T.alloc_shared((128, 32), "float16")
        acc = T.alloc_fragment((256, 128), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=2):
            T.copy(A[bx * 256, k * 32], A_s)
            T.copy(A[bx * 128, k * 32], B_s)
            if mask[k] > 3:
                T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 256, 0])


@tilec.kernel
def logged(A: kernels.IN, C: T.Tensor(("M", 128), "float32"), L: T.Tensor(("P",), "int32")):
    with T.Kernel(T.ceildiv(A.shape[0], 256), threads=512) as bx:
        A_s, B_s = T.alloc_shared((256, 32), "float16"), T.alloc_shared((128, 32), "float16")
        acc = T.alloc_fragment((256, 128), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=2):
            T.copy(A[bx * 256, k * 32], A_s)
            T.copy(A[bx * 128, k * 32], B_s)
            L[k] = k
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 256, 0])


REFUSED = {
    "one slot": (kernels.gemm_nt, {**TILE, "stages": 1}, "so it needs another slot"),
    "no pipeline": (kernels.gemm_nt, {**TILE, "stages": 0}, "so it needs another slot"),
    "small tile": (kernels.gemm_nt, {**TILE, "bm": 64, "bn": 64}, "less time than its reads"),
    "condition": (guarded, {}, "a product stands under a condition"),
    "global": (logged, {}, "the loop writes global memory"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name: str) -> None:
    kernel, constants, why = REFUSED[name]
    program, form = run("hip:gfx942", specialised(kernel, **constants))
    assert form.startswith("8 waves go in step: ") and why in form
    before, _ = run("hip:gfx942", specialised(kernel, **constants), after="lower_tiles")
    assert program.body is before.body or str(barriers(program)) == str(barriers(before))


@pytest.mark.parametrize("threads", [64, 256, 1024])
def test_other_numbers_of_waves_are_left_alone(threads: int) -> None:
    program, form = run("hip:gfx942", specialised(kernels.gemm_nt, **{**TILE, "threads": threads}))
    assert not form
    assert not any(isinstance(op, If) and holds(op, Barrier) for op in walk(program.body))


def test_other_machines_are_left_alone() -> None:
    program, form = run("cuda:sm_80", specialised(kernels.gemm_nt, **TILE))
    assert not form and len(barriers(program)) > 0
    assert not any(isinstance(op, If) and holds(op, Barrier) for op in walk(program.body))
