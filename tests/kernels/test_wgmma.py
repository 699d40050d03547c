"""Wgmma of every dtype: launches by roles for sm_90a against exact products, and what the machine
code holds; operands that wgmma cannot read are multiplied another way, and a remark says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.instructions import count_instructions
from tests.kernels.machines import SCHEDULES
from tests.kernels.test_targets import TRANSPOSES, check, lowered, operands, product
from tests.kernels.test_vendor_compilers import check_nvidia
from tilec.ir.core import walk
from tilec.ir.dtypes import find_dtype
from tilec.ir.ops.wgmma import Wgmma
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

TARGET = "cuda:sm_90a"
# A, B, accumulator, result.
WAYS = [
    ("float8_e4m3fn", "float8_e4m3fn", "float32", "float16"),
    ("float8_e5m2", "float8_e5m2", "float32", "float32"),
    ("float8_e4m3fn", "float8_e5m2", "float32", "float32"),
    ("float8_e5m2", "float8_e4m3fn", "float16", "float16"),
    ("float8_e4m3fn", "float8_e4m3fn", "float16", "float32"),
    ("float16", "float16", "float16", "float16"),
    ("tfloat32", "tfloat32", "float32", "float32"),
    ("int8", "int8", "int32", "int32"),
    ("uint8", "uint8", "int32", "float32"),
    ("uint8", "int8", "int32", "int32"),
]
TILES = [(64, 64, 128), (128, 128, 256), (128, 256, 256)]


def some(ways: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """Every way with one of the others in turn; with all of them in the nightly run."""
    return [
        pytest.param(way, other, marks=() if (i + j) % len(others) == 0 else pytest.mark.nightly)
        for i, way in enumerate(ways)
        for j, other in enumerate(others)
    ]


def constants(tile: tuple[int, ...], dtype: str) -> dict[str, int]:
    return {**dict(zip(("bm", "bn", "threads"), tile, strict=True)), "bk": row(dtype)}


def row(dtype: str) -> int:
    """Elements of a swizzle's widest row."""
    return 1024 // find_dtype(dtype).bits


@pytest.mark.emulator
@pytest.mark.parametrize(("left", "right", "total", "out"), WAYS)
def test_products_by_roles(left: str, right: str, total: str, out: str) -> None:
    """Trip counts 1, 2, stages and more, whole and ragged; of the general class, one role."""
    compiled = lowered(product(left, total, out, False, True, right), TARGET, bk=row(left))
    assert count_instructions(compiled.variants[0].program)["wgmma"] == 4
    assert "TLC0323" in [remark.code for remark in compiled.remarks]
    k = row(left)
    sizes = [(64, 64, k), (65, 72, 2 * k), (130, 40, 3 * k - 16), (1, 200, 4 * k + 16), (9, 8, 0)]
    for number, size in enumerate((*sizes, (33, 9, k + 1))):
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        device = EmulatorDevice(TARGET, "a test", mode, order)
        check(device, compiled, False, True, out, size)


@pytest.mark.parametrize(("way", "tile"), some(WAYS, TILES))
def test_machine_code(way: tuple[str, ...], tile: tuple[int, ...], tmp_path: Path) -> None:
    left, right, total, out = way
    kernel = product(left, total, out, False, True, right)
    variant = lowered(kernel, TARGET, **constants(tile, left), stages=4).variants[0]
    assert count_instructions(variant.program)["wgmma"] > 0
    check_nvidia(variant, "sm_90a", tmp_path)


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("way", "order"),
    some([way for way in WAYS if find_dtype(way[0]).bits != 16], [(False, False), (True, True)]),
)
def test_k_must_be_contiguous(way: tuple[str, ...], order: tuple[bool, bool]) -> None:
    """Only elements of 16 bits are read the other way around."""
    (left, right, total, out), (ta, tb) = way, order
    compiled = lowered(product(left, total, out, ta, tb, right), TARGET)
    assert count_instructions(compiled.variants[0].program)["wgmma"] == 0
    (remark,) = (r for r in compiled.remarks if r.code == "TLC0320")
    assert f"operand {'A' if ta else 'B'}" in remark.message and "consecutive k" in remark.message
    check(EmulatorDevice(TARGET, "a test"), compiled, ta, tb, out, (65, 80, 48))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("ta", "tb"), TRANSPOSES)
