"""IR text read back: round trips, scopes, groups, opaque ops, speed."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ir.programs import GEMM_TEXT, gemm
from tilec.errors import Loc, TilecError
from tilec.ir.compare import same_program
from tilec.ir.core import Block, Constant, Level, Program, constant
from tilec.ir.dtypes import bf16, bool_, f16, f32, f64, i8, i32, u64
from tilec.ir.opaque import OpaqueOp
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.arith import Add
from tilec.ir.ops.control import For, Yield
from tilec.ir.ops.memory import Load
from tilec.ir.ops.tile import Copy
from tilec.ir.print import print_program
from tilec.ir.verify import verify
from tilec.parser.text import parse_program

REGISTRY = builtin_registry()


def parse(body: str, params: str = "", symbols: str = "") -> Program:
    header = f"<symbols = [{symbols}]> " if symbols else ""
    return parse_program(f"tilec.ir 1\nprogram @p({params}) {header}{{\n{body}\n}}\n", REGISTRY)


def test_the_gemm_there_and_back() -> None:
    program = parse_program(GEMM_TEXT, REGISTRY)
    verify(program, REGISTRY)
    assert same_program(program, gemm())
    assert print_program(program) == GEMM_TEXT


THREAD_LEVEL = """\
tilec.ir 1
program @k(%A: global f16[M, 64], %map: tensor_map, %n: i64) <level = thread, symbols = [M]> {
  launch 1, 1, 1 <threads = 128, symbol = "main", panel = 8> (%bx: i32, %by: i32, %bz: i32) {
    %s = alloc <type = shared f16[4096], offset = 1024> : shared f16[4096]
    %full = alloc <type = shared mbarrier[4]> : shared mbarrier[4]
    %r = alloc <type = local f16[8]> : local f16[8]
    %acc = alloc <type = local f32[4]> : local f32[4]
    %t = thread_id : i32
    mbarrier_init_fence
    barrier <barrier = 1, threads = 128>
    %p = compare %t, 0 <predicate = "eq"> : bool
    tma_load %s[0], %map, %full, 0, [%t, 3]
    vector_load %r, 0, %A[%t, 0], [%p] <count = 8>
    vector_load %r, 0, %A[%t, 0] <count = 8>
    %sum, %c = for 0, 8, 2, [0, 1.0] <kind = "unroll", unroll = 0> (%i: i32, %s_1: i32, %c_1: f32) {
      %x = load %r[%i] <safe_value = 1.0, in_bounds> : f16
      %y = cast %x <dtype = f32> : f32
      %z = add %y, %c_1 : f32
      %w = add %s_1, %i : i32
      yield %w, %z
    } : i32, f32
    %v = while [%sum] (%a: i32) {
      %go = compare %a, 3 <predicate = "lt"> : bool
      yield %go
    } (%b: i32) {
      %d = add %b, 1 : i32
      yield %d
    } : i32
    mma %acc, 0, %r, 0, %r, 4 <m = 16, n = 8, k = 8>
    wgmma_wait %acc <pending = 0>
    %q = if %p {
      yield %v
    } {
      yield 0
    } : i32
    store %c, %acc[%q]
    yield
  }
}
"""


def test_thread_level_ops() -> None:
    program = parse_program(THREAD_LEVEL, REGISTRY)
    verify(program, REGISTRY, Level.THREAD)
    text = print_program(program)
    # A group that is all that an op has prints bare.
    assert text == THREAD_LEVEL.replace("while [%sum]", "while %sum")
    assert same_program(parse_program(text, REGISTRY), program)


PLANNED = """\
tilec.ir 1
#register0 = register<shape=[16, 8], modes=[[2, 8], [4, 2]], thread=[1, 2], reg=[0, 3]>
program @planned(%A: global f16[64, 16]) <level = tile> {
  launch 1, 1, 1 <threads = 32> (%bx: i32, %by: i32, %bz: i32) {
    %ca = channel <type = channel<4> shared f16[16, 8], label = "As"> : channel<4> shared f16[16, 8]
    %zero = splat 0.0:f16 <shape = [16, 8]> : tile f16[16, 8] #register0
    %out = pipeline 0, 4, [%zero] (%k: i32, %acc: tile f16[16, 8] #register0) {
      stage <label = "load", lead = 3> {
        %s = put %ca : shared f16[16, 8]
        copy %A[%k, 0], %s[0, 0] <shape = [16, 8], source_dims = [0, 1], destination_dims = [0, 1]>
        commit %ca
        yield
      }
      %n = stage <label = "sum"> {
        %g = get %ca : shared f16[16, 8]
        %t = load_tile %g[0, 0] <shape = [16, 8], dims = [0, 1], layout = #register0> \
: tile f16[16, 8] #register0
        %sum = add %acc, %t : tile f16[16, 8] #register0
        free %ca <defer = 1>
        yield %sum
      } : tile f16[16, 8] #register0
      yield %n
    } : tile f16[16, 8] #register0
    yield
  }
}
"""


def test_planned_programs_with_layouts() -> None:
    program = parse_program(PLANNED, REGISTRY)
    verify(program, REGISTRY, Level.TILE)
    assert print_program(program) == PLANNED


def test_operands_are_of_the_scope_outside_the_regions() -> None:
    program = parse(
        "%r = for 0, 4, 1, [%x] (%i: i32, %x1: i32) {\nyield %x1\n} : i32", params="%x: i32"
    )
    loop = program.body.ops[0]
    assert isinstance(loop, For)
    assert loop.inits == program.params


def test_sibling_regions_may_use_the_same_names() -> None:
    program = parse(
        "%r = if %c {\n%x = add 1, 2 : i32\nyield %x\n} {\n%x = add 3, 4 : i32\nyield %x\n} : i32",
        params="%c: bool",
    )
    text = print_program(program)
    assert "%x_1 = add 3, 4" in text
    assert print_program(parse_program(text, REGISTRY)) == text


def test_groups_may_be_missing_bare_or_apart() -> None:
    params = "%A: global f16[8, 8], %i: i32"
    attached, apart = (
        parse(f"%x = load {form} : f16", params).body.ops[0]
        for form in ("%A[%i, 0]", "%A, [%i, 0]")
    )
    assert isinstance(attached, Load) and isinstance(apart, Load)
    assert len(attached.indices) == len(apart.indices) == 2
    copied = parse(
        "copy %A[0, 0], %A[0, 0] <shape = [1], source_dims = [0], destination_dims = [0]>", params
    ).body.ops[0]
    assert isinstance(copied, Copy) and copied.barrier == ()
    bare, bracketed = (parse(f"yield {v}", params).body.ops[0] for v in ("%i, 1", "[%i, 1]"))
    assert isinstance(bare, Yield) and isinstance(bracketed, Yield)
    assert len(bare.values) == len(bracketed.values) == 2


def test_comments_whitespace_and_namespace() -> None:
    program = parse("// a comment\n%x\n  =\n tilec.add 1, // x\n 2\n: i32")
    assert isinstance(program.body.ops[0], Add)
    assert program.body.ops[0].result.hint == "x"


def test_ops_have_the_place_of_their_text() -> None:
    program = parse("  %x = add 1, 2 : i32")
    assert program.body.ops[0].loc == Loc("<text>", 3, 7, 10)


def test_an_op_after_one_without_operands() -> None:
    names = [op.name for op in parse("barrier\nbarrier\n%x = thread_id : i32\nyield").body.ops]
    assert names == ["barrier", "barrier", "thread_id", "yield"]


OPAQUE = """\
tilec.ir 1
#shared0 = shared<shape=[8], modes=[[8]], strides=[[1]], swizzle=[0, 0, 0]>
program @p(%A: global f16[8], %x: i32) <level = tile> {
  %a, %b = acme.gather %A[%x], %x, [], [%x, 1.5] \
<mode = "near", fast, w = [1, [2.0, none]], t = shared f16[8] #shared0> (%i: i32) {
    %c = acme.inner %i : i32
    yield %c
  } {
  } : i32, tile f16[8, 8]
  %d = add %a, 1 : i32
  later <map = 1, results = 2, fields = 3>
}
"""


def test_unknown_ops_survive() -> None:
    program = parse_program(OPAQUE, REGISTRY)
    op = program.body.ops[0]
    assert isinstance(op, OpaqueOp)
    assert op.attributes["w"] == (1, (2.0, None))
    assert [v.hint for v in op.results] == ["a", "b"]
    assert print_program(program) == OPAQUE
    assert same_program(parse_program(OPAQUE, REGISTRY), program)


def test_an_unknown_op_is_rebuilt_like_any_other() -> None:
    op = parse_program(OPAQUE, REGISTRY).body.ops[0]
    new = op.map(lambda v: constant(7, i32) if v.hint == "x" else v)
    assert isinstance(new, OpaqueOp)
    assert new.results == op.results
    assert [v.value for v in new.inputs if isinstance(v, Constant)] == [7, 7, 7, 1.5]


def test_same_program_sees_differences() -> None:
    base = parse_program(GEMM_TEXT, REGISTRY)
    for old, new in [
        ("f16[M, K]", "f16[M, N]"),
        ("add %1, 255", "add %0, 255"),
        ("add %1, 255", "add %1, 127"),
        ("fill %acc, 0.0", "fill %acc, -0.0"),
        ("<transpose_b>", "<transpose_b, clear>"),
        ("stages = 4", "stages = 3"),
        ("mul %by, 128", "add %by, 128"),
        ("@matmul", "@other"),
        ("[M, N, K]", "[N, M, K]"),
        ("swizzle=[3, 3, 3]", "swizzle=[2, 3, 3]"),
    ]:
        assert not same_program(base, parse_program(GEMM_TEXT.replace(old, new), REGISTRY)), old


def test_version() -> None:
    text = GEMM_TEXT.replace("tilec.ir 1", "  tilec.ir  1  // by hand")
    assert print_program(parse_program(text, REGISTRY)) == GEMM_TEXT


number = st.one_of(
    st.tuples(st.integers(-(2**31), 2**31 - 1), st.just(i32)),
    st.tuples(st.integers(-128, 127), st.just(i8)),
    st.tuples(st.integers(0, 2**64 - 1), st.just(u64)),
    st.tuples(st.booleans(), st.just(bool_)),
    st.tuples(st.floats(width=32), st.just(f32)),
    st.tuples(st.floats(width=16), st.sampled_from([f16, bf16])),
    st.tuples(st.floats(), st.just(f64)),
)


@given(st.lists(number, max_size=8))
@settings(deadline=None, max_examples=150)
def test_constants_round_trip_to_the_bit(numbers: list[tuple[float, object]]) -> None:
    values = tuple(constant(n, d) for n, d in numbers)  # type: ignore[arg-type]
    program = Program("p", (), Block((), (Yield(values),)))
    text = print_program(program)
    again = parse_program(text, REGISTRY)
    assert same_program(again, program)
    assert print_program(again) == text


attribute_value = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**30), 10**30),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from([f16, i32]),
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@given(
    st.dictionaries(st.from_regex(r"[A-Za-z_]\w{0,6}", fullmatch=True), attribute_value, max_size=4)
)
@settings(deadline=None, max_examples=150)
def test_attributes_round_trip(attributes: dict[str, object]) -> None:
    program = Program("p", (), Block((), (OpaqueOp("acme.x", (), attributes),)))
    text = print_program(program)
    again = parse_program(text, REGISTRY)
    assert same_program(again, program)
    assert print_program(again) == text


SIGNS = '%@#<>{}[]():=,"\\.*-/ \nabx01'


@given(st.text(alphabet=SIGNS, max_size=40))
@settings(deadline=None, max_examples=100)
def test_any_text_is_refused_at_one_of_its_lines(text: str) -> None:
    with pytest.raises(TilecError) as caught:
        parse_program("tilec.ir 1\n" + text, REGISTRY)
    assert 1 <= caught.value.loc.line <= text.count("\n") + 2


def test_an_edited_program_is_read_or_refused() -> None:
    draw = random.Random(0)
    read = 0
    for _ in range(150):
        at, new = draw.randrange(12, len(GEMM_TEXT)), draw.choice(SIGNS) * draw.randrange(2)
        text = GEMM_TEXT[:at] + new + GEMM_TEXT[at + draw.randrange(2) :]
        try:
            printed = print_program(parse_program(text, REGISTRY))
        except TilecError as error:
            refused = error.loc
        else:
            refused = None
            read += 1
            assert print_program(parse_program(printed, REGISTRY)) == printed
        assert refused is None or 1 <= refused.line <= text.count("\n") + 1, text
    assert 20 < read < 130


def test_reading_is_fast() -> None:
    lines = ["tilec.ir 1", "program @p(%A: global f16[M, K], %x0: i32) <symbols = [M, K]> {"]
    for i in range(500):
        lines.append(f"%x{i + 1} = add %x{i}, {i} : i32")
        lines.append(f"%y{i} = load %A[%x{i + 1}, %x{i}] <in_bounds> : f16")
    text = "\n".join([*lines, "}"])
    times = []
    for _ in range(5):
        begin = time.process_time()
        program = parse_program(text, REGISTRY)
        times.append(time.process_time() - begin)
    assert len(program.body.ops) == 1000
    assert min(times) < 0.15
