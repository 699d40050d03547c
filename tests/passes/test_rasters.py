"""rasters: every order takes every block once, panel by panel."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from tilec.ir.build import Builder, scalar
from tilec.ir.core import Constant, Op, Value
from tilec.ir.dtypes import i32
from tilec.passes.rasters import gathered_by_die, rasterize

Array = np.ndarray[Any, Any]
PANELS = (0, 1, 2, 3, 5, 16)
GRIDS = [(x, y, z) for x in range(1, 10) for y in range(1, 10) for z in (1, 2, 3)]


@cache
def built(panel: int, order: str) -> tuple[tuple[Value, ...], tuple[Op, ...], tuple[Value, ...]]:
    """The inputs (index, then grid), the ops and the outputs of a raster, all symbolic."""
    b = Builder()
    inputs = tuple(scalar(i32, n) for n in ("index", "gx", "gy", "gz"))
    rows = b.const(panel) if panel else None
    outputs = rasterize(b, inputs[0], (inputs[1], inputs[2], inputs[3]), rows, order)
    return inputs, b.ops, outputs


def blocks(grid: tuple[int, int, int], panel: int, order: str) -> list[tuple[int, int, int]]:
    """The block of every index in turn, by running the ops on all indices at once."""
    inputs, ops, outputs = built(panel, order)
    total = grid[0] * grid[1] * grid[2]
    numbers: dict[Value, Array] = {inputs[0]: np.arange(total, dtype=np.int32)}
    for value, extent in zip(inputs[1:], grid, strict=True):
        numbers[value] = np.full(total, extent, np.int32)

    def read(value: Value) -> Array:
        return (
            np.full(total, value.value, np.int32) if isinstance(value, Constant) else numbers[value]
        )

    for op in ops:
        numbers[op.result] = op.evaluate(*(read(v) for v in op.inputs))
    x, y, z = (read(v).tolist() for v in outputs)
    return list(zip(x, y, z, strict=True))


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("panel", PANELS)
def test_every_block_is_taken_once(panel: int, order: str) -> None:
    for grid in GRIDS:
        taken = blocks(grid, panel, order)
        wanted = {(x, y, z) for z in range(grid[2]) for y in range(grid[1]) for x in range(grid[0])}
        assert len(taken) == len(wanted) and set(taken) == wanted, grid


def test_without_panels_x_is_fastest() -> None:
    assert blocks((3, 2, 2), 0, "row")[:7] == [
        (0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 1, 0), (1, 1, 0), (2, 1, 0), (0, 0, 1),
    ]  # fmt: skip


def test_a_panel_of_rows_is_walked_down_its_columns() -> None:
    order = [(x, y) for x, y, _ in blocks((3, 5, 1), 2, "row")]
    assert order == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1),
        (0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3),
        (0, 4), (1, 4), (2, 4),
    ]  # fmt: skip


def test_a_panel_of_columns_is_the_same_with_x_and_y_exchanged() -> None:
    rows = [(y, x) for x, y, _ in blocks((3, 5, 1), 2, "row")]
    assert [(x, y) for x, y, _ in blocks((5, 3, 1), 2, "column")] == rows


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("panel", PANELS[1:])
def test_a_panel_is_finished_before_the_next(panel: int, order: str) -> None:
    for grid in GRIDS:
        axis = 1 if order == "row" else 0
        panels = [(b[2], b[axis] // panel) for b in blocks(grid, panel, order)]
        assert panels == sorted(panels), grid


@pytest.mark.parametrize("dies", [1, 2, 8])
def test_a_die_takes_consecutive_blocks(dies: int) -> None:
    for grid in GRIDS:
        b = Builder()
        total = grid[0] * grid[1] * grid[2]
        found = [
            gathered_by_die(b, b.const(i), tuple(map(b.const, grid)), dies)  # type: ignore[arg-type]
            for i in range(total)
        ]
        numbers = [value.value for value in found if isinstance(value, Constant)]
        assert sorted(numbers) == list(range(total)), grid
        by_die = [numbers[die::dies] for die in range(dies)]
        assert [n for taken in by_die for n in taken] == list(range(total)), grid


def test_constants_fold_to_constants() -> None:
    b = Builder()
    one = b.const(1)
    outputs = rasterize(b, b.const(4), (b.const(3), b.const(5), one), b.const(2), "row")
    assert [v.value for v in outputs if isinstance(v, Constant)] == [2, 0, 0]
    assert not b.ops
