"""canonicalize and remove_dead: what they make of programs, and what they leave alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.ir.programs import GEMM_TEXT
from tests.passes.evaluate import Runner
from tests.passes.test_simplify_indices import index_programs
from tilec.ir.core import Program, Value
from tilec.ir.dtypes import DType
from tilec.ir.ops import builtin_registry
from tilec.ir.print import print_program
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.canonicalize import canonical, canonicalize
from tilec.passes.context import PassContext
from tilec.passes.remove_dead import remove_dead
from tilec.target import find_target

REGISTRY = builtin_registry()
HEAD = """\
tilec.ir 1
program @p(%A: global f32[64], %n: i32, %c: bool, %x: f32) <level = {level}> {{
"""


def text_after(body: str, level: str = "tile") -> str:
    """The body after canonicalize, one op after another."""
    head = HEAD.format(level=level)
    program = parse_program(head + body + "\n}\n", REGISTRY)
    verify(program, REGISTRY)
    new = program.with_body(canonical(program.body))
    verify(new, REGISTRY)
    assert canonical(new.body) is new.body
    lines = [line.strip() for line in print_program(new).splitlines()]
    return "; ".join(lines[2:-1])


STORE = "\nstore %r, %A[0]"
USE = "\n%f = cast %r <dtype = f32> : f32\nstore %f, %A[0]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # folding
        ("%r = add 1.5, 2.0 : f32" + STORE, "store 3.5, %A[0]"),
        ("%r = mul %x, 1.0 : f32" + STORE, "%r = mul %x, 1.0 : f32; store %r, %A[0]"),
        ('%k = compare %n, %n <predicate = "ge"> : bool\n%r = select %k, %x, 1.0 : f32' + STORE,
         "store %x, %A[0]"),
        ("%a = add %n, 0 : i32\n%b = mul %a, 1 : i32\n%r = load %A[%b] : f32" + STORE,
         "%r = load %A[%n] : f32; store %r, %A[0]"),
        # constants to the right, equal ops merged
        ("%a = add 3, %n : i32\n%b = add %n, 3 : i32\n%r = load %A[%a] : f32\nstore %r, %A[%b]",
         "%a = add %n, 3 : i32; %r = load %A[%a] : f32; store %r, %A[%a]"),
        ("%a = sub 3, %n : i32\n%b = sub %n, 3 : i32\n%r = load %A[%a] : f32\nstore %r, %A[%b]",
         "%a = sub 3, %n : i32; %b = sub %n, 3 : i32; %r = load %A[%a] : f32; store %r, %A[%b]"),
        ("%a = add %x, 0.0 : f32\n%b = add %x, -0.0 : f32\n%r = sub %a, %b : f32" + STORE,
         "%a = add %x, 0.0 : f32; %b = add %x, -0.0 : f32; %r = sub %a, %b : f32; store %r, %A[0]"),
        ("%a = cast %x <dtype = f16> : f16\n%b = cast %x <dtype = bf16> : bf16\n"
         "%d = cast %a <dtype = f32> : f32\n%e = cast %b <dtype = f32> : f32\n"
         "%r = add %d, %e : f32" + STORE,
         "%a = cast %x <dtype = f16> : f16; %b = cast %x <dtype = bf16> : bf16; "
         "%d = cast %a <dtype = f32> : f32; %e = cast %b <dtype = f32> : f32; "
         "%r = add %d, %e : f32; store %r, %A[0]"),
        # loads are not merged
        ("%a = load %A[0] : f32\nstore %x, %A[0]\n%b = load %A[0] : f32\n"
         "%r = add %a, %b : f32" + STORE,
         "%a = load %A[0] : f32; store %x, %A[0]; %b = load %A[0] : f32; %r = add %a, %b : f32; "
         "store %r, %A[0]"),
        # branches
        ("%r = if true {\nyield %x\n} {\nyield 1.0\n} : f32" + STORE, "store %x, %A[0]"),
        ("if false {\nstore %x, %A[0]\nyield\n} {\nstore %x, %A[1]\nyield\n}", "store %x, %A[1]"),
        ("%r = if %c {\nyield %x\n} {\nyield %x\n} : f32" + STORE, "store %x, %A[0]"),
        ("%r = if %c {\nyield 0.0\n} {\nyield -0.0\n} : f32" + STORE,
         "%r = if %c {; yield 0.0; } {; yield -0.0; } : f32; store %r, %A[0]"),
        ("if %c {\nyield\n} {\nyield\n}", ""),
        # loops of no and of one iteration
        ("%r = for 4, 4, 1, [%x] (%i: i32, %s: f32) {\n%b = load %A[%i] : f32\nyield %b\n"
         "} : f32" + STORE,
         "store %x, %A[0]"),
        ("%r = for 4, 5, 1, [%x] (%i: i32, %s: f32) {\n%b = load %A[%i] : f32\n"
         "%d = add %s, %b : f32\n"
         "yield %d\n} : f32" + STORE,
         "%b = load %A[4] : f32; %d = add %x, %b : f32; store %d, %A[0]"),
        ("for 0, 1, 1 <kind = \"pipelined\", stages = 2> (%i: i32) {\nstore %x, %A[%i]\nyield\n}",
         'for 0, 1, 1 <kind = "pipelined", stages = 2> (%i: i32) {; store %x, %A[%i]; yield; }'),
        ("%r = while %x (%s: f32) {\nyield false\n} (%t: f32) {\nyield %t\n} : f32" + STORE,
         "store %x, %A[0]"),
        # dead code
        ("%r = load %A[0] : f32\n%q = add %r, %r : f32", ""),
        ("for 0, %n, 1 (%i: i32) {\n%q = load %A[%i] : f32\nyield\n}", ""),
        ("%r, %s = for 0, %n, 1, [%x, 0] (%i: i32, %a: f32, %k: i32) {\n%b = add %a, %a : f32\n"
         "%j = add %k, %i : i32\nyield %b, %j\n} : f32, i32" + STORE,
         "%r = for 0, %n, 1, [%x] (%i: i32, %a: f32) {; %b = add %a, %a : f32; yield %b; } : f32; "
         "store %r, %A[0]"),
        ("%r, %s = if %c {\nyield %x, %n\n} {\nyield 1.0, 3\n} : f32, i32" + STORE,
         "%r = if %c {; yield %x; } {; yield 1.0; } : f32; store %r, %A[0]"),
        ("%t = alloc <type = local f32[4]> : local f32[4]\nstore %x, %t[0]\nstore %x, %t[%n]", ""),
        ("%t = alloc <type = local f32[4]> : local f32[4]\nstore %x, %t[0]\n"
         "%r = load %t[0] : f32" + STORE,
         "%t = alloc <type = local f32[4]> : local f32[4]; store %x, %t[0]; %r = load %t[0] : f32; "
         "store %r, %A[0]"),
        ("barrier\n%r = add %x, %x : f32", "barrier"),
        ("%r = acme.f %x : f32", "%r = acme.f %x : f32"),
        ("%r = while %n (%a: i32) {\nyield %c\n} (%b: i32) {\nyield %b\n} : i32",
         "%r = while %n (%a: i32) {; yield %c; } (%b: i32) {; yield %b; } : i32"),
    ],
)  # fmt: skip
def test_bodies(body: str, expected: str) -> None:
    assert text_after(body) == expected


def test_what_fills_registers_that_nobody_reads_is_dead() -> None:
    text = text_after(
        "launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {\n"
        "%r = alloc <type = local f32[4]> : local f32[4]\n"
        "vector_load %r, 0, %A[0] <count = 4>\nwgmma_wait <pending = 0>\nyield\n}",
        level="thread",
    )
    assert text == (
        "launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {; wgmma_wait <pending = 0>; "
        "yield; }"
    )


def test_values_of_roles_are_their_own() -> None:
    """thread_id means another thing in a role than outside or in another role."""
    role = (
        'role <label = "{0}", first_thread = {1}, threads = 32> {{\n%t{0} = thread_id : i32\n'
        "%u{0} = thread_id : i32\n%q{0} = add %t{0}, %u{0} : i32\nstore %x, %A[%q{0}]\nyield\n}}\n"
    )
    text = text_after(
        "launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {\n%t = thread_id : i32\n"
        f"store %x, %A[%t]\n{role.format('a', 0)}{role.format('b', 32)}yield\n}}"
    )
    assert text.count("thread_id") == 3
    assert "%qa = add %ta, %ta" in text and "%qb = add %tb, %tb" in text


def test_what_a_branch_computes_is_not_visible_in_the_other_or_after() -> None:
    text = text_after(
        "if %c {\n%a = add %n, 7 : i32\nstore %x, %A[%a]\nyield\n} {\n"
        "%b = add %n, 7 : i32\nstore %x, %A[%b]\nyield\n}\n%d = add %n, 7 : i32\nstore %x, %A[%d]"
    )
    assert text.count("add %n, 7") == 3


def test_what_is_outside_serves_inside() -> None:
    text = text_after(
        "%d = add %n, 7 : i32\nstore %x, %A[%d]\n"
        "if %c {\n%a = add %n, 7 : i32\nstore %x, %A[%a]\nyield\n} {\nyield\n}"
    )
    assert text.count("add %n, 7") == 1


def test_stages_keep_their_channels_and_lose_unused_results() -> None:
    text = text_after(
        "launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {\n"
        "%ca = channel <type = channel<2> shared f32[4]> : channel<2> shared f32[4]\n"
        "pipeline 0, %n (%k: i32) {\n"
        '%u, %v = stage <label = "load"> {\n%s = put %ca : shared f32[4]\n%w = load %s[%k] : f32\n'
        "commit %ca\nyield %k, %w\n} : i32, f32\n"
        '%y = stage <label = "idle"> {\n%z = add %k, 1 : i32\nyield %z\n} : i32\n'
        '%q = stage <label = "use"> {\n%g = get %ca : shared f32[4]\nstore %v, %A[%u]\nfree %ca\n'
        "yield %k\n} : i32\nyield\n}\nyield\n}"
    )
    assert "put %ca" in text and "get %ca" in text and "idle" not in text
    assert '%u, %v = stage <label = "load">' in text
    assert '; stage <label = "use"> {; %g = get' in text


def test_as_passes() -> None:
    context = PassContext(find_target("cuda:sm_90a"), REGISTRY)
    program = parse_program(GEMM_TEXT, REGISTRY)
    new = canonicalize(program, context)
    verify(new, REGISTRY)
    assert print_program(program).count("mul %k, 64") == 2
    assert print_program(new).count("mul %k, 64") == 1
    assert canonicalize(new, context) is new
    assert remove_dead(new, context) is new


def test_a_kernel_computes_what_a_symbol_is_defined_as() -> None:
    text = """tilec.ir 1
program @p(%A: global i32[K]) <level = "tile", symbols = ["K", "half"]> {
  %K = symbol <label = "K"> : i32
  %h = floordiv %K, 2 : i32
  define %h <label = "half">
  launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {
    %s = symbol <label = "half"> : i32
    %w = symbol <label = "half", dtype = i64> : i64
    %x = load %A[%w] : i32
    %y = add %x, %s : i32
    store %y, %A[%s]
    yield
  }
}
"""
    program = parse_program(text, REGISTRY)
    new = canonicalize(program, PassContext(find_target("cuda:sm_80"), REGISTRY))
    verify(new, REGISTRY)
    assert [line.strip() for line in print_program(new).splitlines()][2:-1] == [
        '%K = symbol <label = "K"> : i32',
        "%h = floordiv %K, 2 : i32",
        'define %h <label = "half">',
        "launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {",
        "%w = cast %h <dtype = i64> : i64",
        "%x = load %A[%w] : i32",
        "%y = add %x, %h : i32",
        "store %y, %A[%h]",
        "yield",
        "}",
    ]


@given(index_programs())
@settings(deadline=None, max_examples=60)
def test_it_means_the_same(made: tuple[Program, DType, Value]) -> None:
    program, _, free = made
    done = program.with_body(canonical(program.body))
    verify(done, REGISTRY)
    for number in (0, 5, 100):
        results = []
        for version in (program, done):
            runner = Runner({"M": 77}, {free: number})
            runner.run(version.body)
            results.append(runner.stored)
        assert results[0] == results[1]
