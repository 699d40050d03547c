"""Whether two programs mean the same."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from tests.interpreter.programs import Sketch, gemm, number, run, tensor
from tilec.errors import WrongResult
from tilec.interpreter import same_meaning
from tilec.interpreter.same import _unit, random_arguments
from tilec.ir.conversion import largest_finite
from tilec.ir.core import Program
from tilec.ir.dtypes import DType, bf16, e2m1, e2m3, e3m2, e4m3, e5m2, f16, f32, i8
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.reduce import Reduce
from tilec.passes.context import PassContext
from tilec.target import TARGETS

PASSES = (
    "promote_fragments", "lift_copies", "plan_pipelines", "choose_instructions", "make_persistent",
    "assign_roles", "fit_resources", "issue_gemms", "split_loads", "schedule_stages",
)  # fmt: skip


def moved(shift: int, n: int = 4) -> Program:
    a, b, c = tensor("A", i8, "N", n), tensor("B", i8, "N", n), number("c")
    s = Sketch()
    with s.launch(s.symbol("N")) as (bx, _, _), s.parallel(n) as (i,):
        s.store(s.load(a, bx, s.add(i, shift)), b, bx, i)
    return s.program(a, b, c)


def test_programs_that_differ_are_told_apart() -> None:
    registry = builtin_registry()
    same_meaning(moved(0), moved(0), 0, registry=registry)
    with pytest.raises(WrongResult, match="B differs"):
        same_meaning(moved(0), moved(1), 0, registry=registry)


def scaled(factor: float, backwards: bool, dtype: DType = f32) -> Program:
    """B is the sum of A's first 64 elements, each times `factor`: by a reduction."""
    a, b = tensor("A", dtype, 64), tensor("B", dtype, 1)
    s = Sketch()
    with s.launch(1):
        terms, total = s.fragment("terms", dtype, 64), s.fragment("total", dtype, 1)
        with s.parallel(64) as (i,):
            x = s.load(a, s.sub(63, i) if backwards else i)
            s.store(s.mul(x, s.const(factor, dtype)), terms, i)
        s.emit(Reduce(terms, (total,), kind="sum", dim=0, dtype=dtype, keep=True))
        s.copy(total, (0,), b, (0,), (1,))
    return s.program(a, b)


def test_sums_of_another_order_are_the_same_but_another_value_is_not() -> None:
    registry = builtin_registry()
    for seed in range(5):
        same_meaning(scaled(0.1, False), scaled(0.1, True), seed, registry=registry)
        same_meaning(scaled(0.1, False, f16), scaled(0.1, True, f16), seed, registry=registry)
        with pytest.raises(WrongResult, match="B is wrong"):
            same_meaning(scaled(0.1, False), scaled(0.10001, False), seed, registry=registry)


@pytest.mark.parametrize("dtype", [e2m3, e3m2, e2m1, e4m3, e5m2, f16, bf16, f32], ids=str)
def test_a_unit_is_the_way_to_the_next_number(dtype: DType) -> None:
    """Of each number that there is, up to the largest; of f32, of some."""
    kind = f"u{dtype.numpy.itemsize}"
    last = np.array(largest_finite(dtype)).astype(dtype.numpy)
    some = [0, 1, 2**23 - 1, 2**23, 127 << 23, last.view(kind) - 1]
    codes = np.array(some if dtype == f32 else range(last.view(kind)))
    x, following = (c.astype(kind).view(dtype.numpy) for c in (codes, codes + 1))
    steps = (following.astype(np.float64) - x.astype(np.float64)).tolist()
    assert _unit(x, dtype).tolist() == steps
    others = np.array([last, -last, np.inf, np.nan], np.float64)
    assert _unit(others, dtype).tolist() == [steps[-1]] * 2 + steps[:1] * 2


def rounded(ulps: int, in_sums: bool) -> Program:
    """B is A, 1000 with `ulps` units in the last place of f16 more; beside it a sum, or none."""
    b, c = tensor("B", f16, 2), tensor("C", f32, 1)
    s = Sketch()
    with s.launch(1):
        with s.parallel(1) as (i,):
            s.store(s.const(1000 + ulps / 2, f16), b, i)
            s.store(s.const(60000, f16), b, s.add(i, 1))
        total, terms = s.fragment("total", f32, 1), s.fragment("terms", f32, 32)
        s.fill(terms, 1.0)
        kind = "sum" if in_sums else "max"
        s.emit(Reduce(terms, (total,), kind=kind, dim=0, dtype=f32, keep=True))
        s.copy(total, (0,), c, (0,), (1,))
    return s.program(b, c)


def test_floats_agree_to_the_bit_where_nothing_is_summed() -> None:
    """And within a unit of their own where sums are of a finer dtype, whatever else is there."""
    same_meaning(rounded(0, True), rounded(1, True), 0)
    with pytest.raises(WrongResult, match="B is wrong in 1 of 2"):
        same_meaning(rounded(0, True), rounded(2, True), 0)
    with pytest.raises(WrongResult, match="B differs in 1 of 2"):
        same_meaning(rounded(0, False), rounded(1, False), 0)


def test_given_arguments_are_used_and_left_alone() -> None:
    a = np.ones((3, 4), np.int8)
    b = np.zeros((3, 4), np.int8)
    same_meaning(
        moved(0),
        moved(1, 4),
        0,
        registry=builtin_registry(),
        arguments={"A": a * 0, "B": b, "c": 1},
    )
    assert (b == 0).all()


def test_random_arguments_fit_the_program_and_vary() -> None:
    program = gemm((16, 16, 16))
    sizes = set()
    for seed in range(20):
        arguments = random_arguments(program, seed)
        sizes.add(arguments["A"].shape)
        assert (
            arguments["A"].dtype == np.float16
            and arguments["A"].shape[1] == arguments["B"].shape[1]
        )
        assert np.array_equal(arguments["A"], np.round(arguments["A"]))
    assert len(sizes) > 10
    values = random_arguments(moved(0), 0)["A"]
    assert values.min() < 0 < values.max()


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a", "hip:gfx942"])
def test_planned_gemms_mean_the_plain_one(target: str) -> None:
    """Every form a GEMM takes on its way through the tile-level passes, roles and all, gives the
    same result.
    """
    registry = builtin_registry()
    context = PassContext(TARGETS[target], registry)
    plain = program = gemm((128, 64, 64), f16, f32, stages=3)
    for name in PASSES:
        transform = getattr(importlib.import_module(f"tilec.passes.{name}"), name)
        program = transform(program, context)
        same_meaning(plain, program, len(name), registry=registry)


@pytest.mark.parametrize("shape", [(1, 1, 1), (128, 64, 64), (200, 100, 300)])
def test_planned_gemms_at_chosen_sizes(shape: tuple[int, int, int]) -> None:
    registry = builtin_registry()
    context = PassContext(TARGETS["cuda:sm_90a"], registry)
    program = gemm((128, 64, 64), f16, f32, stages=3)
    for name in PASSES:
        program = getattr(importlib.import_module(f"tilec.passes.{name}"), name)(program, context)
    random = np.random.default_rng(0)
    a = random.integers(-4, 5, (shape[0], shape[2])).astype(np.float16)
    b = random.integers(-4, 5, (shape[1], shape[2])).astype(np.float16)
    for seed in range(3):
        c = np.full(shape[:2], np.nan, np.float32)
        run(program, seed=seed, A=a, B=b, C=c)
        assert np.array_equal(c, a.astype(np.float32) @ b.astype(np.float32).T)
