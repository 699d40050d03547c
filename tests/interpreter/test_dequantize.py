"""The kernel this project began from: thread-level statements beside tile-level ones, built by
hand.
"""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, number, run, tensor
from tilec.errors import ExecutionError
from tilec.interpreter import assert_close, tolerance
from tilec.ir.core import Block, Program, Value
from tilec.ir.dtypes import f16, f32, i8, i32, u8
from tilec.ir.ops.arith import Cast, Reinterpret
from tilec.ir.ops.control import For, Yield
from tilec.ir.ops.gemm import Gemm

THREADS = 128


def unpack(s: Sketch, packed: Value, position: Value) -> Value:
    """Half `position` of a byte, as f16."""
    unsigned = s.cast(s.pure(Reinterpret(packed, dtype=u8)), i32)
    return s.pure(Cast(s.bit_and(s.shift_right(unsigned, s.mul(position, 4)), 15), dtype=f16))


def dequantize_gemm(
    m: int, n: int, k: int, bm: int, bn: int, bk: int, *, own: int = THREADS
) -> Program:
    """C = A @ dequantize(B).T; `own` is the stride between the bytes of one thread's turns (a fault
    if not THREADS).
    """
    a, b, c = tensor("A", f16, m, k), tensor("B", i8, n, k // 2), tensor("C", f16, m, n)
    s = Sketch()
    with s.launch(-(-n // bn), -(-m // bm), threads=THREADS) as (bx, by, _):
        a_s, b_s = s.shared("A_shared", f16, bm, bk), s.shared("B_shared", i8, bn, bk // 2)
        b_l, d_l = s.local("B_local", i8, 8), s.local("B_dequantize_local", f16, 16)
        d_s = s.shared("B_dequantize_shared", f16, bn, bk)
        acc = s.fragment("C_local", f32, bm, bn)
        s.fill(acc, 0.0)
        index = number("k")
        with s.region() as ops:
            s.copy(a, (s.mul(by, bm), s.mul(index, bk)), a_s, (0, 0), (bm, bk))
            with s.parallel(bn, bk // 2) as (i, j):
                column = s.add(s.floordiv(s.mul(index, bk), 2), j)
                s.store(s.load(b, s.add(s.mul(bx, bn), i), column), b_s, i, j)
            with s.simt(THREADS) as t, s.loop(0, bn * bk // 2 // (THREADS * 4)) as i:
                with s.loop(0, 4, kind="vectorized") as v:
                    at = s.add(s.add(s.mul(i, THREADS * 4), s.mul(t, 4)), v)
                    s.store(s.load(b_s, s.floordiv(at, bk // 2), s.floormod(at, bk // 2)), b_l, v)
                with s.loop(0, 8) as v:
                    s.store(unpack(s, s.load(b_l, s.floordiv(v, 2)), s.floormod(v, 2)), d_l, v)
                with s.loop(0, 8, kind="vectorized") as v:
                    at = s.add(s.add(s.mul(i, own * 8), s.mul(t, 8)), v)
                    s.store(s.load(d_l, v), d_s, s.floordiv(at, bk), s.floormod(at, bk))
            s.emit(Gemm(a_s, d_s, acc, transpose_b=True))
        body = Block((index,), (*ops, Yield(())))
        s.emit(
            For(s.value(0), s.value(-(-k // bk)), s.value(1), (), body, kind="pipelined", stages=3)
        )
        s.copy(acc, (0, 0), c, (s.mul(by, bm), s.mul(bx, bn)), (bm, bn))
    return s.program(a, b, c)


def arguments(m: int, n: int, k: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "A": random.standard_normal((m, k)).astype(np.float16),
        "B": random.integers(-128, 128, (n, k // 2)).astype(np.int8),
        "C": np.full((m, n), np.nan, np.float16),
    }


def check(x: dict[str, np.ndarray]) -> None:
    raw = x["B"].view(np.uint8)
    b = np.stack([raw & 15, raw >> 4], axis=-1).reshape(raw.shape[0], -1).astype(np.float64)
    a = x["A"].astype(np.float64)
    reference = a @ b.T
    assert_close(x["C"], reference, tolerance(reference, a.shape[1], a, b.T, f16), f16, "C")


@pytest.mark.parametrize("shape", [(256, 256, 256), (128, 64, 64), (130, 200, 96)])
def test_the_origin_kernel(shape: tuple[int, int, int]) -> None:
    program, x = dequantize_gemm(*shape, 128, 128, 64), arguments(*shape)
    start = time.process_time()
    assert run(program, **x) == []
    assert time.process_time() - start < 5  # 0.2 s on a quiet machine
    check(x)


def test_turns_that_leave_elements_unwritten_are_found() -> None:
    with pytest.raises(
        ExecutionError, match="uninitialised value reaches a gemm, from 'B_dequantize_shared'"
    ):
        run(
            dequantize_gemm(128, 128, 64, 128, 128, 64, own=THREADS // 2), **arguments(128, 128, 64)
        )
