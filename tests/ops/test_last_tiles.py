"""The last tile of a product ends with the matrix, and has elements in common with the one before it:
but where the epilogue reads what it overwrites, or the last wave is shared."""

from __future__ import annotations

import importlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

import tilec
from tests.ops.test_matmul import PARTS, SMALL, check, normal
from tilec import ops
from tilec.ops.operands import Options
from tilec.ops.schedules import estimate
from tilec.target import find_target

pytestmark = pytest.mark.emulator
matmul: Any = importlib.import_module("tilec.ops.matmul")
DEVICES = ["interpreter", "emulator:cuda:sm_90a", "emulator:cuda:sm_80"]


def add(x: Any, i: Any, j: Any, c: Any) -> Any:
    return x + c[i, j]


def text(schedule: ops.Schedule, **options: Any) -> str:
    a, b = np.zeros((200, 64), np.float16), np.zeros((64, 200), np.float16)
    call = matmul.check(a, b, Options(**options))
    return str(
        call.kernel.lower(*call.launches[0], target="cuda:sm_90a", **asdict(schedule)).source
    )


def test_tiles_overlap_where_no_element_depends_on_it() -> None:
    out = np.zeros((200, 200), np.float16)
    apart = {"out": out, "epilogue": add, "operands": {"c": out.copy()}}
    in_place = {**apart, "operands": {"c": out[:, ::-1][:, ::-1]}}
    last = "M - 49) >> 4) * 16"  # 64 rows, up to 16 behind the end
    assert last in text(SMALL, out=out) and last in text(SMALL, **apart)
    assert last in text(PARTS, out=out)
    assert last not in text(SMALL, **in_place)
    assert last not in text(replace(SMALL, workers=4), out=out)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("schedule", [SMALL, PARTS], ids=["whole", "parts"])
def test_an_epilogue_reads_each_element_that_it_overwrites_once(
    device: str, schedule: ops.Schedule
) -> None:
    """And a call like an earlier one, whose operand lay apart, is not made like it."""
    a, b = normal(65, 136), normal(136, 72, seed=1)
    out, other = np.zeros((2, 128, 72), np.float32)[:, :65]  # aligned alike
    with tilec.device(device):
        for c in (other, out, other, out):
            out[...], other[...] = normal(65, 72, seed=2), normal(65, 72, seed=3)
            before = c.astype(np.float64)
            ops.matmul(a, b, out=out, epilogue=add, c=c, schedule=schedule)
            check(out, a, b, lambda x, before=before: x + before)


@pytest.mark.parametrize("device", DEVICES)
def test_extents_beside_those_of_tiles(device: str) -> None:
    for m, n in ((63, 64), (64, 65), (79, 80), (80, 127), (127, 129), (16, 200)):
        a, b = normal(m, 40), normal(n, 40, seed=1).T
        with tilec.device(device):
            for schedule in (SMALL, PARTS):
                check(ops.matmul(a, b, schedule=schedule), a, b)


def test_what_is_outside_of_the_last_tile_costs_nothing() -> None:
    """One H200, 3720 x 392 x 2112 by 64 x 224: 17.2 us where tiles end behind the matrix, 13.8."""
    H100 = find_target("cuda:sm_90a")
    problem = ops.schedules.Problem(3720, 392, 2112)
    tile = ops.Schedule(64, 224, 64, 6, 128)
    apart, in_place = (estimate(H100, p, tile) for p in (problem, replace(problem, in_place=True)))
    assert in_place > 1.15 * apart
    groups = replace(problem, whole=True)  # whose last tiles reach over the end
    assert estimate(H100, groups, tile) == in_place
