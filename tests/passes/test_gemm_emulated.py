"""Gemm from the tile level to the text that the emulator runs: every family, storage order and kind
of store.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, number, tensor
from tilec.backends.emitter import EmittedProgram, emit_program, render
from tilec.ir.core import Block, Program
from tilec.ir.dtypes import DType, bf16, f16, f32
from tilec.ir.ops.control import For, Yield
from tilec.ir.ops.gemm import Gemm
from tilec.passes.context import PassContext
from tilec.passes.pipeline import run_pipeline
from tilec.runtime.emulator import Mode, build, run
from tilec.runtime.lowering import standard_registry
from tilec.target import find_target

Shape = tuple[int, int, int]
pytestmark = pytest.mark.emulator


def gemm(block: Shape, order: str, threads: int, dtype: DType, out: DType) -> Program:
    """C = A B by tiles of `block`; `order` is how A and B are stored: "N" (M, K) and (K, N), "T"
    the other.
    """
    (bm, bn, bk), (ta, tb) = block, (order[0] == "T", order[1] == "T")
    a = tensor("A", dtype, *(("K", "M") if ta else ("M", "K")))
    b = tensor("B", dtype, *(("N", "K") if tb else ("K", "N")))
    c = tensor("C", out, "M", "N")
    s = Sketch()
    m, n, k = s.symbol("M"), s.symbol("N"), s.symbol("K")
    with s.launch(s.ceildiv(n, bn), s.ceildiv(m, bm), threads=threads) as (bx, by, _):
        a_box, b_box = ((bk, bm) if ta else (bm, bk)), ((bn, bk) if tb else (bk, bn))
        a_s, b_s = s.shared("A_s", dtype, *a_box), s.shared("B_s", dtype, *b_box)
        acc = s.fragment("acc", f32, bm, bn)
        s.fill(acc, 0.0)
        index = number("k")
        with s.region() as ops:
            row, column, depth = s.mul(by, bm), s.mul(bx, bn), s.mul(index, bk)
            s.copy(a, (depth, row) if ta else (row, depth), a_s, (0, 0), a_box)
            s.copy(b, (column, depth) if tb else (depth, column), b_s, (0, 0), b_box)
            s.emit(Gemm(a_s, b_s, acc, transpose_a=ta, transpose_b=tb))
        body = Block((index,), (*ops, Yield(())))
        stop = s.ceildiv(k, bk)
        s.emit(For(s.value(0), stop, s.value(1), (), body, kind="pipelined", stages=3))
        s.copy(acc, (0, 0), c, (s.mul(by, bm), s.mul(bx, bn)), (bm, bn))
    return s.program(a, b, c)


def compiled(target: str, program: Program) -> EmittedProgram:
    found, registry = find_target(target), standard_registry()
    return emit_program(run_pipeline(program, PassContext(found, registry)), found, registry)


Case = tuple[str, Shape, int, Shape, str, DType, DType, str]
SM80, SM90, GFX942 = "cuda:sm_80", "cuda:sm_90a", "hip:gfx942"
CASES: list[Case] = [
    (SM80, (64, 64, 32), 128, (72, 80, 96), "NT", f16, f16, "mma<16, 8, 16>"),
    (SM80, (64, 64, 32), 128, (72, 80, 64), "TN", f16, f16, "ldmatrix_trans<4>"),
    # 4 copies of A and 5 of B in 3 of 4 trips
    (SM80, (64, 80, 64), 128, (72, 88, 256), "NT", f16, f16, " < 4) {"),
    (SM80, (64, 64, 48), 128, (72, 80, 192), "NT", f16, f32, "mma<16, 8, 16>"),
    (SM80, (32, 24, 48), 64, (40, 48, 96), "NT", bf16, f32, "ldmatrix<2>"),
    (
        SM90,
        (128, 256, 64),
        256,
        (136, 264, 128),
        "NT",
        f16,
        f16,
        "wgmma_ss<256, f32, f16, f16, false, false>",
    ),
    (
        SM90,
        (128, 128, 64),
        256,
        (136, 136, 64),
        "NN",
        bf16,
        bf16,
        "wgmma_ss<128, f32, bf16, bf16, false, true>",
    ),
    # 2 x 2 warpgroups
    (SM90, (128, 256, 64), 512, (136, 264, 128), "NT", f16, f16, "wgmma_ss<128, f32, f16, f16"),
    (
        SM90,
        (64, 96, 32),
        128,
        (72, 96, 64),
        "TT",
        f16,
        f32,
        "wgmma_ss<96, f32, f16, f16, true, false>",
    ),
    (SM90, (64, 192, 64), 128, (72, 200, 64), "TN", f16, f16, "tma_store<2>"),
    (GFX942, (64, 64, 32), 256, (72, 80, 64), "NT", f16, f16, "load_shared<8>(a_frag"),
    (GFX942, (64, 64, 32), 128, (72, 80, 64), "TN", bf16, f32, "mfma<"),
]


@pytest.mark.parametrize(
    ("target", "block", "threads", "shape", "order", "dtype", "out", "text"), CASES
)
def test_product(
    target: str,
    block: Shape,
    threads: int,
    shape: Shape,
    order: str,
    dtype: DType,
    out: DType,
    text: str,
) -> None:
    emitted = compiled(target, gemm(block, order, threads, dtype, out))
    assert text in emitted.frames[0].body
    library = build(render(emitted, "cpu"))
    m, n, k = shape
    random = np.random.default_rng(m * n + k)
    a, b = (random.standard_normal(s).astype(dtype.numpy) for s in ((m, k), (k, n)))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    expected, magnitude = wide_a @ wide_b, np.abs(wide_a) @ np.abs(wide_b)
    rounding = {"f16": 2.0**-11, "bf16": 2.0**-8, "f32": 2.0**-24}[out.name]
    allowed = rounding * np.abs(expected) + k * 2.0**-24 * magnitude + 2.0**-25
    stored = (a.T if order[0] == "T" else a, b.T if order[1] == "T" else b)
    results: list[Any] = []
    modes: tuple[Mode, ...] = ("late", "early")
    for mode in modes:
        c = np.full((m, n), np.nan, out.numpy)
        arguments = {
            "A": np.ascontiguousarray(stored[0]), "B": np.ascontiguousarray(stored[1]), "C": c,
            "M": m, "N": n, "K": k,
        }  # fmt: skip
        run(library, emitted.launches[0], arguments, mode, "reverse", 7, multiprocessors=2)
        assert np.all(np.abs(c.astype(np.float64) - expected) <= allowed)
        results.append(c)
    assert results[0].tobytes() == results[1].tobytes()
