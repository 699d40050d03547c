"""lift_stores: what a nest computes of a product's sums is stored as a tile; all other nests stay."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import found, keeps_meaning, plan
from tilec.ir.core import Program
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.tile import StoreTile
from tilec.passes.dependence import is_global

F16 = "float16"
A1 = T.Tensor((32, 16), F16)
C1 = T.Tensor(("M", "N"), F16)


@T.macro
def product(A: Any, acc: Any) -> None:
    """A times its own transpose."""
    A_s = T.alloc_shared((32, 16), F16)
    T.copy(A, A_s)
    T.clear(acc)
    T.gemm(A_s, A_s, acc, transpose_B=True)


@tilec.kernel
def activated(A: A1, bias: T.Tensor(("N",), F16), C: C1, s: T.int32):
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[bx * 32 + i - s, j + 3] = T.max(acc[i, j] + bias[j + 3], 0)


@tilec.kernel
def of_a_batch(A: A1, C: T.Tensor((2, 40, 40), "float32")):
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[bx, i, j] = acc[i, j] * 2


@tilec.kernel
def of_two_tiles(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        total = T.alloc_fragment((32,), "float32")
        product(A, acc)
        T.reduce_sum(acc, total, dim=1)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, j] / (1 + total[i] * total[i])


@tilec.kernel
def transposed(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[j, i] = acc[i, j]


@tilec.kernel
def transposed_in_a_batch(A: A1, bias: T.Tensor(("N",), F16), C: T.Tensor((40, 2, 40), F16)):
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[j + 3, bx, i] = acc[i, j] + bias[i] - j


@tilec.kernel
def conditional(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            if i <= j:
                C[i, j] = acc[i, j]


@tilec.kernel
def in_place(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, j] + C[i, j]


@tilec.kernel
def in_rows_of_a_table(A: A1, rows: T.Tensor((32,), "int32"), C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[rows[i], j] = acc[i, j]


@tilec.kernel
def behind_an_entry(A: A1, starts: T.Tensor((2,), "int32"), C: C1):
    """Where the tile begins is read in the nest itself."""
    with T.Kernel(2, threads=128) as bx:
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[starts[bx] + i, j] = acc[i, j]


@tilec.kernel
def every_second(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, 2 * j] = acc[i, j]


@tilec.kernel
def to_two(A: A1, C: C1, D: C1):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, j]
            D[i, j] = acc[i, j] * 2


@tilec.kernel
def without_a_gemm(A: A1, C: C1):
    with T.Kernel(1, threads=128):
        x = T.alloc_fragment((32, 16), F16)
        T.copy(A, x)
        for i, j in T.Parallel(32, 16):
            C[i, j] = x[i, j] * 2


@tilec.kernel
def of_other_elements(A: A1, C: C1):
    """No element of the tile is the iteration's own."""
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, 0]


@tilec.kernel
def released(A: A1, C: C1, done: T.Tensor((1,), "int32")):
    with T.Kernel(1, threads=128):
        acc = T.alloc_fragment((32, 32), "float32")
        product(A, acc)
        for i, j in T.Parallel(32, 32):
            C[i, j] = acc[i, j]
        if T.get_thread_binding() == 0:
            T.atomic_add(done[0], 1, memory_order="release")


LIFTED = {
    activated: (0, 1), of_a_batch: (1, 2), of_two_tiles: (0, 1), transposed: (0, 1),
    transposed_in_a_batch: (0, 2),
}  # fmt: skip
KEPT = [
    conditional, in_place, in_rows_of_a_table, behind_an_entry, every_second, to_two,
    without_a_gemm, of_other_elements, released,
]  # fmt: skip


def stored(program: Program) -> list[StoreTile]:
    return [op for op in found(program, StoreTile) if is_global(op.destination)]


@pytest.mark.parametrize("kernel", LIFTED, ids=lambda k: k.name)
def test_computed_elements_are_stored_as_a_tile(kernel: Any) -> None:
    before = kernel.lower_to_ir()
    program = plan(before, "lift_stores").program
    (store,) = stored(program)
    (nest,) = found(program, Parallel)
    assert store.tile is nest.result and store.dims == LIFTED[kernel]
    assert len(nest.updates) == 1
    keeps_meaning(before, program)


@pytest.mark.parametrize("kernel", KEPT, ids=lambda k: k.name)
def test_other_nests_stay(kernel: Any) -> None:
    assert not stored(plan(kernel.lower_to_ir(), "lift_stores").program)
