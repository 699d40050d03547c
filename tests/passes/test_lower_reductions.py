"""Reductions in lockstep: NumPy's result in every copy, whichever threads and registers hold the
tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.passes.rule_harness import RuleLowering, get_tile, machine_for, put_tile
from tilec.ir.core import Value
from tilec.ir.dtypes import DType, f16, f32, f64, i8, i32, u32
from tilec.ir.layout import (
    RegisterLayout,
    blocked,
    mfma,
    mma_m16n8,
    plan_reduction,
    replicated,
    wgmma_accumulator,
)
from tilec.ir.ops.reduce import KINDS, Reduce, accumulation_dtype
from tilec.ir.ops.thread import Barrier, ShuffleXor
from tilec.ir.types import TileType
from tilec.passes.lower_reductions import lower_reduce

Array = np.ndarray[Any, Any]

LAYOUTS = {
    "mma, 2 x 2 warps": mma_m16n8("c", 16, 16).repeat((2, 2), "thread").repeat((2, 4), "register"),
    "mma, a warp": mma_m16n8("c", 16, 16).repeat((1, 8), "register"),
    "wgmma": wgmma_accumulator(64),
    "wgmma, 2 by columns": wgmma_accumulator(64).repeat((1, 2), "thread"),
    "mfma 32": mfma("c", 32, 32, 8, 16).repeat((2, 2), "thread"),
    "mfma 16": mfma("c", 16, 16, 16, 16).repeat((2, 2), "register"),
    "a row a warp": blocked((4, 256), 128, 8),
    "a row over warps": blocked((2, 256), 128, 1),
    "a row in a thread": RegisterLayout((32, 6), ((32,), (6,)), (0,), (1,)),
    "12 threads a row": blocked((8, 96), 96, 8),
    "3 threads a row": blocked((30, 12), 90, 4),
    "copies": blocked((4, 8), 128, 4),
    "all in every thread": replicated((6, 10), 64),
    "one dimension": blocked((512,), 128, 2),
    "one element": replicated((1, 1), 32),
    "three dimensions": blocked((3, 8, 32), 64, 4),
}


def reduced(
    layout: RegisterLayout,
    dim: int,
    kind: str = "sum",
    source: DType = f32,
    out: DType = f32,
    *,
    keep: bool = False,
    propagate_nan: bool = False,
    contents: Array | None = None,
    target: str = "",
    loops: int = 0,
) -> tuple[Array, Array, Any]:
    """What the threads hold after the rule ran, NumPy's result in float64, and the machine."""
    target = target or ("hip:gfx942" if layout.threads % 64 == 0 else "cuda:sm_80")
    lowering = RuleLowering(target, layout.threads, loops=loops)
    value = Value(TileType(source, layout.shape, layout), "x")
    op = Reduce(value, (), kind=kind, dim=dim, dtype=out, keep=keep, propagate_nan=propagate_nan)
    lower_reduce(op, lowering)  # type: ignore[arg-type]
    if contents is None:
        low = 0 if source.kind == "uint" else -9
        contents = np.random.default_rng(7).integers(low, 10, layout.shape)
    contents = contents.astype(source.numpy)
    machine = machine_for(lowering)
    put_tile(machine, lowering, value, contents)
    machine.allocate(lowering.registers(op.result))
    machine.run(lowering.b.ops)
    return get_tile(machine, lowering, op.result), op.evaluate(contents), machine


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_sums_are_exact_along_every_dimension(name: str, target: str) -> None:
    layout = LAYOUTS[name]
    contents = np.random.default_rng(1).integers(-9, 10, layout.shape)
    for dim in range(layout.rank):
        for keep in (False, True) if layout.rank > 1 else (True,):
            found, _, _ = reduced(layout, dim, keep=keep, contents=contents, target=target)
            assert np.array_equal(found, contents.sum(dim, keepdims=keep))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["mma, 2 x 2 warps", "wgmma", "mfma 32", "12 threads a row"])
def test_kinds(name: str, kind: str) -> None:
    integers = [(i32, i32), (i8, i32), (u32, u32)]
    floats = [] if kind.startswith("bit") else [(f32, f32), (f16, f32), (f64, f64), (f32, f64)]
    for source, out in (*integers, *floats):
        for dim in (0, 1):
            found, expected, _ = reduced(LAYOUTS[name], dim, kind, source, out)
            assert found.dtype == out.numpy and np.array_equal(found, expected)


def test_lanes_shuffle_and_warps_do_not() -> None:
    """Only lanes that differ in the dimension take part; shared memory only where warps do."""
    counts = {
        ("wgmma", 1): (2, 0), ("wgmma", 0): (3, 1), ("mma, a warp", 0): (3, 0),
        ("a row a warp", 1): (5, 0), ("a row a warp", 0): (0, 1), ("a row in a thread", 1): (0, 0),
        ("a row over warps", 1): (5, 1), ("copies", 0): (2, 0), ("all in every thread", 1): (0, 0),
    }  # fmt: skip
    for (name, dim), (masks, barriers) in counts.items():
        _, _, machine = reduced(LAYOUTS[name], dim, target="cuda:sm_80")
        registers = plan_reduction(LAYOUTS[name], dim, 32).partial.registers
        assert machine.count(ShuffleXor) == masks * registers, name
        assert machine.count(Barrier) == barriers, name


@pytest.mark.parametrize("dtype", [i8, f16, f32, f64])
def test_values_of_every_width_go_from_lane_to_lane(dtype: DType) -> None:
    """Without that each thread would read the parts of all: of f64 it did."""
    layout = LAYOUTS["a row over warps"]
    found, expected, machine = reduced(layout, 1, "max", dtype, dtype, target="cuda:sm_80")
    assert np.array_equal(found, expected)
    assert machine.count(ShuffleXor) == 5 * plan_reduction(layout, 1, 32).partial.registers


def test_in_a_loop_the_last_rounds_reads_are_waited_for() -> None:
    _, _, machine = reduced(LAYOUTS["a row over warps"], 1, target="cuda:sm_80", loops=1)
    assert machine.count(Barrier) == 2


@pytest.mark.parametrize("kind", ["max", "min", "absmax"])
def test_nans(kind: str) -> None:
    """A NaN gives way to numbers, or spoils its row, as asked; a row of NaNs is one."""
    layout = LAYOUTS["mma, 2 x 2 warps"]
    contents = np.random.default_rng(2).standard_normal(layout.shape)
    contents[3, 5] = contents[7, :] = np.nan
    contents[9, 1], contents[9, 2] = np.inf, -np.inf
    for propagate in (False, True):
        found, expected, _ = reduced(layout, 1, kind, propagate_nan=propagate, contents=contents)
        assert np.array_equal(found, expected, equal_nan=True)
        assert np.flatnonzero(np.isnan(found)).tolist() == ([3, 7] if propagate else [7])


def test_accumulation_dtypes() -> None:
    assert [accumulation_dtype(d) for d in (f16, f32, f64, i8, i32)] == [f32, f32, f64, i32, i32]
