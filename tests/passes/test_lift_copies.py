"""lift_copies: nests that only move elements become copies; all others stay as they are."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.interpreter.programs import Sketch, number, tensor
from tests.passes.planning import found, keeps_meaning, run_pass
from tilec.ir.dtypes import f16
from tilec.ir.ops.control import Parallel
from tilec.ir.ops.tile import Copy
from tilec.passes.lift_copies import lift_copies

A2 = T.Tensor(("M", "N"), "float16")


TILE = T.Tensor((16, 8), "float16")


@tilec.kernel
def two_tiles(A: A2, B: A2, C: TILE, s: T.int32):
    """A nest that loads two tiles, each from a tensor of its own."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 8), "float16")
        B_s = T.alloc_shared((8, 16, 8), "float32")
        for i, j in T.Parallel(16, 8):
            A_s[i, j] = A[i + s * 2, j + s * 2]
            B_s[2, i, j] = B[s * 2 + i, j]
        for i, j in T.Parallel(16, 8):
            C[i, j] = A_s[i, j] + B_s[2, i, j]


@tilec.kernel
def tile_and_more(A: A2, B: A2, C: TILE, D: T.Tensor((8,), "float32"), s: T.int32):
    """Beside the tile a row that many iterations write alike, a sum in registers, and a store."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 8), "float16")
        row = T.alloc_shared((8,), "float32")
        both = T.alloc_fragment((16, 8), "float32")
        for i, j in T.Parallel(16, 8):
            A_s[i, j] = A[i + s, j]
            row[j] = D[j]
            both[i, j] = B[i, j] + s
            C[i, j] = B[i, j]
        for i, j in T.Parallel(16, 8):
            C[i, j] = C[i, j] + A_s[i, j] + row[j] + both[i, j]


@tilec.kernel
def tile_read_beside(A: A2, B: A2, C: TILE):
    """What the nest itself finds in the tile it has just loaded."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 8), "float16")
        for i, j in T.Parallel(16, 8):
            A_s[i, j] = A[i, j]
            C[i, j] = A_s[i, j] + B[i, j]


@tilec.kernel
def parts_of_elements(A: T.Tensor(("M", 16), "float16"), C: TILE):
    """Neighbours in memory, which are read together."""
    with T.Kernel(1, threads=32):
        A_s = T.alloc_shared((16, 8), "float16")
        B_s = T.alloc_shared((16, 8), "float16")
        for i, j in T.Parallel(16, 8):
            A_s[i, j] = A[i, j]
            B_s[i, j] = A[i, j + 8]
        for i, j in T.Parallel(16, 8):
            C[i, j] = A_s[i, j] + B_s[i, j]


@tilec.kernel
def offset(A: A2, B: T.Tensor((32, 8), "float16"), s: T.int32):
    with T.Kernel(2, threads=32) as bx:
        S = T.alloc_shared((16, 8), "float16")
        for i, j in T.Parallel(16, 8):
            S[i, j] = A[bx * 16 + i, j + s * 4 - 2]
        T.copy(S, B[bx * 16, 0])


