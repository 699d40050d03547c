"""Products whose operands lie in registers: chained, loaded there, transposed, on either side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.kernels.machines import TARGETS
from tests.passes.planning import line_of, refused
from tilec.ir.core import walk
from tilec.ir.dtypes import find_dtype
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.tile import ConvertLayout
from tilec.parser.text import parse_program
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator


def whole(shape: tuple[int, ...], dtype: str = "float16", seed: int = 0) -> Any:
    """Small integers: their products and sums are exact in every order."""
    numbers = np.random.default_rng(seed + sum(shape)).integers(-2, 3, shape)
    return numbers.astype(np.float32).astype(find_dtype(dtype).numpy)


def chain(dtype: str = "float16", policy: T.GemmWarpPolicy = T.GemmWarpPolicy.Square) -> Any:
    """C = (A B^T) V over blocks of B and V, the first product rounded to `dtype` in registers."""

    @tilec.kernel
    def chained(
        A: T.Tensor(("M", 32), dtype),
        B: T.Tensor(("N", 32), dtype),
        V: T.Tensor(("N", 64), dtype),
        C: T.Tensor(("M", 64), "float32"),
        rows: int = 64,
        columns: int = 64,
        threads: int = 128,
    ):
        with T.Kernel(T.ceildiv(A.shape[0], rows), threads=threads) as bx:
            A_s = T.alloc_shared((rows, 32), dtype)
            B_s = T.alloc_shared((columns, 32), dtype)
            V_s = T.alloc_shared((columns, 64), dtype)
            s = T.alloc_fragment((rows, columns), "float32")
            p = T.alloc_fragment((rows, columns), dtype)
            o = T.alloc_fragment((rows, 64), "float32")
            T.copy(A[bx * rows, 0], A_s)
            T.clear(o)
            for k in T.Pipelined(T.ceildiv(B.shape[0], columns), num_stages=2):
                T.copy(B[k * columns, 0], B_s)
                T.copy(V[k * columns, 0], V_s)
                T.gemm(A_s, B_s, s, transpose_B=True, clear_accum=True, policy=policy)
                T.copy(s, p)
                T.gemm(p, V_s, o, policy=policy)
            T.copy(o, C[bx * rows, 0])

    return chained


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("size", [(64, 128), (100, 150), (1, 1), (65, 63), (130, 0)], ids=str)
def test_a_product_of_a_product(dtype: str, size: tuple[int, int]) -> None:
    a, b, v = (
        whole((size[0], 32), dtype),
        whole((size[1], 32), dtype, 1),
        whole((size[1], 64), dtype, 2),
    )
    first = (a.astype(np.float32) @ b.astype(np.float32).T).astype(a.dtype)
    expected = first.astype(np.float64) @ v.astype(np.float64)
    for leg, (*_, c) in every_leg(
        chain(dtype), a, b, v, np.full((size[0], 64), np.nan, np.float32)
    ):
        assert np.array_equal(c, expected), leg


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [64, 128])
def test_the_product_stays_where_it_is(target: str, rows: int) -> None:
    """Nothing is said about warps: the solver splits them so that nothing moves."""
    compiled = lower(chain(), (), target, {"rows": rows})
    program = parse_program(compiled.ir(after="infer_layouts"), compiled.registry, "chain.tir")
    ops = list(walk(program.body))
    assert not [op for op in ops if isinstance(op, ConvertLayout)]
    variants = [op.variant for op in ops if isinstance(op, Gemm)]
    assert all(v[5] == 1 for v in variants)
    assert ("swapped" in variants[0]) == target.startswith("hip")


def test_warps_along_the_columns_exchange_through_shared_memory_and_say_so() -> None:
    policy = T.GemmWarpPolicy.FullCol
    compiled = lower(chain(policy=policy), (), "cuda:sm_80", {})
    codes = [remark.code for remark in compiled.remarks]
    assert "TLC0410" in codes and "TLC0424" in codes
    a, b, v = whole((70, 32)), whole((90, 32), seed=1), whole((90, 64), seed=2)
    expected = (a.astype(np.float64) @ b.astype(np.float64).T) @ v.astype(np.float64)
    for leg, (*_, c) in every_leg(
        chain(policy=policy), a, b, v, np.full((70, 64), np.nan, np.float32)
    ):
        assert np.array_equal(c, expected), leg


def loaded(dtype: str, left: bool, transposes: tuple[bool, bool], policy: T.GemmWarpPolicy) -> Any:
    """C = op(A) op(B), the left or the right operand copied to a fragment."""
    ta, tb = transposes
    a_shape, b_shape = ((32, 64) if ta else (64, 32)), ((64, 32) if tb else (32, 64))

    @tilec.kernel
    def product(
        A: T.Tensor(a_shape, dtype), B: T.Tensor(b_shape, dtype), C: T.Tensor((64, 64), "float32")
    ):
        with T.Kernel(1, threads=128):
            A_s = (T.alloc_fragment if left else T.alloc_shared)(a_shape, dtype)
            B_s = (T.alloc_shared if left else T.alloc_fragment)(b_shape, dtype)
            acc = T.alloc_fragment((64, 64), "float32")
            T.copy(A, A_s)
            T.copy(B, B_s)
            T.gemm(A_s, B_s, acc, transpose_A=ta, transpose_B=tb, policy=policy, clear_accum=True)
            T.copy(acc, C)

    return product


@pytest.mark.parametrize(
    "transposes", [(a, b) for a in (False, True) for b in (False, True)], ids=str
)
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_either_operand_in_registers(left: bool, transposes: tuple[bool, bool]) -> None:
    policy = list(T.GemmWarpPolicy)[(2 * transposes[0] + transposes[1] + left) % 3]
    dtype = "bfloat16" if transposes[0] else "float16"
    a, b = whole((64, 32), dtype), whole((32, 64), dtype, 1)
    expected = a.astype(np.float64) @ b.astype(np.float64)
    stored = tuple(
        np.ascontiguousarray(x.T if t else x) for x, t in zip((a, b), transposes, strict=True)
    )
    kernel = loaded(dtype, left, transposes, policy)
    for leg, (*_, c) in every_leg(kernel, *stored, np.full((64, 64), np.nan, np.float32)):
        assert np.array_equal(c, expected), leg


@tilec.kernel
def squared(A: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float32")):
    """One tile on both sides, in the layout of each."""
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(A, x)
        T.gemm(x, x, acc, clear_accum=True)
        T.copy(acc, C)


def test_one_tile_on_both_sides() -> None:
    a = whole((64, 64))
    expected = a.astype(np.float64) @ a.astype(np.float64)
    for leg, (*_, c) in every_leg(squared, a, np.full((64, 64), np.nan, np.float32)):
        assert np.array_equal(c, expected), leg


@tilec.kernel
def disagreeing(A: T.Tensor((64, 32), "float16")):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((64, 32), "float16")
        y = T.alloc_shared((48, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.copy(A, x)
        T.fill(y, 0)
        T.gemm(x, y, acc, clear_accum=True)  # HERE


@tilec.kernel
def of_three_dimensions(A: T.Tensor((64, 64), "float16")):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((1, 64, 64), "float16")
        y = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.fill(x, 0)
        T.fill(y, 0)
        T.gemm(x, y, acc, clear_accum=True)  # HERE


@pytest.mark.parametrize(
    ("kernel", "code", "named"),
    [
        (disagreeing, "TLC0245", ("[64, 32]", "[48, 64]")),
        (of_three_dimensions, "TLC0246", ("[1, 64, 64]",)),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_what_is_no_product_is_refused(kernel: Any, code: str, named: tuple[str, ...]) -> None:
    error = refused(code, kernel.lower_to_ir)
    assert line_of(error.loc).endswith("# HERE")
    assert all(shape in error.message for shape in named)
