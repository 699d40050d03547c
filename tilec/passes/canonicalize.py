"""Brings a program to a common form: folded, without repetition, without what has no consequence.

Needs nothing, may run anywhere; leaves a program of the same meaning and level. Before and after:

    %0 = mul %by, 128 : i32                 |  %0 = mul %by, 128 : i32
    %1 = mul %by, 128 : i32                 |
    %2 = add 0, %1 : i32                    |
    %3 = compare %n, %n <predicate = "le">  |
    if %3 {                                 |
      store %x, %A[%0, %2]                  |  store %x, %A[%0, %0]
      yield                                 |
    } {                                     |
      yield                                 |
    }                                       |

Constants go to the right of commutative ops; symbols that the program defines are their values;
pure ops that are equal become the first of them where that is visible; branches on constants and
loops of no or one iteration are dissolved. Loads are not merged: that needs an ordering of memory,
which others own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from ..ir.attributes import attributes_key, constant_key
from ..ir.build import fold
from ..ir.core import Block, Constant, Op, Program, Value, constant, constant_of
from ..ir.ops import arith
from ..ir.ops.control import Define, For, If, Role, Symbol, While
from ..ir.rewrite import Answer, Replacement, substitute, transform
from ..ir.types import ScalarType
from .context import PassContext
from .remove_dead import dead_code_removed

_ROUNDS = 20
_COMMUTATIVE = (arith.Add, arith.Mul, arith.BitAnd, arith.BitOr, arith.BitXor)
_DISSOLVED = ("serial", "unroll")
"""Kinds of loops that may be replaced by their only iteration; the others are the planner's."""


def canonicalize(program: Program, context: PassContext) -> Program:
    """The program in common form."""
    body = program.body
    defined = {op.label: op.value for op in body.ops if isinstance(op, Define)}
    if defined:
        body = transform(body, partial(_defined, defined))
    body = canonical(body)
    return program if body is program.body else program.with_body(body)


def _defined(values: Mapping[str, Value], op: Op) -> Answer:
    """The value itself for such a symbol: a kernel computes it, so that its launch passes only what
    the caller's arguments tell, whatever names the passes give to extents.
    """
    if not isinstance(op, Symbol) or op.label not in values:
        return None
    value = values[op.label]
    return value if arith.element_dtype(value) == op.dtype else arith.Cast(value, dtype=op.dtype)


def canonical(block: Block) -> Block:
    """A block in common form; the block itself where it has it already."""
    for _ in range(_ROUNDS):
        new = dead_code_removed(merge_equal(transform(block, simplify)))
        if new is block:
            return block
        block = new
    return block


def simplify(op: Op) -> Answer:
    """What an op is known to be, by itself."""
    folded = fold(op)
    if folded is not None:
        return folded
    match op:
        case arith.Add() | arith.Mul() | arith.BitAnd() | arith.BitOr() | arith.BitXor():
            if isinstance(op.x, Constant) and not isinstance(op.y, Constant):
                return op.replace(x=op.y, y=op.x)
        case If():
            return _branch(op)
        case For():
            return _few_iterations(op)
        case While():
            end = op.condition.terminator
            if (
                end is not None
                and len(op.condition.ops) == 1
                and constant_of(end.inputs[0]) is False
            ):
                return Replacement((), op.inits)
    return None


def _branch(op: If) -> Answer:
    known = constant_of(op.condition)
    if known is not None:
        return _inlined(op.then if known else op.orelse)
    then, orelse = op.then.terminator, op.orelse.terminator
    if then is None or orelse is None or not op.results:
        return None
    bare = len(op.then.ops) == 1 and len(op.orelse.ops) == 1
    if bare and all(_same(a, b) for a, b in zip(then.inputs, orelse.inputs, strict=True)):
        return Replacement((), then.inputs)
    return None


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, Constant) and isinstance(b, Constant):
        return constant_key(a) == constant_key(b)
    return a is b


def _inlined(block: Block) -> Replacement:
    """The ops of a region that runs exactly once, and what it yields."""
    end = block.terminator
    return (
        Replacement(block.ops[:-1], end.inputs) if end is not None else Replacement(block.ops, ())
    )


def _few_iterations(op: For) -> Answer:
    start, stop, step = (constant_of(v) for v in (op.start, op.stop, op.step))
    if start is None or stop is None or step is None or step <= 0:
        return None
    if stop <= start:
        return Replacement((), op.inits)
    if start + step < stop or op.kind not in _DISSOLVED:
        return None
    type_ = op.start.type
    assert isinstance(type_, ScalarType)
    values = (constant(start, type_.dtype), *op.inits)
    return _inlined(substitute(op.body, dict(zip(op.body.params, values, strict=True))))


# Equal ops ----------------------------------------------------------------------------------------


def merge_equal(block: Block) -> Block:
    """A block in which pure ops equal to one that is visible are replaced by it."""
    return _merge(block, [], {})


def _merge(block: Block, outer: Sequence[dict[Any, Op]], mapping: dict[Value, Value]) -> Block:
    known: dict[Any, Op] = {}
    scopes = (known, *outer)
    ops: list[Op] = []
    changed = False
    # What a role computes may depend on the role (thread_id), so nothing of outside counts.
    in_role = partial(_merge, outer=(), mapping=mapping)
    in_others = partial(_merge, outer=scopes, mapping=mapping)
    for op in block.ops:
        new = op.map(lambda v: mapping.get(v, v), in_role if isinstance(op, Role) else in_others)
        if new is not op:
            results = zip(op.results, new.results, strict=True)
            mapping.update({a: b for a, b in results if a is not b})
        if new.pure and new.results and not new.regions:
            key = _key(new)
            first = next((scope[key] for scope in scopes if key in scope), None)
            if first is not None:
                mapping.update(zip(op.results, first.results, strict=True))
                mapping.update(zip(new.results, first.results, strict=True))
                changed = True
                continue
            known[key] = new
        changed = changed or new is not op
        ops.append(new)
    return block.with_ops(ops) if changed else block


def _key(op: Op) -> tuple[Any, ...]:
    """Equal for ops that compute the same."""
    inputs = [constant_key(v) if isinstance(v, Constant) else v for v in op.inputs]
    if isinstance(op, _COMMUTATIVE):
        inputs.sort(key=lambda k: (isinstance(k, tuple), id(k)))
    groups = tuple(len(getattr(op, name)) for name, kind in op.fields if kind == "operands")
    types = tuple(v.type for v in op.results)
    return (type(op), tuple(inputs), groups, attributes_key(op), types)
