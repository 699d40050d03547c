"""Tiles of every width that the estimate may choose, whose slabs and boxes are narrower than a line."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
from tests.ops.test_matmul import check, normal
from tilec import ops
from tilec.ops.matmul import Options
from tilec.ops.matmul import check as checked
from tilec.ops.schedules import Problem, candidates
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

H100 = find_target("cuda:sm_90a")
THREADS = {64: 128, 128: 256, 192: 384, 256: 256}


def widths(rows: int) -> list[int]:
    every = candidates(H100, Problem(4096, 4096, 4096))
    return sorted({s.block_N for s in every if s.block_M == rows})


def some_nightly(rows: int, always: tuple[int, ...]) -> list[object]:
    found = [n for n in widths(rows) if n % 64 or rows == 192]
    assert set(always) <= set(found)
    marks = {n: () if n in always else pytest.mark.nightly for n in found}
    return [pytest.param(rows, n, marks=marks[n], id=f"{rows}x{n}") for n in found]


@pytest.mark.emulator
@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        *some_nightly(128, (144, 208, 248, 272)),
        *some_nightly(64, (160,)),
        *some_nightly(192, (112, 192)),
        *some_nightly(256, (152,)),
    ],
)
def test_a_tile_of_odd_width(rows: int, columns: int) -> None:
    """One tile and one more row and column, with a bias; A's last step is not whole."""
    schedule = ops.Schedule(rows, columns, 64, 3, THREADS[rows])
    a, b = normal(rows + 1, 136), normal(columns + 8, 136, seed=1).T
    bias = normal(columns + 8, seed=2)
    with tilec.device("emulator:cuda:sm_90a"):
        found = ops.matmul(a, b, schedule=schedule, epilogue=lambda x, i, j, y: x + y[j], y=bias)
    check(found, a, b, lambda x: x + bias.astype(np.float64))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [(m, n) for m in (128, 192, 256) for n in widths(m)[:: 3 if m < 256 else 1] if n % 64],
)
def test_the_widths_keep_to_tma_and_registers(rows: int, columns: int) -> None:
    call = checked(np.zeros((512, 512), np.float16), np.zeros((512, 512), np.float16).T, Options())
    lowered = call.kernel.lower(
        *call.launches[0], target="cuda:sm_90a", block_M=rows, block_N=columns, block_K=64,
        stages=4, threads=THREADS[rows], split=1, cluster_M=1, cluster_N=1, workers=0, swapped=False,
    )  # fmt: skip
    assert (
        f"wgmma_ss<{columns // -(-columns // 256)}, " in lowered.source
        and "tma_store<2>" in lowered.source
    )
    assert "matmul_kernel" in lowered.source and "cp_async<" not in lowered.source
    (used,) = find_nvrtc().compile(lowered.source, "matmul.cu", "sm_90a").resources
    assert (used.spill_stores, used.spill_loads) == (0, 0)


def test_where_b_is_stored_by_rows_boxes_are_whole_lines() -> None:
    """One H200, 6000 x 6000 x 600: 100 us by 128 x 224, 79 by 128 x 256."""
    found = candidates(H100, Problem(4096, 4096, 4096, b="rows"))
    assert all(s.block_N % 64 == 0 for s in found if s.block_N > 64)
