"""hoist_addresses: divisions and tables stand before the loop, and fail nowhere that they did not."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.modules import example
from tests.passes.planning import REGISTRY, plan, specialised
from tilec.ir.core import Op, Program, constant_of, walk
from tilec.ir.ops.arith import DIVISIONS
from tilec.ir.ops.control import For, Parallel
from tilec.ir.ops.memory import Load, memory_type
from tilec.ir.ops.nvidia import CpAsync
from tilec.ir.types import Space
from tilec.passes.context import PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.target import find_target

TARGETS = ("cuda:sm_80", "cuda:sm_90a")


@tilec.kernel
def rows_of(
    X: T.Tensor(("R", "K"), "float16"),
    rows: T.Tensor(("M",), "int32"),
    B: T.Tensor((64, "K"), "float16"),
    C: T.Tensor(("M", 64), "float32"),
    n: T.int32,
    block_M: int = 64,
    writes: bool = False,
    moves: bool = False,
):
    """Rows i // n of a block's part of a table times B^T; where the block has written the table itself,
    or the row changes with k, too.
    """
    M, K = C.shape[0], X.shape[1]
    with T.Kernel(T.ceildiv(M, block_M), threads=128) as by:
        X_s = T.alloc_shared((block_M, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((block_M, 64), "float32")
        T.clear(acc)
        if writes:
            for i in T.Parallel(block_M):
                if by * block_M + i < M:
                    rows[by * block_M + i] = 2
        for k in T.Pipelined(T.ceildiv(K, 32), num_stages=3):
            T.copy(B[0, k * 32], B_s)
            for i, j in T.Parallel(block_M, 32):
                at = by * block_M + (i + (k if moves else 0)) // n
                X_s[i, j] = X[rows[at], k * 32 + j]
            T.gemm(X_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * block_M, 0])


def hoisted(program: Program, target: str) -> Program:
    context = PassContext(find_target(target), REGISTRY)
    return run_pipeline(program, context, after="hoist_addresses")


def in_steps(program: Program) -> Iterator[Op]:
    """What the innermost loops that copy, and are not unrolled, hold."""
    loops = [op for op in walk(program.body) if isinstance(op, For) and op.unroll == 1]
    copying = [op for op in loops if any(isinstance(i, CpAsync) for i in op.walk())]
    for loop in copying:
        if not any(other in copying for other in loop.walk() if other is not loop):
            yield from loop.walk()


def is_long(op: Op) -> bool:
    table = isinstance(op, Load) and memory_type(op.memory).space is Space.GLOBAL
    return table or (isinstance(op, DIVISIONS) and constant_of(op.y) is None)


@pytest.mark.parametrize("target", TARGETS)
def test_a_convolution_divides_before_its_loop(target: str) -> None:
    kernel = example("convolution").convolution
    defaults = {p.name: p.default for p in kernel.parameters if p.kind == "constant"}
    program = kernel.trace({**defaults, "block_K": 64}, {"C": 64})
    assert not any(map(is_long, in_steps(hoisted(program, target))))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("changes", "stays"), [({}, 0), ({"writes": True}, 1), ({"moves": True}, 2)]
)
def test_a_table_is_read_before_the_loop_if_it_stays(
    target: str, changes: dict[str, bool], stays: int
) -> None:
    """What is written, or changes with the loop, stays, and what it is computed from that does not goes."""
    after = hoisted(specialised(rows_of, **changes), target)
    assert sum(map(is_long, in_steps(after))) == stays


def test_copies_of_many_rows() -> None:
    """Of a tile of 512 rows a thread copies 16."""
    after = hoisted(specialised(rows_of, block_M=512), "cuda:sm_80")
    assert not any(map(is_long, in_steps(after)))


@pytest.mark.emulator
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("k", "n"), [(96, 3), (0, 0), (32, 1)])
@pytest.mark.parametrize("changes", [{}, {"writes": True}, {"moves": True}], ids=str)
def test_results(target: str, k: int, n: int, changes: dict[str, bool]) -> None:
    """Also where the loop has no trip, and the divisor is zero."""
    rng = np.random.default_rng(k)
    x, b = (rng.integers(-3, 4, s).astype(np.float16) for s in ((9, k), (64, k)))
    rows = rng.integers(0, 9, 70).astype(np.int32)
    legs = []
    for device in (f"emulator:{target}", "interpreter"):
        mine, c = rows.copy(), np.full((70, 64), np.nan, np.float32)
        rows_of(x, mine, b, c, n, device=device, **changes)
        legs.append(c)
    assert np.array_equal(*legs) and not np.isnan(legs[0]).any()


@tilec.kernel
def maybe_divided(
    X: T.Tensor(("R", 64), "float16"), B: T.Tensor((64, 64), "float16"), C: T.Tensor((70, 64), "float32"),
    n: T.int32,
):  # fmt: skip
    """Rows by a division that only counts where it can be done."""
    with T.Kernel(2, threads=128) as by:
        X_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for k in T.Pipelined(2, num_stages=2):
            T.copy(B[0, k * 32], B_s)
            for i, j in T.Parallel(64, 32):
                X_s[i, j] = T.if_then_else(n > 0, X[(by * 64 + i) // (n * 2), k * 32 + j], 0)
            T.gemm(X_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[by * 64, 0])


@pytest.mark.emulator
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", [0, 3])
def test_a_branch_that_is_not_taken_divides_by_nothing(target: str, n: int) -> None:
    (nest,) = plan(specialised(maybe_divided), "start_gathers", target).all(Parallel)
    assert nest.instruction == "cp_async" and not any(op.regions for op in nest.body.ops)
    rng = np.random.default_rng(n)
    x, b = (rng.integers(-3, 4, s).astype(np.float16) for s in ((12, 64), (64, 64)))
    c = np.full((70, 64), np.nan, np.float32)
    maybe_divided(x, b, c, n, device=f"emulator:{target}")
    rows = np.arange(70) // (2 * n) if n else np.full(70, 12)
    picked = np.vstack([x, np.zeros((1, 64), np.float16)])[np.minimum(rows, 12)]
    assert np.array_equal(c, picked.astype(np.float32) @ b.astype(np.float32).T)


@T.macro
def stirred(at, n):  # type: ignore[no-untyped-def]
    for step in range(400):
        at = (at * 5 + step) % (n + 3)
    return at


@tilec.kernel
def far_away(
    A: T.Tensor(("M", 64), "float16"), P: T.Tensor((64,), "int32"), B: T.Tensor((64, 64), "float16")
):
    with T.Kernel(4, threads=128):
        s = T.alloc_shared((64, 64), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        for _ in T.Pipelined(8, num_stages=2):
            for i, j in T.Parallel(64, 64):
                s[i, j] = A[stirred(P[i], A.shape[0]), j]
            T.gemm(s, s, acc)
        T.copy(acc, B)


def test_a_chain_may_be_longer_than_the_stack_is_deep() -> None:
    after = hoisted(specialised(far_away), "cuda:sm_80")
    assert any(isinstance(op, CpAsync) for op in in_steps(after))
    assert not any(map(is_long, in_steps(after)))
