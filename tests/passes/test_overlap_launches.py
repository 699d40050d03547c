"""overlap_launches: launches that TMA feeds wait for the one before them themselves, in front of all that
reaches global memory; those whose blocks are done soon let the next one begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.programs import gemm
from tests.kernels.test_vendor_compilers import check_waits_first, sass
from tests.passes.planning import found
from tilec.ir.core import Program
from tilec.ir.ops.control import If, Launch, Role
from tilec.ir.ops.nvidia import LaunchDependents, WaitGrids
from tilec.runtime.driver import lower
from tilec.runtime.lowering import Lowered, lower_program
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

F16 = "float16"
HOPPER = "cuda:sm_90a"
TILE = {"block_M": 64, "block_N": 64, "block_K": 32, "threads": 128, "stages": 3}


@tilec.kernel
def copied(A: T.Tensor(("M", 64), F16), C: T.Tensor(("M", 64), F16)):
    """Threads alone read the tensor."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as b:
        for i, j in T.Parallel(64, 64):
            C[b * 64 + i, j] = A[b * 64 + i, j] + 1


@tilec.kernel
def chosen_rows(
    A: T.Tensor(("M", 64), F16), table: T.Tensor((4,), "int32"), C: T.Tensor((256, 64), F16)
):
    """How many steps there are is read before the first tile is copied."""
    with T.Kernel(4, threads=128) as b:
        A_s = T.alloc_shared((64, 64), F16)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(table[b], num_stages=2):
            T.copy(A[k * 64, 0], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[b * 64, 0])


@tilec.kernel
def named_row(
    A: T.Tensor(("M", 64), F16), table: T.Tensor((1,), "int32"), C: T.Tensor((64, 64), F16)
):
    """All threads read which tile one of them has copied."""
    with T.Kernel(1, threads=128):
        A_s = T.alloc_shared((64, 64), F16)
        full = T.alloc_barrier(128)
        T.tma_copy(A[table[0] * 64, 0], A_s, barrier=full)
        T.mbarrier_arrive(full)
        T.mbarrier_wait_parity(full, 0)
        T.copy(A_s, C)


@tilec.kernel
def scaled(
    A: T.Tensor(("M", "K"), F16), B: T.Tensor(("N", "K"), F16), x: T.Tensor(("N",), F16),
    s: T.Tensor((1,), "float32"), C: T.Tensor(("M", "N"), F16),
):  # fmt: skip
    """A product with numbers of its columns, and one of all."""
    with T.Kernel(T.ceildiv(B.shape[0], 64), T.ceildiv(A.shape[0], 64), threads=128) as (bx, by):
        A_s, B_s = T.alloc_shared((64, 64), F16), T.alloc_shared((64, 64), F16)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 64), num_stages=3):
            T.copy(A[by * 64, k * 64], A_s)
            T.copy(B[bx * 64, k * 64], B_s)
            T.gemm(A_s, B_s, acc, transpose_B=True)
        for i, j in T.Parallel(64, 64):
            acc[i, j] = acc[i, j] * s[0] + x[bx * 64 + j]
        T.copy(acc, C[by * 64, bx * 64])


@tilec.kernel
def doubled(A: T.Tensor((64,), F16), C: T.Tensor((64,), F16)):
    """The first role touches no tensor."""
    with T.Kernel(1, threads=160):
        a = T.alloc_shared((64,), F16)
        full, done = T.alloc_barrier(32), T.alloc_barrier(128)
        with T.ws(0):
            T.mbarrier_wait_parity(full, 0)
            for i in T.Parallel(64):
                a[i] = a[i] * 2
            T.mbarrier_arrive(done)
        with T.ws(1):
            T.tma_copy(A, a, barrier=full)
            T.mbarrier_arrive(full)
            T.mbarrier_wait_parity(done, 0)
            T.tma_copy(a, C)
            T.tma_store_arrive()
            T.tma_store_wait(0, False)


def launches(program: Program) -> list[Launch]:
    return found(program, Launch)


def body_of(variant: Lowered, name: str) -> str:
    return variant.text[variant.text.rindex(f" {name}(") :]


def test_a_launch_that_tma_feeds_waits_behind_its_mbarriers() -> None:
    lowered = lower(gemm(), (), HOPPER, TILE)
    for variant in lowered.variants:
        (launch,) = launches(variant.program)
        assert len([op for op in launch.body.ops if isinstance(op, WaitGrids)]) == 1
        assert [spec.early for spec in variant.variant.launches] == [True]
        text = body_of(variant, "matmul_kernel")
        assert text.index("mbarrier_init_fence") < text.index("wait_grids()") < text.index("role ")


