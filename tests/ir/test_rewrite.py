"""Rebuilding programs: substitution, transformation, copies, uses."""

from __future__ import annotations

import pytest

from tests.ir.programs import GEMM_TEXT, handle
from tilec.errors import IRError, Loc
from tilec.ir.build import scalar
from tilec.ir.clone import clone_block
from tilec.ir.compare import same_block, same_program
from tilec.ir.core import (
    Block,
    Op,
    Program,
    Value,
    at,
    constant,
    constant_of,
    walk,
    with_results,
)
from tilec.ir.dtypes import f16, f32, i32
from tilec.ir.layout import mma_m16n8
from tilec.ir.ops import builtin_registry
from tilec.ir.ops.arith import Add, Mul, Neg, Sub
from tilec.ir.ops.control import For, Yield
from tilec.ir.ops.memory import Load, Store
from tilec.ir.print import print_program
from tilec.ir.rewrite import (
    Answer,
    Replacement,
    defining_ops,
    free_values,
    rewrite,
    substitute,
    transform,
    uses,
)
from tilec.ir.types import TileType
from tilec.ir.verify import verify
from tilec.parser.text import parse_program

REGISTRY = builtin_registry()
BODY = """\
tilec.ir 1
program @p(%A: global i32[8], %x: i32, %y: i32) {
  %a = add %x, 1 : i32
  %r = for 0, 4, 1, [%a] (%i: i32, %s: i32) {
    %b = add %s, %a : i32
    %c = mul %b, %y : i32
    yield %c
  } : i32
  store %r, %A[%a]
}
"""


def body() -> Program:
    return parse_program(BODY, REGISTRY)


def text_of(program: Program, block: Block) -> str:
    new = program.with_body(block)
    verify(new, REGISTRY)
    return print_program(new)


def test_nothing_to_do_gives_the_same_objects() -> None:
    program = parse_program(GEMM_TEXT, REGISTRY)
    assert transform(program.body, lambda op: None) is program.body
    assert substitute(program.body, {}) is program.body


def test_substitute_reaches_nested_regions_and_keeps_results() -> None:
    program = body()
    _, x, y = program.params
    new = substitute(program.body, {x: y, y: x})  # at once: a swap
    text = text_of(program, new)
    assert "%a = add %y, 1" in text and "mul %b, %x" in text
    assert new.ops[1].results == program.body.ops[1].results
    assert [op.loc for op in walk(new)] == [op.loc for op in walk(program.body)]


def test_a_value_in_place_of_an_op() -> None:
    program = body()

    def drop(op: Op) -> Answer:
        return op.x if isinstance(op, Add) and constant_of(op.y) == 1 else None

    text = text_of(program, transform(program.body, drop))
    assert "%a" not in text
    assert "for 0, 4, 1, [%x]" in text and "add %s, %x" in text and "store %r, %A[%x]" in text


def test_one_op_several_ops_and_none() -> None:
    program = body()

    def rule(op: Op) -> Answer:
        match op:
            case Mul():
                return Sub(op.x, op.y)
            case Add() if constant_of(op.y) == 1:
                twice = Add(op.x, op.x)
                return twice, Neg(twice.result)
            case Store():
                return ()
        return None

    text = text_of(program, transform(program.body, rule))
    assert "%c = sub %b, %y" in text
    assert "%0 = add %x, %x : i32\n  %a = neg %0 : i32" in text
    assert "store" not in text


def test_a_replacement_names_its_values() -> None:
    program = body()

    def rule(op: Op) -> Answer:
        return Replacement((), (constant(7, i32),)) if isinstance(op, For) else None

    assert "store 7, %A[%a]" in text_of(program, transform(program.body, rule))


def test_inner_ops_come_first_and_see_what_was_replaced() -> None:
    program = body()
    seen: list[str] = []

    def rule(op: Op) -> Answer:
        seen.append(op.name)
        if isinstance(op, Add) and constant_of(op.y) == 1:
            return op.x
        if isinstance(op, For):
            assert op.inits == (program.params[1],)
        return None

    transform(program.body, rule)
    assert seen == ["add", "add", "mul", "yield", "for", "store"]


