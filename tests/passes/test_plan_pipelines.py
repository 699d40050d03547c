"""plan_pipelines: which statements are stages, which buffers are channels, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.legs import every_leg
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, line_of, plan, specialised
from tilec.ir.core import Op, constant, walk
from tilec.ir.dtypes import i32
from tilec.ir.ops.control import For, If, Simt
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Alloc, Load
from tilec.ir.ops.pipeline import Channel, Commit, Free, Get, Pipeline, Put, Stage
from tilec.ir.ops.tile import Copy
from tilec.ir.types import MemoryType
from tilec.passes.plan_pipelines import MADE_SLOTS


def planned(kernel: Any, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "plan_pipelines")


def stages(result: Planned) -> dict[str, list[str]]:
    """The ops with effects of every stage, by its label."""
    return {
        s.label: [op.name for op in s.body.ops if not op.pure and op.name != "yield"]
        for s in result.all(Stage)
    }


def slots(result: Planned) -> dict[str, int]:
    return {c.label: c.type.slots for c in result.all(Channel)}


def buffers(result: Planned) -> list[str]:
    """Shared buffers that stayed what they were."""
    return [op.result.hint for op in result.all(Alloc) if isinstance(op.result.type, MemoryType)]


@pytest.mark.parametrize("kernel", kernels.ALL, ids=lambda k: k.name)
def test_the_meaning_stays(kernel: Any) -> None:
    keeps_meaning(kernel.lower_to_ir(), planned(kernel).program)


@pytest.mark.parametrize(
    "kernel", [kernels.gemm_nt, kernels.made_by_threads, kernels.from_table], ids=lambda k: k.name
)
def test_golden(kernel: Any, golden: Any) -> None:
    assert planned(kernel).text == golden("tir")


def test_every_put_is_committed_and_every_get_freed() -> None:
    for kernel in kernels.ALL:
        for stage in planned(kernel).all(Stage):
            for opened, closed in ((Put, Commit), (Get, Free)):
                first = [op.channel for op in stage.body.ops if isinstance(op, opened)]
                last = [op.channel for op in stage.body.ops if isinstance(op, closed)]
                assert sorted(map(id, first)) == sorted(map(id, last)), kernel.name
                assert len(set(first)) == len(first)


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_the_gemm_is_a_load_and_a_product(depth: int) -> None:
    result = planned(kernels.gemm_nt, stages=depth)
    assert stages(result) == {
        "load": ["put", "copy", "commit", "put", "copy", "commit"],
        "mma": ["get", "get", "gemm", "free", "free"],
    }
    assert slots(result) == {"A_s": depth, "B_s": depth}
    assert not buffers(result) and not result.remarks
    assert [s.lead for s in result.all(Stage)] == [0, 0]


def test_what_threads_prepare_is_a_stage_of_its_own() -> None:
    result = planned(kernels.made_by_threads)
    assert list(stages(result)) == ["load", "make", "mma"]
    assert slots(result) == {"A_s": 3, "D_s": MADE_SLOTS}
    make = next(s for s in result.all(Stage) if s.label == "make")
    assert any(isinstance(op, Simt) for op in make.body.ops)


def test_a_buffer_used_after_the_loop_stays_a_buffer() -> None:
    result = planned(kernels.used_after)
    assert slots(result) == {"B_s": 3} and buffers(result) == ["A_s"]
    assert stages(result)["mma"] == ["copy", "get", "gemm", "free"]


def test_a_buffer_written_twice_in_part_stays_a_buffer() -> None:
    result = planned(kernels.written_twice)
    assert slots(result) == {"B_s": 3} and buffers(result) == ["A_s"]
    # one get for the two products, freed after the last of them
    assert stages(result)["mma"] == ["copy", "get", "gemm", "parallel", "gemm", "free"]


def test_parts_that_are_all_loaded_make_a_channel() -> None:
    """A loop of copies is so many copies; what threads fill in part they fill in the product's stage."""
    result = planned(kernels.in_parts)
    assert slots(result) == {"A_s": 3, "B_s": 3} and not buffers(result)
    parts = ["load", "load", "put", "copy", "copy", "commit"]
    assert sorted(stages(result)["load"]) == sorted([*parts, *parts[2:]])
    result = planned(kernels.in_parts, filled=True)
    assert slots(result) == {"A_s": 3} and buffers(result) == ["B_s"]
    assert sorted(stages(result)["load"]) == sorted(parts)


def test_two_products_of_one_buffer_are_one_stage() -> None:
    result = planned(kernels.two_gemms)
    assert stages(result)["mma"] == ["get", "get", "gemm", "free", "gemm", "free"]
    (loop,) = result.all(Pipeline)
    assert len(loop.results) == 2


