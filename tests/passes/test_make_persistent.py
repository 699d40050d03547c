"""make_persistent: resident blocks for launches that TMA feeds, rasters for those that ask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes import planned_kernels as kernels
from tests.passes.planning import REGISTRY, Planned, keeps_meaning, plan, specialised
from tilec.interpreter import run_program
from tilec.ir.core import constant_of
from tilec.ir.ops.arith import Select
from tilec.ir.ops.control import For, HardwareBlock, Launch
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.pipeline import Channel, Pipeline


@tilec.kernel
def stamped(C: T.Tensor((6, 5, 2), "int32"), panel: int = 0, order: str = "row"):
    """Every block adds its number to an element of its own."""
    with T.Kernel(5, 6, 2, threads=32) as (bx, by, bz):
        if panel:
            T.use_swizzle(panel_size=panel, order=order)
        for _ in T.Parallel(1):
            C[by, bx, bz] = C[by, bx, bz] + (bz * 6 + by) * 5 + bx


@tilec.kernel
def pinned(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", 64), "float32")):
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128, persistent=False) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def one_row_of_loads(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", "N"), "float32")):
    """What a block loads follows its row of the grid alone: columns share it, rows share nothing."""
    M, N, K = A.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def in_a_chain(
    A: T.Tensor(("M", "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    done: T.Tensor((1,), "int32"),
    wait: bool = True,
):
    """Each block adds itself to the count, if so once those before it have."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
            T.copy(A[bx * 64, k * 32], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])
        if T.get_thread_binding() == 0:
            if wait:
                while T.atomic_load(done[0], "acquire") < bx:
                    pass
            T.atomic_add(done[0], 1, "release")