def test_a_replacement_without_the_results_is_refused() -> None:
    program = body()
    with pytest.raises(IRError, match="what replaces add does not give its results"):
        transform(program.body, lambda op: () if isinstance(op, Add) else None)


def test_rewriting_goes_on_until_nothing_changes() -> None:
    x = scalar(i32, "x")
    start = Add(x, constant(5, i32))
    block = Block((), (start, Yield((start.result,))))
    steps = 0

    def count_down(op: Op) -> Answer:
        nonlocal steps
        if not isinstance(op, Add):
            return None
        steps += 1
        left = constant_of(op.y)
        assert left is not None
        return op.x if left == 0 else Add(op.x, constant(int(left) - 1, i32))

    done = rewrite(block, count_down)
    assert steps == 6
    (end,) = done.ops
    assert end.inputs == (x,)


def test_rules_that_undo_each_other_are_stopped() -> None:
    x = scalar(i32, "x")
    with at(Loc("k.py", 5, 0)):
        op = Add(x, x)

    def swap(op: Op) -> Answer:
        return Sub(x, x) if isinstance(op, Add) else Add(x, x) if isinstance(op, Sub) else None

    with pytest.raises(IRError, match="does not come to an end") as caught:
        rewrite(Block((), (op,)), swap, limit=10)
    assert caught.value.code == "TLC0213"


def test_a_clone_shares_nothing_that_it_defines() -> None:
    program = body()
    copy = clone_block(program.body, {})
    assert same_program(program.with_body(copy), program)
    assert same_block(copy, program.body)
    old = {v for op in walk(program.body) for v in op.results}
    new = {v for op in walk(copy) for v in op.results}
    assert len(new) == len(old) and not new & old
    replaced = clone_block(program.body, {program.params[1]: constant(3, i32)})
    assert "add 3, 1" in text_of(program, replaced)


def test_uses_definitions_and_free_values() -> None:
    program = body()
    memory, x, y = program.params
    add, loop, store = program.body.ops
    assert isinstance(loop, For)
    found = uses(program.body)
    assert found[add.result] == [loop, loop.body.ops[0], store]
    assert found[x] == [add] and found[y] == [loop.body.ops[1]]
    makers = defining_ops(program.body)
    assert makers[add.result] is add and makers[loop.body.ops[1].result] is loop.body.ops[1]
    assert loop.body.params[0] not in makers
    assert free_values(program.body) == (x, y, memory)
    assert free_values(loop.body) == (add.result, y)


def test_a_use_twice_by_one_op_counts_twice() -> None:
    x = scalar(i32, "x")
    op = Mul(x, x)
    assert uses(Block((), (op,)))[x] == [op, op]


def test_a_changed_type_makes_a_new_result_that_uses_follow() -> None:
    memory, wide = handle("A", f16, 8), handle("B", i32, 8)
    index = constant(0, i32)
    load = Load(memory, (index,))
    other: Value = handle("C", i32, 8)
    store = Store(load.result, memory, (index,))
    block = Block((), (load, store))

    def rule(op: Op) -> Answer:
        return Store(op.value, other, op.indices) if isinstance(op, Store) else None

    with pytest.raises(Exception, match="stored into"):
        transform(block, rule)

    def both(op: Op) -> Answer:
        match op:
            case Load():
                return Load(wide, op.indices)
            case Store():
                return Store(op.value, wide, op.indices)
        return None

    # The store is rebuilt on the i32 before the rule sees it, so its memory must fit by then.
    with pytest.raises(Exception, match="a i32 stored into"):
        transform(block, both)
    new = substitute(block, {memory: wide})
    assert new.ops[0].result.type == new.ops[1].inputs[0].type == constant(0, i32).type


def test_a_layout_that_a_pass_added_survives_other_changes() -> None:
    x = Value(TileType(f32, (16, 8)), "x")
    op = Add(x, x)
    laid_out = Value(op.result.type.with_layout(mma_m16n8("c", 16, 16)), "s")  # type: ignore[attr-defined]
    with_results(op, (laid_out,))
    assert op.replace(y=constant(1.0, f32)).results == (laid_out,)
    changed = Value(TileType(f16, (16, 8)), "h")
    assert op.replace(x=changed, y=changed).result.type == changed.type