def test_memory_that_two_stages_would_share_makes_them_one() -> None:
    """A global tensor written and read in an iteration: the stages must not run apart."""
    result = planned(kernels.through_global)
    assert list(stages(result)) == ["load", "mma"]


@pytest.mark.parametrize("shared", [False, True])
def test_memory_that_the_loop_only_reads_keeps_none_together(shared: bool) -> None:
    result = planned(kernels.window, shared=shared)
    assert list(stages(result)) == ["load", "mma"] and slots(result) == {"A_s": 3}


@pytest.mark.emulator
@pytest.mark.parametrize("shared", [False, True])
def test_rows_from_one_on_that_a_variable_says(shared: bool) -> None:
    for M, n in ((200, 7), (65, 1), (64, 64), (1, -3)):
        A = np.random.default_rng(M).integers(-2, 3, (M, 32)).astype(np.float16)
        wide, expected, first = A.astype(np.float32), np.zeros((M, 64), np.float32), max(n, 0)
        for row in range(first, M, 64):
            tile = wide[row : row + 64]
            expected[row : row + 64, : len(tile)] = tile @ tile.T
        for device, (_, C, _) in every_leg(
            kernels.window, A, np.zeros((M, 64), np.float32), n, shared=shared
        ):
            np.testing.assert_array_equal(C, expected, f"{device} {M, n}")


def test_a_buffer_in_two_uses_makes_one_stage_and_no_channel() -> None:
    result = planned(kernels.covered_in_half)  # A_s is read by the threads and by the gemm
    assert list(stages(result)) == ["load", "mma"] and buffers(result) == ["D_s"]


def test_a_buffer_not_covered_has_one_slot() -> None:
    result = planned(kernels.half_made)
    assert list(stages(result)) == ["load", "make", "mma"]
    assert slots(result) == {"A_s": 3, "D_s": 1}


def test_a_condition_stays_within_its_stage() -> None:
    result = planned(kernels.guarded)
    mma = next(s for s in result.all(Stage) if s.label == "mma")
    names = [op.name for op in mma.body.ops]
    assert names.index("get") < names.index("if") < names.index("free")
    (branch,) = [op for op in mma.body.ops if isinstance(op, If)]
    assert any(isinstance(op, Gemm) for op in walk(branch.then))


def test_addresses_from_a_table_go_with_the_load() -> None:
    result = planned(kernels.from_table)
    load, mma = result.all(Stage)
    assert any(isinstance(op, Load) for op in load.body.ops)
    assert not any(isinstance(op, Load) for op in mma.body.ops)
    (loop,) = result.all(Pipeline)
    assert loop.stop.hint == "n"


def test_of_nested_loops_the_inner_one_is_planned() -> None:
    result = planned(kernels.nested)
    (loop,) = result.all(Pipeline)
    outer = next(op for op in result.all(For) if any(x is loop for x in op.walk()))
    assert outer.kind == "serial" and outer.stages == 0
    assert result.remark("TLC0310").message.endswith("a loop inside it is pipelined")


# What is not planned, and why
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kernel",
    [kernels.no_load, kernels.address_from_shared, kernels.carried_address],
    ids=lambda k: k.name,
)
def test_a_loop_without_a_load_of_its_own_is_serial_and_remarked(kernel: Any) -> None:
    result = planned(kernel)
    assert not result.all(Pipeline) and not result.all(Channel)
    assert all(op.kind == "serial" for op in result.all(For))
    remark = result.remark("TLC0310")
    assert "only loads a buffer of its own" in remark.message
    assert "T.Pipelined" in line_of(remark.loc)


def test_loads_in_a_branch_are_named() -> None:
    result = planned(kernels.loaded_in_a_branch)
    assert not result.all(Pipeline)
    assert "its loads stand in a branch" in result.remark("TLC0310").message


def test_no_stages_asked_for_is_no_remark() -> None:
    result = planned(kernels.gemm_nt, stages=0)
    assert not result.all(Pipeline) and not result.remarks
    assert buffers(result) == ["A_s", "B_s"]


def test_a_step_other_than_one_is_refused() -> None:
    program = kernels.gemm_nt.lower_to_ir()

    def twos(op: Op) -> Op:
        if isinstance(op, For):
            return op.replace(step=constant(2, i32))
        return op.map_regions(lambda b: b.with_ops([twos(o) for o in b.ops]))

    body = program.body
    result = plan(program.with_body(body.with_ops([twos(o) for o in body.ops])), "plan_pipelines")
    assert result.remark("TLC0310").message.endswith("its step is not 1")
    assert len(result.all(Copy)) == 2 and not result.all(Stage)
