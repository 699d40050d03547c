"""Products of regions of shared memory: slots of hand-made rings, slices along k and along the rows,
wherever they start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.kernels.machines import TARGETS
from tests.kernels.test_gemm_operands import whole
from tests.passes.planning import line_of, refused
from tilec.runtime.driver import lower

pytestmark = pytest.mark.emulator


def check(kernel: Any, expected: Any, *arrays: Any) -> None:
    """Every leg's product, into an array of NaN."""
    unset = np.full(expected.shape, np.nan, np.float32)
    for leg, (*_, c) in every_leg(kernel, *arrays, unset):
        assert np.array_equal(c, expected), leg


def stored(x: Any, transposed: bool) -> Any:
    return np.ascontiguousarray(x.T if transposed else x)


def ring(dtype: str, ta: bool, tb: bool) -> Any:
    """C = op(A) op(B) through slots of one shared buffer each, the next filled while one is read."""

    @tilec.kernel
    def buffered(
        A: T.Tensor(("K", "M") if ta else ("M", "K"), dtype),
        B: T.Tensor(("N", "K") if tb else ("K", "N"), dtype),
        C: T.Tensor(("M", "N"), "float32"),
        slots: int = 3,
    ):
        M, N = C.shape
        K = A.shape[0] if ta else A.shape[1]
        with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
            A_s = T.alloc_shared((slots, 32, 64) if ta else (slots, 64, 32), dtype)
            B_s = T.alloc_shared((slots, 64, 32) if tb else (slots, 32, 64), dtype)
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            T.copy(A[0, by * 64] if ta else A[by * 64, 0], A_s[0, :, :])
            T.copy(B[bx * 64, 0] if tb else B[0, bx * 64], B_s[0, :, :])
            steps = T.ceildiv(K, 32)
            for k in T.serial(steps):
                if k + 1 < steps:
                    T.copy(
                        A[(k + 1) * 32, by * 64] if ta else A[by * 64, (k + 1) * 32],
                        A_s[(k + 1) % slots, :, :],
                    )
                    T.copy(
                        B[bx * 64, (k + 1) * 32] if tb else B[(k + 1) * 32, bx * 64],
                        B_s[(k + 1) % slots, :, :],
                    )
                T.gemm(
                    A_s[k % slots, :, :], B_s[k % slots, :, :], acc, transpose_A=ta, transpose_B=tb
                )
            T.copy(acc, C[by * 64, bx * 64])

    return buffered


