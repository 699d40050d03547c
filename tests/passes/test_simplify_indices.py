"""simplify_indices: what it makes of index arithmetic, and that it means the same."""

from __future__ import annotations

import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.evaluate import Runner
from tilec.ir.build import Builder
from tilec.ir.core import Block, Op, Program, Value, constant, walk
from tilec.ir.dtypes import DType, i16, i32, i64, u8
from tilec.ir.ops import arith, builtin_registry
from tilec.ir.ops.control import For, If, Symbol, Yield
from tilec.ir.ops.memory import Load, Store
from tilec.ir.print import print_program
from tilec.ir.types import MemoryType, ScalarType, Space
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.canonicalize import canonical
from tilec.passes.simplify_indices import indices_simplified
from tilec.passes.value_ranges import value_ranges

REGISTRY = builtin_registry()


def simplified(body: str, result: str = "%r", threads: int = 128) -> str:
    """What becomes of the ops that make %r, in a thread %t of block %bx of `M` rows by 128."""
    text = f"""tilec.ir 1
program @p(%A: global i32[4096], %n: i32) <symbols = [M]> {{
  %m = symbol <label = "M"> : i32
  %m127 = add %m, 127 : i32
  %g = floordiv %m127, 128 : i32
  launch %g, 1, 1 <threads = {threads}> (%bx: i32, %by: i32, %bz: i32) {{
    simt <threads = {threads}> (%t: i32) {{
{body}
store {result}, %A[0]
yield
}}
yield
}}
}}
"""
    program = parse_program(text, REGISTRY)
    verify(program, REGISTRY)
    new = program.with_body(canonical(indices_simplified(program.body)))
    verify(new, REGISTRY)
    again = indices_simplified(new.body)
    assert again is new.body, print_program(new.with_body(again))
    lines = [line.strip() for line in print_program(new).splitlines()]
    begin = next(i for i, line in enumerate(lines) if line.startswith("simt"))
    return "; ".join(lines[begin + 1 : -5])


