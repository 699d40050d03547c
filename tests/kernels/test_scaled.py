"""Products with a scale for 32 elements along K (MXFP8, MXFP6, MXFP4): the interpreter, the emulator of gfx950 and its
machine code agree with float64; other targets refuse."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.backends.hip.cdna.device import MachineCodeDevice
from tests.backends.hip.cdna.launch import ORDERS
from tests.kernels.instructions import count_instructions
from tests.kernels.machines import SCHEDULES
from tilec.errors import TargetUnsupported, TilecError
from tilec.interpreter.compare import assert_close
from tilec.ir.dtypes import f32
from tilec.quantize import pack
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator.counts import counted
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
TARGET = "hip:gfx950"
FP4, FP6, BF6 = "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"
NUMPY = {
    name: getattr(ml_dtypes, name) for name in ("float8_e4m3fn", "float8_e5m2", FP6, BF6, FP4)
}  # fmt: skip
FORMATS = {"float8_e4m3fn": (0, 8), "float8_e5m2": (1, 8), FP6: (2, 6), BF6: (3, 6), FP4: (4, 4)}
"""What cbsz, or blgp, says of an operand, and the registers that it takes."""


@cache
def kernel(left: str, right: str, ta: bool, tb: bool) -> Any:
    a_shape, b_shape = (("K", "M") if ta else ("M", "K")), (("N", "K") if tb else ("K", "N"))

    @tilec.kernel
    def scaled(
        A: T.Tensor(a_shape, left),
        B: T.Tensor(b_shape, right),
        SA: T.Tensor(("M", "G"), "uint8"),
        SB: T.Tensor(("N", "G"), "uint8"),
        C: T.Tensor(("M", "N"), "float32"),
        bm: int = 64,
        bn: int = 64,
        bk: int = 128,
        stages: int = 2,
        threads: int = 256,
    ):
        M, N, K = C.shape[0], C.shape[1], A.shape[0 if ta else 1]
        with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
            A_s = T.alloc_shared((bk, bm) if ta else (bm, bk), left)
            B_s = T.alloc_shared((bn, bk) if tb else (bk, bn), right)
            SA_s = T.alloc_shared((bm, bk // 32), "uint8")
            SB_s = T.alloc_shared((bn, bk // 32), "uint8")
            acc = T.alloc_fragment((bm, bn), "float32")
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
                T.copy(SA[by * bm, k * (bk // 32)], SA_s)
                T.copy(SB[bx * bn, k * (bk // 32)], SB_s)
                T.gemm_scaled(A_s, B_s, acc, SA_s, SB_s, transpose_A=ta, transpose_B=tb)
            T.copy(acc, C[by * bm, bx * bn])

    return scaled


def operands(left: str, right: str, m: int, n: int, k: int) -> tuple[np.ndarray, ...]:
    draws = np.random.default_rng(m + n + k)
    a = draws.standard_normal((m, k)).astype(NUMPY[left])
    b = draws.standard_normal((n, k)).astype(NUMPY[right])
    groups = -(-k // 32)
    sa, sb = (draws.integers(117, 137, (rows, groups)).astype(np.uint8) for rows in (m, n))
    return a, b, sa, sb


def reference(
    a: np.ndarray, b: np.ndarray, sa: np.ndarray, sb: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The product in float64, and of magnitudes."""
    k = a.shape[1]
    left, right = (
        x.astype(np.float64) * np.ldexp(1.0, np.repeat(s.astype(np.int32) - 127, 32, axis=1)[:, :k])
        for x, s in ((a, sa), (b, sb))
    )
    return left @ right.T, np.abs(left) @ np.abs(right).T


def check(
    device: Any,
    compiled: CompiledKernel,
    way: tuple[str, str, bool, bool],
    size: tuple[int, int, int],
) -> None:
    left, right, ta, tb = way
    a, b, sa, sb = operands(left, right, *size)
    exact, magnitude = reference(a, b, sa, sb)
    c = np.full(size[:2], np.nan, np.float32)
    stored = np.ascontiguousarray(a.T) if ta else a, b if tb else np.ascontiguousarray(b.T)
    stored = tuple(pack(x) if d == FP4 else x for x, d in zip(stored, way, strict=False))
    compiled.run_on(device, (*stored, sa, sb, c))
    assert_close(c, exact, magnitude * 2.0**-20, f32, f"{device.name} at {size}")


