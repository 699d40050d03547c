"""Scans in lockstep: NumPy's result in every copy, whichever threads and registers hold the tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.passes.rule_harness import RuleLowering, get_tile, machine_for, put_tile
from tests.passes.test_lower_reductions import LAYOUTS
from tilec.ir.core import Value
from tilec.ir.dtypes import DType, f32, f64, i32
from tilec.ir.layout import RegisterLayout
from tilec.ir.ops.reduce import Scan
from tilec.ir.ops.thread import Barrier, Shuffle
from tilec.ir.types import TileType
from tilec.passes.lower_scans import lower_scan

Array = np.ndarray[Any, Any]


def scanned(
    layout: RegisterLayout,
    dim: int,
    contents: Array,
    *,
    kind: str = "sum",
    dtype: DType = f32,
    reverse: bool = False,
    target: str = "cuda:sm_80",
    loops: int = 0,
) -> tuple[Array, Any]:
    lowering = RuleLowering(target, layout.threads, loops=loops)
    value = Value(TileType(dtype, layout.shape, layout), "x")
    op = Scan(value, (), kind=kind, dim=dim, dtype=dtype, reverse=reverse)
    lower_scan(op, lowering)  # type: ignore[arg-type]
    machine = machine_for(lowering)
    put_tile(machine, lowering, value, contents.astype(dtype.numpy))
    machine.allocate(lowering.registers(op.result))
    machine.run(lowering.b.ops)
    return get_tile(machine, lowering, op.result), machine


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_sums_are_exact_along_every_dimension(name: str, target: str) -> None:
    layout = LAYOUTS[name]
    contents = np.random.default_rng(3).integers(-9, 10, layout.shape)
    for dim in range(layout.rank):
        for reverse in (False, True):
            found, _ = scanned(layout, dim, contents, reverse=reverse, target=target)
            order = np.flip(contents, dim) if reverse else contents
            expected = np.cumsum(order, dim)
            assert np.array_equal(found, np.flip(expected, dim) if reverse else expected)


@pytest.mark.parametrize("dtype", [f64, i32])
def test_other_dtypes_and_the_largest(dtype: DType) -> None:
    layout = LAYOUTS["a row over warps"]
    contents = np.random.default_rng(4).integers(-99, 99, layout.shape)
    for kind, function in (("sum", np.add), ("max", np.maximum)):
        found, _ = scanned(layout, 1, contents, kind=kind, dtype=dtype)
        assert found.dtype == dtype.numpy
        assert np.array_equal(found, function.accumulate(contents, axis=1))


def test_lanes_shuffle_and_warps_do_not() -> None:
    counts = {
        ("a row a warp", 1): (6, 0),  # five steps, and the total of the lanes before
        ("a row in a thread", 1): (0, 0),
        ("a row over warps", 1): (28, 1),  # of four blocks; and the total of the warp
        ("all in every thread", 0): (0, 0),
    }
    for (name, dim), (shuffles, barriers) in counts.items():
        _, machine = scanned(LAYOUTS[name], dim, np.zeros(LAYOUTS[name].shape))
        assert (machine.count(Shuffle), machine.count(Barrier)) == (shuffles, barriers), name
    _, machine = scanned(LAYOUTS["a row over warps"], 1, np.zeros((2, 256)), loops=1)
    assert machine.count(Barrier) == 2
