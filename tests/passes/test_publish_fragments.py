"""Fragments of which a nest accesses other elements than its iterations own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg
from tilec.errors import LayoutConflict
from tilec.ir.core import walk
from tilec.ir.effects import space_of
from tilec.ir.ops.memory import Alloc, memory_type
from tilec.ir.ops.tile import Copy
from tilec.ir.types import Space
from tilec.passes.context import Facts, PassContext
from tilec.passes.dependence import is_shared
from tilec.passes.publish_fragments import publish_fragments
from tilec.runtime.driver import lower
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

ROWS, COLUMNS = 16, 64

READS: dict[str, Callable[[Any, Any, Any], Any]] = {
    "own": lambda F, i, j: F[i, j] + 1,
    "half": lambda F, i, j: F[i, j // 2],
    "rotated": lambda F, i, j: F[i, j] - F[i, (j + 32) % COLUMNS],
    "reversed": lambda F, i, j: F[ROWS - 1 - i, COLUMNS - 1 - j],
    "one column": lambda F, i, j: F[i, 0] * F[0, j],
    "two ways": lambda F, i, j: F[i, j] + F[i, 63 - j],
    "diagonal": lambda F, i, j: F[i, i] + F[i, j],
}


def kernel(read: Callable[[Any, Any, Any], Any], rows: int = ROWS) -> Any:
    """Y[i] = `read` of rows 16 b to 16 b + 15 of X, three times over."""

    @tilec.kernel
    def shifted(X: T.Tensor(("M", COLUMNS), "float32"), Y: T.Tensor(("M", COLUMNS), "float32")):
        with T.Kernel(T.ceildiv(X.shape[0], ROWS), threads=128) as b:
            F = T.alloc_fragment((ROWS, COLUMNS), "float32")
            G = T.alloc_fragment((rows, COLUMNS), "float32")
            T.copy(X[b * ROWS, 0], F)
            for _ in T.serial(3):
                for i, j in T.Parallel(rows, COLUMNS):
                    G[i, j] = read(F, i, j)
                T.copy(G, F[0:rows, :])
            T.copy(F, Y[b * ROWS, 0])

    return shifted


def meaning(read: Callable[[Any, Any, Any], Any], x: np.ndarray) -> np.ndarray:
    y = np.zeros((-(-len(x) // ROWS), ROWS, COLUMNS), np.float32)
    y.reshape(-1, COLUMNS)[: len(x)] = x
    for tile in y:
        for _ in range(3):
            tile[:] = read(tile.copy(), *np.ogrid[:ROWS, :COLUMNS])
    return y.reshape(-1, COLUMNS)[: len(x)]


@pytest.mark.emulator
@pytest.mark.parametrize("how", READS)
def test_a_nest_reads_any_element(how: str) -> None:
    x = np.random.default_rng(1).integers(-1, 2, (ROWS + 1, COLUMNS)).astype(np.float32)
    for device, (_, y) in every_leg(kernel(READS[how]), x, np.full_like(x, np.nan)):
        assert np.array_equal(y, meaning(READS[how], x)), device


def shared_buffers(program: Any) -> int:
    context = PassContext(find_target("cuda:sm_80"), standard_registry(), Facts())
    done = publish_fragments(program, context)
    return sum(
        isinstance(op, Alloc) and memory_type(op.result).space is Space.SHARED
        for op in walk(done.body)
    )


def test_only_what_others_read_is_published() -> None:
    found = {how: shared_buffers(kernel(read).lower_to_ir()) for how, read in READS.items()}
    assert found == {how: int(how != "own") for how in READS}


def halves_of_rows(F: Any, X: Any, i: Any, j: Any) -> None:
    F[i, j] = X[i, j] - X[i, j + 32]
    F[i, j + 32] = X[i, j + 32] + X[i, j]


def halves_in_place(F: Any, X: Any, i: Any, j: Any) -> None:
    low = F[i, j]
    F[i, j] = low - F[i, j + 32]
    F[i, j + 32] = F[i, j + 32] + low


def reversed_columns(F: Any, X: Any, i: Any, j: Any) -> None:
    F[i, 31 - j] = X[i, j]


def every_other_row(F: Any, X: Any, i: Any, j: Any) -> None:
    if i < 8:
        F[i * 2, j] += X[i, j]


def a_part(F: Any, X: Any, i: Any, j: Any) -> None:
    F[i, j] = F[i, j] * 2 + X[i, j] + i


WRITES = [halves_of_rows, halves_in_place, reversed_columns, every_other_row, a_part]


def writing(statements: Callable[..., None]) -> Any:
    run = T.macro(statements)

    @tilec.kernel
    def written(X: T.Tensor(("M", COLUMNS), "float32"), Y: T.Tensor(("M", COLUMNS), "float32")):
        with T.Kernel(T.ceildiv(X.shape[0], ROWS), threads=128) as b:
            F = T.alloc_fragment((ROWS, COLUMNS), "float32")
            S = T.alloc_shared((ROWS, COLUMNS), "float32")
            T.copy(X[b * ROWS, 0], F)
            T.copy(X[b * ROWS, 0], S)
            for _ in T.serial(2):
                for i, j in T.Parallel(ROWS, 32):
                    run(F, S, i, j)
            T.copy(F, Y[b * ROWS, 0])

    return written


@pytest.mark.emulator
@pytest.mark.parametrize("statements", WRITES, ids=lambda f: f.__name__)
def test_a_nest_writes_any_element(statements: Callable[..., None]) -> None:
    x = np.random.default_rng(2).integers(-3, 4, (ROWS + 3, COLUMNS)).astype(np.float32)
    y = np.zeros((2, ROWS, COLUMNS), np.float32)
    y.reshape(-1, COLUMNS)[: len(x)] = x
    for tile, start in zip(y, y.copy(), strict=True):
        for _ in range(2):
            for i, j in np.ndindex(ROWS, 32):
                statements(tile, start, i, j)
    expected = y.reshape(-1, COLUMNS)[: len(x)]
    for device, (_, found) in every_leg(writing(statements), x, np.full_like(x, np.nan)):
        assert np.array_equal(found, expected), device


def copies_to_shared(kernel: Any) -> int:
    context = PassContext(find_target("cuda:sm_80"), standard_registry(), Facts())
    done = publish_fragments(kernel.lower_to_ir(), context)
    return sum(
        isinstance(op, Copy) and space_of(op.source) is Space.FRAGMENT and is_shared(op.destination)
        for op in walk(done.body)
    )


@tilec.kernel
def all_written(X: T.Tensor((ROWS, COLUMNS), "float32"), Y: T.Tensor((ROWS, COLUMNS), "float32")):
    with T.Kernel(1, threads=128):
        F = T.alloc_fragment((ROWS, COLUMNS), "float32")
        for i, j in T.Parallel(ROWS, COLUMNS):
            F[ROWS - 1 - i, j] = X[i, j]
        T.copy(F, Y)


def test_what_is_written_whole_is_not_copied_before() -> None:
    """Its elements need not have been written either."""
    assert copies_to_shared(all_written) == 0 and copies_to_shared(writing(a_part)) == 1
    x = np.arange(ROWS * COLUMNS, dtype=np.float32).reshape(ROWS, COLUMNS)
    for device, (_, found) in every_leg(all_written, x, 0 * x):
        assert np.array_equal(found, x[::-1]), device


@tilec.kernel
def written_twice(X: T.Tensor((ROWS, COLUMNS), "float32")):
    with T.Kernel(1, threads=128):
        F = T.alloc_fragment((ROWS, COLUMNS), "float32")
        T.copy(X, F)
        for i, j in T.Parallel(ROWS, COLUMNS):
            F[i, j // 2] = X[i, j]
        T.copy(F, X)


@tilec.kernel
def overwritten(X: T.Tensor((ROWS, COLUMNS), "float32")):
    with T.Kernel(1, threads=128):
        F = T.alloc_fragment((ROWS, COLUMNS), "float32")
        T.copy(X, F)
        for i, j in T.Parallel(ROWS, COLUMNS):
            F[i, j] = F[i, COLUMNS - 1 - j]
        T.copy(F, X)


@pytest.mark.parametrize("kernel", [overwritten, written_twice], ids=lambda k: k.name)
def test_what_iterations_overwrite_is_refused(kernel: Any) -> None:
    assert shared_buffers(kernel.lower_to_ir()) == 0
    with pytest.raises(LayoutConflict, match="TLC0403"):
        lower(kernel, (), "cuda:sm_80", {}).lowered  # noqa: B018


@tilec.kernel
def unpacked_gemm(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "H"), "uint8"),
    C: T.Tensor(("M", "N"), "float16"),
    stages: int = 2,
):
    """C = A @ B.T, where a byte of B holds two values, low half first: unpacked in registers."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, 32), T.ceildiv(M, 32), threads=128) as (bx, by):
        A_s = T.alloc_shared((32, 64), "float16")
        B_s = T.alloc_shared((32, 32), "uint8")
        U_s = T.alloc_shared((32, 64), "float16")
        packed = T.alloc_fragment((32, 32), "uint8")
        unpacked = T.alloc_fragment((32, 64), "float16")
        sums = T.alloc_fragment((32, 32), "float32")
        T.clear(sums)
        for k in T.Pipelined(T.ceildiv(K, 64), num_stages=stages):
            T.copy(A[by * 32, k * 64], A_s)
            T.copy(B[bx * 32, k * 32], B_s)
            T.copy(B_s, packed)
            for i, j in T.Parallel(32, 64):
                unpacked[i, j] = T.cast((packed[i, j // 2] >> (j % 2 * 4)) & 15, "float16")
            T.copy(unpacked, U_s)
            T.gemm(A_s, U_s, sums, transpose_B=True)
        T.copy(sums, C[by * 32, bx * 32])


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [(33, 31, 190), (1, 40, 64), (32, 32, 0)])
def test_values_are_unpacked_in_registers(shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    rng = np.random.default_rng(k)
    a = rng.integers(-2, 3, (m, k)).astype(np.float16)
    b = rng.integers(0, 16, (n, k))
    packed = (b[:, ::2] | b[:, 1::2] << 4).astype(np.uint8)
    for device, (*_, c) in every_leg(unpacked_gemm, a, packed, np.full((m, n), np.nan, np.float16)):
        assert np.array_equal(c, (a.astype(int) @ b.T).astype(np.float16)), device


def test_the_compilers_take_it() -> None:
    compile_texts(unpacked_gemm)
