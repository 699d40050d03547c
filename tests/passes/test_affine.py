"""affine: forms of indices agree with the indices, on random expressions."""

from __future__ import annotations

import random

import pytest

from tilec.ir.build import Builder, scalar
from tilec.ir.core import Constant, Op, Value
from tilec.ir.dtypes import i32
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
