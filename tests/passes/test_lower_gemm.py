"""Gemm rules of the three families: their programs, run in lockstep, multiply matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.passes.rule_harness import RuleLowering, get_tile, machine_for, put_tile
from tilec.errors import LayoutConflict
from tilec.ir.core import Value, constant
from tilec.ir.dtypes import (
    DType,
    bf16,
    bool_,
    e4m3,
    e4m3fnuz,
    e5m2,
    e5m2fnuz,
    f16,
    f32,
    f64,
    i8,
    i32,
    i64,
    tf32,
    u8,
)
from tilec.ir.layout import SharedLayout, choose_swizzle
from tilec.ir.ops.amd import Mfma
from tilec.ir.ops.gemm import Gemm
from tilec.ir.ops.memory import Slot
from tilec.ir.ops.nvidia import LdMatrix, Mma
from tilec.ir.ops.pipeline import Wait
from tilec.ir.ops.thread import VectorLoad
from tilec.ir.ops.wgmma import MakeDescriptor, Wgmma, WgmmaRegisters
from tilec.ir.types import InflightType, MemoryType, ScalarType, Space, TileType
from tilec.passes.lower_fma import lower_fma
from tilec.passes.lower_mfma import lower_mfma
from tilec.passes.lower_mma import lower_mma
from tilec.passes.lower_wgmma import lower_wait, lower_wgmma
from tilec.passes.variants import accumulator_layout, operand_layout

Array = np.ndarray[Any, Any]
Variant = tuple[str, int, int, int, int, int]
RULES = {"mma": lower_mma, "wgmma": lower_wgmma, "mfma": lower_mfma, "fma": lower_fma}
TARGETS = {"mma": "cuda:sm_80", "wgmma": "cuda:sm_90a", "mfma": "hip:gfx942", "fma": "hip:gfx942"}
TRANSPOSES = {"NT": (False, True), "NN": (False, False), "TN": (True, False), "TT": (True, True)}
LANES = {"mma": 32, "wgmma": 128, "mfma": 64, "fma": 1}


def shared(dtype: DType, shape: tuple[int, ...], layout: SharedLayout | None = None) -> Value:
    """A handle with the layout that inference gives operands, unless another is given."""
    span = choose_swizzle(shape, dtype.bits)
    layout = layout or SharedLayout.swizzled(shape, dtype.bits, span)
    return Value(MemoryType(dtype, shape, Space.SHARED, layout))


class Case:
    """One gemm: its operands in shared memory, its accumulator in registers."""

    def __init__(
        self, variant: Variant, size: tuple[int, int, int], transposes: str = "NT",
        dtype: DType = f16, total: DType = f32, target: str = "",
        layouts: tuple[SharedLayout | None, SharedLayout | None] = (None, None), **options: Any,
    ) -> None:  # fmt: skip
        (m, n, k), family = size, variant[0]
        ta, tb = TRANSPOSES[transposes]
        copies = options.pop("copies", 1)
        threads = LANES[family] * variant[4] * variant[5] * copies
        self.lowering = RuleLowering(target or TARGETS[family], threads)
        shapes = ((k, m) if ta else (m, k), (n, k) if tb else (k, n))
        self.a, self.b = (
            shared(dtype, s, layout) for s, layout in zip(shapes, layouts, strict=True)
        )
        tile = TileType(total, (m, n), accumulator_layout(variant, m, n, copies, total.bits))
        self.accumulator = Value(tile)
        options = {"asynchronous": family == "wgmma", **options}
        self.op = Gemm(
            self.a, self.b, self.accumulator, transpose_a=ta, transpose_b=tb,
            instruction=family, variant=variant, **options,
        )  # fmt: skip
        self.lowering.share(self.accumulator, self.op.result)
        self.wait = Wait(self.op.result) if self.op.asynchronous else None
        if self.wait is not None:
            self.lowering.share(self.accumulator, self.wait.result)
        random = np.random.default_rng(m + n + k)
        self.left, self.right = (
            random.integers(0 if dtype.kind == "uint" else -4, 5, s).astype(dtype.numpy)
            for s in ((m, k), (k, n))
        )
        self.start = random.integers(-4, 5, (m, n)).astype(total.numpy)
        self.stored = (self.left.T if ta else self.left, self.right.T if tb else self.right)

    @property
    def product(self) -> Array:
        result: Array = self.left.astype(np.float32) @ self.right.astype(np.float32)
        return result

    def lower(self) -> None:
        RULES[self.op.instruction](self.op, self.lowering)  # type: ignore[arg-type]
        if self.wait is not None:
            lower_wait(self.wait, self.lowering)  # type: ignore[arg-type]

    def run(self, *, start: bool = True, ring: tuple[Value, Value, int] | None = None) -> Array:
        self.lower()
        machine = machine_for(self.lowering)
        if start:
            put_tile(machine, self.lowering, self.accumulator, self.start)
        if ring is not None:
            for handle, contents in zip(ring[:2], self.stored, strict=True):
                full = np.full(handle.type.shape, np.nan, contents.dtype)  # type: ignore[attr-defined]
                full[ring[2]] = contents
                machine.fill(handle, full)
        else:
            machine.fill(self.a, self.stored[0])
            machine.fill(self.b, self.stored[1])
        machine.run(self.lowering.b.ops)
        self.machine = machine
        return get_tile(machine, self.lowering, self.accumulator)


MMA = [
    (("mma", 16, 8, 16, 2, 2), (64, 64, 32)),
    (("mma", 16, 8, 16, 2, 2), (128, 128, 32)),
    (("mma", 16, 8, 16, 4, 1), (128, 128, 32)),
    (("mma", 16, 8, 16, 1, 4), (128, 128, 64)),
    (("mma", 16, 8, 16, 2, 4), (128, 256, 64)),
    (("mma", 16, 8, 16, 1, 1), (16, 8, 16)),
    (("mma", 16, 8, 16, 2, 1), (32, 24, 48)),
    (("mma", 16, 8, 16, 1, 2), (16, 80, 80)),
]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size"), MMA)
def test_mma_multiplies(variant: Variant, size: tuple[int, int, int], transposes: str) -> None:
    case = Case(variant, size, transposes)
    assert np.array_equal(case.run(), case.start + case.product)


SHAPES = [
    (("mma", 16, 8, 8, 2, 2), (64, 48, 24), f16, f32, "cuda:sm_75"),
    (("mma", 16, 8, 8, 1, 2), (48, 16, 8), f16, f16, "cuda:sm_75"),
    (("mma", 16, 8, 8, 2, 1), (32, 40, 40), bf16, f32, "cuda:sm_80"),
    (("mma", 8, 8, 16, 2, 2), (48, 112, 48), i8, i32, "cuda:sm_75"),
    (("mma", 8, 8, 16, 1, 1), (8, 8, 16), u8, i32, "cuda:sm_75"),
    (("mma", 16, 8, 32, 2, 2), (64, 48, 96), i8, i32, "cuda:sm_80"),
    (("mma", 16, 8, 32, 4, 1), (64, 8, 32), u8, i32, "cuda:sm_90a"),
    (("mma", 16, 8, 16, 2, 1), (96, 40, 48), i8, i32, "cuda:sm_86"),
    (("mma", 8, 8, 4, 2, 2), (48, 32, 20), f64, f64, "cuda:sm_80"),
    (("mma", 16, 8, 4, 1, 2), (48, 16, 12), f64, f64, "cuda:sm_90a"),
]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size", "dtype", "total", "target"), SHAPES)
def test_every_shape_of_mma_multiplies(
    variant: Variant, size: tuple[int, int, int], dtype: DType, total: DType, target: str,
    transposes: str,
) -> None:  # fmt: skip
    case = Case(variant, size, transposes, dtype, total, target)
    assert np.array_equal(case.run(), case.start + case.product)
    loads = {op.registers.hint for op in case.machine.executed if isinstance(op, LdMatrix)}
    k_major = {"a_frag": transposes[0] == "N", "b_frag": transposes[1] == "T"}
    by_matrices = {
        side
        for side, contiguous in k_major.items()
        if dtype.bits <= (32 if contiguous else 16) and (contiguous or dtype.bits == 16)
    }
    assert loads == by_matrices


FMA = [
    (("fma", 1, 1, 4, 16, 8), (64, 64, 32), f32, f32),
    (("fma", 1, 4, 2, 8, 4), (32, 48, 12), f32, f32),
    (("fma", 4, 2, 1, 2, 8), (24, 32, 5), f64, f64),
    (("fma", 8, 1, 8, 1, 2), (8, 6, 24), bf16, f32),
    (("fma", 1, 1, 8, 4, 4), (12, 20, 16), f16, f16),
    (("fma", 1, 2, 16, 2, 2), (6, 8, 48), i8, i32),
    (("fma", 1, 1, 1, 1, 1), (1, 3, 7), u8, i64),
]


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size", "dtype", "total"), FMA)
def test_threads_multiply_and_add(
    variant: Variant, size: tuple[int, int, int], dtype: DType, total: DType, transposes: str,
    copies: int,
) -> None:  # fmt: skip
    case = Case(variant, size, transposes, dtype, total, copies=copies)
    assert np.array_equal(case.run(), case.start + case.product)


@pytest.mark.parametrize("dtype", [f16, bf16])
def test_operand_dtypes(dtype: DType) -> None:
    for variant, size in (
        MMA[0],
        (("wgmma", 64, 64, 16, 1, 1), (64, 64, 64)),
        (("mfma", 32, 32, 8, 2, 2), (64, 64, 32)),
    ):
        case = Case(variant, size, dtype=dtype)  # type: ignore[arg-type]
        assert np.array_equal(case.run(), case.start + case.product)


def test_mma_counts_of_instructions() -> None:
    """A step of a 64 x 64 warp tile takes 4 + 4 ldmatrix.x4 and 32 mma."""
    case = Case(("mma", 16, 8, 16, 2, 2), (128, 128, 32))
    case.run()
    loads = [op for op in case.machine.executed if isinstance(op, LdMatrix)]
    assert len(loads) == 2 * (4 + 4) and {op.matrices for op in loads} == {4}
    assert case.machine.count(Mma) == 2 * 32
    written = [op for op in case.lowering.b.ops if isinstance(op, (Mma, LdMatrix))]
    assert not written, "loops stay rolled: nothing stands outside of them"


def test_mma_with_an_odd_number_of_column_blocks_loads_the_last_by_two_matrices() -> None:
    case = Case(("mma", 16, 8, 16, 2, 1), (32, 24, 48))
    case.run()
    loads = [op.matrices for op in case.machine.executed if isinstance(op, LdMatrix)]
    assert loads == [4, 2, 4] * 3  # of B first


def test_mma_reads_padded_memory_by_matrices_and_odd_rows_by_elements() -> None:
    variant, size = MMA[0]
    padded = SharedLayout.row_major((64, 32), pad=8)
    case = Case(variant, size, layouts=(padded, padded))
    assert np.array_equal(case.run(), case.start + case.product)
    assert case.machine.count(LdMatrix) and not case.machine.count(VectorLoad)
    odd = SharedLayout.row_major((64, 32), pad=1)
    case = Case(variant, size, layouts=(odd, padded))
    assert np.array_equal(case.run(), case.start + case.product)
    assert case.machine.count(VectorLoad)


@pytest.mark.parametrize("family", ["mma", "mfma", "wgmma"])
def test_clear_and_accumulate(family: str) -> None:
    variants = {
        "mma": ("mma", 16, 8, 16, 2, 2),
        "mfma": ("mfma", 32, 32, 8, 2, 2),
        "wgmma": ("wgmma", 64, 64, 16, 1, 1),
    }
    variant = variants[family]
    case = Case(variant, (64, 64, 64), clear=True)  # type: ignore[arg-type]
    assert np.array_equal(case.run(), case.product)
    flag = Value(ScalarType(bool_))
    for adds in (False, True):
        case = Case(variant, (64, 64, 64), accumulate=(flag,))  # type: ignore[arg-type]
        case.lower()
        machine = machine_for(case.lowering)
        put_tile(machine, case.lowering, case.accumulator, case.start)
        machine.fill(case.a, case.stored[0])
        machine.fill(case.b, case.stored[1])
        machine.env[flag] = adds
        machine.run(case.lowering.b.ops)
        expected = case.product + (case.start if adds else 0)
        assert np.array_equal(get_tile(machine, case.lowering, case.accumulator), expected)


@pytest.mark.parametrize("family", ["mma", "mfma", "wgmma", "fma"])
def test_left_operand_in_registers(family: str) -> None:
    variants = {
        "mma": ("mma", 16, 8, 16, 2, 2),
        "mfma": ("mfma", 16, 16, 16, 2, 2),
        "wgmma": ("wgmma", 64, 64, 16, 2, 1),
        "fma": ("fma", 1, 1, 8, 32, 16),
    }
    size = (128, 64, 64)
    base = Case(variants[family], size)  # type: ignore[arg-type]
    layout = operand_layout(base.op, variants[family], "a")  # type: ignore[arg-type]
    tile = Value(TileType(f16, (128, 64), layout), "p")
    case = Case(variants[family], size)  # type: ignore[arg-type]
    case.op = case.op.replace(a=tile)  # type: ignore[assignment]
    case.lowering.share(case.accumulator, case.op.result)
    case.lower()
    machine = machine_for(case.lowering)
    put_tile(machine, case.lowering, tile, case.left)
    put_tile(machine, case.lowering, case.accumulator, case.start)
    machine.fill(case.b, case.stored[1])
    machine.run(case.lowering.b.ops)
    assert np.array_equal(
        get_tile(machine, case.lowering, case.accumulator), case.start + case.product
    )
    other = layout.transpose((1, 0)).reshape((128, 64))
    wrong = Value(TileType(f16, (128, 64), other), "p")
    case.op = case.op.replace(a=wrong)  # type: ignore[assignment]
    with pytest.raises(LayoutConflict, match="TLC0421"):
        case.lower()


def test_accumulator_of_one_gemm_is_the_operand_of_the_next() -> None:
    """Attention: the second product takes the first from registers, without moving any; of MFMA
    where it is swapped.
    """
    for variant in (
        ("mma", 16, 8, 16, 4, 1),
        ("wgmma", 64, 64, 16, 1, 1),
        ("mfma", 16, 16, 16, 4, 1, "swapped"),
        ("mfma", 32, 32, 8, 2, 1, "swapped"),
    ):
        first = accumulator_layout(variant, 64, 64)  # type: ignore[arg-type]
        case = Case(variant, (64, 64, 64))  # type: ignore[arg-type]
        assert operand_layout(case.op, variant, "a") == first  # type: ignore[arg-type]


WGMMA = [
    (("wgmma", 64, 256, 16, 2, 1), (128, 256, 64)),
    (("wgmma", 64, 128, 16, 1, 2), (128, 256, 64)),
    (("wgmma", 64, 64, 16, 2, 1), (256, 128, 32)),
    (("wgmma", 64, 64, 16, 1, 1), (64, 64, 128)),
    (("wgmma", 64, 64, 16, 1, 1), (64, 64, 16)),
    (("wgmma", 64, 192, 16, 1, 1), (64, 192, 192)),
]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size"), WGMMA)
def test_wgmma_multiplies(variant: Variant, size: tuple[int, int, int], transposes: str) -> None:
    case = Case(variant, size, transposes)
    assert np.array_equal(case.run(), case.start + case.product)


def test_wgmma_advances_the_descriptor_of_slot_0() -> None:
    case = Case(WGMMA[0][0], WGMMA[0][1])
    rings = []
    index = constant(2, i32)
    for side, handle in (("a", case.a), ("b", case.b)):
        type_ = handle.type
        assert isinstance(type_, MemoryType) and type_.layout is not None
        layout = type_.layout
        size = layout.size + 512
        whole = SharedLayout(
            (3, *layout.shape), ((3,), *layout.modes), ((size,), *layout.strides), layout.swizzle
        )
        ring = Value(MemoryType(f16, (3, *type_.shape), Space.SHARED, whole), side)
        slot = Slot(ring, index, layout_of_slot=layout)
        case.op = case.op.replace(**{side: slot.result})  # type: ignore[assignment]
        case.lowering.definitions[slot.result] = slot
        rings.append(ring)
    case.lowering.share(case.accumulator, case.op.result)
    result = case.run(ring=(rings[0], rings[1], 2))
    assert np.array_equal(result, case.start + case.product)
    made = [op for op in case.lowering.b.ops if isinstance(op, MakeDescriptor)]
    assert [op.memory for op in made] == rings
    assert all(v.value == 0 for op in made for v in op.indices)  # type: ignore[attr-defined]
    assert case.machine.count(Wgmma) == 4


def test_wgmma_refuses_what_descriptors_cannot_say() -> None:
    padded = SharedLayout.row_major((64, 64), pad=8)
    case = Case(("wgmma", 64, 64, 16, 1, 1), (64, 64, 64), layouts=(padded, None))
    with pytest.raises(LayoutConflict, match="TLC0423"):
        case.lower()
    case = Case(("wgmma", 64, 32, 16, 1, 2), (64, 64, 64), "NN")
    with pytest.raises(LayoutConflict, match="multiple of 64 rows"):
        case.lower()


MFMA = [
    (("mfma", 32, 32, 8, 2, 2), (64, 64, 32)),
    (("mfma", 32, 32, 8, 2, 2), (128, 128, 32)),
    (("mfma", 16, 16, 16, 2, 2), (64, 64, 32)),
    (("mfma", 16, 16, 16, 1, 4), (64, 64, 32)),
    (("mfma", 32, 32, 8, 4, 1), (128, 64, 64)),
    (("mfma", 16, 16, 16, 1, 1), (16, 16, 48)),
    (("mfma", 32, 32, 8, 1, 1), (32, 32, 8)),
]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size"), MFMA)
def test_mfma_multiplies(variant: Variant, size: tuple[int, int, int], transposes: str) -> None:
    case = Case(variant, size, transposes)
    assert np.array_equal(case.run(), case.start + case.product)


MFMA_SHAPES = [
    (("mfma", 32, 32, 2, 2, 1), (64, 32, 12), f32, f32, "hip:gfx90a"),
    (("mfma", 16, 16, 4, 1, 2), (16, 96, 24), f32, f32, "hip:gfx942"),
    (("mfma", 16, 16, 4, 2, 2), (64, 32, 20), f64, f64, "hip:gfx90a"),
    (("mfma", 16, 16, 4, 1, 1, "swapped"), (32, 16, 8), f64, f64, "hip:gfx950"),
    (("mfma", 32, 32, 4, 1, 2), (32, 64, 24), tf32, f32, "hip:gfx942"),
    (("mfma", 16, 16, 8, 2, 1, "swapped"), (32, 16, 8), tf32, f32, "hip:gfx942"),
    (("mfma", 32, 32, 8, 1, 1), (32, 64, 32), i8, i32, "hip:gfx90a"),
    (("mfma", 16, 16, 16, 2, 2), (32, 32, 64), i8, i32, "hip:gfx90a"),
    (("mfma", 32, 32, 16, 2, 1), (64, 32, 48), i8, i32, "hip:gfx942"),
    (("mfma", 16, 16, 32, 1, 1), (16, 16, 64), i8, i32, "hip:gfx942"),
    (("mfma", 32, 32, 32, 1, 2), (32, 64, 32), i8, i32, "hip:gfx950"),
    (("mfma", 16, 16, 64, 2, 1), (64, 16, 64), i8, i32, "hip:gfx950"),
    (("mfma", 32, 32, 16, 2, 2), (64, 64, 32), f16, f32, "hip:gfx950"),
    (("mfma", 16, 16, 32, 1, 2), (16, 32, 96), bf16, f32, "hip:gfx950"),
    (("mfma", 32, 32, 16, 1, 1), (32, 32, 64), e4m3, f32, "hip:gfx950"),
    (("mfma", 16, 16, 32, 2, 1), (32, 48, 32), e5m2, f32, "hip:gfx950"),
    (("mfma", 32, 32, 16, 1, 1), (32, 32, 32), e4m3fnuz, f32, "hip:gfx942"),
    (("mfma", 16, 16, 32, 1, 1), (16, 16, 64), e5m2fnuz, f32, "hip:gfx942"),
]


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(("variant", "size", "dtype", "total", "target"), MFMA_SHAPES)
def test_every_shape_of_mfma_multiplies(
    variant: Variant, size: tuple[int, int, int], dtype: DType, total: DType, target: str,
    transposes: str,
) -> None:  # fmt: skip
    case = Case(variant, size, transposes, dtype, total, target)
    assert np.array_equal(case.run(), case.start + case.product)


def test_mfma_reads_sixteen_bytes_a_lane() -> None:
    case = Case(("mfma", 32, 32, 8, 2, 2), (128, 128, 32))
    case.run()
    loads = [op for op in case.machine.executed if isinstance(op, VectorLoad)]
    assert {op.count for op in loads} == {8} and len(loads) == 2 * (2 + 2)
    assert case.machine.count(Mfma) == 4 * 4
    odd = Case(("mfma", 32, 32, 8, 1, 1), (32, 32, 24))
    assert np.array_equal(odd.run(), odd.start + odd.product)
    assert {op.count for op in odd.machine.executed if isinstance(op, VectorLoad)} == {4}


def test_a_variant_that_does_not_divide_is_refused() -> None:
    case = Case(("mma", 16, 8, 16, 2, 2), (64, 64, 32))
    case.op = case.op.replace(variant=("mma", 16, 8, 16, 3, 1))  # type: ignore[assignment]
    with pytest.raises(LayoutConflict, match="TLC0420"):
        case.lower()


def test_registers_of_wgmma_are_counted_once() -> None:
    case = Case(("wgmma", 64, 64, 16, 2, 1), (128, 64, 64), asynchronous=False)
    assert np.array_equal(case.run(), case.start + case.product)
    assert not case.machine.count(WgmmaRegisters)
    assert isinstance(Case(("wgmma", 64, 64, 16, 2, 1), (128, 64, 64)).op.result.type, InflightType)
