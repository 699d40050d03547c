"""start_gathers: which nests become asynchronous copies, of how many elements, and where the others go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import Planned, plan, specialised
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.pipeline import Channel, Stage

Element = Callable[..., Any]


def element_of(name: str, dtype: str, inner: int | str) -> Any:
    """A product whose operand is gathered, each element as ELEMENTS says."""
    element = ELEMENTS[name]

    @tilec.kernel
    def gathered(
        X: T.Tensor(("R", "S", inner), dtype),
        rows: T.Tensor(("M",), "int32"),
        B: T.Tensor(("K", 64), dtype),
        C: T.Tensor(("M", 64), "float32"),
    ):
        with T.Kernel(T.ceildiv(C.shape[0], 64), threads=128) as by:
            X_s = T.alloc_shared((64, 32), dtype)
            B_s = T.alloc_shared((32, 64), dtype)
            acc = T.alloc_fragment((64, 64), "float32")
            T.clear(acc)
            for k in T.Pipelined(T.ceildiv(B.shape[0], 32), num_stages=4):
                T.copy(B[k * 32, 0], B_s)
                for i, j in T.Parallel(64, 32):
                    X_s[i, j] = element(X, rows, by * 64 + i, k * 32 + j)
                T.gemm(X_s, B_s, acc)
            T.copy(acc, C[by * 64, 0])

    return gathered


ELEMENTS: dict[str, Element] = {
    "a row that a table names": lambda X, rows, m, k: X[rows[m], 3, k],
    "zeros where there is none": lambda X, rows, m, k: T.if_then_else(rows[m] >= 0, X[rows[m], 0, k], 0),
    "zeros where there is one": lambda X, rows, m, k: T.if_then_else(rows[m] < 0, 0, X[rows[m], 0, k]),
    "a part of a row": lambda X, rows, m, k: X[m, k // 16, k % 16 + 8],
    "zeros from a multiple on": lambda X, rows, m, k: T.if_then_else(k < 72, X[m % 5, k // 24, k % 24], 0),
    "zeros from anywhere on": lambda X, rows, m, k: T.if_then_else(k < 70, X[m % 5, k // 24, k % 24], 0),
    "rows of no whole runs": lambda X, rows, m, k: X[m % 5, k // 20, k % 20],
    "rows of three": lambda X, rows, m, k: X[m, k // 3, k % 3],
    "half a run further on": lambda X, rows, m, k: X[m % 5, 0, k + 4],
    "columns": lambda X, rows, m, k: X[k, 0, m],
    "every second": lambda X, rows, m, k: X[m % 5, 0, 2 * k],
    "backwards": lambda X, rows, m, k: X[m % 5, 0, 31 - k],
    "as the row says": lambda X, rows, m, k: X[m % 5, 0, k + rows[m]],
    "where a division says": lambda X, rows, m, k: T.if_then_else(rows[m] > 0, X[m // rows[m], 0, k], 0),
    "ones where there is none": lambda X, rows, m, k: T.if_then_else(rows[m] >= 0, X[rows[m], 0, k], 1),
    "twice as much": lambda X, rows, m, k: X[rows[m], 0, k] * 2,
    "where it is positive": lambda X, rows, m, k: T.if_then_else(X[0, 0, k] > 0, X[m % 5, 0, k], 0),
    "of a place that it says itself": lambda X, rows, m, k: X[rows[rows[m]], 0, k],
}  # fmt: skip

RUNS = [
    ("a row that a table names", "float16", 64, 8),
    ("a row that a table names", "float32", 64, 4),
    ("a row that a table names", "int8", 64, 16),
    ("a row that a table names", "float16", "N", 8),
    ("a row that a table names", "float16", 20, 4),  # rows of 40 bytes
    ("a row that a table names", "float16", 18, 2),
    ("a row that a table names", "float16", 17, 0),
    ("zeros where there is none", "float16", 64, 8),
    ("zeros where there is one", "float16", 64, 8),
    ("a part of a row", "float16", 64, 8),
    ("zeros from a multiple on", "float16", 24, 8),
    ("zeros from anywhere on", "float16", 24, 2),
    ("rows of no whole runs", "float16", 64, 4),
    ("rows of three", "float16", 64, 0),
    ("half a run further on", "float16", 64, 4),
    ("columns", "float16", 64, 0),
    ("columns", "float32", 64, 1),
    ("every second", "float16", 64, 0),
    ("backwards", "float16", 64, 0),
    ("as the row says", "float16", 64, 0),
    ("where a division says", "float16", 64, 8),
    ("ones where there is none", "float16", 64, 0),
    ("twice as much", "float16", 64, 0),
    ("where it is positive", "float16", 64, 0),
    ("of a place that it says itself", "float16", 64, 8),
]


def planned(kernel: Any, target: str = "cuda:sm_80", assume: bool = True) -> Planned:
    return plan(specialised(kernel), "start_gathers", target, assume=assume)


@pytest.mark.parametrize(("name", "dtype", "inner", "run"), RUNS)
def test_runs(name: str, dtype: str, inner: int | str, run: int) -> None:
    after = planned(element_of(name, dtype, inner))
    nest = next(op for op in after.all(Parallel) if not op.updates)
    assert (nest.run if nest.instruction else 0) == run
    stages = [stage.label for stage in after.all(Stage)]
    assert stages == (["load", "mma"] if run else ["load", "make", "mma"])
    computes = name in ("ones where there is none", "twice as much")
    assert ("TLC0339" in after.codes) == (run == 0 and not computes)


@pytest.mark.parametrize("target", ["cuda:sm_75", "hip:gfx942", "hip:gfx950"])
def test_machines_without_such_copies_gather_in_a_stage_of_its_own(target: str) -> None:
    after = planned(element_of("a row that a table names", "float16", 64), target)
    assert [stage.label for stage in after.all(Stage)] == ["load", "make", "mma"]
    slots = {channel.label: channel.type.slots for channel in after.all(Channel)}
    assert slots == {"X_s": 2, "B_s": 4}
    assert "TLC0339" not in after.codes


def test_tensors_that_may_lie_anywhere_are_gathered_by_threads() -> None:
    kernel = element_of("a row that a table names", "float16", 64)
    after = planned(kernel, assume=False)
    assert [stage.label for stage in after.all(Stage)] == ["load", "make", "mma"]
    assert "X is gathered by threads" in after.remark("TLC0339").message


def test_what_does_not_run_along_rows_asks_for_no_alignment() -> None:
    after = planned(element_of("every second", "float16", "N"))
    assert not any(name == "X" for _, name, _ in after.facts.taken)
