"""affine: forms of indices agree with the indices, on random expressions."""

from __future__ import annotations

import random

import pytest

from tilec.ir.build import Builder, scalar
from tilec.ir.core import Block, Constant, Op, Value
from tilec.ir.dtypes import bool_, i32
from tilec.ir.ops.control import If, Yield
from tilec.passes.affine import affine, depends

I, J, N, M = (scalar(i32, n) for n in "ijnm")
VARIABLES = frozenset({I, J})


def defined_by(b: Builder) -> dict[Value, Op]:
    return {r: op for op in b.ops for r in op.results}


def number(value: Value, names: dict[Value, Op], at: dict[Value, int]) -> int:
    """The value of an expression, computed by its ops."""
    if value in at:
        return at[value]
    if isinstance(value, Constant):
        return int(value.value)
    op = names[value]
    arguments = [i32.numpy.type(number(v, names, at)) for v in op.inputs]
    return int(op.evaluate(*arguments))


def expression(rng: random.Random, b: Builder, depth: int) -> Value:
    if depth == 0:
        return rng.choice([I, J, N, M, b.const(rng.randrange(-5, 6))])
    x, y = expression(rng, b, depth - 1), expression(rng, b, depth - 1)
    match rng.randrange(6):
        case 0 | 1:
            return b.add(x, y)
        case 2:
            return b.sub(x, y)
        case 3:
            return b.mul(x, rng.randrange(-4, 5))
        case 4:
            return b.mul(rng.choice([N, M]), y)
        case _:
            return b.floordiv(x, rng.randrange(1, 5))


@pytest.mark.parametrize("seed", range(40))
def test_a_form_is_its_index(seed: int) -> None:
    rng, b = random.Random(seed), Builder()
    index = expression(rng, b, 4)
    names = defined_by(b)
    form = affine(index, VARIABLES, names)
    if form is None:
        assert depends(index, VARIABLES, names), "an index without the variables always has a form"
        return
    base = form.base(b)
    assert not depends(base, VARIABLES, defined_by(b))
    for _ in range(20):
        at = {v: rng.randrange(0, 9) for v in (I, J, N, M)}
        linear = sum(factor * at[v] for v, factor in form.coefficients.items())
        assert number(index, names, at) == linear + number(base, defined_by(b), at)


def test_most_random_indices_have_a_form() -> None:
    """Else the test above would say little."""
    found = 0
    for seed in range(40):
        b = Builder()
        index = expression(random.Random(seed), b, 4)
        found += affine(index, VARIABLES, defined_by(b)) is not None
    assert 10 <= found < 40


def test_terms_that_cancel_are_gone() -> None:
    b = Builder()
    form = affine(b.sub(b.add(I, J), I), VARIABLES, defined_by(b))
    assert form is not None and form.coefficients == {J: 1}


@pytest.mark.parametrize("make", ["mul", "floordiv", "floormod"])
def test_what_is_not_affine_has_no_form(make: str) -> None:
    b = Builder()
    index = b.mul(I, N) if make == "mul" else getattr(b, make)(I, 2)
    assert affine(index, VARIABLES, defined_by(b)) is None


def test_terms_of_the_rest_come_together() -> None:
    b = Builder()
    value: Value = N
    for _ in range(100):
        value = b.add(value, value)
    form = affine(b.sub(b.add(value, I), M), VARIABLES, defined_by(b))
    assert form is not None and form.rest == ((2**100, N), (-1, M))


def test_an_index_may_be_longer_than_the_stack_is_deep() -> None:
    b = Builder()
    value: Value = I
    for step in range(2000):
        value = b.add(b.mul(value, 1 if step else 3), N)
    form = affine(value, VARIABLES, defined_by(b))
    assert form is not None and form.coefficients == {I: 3} and form.rest == ((2000, N),)


def test_what_a_branch_yields_is_computed_from_what_is_in_it() -> None:
    condition, b = scalar(bool_, "p"), Builder()
    branch = b.emit(If(condition, Block((), (Yield((I,)),)), Block((), (Yield((N,)),))))
    assert depends(b.add(branch.result, 1), VARIABLES, defined_by(b))
    assert affine(branch.result, VARIABLES, defined_by(b)) is None
