"""Calls for which only what is read is aligned: loops load it as ever, stores go by elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from examples.gemm import check, matmul
from tilec.passes.context import Assume, assumptions
from tilec.runtime.arrays import view_array
from tilec.runtime.check_args import pick_variant
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

TILE = {"block_M": 64, "block_N": 32, "block_K": 32, "stages": 3, "threads": 128}
TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")


def variants(kernel: Any, target: str, **constants: Any) -> CompiledKernel:
    compiled = lower(kernel, (), target, constants)
    compiled.add_general()
    return compiled


def required(compiled: CompiledKernel) -> dict[str, set[str]]:
    """The tensors that each variant wants aligned."""
    return {
        v.file_name.partition(".")[0]: {f.tensor for f in v.requires if f.kind == "aligned"}
        for v in compiled.variants
    }


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_may_begin_anywhere(target: str) -> None:
    found = required(variants(matmul, target, **TILE))
    assert found["matmul"] == {"A", "B", "C"} and found["matmul_read"] == {"A", "B"}
    assert not found["matmul_generic"]


def test_loads_are_as_fast_and_stores_are_not() -> None:
    """One H200, 4096 x 50257 x 4096, whose result has rows of 100514 bytes: 2.7 ms, 16.8 by the variant
    for any arguments."""
    texts = {v.file_name: v.text for v in variants(matmul, "cuda:sm_90a", **TILE).variants}
    first, read, general = texts["matmul.cu"], texts["matmul_read.cu"], texts["matmul_generic.cu"]
    assert first.count("tma_load") == read.count("tma_load") > 0 == general.count("tma_load")
    assert "tma_store" in first and "tma_store" not in read


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("columns", [1, 31, 33])
def test_odd_columns(target: str, columns: int) -> None:
    compiled = variants(matmul, target, **TILE)
    random = np.random.default_rng(columns)
    a, b = (random.standard_normal((n, 72)).astype(np.float16) for n in (65, columns))
    c = np.full((65, columns), np.nan, np.float16)
    views = {name: view_array(x) for name, x in zip("ABC", (a, b, c), strict=True)}
    assert pick_variant(compiled.manifest, views).source.startswith("matmul_read.")
    compiled.run_on(EmulatorDevice(target, "a test"), (a, b, c))
    check(a, b, c)


def test_kernels_without_such_loops_have_none() -> None:
    @tilec.kernel
    def twice(X: T.Tensor(("M", 64), "float16"), Y: T.Tensor(("M", 64), "float16")):
        with T.Kernel(X.shape[0], threads=32) as row:
            for j in T.Parallel(64):
                Y[row, j] = X[row, j] * 2

    assert Assume.READ not in assumptions(lower(twice, (), "cuda:sm_90a", {}).program)
    assert "twice_read" not in required(variants(twice, "cuda:sm_90a"))


def test_what_is_read_and_written_is_written() -> None:
    @tilec.kernel
    def add(A: T.Tensor(("M", "K"), "float16"), C: T.Tensor(("M", "M"), "float32")):
        M, K = A.shape[0], A.shape[1]
        with T.Kernel(T.ceildiv(M, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
            A_s, B_s = T.alloc_shared((64, 32), "float16"), T.alloc_shared((64, 32), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.copy(C[by * 64, bx * 64], acc)
            for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
                T.copy(A[by * 64, k * 32], A_s)
                T.copy(A[bx * 64, k * 32], B_s)
                T.gemm(A_s, B_s, acc, transpose_B=True)
            T.copy(acc, C[by * 64, bx * 64])

    found = required(variants(add, "cuda:sm_90a"))
    assert found["add"] == {"A", "C"} and found["add_read"] == {"A"}
