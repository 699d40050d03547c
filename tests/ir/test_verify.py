"""Programs that break a rule of the IR, with the message and the op at fault."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tests.ir.programs import GEMM_TEXT, gemm
from tilec.errors import IRError
from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Level, Op, Program, Value, attribute, constant, with_results
from tilec.ir.dtypes import bool_, f16, i32, i64
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.arith import Add, Compare
from tilec.ir.ops.control import For, If, Launch, Symbol, Yield
from tilec.ir.ops.memory import Alloc
from tilec.ir.types import MemoryType, ScalarType, Space
from tilec.ir.verify import verify
from tilec.parser.text import parse_program

REGISTRY = builtin_registry()


def test_the_gemm_passes() -> None:
    verify(gemm(), REGISTRY)
    verify(gemm(), REGISTRY, Level.TILE)


HEAD = """\
tilec.ir 1
program @p(%A: global f16[M, 8], %x: i32, %c: bool, %t: tile f32[8, 8], \
%w: inflight f32[8, 8], %ca: channel<2> shared f16[8]) <symbols = [M]> {
launch 1, 1, 1 <threads = 128> (%bx: i32, %by: i32, %bz: i32) {
"""


def launch(body: str) -> str:
    return HEAD + body + "\nyield\n}\n}\n"


STAGE = 'stage <label = "s"> { yield }'
ROLE = 'role <label = "{}", first_thread = {}, threads = 32> {{ yield }}'
# (what stands in a launch, code, the op at fault, message)
BODIES = [
    ("for 0, 4, 1 (%i: i32) {\n}", "TLC0293", "for", "the loop's body does not end in a yield"),
    ("for 0, 4, 1 (%i: i64) { yield }", "TLC0293", "for",
     "the index of this loop is a i32, not a i64"),
    ("for 0, 4:i64, 1 (%i: i32) { yield }", "TLC0293", "for",
     "start, stop and step of a loop have"),
    (
        "%r = for 0, 4, 1, [0] (%i: i32, %a: f32) { yield %a } : f32",
        "TLC0293", "for", "the loop carries a f32 that starts as a i32",
    ),
    (
        "%r = for 0, 4, 1, [0] (%i: i32, %a: i32) { yield } : i32",
        "TLC0293", "for", "the loop's body yields (), not (i32)",
    ),
    ("for 0, 4, 1 (%i: i32) { yield\nbarrier\nyield }", "TLC0293", "yield",
     "yield is not the last op"),
    ("%r = if %c { yield %x } { yield } : i32", "TLC0293", "if",
     "the other branch yields (), not (i32)"),
    ("if %c (%i: i32) { yield } { yield }", "TLC0293", "if",
     "the first branch takes (), not (i32)"),
    ("%v = while %x (%a: i32) { yield %a } (%b: i32) { yield %b } : i32", "TLC0293", "while",
     "the condition yields (i32), not (bool)"),
    ("%v = while %x (%a: i32) { yield %c } (%b: i32) { yield } : i32", "TLC0293", "while",
     "the loop's body yields (), not (i32)"),
    ("%v = while %x { yield %c } (%b: i32) { yield %b } : i32", "TLC0293", "while",
     "the condition takes (i32), not ()"),
    ("simt <threads = 8> { yield }", "TLC0293", "simt", "a simt region takes (i32), not ()"),
    ("simt <threads = 8> (%t1: i32) { yield %t1 }", "TLC0293", "simt",
     "a simt region yields (i32)"),
    ("parallel <extents = [4, 4]> (%i: i32) { yield }", "TLC0293", "parallel",
     "the parallel body takes (i32, i32), not (i32)"),
    ("parallel [%x] <extents = [4]> (%i: i32) { yield }", "TLC0293", "parallel",
     "a parallel body reads and updates tiles, not a i32"),
    ("pipeline 0, 4 { yield }", "TLC0293", "pipeline", "a pipeline's body takes its index"),
    ("pipeline 0, 4 (%k: i32) {\n%y = add %k, 1 : i32\nyield }", "TLC0294", "add",
     "add in a pipeline, which consists of stages"),
    (STAGE, "TLC0294", "stage", "a stage stands directly in the body of a pipeline"),
    ("for 0, 4, 1 (%i: i32) {\n" + ROLE.format("r", 0) + "\nyield }", "TLC0294", "role",
     "a role stands directly in the body of a launch"),
    (ROLE.format("r", 0) + "\nbarrier", "TLC0294", "barrier", "barrier after a role"),
    (ROLE.format("r", 0) + "\n" + ROLE.format("r", 32), "TLC0294", "role",
     "two roles are called 'r'"),
    (ROLE.format("r", 0) + "\n" + ROLE.format("q", 31), "TLC0294", "role",
     "two roles share threads"),
    ("%s = put %ca : shared f16[8]", "TLC0294", "put", "put outside of a stage or role"),
    ("launch 1, 1, 1 <threads = 1> (%p: i32, %q: i32, %r: i32) { yield }", "TLC0294", "launch",
     "a launch inside of launch"),
    ("%y = add %w, 1.0 : inflight f32[8, 8]", "TLC0201", "", ""),
    ("%y = convert_layout %t <layout = none> : tile f32[8, 8]", "TLC0285", "", ""),
    ("wgmma_fence", "TLC0292", "wgmma_fence",
     "wgmma_fence is of level thread; it is in a program at level tile"),
    ("parallel <extents = [4]> (%i: i32) {\nwgmma_fence\nyield }", "TLC0292", "wgmma_fence",
     "wgmma_fence in a parallel body, which has scalar code only"),
    ("simt <threads = 8> (%t1: i32) {\nfill %A, 0.0:f16\nyield }", "TLC0292", "fill",
     "fill is of level tile; it is in a simt region"),
    ("%m = symbol <label = \"Q\"> : i32", "TLC0295", "symbol", "the program has no symbol Q"),
    ("%s = alloc <type = shared f16[Q]> : shared f16[Q]", "TLC0291", "alloc",
     "Q in shared f16[Q] is no"),
    ("symbl", "TLC0296", "symbl", "there is no op symbl"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "at", "message"), BODIES)
def test_bodies(body: str, code: str, at: str, message: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 the code below says which
        verify(parse_program(launch(body), REGISTRY), REGISTRY)
    error = caught.value
    assert getattr(error, "code", None) == code, error
    if not at:
        return  # refused before it is built
    assert isinstance(error, IRError)
    assert error.message.startswith(message)
    lines = error.message.splitlines()
    below = next(i for i, line in enumerate(lines) if line.strip().startswith("// ^"))
    assert f"{code}: {message}" in lines[below]
    assert re.search(rf"(^|= ){at}\b", lines[below - 1].strip())
    assert error.loc.line >= 3


def test_an_unknown_op_of_tilec_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(IRError) as caught:
        verify(parse_program(launch("barier"), REGISTRY), REGISTRY)
    assert caught.value.hint == "did you mean barrier?"
    verify(parse_program(launch("acme.barier"), REGISTRY), REGISTRY)


def test_simt_regions_may_hold_thread_ops() -> None:
    verify(
        parse_program(launch("simt <threads = 8> (%t1: i32) {\nwgmma_fence\nyield }"), REGISTRY),
        REGISTRY,
    )


def check(*ops: Op, params: tuple[Value, ...] = (), symbols: tuple[str, ...] = ()) -> None:
    verify(Program("p", params, Block((), ops), symbols), REGISTRY)


X = scalar(i32, "x")


def test_use_before_definition() -> None:
    first = Add(X, constant(1, i32))
    second = Add(first.result, constant(1, i32))
    check(first, second, params=(X,))
    with pytest.raises(IRError, match=r"%\?: i32 is used before it is defined"):
        check(second, first, params=(X,))
    with pytest.raises(IRError, match="%x: i32 is used before"):
        check(first)


def test_use_outside_of_the_region() -> None:
    index = scalar(i32, "i")
    inner = Add(index, constant(1, i32))
    loop = For(
        constant(0, i32),
        constant(4, i32),
        constant(1, i32),
        (),
        Block((index,), (inner, Yield(()))),
    )
    check(loop)
    with pytest.raises(IRError, match="is used outside of the region that defines it"):
        check(loop, Add(inner.result, constant(1, i32)))
    with pytest.raises(IRError, match="%i: i32 is used outside"):
        check(loop, Add(index, constant(1, i32)))


def test_double_definition() -> None:
    op = Add(X, X)
    with pytest.raises(IRError, match="is defined twice"):
        check(op, op, params=(X,))
    with pytest.raises(IRError, match="%x is defined twice"):
        check(params=(X, X))
    other = with_results(Add(X, constant(2, i32)), op.results)
    with pytest.raises(IRError, match="is defined twice"):
        check(op, other, params=(X,))


def test_result_types() -> None:
    wrong = with_results(Add(X, X), (scalar(i64, "y"),))
    with pytest.raises(IRError, match="add gives i64, but infers i32"):
        check(wrong, params=(X,))
    none = with_results(Add(X, X), ())
    with pytest.raises(IRError, match="add gives nothing, but infers i32"):
        check(none, params=(X,))


def test_types_that_no_longer_fit() -> None:
    op = Add(X, X)
    object.__setattr__(op, "y", scalar(i64, "wide"))
    with pytest.raises(IRError, match="add of i32 and i64") as caught:
        check(op, params=(X, op.y))
    assert caught.value.code == "TLC0291"


def test_attributes_and_groups() -> None:
    for broken in (
        Compare(X, X, predicate="lt").replace(predicate="lt"),
        Alloc(type=MemoryType(f16, (8,), Space.SHARED), offset="0"),  # type: ignore[arg-type]
    ):
        if isinstance(broken, Alloc):
            with pytest.raises(IRError, match="offset of alloc is a int, not '0'"):
                check(broken)
        else:
            check(broken, params=(X,))
    with pytest.raises(IRError, match="values of yield is a group: a tuple of values"):
        check(Yield([X]), params=(X,))  # type: ignore[arg-type]


def test_levels_and_headers() -> None:
    program = gemm()
    with pytest.raises(IRError, match="the program is at level tile, not thread"):
        verify(program, REGISTRY, Level.THREAD)
    with pytest.raises(IRError, match=r"(alloc|fill|copy) is of level tile"):
        verify(dataclasses.replace(program, level=Level.THREAD), REGISTRY)
    with pytest.raises(IRError, match="a symbol is listed twice"):
        verify(dataclasses.replace(program, symbols=("M", "N", "K", "K")), REGISTRY)
    with pytest.raises(IRError, match=r"K in global f16\[M, K\] is no symbol"):
        verify(dataclasses.replace(program, symbols=("M", "N")), REGISTRY)


def test_an_op_that_is_not_registered() -> None:
    class Stray(Op, name="acme.stray"):
        """Known to nobody."""

        count: int = attribute()

    with pytest.raises(IRError, match=r"acme\.stray is not registered"):
        check(Stray(count=1))


def test_grids() -> None:
    body = Block(tuple(scalar(i32, h) for h in "xyz"), ())
    one = constant(1, i32)
    check(Launch((one, one, one), body, threads=32))
    with pytest.raises(IRError, match=r"the grid of a launch is three i32, not \(i32, i32\)"):
        check(Launch((one, one), body, threads=32))
    with pytest.raises(IRError, match=r"a launch takes \(i32, i32, i32\), not \(i32\)"):
        check(Launch((one, one, one), Block(body.params[:1], ()), threads=32))


def test_layouts_may_refine_results() -> None:
    text = launch("%u = add %t, %t : tile f32[8, 8] #register0").replace(
        "tilec.ir 1\n",
        "tilec.ir 1\n"
        "#register0 = register<shape=[8, 8], modes=[[8], [4, 2]], thread=[0, 1], reg=[2]>\n",
    )
    verify(parse_program(text, REGISTRY), REGISTRY)


def test_a_missing_branch_of_an_if() -> None:
    b = Builder()
    b.emit(Symbol(label="M"))
    flag = Value(ScalarType(bool_), "c")
    check(If(flag, Block((), (Yield(()),)), Block((), (Yield(()),))), params=(flag,))
    with pytest.raises(IRError, match="the other branch does not end in a yield"):
        check(If(flag, Block((), (Yield(()),)), Block()), params=(flag,))


def test_tiles_of_a_loop_may_be_in_flight_inside() -> None:
    text = launch(
        "%out = pipeline 0, 4, [%t] (%k: i32, %acc: inflight f32[8, 8]) {\n"
        '%n = stage <label = "s"> { yield %acc } : inflight f32[8, 8]\n'
        "yield %n\n} : inflight f32[8, 8]\n%done = wait %out : tile f32[8, 8]"
    )
    verify(parse_program(text, REGISTRY), REGISTRY)
    insert = "%s = splat 0.0 <shape = [8, 8]> : tile f32[8, 8]\n%d = insert_tile %s, %out"
    used = text.replace("%done = wait %out", f"{insert} <offsets = [0, 0]>")
    with pytest.raises(Exception, match="inserted into a inflight"):
        parse_program(used, REGISTRY)


def test_the_error_holds_the_program() -> None:
    text = GEMM_TEXT.replace("fill %acc, 0.0", "fill %acc, 0.0\n    wgmma_fence")
    with pytest.raises(IRError) as caught:
        verify(parse_program(text, REGISTRY, "gemm.tir"), REGISTRY)
    message = "wgmma_fence is of level thread; it is in a program at level tile"
    expected = GEMM_TEXT.replace(
        "fill %acc, 0.0\n", f"fill %acc, 0.0\n    wgmma_fence\n    // ^ TLC0292: {message}\n"
    )
    assert caught.value.message == f"{message}\n\n{expected.rstrip()}"
    assert str(caught.value.loc) == "gemm.tir:16:5"