def test_every_order_in_place(dtype: str, ta: bool, tb: bool, tmp_path: Path) -> None:
    """Elements of 16 bits go from TMA to wgmma as they lie, whichever dimension is contiguous."""
    tile = {"bm": 128, "bn": 256, "bk": 64, "threads": 256, "stages": 4}
    variant = lowered(product(dtype, "float32", dtype, ta, tb), TARGET, **tile).variants[0]
    found = count_instructions(variant.program)
    assert found["wgmma"] == 4 and found["tma_load"] == 2 * ta + 4 * (not tb) + (not ta) + tb
    assert found["ldmatrix"] == found["load_shared_16"] == found["cp_async"] == 0
    check_nvidia(variant, "sm_90a", tmp_path)


@cache
def from_fragment(stored: str, dtype: str, right: str, total: str, tb: bool) -> Any:
    """C = A B^T, A stored as one dtype and multiplied from a fragment of another."""
    b_shape = ("N", "K") if tb else ("K", "N")

    @tilec.kernel
    def multiply(
        A: T.Tensor(("M", "K"), stored),
        B: T.Tensor(b_shape, right),
        C: T.Tensor(("M", "N"), total),
        bm: int = 64,
        bn: int = 64,
        bk: int = 64,
        threads: int = 128,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
            A_s = T.alloc_shared((bm, bk), stored)
            B_s = T.alloc_shared((bn, bk) if tb else (bk, bn), right)
            F = T.alloc_fragment((bm, bk), dtype)
            acc = T.alloc_fragment((bm, bn), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=3):
                T.copy(A[by * bm, k * bk], A_s)
                if tb:
                    T.copy(B[bx * bn, k * bk], B_s)
                else:
                    T.copy(B[k * bk, bx * bn], B_s)
                T.copy(A_s, F)
                T.gemm(F, B_s, acc, transpose_B=tb)
            T.copy(acc, C[by * bm, bx * bn])

    return multiply


FROM_FRAGMENTS = [
    *((left, left, right, total, True) for left, right, total, _ in WAYS),
    ("float16", "float16", "float16", "float32", False),
    ("int8", "bfloat16", "bfloat16", "float32", True),
]


@pytest.mark.emulator
@pytest.mark.parametrize(("stored", "left", "right", "total", "tb"), FROM_FRAGMENTS)
def test_left_operand_in_registers(
    stored: str, left: str, right: str, total: str, tb: bool
) -> None:
    kernel, k = from_fragment(stored, left, right, total, tb), row(left)
    compiled = lowered(kernel, TARGET, bk=k)
    assert count_instructions(compiled.variants[0].program)["wgmma_registers"] == 4
    for number, size in enumerate(((64, 64, k), (65, 72, 4 * k - 16), (9, 200, 2 * k))):
        a, b = operands(left, size, right)
        a, c = a.astype(find_dtype(stored).numpy), np.zeros(size[:2], find_dtype(total).numpy)
        mode, order = SCHEDULES[-1 - number]
        device = EmulatorDevice(TARGET, "a test", mode, order)
        compiled.run_on(device, (a, np.ascontiguousarray(b.T if tb else b), c))
        assert np.array_equal(c, a.astype(np.float64) @ b.astype(np.float64))


@pytest.mark.parametrize(("way", "tile"), some(FROM_FRAGMENTS, TILES[1:]))
def test_machine_code_from_registers(
    way: tuple[Any, ...], tile: tuple[int, ...], tmp_path: Path
) -> None:
    variant = lowered(from_fragment(*way), TARGET, **constants(tile, way[1])).variants[0]
    assert count_instructions(variant.program)["wgmma_registers"] > 0
    check_nvidia(variant, "sm_90a", tmp_path)


@cache
def promoted(dtype: str, every: int) -> Any:
    """C = A B^T in sums of `every` steps of the pipeline, added up in a second fragment."""

    @tilec.kernel
    def multiply(
        A: T.Tensor(("M", "K"), dtype),
        B: T.Tensor(("N", "K"), dtype),
        C: T.Tensor(("M", "N"), "float32"),
        bm: int = 64,
        bn: int = 64,
        bk: int = 128,
        threads: int = 128,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[1]
        with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
            A_s = T.alloc_shared((bm, bk), dtype)
            B_s = T.alloc_shared((bn, bk), dtype)
            part = T.alloc_fragment((bm, bn), "float32")
            total = T.alloc_fragment((bm, bn), "float32")
            T.clear(total)
            steps = T.ceildiv(K, bk)
            for k in T.Pipelined(steps, num_stages=3):
                T.copy(A[by * bm, k * bk], A_s)
                T.copy(B[bx * bn, k * bk], B_s)
                if every == 1:
                    T.gemm(A_s, B_s, part, transpose_B=True, clear_accum=True)
                else:
                    T.gemm(A_s, B_s, part, transpose_B=True, clear_accum=k % every == 0)
                if k % every == every - 1 or k == steps - 1:
                    for i, j in T.Parallel(bm, bn):
                        total[i, j] += part[i, j]
            T.copy(total, C[by * bm, bx * bn])

    return multiply


@pytest.mark.parametrize("every", [1, 4])
def test_sums_promoted_to_a_second_fragment(every: int, tmp_path: Path) -> None:
    """What users write for 8-bit floats, whose sums a tensor core keeps in fewer bits than f32:
    waits by dependence, no serialisation, no spill.
    """
    kernel = promoted("float8_e4m3fn", every)
    for tile in ((128, 128, 256), (128, 192, 256)):
        variant = lowered(kernel, TARGET, **constants(tile, "float8_e4m3fn")).variants[0]
        assert count_instructions(variant.program)["wgmma"] == 4
        check_nvidia(variant, "sm_90a", tmp_path)
    compiled = lowered(kernel, TARGET)
    for number, size in enumerate(((64, 64, 640), (65, 72, 80), (9, 40, 512), (8, 8, 0))):
        a, b = operands("float8_e4m3fn", size)
        for device in (
            EmulatorDevice(TARGET, "a test", *SCHEDULES[number]), InterpreterDevice("", "a test")
        ):  # fmt: skip
            c = np.full(size[:2], -1, np.float32)
            compiled.run_on(device, (a, np.ascontiguousarray(b.T), c))
            assert np.array_equal(c, a.astype(np.float64) @ b.astype(np.float64)), (size, device)


WIDTHS = {"int8": (40, 72, 240), "float8_e5m2": (40,), "tfloat32": (8, 200)}


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("dtype", "n"),
    [
        pytest.param(dtype, n, marks=() if n in WIDTHS[dtype] else pytest.mark.nightly)
        for dtype in WIDTHS
        for n in range(8, 257, 8)
    ],
)
def test_every_width(dtype: str, n: int, tmp_path: Path) -> None:
    """Of integers above 32 columns there is a wgmma for every other multiple of 8 only."""
    total = "int32" if dtype == "int8" else "float32"
    compiled = lower(
        product(dtype, total, total, False, True), (), TARGET, {"bn": n, "bk": row(dtype)}
    )
    widths = {op.n for op in walk(compiled.lowered.program.body) if isinstance(op, Wgmma)}
    exists = dtype != "int8" or n <= 32 or n % 16 == 0
    assert len(widths) == 1 and (n in widths) == exists and n % widths.pop() == 0
    check_nvidia(compiled.lowered, "sm_90a", tmp_path)
    check(
        EmulatorDevice(TARGET, "a test"), compiled, False, True, total, (65, n + 8, 2 * row(dtype))
    )


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("dtype", "total", "out"),
    [
        ("float8_e4m3fn", "float32", "float8_e5m2"), ("int8", "int32", "int8"),
        ("bfloat16", "float32", "float8_e4m3fn"),
    ],
)  # fmt: skip
def test_results_of_one_byte(dtype: str, total: str, out: str, tmp_path: Path) -> None:
    """They are rounded once, and stored by TMA, 128 columns at a time."""
    kernel = product(dtype, total, out, False, True)
    compiled = lowered(kernel, TARGET, **constants((128, 256, 256), dtype))
    assert count_instructions(compiled.variants[0].program)["tma_store"] == 2
    check_nvidia(compiled.variants[0], "sm_90a", tmp_path)
    for (mode, order), size in zip(SCHEDULES[::3], ((130, 272, 16), (65, 48, 32)), strict=False):
        a, b = operands(dtype, size)
        c = np.zeros(size[:2], find_dtype(out).numpy)
        device = EmulatorDevice(TARGET, "a test", mode, order)
        compiled.run_on(device, (a, np.ascontiguousarray(b.T), c))
        exact = (a.astype(np.float32) @ b.astype(np.float32)).astype(find_dtype(total).numpy)
        assert np.array_equal(c, exact.astype(c.dtype))


def test_sums_of_sixteen_bits_take_half_the_registers(tmp_path: Path) -> None:
    """A tile of 256 x 256 by two warpgroups: 128 registers a thread in f16, 256 in f32."""
    tile = {**constants((256, 256, 256), "float16"), "stages": 2}
    compiled = lowered(product("float16", "float16", "float16", False, True), TARGET, **tile)
    assert "TLC0323" in [remark.code for remark in compiled.remarks]
    check_nvidia(compiled.variants[0], "sm_90a", tmp_path)
