"""Every target and every way to multiply: the emulated text against exact products, NVRTC's machine
code against the IR.

Small integers, whose products and sums are exact in every dtype and order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.backends.hip.cdna.device import MachineCodeDevice
from tests.kernels import programs
from tests.kernels.instructions import count_instructions
from tests.kernels.test_vendor_compilers import check_amd, check_nvidia
from tilec.ir.core import walk
from tilec.ir.dtypes import find_dtype, long_name
from tilec.ir.ops.amd import Mfma
from tilec.ir.ops.nvidia import CpAsync, Mma
from tilec.ir.ops.wgmma import Wgmma
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator.counts import counted
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.target import TARGETS

NVIDIA = tuple(name for name in TARGETS if name.startswith("cuda"))
AMD = tuple(name for name in TARGETS if name.startswith("hip"))
TRANSPOSES = tuple(itertools.product((False, True), repeat=2))
Size = tuple[int, int, int]
Way = tuple[str, str, str, str, bool]


@cache
def product(dtype: str, total: str, out: str, ta: bool, tb: bool, right: str = "") -> Any:
    """C = A B, each stored as it is or transposed; B of dtype `right` where that is given."""
    other = right or dtype
    a_shape, b_shape = (("K", "M") if ta else ("M", "K")), (("N", "K") if tb else ("K", "N"))

    @tilec.kernel
    def multiply(
        A: T.Tensor(a_shape, dtype),
        B: T.Tensor(b_shape, other),
        C: T.Tensor(("M", "N"), out),
        bm: int = 64,
        bn: int = 64,
        bk: int = 32,
        stages: int = 3,
        threads: int = 128,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[0 if ta else 1]
        with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
            A_s = T.alloc_shared((bk, bm) if ta else (bm, bk), dtype)
            B_s = T.alloc_shared((bn, bk) if tb else (bk, bn), other)
            acc = T.alloc_fragment((bm, bn), total)
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
                if ta:
                    T.copy(A[k * bk, by * bm], A_s)
                else:
                    T.copy(A[by * bm, k * bk], A_s)
                if tb:
                    T.copy(B[bx * bn, k * bk], B_s)
                else:
                    T.copy(B[k * bk, bx * bn], B_s)
                T.gemm(A_s, B_s, acc, transpose_A=ta, transpose_B=tb)
            T.copy(acc, C[by * bm, bx * bn])

    return multiply


def lowered(kernel: Any, target: str, **constants: int) -> CompiledKernel:
    compiled = lower(kernel, (), target, constants)
    compiled.add_general()
    return compiled


def own_dtypes(target: str) -> set[str]:
    """What some matrix instruction of a target takes, by the users' names."""
    return {long_name(i.operand) for i in TARGETS[target].matrix}


def operands(dtype: str, size: Size, right: str = "") -> tuple[Any, Any]:
    m, n, k = size
    random = np.random.default_rng(m * n + k)
    a, b = (
        random.integers(0 if found.kind == "uint" else -3, 4, shape).astype(found.numpy)
        for found, shape in ((find_dtype(dtype), (m, k)), (find_dtype(right or dtype), (k, n)))
    )
    return a, b


def check(device: Any, compiled: CompiledKernel, ta: bool, tb: bool, out: str, size: Size) -> None:
    """The product on a device is exactly that of float64."""
    left, right, _ = (p.type.dtype.name for p in compiled.program.params)  # type: ignore[attr-defined]
    a, b = operands(left, size, right)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    c = np.full(exact.shape, -77, find_dtype(out).numpy)
    stored = (np.ascontiguousarray(x.T if t else x) for x, t in ((a, ta), (b, tb)))
    compiled.run_on(device, (*stored, c))
    assert np.array_equal(c.astype(np.float64), exact), f"{compiled.target.name} at {size}"


