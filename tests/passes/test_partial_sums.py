"""summing_loop: the loops that blocks may share, and why others are not."""

from __future__ import annotations

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import plan, specialised
from tilec.ir.ops.control import For, Launch
from tilec.ir.ops.pipeline import Pipeline
from tilec.passes.partial_sums import SummingLoop, summing_loop

TILE = (32, 32)


@tilec.kernel
def product(  # noqa: C901  one case a kind
    A: T.Tensor((64, "K"), "float16"),
    C: T.Tensor((64, 32), "float32"),
    D: T.Tensor((1,), "int32"),
    kind: str = "plain",
    stages: int = 2,
):
    """A product of rows of A with each other, with something added to it."""
    with T.Kernel(2, threads=32) as bx:
        A_s = T.alloc_shared(TILE, "float16")
        kept = T.alloc_shared((32,), "float32")
        sums = T.alloc_fragment(TILE, "float32")
        more = T.alloc_fragment(TILE, "float32")
        part = T.alloc_fragment(TILE, "float32")
        if kind == "begins at one":
            T.fill(sums, 1.0)
        else:
            T.clear(sums)
        T.clear(more)
        if kind == "stores before":
            D[0] = 1
        elif kind == "prints before":
            T.print(bx)
        elif kind == "asserts before":
            T.device_assert(bx < 2)
        elif kind == "fills before":
            T.fill(kept, 2.0)
        elif kind == "two loops":
            T.copy(A[0, 0], A_s)
            T.gemm(A_s, A_s, more, transpose_B=True)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 32, k * 32], A_s)
            if kind == "in a branch":
                if k > 0:
                    T.gemm(A_s, A_s, sums, transpose_B=True)
            elif kind == "unrolled":
                for _ in T.unroll(2):
                    T.gemm(A_s, A_s, sums, transpose_B=True)
            elif kind == "promoted":
                T.gemm(A_s, A_s, part, transpose_B=True, clear_accum=True)
                for i, j in T.Parallel(*TILE):
                    sums[i, j] += part[i, j] * 0.5
            elif kind == "doubled":
                T.gemm(A_s, A_s, sums, transpose_B=True)
                for i, j in T.Parallel(*TILE):
                    sums[i, j] = sums[i, j] + sums[i, j]
            elif kind == "scaled":
                T.gemm(A_s, A_s, sums, transpose_B=True)
                for i, j in T.Parallel(*TILE):
                    sums[i, j] = sums[i, j] * 0.5
            elif kind == "moved":
                T.gemm(A_s, A_s, part, transpose_B=True, clear_accum=True)
                for i, j in T.Parallel(*TILE):
                    sums[i, j] = sums[i, 31 - j] + part[i, j]
            elif kind == "kept":
                T.gemm(A_s, A_s, more, transpose_B=True, clear_accum=True)
            elif kind == "cleared":
                T.gemm(A_s, A_s, sums, transpose_B=True, clear_accum=True)
            elif kind == "two sums":
                T.gemm(A_s, A_s, sums, transpose_B=True)
                T.gemm(A_s, A_s, more, transpose_B=True)
            else:
                T.gemm(A_s, A_s, sums, transpose_B=True)
            if kind == "stores":
                D[0] = k
            elif kind == "keeps":
                for i in T.Parallel(32):
                    kept[i] = A_s[i, 0]
            elif kind == "counts":
                T.atomic_add(D[0], 1)
        if kind == "keeps":
            for i, j in T.Parallel(*TILE):
                sums[i, j] += kept[i]
        for i, j in T.Parallel(*TILE):
            C[bx * 32 + i, j] = sums[i, j] + more[i, j]


def found(kind: str, stages: int = 2) -> SummingLoop | str:
    planned = plan(specialised(product, kind=kind, stages=stages), "choose_instructions")
    return summing_loop(planned.one(Launch))


@pytest.mark.parametrize(
    "kind",
    ["plain", "in a branch", "unrolled", "promoted", "two sums", "asserts before", "fills before"],
)
def test_loops_that_only_add(kind: str) -> None:
    for stages, loop in ((2, Pipeline), (0, For)):
        sums = found(kind, stages)
        assert isinstance(sums, SummingLoop), sums
        assert isinstance(sums.loop, loop)
        assert len(sums.loop.results) == (2 if kind == "two sums" else 1)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("begins at one", "do not begin at zero"),
        ("doubled", "does more with its sums"),
        ("scaled", "does more with its sums"),
        ("moved", "does more with its sums"),
        ("kept", "sums"),
        ("cleared", "sums"),
        ("stores before", "stands before"),
        ("prints before", "stands before"),
        ("two loops", "not all its products"),
        ("stores", "seen outside"),
        ("counts", "seen outside"),
        ("keeps", "meet in memory"),
    ],
)
def test_why_others_are_not(kind: str, why: str) -> None:
    for stages in (2, 0):
        reason = found(kind, stages)
        assert isinstance(reason, str) and why in reason, (kind, reason)


@tilec.kernel
def no_product(C: T.Tensor((32,), "int32")):
    with T.Kernel(1, threads=32):
        for i in T.Parallel(32):
            C[i] = i


def test_a_launch_without_products() -> None:
    launch = plan(specialised(no_product), "choose_instructions").one(Launch)
    assert summing_loop(launch) == "it has no products"
