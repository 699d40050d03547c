"""simplify_indices: what it makes of index arithmetic, and that it means the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.evaluate import Runner
from tilec.ir.build import Builder
from tilec.ir.core import Block, Op, Program, Value, constant, walk
from tilec.ir.dtypes import DType, i16, i32, i64, u8
from tilec.ir.ops import arith, builtin_registry
from tilec.ir.ops.control import For, Symbol, Yield
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
        (SUM + "%u = floormod %s, 128 : i32\n%c = compare %u, 128 <predicate = \"lt\"> : bool", True),
        ("%c = compare %t, 128 <predicate = \"ge\"> : bool", False),
        (SUM + "%c = compare %s, %t <predicate = \"ge\"> : bool", True),
        ("%q = add %t, 1 : i32\n%c = compare %q, %t <predicate = \"gt\"> : bool", True),
        ("%q = add %n, 1 : i32\n%c = compare %q, %n <predicate = \"gt\"> : bool", None),
        ("%q = mul %n, 2 : i32\n%c = compare %q, 7 <predicate = \"eq\"> : bool", False),
        ("%q = mul %t, 2 : i32\n%c = compare %q, 8 <predicate = \"eq\"> : bool", None),
        ("%c = compare %bx, %g <predicate = \"lt\"> : bool", True),
        (SUM + "%c = compare %s, %m <predicate = \"lt\"> : bool", None),
    ],
)  # fmt: skip
def test_comparisons(body: str, taken: bool | None) -> None:
    text = simplified(f"{body}\n%r = select %c, 11, 22 : i32")
    if taken is None:
        assert "select %c, 11, 22" in text
    else:
        assert text == f"store {11 if taken else 22}, %A[0] <in_bounds>"


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

BINARY = [
    arith.Add, arith.Sub, arith.Mul, arith.FloorDiv, arith.FloorMod, arith.Min, arith.Max,
    arith.BitAnd, arith.BitOr, arith.BitXor,
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 15, 16, 24, 31, 32, 63, 64, 96, 127, -1, -3, -8, 100]


@st.composite
def index_programs(draw: st.DrawFn) -> tuple[Program, DType, list[Value]]:
    """Nested loops with a body of random integer ops, every result of which is stored."""
    dtype = draw(st.sampled_from([i32, i32, i32, i64, i16, u8]))
    memory = Value(MemoryType(dtype, (2**20, 2**20), Space.GLOBAL), "A")
    free = Value(ScalarType(dtype), "n")
    b = Builder()
    symbol = b.emit(Symbol(label="M")).result
    symbol = b.cast(symbol, dtype)
    outer, inner = Value(ScalarType(dtype), "i"), Value(ScalarType(dtype), "j")
    values: list[Value] = [outer, inner, outer, inner, free, symbol]
    made: list[Op] = []

    def operand() -> Value:
        if draw(st.integers(0, 9)) < 5:
            return constant(draw(st.sampled_from(NUMBERS)), dtype)
        return draw(st.sampled_from(values))

    for _ in range(draw(st.integers(2, 14))):
        cls = draw(st.sampled_from(BINARY))
        x, y = draw(st.sampled_from(values)), operand()
        op: Op = cls(x, y)
        kind = draw(st.integers(0, 9))
        if kind == 0:
            predicate = draw(st.sampled_from(["lt", "le", "eq", "ne", "gt", "ge"]))
            compare = arith.Compare(x, y, predicate=predicate)
            made.append(compare)
            op = arith.Select(compare.result, draw(st.sampled_from(values)), operand())
        elif kind == 1:
            amount = constant(draw(st.integers(0, 4)), dtype)
            op = draw(st.sampled_from([arith.ShiftLeft, arith.ShiftRight]))(x, amount)
        made.append(op)
        values.append(op.result)
    zero = constant(0, i32)
    stores: list[Op] = [Store(v, memory, (zero, zero)) for v in values[6:]]
    bounds = [draw(st.sampled_from([0, 3, 5, 8])) for _ in range(2)]
    counts = [draw(st.integers(1, 4)) for _ in range(2)]
    steps = [draw(st.sampled_from([1, 2, 8, 16])) for _ in range(2)]
    body = Block((inner,), (*made, *stores, Yield(())))
    for index, low, count, step in zip((inner, outer), bounds, counts, steps, strict=True):
        start, stop = constant(low, dtype), constant(low + count * step, dtype)
        loop = For(start, stop, constant(step, dtype), (), body)
        body = Block((outer,), (loop, Yield(()))) if index is inner else Block((), (loop,))
    b.extend(body.ops)
    return Program("p", (memory, free), b.block(), ("M",)), dtype, [free]


@given(
    index_programs(), st.lists(st.sampled_from([0, 1, 5, 31, 64, 127, -1, -9, -128]), min_size=3)
)
@settings(deadline=None, max_examples=250)
def test_it_means_the_same(made: tuple[Program, DType, list[Value]], numbers: list[int]) -> None:
    program, dtype, (free,) = made
    verify(program, REGISTRY)
    new = program.with_body(indices_simplified(program.body))
    verify(new, REGISTRY)
    done = program.with_body(canonical(new.body))
    verify(done, REGISTRY)
    for number in numbers[:3]:
        value = constant(number, dtype).value
        symbols = {"M": abs(int(number)) * 3}
        results = []
        for version in (program, new, done):
            runner = Runner(symbols, {free: int(value)})
            runner.run(version.body)
            results.append(runner.stored)
        assert results[0] == results[1] == results[2], print_program(new)
