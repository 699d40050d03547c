"""After every planning pass the interpreted program still gives the reference's result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tilec
import tilec.language as T
from tests.kernels import programs
from tests.passes.planning import PLANNING, REGISTRY
from tilec.interpreter import run_program, same_meaning
from tilec.ir.core import Program
from tilec.passes.context import Assume, Facts, PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.target import find_target

TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")
Array = np.ndarray[Any, Any]


def every_stage(program: Program, target: str, assume: bool) -> Iterator[tuple[str, Program]]:
    """The program as it comes, and after each planning pass that changes it, verified."""
    seen = [("the frontend", program)]

    def note(name: str, before: Program, after: Program) -> None:
        if after is not before:
            seen.append((name, after))

    context = PassContext(
        find_target(target), REGISTRY, Facts(Assume.ALL if assume else Assume.NOTHING)
    )
    run_pipeline(program, context, PLANNING, observers=(note,))
    yield from seen


def check_gemm(
    target: str, tile: programs.Tile, stages: int, transpose_b: bool, assume: bool
) -> None:
    program = programs.gemm("float16", transpose_b).trace(tile.constants(stages))
    m, n, k = tile.m + 5, tile.n - 3, tile.k * 3 + 7
    a, b, c = programs.operands(m, n, k, "float16", transpose_b)
    exact, allowed = programs.reference(a, b, transpose_b)
    for name, stage in every_stage(program, target, assume):
        c[...] = np.nan
        run_program(stage, {"A": a, "B": b, "C": c}, registry=REGISTRY)
        wrong = int((~(abs(c.astype(np.float64) - exact) <= allowed)).sum())
        assert not wrong, f"{wrong} elements are wrong after {name}"


SMALL = programs.TILES[2]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("assume", [True, False], ids=["aligned", "general"])
@pytest.mark.parametrize(("stages", "transpose_b"), [(0, True), (1, False), (3, True)])
def test_the_gemm_means_the_same_after_every_pass(
    target: str, stages: int, transpose_b: bool, assume: bool
) -> None:
    check_gemm(target, SMALL, stages, transpose_b, assume)


@pytest.mark.nightly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("assume", [True, False], ids=["aligned", "general"])
@pytest.mark.parametrize("stages", programs.STAGES)
@pytest.mark.parametrize("tile", programs.TILES, ids=lambda t: f"{t.m}x{t.n}x{t.k}")
@pytest.mark.parametrize("transpose_b", [True, False], ids=["NT", "NN"])
def test_every_gemm_means_the_same_after_every_pass(
    target: str, tile: programs.Tile, stages: int, transpose_b: bool, assume: bool
) -> None:
    check_gemm(target, tile, stages, transpose_b, assume)


@pytest.mark.parametrize("target", TARGETS)
def test_the_origin_means_the_same_after_every_pass(target: str) -> None:
    m, n, k = 128, 128, 64
    program = programs.origin(m, n, k).lower_to_ir()
    values, packed = programs.packed(n, k)
    a, _, c = programs.operands(m, n, k, "float16", True)
    exact, allowed = programs.reference(a, values, True)
    for name, stage in every_stage(program, target, True):
        c[...] = np.nan
        run_program(stage, {"A": a, "B": packed, "C": c}, registry=REGISTRY)
        wrong = int((~(abs(c.astype(np.float64) - exact) <= allowed)).sum())
        assert not wrong, f"{wrong} elements are wrong after {name}"


# Random programs
# -------------------------------------------------------------------------------------------------


@tilec.kernel
def varied(A: T.Tensor(("M", "K"), "float16"), B: T.Tensor(("N", "K"), "float16"),
           bias: T.Tensor(("N",), "float32"), mask: T.Tensor((256,), "int32"),
           C: T.Tensor(("M", "N"), "float32"), bm: int = 64, bn: int = 64, bk: int = 32,
           threads: int = 128, stages: int = 2, producer: str = "none", guard: str = "none",
           epilogue: bool = False, extra: bool = False, clear: bool = True):  # fmt: skip
    """A GEMM with whatever else a kernel may do around and within its loop."""
    M, N, K = C.shape[0], C.shape[1], A.shape[1]
    with T.Kernel(T.ceildiv(N, bn), T.ceildiv(M, bm), threads=threads) as (bx, by):
        A_s = T.alloc_shared((bm, bk), "float16")
        B_s = T.alloc_shared((bn, bk), "float16")
        D_s = T.alloc_shared((bn, bk), "float16")
        kept = T.alloc_shared((bm, bk), "float16")
        acc = T.alloc_fragment((bm, bn), "float32")
        count = T.alloc_var("int32", 0)
        t = T.get_thread_binding()
        T.fill(acc, 0 if clear else 1)
        if extra:
            T.copy(A[by * bm, 0], kept)
        for k in T.Pipelined(T.ceildiv(K, bk), num_stages=stages):
            T.copy(A[by * bm, k * bk], A_s)
            if producer != "none":
                T.copy(B[bx * bn, k * bk], B_s)
                for i in T.serial(bn * bk // threads):
                    r, c = (i * threads + t) // bk, (i * threads + t) % bk
                    if producer == "whole":
                        D_s[r, c] = B_s[r, c] * 2
                    elif k == 0 or r < bn // 2:
                        D_s[r, c] = B_s[r, c] + 1
            else:
                T.copy(B[bx * bn, k * bk], D_s)
            if guard == "mask":
                if mask[k] > 2:
                    T.gemm(A_s, D_s, acc, transpose_B=True)
            elif guard == "count":
                if count % 2 == 0:
                    T.gemm(A_s, D_s, acc, transpose_B=True)
                count = count + 1
            else:
                T.gemm(A_s, D_s, acc, transpose_B=True)
            if extra:
                T.gemm(kept, D_s, acc, transpose_B=True)
        if epilogue:
            for i, j in T.Parallel(bm, bn):
                acc[i, j] = T.if_then_else(acc[i, j] > 0, acc[i, j], 0) * 2 + bias[bx * bn + j]
        T.copy(acc, C[by * bm, bx * bn])


SHAPES = st.sampled_from(
    [(64, 64, 32, 128), (64, 32, 16, 128), (128, 64, 16, 256), (64, 128, 64, 128)]
)


@given(
    shape=SHAPES,
    target=st.sampled_from(TARGETS),
    assume=st.booleans(),
    stages=st.integers(0, 5),
    producer=st.sampled_from(["none", "whole", "part"]),
    guard=st.sampled_from(["none", "mask", "count"]),
    epilogue=st.booleans(),
    extra=st.booleans(),
    clear=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_random_programs_mean_the_same(
    shape: tuple[int, int, int, int], target: str, assume: bool, seed: int, **choices: Any
) -> None:
    bm, bn, bk, threads = shape
    program = varied.trace({**choices, "bm": bm, "bn": bn, "bk": bk, "threads": threads})
    context = PassContext(
        find_target(target), REGISTRY, Facts(Assume.ALL if assume else Assume.NOTHING)
    )
    planned = run_pipeline(program, context, PLANNING)
    same_meaning(program, planned, seed, registry=REGISTRY)
