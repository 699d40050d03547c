"""Expressions: random trees print to C that computes what the ops mean; parentheses, constants."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.emitter_programs import Kernel, memory
from tilec.backends.emitter import EmittedProgram, emit_program, render
from tilec.backends.expressions import Expression, constant_expression, elementwise_expression
from tilec.errors import TargetUnsupported
from tilec.ir.build import scalar
from tilec.ir.core import Constant, Value, constant, operand
from tilec.ir.dtypes import (
    DTYPES,
    DType,
    bf16,
    bool_,
    e2m1x2,
    f16,
    f32,
    f64,
    i4x2,
    i8,
    i16,
    i32,
    i64,
    u4x2,
    u8,
    u16,
    u32,
    u64,
)
from tilec.ir.ops import arith, builtin_registry, functions
from tilec.ir.ops.control import ThreadId
from tilec.ir.types import ScalarType
from tilec.runtime.emulator import build, run
from tilec.target import find_target

Lanes = NDArray[Any]
LANES = 32
INTEGERS = (i8, i16, i32, i64, u8, u16, u32, u64)
FLOATS = (f16, bf16, f32, f64)
INFIX = (
    arith.Add, arith.Sub, arith.Mul, arith.FloorDiv, arith.FloorMod, arith.TruncDiv, arith.TruncMod,
    arith.Min, arith.Max, arith.BitAnd,
    arith.BitOr, arith.BitXor, arith.ShiftLeft, arith.ShiftRight,
)  # fmt: skip
FLOAT_INFIX = (arith.Add, arith.Sub, arith.Mul, arith.Div, arith.Min, arith.Max)
PREDICATES = ("eq", "ne", "lt", "le", "gt", "ge")


def emit(kernel: Kernel, threads: int = LANES) -> EmittedProgram:
    return emit_program(
        kernel.program((1, 1, 1), threads), find_target("cuda:sm_80"), builtin_registry()
    )


@dataclass
class Trees:
    """Grows random expressions in a kernel, each value with what `evaluate` says in every lane.

    What C leaves undefined is not grown: signed overflow, division by zero, casts out of range.
    Nor are infinities and NaN.
    """

    kernel: Kernel
    rng: random.Random
    pool: dict[DType, list[tuple[Value, Lanes]]]

    def pick(self, dtype: DType) -> tuple[Value, Lanes]:
        if self.rng.random() < 0.15 or not self.pool.get(dtype):
            return self.number(dtype)
        # Mostly young values, so that trees grow deep; taken out, so that most are used once.
        values = self.pool[dtype]
        at = min(int(self.rng.expovariate(0.5)), len(values) - 1)
        return (
            values[-1 - at] if self.rng.random() < 0.3 or len(values) < 4 else values.pop(-1 - at)
        )

    def number(self, dtype: DType) -> tuple[Value, Lanes]:
        if dtype == bool_:
            number: bool | int | float = self.rng.random() < 0.5
        elif dtype.is_integer:
            number = self.rng.randint(-9 if dtype.kind == "int" else 0, 20)
        else:
            number = self.rng.choice((0.5, -1.25, 3.0, 0.1, 1e-3, 64.0))
        value = constant(number, dtype)
        return value, np.full(LANES, value.value).astype(dtype.numpy)

    def grow(self) -> None:
        op, lanes = self.random_op()
        with np.errstate(all="ignore"):
            found = np.asarray(op.evaluate(*lanes)).astype(_dtype(op).numpy)
        if all(isinstance(v, Constant) for v in op.inputs) or not _defined(op, lanes, found):
            return
        if found.shape != (LANES,):
            return
        self.kernel.b.emit(op)
        self.pool.setdefault(_dtype(op), []).append((op.result, found))

    def random_op(self) -> tuple[arith.Elementwise, list[Lanes]]:
        roll = self.rng.random()
        if roll < 0.45:
            dtype = self.rng.choice(INTEGERS + (i32,) * 6)
            (x, a), (y, b) = self.pick(dtype), self.pick(dtype)
            return self.rng.choice(INFIX)(x, y), [a, b]  # type: ignore[abstract]
        if roll < 0.6:
            dtype = self.rng.choice(FLOATS)
            (x, a), (y, b) = self.pick(dtype), self.pick(dtype)
            return self.rng.choice(FLOAT_INFIX)(x, y), [a, b]
        if roll < 0.7:
            dtype = self.rng.choice((*INTEGERS, *FLOATS))
            (x, a), (y, b) = self.pick(dtype), self.pick(dtype)
            return arith.Compare(x, y, predicate=self.rng.choice(PREDICATES)), [a, b]
        if roll < 0.78:
            (x, a), (y, b) = self.pick(bool_), self.pick(bool_)
            return self.rng.choice((arith.BitAnd, arith.BitOr, arith.BitXor))(x, y), [a, b]
        return self.other_op(roll)

    def other_op(self, roll: float) -> tuple[arith.Elementwise, list[Lanes]]:
        dtype = self.rng.choice((*INTEGERS, *FLOATS))
        x, a = self.pick(dtype)
        if roll < 0.85:
            (c, truth), (y, b) = self.pick(bool_), self.pick(dtype)
            return arith.Select(c, x, y), [truth, a, b]
        if roll < 0.94:
            return arith.Cast(x, dtype=self.rng.choice((*INTEGERS, *FLOATS))), [a]
        if roll < 0.96 and dtype not in (i64, u64, f64):
            same = [d for d in (*INTEGERS, *FLOATS) if d.bits == dtype.bits]
            return arith.Reinterpret(x, dtype=self.rng.choice(same)), [a]
        kinds = (arith.Neg, arith.Abs) if dtype.is_float else (arith.Neg, arith.Abs, arith.Not)
        return self.rng.choice(kinds)(x), [a]


def _dtype(op: arith.Elementwise) -> DType:
    return arith.element_dtype(op.result)


def _defined(op: arith.Elementwise, lanes: list[Lanes], found: Lanes) -> bool:
    """Whether C defines the op on these operands, and every machine agrees on the result."""
    dtype = _dtype(op)
    if dtype.is_float and not np.all(np.isfinite(found.astype(np.float64))):
        return False
    if isinstance(op, (arith.FloorDiv, arith.FloorMod, arith.TruncDiv, arith.TruncMod, arith.Div)):
        if np.any(lanes[1] == 0) or (isinstance(op, arith.TruncDiv) and dtype.bits == 64):
            return False  # TruncDiv means the quotient of non-negative numbers, computed in f64
    if isinstance(op, (arith.ShiftLeft, arith.ShiftRight)):
        amounts = lanes[1].astype(np.int64)
        if np.any((amounts < 0) | (amounts >= dtype.bits)):
            return False
    if isinstance(op, (arith.Min, arith.Max)) and dtype.is_float and np.any(lanes[0] == lanes[1]):
        return False  # of two zeros either may come
    if isinstance(op, arith.Cast):
        return _castable(lanes[0], arith.element_dtype(op.x), dtype)
    grows = (arith.Add, arith.Sub, arith.Mul, arith.ShiftLeft, arith.Neg, arith.Abs)
    if dtype.kind == "int" and dtype.bits >= 32 and isinstance(op, grows):
        exact = op.evaluate(*(v.astype(object) for v in lanes))
        return bool(np.all(exact == found.astype(object)))
    return True


def _castable(lanes: Lanes, source: DType, dtype: DType) -> bool:
    """Floats to integers in range; to 16 bits what f32 holds, since NumPy rounds by way of it."""
    wide = lanes.astype(np.float64)
    if dtype.is_integer and source.is_float:
        limits = np.iinfo(dtype.numpy)
        low, high = max(limits.min, -(2.0**31)), min(limits.max, 2.0**31)
        return bool(np.all((wide > low) & (wide < high)))
    if dtype.is_float and dtype.bits == 16:
        return bool(np.all(lanes.astype(np.float32).astype(np.float64) == wide))
    return True


def make_inputs(rng: np.random.Generator, dtype: DType) -> Lanes:
    if dtype == bool_:
        return rng.random(LANES) < 0.5
    if dtype.is_integer:
        return rng.integers(-100 if dtype.kind == "int" else 0, 100, LANES).astype(dtype.numpy)
    return rng.standard_normal(LANES).astype(np.float32).astype(dtype.numpy)


@pytest.mark.emulator
@pytest.mark.parametrize("seed", [1, 2])
def test_random_trees_compute_what_the_ops_mean(seed: int) -> None:
    types = (*INTEGERS, *FLOATS, bool_)
    inputs = {d: memory(d, ("N",), f"in_{d}") for d in types}
    outputs = {d: memory(d, ("N",), f"out_{d}") for d in types}
    kernel = Kernel("trees", *inputs.values(), *outputs.values(), symbols=("N",))
    t = kernel.b.emit(ThreadId()).result
    generator = np.random.default_rng(seed)
    arrays: dict[str, Any] = {"N": LANES}
    trees = Trees(kernel, random.Random(seed), {})
    for dtype in types:
        lanes = make_inputs(generator, dtype)
        arrays[f"in_{dtype}"] = lanes
        trees.pool[dtype] = [(kernel.load(inputs[dtype], t), lanes)]
    for _ in range(1200):
        trees.grow()
    for dtype in types:
        for i, (value, _) in enumerate(trees.pool[dtype]):
            kernel.store(value, outputs[dtype], kernel.b.add(t, i * LANES))
        arrays[f"out_{dtype}"] = np.zeros(LANES * len(trees.pool[dtype]), dtype.numpy)
    emitted = emit(kernel)
    assert max(map(len, emitted.frames[0].body.splitlines())) <= 100
    run(build(render(emitted, "cpu")), emitted.launches[0], arrays)
    checked = 0
    for dtype in types:
        for i, (value, lanes) in enumerate(trees.pool[dtype]):
            found = arrays[f"out_{dtype}"][i * LANES : (i + 1) * LANES]
            assert np.array_equal(found, lanes), (dtype, i, value)
            checked += 1
    assert checked > 60


# One expression -----------------------------------------------------------------------------------

_A, _B, _C = (Expression(name) for name in "abc")


def show(op: arith.Elementwise, *operands: Expression) -> str:
    return elementwise_expression(op, operands).text


def nest(op: arith.Elementwise, *operands: Expression) -> Expression:
    return elementwise_expression(op, operands)


def pair(dtype: DType) -> tuple[Value, Value]:
    return scalar(dtype), scalar(dtype)


@pytest.mark.parametrize(
    ("outer", "inner", "left", "text"),
    [
        (arith.Sub, arith.Sub, True, "a - b - c"),
        (arith.Sub, arith.Sub, False, "c - (a - b)"),
        (arith.Mul, arith.Add, True, "(a + b) * c"),
        (arith.Add, arith.Mul, False, "c + a * b"),
        (arith.TruncMod, arith.TruncDiv, True, "a / b % c"),
        (arith.TruncDiv, arith.TruncMod, False, "c / (a % b)"),
        (arith.BitXor, arith.Add, True, "(a + b) ^ c"),
        (arith.ShiftLeft, arith.Sub, False, "c << (a - b)"),
        (arith.BitOr, arith.BitOr, True, "a | b | c"),
        (arith.FloorDiv, arith.Add, True, "floordiv(a + b, c)"),
        (arith.Add, arith.Min, True, "min(a, b) + c"),
    ],
)
def test_parentheses(outer: Any, inner: Any, left: bool, text: str) -> None:
    within = nest(inner(*pair(i32)), _A, _B)
    assert show(outer(*pair(i32)), *((within, _C) if left else (_C, within))) == text


def test_parentheses_of_logic_and_ternaries() -> None:
    less = nest(arith.Compare(*pair(i32), predicate="lt"), _A, _B)
    both = nest(arith.BitAnd(*pair(bool_)), less, _C)
    assert both.text == "a < b && c"
    assert show(arith.BitOr(*pair(bool_)), both, _C) == "(a < b && c) || c"
    assert show(arith.Compare(*pair(bool_), predicate="eq"), less, _C) == "(a < b) == c"
    assert show(arith.Not(scalar(bool_)), less) == "!(a < b)"
    select = arith.Select(scalar(bool_), *pair(i32))
    chosen = nest(select, less, _A, _B)
    assert chosen.text == "a < b ? a : b"
    assert show(select, _C, _A, chosen) == "c ? a : (a < b ? a : b)"
    assert show(arith.Add(*pair(i32)), chosen, _C) == "(a < b ? a : b) + c"
    negative = nest(arith.Neg(scalar(i32)), _A)
    assert show(arith.Neg(scalar(i32)), negative) == "-(-a)"


def test_narrow_integers_wrap_where_they_can_overflow() -> None:
    assert show(arith.Add(*pair(u8)), _A, _B) == "convert<u8>(a + b)"
    assert show(arith.BitAnd(*pair(u8)), _A, _B) == "a & b"
    within = nest(arith.BitAnd(*pair(u8)), _A, _B)
    assert (
        show(arith.Reinterpret(scalar(u8), dtype=i8), within)
        == "reinterpret<i8>(convert<u8>(a & b))"
    )


def test_what_only_f32_has_goes_through_it() -> None:
    assert show(functions.Exp2(scalar(f32)), _A) == "exp2(a)"
    assert show(functions.Exp2(scalar(f16)), _A) == "convert<f16>(exp2(convert<f32>(a)))"
    assert show(functions.Exp2(scalar(f64)), _A) == "exp2<f64>(a)"

    class Soft(functions.Function, name="test.soft", pure=True):
        text, known_in_f64 = "soft({x})", False
        x: Value = operand()

    with pytest.raises(TargetUnsupported, match="TLC0512"):
        elementwise_expression(Soft(scalar(f64)), [_A])


@pytest.mark.parametrize(
    ("number", "dtype", "text"),
    [
        (-(2**31), i32, "-2147483647 - 1"),
        (-(2**63), i64, "-9223372036854775807ll - 1"),
        (7, u32, "7u"),
        (2**64 - 1, u64, "18446744073709551615ull"),
        (-128, i8, "-128"),
        (True, bool_, "true"),
        (0.1, f32, "0.1f"),
        (1e-9, f32, "1e-09f"),
        (0.1, f64, "0.1"),
        (0.5, f16, "convert<f16>(0.5f)"),
        (-0.0, f32, "-0.0f"),
        (float("-inf"), f32, "reinterpret<f32>(0xff800000u)"),
        (float("nan"), f16, "reinterpret<f16>(convert<u16>(0x7e00))"),
    ],
)
def test_constants(number: Any, dtype: DType, text: str) -> None:
    assert constant_expression(constant(number, dtype)).text == text


def test_a_choice_of_numbers_says_its_dtype() -> None:
    """C++ has several `max`, and a choice of two literals is no f32 of the emulator."""
    p, x = Value(ScalarType(bool_), "p"), Value(ScalarType(f32), "x")
    names = {p: Expression("p"), x: Expression("x")}

    def text(op: Any) -> str:
        operands = [
            constant_expression(v) if isinstance(v, Constant) else names[v] for v in op.inputs
        ]
        names[op.result] = elementwise_expression(op, operands)
        return names[op.result].text

    one, six, low = (constant(number, f32) for number in (1.0, 6.0, -32.0))
    for arm, found in (
        (six, "max(convert<f32>(p ? 6.0f : 1.0f), convert<f32>(-32.0f))"),
        (x, "max(p ? x : 1.0f, -32.0f)"),
    ):
        choice = arith.Select(p, arm, one)
        text(choice)
        assert text(arith.Max(choice.result, low)) == found


@pytest.mark.emulator
def test_constants_are_exact_when_run() -> None:
    """Every awkward number, stored and compared by its bits."""
    numbers = (
        0.1,
        -0.0,
        1e-40,
        3.4028235e38,
        6.1e-5,
        float("inf"),
        float("-inf"),
        1 / 3,
        float("nan"),
    )
    with np.errstate(over="ignore"):
        cases = [(constant(x, d), d) for d in FLOATS for x in numbers]
    cases += [
        (constant(x, d), d) for d in INTEGERS for x in (-(1 << (d.bits - 1)), (1 << d.bits) - 1, 5)
    ]
    types = sorted({d for _, d in cases}, key=str)
    outputs = {d: memory(d, ("N",), f"out_{d}") for d in types}
    kernel = Kernel("constants", *outputs.values(), symbols=("N",))
    wanted: dict[DType, list[Any]] = {d: [] for d in types}
    for value, dtype in cases:
        kernel.store(value, outputs[dtype], len(wanted[dtype]))
        wanted[dtype].append(value.value)
    emitted = emit(kernel, threads=1)
    arrays: dict[str, Any] = {f"out_{d}": np.zeros(len(wanted[d]), d.numpy) for d in types}
    run(build(render(emitted, "cpu")), emitted.launches[0], {"N": 9, **arrays})
    for dtype in types:
        with np.errstate(over="ignore"):
            expected = np.array(wanted[dtype], dtype.numpy)
        if dtype in (f16, bf16):
            expected[np.isnan(expected.astype(np.float32))] = np.nan
        bits = f"u{dtype.bits // 8}"
        found = arrays[f"out_{dtype}"]
        numbers_agree = found.view(bits) == expected.view(bits)
        assert np.all(numbers_agree | np.isnan(found.astype(np.float64))), (dtype, found, expected)
        assert np.array_equal(
            np.isnan(found.astype(np.float64)), np.isnan(expected.astype(np.float64))
        )


def test_all_dtypes_of_numbers_are_covered() -> None:
    pairs = {i4x2, u4x2, e2m1x2}  # moved and taken apart, not computed with
    assert {*INTEGERS, *FLOATS, bool_, *pairs} == {d for d in DTYPES.values() if d.computes}
    assert np.dtype(ml_dtypes.bfloat16) == bf16.numpy
