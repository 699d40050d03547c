"""Conversions of layouts, run in lockstep: the tile is the same in every layout, whichever way it
went.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.passes.rule_harness import RuleLowering, get_tile, machine_for, put_tile
from tilec.ir.core import Value
from tilec.ir.dtypes import DType, f16, f32, f64, i8
from tilec.ir.layout import (
    RegisterLayout,
    blocked,
    classify,
    mfma,
    mma_m16n8,
    replicated,
    wgmma_accumulator,
)
from tilec.ir.ops.memory import Alloc
from tilec.ir.ops.thread import Barrier, ConvertRegisters, Shuffle, VectorStore
from tilec.ir.ops.tile import ConvertLayout
from tilec.ir.types import MemoryType, Space, TileType
from tilec.passes.convert_layouts import lower_convert_layout, nested_strides

Array = np.ndarray[Any, Any]

ACCUMULATOR = mma_m16n8("c", 16, 16).repeat((2, 2), "thread").repeat((2, 4), "register")
OPERAND = mma_m16n8("a", 16, 16).repeat((1, 4), "register")
CASES: dict[str, tuple[RegisterLayout, RegisterLayout, str]] = {
    "accumulator to operand": (
        mma_m16n8("c", 16, 16).repeat((1, 8), "register"), OPERAND, "same",
    ),
    "registers in another order": (
        RegisterLayout((32, 16), ((32,), (4, 4)), (0,), (1, 2)),
        RegisterLayout((32, 16), ((32,), (4, 4)), (0,), (2, 1)),
        "permute",
    ),
    "a copy in every thread to a part in each": (
        replicated((64,), 32), blocked((64,), 32, 2), "shared",
    ),
    "operand to rows of two": (
        mma_m16n8("c", 16, 16),
        RegisterLayout((16, 8), ((8, 2), (4, 2)), (0, 2), (1, 3)),
        "shuffle",
    ),
    "rows of one to rows of two": (
        RegisterLayout((32, 4), ((32,), (4,)), (0,), (1,)),
        RegisterLayout((32, 4), ((16, 2), (4,)), (0, 1), (2,)),
        "same",
    ),
    "accumulator to rows": (ACCUMULATOR, blocked((64, 64), 128, 4), "shared"),
    "warpgroup to rows": (wgmma_accumulator(64), blocked((64, 64), 128, 8), "shared"),
    "rows to warpgroup": (blocked((64, 64), 128, 8), wgmma_accumulator(64), "shared"),
    "odd rows": (blocked((30, 12), 30, 4), blocked((30, 12), 30, 1), "shared"),
}  # fmt: skip


def convert(
    source: RegisterLayout,
    wanted: RegisterLayout,
    dtype: DType = f32,
    target: str = "cuda:sm_80",
    loops: int = 0,
) -> tuple[Array, Array, Any, RuleLowering]:
    lowering = RuleLowering(target, source.threads, loops=loops)
    value = Value(TileType(dtype, source.shape, source), "x")
    op = ConvertLayout(value, layout=wanted)
    lower_convert_layout(op, lowering)  # type: ignore[arg-type]
    contents = np.arange(np.prod(source.shape)).reshape(source.shape) % 101
    machine = machine_for(lowering)
    put_tile(machine, lowering, value, contents.astype(dtype.numpy))
    machine.allocate(lowering.registers(op.result))
    machine.run(lowering.b.ops)
    return get_tile(machine, lowering, op.result), contents, machine, lowering


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [f32, f16])
def test_tile_is_the_same_after(case: str, dtype: DType) -> None:
    source, wanted, _ = CASES[case]
    result, contents, _, _ = convert(source, wanted, dtype)
    assert np.array_equal(result, contents.astype(dtype.numpy))


def test_cases_go_all_ways() -> None:
    found = {name: classify(a, b, 32).kind for name, (a, b, _) in CASES.items()}
    assert found == {name: kind for name, (_, _, kind) in CASES.items()}
    assert set(found.values()) == {"same", "permute", "shuffle", "shared"}


def test_a_permutation_is_loops_of_moves() -> None:
    source, wanted, _ = CASES["registers in another order"]
    _, _, machine, lowering = convert(source, wanted)
    assert machine.count(ConvertRegisters) == 16
    assert not any(isinstance(op, ConvertRegisters) for op in lowering.b.ops), "it stands in a loop"
    assert not machine.count(Shuffle) and not lowering.remarks


def test_shuffles_stay_in_the_warp() -> None:
    source, wanted, _ = CASES["operand to rows of two"]
    _, _, machine, lowering = convert(source, wanted)
    assert machine.count(Shuffle) and not machine.count(Barrier) and not lowering.remarks


def test_shuffle_of_bytes_and_of_eight_bytes() -> None:
    source, wanted, _ = CASES["operand to rows of two"]
    result, contents, machine, _ = convert(source, wanted, i8)
    assert np.array_equal(result, contents.astype(np.int8)) and machine.count(Shuffle)
    result, contents, machine, _ = convert(source, wanted, f64)
    assert np.array_equal(result, contents) and machine.count(Shuffle)


def test_waves_of_64_shuffle() -> None:
    source = mfma("c", 32, 32, 8, 16)
    wanted = RegisterLayout((32, 32), ((32,), (2, 16)), (1, 0), (2,))
    result, contents, machine, _ = convert(source, wanted, target="hip:gfx942")
    assert np.array_equal(result, contents)
    shifted = RegisterLayout((64, 2), ((32, 2), (2,)), (0, 2), (1,))
    rows = RegisterLayout((64, 2), ((64,), (2,)), (0,), (1,))
    assert classify(rows, shifted, 64).kind == "shuffle"
    result, contents, machine, _ = convert(rows, shifted, target="hip:gfx942")
    assert np.array_equal(result, contents) and machine.count(Shuffle)


def test_shared_memory_between_barriers_is_remarked() -> None:
    source, wanted, _ = CASES["accumulator to rows"]
    _, _, machine, lowering = convert(source, wanted)
    kinds = [type(op) for op in machine.executed if isinstance(op, (Barrier, VectorStore))]
    assert kinds[0] is Barrier and kinds[-1] is Barrier and kinds.count(Barrier) == 2
    assert [(r.code, r.warning) for r in lowering.remarks] == [("TLC0424", False)]
    _, _, _, looped = convert(source, wanted, loops=1)
    assert looped.remarks[0].warning and "in a loop" in looped.remarks[0].message
    buffers = [
        op for op in lowering.b.ops if isinstance(op, Alloc) and op.type.space is Space.SHARED
    ]
    assert [op.managed for op in buffers] == [True]
    assert isinstance(buffers[0].type, MemoryType)


def test_only_the_first_copy_is_stored() -> None:
    one = RegisterLayout((32, 4), ((32,), (4,)), (0,), (1,)).replicate(2)
    rows = blocked((32, 4), 64, 2)
    result, contents, machine, _ = convert(one, rows)
    assert np.array_equal(result, contents)
    assert machine.stored == 32 * 4


@pytest.mark.parametrize(
    ("entries", "loops"),
    [
        ((0, 1, 2, 3), ((4, 1),)),
        ((5, 6, 9, 10), ((2, 4), (2, 1))),
        ((0, 4, 1, 5, 2, 6, 3, 7), ((4, 1), (2, 4))),
        ((0, 0, 1, 1), ((2, 1), (2, 0))),
        ((0, 1, 3), None),
        ((7,), ()),
    ],
)
def test_nested_strides(entries: tuple[int, ...], loops: object) -> None:
    assert nested_strides(entries) == loops