@pytest.mark.parametrize("transposes", [(False, False), (True, True), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("size", [(64, 64, 96), (65, 70, 40), (1, 8, 1)], ids=str)
def test_a_ring_by_hand(
    dtype: str, transposes: tuple[bool, bool], size: tuple[int, int, int]
) -> None:
    m, n, k = size
    a, b = whole((m, k), dtype), whole((k, n), dtype, 1)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    sides = (stored(x, t) for x, t in zip((a, b), transposes, strict=True))
    check(ring(dtype, *transposes), expected, *sides)


def test_the_ring_is_read_as_whole_tiles_are() -> None:
    """Matrices by ldmatrix and wide reads, without a spill."""
    texts = compile_texts(ring("float16", False, True))
    assert "ldmatrix" in texts["cuda:sm_80"] and "mfma" in texts["hip:gfx942"]


def sliced(dtype: str, ta: bool, tb: bool, traced: bool) -> Any:
    """C = op(A) op(B), every tile multiplied in parts of k, rows and columns."""

    @tilec.kernel
    def parts(
        A: T.Tensor(("K", "M") if ta else ("M", "K"), dtype),
        B: T.Tensor(("N", "K") if tb else ("K", "N"), dtype),
        C: T.Tensor(("M", "N"), "float32"),
    ):
        M, N = C.shape
        K = A.shape[0] if ta else A.shape[1]
        with T.Kernel(T.ceildiv(N, 128), T.ceildiv(M, 64), threads=128) as (bx, by):
            A_s = T.alloc_shared((128, 64) if ta else (64, 128), dtype)
            B_s = T.alloc_shared((128, 128), dtype)
            left = T.alloc_fragment((64, 64), "float32")
            right = T.alloc_fragment((64, 64), "float32")
            T.clear(left)
            T.clear(right)
            for k in T.Pipelined(T.ceildiv(K, 128), num_stages=2):
                T.copy(A[k * 128, by * 64] if ta else A[by * 64, k * 128], A_s)
                T.copy(B[bx * 128, k * 128] if tb else B[k * 128, bx * 128], B_s)
                for part in T.serial(4) if traced else range(4):
                    at = part * 32
                    a = A_s[at : at + 32, :] if ta else A_s[:, at : at + 32]
                    b0 = B_s[0:64, at : at + 32] if tb else B_s[at : at + 32, 0:64]
                    b1 = B_s[64:128, at : at + 32] if tb else B_s[at : at + 32, 64:128]
                    T.gemm(a, b0, left, transpose_A=ta, transpose_B=tb)
                    T.gemm(a, b1, right, transpose_A=ta, transpose_B=tb)
            T.copy(left, C[by * 64, bx * 128])
            T.copy(right, C[by * 64, bx * 128 + 64])

    return parts


@pytest.mark.parametrize("transposes", [(False, False), (True, True), (False, True)], ids=str)
@pytest.mark.parametrize("traced", [False, True], ids=["numbers", "traced"])
def test_parts_of_tiles(transposes: tuple[bool, bool], traced: bool) -> None:
    a, b = whole((72, 256)), whole((256, 144), seed=1)
    expected = a.astype(np.float32) @ b.astype(np.float32)
    sides = [stored(x, t) for x, t in zip((a, b), transposes, strict=True)]
    kernel = sliced("float16", *transposes, traced)
    check(kernel, expected, *sides)
    assert takes_wgmma(kernel, sides[0].shape, sides[1].shape, (72, 144))


@tilec.kernel
def made(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("K", "N"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
):
    """C = 2 A B: threads make the left operand in one of two slots by turns."""
    M, N = C.shape
    with T.Kernel(T.ceildiv(N, 64), T.ceildiv(M, 64), threads=128) as (bx, by):
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        doubled = T.alloc_shared((2, 64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 64), num_stages=3):
            T.copy(A[by * 64, k * 64], A_s)
            T.copy(B[k * 64, bx * 64], B_s)
            for i, j in T.Parallel(64, 64):
                doubled[k % 2, i, j] = A_s[i, j] + A_s[i, j]
            T.gemm(doubled[k % 2, :, :], B_s, acc)
        T.copy(acc, C[by * 64, bx * 64])


def takes_wgmma(kernel: Any, *shapes: tuple[int, int]) -> bool:
    """Whether the text for sm_90a multiplies by wgmma where the operands are aligned."""
    *sides, result = shapes
    specs = [tilec.spec(shape, "float16", align=16) for shape in sides]
    text = lower(kernel, (*specs, tilec.spec(result, "float32")), "cuda:sm_90a", {}).source
    return "wgmma" in text


@pytest.mark.parametrize("size", [(64, 72, 192), (65, 8, 200)], ids=str)
def test_slots_that_threads_make(size: tuple[int, int, int]) -> None:
    m, n, k = size
    a, b = whole((m, k)), whole((k, n), seed=1)
    check(made, 2 * (a.astype(np.float32) @ b.astype(np.float32)), a, b)
    assert takes_wgmma(made, (64, 192), (192, 72), (64, 72))


@tilec.kernel
def off_the_grid(
    A: T.Tensor((64, 64), "float16"),
    B: T.Tensor((64, 64), "float16"),
    starts: T.Tensor((2,), "int32"),
    C: T.Tensor((32, 32), "float32"),
):
    """C = A[3 : 35, s : s + 32] @ B[t : t + 32, 5 : 37], with s and t from memory."""
    with T.Kernel(1, threads=64):
        A_s = T.alloc_shared((64, 64), "float16")
        B_s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((32, 32), "float32")
        T.copy(A, A_s)
        T.copy(B, B_s)
        s, t = starts[0], starts[1]
        T.gemm(A_s[3:35, s : s + 32], B_s[t : t + 32, 5:37], acc, clear_accum=True)
        T.copy(acc, C)


@pytest.mark.parametrize("starts", [(0, 0), (5, 7), (8, 30)], ids=str)
def test_any_start_will_do(starts: tuple[int, int]) -> None:
    """Where no matrix load may start, lanes read elements."""
    a, b = whole((64, 64)), whole((64, 64), seed=1)
    s, t = starts
    expected = a[3:35, s : s + 32].astype(np.float32) @ b[t : t + 32, 5:37].astype(np.float32)
    check(off_the_grid, expected, a, b, np.array(starts, np.int32))


@tilec.kernel
def parts_of_registers(
    A: T.Tensor((64, 64), "float16"),
    B: T.Tensor((64, 32), "float16"),
    C: T.Tensor((64, 32), "float32"),
):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((64, 64), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 32), "float32")
        T.copy(A, x)
        T.copy(B, B_s)
        T.clear(acc)
        for part in range(2):
            ks = slice(part * 32, part * 32 + 32)
            T.gemm(x[:, ks], B_s[ks, :], acc)
        T.copy(acc, C)


def test_regions_of_fragments() -> None:
    a, b = whole((64, 64)), whole((64, 32), seed=1)
    check(parts_of_registers, a.astype(np.float32) @ b.astype(np.float32), a, b)


def outside(what: str) -> Any:
    @tilec.kernel
    def kernel(A: T.Tensor((64, 64), "float16"), n: T.int32):
        with T.Kernel(1, threads=128):
            S = T.alloc_shared((64, 64), "float16")
            R = T.alloc_shared((2, 64, 64), "float16")
            x = T.alloc_fragment((64, 64), "float16")
            acc = T.alloc_fragment((64, 64), "float32")
            T.copy(A, S)
            T.copy(A, R[0, :, :])
            T.copy(A, x)
            if what == "end":
                T.gemm(S[32:96, :], S, acc)  # HERE end
            if what == "rank":
                T.gemm(R[0:2, :, :], S, acc)  # HERE rank
            if what == "row":
                T.gemm(S[0, :], S, acc)  # HERE row
            if what == "result":
                T.gemm(S[0:32, :], S, acc[0:32, :])  # HERE result
            if what == "shapes":
                T.gemm(S[:, 0:32], S, acc)  # HERE shapes
            if what == "registers":
                T.gemm(x[:, n : n + 32], S[0:32, :], acc, clear_accum=True)  # HERE registers
            T.copy(acc, A)

    return kernel


@pytest.mark.parametrize(
    ("what", "code", "named"),
    [
        ("end", "TLC0116", "64 elements from 32 on"),
        ("rank", "TLC0131", "(2, 64, 64)"),
        ("row", "TLC0131", "(1, 64)"),
        ("result", "TLC0131", "region of `acc`"),
        ("shapes", "TLC0245", "[64, 32]"),
        ("registers", "TLC0313", "'x'"),
    ],
)
def test_what_is_no_operand_is_refused(what: str, code: str, named: str) -> None:
    error = refused(code, lambda: lower(outside(what), (), TARGETS[0], {}))
    assert line_of(error.loc).endswith(f"# HERE {what}")
    assert named in error.message