# Dtype, accumulator, result; target, whether by a matrix instruction.
WAYS: list[Way] = [
    ("float16", "float32", "float16", "cuda:sm_75", True),
    ("float16", "float16", "float16", "cuda:sm_75", True),
    ("int8", "int32", "int32", "cuda:sm_75", True),
    ("bfloat16", "float32", "bfloat16", "cuda:sm_75", False),
    ("float64", "float64", "float64", "cuda:sm_75", False),
    ("float16", "float16", "float32", "cuda:sm_80", True),
    ("uint8", "int32", "int32", "cuda:sm_86", True),
    ("int8", "int32", "float32", "cuda:sm_89", True),
    ("float64", "float64", "float64", "cuda:sm_80", True),
    ("float64", "float64", "float64", "cuda:sm_90a", True),
    ("int8", "int32", "int32", "cuda:sm_90a", True),
    ("float32", "float32", "float32", "cuda:sm_90a", False),
    ("int16", "int64", "int64", "cuda:sm_80", False),
    ("tfloat32", "float32", "float32", "cuda:sm_80", True),
    ("tfloat32", "float32", "float32", "cuda:sm_75", False),
    ("float8_e4m3fn", "float32", "float16", "cuda:sm_89", True),
    ("float8_e5m2", "float32", "float32", "cuda:sm_120a", True),
    ("float8_e4m3fn", "float32", "float32", "cuda:sm_86", True),  # converted to f16
    ("float8_e5m2", "float32", "float32", "hip:gfx942", True),  # likewise
    ("int8", "int32", "int32", "hip:gfx90a", True),
    ("int8", "int32", "int32", "hip:gfx942", True),
    ("int8", "int32", "int32", "hip:gfx950", True),
    ("float32", "float32", "float32", "hip:gfx942", True),
    ("tfloat32", "float32", "float32", "hip:gfx942", True),
    ("tfloat32", "float32", "float32", "hip:gfx950", True),  # in f32
    ("float16", "float16", "float16", "hip:gfx942", False),
    ("float16", "float32", "float16", "hip:gfx950", True),
    ("float64", "float64", "float64", "hip:gfx90a", True),
    ("float8_e4m3fn", "float32", "float32", "hip:gfx950", True),
    ("float8_e5m2", "float32", "bfloat16", "hip:gfx950", True),
    ("float8_e4m3fnuz", "float32", "float32", "hip:gfx942", True),
    ("float8_e5m2fnuz", "float32", "float16", "hip:gfx942", True),
    ("float8_e4m3fnuz", "float32", "float32", "hip:gfx950", True),  # converted to f16
    ("float8_e5m2fnuz", "float32", "float32", "cuda:sm_89", True),  # likewise
    ("float6_e3m2fn", "float32", "float16", "cuda:sm_80", True),  # likewise
]
SIZES: tuple[Size, ...] = ((72, 80, 96), (1, 1, 1), (33, 9, 0), (65, 63, 37))
TILES: tuple[tuple[Size, dict[str, int]], ...] = (
    ((65, 63, 37), {"bn": 48, "stages": 2}),
    ((45, 50, 30), {"bm": 24, "bn": 40, "bk": 12}),  # no instruction fits
    ((9, 20, 40), {"bm": 1, "bn": 8, "bk": 16}),
    ((70, 33, 70), {"bm": 32, "bn": 16, "bk": 8, "threads": 96, "stages": 1}),
)


def multiply(way: Way, tile: dict[str, int], chosen: Iterable[Size], turn: int) -> None:
    """Products of sizes by one kernel of a way, both operands stored as it is the turn of."""
    dtype, total, out, target, matrix = way
    ta, tb = TRANSPOSES[turn % 4]
    compiled = lowered(product(dtype, total, out, ta, tb), target, **tile)
    for size in chosen:
        check(EmulatorDevice(target, "a test", "late", "reverse"), compiled, ta, tb, out, size)
    if not tile:
        codes = [remark.code for remark in compiled.remarks]
        assert matrix != ("TLC0322" in codes)
        assert ("TLC0326" in codes) == (matrix and dtype not in own_dtypes(target))


