"""Epilogues that users write as loops: stored as copies are, through shared memory or by TMA."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tilec.runtime import emulator

pytestmark = pytest.mark.emulator


@T.macro
def multiply(A, B, acc, m, n):
    """acc = the rows of A from m on, times those of B from n on."""
    rows, columns = acc.shape
    A_s = T.alloc_shared((rows, 32), "float16")
    B_s = T.alloc_shared((columns, 32), "float16")
    T.clear(acc)
    for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=3):
        T.copy(A[m, k * 32], A_s)
        T.copy(B[n, k * 32], B_s)
        T.gemm(A_s, B_s, acc, transpose_B=True)


@tilec.kernel
def dense(
    A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
    bias: T.Tensor(("N",), "float32"), R: T.Tensor(("M", "N"), "float16"),
    C: T.Tensor(("M", "N"), "float16"), block_M: int = 64, block_N: int = 64, threads: int = 128,
):  # fmt: skip
    """max(A @ B.T + bias, 0) + R."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
        acc = T.alloc_fragment((block_M, block_N), "float32")
        multiply(A, B, acc, by * block_M, bx * block_N)
        for i, j in T.Parallel(block_M, block_N):
            m, n = by * block_M + i, bx * block_N + j
            C[m, n] = T.max(acc[i, j] + bias[n], 0) + R[m, n]


@tilec.kernel
def normed(
    A: T.Tensor(("M", 64), "float16"), B: T.Tensor((64, 64), "float16"),
    C: T.Tensor(("M", 64), "float32"), threads: int = 128,
):  # fmt: skip
    """Rows of A @ B.T divided by 1 + their sums of absolute values."""
    with T.Kernel(T.ceildiv(C.shape[0], 64), threads=threads) as by:
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        total = T.alloc_fragment((64,), "float32")
        T.copy(A[by * 64, 0], A_s)
        T.copy(B, B_s)
        T.clear(acc)
        T.gemm(A_s, B_s, acc, transpose_B=True)
        T.reduce_abssum(acc, total, dim=1)
        for i, j in T.Parallel(64, 64):
            C[by * 64 + i, j] = acc[i, j] / (1 + total[i])


@cache
def transposed(out: str) -> Any:
    """(A @ B.T).T, less what each row and column is."""

    @tilec.kernel
    def kernel(
        A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
        bias: T.Tensor(("N",), "float32"), C: T.Tensor(("N", "M"), out),
        block_M: int = 128, block_N: int = 32, threads: int = 256,
    ):  # fmt: skip
        M, N = A.shape[0], B.shape[0]
        with T.Kernel(T.ceildiv(N, block_N), T.ceildiv(M, block_M), threads=threads) as (bx, by):
            acc = T.alloc_fragment((block_M, block_N), "float32")
            multiply(A, B, acc, by * block_M, bx * block_N)
            for i, j in T.Parallel(block_M, block_N):
                m, n = by * block_M + i, bx * block_N + j
                C[n, m] = T.cast(acc[i, j] + bias[n] - m % 5, out)

    return kernel


def integers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float16)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 8, 8), (63, 65, 33), (64, 64, 64), (130, 72, 96)])
def test_bias_activation_and_residual(m: int, n: int, k: int) -> None:
    a, b, r = integers(m, k), integers(n, k, seed=1), integers(m, n, seed=2)
    bias = np.arange(n, dtype=np.float32) % 7 - 3
    c = np.full((m, n), np.nan, np.float16)
    expected = np.maximum(a.astype(np.float64) @ b.astype(np.float64).T + bias, 0) + r
    for device, (*_, found) in every_leg(dense, a, b, bias, r, c):
        assert np.array_equal(found, expected.astype(np.float16)), device


@pytest.mark.parametrize("out", ["float16", "float32", "int8"])
@pytest.mark.parametrize(
    ("m", "n", "k"),
    [
        (0, 9, 8),
        (9, 0, 8),
        (1, 1, 1),
        (128, 32, 0),
        (127, 33, 7),
        (129, 31, 33),
        (144, 80, 64),
        (131, 7, 96),
    ],
)
@pytest.mark.parametrize("tile", [(128, 32, 256), (64, 8, 128)], ids=str)
def test_a_transposed_result(tile: tuple[int, int, int], m: int, n: int, k: int, out: str) -> None:
    a, b = integers(m, k) % 2, integers(n, k, seed=1) % 2
    bias = np.arange(n, dtype=np.float32) % 7 - 3
    c = np.full((n, m), 77).astype(out)
    product = b.astype(np.float64) @ a.astype(np.float64).T
    expected = product + bias[:, None] - np.arange(m) % 5
    sizes = dict(zip(("block_M", "block_N", "threads"), tile, strict=True))
    for device, (*_, found) in every_leg(transposed(out), a, b, bias, c, **sizes):
        assert np.array_equal(found, expected.astype(out)), device


@pytest.mark.parametrize("m", [0, 1, 63, 64, 65, 127])
def test_rows_divided_by_their_sums(m: int) -> None:
    a, b = integers(m, 64), integers(64, 64, seed=1)
    c = np.full((m, 64), np.nan, np.float32)
    product = a.astype(np.float64) @ b.astype(np.float64).T
    expected = product / (1 + np.abs(product).sum(1, keepdims=True))
    for device, (*_, found) in every_leg(normed, a, b, c):
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=device)


def test_they_are_stored_in_whole_rows() -> None:
    """As accumulators lie, a store would write 16 bytes of each of 8 rows."""
    texts = compile_texts(dense, block_M=128, block_N=128, threads=256)
    assert "tma_store<2>(C_map" in texts["cuda:sm_90a"]
    assert {target for target, text in texts.items() if "C_stage" in text} == set(texts)


def test_transposed_results_are_stored_in_whole_rows() -> None:
    """Of 16 bits each lane's own columns become rows of shared memory as they are stored there."""
    sizes = {"block_M": 128, "block_N": 128, "threads": 256}
    texts = compile_texts(transposed("float16"), **sizes)
    assert {target for target, text in texts.items() if "C_stage" in text} == set(texts)
    hopper = texts["cuda:sm_90a"]
    assert "stmatrix_trans<4>(C_stage" in hopper and "tma_store<2>(C_map" in hopper
    assert "named_barrier<2, 128>" in hopper, "each warpgroup stores its own columns"
    assert "tma_store<2>(C_map" in compile_texts(transposed("float32"), **sizes)["cuda:sm_90a"]
    texts = compile_texts(transposed("int8"), **sizes)
    assert {target for target, text in texts.items() if "C_stage" in text} == set(texts)


@pytest.mark.parametrize("out", ["float16", "float32", "int8"])
@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_transposed_results_meet_in_no_bank(target: str, out: str) -> None:
    a, b = integers(128, 64), integers(64, 64, seed=1)
    bias, c = np.zeros(64, np.float32), np.zeros((64, 128), out)
    with emulator.counted() as counts:
        transposed(out)(a, b, bias, c, device=f"emulator:{target}")
    assert counts.bank_conflicts == 0
    stored = [one for one in counts.accesses if one.memory in ("C", "C_map")]
    assert stored and all(one.transfers == one.needed for one in stored)