@tilec.kernel
def triangle(
    A: T.Tensor(("M", "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    ends: T.Tensor(("M",), "int32"),
    kind: str = "all",
    wanted: bool | None = None,
):
    """Blocks whose loops are alike ("all", "prologue"), or follow from the block."""
    M, K = A.shape[0], A.shape[1]
    with T.Kernel(T.ceildiv(M, 64), 2, threads=128, persistent=wanted) as (bx, by):
        A_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        if kind == "prologue":
            for i in T.serial(bx):
                C[bx * 64, i] = 0.0
        first = 0
        if kind == "by_start":
            first = bx
        steps = T.ceildiv(K, 32)
        if kind == "causal":
            steps = T.min(bx + 1, steps)
        elif kind == "by_data":
            steps = T.ceildiv(ends[by], 32)
        if kind == "guarded":
            if ends[bx] > 0:
                for k in T.Pipelined(steps, num_stages=3):
                    T.copy(A[bx * 64, k * 32], A_s)
                    T.gemm(A_s, A_s, acc, transpose_B=True)
        else:
            for k in T.Pipelined(first, steps, num_stages=3):
                T.copy(A[bx * 64, k * 32], A_s)
                T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


def persistent(kernel: Any, target: str = "cuda:sm_90a", **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "make_persistent", target)


@pytest.mark.parametrize("wait", [False, True])
def test_blocks_that_wait_for_each_other_are_all_there(wait: bool) -> None:
    launch = persistent(in_a_chain, wait=wait).one(Launch)
    assert launch.in_turn is not wait


@pytest.mark.parametrize(
    ("kind", "even"),
    [("all", True), ("prologue", True), ("causal", False), ("by_start", False), ("by_data", False),
     ("guarded", False)],
)  # fmt: skip
def test_blocks_of_different_work_are_given_out_by_the_gpu(kind: str, even: bool) -> None:
    result = persistent(triangle, kind=kind)
    assert result.one(Launch).in_turn is even
    assert ("TLC0321" in result.codes, "TLC0337" in result.codes) == (even, not even)
    if not even:
        assert "differs" in result.remark("TLC0337").message
    for wanted in (True, False):
        result = persistent(triangle, kind=kind, wanted=wanted)
        assert result.one(Launch).in_turn is wanted and "TLC0337" not in result.codes


def test_a_launch_fed_by_tma_walks_the_grid() -> None:
    result = persistent(kernels.gemm_nt)
    launch = result.one(Launch)
    assert launch.in_turn and launch.resident == 1
    memory = [op for op in launch.body.ops if isinstance(op, (Alloc, Channel))]
    assert memory == list(launch.body.ops[: len(memory)]), "memory is made once, outside the walk"
    walk = next(op for op in launch.body.ops if isinstance(op, For))
    first, count = result.all(HardwareBlock)
    assert (walk.start, walk.step) == (first.result, count.result) and count.count
    assert any(isinstance(op, Pipeline) for op in walk.walk())
    assert "resident blocks" in result.remark("TLC0321").message


@pytest.mark.parametrize("kernel", [kernels.gemm_nt, kernels.two_gemms], ids=lambda k: k.name)
def test_the_meaning_stays(kernel: Any) -> None:
    keeps_meaning(kernel.lower_to_ir(), persistent(kernel).program)


@pytest.mark.parametrize(
    ("kernel", "target"),
    [(kernels.gemm_nt, "cuda:sm_80"), (kernels.gemm_nt, "hip:gfx942"), (pinned, "cuda:sm_90a")],
    ids=["sm_80", "gfx942", "persistent=False"],
)
def test_other_launches_keep_a_block_for_each(kernel: Any, target: str) -> None:
    result = persistent(kernel, target)
    assert not result.one(Launch).in_turn
    assert not result.all(HardwareBlock) and "TLC0321" not in result.codes


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("panel", [1, 2, 4, 10])
def test_a_raster_runs_every_block_once(panel: int, order: str) -> None:
    result = persistent(stamped, "cuda:sm_80", panel=panel, order=order)
    seen = np.zeros((6, 5, 2), np.int32)
    run_program(result.program, {"C": seen}, registry=REGISTRY)
    y, x, z = np.indices(seen.shape)
    assert np.array_equal(seen, (z * 6 + y) * 5 + x)
    assert persistent(stamped, "cuda:sm_80").text != result.text


def test_panels_are_for_grids_whose_axes_both_share_loads() -> None:
    assert persistent(kernels.gemm_nt, "cuda:sm_80").one(Launch).panel > 0
    result = persistent(one_row_of_loads, "cuda:sm_80")
    assert result.one(Launch).panel == 0 and "floormod" not in result.text
    keeps_meaning(one_row_of_loads.lower_to_ir(), persistent(one_row_of_loads).program)


@tilec.kernel
def in_panels(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
              C: T.Tensor(("M", "N"), "float32"), panel: int = 0, rows: int = 1):  # fmt: skip
    """A product by clusters of some rows of blocks."""
    M, N, K = A.shape[0], C.shape[1], A.shape[1]
    grid = (T.ceildiv(N, 64), T.ceildiv(M, 64))
    with T.Kernel(*grid, threads=128, cluster=(1, rows)) as (bx, by):
        if panel:
            T.use_swizzle(panel)
        A_s, B_s = T.alloc_shared((64, 32), "float16"), T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(A[by * 64, k * 32], A_s)
            T.copy(B[bx * 64, k * 32], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, bx * 64])


@pytest.mark.parametrize(
    ("panel", "rows", "heights"), [(0, 1, (8, 16)), (0, 2, (4, 8)), (6, 1, ()), (6, 4, ())]
)
def test_panels_of_one_wave_are_half_as_high(
    panel: int, rows: int, heights: tuple[int, ...]
) -> None:
    """One H200, 1000 x 1000 x 4096 by tiles of 64 x 128: 19.7 us in panels of 16 rows, 17.9 of 8."""
    result = persistent(in_panels, panel=panel, rows=rows)
    found = [(constant_of(op.x), constant_of(op.y)) for op in result.all(Select) if op.result.hint]
    assert found == ([heights] if heights else [])
    keeps_meaning(specialised(in_panels, panel=panel, rows=rows), result.program)


def test_golden(golden: Any) -> None:
    assert persistent(kernels.gemm_nt).text == golden("tir")
