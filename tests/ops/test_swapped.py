"""Products whose few rows are the columns of tiles: the transposed product, stored transposed."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

import tilec
from tests.kernels.legs import DEVICES, turns
from tests.ops.test_matmul import check, layouts, normal, wide
from tilec import ops
from tilec.errors import ArgumentError
from tilec.ops.matmul import Options
from tilec.ops.matmul import check as checked
from tilec.runtime.nvrtc import find_nvrtc

SWAPPED = ops.Schedule(64, 16, 32, 3, 128, swapped=True)
PARTS = ops.Schedule(64, 16, 32, 3, 128, split=3, swapped=True)
SHAPES = [(1, 65, 40), (15, 64, 33), (16, 129, 64), (17, 63, 97), (31, 1, 8), (8, 72, 0)]


@pytest.mark.parametrize("schedule", [SWAPPED, PARTS], ids=["whole", "parts"])
def test_every_layout_of_both_operands(schedule: ops.Schedule) -> None:
    for m, n, k in SHAPES:
        for a in layouts(normal(m, k)):
            for b in layouts(normal(k, n, seed=1)):
                check(ops.matmul(a, b, schedule=schedule), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "pair"), turns([(0, 1), (1, 0), (1, 1), (2, 3)]))
def test_layouts_on_every_machine(device: str, pair: tuple[int, int]) -> None:
    for m, n, k in SHAPES[:: 2 if pair == (0, 1) else 3]:
        a, b = layouts(normal(m, k))[pair[0]], layouts(normal(k, n, seed=1))[pair[1]]
        with tilec.device(device):
            check(ops.matmul(a, b, schedule=SWAPPED), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_an_epilogue_counts_rows_and_columns_of_the_result(device: str) -> None:
    a, b = normal(9, 40), normal(40, 70, seed=1)
    bias, kept = normal(70, seed=2), normal(9, 70, dtype="float32", seed=3)
    with tilec.device(device):
        found = ops.matmul(
            a, b, schedule=SWAPPED, out_dtype="float32", bias=bias, kept=kept,
            epilogue=lambda x, i, j, bias, kept: x + bias[j] + 2 * kept[i, j] - 3 * i,
        )  # fmt: skip
    rows = np.arange(9)[:, None]
    check(found, a, b, lambda x: x + wide(bias) + 2 * wide(kept) - 3 * rows)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_batches_and_two_dtypes(device: str) -> None:
    a, b = normal(3, 5, 64), normal(3, 64, 66, seed=1)
    with tilec.device(device):
        found = ops.matmul(a, b, schedule=PARTS, epilogue=lambda x, z, i, j: x + 8 * z + i)
        check(found, a, b, lambda x: x + 8 * np.arange(3)[:, None, None] + np.arange(5)[:, None])
        a, b = normal(5, 64, dtype="e4m3"), normal(70, 64, dtype="e5m2", seed=1).T
        check(ops.matmul(a, b, schedule=SWAPPED, out_dtype="float32"), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["NT", "TN"])
def test_groups_of_few_rows(device: str, layout: str) -> None:
    offsets = np.array([0, 3, 3, 20, 29], np.int32)
    a, b = normal(29, 40), normal(4, 40, 70, seed=1)
    if layout == "TN":
        a = np.asfortranarray(a)
    else:
        b = np.ascontiguousarray(b.transpose(0, 2, 1)).transpose(0, 2, 1)
    with tilec.device(device):
        found = ops.grouped_matmul(
            a, b, offsets, schedule=SWAPPED, epilogue=lambda x, g, i, j: x + 4 * g + i
        )
    for group, (first, last) in enumerate(pairwise(offsets)):
        rows = np.arange(first, last)[:, None]
        check(found[first:last], a[first:last], b[group], lambda x, g=group, r=rows: x + 4 * g + r)


@pytest.mark.emulator
@pytest.mark.parametrize(("rows", "columns", "threads"), [(128, 208, 256), (192, 40, 384)])
def test_a_tile_of_several_warpgroups(rows: int, columns: int, threads: int) -> None:
    schedule = ops.Schedule(rows, columns, 64, 3, threads, swapped=True)
    a, b = normal(columns + 1, 136), normal(rows + 8, 136, seed=1).T
    bias = normal(rows + 8, seed=2)
    with tilec.device("emulator:cuda:sm_90a"):
        found = ops.matmul(a, b, schedule=schedule, epilogue=lambda x, i, j, y: x + y[j], y=bias)
    check(found, a, b, lambda x: x + wide(bias))


@pytest.mark.parametrize(
    ("rows", "columns", "threads", "slabs"),
    [(64, 8, 128, 1), (64, 24, 128, 1), (128, 208, 256, 2), (128, 256, 256, 4), (192, 160, 384, 4)],
)
def test_results_are_stored_by_tma(rows: int, columns: int, threads: int, slabs: int) -> None:
    call = checked(np.zeros((512, 512), np.float16), np.zeros((512, 512), np.float16).T, Options())
    schedule = ops.Schedule(rows, columns, 64, 4, threads, swapped=True)
    lowered = call.kernel.lower(*call.launches[0], target="cuda:sm_90a", **asdict(schedule))
    assert lowered.source.count("  tma_store<2>(C_map, C_stage") == slabs
    assert lowered.source.count("  stmatrix_trans<") == slabs and "C_stage[" not in lowered.source
    (used,) = find_nvrtc().compile(lowered.source, "matmul.cu", "sm_90a").resources
    assert (used.spill_stores, used.spill_loads) == (0, 0)


def test_few_rows_are_swapped_where_wgmma_multiplies() -> None:
    few = np.zeros((8, 512), np.float16), np.zeros((8192, 512), np.float16).T
    call = checked(*few, Options())
    lowered = call.kernel.lower(*call.launches[0], target="cuda:sm_90a")
    assert "wgmma_ss<8, " in lowered.source and "tma_load" in lowered.source
    assert "wgmma" not in call.kernel.lower(*call.launches[0], target="cuda:sm_80").source


def test_swapped_blocks_do_not_share_a_last_wave() -> None:
    schedule = ops.Schedule(64, 16, 32, 3, 128, workers=4, swapped=True)
    with pytest.raises(ArgumentError, match="swapped") as refused:
        ops.matmul(normal(8, 64), normal(64, 70), schedule=schedule)
    assert "neither swapped nor in clusters" in refused.value.hint
