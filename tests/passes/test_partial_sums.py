"""summing_loop: the loops that blocks may share, and why others are not."""

from __future__ import annotations

from typing import no_type_check

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import plan, specialised
from tilec.ir.ops.control import For, Launch
from tilec.ir.ops.pipeline import Pipeline
from tilec.passes.partial_sums import SummingLoop, summing_loop

TILE = (32, 32)


@T.macro
@no_type_check
def before(kind, bx, A, A_s, D, kept, sums, more):
    """What stands in front of the loop."""
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


@T.macro
@no_type_check
def step(kind, k, A_s, sums, more, part):
    """What is done with a part of A."""
    if kind in ("promoted", "moved"):
        T.gemm(A_s, A_s, part, transpose_B=True, clear_accum=True)
    elif kind == "kept":
        T.gemm(A_s, A_s, more, transpose_B=True, clear_accum=True)
    elif kind == "in a branch":
        if k > 0:
            T.gemm(A_s, A_s, sums, transpose_B=True)
    else:
        T.gemm(A_s, A_s, sums, transpose_B=True, clear_accum=kind == "cleared")
    if kind == "two sums":
        T.gemm(A_s, A_s, more, transpose_B=True)
    elif kind == "unrolled":
        for _ in T.unroll(2):
            T.gemm(A_s, A_s, sums, transpose_B=True)
    for i, j in T.Parallel(*TILE):
        if kind == "promoted":
            sums[i, j] += part[i, j] * 0.5
        elif kind == "doubled":
            sums[i, j] = sums[i, j] + sums[i, j]
        elif kind == "scaled":
            sums[i, j] = sums[i, j] * 0.5
        elif kind == "moved":
            sums[i, j] = sums[i, 31 - j] + part[i, j]


@T.macro
@no_type_check
def seen(kind, k, A_s, D, kept):
    """What a step leaves behind beside sums."""
    if kind == "stores":
        D[0] = k
    elif kind == "keeps":
        for i in T.Parallel(32):
            kept[i] = A_s[i, 0]
    elif kind == "counts":
        T.atomic_add(D[0], 1)


@tilec.kernel
def product(
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
        sums, more, part = (T.alloc_fragment(TILE, "float32") for _ in range(3))
        before(kind, bx, A, A_s, D, kept, sums, more)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 32, k * 32], A_s)
            step(kind, k, A_s, sums, more, part)
            seen(kind, k, A_s, D, kept)
        for i, j in T.Parallel(*TILE):
            C[bx * 32 + i, j] = sums[i, j] + more[i, j]
            if kind == "keeps":
                C[bx * 32 + i, j] += kept[i]


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
