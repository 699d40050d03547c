"""gather_pairs: stores of halves of bytes become a copy; what says where stands before the nest."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import keeps_meaning, run_pass
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.memory import Load, Store, memory_type
from tilec.ir.ops.tile import Copy
from tilec.ir.types import Space
from tilec.passes.gather_pairs import gather_pairs

PAIRS = T.Tensor((32, 64), "int4")


@tilec.kernel
def at_a_row(Q: PAIRS, s: T.int32):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 64):
            Q[s * 2 + i, j] = T.cast(i % 7, "int4")


@tilec.kernel
def at_a_row_that_is_looked_up(Q: PAIRS, rows: T.Tensor((4,), "int32"), s: T.int32):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 64):
            r = rows[1]
            Q[r + s + i, j] = T.cast(i % 7, "int4")


@tilec.kernel
def read_before(Q: PAIRS, R: T.Tensor((32, 64), "int32")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 64):
            R[i, j] = T.cast(Q[i, j], "int32")
            Q[i, j] = T.cast(i % 7, "int4")


@tilec.kernel
def read_again(Q: PAIRS, R: T.Tensor((32, 64), "int32")):
    """Before a copy behind the nest it is not there."""
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 64):
            Q[i, j] = T.cast(i % 7, "int4")
            R[i, j] = T.cast(Q[i, j], "int32")


@tilec.kernel
def at_rows_that_are_looked_up(Q: PAIRS, rows: T.Tensor((8,), "int32")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 64):
            Q[rows[i], j] = T.cast(i % 7, "int4")


@pytest.mark.parametrize(
    "kernel", [at_a_row, at_a_row_that_is_looked_up, read_before], ids=lambda k: k.name
)
def test_pairs_are_copied(kernel: Any) -> None:
    before = kernel.lower_to_ir()
    after = run_pass(gather_pairs, before)
    (nest,), (copy,) = after.all(Parallel), after.all(Copy)
    stored = [op.memory for op in nest.walk() if isinstance(op, Store)]
    assert memory_type(copy.source).space is Space.FRAGMENT and copy.source in stored
    assert copy.destination not in stored
    if kernel is at_a_row_that_is_looked_up:
        assert not any(isinstance(op, Load) for op in nest.walk())
    keeps_meaning(before, after.program)


@pytest.mark.parametrize("kernel", [read_again, at_rows_that_are_looked_up], ids=lambda k: k.name)
def test_other_nests_stay(kernel: Any) -> None:
    before = kernel.lower_to_ir()
    assert run_pass(gather_pairs, before).program.body is before.body
