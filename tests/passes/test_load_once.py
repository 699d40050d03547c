"""load_once: numbers of a row or a column are loaded once a thread; all other loads stay."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tests.passes.planning import found, keeps_meaning, plan
from tests.passes.test_lift_stores import A1, C1, F16, product
from tilec.ir.core import Program
from tilec.ir.ops.memory import Load
from tilec.ir.ops.tile import LoadTile
from tilec.passes.dependence import is_global

ROWS = T.Tensor(("R",), "float32")
COLUMNS = T.Tensor(("S",), F16)


@tilec.kernel
def scaled(A: A1, rows: ROWS, columns: COLUMNS, C: T.Tensor((64, 40), "float32")):
    """Both at once, of a row twice."""
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            acc[i, j] = acc[i, j] * rows[bx * 32 + i] + columns[j + 3] * rows[bx * 32 + i]
        T.copy(acc, C[bx * 32, 0])


@tilec.kernel
def in_another_order(A: A1, columns: COLUMNS, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for j, i in T.Parallel(32, 32):
            acc[i, j] += columns[j]
        T.copy(acc, C[0, 0])


@tilec.kernel
def of_a_plane(A: A1, X: T.Tensor((3, "S"), F16), C: C1):
    """A column of a matrix whose row no iteration changes."""
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            acc[i, j] += X[bx + 1, j]
        T.copy(acc, C[bx * 32, 0])


@tilec.kernel
def from_a_table(A: A1, table: T.Tensor((32,), "int32"), rows: ROWS, C: C1):
    """The table is a row's; what it names is not at a base and a loop variable."""
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            acc[i, j] += rows[table[i]]
        T.copy(acc, C[0, 0])


@tilec.kernel
def written(A: A1, rows: ROWS, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, j] + rows[i]
            if j == 0:
                rows[i] = 1


@tilec.kernel
def under_a_condition(A: A1, rows: ROWS, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            if i <= j:
                acc[i, j] += rows[i]
        T.copy(acc, C[0, 0])


@tilec.kernel
def of_one_row(X: T.Tensor((4, 64), F16), columns: COLUMNS, C: T.Tensor((4, 64), F16)):
    """No thread has two rows."""
    with T.Kernel(4, threads=32) as bx:
        x = T.alloc_fragment((1, 64), F16)
        T.copy(X[bx, 0], x)
        for i, j in T.Parallel(1, 64):
            x[i, j] *= columns[j]
        T.copy(x, C[bx, 0])


@tilec.kernel
def of_two_rows(
    X: T.Tensor((2, 2048), F16), columns: T.Tensor((2048,), "float32"), C: T.Tensor((2, 2048), F16)
):
    """All columns would be half as many registers as both rows."""
    with T.Kernel(1, threads=32):
        x = T.alloc_fragment((2, 2048), F16)
        T.copy(X, x)
        for i, j in T.Parallel(2, 2048):
            x[i, j] *= columns[j]
        T.copy(x, C)


@tilec.kernel
def acquired(A: A1, rows: ROWS, ready: T.Tensor((1,), "int32"), C: C1):
    """Another block's rows are there once it says so."""
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            n = T.atomic_load(ready[0], "acquire")
            C[i, j] = acc[i, j] + rows[i] * n


ONCE = {scaled: 2, in_another_order: 1, of_a_plane: 1, from_a_table: 1}
KEPT = [written, acquired, under_a_condition, of_one_row, of_two_rows]


def loads(program: Program) -> list[LoadTile]:
    return [op for op in found(program, LoadTile) if len(op.shape) == 1]


@pytest.mark.parametrize("kernel", ONCE, ids=lambda k: k.name)
def test_what_iterations_read_alike_is_a_tile(kernel: Any) -> None:
    before = kernel.lower_to_ir()
    program = plan(before, "load_once").program
    assert len(loads(program)) == ONCE[kernel]
    left = [op for op in found(program, Load) if is_global(op.memory)]
    assert len(left) == (kernel is from_a_table)
    keeps_meaning(before, program)


@pytest.mark.parametrize("kernel", KEPT, ids=lambda k: k.name)
def test_other_loads_stay(kernel: Any) -> None:
    assert not loads(plan(kernel.lower_to_ir(), "load_once").program)


@pytest.mark.emulator
@pytest.mark.parametrize(("rows", "columns"), [(64, 40), (37, 34), (1, 3), (33, 0)])
def test_scales_of_any_length(rows: int, columns: int) -> None:
    random = np.random.default_rng(rows)
    a = random.integers(-3, 4, (32, 16)).astype(np.float16)
    r, c = np.arange(rows, dtype=np.float32), np.arange(columns, dtype=np.float16)
    known_r, known_c = np.zeros(64, np.float32), np.zeros(43, np.float32)
    known_r[:rows], known_c[:columns] = r, c
    expected = np.zeros((64, 40), np.float32)
    expected[:, :32] = np.tile(a.astype(np.float32) @ a.T.astype(np.float32), (2, 1))
    expected[:, :32] = expected[:, :32] * known_r[:, None] + known_c[3:35] * known_r[:, None]
    for leg, (*_, got) in every_leg(scaled, a, r, c, np.zeros_like(expected)):
        np.testing.assert_array_equal(got, expected, err_msg=leg)


def test_each_is_named_in_one_loop() -> None:
    for target, text in compile_texts(scaled).items():
        body = text[text.rindex("scaled_kernel") :]
        for name in ("rows", "columns"):
            loads = re.findall(rf"= .*{name}\[|load_\w+<\d>\(.*, {name}", body)
            assert len(loads) == 1 or target == "hip:gfx942", loads  # a column a thread there
