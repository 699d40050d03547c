"""Wgmma of every dtype: launches by roles for sm_90a against exact products, and what the machine
code holds; operands that wgmma cannot read are multiplied another way, and a remark says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kernels.instructions import count_instructions
from tests.kernels.machines import SCHEDULES
from tests.kernels.test_targets import check, lowered, product
from tests.kernels.test_vendor_compilers import check_nvidia
from tilec.ir.dtypes import find_dtype
from tilec.runtime.emulator_device import EmulatorDevice

TARGET = "cuda:sm_90a"
# Operands, accumulator, result.
WAYS = [
    ("float8_e4m3fn", "float32", "float16"),
    ("float8_e5m2", "float32", "float32"),
    ("tfloat32", "float32", "float32"),
    ("int8", "int32", "int32"),
    ("uint8", "int32", "float32"),
]
TILES = [(64, 64, 128), (128, 128, 256), (128, 256, 256)]


def row(dtype: str) -> int:
    """Elements of a swizzle's widest row."""
    return 1024 // find_dtype(dtype).bits


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "total", "out"), WAYS)
def test_products_by_roles(dtype: str, total: str, out: str) -> None:
    """Trip counts 1, 2, stages and more, whole and ragged; of the general class, one role."""
    compiled = lowered(product(dtype, total, out, False, True), TARGET, bk=row(dtype))
    assert count_instructions(compiled.variants[0].program)["wgmma"] == 4
    assert "TLC0323" in [remark.code for remark in compiled.remarks]
    k = row(dtype)
    sizes = [(64, 64, k), (65, 72, 2 * k), (130, 40, 3 * k - 16), (1, 200, 4 * k + 16), (9, 8, 0)]
    for number, size in enumerate((*sizes, (33, 9, k + 1))):
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        device = EmulatorDevice(TARGET, "a test", mode, order)
        check(device, compiled, False, True, out, size)


@pytest.mark.parametrize(("dtype", "total", "out"), WAYS)
@pytest.mark.parametrize(("bm", "bn", "threads"), TILES)
def test_machine_code(
    dtype: str, total: str, out: str, bm: int, bn: int, threads: int, tmp_path: Path
) -> None:
    tile = {"bm": bm, "bn": bn, "bk": row(dtype), "threads": threads, "stages": 4}
    variant = lowered(product(dtype, total, out, False, True), TARGET, **tile).variants[0]
    assert count_instructions(variant.program)["wgmma"] > 0
    check_nvidia(variant, "sm_90a", tmp_path)


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "total", "out"), WAYS)
@pytest.mark.parametrize(("ta", "tb"), [(False, False), (True, True)])
def test_k_must_be_contiguous(dtype: str, total: str, out: str, ta: bool, tb: bool) -> None:
    """Only elements of 16 bits are read the other way around."""
    compiled = lowered(product(dtype, total, out, ta, tb), TARGET)
    assert count_instructions(compiled.variants[0].program)["wgmma"] == 0
    (remark,) = (r for r in compiled.remarks if r.code == "TLC0320")
    assert f"operand {'A' if ta else 'B'}" in remark.message and "consecutive k" in remark.message
    check(EmulatorDevice(TARGET, "a test"), compiled, ta, tb, out, (65, 80, 48))