WAYS = [
    ("float8_e4m3fn", "float8_e4m3fn", False, True), ("float8_e5m2", "float8_e4m3fn", False, False),
    ("float8_e4m3fn", "float8_e5m2", True, True), ("float8_e5m2", "float8_e5m2", True, False),
    (FP4, FP4, False, True), ("float8_e4m3fn", FP4, False, True), (FP4, "float8_e5m2", False, False),
    ("float8_e4m3fn", FP4, True, True), (FP6, BF6, False, True), (BF6, "float8_e4m3fn", False, False),
    (FP4, FP6, False, True), (BF6, FP6, True, False),
]  # fmt: skip
TILES = {
    "32": {}, "16": {"bm": 16, "bn": 32, "bk": 128, "threads": 64, "stages": 3},
    "steps": {"bm": 32, "bn": 32, "bk": 192, "threads": 64, "stages": 1},
}  # fmt: skip
SIZES = ((33, 9, 0), (70, 65, 160), (1, 1, 32), (1, 40, 384), (64, 8, 96))


@pytest.mark.parametrize(
    ("way", "tile"),
    [
        pytest.param(way, tile, marks=() if n == m % 3 else pytest.mark.nightly)
        for m, way in enumerate(WAYS)
        for n, tile in enumerate(TILES)
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_products(way: tuple[str, str, bool, bool], tile: str) -> None:
    compiled = lower(kernel(*way), (), TARGET, TILES[tile])
    shape = "16, 16, 128" if tile == "16" else "32, 32, 64"
    assert f"mfma_scaled<{shape}>(" in compiled.lowered.text
    compiled.add_general()
    schedules = list(SCHEDULES)
    for number, size in enumerate(SIZES):
        check(InterpreterDevice("", "a test"), compiled, way, size)
        mode, order = schedules[(number + len(tile)) % len(schedules)]
        check(EmulatorDevice(TARGET, "a test", mode, order, seed=number), compiled, way, size)
    for number, size in enumerate(SIZES[:3]):
        device = MachineCodeDevice(("late", "early")[number % 2], ORDERS[number], target=TARGET)  # type: ignore[arg-type]
        check(device, compiled, way, size)


def test_operands_are_read_without_conflicts() -> None:
    """Pairs of 4 bits half as often as elements of a byte each, too."""
    reads = []
    for dtype in (FP4, "float8_e4m3fn", FP6):
        way = (dtype, dtype, False, True)
        compiled = lower(kernel(*way), (), TARGET, {"bm": 128, "bn": 128, "bk": 128})
        with counted() as counts:
            check(EmulatorDevice(TARGET, "a test"), compiled, way, (128, 128, 256))
        assert counts.bank_conflicts == 0
        reads.append(sum(a.accesses for a in counts.accesses if a.instruction == "load_shared"))
    assert 2 * reads[0] == reads[1] == reads[2] > 0


@tilec.kernel
def in_regions(
    A: T.Tensor((32, 128), FP4), B: T.Tensor((64, 128), FP4),
    SA: T.Tensor((32, 4), "uint8"), SB: T.Tensor((64, 4), "uint8"), C: T.Tensor((32, 32), "float32"),
):  # fmt: skip
    """The last 32 rows of B, 64 columns at a time."""
    with T.Kernel(1, threads=64):
        A_s = T.alloc_shared((32, 128), FP4)
        B_s = T.alloc_shared((64, 128), FP4)
        SA_s = T.alloc_shared((32, 2), "uint8")
        SB_s = T.alloc_shared((32, 2), "uint8")
        acc = T.alloc_fragment((32, 32), "float32")
        T.clear(acc)
        T.copy(A, A_s)
        T.copy(B, B_s)
        for k in T.serial(2):
            T.copy(SA[0, 2 * k], SA_s)
            T.copy(SB[32, 2 * k], SB_s)
            left, right = A_s[:, k * 64 : k * 64 + 64], B_s[32:64, k * 64 : k * 64 + 64]
            T.gemm_scaled(left, right, acc, SA_s, SB_s, transpose_B=True)
        T.copy(acc, C)


def test_columns_of_pairs() -> None:
    a, b, sa, sb = operands(FP4, FP4, 32, 64, 128)
    exact, magnitude = (x[:, 32:] for x in reference(a, b, sa, sb))
    compiled = lower(in_regions, (), TARGET, {})
    devices = EmulatorDevice(TARGET, "a test"), MachineCodeDevice(target=TARGET)
    for device in (InterpreterDevice("", "a test"), *devices):
        c = np.full((32, 32), np.nan, np.float32)
        arrays = (pack(a), pack(b), sa, sb, c)
        compiled.run_on(device, arrays)  # type: ignore[arg-type]
        assert_close(c, exact, magnitude * 2.0**-20, f32, device.name)


def test_passes_keep_the_meaning_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEC_CHECK", "1")
    for program in (in_slots("float8_e5m2"), in_slots(BF6), in_regions):
        lower(program, (), TARGET, {}).source  # noqa: B018  checks as it lowers


def test_scales_keep_their_rows() -> None:
    """They are filled as operands in rows of m are, and are none."""
    text = lower(kernel(*WAYS[0]), (), TARGET, {"bk": 256, "threads": 64}).ir(after="infer_layouts")
    assert re.search(r"channel .*SA_s", text)
    (layout,) = set(re.findall(r"shared u8\[64, 8\] (#shared\d+)", text))
    assert f"{layout} = shared<shape=[64, 8], modes=[[64], [8]], strides=[[8], [1]]" in text


def named(value: Any) -> str:
    return "-".join(value[:2]) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("way", [WAYS[0], *WAYS[4:6], WAYS[8], WAYS[10]], ids=named)
def test_machine_code_counts(way: tuple[str, str, bool, bool]) -> None:
    """Operands take as many registers as an element has bits, and are read by 16 bytes."""
    compiled = lower(kernel(*way), (), TARGET, {})
    (isa,) = (
        find_amd_clang("gfx950").assemble(compiled.lowered.text, "scaled.hip", "gfx950").kernels
    )
    expected = count_instructions(compiled.lowered.program)["mfma"]
    assert isa.count("v_mfma_scale_f32_32x32x64_f8f6f4") == isa.count("v_mfma") == expected > 0
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    pattern = r"v_mfma_scale\S+ v\[[\d:]+\], v\[(\d+):(\d+)\], v\[(\d+):(\d+)\],.*?v\d+(.*)"
    taken = [re.fullmatch(pattern, line) for line in isa.instructions if "v_mfma_scale" in line]
    for found in taken:
        assert found is not None
        first, last, right, end, modifiers = found.groups()
        widths = int(last) - int(first) + 1, int(end) - int(right) + 1
        assert widths == tuple(FORMATS[d][1] for d in way[:2])
        for name, dtype in zip(("cbsz", "blgp"), way, strict=False):
            code = FORMATS[dtype][0]
            assert (f"{name}:{code}" in modifiers) == (code > 0)
    reads = sum(1 if d == FP4 else 2 for d in way[:2])
    assert isa.counts["ds_read_b128"] == expected * reads


@pytest.mark.parametrize("rows", [64, 128])
def test_six_bits_are_packed_once_a_fragment(rows: int) -> None:
    """By two dot products for 4 elements, however many products take the fragment."""
    compiled = lower(kernel(*WAYS[8]), (), TARGET, {"bm": rows, "bn": 128})
    text = compiled.lowered.text
    (isa,) = find_amd_clang("gfx950").assemble(text, "scaled.hip", "gfx950").kernels
    fragments = isa.counts["ds_read_b128"] // 2
    assert isa.count("v_mfma") == (rows // 64 * 2) * 2 and fragments == (rows // 64 + 2) * 2
    assert isa.counts["v_dot4_u32_u8"] == fragments * 16
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)


def test_what_is_above_six_bits_is_not_multiplied() -> None:
    compiled = lower(kernel(*WAYS[8]), (), TARGET, TILES["16"])
    a, b, sa, sb = operands(*WAYS[8][:2], 16, 32, 128)
    exact, magnitude = reference(a, b, sa, sb)
    devices = EmulatorDevice(TARGET, "a test"), MachineCodeDevice(target=TARGET)
    for device in (InterpreterDevice("", "a test"), *devices):
        c = np.full((16, 32), np.nan, np.float32)
        dirty = (a.view(np.uint8) | np.uint8(0x80), b.view(np.uint8) | np.uint8(0x40))
        compiled.run_on(device, (*dirty, sa, sb, c))  # type: ignore[arg-type]
        assert_close(c, exact, magnitude * 2.0**-20, f32, device.name)


def test_a_scale_of_255_is_nan_and_others_reach_the_ends() -> None:
    """Everywhere alike, of one row and 32 k; others as far apart as f32 has numbers."""
    way = WAYS[0]
    compiled = lower(kernel(*way), (), TARGET, TILES["16"])
    a, b = (np.ones((16, 128), NUMPY["float8_e4m3fn"]) for _ in range(2))
    sa, sb = np.full((16, 4), 127, np.uint8), np.full((16, 4), 127, np.uint8)
    sa[3, 1], sa[5], sb[5], sb[6] = 255, 240, 1, 20
    found = []
    for device in (
        InterpreterDevice("", "a test"),
        EmulatorDevice(TARGET, "a test"),
        MachineCodeDevice(target=TARGET),
    ):
        c = np.zeros((16, 16), np.float32)
        compiled.run_on(device, (a, b, sa, sb, c))  # type: ignore[arg-type]
        found.append(c)
    left, right = (np.repeat(np.ldexp(1.0, s.astype(int) - 127), 32, axis=1) for s in (sa, sb))
    exact = left @ right.T
    exact[3] = np.nan
    for c in found:
        assert np.array_equal(c, exact.astype(np.float32), equal_nan=True)


def in_slots(dtype: str) -> Any:
    @tilec.kernel
    def slots(
        A: T.Tensor((64, 128), FP4), B: T.Tensor((32, 128), dtype),
        SA: T.Tensor((64, 4), "uint8"), SB: T.Tensor((32, 4), "uint8"), C: T.Tensor((32, 64), "float32"),
    ):  # fmt: skip
        with T.Kernel(1, threads=128):
            A_s = T.alloc_shared((2, 64, 64), FP4)
            B_f = T.alloc_fragment((32, 64), dtype)
            SA_s = T.alloc_shared((64, 2), "uint8")
            SB_s = T.alloc_shared((32, 2), "uint8")
            acc = T.alloc_fragment((32, 64), "float32")
            T.clear(acc)
            for k in range(2):
                T.copy(A[0, k * 64], A_s[k, :, :])
            for k in range(2):
                T.copy(B[0, k * 64], B_f)
                T.copy(SA[0, 2 * k], SA_s)
                T.copy(SB[0, 2 * k], SB_s)
                T.gemm_scaled(B_f, A_s[k, :, :], acc, SB_s, SA_s, transpose_B=True)
            T.copy(acc, C)

    return slots


@pytest.mark.parametrize("dtype", ["float8_e5m2", BF6])
def test_regions_of_pairs_and_a_fragment_beside_them(dtype: str) -> None:
    """C is transposed."""
    a, b, sa, sb = operands(FP4, dtype, 64, 32, 128)
    exact, magnitude = reference(b, a, sb, sa)
    compiled = lower(in_slots(dtype), (), TARGET, {})
    devices = EmulatorDevice(TARGET, "a test"), MachineCodeDevice(target=TARGET)
    for device in (InterpreterDevice("", "a test"), *devices):
        c = np.full((32, 64), np.nan, np.float32)
        compiled.run_on(device, (pack(a), b, sa, sb, c))  # type: ignore[arg-type]
        assert_close(c, exact, magnitude * 2.0**-20, f32, device.name)


@tilec.kernel
def with_and_without(
    A: T.Tensor((32, 64), FP6), B: T.Tensor((32, 64), BF6), S: T.Tensor((32, 2), "uint8"),
    C: T.Tensor((32, 32), "float32"), D: T.Tensor((32, 32), BF6),
):  # fmt: skip
    with T.Kernel(1, threads=64):
        A_s, B_s = T.alloc_shared((32, 64), FP6), T.alloc_shared((32, 64), BF6)
        S_s = T.alloc_shared((32, 2), "uint8")
        acc = T.alloc_fragment((32, 32), "float32")
        T.copy(A, A_s)
        T.copy(B, B_s)
        T.copy(S, S_s)
        T.gemm(A_s, B_s, acc, transpose_B=True, clear_accum=True)
        T.gemm_scaled(A_s, B_s, acc, S_s, S_s, transpose_B=True)
        T.copy(acc, C)
        T.copy(acc, D)


def test_with_scales_and_without_in_one_kernel() -> None:
    a, b, s, _ = operands(FP6, BF6, 32, 32, 64)
    unscaled = np.full_like(s, 127)
    parts = (reference(a, b, x, x) for x in (s, unscaled))
    exact, magnitude = (sum(part) for part in zip(*parts, strict=True))
    compiled = lower(with_and_without, (), TARGET, {})
    devices = EmulatorDevice(TARGET, "a test"), MachineCodeDevice(target=TARGET)
    for device in (InterpreterDevice("", "a test"), *devices):
        c, d = np.full((32, 32), np.nan, np.float32), np.zeros((32, 32), NUMPY[BF6])
        compiled.run_on(device, (a, b, s, c, d))  # type: ignore[arg-type]
        assert_close(c, exact, magnitude * 2.0**-20, f32, device.name)
        assert d.tobytes() == c.astype(NUMPY[BF6]).tobytes()


@pytest.mark.parametrize("target", ["hip:gfx942", "cuda:sm_80", "cuda:sm_90a", "cuda:sm_100a"])
@pytest.mark.parametrize("way", [WAYS[0], WAYS[4], WAYS[8]], ids=named)
def test_other_targets_refuse(target: str, way: tuple[str, str, bool, bool]) -> None:
    with pytest.raises(TargetUnsupported, match="has no matrix instruction with scales") as caught:
        lower(kernel(*way), (), target, {})
    assert caught.value.code == "TLC0527" and caught.value.loc.known and caught.value.hint


def test_tiles_that_are_no_whole_instructions_are_refused() -> None:
    with pytest.raises(TargetUnsupported) as caught:
        lower(kernel(*WAYS[0]), (), TARGET, {"bk": 32})
    assert caught.value.code == "TLC0527"


@tilec.kernel
def wrong(C: T.Tensor((32, 32), "float32"), operand: str = "float8_e4m3fn",
          groups: int = 4, dtype: str = "uint8", scope: str = "shared"):  # fmt: skip
    with T.Kernel(1, threads=64):
        A_s = T.alloc_shared((32, 64), operand)
        S_s = (
            T.alloc_shared((32, groups), dtype)
            if scope == "shared"
            else T.alloc_fragment((32, groups), dtype)
        )
        acc = T.alloc_fragment((32, 32), "float32")
        T.clear(A_s)
        T.clear(S_s)
        T.clear(acc)
        T.gemm_scaled(A_s, A_s, acc, S_s, S_s, transpose_B=True)
        T.copy(acc, C)


@pytest.mark.parametrize("operand", ["float8_e4m3fn", FP6, FP4])
@pytest.mark.parametrize(
    ("constants", "code", "message"),
    [
        ({"groups": 4}, "TLC0254", r"takes u8\[32, 2\]"),
        ({"groups": 2, "dtype": "int8"}, "TLC0254", r"takes u8\[32, 2\]"),
        ({"groups": 2, "scope": "fragment"}, "TLC0131", "must be shared memory, whole"),
    ],
)
def test_scales_that_do_not_fit(
    constants: dict[str, Any], code: str, message: str, operand: str
) -> None:
    with pytest.raises(TilecError, match=message) as caught:
        lower(wrong, (), TARGET, {**constants, "operand": operand})
    assert caught.value.code == code and caught.value.loc.known and caught.value.hint


def of_pairs(dtype: str, ta: bool = False, tb: bool = True, scope: str = "shared") -> Any:
    @tilec.kernel
    def product(A: T.Tensor((64, 64), dtype), C: T.Tensor((64, 64), "float32")):
        with T.Kernel(1, threads=64):
            alloc = T.alloc_shared if scope == "shared" else T.alloc_fragment
            A_s = alloc((64, 64), dtype)
            S_s = T.alloc_shared((64, 2), "uint8")
            acc = T.alloc_fragment((64, 64), "float32")
            T.copy(A, A_s)
            T.clear(S_s)
            T.clear(acc)
            T.gemm_scaled(A_s, A_s, acc, S_s, S_s, transpose_A=ta, transpose_B=tb)
            T.copy(acc, C)

    return product


def test_columns_that_begin_within_a_byte_are_refused() -> None:
    @tilec.kernel
    def odd(A: T.Tensor((32, 128), FP4), C: T.Tensor((32, 32), "float32")):
        with T.Kernel(1, threads=64):
            A_s = T.alloc_shared((32, 128), FP4)
            S_s = T.alloc_shared((32, 2), "uint8")
            acc = T.alloc_fragment((32, 32), "float32")
            T.copy(A, A_s)
            T.clear(S_s)
            T.clear(acc)
            T.gemm_scaled(A_s[:, 1:65], A_s[:, 0:64], acc, S_s, S_s, transpose_B=True)
            T.copy(acc, C)

    with pytest.raises(TilecError, match="may begin or end within a byte") as caught:
        lower(odd, (), TARGET, {}).source  # noqa: B018
    assert caught.value.code == "TLC0152" and caught.value.loc.known and caught.value.hint


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        ((FP4, True, True), "TLC0152", "A of a gemm with scales.*in rows along M", "B .N, K."),
        ((FP4, False, False), "TLC0152", "B of a gemm with scales.*in rows along N", "B .N, K."),
        ((FP4, False, True, "fragment"), "TLC0152", "A of a gemm.*is fragment", "shared memory"),
        (("int4",), "TLC0152", "gemm is not defined for elements of i4", "int8"),
        (("float16",), "TLC0254", "a gemm with scales of f16", FP4),
    ],
)
def test_operands_that_no_instruction_takes(
    arguments: tuple[Any, ...], code: str, message: str, hint: str
) -> None:
    with pytest.raises(TilecError, match=message) as caught:
        of_pairs(*arguments).lower_to_ir()
    assert caught.value.code == code and caught.value.loc.known
    assert re.search(hint, caught.value.hint)