def test_the_wait_stands_in_front_of_a_role_that_touches_no_tensor() -> None:
    (launch,) = launches(
        lower_program(doubled.trace({}), find_target(HOPPER), checked=True).program
    )
    kinds = [type(op) for op in launch.body.ops]
    assert kinds.index(WaitGrids) < kinds.index(Role)


@pytest.mark.parametrize("kernel", [gemm(), copied], ids=["gemm", "copied"])
def test_other_launches_stay(kernel: Any) -> None:
    targets = ["cuda:sm_80", "hip:gfx942", *([HOPPER] if kernel is copied else [])]
    for target in targets:
        lowered = lower(kernel, (), target, {} if kernel is copied else TILE)
        assert "wait_grids" not in lowered.source
        assert [spec.early for spec in lowered.manifest.variants[0].launches] == [False]


def test_what_is_read_in_front_of_the_roles_is_waited_for() -> None:
    text = body_of(lower(chosen_rows, (), HOPPER, {}).lowered, "chosen_rows_kernel")
    assert text.index("wait_grids()") < text.index("table[")
    assert "launch_dependents" not in text  # nobody knows how long its blocks are


@pytest.mark.parametrize("kernel", [chosen_rows, named_row], ids=["role", "block"])
def test_no_load_is_of_what_never_changes_but_in_a_role(kernel: Any) -> None:
    """The C compiler moves loads through restricted pointers anywhere but out of a branch."""
    text = lower(kernel, (), HOPPER, {}).source
    assert "wait_grids();" in text
    assert ("const i32* __restrict__ table" in text) == (kernel is chosen_rows)
    assert ("const i32* table" in text) == (kernel is named_row)


@pytest.mark.parametrize("kernel", [chosen_rows, named_row, scaled], ids=lambda k: k.name)
def test_the_c_compiler_moves_nothing_in_front_of_the_wait(kernel: Any, tmp_path: Path) -> None:
    for variant in lower(kernel, (), HOPPER, {}).variants:
        if "wait_grids();" in variant.text:
            binary = find_nvrtc().compile(variant.text, variant.file_name, "sm_90a")
            check_waits_first(sass(binary.code, tmp_path))


@pytest.mark.parametrize(("block_N", "steps"), [(64, 80), (128, 53)])
def test_short_blocks_let_the_next_launch_begin(block_N: int, steps: int) -> None:
    """640 KiB are so many steps of 64 + 64 or 64 + 128 rows of 64 bytes."""
    lowered = lower(gemm(), (), HOPPER, {**TILE, "block_N": block_N}).lowered
    program = lowered.program
    (branch,) = [
        op for op in found(program, If) if any(isinstance(i, LaunchDependents) for i in op.then.ops)
    ]
    assert branch in launches(program)[0].body.ops
    assert f"<= {steps})" in body_of(lowered, "matmul_kernel")


@pytest.mark.emulator
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_every_way_to_memory_is_behind_the_wait(steps: int) -> None:
    """The emulator finds a thread that reaches global memory before it has waited."""
    a = np.random.default_rng(0).integers(-2, 3, (192, 64)).astype(np.float16)
    c = np.zeros((256, 64), np.float16)
    chosen_rows(a, np.full(4, steps, np.int32), c, device=f"emulator:{HOPPER}")
    tiles = a.astype(np.float32).reshape(3, 64, 64)[:steps]
    expected = sum((tile @ tile.T for tile in tiles), np.zeros((64, 64), np.float32))
    np.testing.assert_array_equal(c, np.tile(expected, (4, 1)).astype(np.float16))


@tilec.kernel
def many_times(A: T.Tensor(("M", "K"), F16), C: T.Tensor(("M", 64), F16)):
    """How many steps there are is made of values that are used twice each."""
    M, K = A.shape
    with T.Kernel(T.ceildiv(M, 64), threads=128) as b:
        A_s = T.alloc_shared((64, 64), F16)
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        steps = T.ceildiv(K, 64)
        for _ in range(40):
            steps = (steps * steps) // 3
        for k in T.Pipelined(steps, num_stages=2):
            T.copy(A[b * 64, k * 64], A_s)
            T.gemm(A_s, A_s, acc, transpose_B=True)
        T.copy(acc, C[b * 64, 0])


def test_values_used_twice_are_computed_once() -> None:
    text = many_times.lower(target=HOPPER).source
    body = text[text.index("many_times_kernel") :]
    assert "launch_dependents" in body and body.count("\n") < 400
