"""Layouts that nothing prescribes: wide vectors, unless few threads would hold very many registers."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tilec.ir.dtypes import f16, f32
from tilec.ir.types import TileType
from tilec.passes.default_layouts import default_layout
from tilec.target import find_target


@pytest.mark.parametrize(
    ("shape", "threads", "registers", "vector"),
    [
        ((1024,), 128, 8, 4),
        ((128, 256), 256, 128, 4),  # many, and no narrower vector would leave fewer
        ((1000,), 128, 125, 1),  # 250 vectors of 4 divide among 2 threads, 1000 elements among 8
        ((8, 1000), 128, 125, 1),
        ((1000,), 8, 125, 1),
        ((120,), 128, 15, 1),
        ((24,), 128, 12, 4),  # few, however they lie
    ],
)
def test_registers_of_a_thread(
    shape: tuple[int, ...], threads: int, registers: int, vector: int
) -> None:
    layout = default_layout(TileType(f32, shape), threads, find_target("cuda:sm_80"))
    assert (layout.registers, layout.vector_width() & -layout.vector_width()) == (registers, vector)


def test_halves_too() -> None:
    layout = default_layout(TileType(f16, (16, 1000)), 256, find_target("hip:gfx942"))
    assert (layout.registers, layout.threads) == (125, 256)


@tilec.kernel
def shares(A: T.Tensor((8, 1000), "float32"), C: T.Tensor((8, 1000), "float32")):
    """Rows divided by their sums."""
    with T.Kernel(1, threads=128):
        x, sums = T.alloc_fragment((8, 1000), "float32"), T.alloc_fragment((8,), "float32")
        T.copy(A, x)
        T.reduce_sum(x, sums, dim=1)
        for i, j in T.Parallel(8, 1000):
            x[i, j] = x[i, j] / sums[i]
        T.copy(x, C)


@pytest.mark.emulator
def test_rows_of_a_thousand() -> None:
    a = np.random.default_rng(0).integers(1, 9, (8, 1000)).astype(np.float32)
    expected = a / a.sum(1, keepdims=True)
    for leg, (_, c) in every_leg(shares, a, np.zeros_like(a)):
        np.testing.assert_allclose(c, expected, 1e-6, 0, err_msg=leg)


def test_rows_of_a_thousand_do_not_spill() -> None:
    compile_texts(shares)
