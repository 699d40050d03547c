"""Layouts that nothing prescribes: wide vectors, unless few threads would hold very many registers."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tilec.ir.core import walk
from tilec.ir.dtypes import f16, f32
from tilec.ir.ops.control import Parallel
from tilec.ir.types import TileType
from tilec.passes.default_layouts import default_layout, nest_vector
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


@tilec.kernel
def nest(
    A: T.Tensor((64, 64), "float16"), B: T.Tensor((4096,), "int32"), C: T.Tensor((64, 64), "float16"),
    how: str = "rows", rows: int = 64,
):  # fmt: skip
    with T.Kernel(1, threads=128):
        for i, j in T.Parallel(rows, 64):
            if how == "rows":
                C[i, j] = A[i, j]
            elif how == "columns":
                C[j, i] = A[j, i]
            elif how == "one of two":
                C[i, j] = A[j, i]
            elif how == "every other":
                B[2 * j + i * 64] = 1
            elif how == "both":
                B[2 * j + i * 64] = 1
                B[2 * j + i * 64 + 1] = 2
            elif how == "table":
                A[B[j], i] = 0
            elif how == "condition":
                if j > B[i]:
                    C[i, j] = A[i, j]
            elif how == "row's condition":
                if i > B[i]:
                    C[i, j] = A[i, j]
            elif how == "loops":
                C[i, j] = 0
                for k in T.serial(B[0]):
                    C[i, j] += A[i, k] * A[k, j]
            elif how == "divided":
                C[(i * 64 + j) // 64, (i * 64 + j) % 64] = 0


@pytest.mark.parametrize(
    ("how", "vector"),
    [
        ("rows", 8), ("columns", 1), ("one of two", 8), ("every other", 1), ("both", 4), ("table", 4),
        ("condition", 1), ("row's condition", 8), ("divided", 8),
    ],
)  # fmt: skip
def test_threads_take_neighbours_where_there_are_no_vectors(how: str, vector: int) -> None:
    program = nest.trace({"how": how, "rows": 64})
    (found,) = [op for op in walk(program.body) if isinstance(op, Parallel)]
    assert nest_vector(found, 128) == vector


@pytest.mark.parametrize(("how", "few"), [("rows", 8), ("loops", 1)])
def test_no_thread_is_idle_for_the_sake_of_vectors(how: str, few: int) -> None:
    """Where there are fewer iterations than threads it gains if they loop."""
    for rows, vector in ((16, 8), (8, 4), (4, 2), (2, 1), (1, few)):
        program = nest.trace({"how": how, "rows": rows})
        (found,) = [op for op in walk(program.body) if isinstance(op, Parallel)]
        assert nest_vector(found, 128) == vector, rows