SUM = "%0 = mul %bx, 128 : i32\n%s = add %0, %t : i32\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # the quotient and remainder of a sum that was just put together
        (SUM + "%r = floordiv %s, 128 : i32", "store %bx, %A[0] <in_bounds>"),
        (SUM + "%r = floormod %s, 128 : i32", "store %t, %A[0] <in_bounds>"),
        (
            SUM + "%r = floordiv %s, 32 : i32",
            "%0 = shift_right %t, 5 : i32; %1 = mul %bx, 4 : i32; %r = add %1, %0 : i32; "
            "store %r, %A[0] <in_bounds>",
        ),
        (
            SUM + "%r = floormod %s, 32 : i32",
            "%r = bit_and %t, 31 : i32; store %r, %A[0] <in_bounds>",
        ),
        # by other numbers, where the dividend is not negative, and where nobody knows
        ("%r = floordiv %t, 12 : i32", "%r = truncdiv %t, 12 : i32; store %r, %A[0] <in_bounds>"),
        ("%r = floormod %t, 12 : i32", "%r = truncmod %t, 12 : i32; store %r, %A[0] <in_bounds>"),
        ("%r = floordiv %n, 12 : i32", "%r = floordiv %n, 12 : i32; store %r, %A[0] <in_bounds>"),
        ("%r = floordiv %n, 8 : i32", "%r = shift_right %n, 3 : i32; store %r, %A[0] <in_bounds>"),
        ("%r = floormod %n, 8 : i32", "%r = bit_and %n, 7 : i32; store %r, %A[0] <in_bounds>"),
        # nested
        (
            "%q = floordiv %n, 6 : i32\n%r = floordiv %q, 7 : i32",
            "%r = floordiv %n, 42 : i32; store %r, %A[0] <in_bounds>",
        ),
        (
            "%q = floormod %n, 48 : i32\n%r = floormod %q, 12 : i32",
            "%r = floormod %n, 12 : i32; store %r, %A[0] <in_bounds>",
        ),
        # quotient and remainder put together again
        (
            "%q = floordiv %t, 12 : i32\n%w = floormod %t, 12 : i32\n%u = mul %q, 24 : i32\n"
            "%v = mul %w, 2 : i32\n%r = add %u, %v : i32",
            "%r = mul %t, 2 : i32; store %r, %A[0] <in_bounds>",
        ),
        # the fraction cancelled, what is added rounded down with it
        (
            "%q = mul %t, 2 : i32\n%u = add %q, 3 : i32\n%r = floordiv %u, 4 : i32",
            "%0 = add %t, 1 : i32; %r = shift_right %0, 1 : i32; store %r, %A[0] <in_bounds>",
        ),
        # what is added is too small to change the quotient; or is not
        (
            "%q = mul %bx, 8 : i32\n%u = bit_and %t, 7 : i32\n%w = add %q, %u : i32\n"
            "%r = floordiv %w, 32 : i32",
            "%r = shift_right %bx, 2 : i32; store %r, %A[0] <in_bounds>",
        ),
        (
            "%q = mul %bx, 8 : i32\n%u = bit_and %t, 15 : i32\n%w = add %q, %u : i32\n"
            "%r = floordiv %w, 32 : i32",
            "%q = mul %bx, 8 : i32; %u = bit_and %t, 15 : i32; %w = add %q, %u : i32; "
            "%r = shift_right %w, 5 : i32; store %r, %A[0] <in_bounds>",
        ),
        # a sum that wraps is not the sum of its parts
        (
            "%q = mul %n, 96 : i32\n%r = floordiv %q, 32 : i32",
            "%q = mul %n, 96 : i32; %r = shift_right %q, 5 : i32; store %r, %A[0] <in_bounds>",
        ),
        # decided
        ("%r = floordiv %t, 128 : i32", "store 0, %A[0] <in_bounds>"),
        ("%q = mul %t, 4 : i32\n%r = floormod %q, 2 : i32", "store 0, %A[0] <in_bounds>"),
        ("%r = min %t, 127 : i32", "store %t, %A[0] <in_bounds>"),
        ("%r = max %bx, -3 : i32", "store %bx, %A[0] <in_bounds>"),
        ("%q = add %t, 5 : i32\n%r = sub %q, 5 : i32", "store %t, %A[0] <in_bounds>"),
        ("%q = add %t, 5 : i32\n%r = sub %q, %t : i32", "store 5, %A[0] <in_bounds>"),
        (
            "%q = add %t, 5 : i32\n%r = add %q, 6 : i32",
            "%r = add %t, 11 : i32; store %r, %A[0] <in_bounds>",
        ),
        # what might wrap stays as it is
        (
            "%q = add %n, 5 : i32\n%r = sub %q, 6 : i32",
            "%q = add %n, 5 : i32; %r = sub %q, 6 : i32; store %r, %A[0] <in_bounds>",
        ),
        (
            "%q = mul %n, 4 : i32\n%r = floordiv %q, 12 : i32",
            "%q = mul %n, 4 : i32; %r = floordiv %q, 12 : i32; store %r, %A[0] <in_bounds>",
        ),
        (
            "%q = mul %t, 4 : i32\n%r = floordiv %q, 12 : i32",
            "%r = truncdiv %t, 3 : i32; store %r, %A[0] <in_bounds>",
        ),
    ],
)
def test_forms(body: str, expected: str) -> None:
    assert simplified(body) == expected


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (SUM + "%u = floormod %s, 9 : i32\n%c = compare %u, 9 <predicate = \"lt\"> : bool", True),
        ("%c = compare %t, 128 <predicate = \"ge\"> : bool", False),
        (SUM + "%c = compare %s, %t <predicate = \"ge\"> : bool", True),
        ("%q = add %t, 1 : i32\n%c = compare %q, %t <predicate = \"gt\"> : bool", True),
        ("%q = add %n, 1 : i32\n%c = compare %q, %n <predicate = \"gt\"> : bool", None),
        ("%q = mul %n, 2 : i32\n%c = compare %q, 7 <predicate = \"eq\"> : bool", False),
        ("%q = mul %t, 2 : i32\n%c = compare %q, 8 <predicate = \"eq\"> : bool", None),
        ("%c = compare %bx, %g <predicate = \"lt\"> : bool", True),
        (SUM + "%c = compare %s, %m <predicate = \"lt\"> : bool", None),
        ("%s = mul %bx, 128 : i32\n%c = compare %s, %m <predicate = \"lt\"> : bool", True),
        (
            "%s = mul %bx, 128 : i32\n%m1 = symbol <label = \"M\"> : i32\n"
            "%c = compare %s, %m1 <predicate = \"lt\"> : bool", True,
        ),
        ("%s = mul %bx, 64 : i32\n%c = compare %s, %m <predicate = \"lt\"> : bool", None),
        ("%s = mul %bx, 128 : i32\n%c = compare %m, %s <predicate = \"le\"> : bool", False),
    ],
)  # fmt: skip
def test_comparisons(body: str, taken: bool | None) -> None:
    text = simplified(f"{body}\n%r = select %c, 11, 22 : i32")
    if taken is None:
        assert "select %c, 11, 22" in text
    else:
        assert text == f"store {11 if taken else 22}, %A[0] <in_bounds>"


