"""IndexBuilder: what it knows of values, however long the chain that they end."""

from __future__ import annotations

from tilec.ir.build import scalar
from tilec.ir.dtypes import i32
from tilec.passes.index_builder import IndexBuilder
from tilec.passes.linear_forms import Linear
from tilec.passes.ranges import Range


def test_a_chain_may_be_longer_than_the_stack_is_deep() -> None:
    b, x = IndexBuilder(), scalar(i32, "x")
    b.assume(x, Range.between(0, 7))
    value = x
    for _ in range(2000):
        value = b.min(b.add(value, 1), 4000)
    assert b.range_of(value).inside(1, 4000)
    value = x
    for _ in range(2000):
        value = b.add(value, 2)
    assert b.form(value) == Linear(((x, 1),), 4000)
    assert b.range_of(value) == Range.between(4000, 4007)


def test_what_a_sum_uses_twice_is_seen_once() -> None:
    b, x = IndexBuilder(), scalar(i32, "x")
    value = x
    for _ in range(200):
        value = b.sub(b.add(value, value), 1)
    assert b.form(value) == Linear(((x, 2**200),), 1 - 2**200)


def test_a_form_follows_a_definition_that_comes_later() -> None:
    b, x = IndexBuilder(), scalar(i32, "x")
    made = IndexBuilder()
    y = made.mul(x, 3)
    whole = b.add(y, 1)
    assert b.form(whole) == Linear(((y, 1),), 1)
    b.extend(made.ops)
    assert b.form(whole) == Linear(((x, 3),), 1)


def test_a_shift_by_no_number_of_bits_is_no_multiple() -> None:
    b, x = IndexBuilder(), scalar(i32, "x")
    for amount in (-1, 64):
        value = b.shift_left(x, amount)
        assert b.form(value) == Linear(((value, 1),))
