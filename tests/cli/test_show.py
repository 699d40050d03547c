"""`tilec show layout` and `resources`: the grids say what the layouts enumerate."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tilec.cli import run as command_line
from tilec.cli.draw_layouts import draw_banks, draw_registers
from tilec.cli.resources import Usage
from tilec.ir.layout.fragments import mma_m16n8
from tilec.ir.layout.shared import SharedLayout
from tilec.target import find_target

GEMM = Path(__file__).resolve().parents[2] / "examples" / "gemm.py"
SMALL = ["-D", "block_M=64", "-D", "block_N=64", "-D", "block_K=32", "-D", "threads=128"]


def test_a_register_grid_is_what_coords_says() -> None:
    layout = mma_m16n8("c", 16, 16)
    head, columns, *rows = draw_registers("acc", "f32", layout, rows=16)
    assert head == "acc: f32[16, 8] in registers of 32 threads, 4 each"
    assert columns.split() == ["0-1", "2-3", "4-5", "6-7"]
    coords = layout.coords()
    for number, row in enumerate(rows):
        label, *cells = row.split()
        assert int(label) == number
        for column, cell in enumerate(cells):
            match = re.fullmatch(r"t(\d+)\.(\d+)", cell)
            assert match is not None
            thread, register = map(int, match.groups())
            assert coords[thread, register].tolist() == [number, 2 * column]
            assert coords[thread, register + 1].tolist() == [number, 2 * column + 1]


def test_a_long_grid_is_cut_and_a_vector_is_one_row() -> None:
    layout = mma_m16n8("c", 16, 16)
    lines = list(draw_registers("acc", "f32", layout, rows=3))
    assert len(lines) == 6 and "rows 3 to 15" in lines[-1]
    vector = layout.reduce(1)
    lines = list(draw_registers("r", "f32", vector, rows=3))
    assert "every element in 4 of them" in lines[0] and len(lines) == 3


@pytest.mark.parametrize("span", [0, 32, 64, 128])
def test_a_bank_grid_is_what_offsets_says(span: int) -> None:
    shape = (8, 64)
    layout = SharedLayout.swizzled(shape, 16, span) if span else SharedLayout.row_major(shape)
    head, columns, *rows = draw_banks("S", "f16", 16, layout, rows=8)
    assert "1024 bytes" in head and columns.split()[:2] == ["0-7", "8-15"]
    for number, row in enumerate(rows):
        banks = [int(n) for n in re.findall(r"bank (\d+)", row)]
        expected = layout.offsets()[number, ::8] * 2 // 4 % 32
        assert banks == expected.tolist()


def test_a_user_layout_of_single_elements_is_drawn_by_element() -> None:
    layout = SharedLayout.row_major((4, 6), pad=1)
    lines = list(draw_banks("S", "f32", 32, layout, rows=4))
    banks = np.array([[int(n) for n in re.findall(r"bank (\d+)", row)] for row in lines[2:]])
    assert banks.shape[0] == 4 and banks[1, 0] == 7


def test_show_layout(capfd: pytest.CaptureFixture[str]) -> None:
    for target in ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942"):
        assert command_line(["show", "layout", str(GEMM), *SMALL, "--target", target]) == 0
        out = capfd.readouterr().out
        assert "acc: f32[64, 64] in registers of 128 threads, 32 each" in out
        assert "A_s: f16[64, 32] in shared memory, 4096 bytes" in out and "bank 0" in out


def test_show_resources(capfd: pytest.CaptureFixture[str]) -> None:
    show = ["show", "resources", str(GEMM), *SMALL, "--target", "cuda:sm_80"]
    assert command_line([*show, "--format", "json"]) == 0
    aligned, *others = json.loads(capfd.readouterr().out)["kernels"]["matmul"]
    assert len(others) == 3 and {one["threads"] for one in (aligned, *others)} == {128}
    assert 16 < aligned["registers"] <= 255 and aligned["spilled_bytes"] == 0
    warps = 65536 // (-(-aligned["registers"] * 32 // 256) * 256)
    assert aligned["blocks_by_registers"] == warps // 4
    assert aligned["blocks_by_shared"] == 164 * 1024 // (aligned["shared_bytes"] + 1024)
    assert aligned["blocks_by_threads"] == 16
    assert command_line(show) == 0
    assert "0 bytes spilled" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("target", "threads", "blocks"),
    [
        ("cuda:sm_75", 32, 16), ("cuda:sm_75", 1024, 1), ("cuda:sm_86", 1024, 1), ("cuda:sm_86", 96, 16),
        ("cuda:sm_89", 64, 24), ("cuda:sm_90a", 64, 32), ("cuda:sm_90a", 65, 21), ("cuda:sm_120a", 256, 6),
        ("hip:gfx942", 64, 32), ("hip:gfx942", 65, 16), ("hip:gfx90a", 256, 8),
    ],
)  # fmt: skip
def test_a_multiprocessor_has_room_for_so_many_blocks(
    target: str, threads: int, blocks: int
) -> None:
    assert find_target(target).resident(threads) == blocks
    used = Usage("k", threads, 1, 0, 0, 0, 0, 99, 99, find_target(target).resident(threads))
    assert f"{blocks} blocks on a multiprocessor, by threads" in str(used)