@pytest.mark.parametrize("predicate", ["lt", "le", "gt", "ge", "eq", "ne"])
@pytest.mark.parametrize("begin", [0, -3])
@pytest.mark.parametrize("factor", [8, 16, 12])
def test_an_index_below_a_quotient(predicate: str, begin: int, factor: int) -> None:
    """Of i < n // 8, what is known of `factor * i + d predicate n` is so for every n; and that there
    is room for the whole of the last eight is known."""
    holds = getattr(operator, predicate)
    for d in range(-2, 18):
        text = simplified(
            "%q = floordiv %n, 8 : i32\n"
            f"for {begin}, %q, 1 (%i: i32) {{\n%s = mul %i, {factor} : i32\n%k = add %s, {d} : i32\n"
            f'%c = compare %k, %n <predicate = "{predicate}"> : bool\n'
            "%x = select %c, 11, 22 : i32\nstore %x, %A[1]\nyield\n}\n%r = add %n, 1 : i32"
        )
        known = [found for found in (True, False) if f"store {11 if found else 22}, %A[1]" in text]
        outcomes = {
            bool(holds(factor * i + d, n)) for n in range(-30, 60) for i in range(begin, n // 8)
        }
        assert not known or outcomes == set(known), (d, text)
        if factor == 8 and predicate in ("lt", "ge"):
            assert bool(known) is (d <= 7), d


def test_conditions_are_known_inside_of_their_branch() -> None:
    condition = (
        '%c1 = compare %n, 0 <predicate = "ge"> : bool\n'
        '%c2 = compare %n, 50 <predicate = "lt"> : bool\n%c = bit_and %c1, %c2 : bool\n'
    )
    inside = '%k = compare %n, 50 <predicate = "lt"> : bool\n%s = select %k, %q, 0 : i32\n'
    text = simplified(
        condition + "%r = if %c {\n%q = floordiv %n, 12 : i32\n" + inside + "yield %s\n} {\n"
        "%q = floordiv %n, 12 : i32\n" + inside + "yield %s\n} : i32"
    )
    first, second = text.split("} {")
    assert "%q = truncdiv %n, 12" in first and "select" not in first
    assert "%q_1 = floordiv %n, 12" in second and "select" in second


@pytest.mark.parametrize(
    ("predicate", "decided"),
    [("lt", [50, 49]), ("le", [51, 50]), ("gt", [51, 52]), ("ge", [50, 51])],
)
def test_bounds_of_a_condition_are_exact(predicate: str, decided: list[int]) -> None:
    """Within `n predicate 50`, a comparison with the first bound is known, with the next not."""
    question = "lt" if predicate in ("lt", "le") else "ge"
    for bound, known in zip(decided, (True, False), strict=True):
        text = simplified(
            f'%c = compare %n, 50 <predicate = "{predicate}"> : bool\n%r = if %c {{\n'
            f'%k = compare %n, {bound} <predicate = "{question}"> : bool\n'
            "%s = select %k, %n, 0 : i32\nyield %s\n} {\nyield 1\n} : i32"
        )
        assert ("select" not in text) is known


def test_the_other_branch_knows_the_contrary() -> None:
    text = simplified(
        '%c = compare %n, 3 <predicate = "lt"> : bool\n'
        "%r = if %c {\nyield 1\n} {\n%q = floordiv %n, 12 : i32\nyield %q\n} : i32"
    )
    assert "%q = truncdiv %n, 12" in text


@pytest.mark.parametrize(
    ("body", "marked"),
    [
        ("%x = load %A[%t] : i32", True),
        ("%i = add %t, 3968 : i32\n%x = load %A[%i] : i32", True),
        ("%i = add %t, 3969 : i32\n%x = load %A[%i] : i32", False),
        ("%i = sub %t, 1 : i32\n%x = load %A[%i] : i32", False),
        ("%x = load %A[%n] : i32", False),
    ],
)
def test_accesses_that_are_inside(body: str, marked: bool) -> None:
    text = simplified(f"{body}\n%r = add %x, 1 : i32")
    assert ("load %A[" in text) and ("<in_bounds> : i32" in text) is marked


def test_accesses_below_a_symbol() -> None:
    text = """tilec.ir 1
program @p(%A: global f16[M, 8], %x: i32) <symbols = [M]> {
  %m = symbol <label = "M"> : i32
  %m1 = symbol <label = "M"> : i32
  for 0, %m1, 1 (%i: i32) {
    %a = load %A[%i, 7] : f16
    store %a, %A[%i, 8]
    yield
  }
  %lt = compare %x, %m <predicate = "lt"> : bool
  %ge = compare 0, %x <predicate = "le"> : bool
  %c = bit_and %lt, %ge : bool
  if %c {
    %a = load %A[%x, 0] : f16
    store %a, %A[%x, 0]
    yield
  } {
    store 0.0:f16, %A[%x, 0]
    yield
  }
}
"""
    program = parse_program(text, REGISTRY)
    new = indices_simplified(program.body)
    marks = [op.in_bounds for op in walk(new) if isinstance(op, (Load, Store))]
    assert marks == [True, False, True, True, False]


def test_a_grid_bounds_its_indices() -> None:
    """By whichever value of the symbol."""
    text = """tilec.ir 1
program @p(%A: global i32[M, N]) <symbols = [M, N]> {
  %m = symbol <label = "M"> : i32
  launch %m, 4, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {
    %m1 = symbol <label = "M"> : i32
    %n1 = symbol <label = "N"> : i32
    %p = compare %bx, %m1 <predicate = "lt"> : bool
    %q = compare %bx, %n1 <predicate = "lt"> : bool
    %a = load %A[%bx, 0], [%p] : i32
    store %a, %A[%bx, 1], [%q]
    yield
  }
  yield
}
"""
    program = parse_program(text, REGISTRY, "p.tir")
    new = program.with_body(canonical(indices_simplified(program.body)))
    found = print_program(new)
    assert found.count("compare") == 1, found
    assert "compare %bx, %n1" in found


def test_ranges_of_indices() -> None:
    text = """tilec.ir 1
program @p() <symbols = [M]> {
  %m = symbol <label = "M"> : i32
  launch %m, 2, 1 <threads = 96> (%bx: i32, %by: i32, %bz: i32) {
    %tid = thread_id : i32
    parallel <extents = [16, 4]> (%i: i32, %j: i32) { yield }
    for 8, 64, 8 (%k: i32) { yield }
    pipeline 0, %m (%p: i32) { yield }
    yield
  }
}
"""
    program = parse_program(text, REGISTRY)
    ranges = value_ranges(program.body)
    found = {}
    for op in walk(program.body):
        for value in (*op.results, *(p for b in op.regions for p in b.params)):
            r = ranges.of(value)
            found[value.hint] = (r.low, r.high, r.modulus)
    top = 2**31 - 2**16
    assert found == {
        "m": (0, top - 1, 1), "bx": (0, top - 2, 1), "by": (0, 1, 1), "bz": (0, 0, 0),
        "tid": (0, 95, 1), "i": (0, 15, 1), "j": (0, 3, 1), "k": (8, 56, 8), "p": (0, top - 2, 1),
    }  # fmt: skip


# Against exact evaluation -------------------------------------------------------------------------

OTHERS = [
    arith.Add, arith.Sub, arith.Mul, arith.Min, arith.Max, arith.BitAnd, arith.BitOr, arith.BitXor,
]  # fmt: skip
DIVISIONS = [arith.FloorDiv, arith.FloorMod, arith.FloorDiv, arith.FloorMod, arith.BitAnd]
DIVISORS = [1, 2, 3, 4, 6, 7, 8, 12, 15, 16, 24, 31, 32, 48, 63, 64, 96, 100]
FACTORS = [-16, -3, -1, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 100]
NUMBERS = [*DIVISORS, 0, -1, -3, -8, -40]


class Drawn:
    """Random integer ops over the values so far, weighted to what index arithmetic is made of."""

    def __init__(self, draw: st.DrawFn, dtype: DType, values: list[Value]) -> None:
        self.draw, self.dtype, self.values = draw, dtype, values
        self.base = tuple(values)
        self.ops: list[Op] = []

    def any(self) -> Value:
        recent = self.values[-4:] if self.draw(st.booleans()) else self.values
        return self.draw(st.sampled_from(recent))

    def number(self, among: list[int]) -> Value:
        return constant(self.draw(st.sampled_from(among)), self.dtype)

    def emit(self, op: Op) -> Value:
        self.ops.append(op)
        return op.result

    def step(self) -> None:
        kind = self.draw(st.integers(0, 11))
        if kind <= 3:  # a multiple added, the other way round too
            other = self.any() if kind == 0 else self.draw(st.sampled_from(self.base))
            product = self.emit(arith.Mul(other, self.number(FACTORS)))
            x = product if kind == 3 else self.emit(arith.Add(self.any(), product))
            made = arith.Add(x, self.number(NUMBERS))
        elif kind <= 7:
            made = self.draw(st.sampled_from(DIVISIONS))(self.any(), self.number(DIVISORS))
        elif kind == 8:
            predicate = self.draw(st.sampled_from(["lt", "le", "eq", "ne", "gt", "ge"]))
            y = self.any() if self.draw(st.booleans()) else self.number(NUMBERS)
            condition = self.emit(arith.Compare(self.any(), y, predicate=predicate))
            made = arith.Select(condition, self.any(), self.number(NUMBERS))
        elif kind == 9:
            amount = constant(self.draw(st.integers(0, 6)), self.dtype)
            made = self.draw(st.sampled_from([arith.ShiftLeft, arith.ShiftRight]))(
                self.any(), amount
            )
        elif kind == 10:  # quotient and remainder, which belong together
            x, divisor = self.any(), self.number(DIVISORS)
            quotient = self.emit(arith.FloorDiv(x, divisor))
            back = self.emit(arith.Mul(quotient, divisor))
            made = arith.Add(back, self.emit(arith.FloorMod(x, divisor)))
        else:
            made = self.draw(st.sampled_from(OTHERS))(self.any(), self.any())
        self.values.append(self.emit(made))


@st.composite
def index_programs(draw: st.DrawFn) -> tuple[Program, DType, Value]:
    """Nested loops with a body of random integer ops, every result of which is stored."""
    dtype = draw(st.sampled_from([i32, i32, i32, i64, i16, u8]))
    memory = Value(MemoryType(dtype, (2**20,), Space.GLOBAL), "A")
    free = Value(ScalarType(dtype), "n")
    b = Builder()
    symbol = b.cast(b.emit(Symbol(label="M")).result, dtype)
    outer, inner = Value(ScalarType(dtype), "i"), Value(ScalarType(dtype), "j")
    drawn = Drawn(draw, dtype, [outer, inner, free, symbol])
    for _ in range(draw(st.integers(3, 10))):
        drawn.step()
    stores = [Store(v, memory, (constant(0, i32),)) for v in drawn.values[4:]]
    ops: list[Op] = [*drawn.ops, *stores]
    if draw(st.booleans()):
        predicate = draw(st.sampled_from(["lt", "le", "eq", "gt", "ge"]))
        condition = arith.Compare(free, drawn.number([0, 1, 8, 64]), predicate=predicate)
        ops = [
            condition,
            If(condition.result, Block((), (*ops, Yield(()))), Block((), (Yield(()),))),
        ]
    for index in (inner, outer):
        low, step = draw(st.sampled_from([0, 0, 3, 8])), draw(st.sampled_from([1, 2, 8, 16]))
        stop = constant(low + draw(st.integers(1, 3)) * step, dtype)
        body = Block((index,), (*ops, Yield(())))
        ops = [For(constant(low, dtype), stop, constant(step, dtype), (), body)]
    b.extend(ops)
    return Program("p", (memory, free), b.block(), ("M",)), dtype, free


SAMPLES = [0, 1, 5, 63, 64, 127, -1, -9, -128, 2**31 - 1, -(2**31), 2**63 - 1, 10**9, 12345]


@given(index_programs(), st.lists(st.sampled_from(SAMPLES), min_size=3, max_size=3, unique=True))
@settings(deadline=None, max_examples=200)
def test_it_means_the_same(made: tuple[Program, DType, Value], numbers: list[int]) -> None:
    program, dtype, free = made
    new = program.with_body(indices_simplified(program.body))
    verify(new, REGISTRY)
    done = program.with_body(canonical(new.body))
    verify(done, REGISTRY)
    for number in numbers:
        value = int(constant(number, dtype).value)
        symbols = {"M": abs(number) % (2**31 - 2**16)}
        results = []
        for version in (program, done):
            runner = Runner(symbols, {free: value})
            runner.run(version.body)
            results.append(runner.stored)
        assert results[0] == results[1], print_program(done)
