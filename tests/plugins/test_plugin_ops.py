"""Ops from outside: registered, they parse, print, verify, fold and die like tilec's own."""

from __future__ import annotations

import numpy as np
import pytest

from tests.plugins.acme import OPS, Gather, Nearest, Relu
from tilec.errors import IRError, TypeMismatch
from tilec.ir.compare import same_program
from tilec.ir.core import constant, constant_of
from tilec.ir.dtypes import f16, f32
from tilec.ir.opaque import OpaqueOp
from tilec.ir.ops import builtin_registry
from tilec.ir.print import print_program
from tilec.ir.registry import Registry
from tilec.ir.verify import verify
from tilec.parser.text import parse_program
from tilec.passes.canonicalize import canonical

BUILTIN = builtin_registry()
TEXT = """\
tilec.ir 1
#shared0 = shared<shape=[8], modes=[[8]], strides=[[2]], swizzle=[0, 0, 0]>
program @p(%A: global f32[8, 8], %x: f32, %i: i32) <level = tile> {
  %y = acme.relu %x <slope = 0.5> : f32
  %z = acme.relu %x <slope = 0.5> : f32
  %c = acme.relu -2.0 <slope = 0.25> : f32
  %s = acme.gather %A[%i, 3] <rounding = "zero", layout = #shared0, weights = [1.0, 2.5]> \
(%seed: i32) {
    %j = add %seed, 1 : i32
    yield %seed, %j
  } : f32
  %w = add %y, %z : f32
  %v = add %w, %s : f32
  %u = add %v, %c : f32
  store %u, %A[%i, 0]
}
"""


def plugged() -> Registry:
    registry = BUILTIN.copy()
    for op in OPS:
        registry.register(op)
    return registry


def test_parse_print_verify() -> None:
    registry = plugged()
    program = parse_program(TEXT, registry)
    verify(program, registry)
    gather = program.body.ops[3]
    assert isinstance(gather, Gather)
    assert gather.rounding is Nearest.ZERO
    assert print_program(program) == TEXT
    assert same_program(parse_program(TEXT, registry), program)


def test_evaluate() -> None:
    op = Relu(constant(0.0, f16), slope=0.5)
    x = np.array([-2.0, 3.0], dtype=np.float16)
    got = op.evaluate(x)
    assert got.dtype == np.float16
    assert got.tolist() == [-1.0, 3.0]


def test_passes_know_it_by_its_declaration() -> None:
    registry = plugged()
    program = parse_program(TEXT, registry)
    new = program.with_body(canonical(program.body))
    verify(new, registry)
    text = print_program(new)
    assert text.count("acme.relu") == 1  # equal ones merged, the one on a constant folded
    assert "%w = add %y, %y : f32" in text
    assert "%u = add %v, -0.5 : f32" in text
    assert text.count("acme.gather") == 1


def test_folding_is_its_own_evaluate() -> None:
    program = parse_program(TEXT, plugged())
    new = canonical(program.body)
    last = new.ops[-2]
    assert constant_of(last.inputs[1]) == -0.5
    assert last.result.type == constant(0.0, f32).type


def test_without_the_plugin_the_text_survives() -> None:
    program = parse_program(TEXT, BUILTIN)
    verify(program, BUILTIN)
    assert isinstance(program.body.ops[0], OpaqueOp)
    assert print_program(program) == TEXT
    # What is not known is not touched: it may do anything.
    assert print_program(program.with_body(canonical(program.body))) == TEXT
    assert print_program(parse_program(TEXT, plugged())) == TEXT


def test_its_own_rules_are_located() -> None:
    text = (
        TEXT.replace("(%seed: i32) {", "{")
        .replace("%seed, 1", "1, 1")
        .replace("%seed, %j", "%j, %j")
    )
    with pytest.raises(TypeMismatch) as caught:
        parse_program(text, plugged(), "p.tir")
    assert caught.value.code == "ACME001"
    assert str(caught.value.loc) == "p.tir:7:8"
    with pytest.raises(IRError, match=r"rounding of acme\.gather is a Nearest"):
        parse_program(TEXT.replace('"zero"', '"up"'), plugged())


def test_registries_do_not_share() -> None:
    plugged()
    assert BUILTIN.find("acme.relu") is None
