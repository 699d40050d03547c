"""The plain GEMM, as the frontend leaves it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, gemm, operands, run, tensor
from tilec.errors import ExecutionError
from tilec.interpreter import assert_close, tolerance
from tilec.ir.core import constant
from tilec.ir.dtypes import DType, bf16, bool_, f16, f32, f64, i8, i32
from tilec.ir.ops.gemm import Gemm


def check(
    shape: tuple[int, int, int], block: tuple[int, int, int], dtype: DType, out: DType
) -> None:
    arguments = operands(shape, dtype, out)
    run(gemm(block, dtype, out), **arguments)
    a, b = arguments["A"].astype(np.float64), arguments["B"].astype(np.float64).T
    reference = a @ b
    assert_close(arguments["C"], reference, tolerance(reference, shape[2], a, b, out), out, "C")


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (64, 64, 32), (130, 67, 95), (7, 200, 33), (65, 64, 0)]
)
@pytest.mark.parametrize(("dtype", "out"), [(f16, f16), (f16, f32), (bf16, bf16), (f32, f32)])
def test_gemm_is_right_at_ragged_sizes(
    shape: tuple[int, int, int], dtype: DType, out: DType
) -> None:
    check(shape, (64, 64, 32), dtype, out)


def test_order_of_blocks_does_not_matter() -> None:
    results = []
    for seed in range(3):
        arguments = operands((130, 130, 64))
        run(gemm((64, 64, 32)), seed=seed, **arguments)
        results.append(arguments["C"].tobytes())
    assert len(set(results)) == 1


def test_a_real_size_takes_a_moment() -> None:
    program, arguments = gemm((128, 128, 32)), operands((256, 256, 256))
    times = []
    for _ in range(3):
        start = time.process_time()
        run(program, **arguments)
        times.append(time.process_time() - start)
    assert min(times) < 1  # 10 ms on a quiet machine


def small(
    a: DType, b: DType, c: DType, *, clear: bool = False, first: bool | None = None
) -> Sketch:
    s = Sketch()
    x, y, z = tensor("A", a, 8, 16), tensor("B", b, 16, 8), tensor("C", c, 8, 8)
    with s.launch(1):
        x_s, y_s = s.shared("A_s", a, 8, 16), s.shared("B_s", b, 16, 8)
        acc = s.fragment("acc", c, 8, 8)
        if not clear and first is None:
            s.fill(acc, 3)
        s.copy(x, (0, 0), x_s, (0, 0), (8, 16))
        s.copy(y, (0, 0), y_s, (0, 0), (16, 8))
        accumulate = () if first is None else (constant(not first, bool_),)
        s.emit(Gemm(x_s, y_s, acc, accumulate, clear=clear))
        s.copy(acc, (0, 0), z, (0, 0), (8, 8))
    s.params = (x, y, z)  # type: ignore[attr-defined]
    return s


@pytest.mark.parametrize(("dtype", "out"), [(i8, i32), (f64, f64), (f32, f64), (f16, f16)])
def test_accumulators_of_other_dtypes(dtype: DType, out: DType) -> None:
    random = np.random.default_rng(1)
    a = random.integers(-100 if dtype == i8 else -4, 100 if dtype == i8 else 5, (8, 16))
    b = random.integers(-4, 5, (16, 8))
    c = np.zeros((8, 8), out.numpy)
    s = small(dtype, dtype, out)
    run(s.program(*s.params), A=a.astype(dtype.numpy), B=b.astype(dtype.numpy), C=c)  # type: ignore[attr-defined]
    assert np.array_equal(c, (a @ b + 3).astype(out.numpy))


def test_f64_is_multiplied_in_f64() -> None:
    a = np.random.default_rng(0).standard_normal((8, 16))
    b = np.random.default_rng(1).standard_normal((16, 8))
    c = np.zeros((8, 8))
    s = small(f64, f64, f64, clear=True)
    run(s.program(*s.params), A=a, B=b, C=c)  # type: ignore[attr-defined]
    assert np.abs(c - a @ b).max() < 1e-14


def test_an_accumulator_that_was_never_set_is_refused_unless_it_starts_from_zero() -> None:
    ones = {"A": np.ones((8, 16), np.float16), "B": np.ones((16, 8), np.float16)}
    c = np.zeros((8, 8), np.float32)
    for clear, first in ((True, None), (False, True)):
        s = small(f16, f16, f32, clear=clear, first=first)
        run(s.program(*s.params), C=c, **ones)  # type: ignore[attr-defined]
        assert (c == 16).all()
    s = small(f16, f16, f32, first=False)
    with pytest.raises(ExecutionError, match="uninitialised value reaches the accumulator 'acc'"):
        run(s.program(*s.params), C=c, **ones)  # type: ignore[attr-defined]


def test_a_gemm_of_a_shared_tile_that_was_never_written() -> None:
    s = Sketch()
    c = tensor("C", f32, 8, 8)
    with s.launch(1):
        x, y, acc = s.shared("X", f16, 8, 8), s.shared("Y", f16, 8, 8), s.fragment("acc", f32, 8, 8)
        s.fill(x, 1)
        s.emit(Gemm(x, y, acc, clear=True))
        s.copy(acc, (0, 0), c, (0, 0), (8, 8))
    with pytest.raises(
        ExecutionError, match=r"uninitialised value reaches a gemm, from 'Y'"
    ) as error:
        run(s.program(c), C=np.zeros((8, 8), np.float32))
    assert error.value.code == "TLC0743" and error.value.loc.line == 5
