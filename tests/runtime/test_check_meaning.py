"""TILEC_CHECK=1 catches a pass that changes what a program means."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tilec import config
from tilec.errors import InternalError
from tilec.ir.core import Block, Op, Program, constant
from tilec.ir.dtypes import i32
from tilec.ir.ops.arith import element_dtype
from tilec.ir.ops.tile import Splat, StoreTile
from tilec.passes.context import Facts, PassContext
from tilec.passes.pipeline import PIPELINE, run_pipeline
from tilec.runtime import lowering
from tilec.runtime.check_meaning import MeaningCheck
from tilec.runtime.lowering import lower_program, standard_registry
from tilec.target import find_target

TARGET = find_target("cuda:sm_80")


def test_every_pass_to_load_once_is_compared() -> None:
    check = MeaningCheck(standard_registry(), seeds=(0,))
    context = PassContext(TARGET, standard_registry(), Facts())
    run_pipeline(kernels.gemm_nt.lower_to_ir(), context, observers=(check,))
    names = [p.__name__ for p in PIPELINE]
    planning = names[: names.index("load_once") + 1]
    assert set(check.checked) <= set(planning)
    assert {"promote_fragments", "plan_pipelines", "schedule_stages", "load_once"} <= set(
        check.checked
    )


def damaged(program: Program, make: Any) -> Program:
    """The program with every op passed through `make`."""

    def block(old: Block) -> Block:
        return old.with_ops([make(op.map_regions(block)) for op in old.ops])

    return program.with_body(block(program.body))


def starts_from_hundred(op: Op) -> Op:
    """What clears an accumulator sets it to 100 instead."""
    if isinstance(op, Splat):
        return op.replace(value=constant(100.0, element_dtype(op.value)))
    return op


def stores_a_row_lower(op: Op) -> Op:
    if isinstance(op, StoreTile):
        row = constant(1, i32)
        return op.replace(indices=(row, *op.indices[1:]))
    return op


@pytest.mark.parametrize(
    "fault", [starts_from_hundred, stores_a_row_lower], ids=lambda f: f.__name__
)
def test_a_wrong_pass_is_caught_by_name(monkeypatch: pytest.MonkeyPatch, fault: Any) -> None:
    def slips(program: Program, context: PassContext) -> Program:
        return damaged(program, fault)

    position = [p.__name__ for p in PIPELINE].index("plan_pipelines")
    wrong = (*PIPELINE[:position], slips, *PIPELINE[position:])

    def with_fault(program: Program, context: PassContext, **options: Any) -> Program:
        return run_pipeline(program, context, wrong, **options)

    monkeypatch.setattr(lowering, "run_pipeline", with_fault)
    program = kernels.gemm_nt.lower_to_ir()
    lower_program(program, TARGET)  # unchecked, nobody notices
    with config.scope(check="1"), pytest.raises(InternalError) as caught:
        lower_program(program, TARGET)
    assert caught.value.code == "TLC9002" and caught.value.exit_status == 70
    assert "pass slips changes what the program means" in caught.value.message


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "hip:gfx942"])
def test_right_passes_are_silent(target: str) -> None:
    with config.scope(check="1"):
        for kernel in (kernels.made_by_threads, kernels.mixed):
            assert lower_program(kernel.lower_to_ir(), find_target(target)).text


@tilec.kernel
def out_of_range(I: T.Tensor((4,), "int32"), C: T.Tensor((4,), "float32")):
    """At fault by itself for most contents of I: an index into shared memory."""
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((4,), "float32")
        T.clear(S)
        for i in T.Parallel(4):
            C[i] = S[I[i] * 100]


def test_a_program_at_fault_by_itself_blames_no_pass() -> None:
    with config.scope(check="1"):
        assert lower_program(out_of_range.lower_to_ir(), TARGET).text


def test_without_the_variable_nothing_is_interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("interpreted without TILEC_CHECK=1")

    monkeypatch.setattr("tilec.runtime.check_meaning.same_meaning", never)
    lower_program(kernels.gemm_nt.lower_to_ir(), TARGET)
    with config.scope(check="bounds"):
        lower_program(kernels.gemm_nt.lower_to_ir(), TARGET)
    with config.scope(check="1"), pytest.raises(AssertionError):
        lower_program(kernels.gemm_nt.lower_to_ir(), TARGET)
