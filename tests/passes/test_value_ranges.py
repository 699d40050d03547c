"""value_ranges: what is known of indices."""

from __future__ import annotations

import pytest

from tilec.ir.build import Builder
from tilec.ir.core import Block, Value
from tilec.ir.ops.control import Symbol
from tilec.passes.ranges import SYMBOL_LIMIT
from tilec.passes.value_ranges import value_ranges


@pytest.mark.parametrize("steps", [1, 1000])
def test_indices_of_values_used_twice(steps: int) -> None:
    """Each is looked at once: as many steps would take longer than there is time, or stack."""
    b = Builder()
    x: Value = b.emit(Symbol(label="N")).result
    for _ in range(steps):
        x = b.floordiv(b.add(x, x), 2)
    found = value_ranges(Block((), b.ops)).of_index(x)
    assert (found.low, found.high) == (0, SYMBOL_LIMIT - 1)


def test_what_no_index_can_be_is_as_large_as_its_type() -> None:
    b = Builder()
    x: Value = b.emit(Symbol(label="N")).result
    for _ in range(64):
        x = b.mul(x, x)
    found = value_ranges(Block((), b.ops)).of_index(x)
    assert found.high < 1 << 128
