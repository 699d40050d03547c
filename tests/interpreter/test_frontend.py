"""Kernels as users write them: from the Python source through the interpreter."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.interpreter.test_dequantize import arguments, check
from tests.interpreter.test_same import PASSES
from tilec.errors import ExecutionError
from tilec.interpreter import run_program, same_meaning
from tilec.ir.core import Program
from tilec.ir.ops import builtin_registry
from tilec.passes.context import PassContext
from tilec.quantize import packed_to_unsigned_convert
from tilec.target import TARGETS


@tilec.kernel
def smoothed(
    A: T.Tensor(("M", "N"), "float32"), B: T.Tensor(("M", "N"), "float32"), width: int = 8
):
    """B[i, j] = (A[i, j - 1] + A[i, j + 1]) / 2, zeros beyond the edges."""
    with T.Kernel(T.ceildiv(B.shape[1], width), B.shape[0], threads=32) as (bx, by):
        for j in T.Parallel(width):
            x = bx * width + j
            B[by, x] = (A[by, x - 1] + A[by, x + 1]) * 0.5


@tilec.kernel
def racing(A: T.Tensor(("N",), "float32")):
    with T.Kernel(1, threads=32):
        for j in T.Parallel(8):
            A[j] = A[j + 1]


def dequantize(m: int, n: int, k: int, bm: int, bn: int, bk: int, threads: int = 128) -> Program:
    """The origin kernel at a size of choice."""

    @tilec.kernel
    def main(
        A: T.Tensor((m, k), "float16"),
        B: T.Tensor((n, k // 2), "int8"),
        C: T.Tensor((m, n), "float16"),
    ):
        with T.Kernel(T.ceildiv(n, bn), T.ceildiv(m, bm), threads=threads) as (bx, by):
            A_shared = T.alloc_shared((bm, bk), "float16")
            B_shared = T.alloc_shared((bn, bk // 2), "int8")
            B_local = T.alloc_fragment([8], "int8", "local")
            B_dequantize_local = T.alloc_fragment([16], "float16", "local")
            B_dequantize_shared = T.alloc_shared((bn, bk), "float16")
            C_local = T.alloc_fragment((bm, bn), "float32")
            t = T.thread_binding(0, threads, thread="threadIdx.x")
            T.clear(C_local)
            for step in T.Pipelined(T.ceildiv(k, bk), num_stages=3):
                T.copy(A[by * bm, step * bk], A_shared)
                for i, j in T.Parallel(bn, bk // 2):
                    B_shared[i, j] = B[bx * bn + i, step * bk // 2 + j]
                for i in T.serial(bn * bk // 2 // (threads * 4)):
                    for v in T.vectorized(0, 4):
                        at = i * threads * 4 + t * 4 + v
                        B_local[v] = B_shared[at // (bk // 2), at % (bk // 2)]
                    for v in T.serial(0, 8):
                        B_dequantize_local[v] = packed_to_unsigned_convert("int", 8)(
                            4, B_local[v // 2], v % 2, dtype="float16"
                        )
                    for v in T.vectorized(0, 8):
                        at = i * threads * 8 + t * 8 + v
                        B_dequantize_shared[at // bk, at % bk] = B_dequantize_local[v]
                T.gemm(A_shared, B_dequantize_shared, C_local, transpose_B=True)
            T.copy(C_local, C[by * bm, bx * bn])

    return main.trace({}, {})


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 21)])
def test_elementwise_with_neighbours(shape: tuple[int, int]) -> None:
    a = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    b = np.zeros_like(a)
    program = smoothed.trace({"width": 8}, {})
    run_program(program, {"A": a, "B": b}, registry=builtin_registry())
    wide = np.pad(a, ((0, 0), (1, 1)))
    assert np.array_equal(b, (wide[:, :-2] + wide[:, 2:]) * np.float32(0.5))


def test_errors_point_at_the_users_line() -> None:
    with pytest.raises(ExecutionError, match=r"global A\[\d\], which another iteration") as error:
        run_program(
            racing.trace({}, {}), {"A": np.zeros(16, np.float32)}, registry=builtin_registry()
        )
    assert error.value.loc.file == __file__
    assert "A[j] = A[j + 1]" in str(error.value)


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_the_origin_kernel_and_its_planned_forms(target: str) -> None:
    registry = builtin_registry()
    shape = (64, 96, 128)
    plain = program = dequantize(*shape, 64, 64, 64)
    x = arguments(*shape)
    run_program(program, x, registry=registry)
    check(x)
    context = PassContext(TARGETS[target], registry)
    for name in PASSES:
        program = getattr(importlib.import_module(f"tilec.passes.{name}"), name)(program, context)
        same_meaning(plain, program, 0, registry=registry)


@tilec.kernel
def by_engines(A: T.Tensor((64, 64), "float16"), C: T.Tensor((64, 64), "float16"), lacks: str):
    with T.Kernel(1, threads=128):
        S = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        full = T.alloc_barrier(128)
        T.clear(acc)
        T.tma_copy(A[0, 0], S, barrier=full)
        if lacks != "arrivals":
            T.mbarrier_arrive(full)
        if lacks not in ("arrivals", "wait for the load"):
            T.mbarrier_wait_parity(full, 0)
            T.wgmma_gemm(S, S, acc, transpose_B=True)
            if lacks != "wait for the product":
                T.wait_wgmma(0)
            T.tma_copy(S, C[0, 0])
            T.tma_store_arrive()
            if lacks != "wait for the store":
                T.tma_store_wait(0)


@pytest.mark.parametrize(
    ("lacks", "message"),
    [
        ("arrivals", r"copies may still write its memory: full\[0\] is in phase 0: 0 of 128"),
        ("wait for the load", r"write its memory: no thread has waited for full\[0\] since"),
        ("wait for the product", "the threads end while this product may still be under way"),
        ("wait for the store", "the threads end while this store may still read shared S"),
    ],
)
def test_a_block_ends_when_its_engines_are_done(lacks: str, message: str) -> None:
    a, c = np.ones((64, 64), np.float16), np.zeros((64, 64), np.float16)
    with tilec.device("interpreter"):
        by_engines(a, c, "nothing")
        assert np.array_equal(a, c)
        with pytest.raises(ExecutionError, match=message) as caught:
            by_engines(a, c, lacks)
    assert caught.value.code == "TLC0767"


@tilec.kernel
def unset(C: T.Tensor((64, 64), "float16")):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((64, 64), "float16")
        T.tma_copy(S, C[0, 0])
        if T.get_thread_binding() == 0:
            T.tma_store_arrive()
            T.tma_store_wait(0)


def test_what_an_engine_stores_is_no_threads_where_one_thread_waits() -> None:
    with pytest.raises(ExecutionError, match=r"global memory 'C' at element \[0, 0\]") as caught:
        unset(np.zeros((64, 64), np.float16), device="interpreter")
    assert "T.tma_copy(S, C[0, 0])" in str(caught.value)