@pytest.mark.emulator
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_multiply(way: Way) -> None:
    """By the usual tile, and by one of the others in turn; the nightly run takes all of both, in
    every order of the operands."""
    number = WAYS.index(way)
    multiply(way, {}, SIZES, number)
    size, tile = TILES[number % len(TILES)]
    multiply(way, tile, [size], number // 4)


@pytest.mark.nightly
@pytest.mark.emulator
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_multiply_whole(way: Way) -> None:
    for turn in range(4):
        multiply(way, {}, SIZES, turn)
        for size, tile in TILES:
            multiply(way, tile, [size], turn)


def test_the_interpreter_multiplies_the_same() -> None:
    for dtype, total, out, *_ in WAYS:
        compiled = lower(product(dtype, total, out, False, True), (), "cuda:sm_80", {})
        check(InterpreterDevice("", "a test"), compiled, False, True, out, (45, 50, 30))


@pytest.mark.emulator
@pytest.mark.parametrize("target", TARGETS)
def test_the_gemm_on_every_target(target: str) -> None:
    compiled = lowered(product("float16", "float32", "float16", False, True), target)
    check(EmulatorDevice(target, "a test"), compiled, False, True, "float16", (130, 72, 152))
    copies = [op for op in walk(compiled.lowered.program.body) if isinstance(op, CpAsync)]
    assert bool(copies) == (target in NVIDIA and target not in ("cuda:sm_75", "cuda:sm_90a"))


@pytest.mark.parametrize("target", NVIDIA)
def test_machine_code_of_the_gemm_and_the_origin(target: str, tmp_path: Path) -> None:
    arch = target.partition(":")[2]
    for variant in lowered(programs.gemm(), target).variants:
        check_nvidia(variant, arch, tmp_path)
    check_nvidia(lower(programs.origin(), (), target, {}).lowered, arch, tmp_path)


@pytest.mark.hip
@pytest.mark.parametrize("target", AMD)
def test_amd_machine_code_of_the_gemm_and_the_origin(target: str) -> None:
    arch = target.partition(":")[2]
    for variant in lowered(programs.gemm(), target).variants:
        check_amd(variant, arch)
    check_amd(lower(programs.origin(), (), target, {}).lowered, arch)


@pytest.mark.emulator
@pytest.mark.parametrize("transposes", [(False, True), (True, False)])
@pytest.mark.parametrize(
    ("dtype", "total", "target"),
    [("float64", "float64", "cuda:sm_80"), ("float64", "float64", "cuda:sm_90a"),
     ("tfloat32", "float32", "cuda:sm_80")],
)  # fmt: skip
def test_operands_read_by_elements_meet_in_no_bank(
    dtype: str, total: str, target: str, transposes: tuple[bool, bool]
) -> None:
    """Neither the fragments of lanes nor the copies of whole rows that fill the tiles."""
    compiled = lower(product(dtype, total, total, *transposes), (), target, {"bk": 16})
    with counted() as counts:
        check(EmulatorDevice(target, "a test"), compiled, *transposes, total, (64, 64, 32))
    assert counts.bank_conflicts == 0, str(counts)
    loads = [c for c in counts.accesses if c.instruction == "load_shared"]
    assert bool(loads) == (dtype == "float64" or transposes == (True, False))
    assert {c.bytes for c in loads} <= {find_dtype(dtype).bytes}


NVIDIA_WAYS = [way for way in WAYS if way[3].startswith("cuda")]


def check_machine_code(way: Way, transposes: tuple[bool, bool], only: int, folder: Path) -> None:
    """NVRTC's machine code of a way: of so many variants, aligned arguments first."""
    dtype, total, out, target, matrix = way
    # ptxas runs the first iteration of a loop without ldmatrix apart where the target is Blackwell.
    if transposes[0] and target in ("cuda:sm_100a", "cuda:sm_120a"):
        return
    tile = {"bm": 128, "bn": 64, "bk": 512 // find_dtype(dtype).bits, "threads": 256}
    compiled = lowered(product(dtype, total, out, *transposes), target, **tile)
    for variant in compiled.variants[:only]:
        multiplies = [op for op in walk(variant.program.body) if isinstance(op, (Mma, Wgmma))]
        assert bool(multiplies) == matrix
        check_nvidia(variant, target.partition(":")[2], folder, matrix=matrix)


@pytest.mark.parametrize("way", NVIDIA_WAYS, ids=str)
def test_machine_code_of_every_way_to_multiply(way: Way, tmp_path: Path) -> None:
    """Of aligned arguments, with the operands stored one way or the other in turn; the nightly run
    takes both ways, and any arguments."""
    turn = NVIDIA_WAYS.index(way) % 2 == 0
    check_machine_code(way, (turn, not turn), 1, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("way", NVIDIA_WAYS, ids=str)
def test_machine_code_of_every_way_to_multiply_whole(way: Way, tmp_path: Path) -> None:
    for transposes in ((False, True), (True, False)):
        check_machine_code(way, transposes, 4, tmp_path)


@pytest.mark.hip
@pytest.mark.parametrize(
    ("dtype", "total", "out", "target", "matrix"), [w for w in WAYS if w[3].startswith("hip")]
)
def test_amd_machine_code_of_every_way_to_multiply(
    dtype: str, total: str, out: str, target: str, matrix: bool
) -> None:
    """As many MFMA as in the IR; operands with k contiguous are read by 16 bytes."""
    arch, clang = target.partition(":")[2], find_amd_clang(target.partition(":")[2])
    for transposes in ((False, True), (True, False)):
        tile = {"bm": 128, "bn": 64, "bk": 512 // find_dtype(dtype).bits, "threads": 256}
        compiled = lowered(product(dtype, total, out, *transposes), target, **tile)
        variants = compiled.variants if transposes == (False, True) else compiled.variants[:1]
        for aligned, variant in zip((True, False), variants, strict=False):
            assembled = clang.assemble(variant.text, variant.file_name, arch)
            assert "warning" not in assembled.log
            (isa,) = assembled.kernels
            assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
            expected = count_instructions(variant.program)
            assert isa.count("v_mfma") == expected["mfma"] and bool(expected["mfma"]) == matrix
            if matrix and transposes == (False, True):
                assert isa.counts["ds_read_b128"] == expected["load_shared_16"] > 0
                assert not aligned or isa.count("ds_read") == isa.counts["ds_read_b128"]


@cache
def from_registers(dtype: str, total: str, m: int, n: int, k: int) -> Any:
    """C = A B of one block, A in a fragment."""

    @tilec.kernel
    def multiply(
        A: T.Tensor((m, k), dtype), B: T.Tensor((k, n), dtype), C: T.Tensor((m, n), total)
    ):
        with T.Kernel(1, threads=64):
            F = T.alloc_fragment((m, k), dtype)
            S = T.alloc_shared((k, n), dtype)
            acc = T.alloc_fragment((m, n), total)
            T.copy(A, F)
            T.copy(B, S)
            T.gemm(F, S, acc, clear_accum=True)
            T.copy(acc, C)

    return multiply


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("dtype", "total", "out", "target"), [w[:4] for w in WAYS if w[1] == w[2] or w[0] == "int8"]
)
def test_an_operand_in_registers(dtype: str, total: str, out: str, target: str) -> None:
    for m, n, k in ((32, 32, 32), (6, 10, 12), (1, 8, 16)):
        compiled = lower(from_registers(dtype, total, m, n, k), (), target, {})
        check(EmulatorDevice(target, "a test"), compiled, False, False, total, (m, n, k))


@pytest.mark.emulator
@pytest.mark.parametrize("target", ["cuda:sm_75", "cuda:sm_80", "hip:gfx942", "hip:gfx950"])
def test_tf32_is_read_without_its_low_bits(target: str) -> None:
    """By whatever multiplies: threads, mma, xf32, MFMA of f32; from registers and shared memory."""
    x = np.random.default_rng(5).standard_normal((32, 32)).astype(np.float32)
    kept = (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)
    one = np.eye(32, dtype=np.float32)
    compiled = lower(from_registers("tfloat32", "float32", 32, 32, 32), (), target, {})
    for a, b in ((x, one), (one, x)):
        c = np.zeros_like(x)
        compiled.run_on(EmulatorDevice(target, "a test"), (a, b, c))
        assert np.array_equal(c, kept)


# A, B; target, whether by a matrix instruction (8-bit floats converted to f16).
MIXED_WAYS: list[Way] = [
    ("float8_e4m3fn", "float8_e5m2", "cuda:sm_80", True),
    ("float8_e5m2", "float8_e4m3fn", "hip:gfx90a", True),
    ("float6_e2m3fn", "float8_e4m3fn", "hip:gfx950", True),  # K is no multiple of 64
    ("int8", "uint8", "cuda:sm_80", False),
    ("uint8", "int8", "hip:gfx942", False),
]


# A, B, target, K of the instruction that a tile takes.
OWN_WAYS = [
    ("float8_e4m3fnuz", "float8_e5m2fnuz", "hip:gfx942", {"bk": 64}, 16),
    ("float8_e5m2fnuz", "float8_e4m3fnuz", "hip:gfx942", {"bm": 16, "bn": 32, "bk": 32}, 32),
    ("float8_e4m3fn", "float8_e5m2", "hip:gfx950", {"bk": 32}, 16),
    ("float8_e5m2", "float8_e4m3fn", "hip:gfx950", {"bk": 128}, 64),
    ("float8_e5m2", "float8_e5m2", "hip:gfx950", {"bk": 64}, 64),
    ("float8_e4m3fn", "float8_e4m3fn", "hip:gfx950", {"bm": 16, "bn": 32, "bk": 128}, 128),
    ("float8_e5m2", "float6_e3m2fn", "hip:gfx950", {"bm": 16, "bn": 32, "bk": 128}, 128),
]


@pytest.mark.emulator
@pytest.mark.hip
@pytest.mark.parametrize(("left", "right", "target", "tile", "depth"), OWN_WAYS)
def test_small_floats_have_instructions(
    left: str, right: str, target: str, tile: dict[str, int], depth: int
) -> None:
    """Those of two dtypes, and gfx950's that multiply twice as many at once."""
    for ta, tb in TRANSPOSES[1:3]:
        compiled = lowered(product(left, "float32", "float32", ta, tb, right), target, **tile)
        assert not [r for r in compiled.remarks if r.code in ("TLC0322", "TLC0326")]
        assert {op.k for op in walk(compiled.lowered.program.body) if isinstance(op, Mfma)} == {
            depth
        }
        for device in (EmulatorDevice(target, "a test"), MachineCodeDevice(target=target)):
            for size in ((65, 63, 144), (9, 20, 40)):
                check(device, compiled, ta, tb, "float32", size)


@pytest.mark.emulator
@pytest.mark.parametrize(("left", "right", "target", "matrix"), MIXED_WAYS)
def test_operands_of_two_dtypes(left: str, right: str, target: str, matrix: bool) -> None:
    total = "float32" if matrix else "int32"
    for (ta, tb), size in ((TRANSPOSES[1], (65, 63, 37)), (TRANSPOSES[2], (9, 20, 40))):
        compiled = lowered(product(left, total, total, ta, tb, right), target)
        code = "TLC0326" if matrix else "TLC0322"
        (remark,) = (r for r in compiled.remarks if r.code == code)
        assert f"{find_dtype(left)} and {find_dtype(right)} into" in remark.message
        assert ("divides K = 32" in remark.message) == (target == "hip:gfx950")
        for device in (EmulatorDevice(target, "a test"), InterpreterDevice("", "a test")):
            check(device, compiled, ta, tb, total, size)