@tilec.kernel
def outward(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        S = T.alloc_shared((16, 8), "float16")
        T.copy(B, S)
        for i, j in T.Parallel(16, 8):
            A[i + 3, j + 1] = S[i, j]


@tilec.kernel
def converting(A: A2, B: T.Tensor((16, 8), "float32")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, j]


@tilec.kernel
def fewer_dimensions(A: T.Tensor((4, 16, 8), "float16"), B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[2, i, j]


@tilec.kernel
def row(A: A2, B: T.Tensor((16,), "float16")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(16):
            B[i] = A[3, i]


@tilec.kernel
def one_of_a_dimension(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, _, j in T.Parallel(16, 1, 8):
            B[i, j] = A[i, j]


@tilec.kernel
def transposed(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[j, i]


@tilec.kernel
def both_transposed(A: A2, B: T.Tensor((24, 8), "float16"), s: T.int32):
    """The loops in another order than both memories' dimensions."""
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(8, 16):
            B[j + s, i] = A[j + 2, i]


@tilec.kernel
def strided(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, 2 * j]


@tilec.kernel
def diagonal(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, i + j]


@tilec.kernel
def reversed_rows(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[15 - i, j] = A[i, j]


@tilec.kernel
def broadcast(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[0, j]


@tilec.kernel
def computing(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, j] + A[i, j]


@tilec.kernel
def conditional(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            if i + j < 9:
                B[i, j] = A[i, j]


@tilec.kernel
def table(A: A2, I: T.Tensor((16,), "int32"), B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[I[i], j]


@tilec.kernel
def in_place(A: T.Tensor((32, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            A[i, j] = A[i + 16, j]


@tilec.kernel
def two_stores(A: A2, B: T.Tensor((16, 8), "float16"), C: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, j]
            C[i, j] = A[i, j]


@tilec.kernel
def one_element(A: A2, B: T.Tensor((16, 8), "float32")):
    """What no iteration changes, and the nest makes of what it loads."""
    with T.Kernel(1, threads=32):
        for _ in T.Parallel(1):
            B[3, 2] = A[1, 2]


@tilec.kernel
def own_row(A: T.Tensor((4,), "int32"), B: T.Tensor((4,), "int32")):
    with T.Kernel(1, threads=32):
        for _ in T.Parallel(1):
            B[A[1]] = A[1]


LIFTED = {
    offset: ((16, 8), (0, 1), (0, 1)),
    outward: ((16, 8), (0, 1), (0, 1)),
    converting: ((16, 8), (0, 1), (0, 1)),
    fewer_dimensions: ((16, 8), (1, 2), (0, 1)),
    row: ((16,), (1,), (0,)),
    one_of_a_dimension: ((16, 8), (0, 1), (0, 1)),
    both_transposed: ((16, 8), (0, 1), (0, 1)),
    one_element: ((), (), ()),
}
LEFT = [
    transposed, strided, diagonal, reversed_rows, broadcast, computing, conditional, table,
    in_place, two_stores, own_row,
]  # fmt: skip


@pytest.mark.parametrize("kernel", LIFTED, ids=lambda k: k.name)
def test_a_nest_that_moves_elements_is_a_copy(kernel: Any) -> None:
    before = kernel.lower_to_ir()
    existing = {id(op) for op in found(before, Copy)}
    after = run_pass(lift_copies, before)
    assert not after.all(Parallel)
    (copy,) = [op for op in after.all(Copy) if id(op) not in existing]
    assert (copy.shape, copy.source_dims, copy.destination_dims) == LIFTED[kernel]
    keeps_meaning(before, after.program, range(6))


@pytest.mark.parametrize("kernel", LEFT, ids=lambda k: k.name)
def test_other_nests_stay(kernel: Any) -> None:
    after = run_pass(lift_copies, kernel.lower_to_ir())
    assert len(after.all(Parallel)) == 1 and not after.all(Copy)


@tilec.kernel
def safe_value(A: A2, B: T.Tensor((16, 8), "float16")):
    with T.Kernel(1, threads=32):
        T.annotate_safe_value({A: 3.0})
        for i, j in T.Parallel(16, 8):
            B[i, j] = A[i, j]


def test_the_safe_value_goes_along() -> None:
    before = safe_value.lower_to_ir()
    after = run_pass(lift_copies, before)
    assert after.one(Copy).safe_value == 3.0
    keeps_meaning(before, after.program, range(6))


@tilec.kernel
def nested(A: A2, B: T.Tensor((16, 8), "float16"), n: T.int32):
    with T.Kernel(1, threads=32):
        for k in T.serial(n):
            if k > 1:
                for i, j in T.Parallel(16, 8):
                    B[i, j] = A[k + i, j]


def test_nests_in_loops_and_branches_are_found() -> None:
    before = nested.lower_to_ir()
    after = run_pass(lift_copies, before)
    assert not after.all(Parallel) and len(after.all(Copy)) == 1
    keeps_meaning(before, after.program)


def test_a_guarded_store_is_no_copy() -> None:
    s = Sketch()
    a, b, n = tensor("A", f16, 8), tensor("B", f16, 8), number("n")
    with s.launch(1), s.parallel(8) as (i,):
        s.store(s.load(a, i), b, i, predicate=(s.compare("lt", i, n),))
    after = run_pass(lift_copies, s.program(a, b, n))
    assert len(after.all(Parallel)) == 1 and not after.all(Copy)


def test_golden(golden: Any) -> None:
    assert run_pass(lift_copies, offset.lower_to_ir()).text == golden("tir")


@pytest.mark.parametrize(
    ("kernel", "copies", "nests"), [(two_tiles, 2, 1), (tile_and_more, 1, 2)], ids=str
)
def test_a_nest_is_relieved_of_the_tiles_it_loads(kernel: Any, copies: int, nests: int) -> None:
    before = kernel.lower_to_ir()
    after = run_pass(lift_copies, before)
    assert (len(after.all(Copy)), len(after.all(Parallel))) == (copies, nests)
    assert all(copy.loc.known for copy in after.all(Copy))
    keeps_meaning(before, after.program)


@pytest.mark.parametrize(
    ("kernel", "nests"), [(tile_read_beside, 1), (parts_of_elements, 2)], ids=str
)
def test_what_the_nest_needs_for_more_stays(kernel: Any, nests: int) -> None:
    after = run_pass(lift_copies, kernel.lower_to_ir())
    assert len(after.all(Parallel)) == nests and not after.all(Copy)
