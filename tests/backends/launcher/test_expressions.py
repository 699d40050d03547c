"""The expressions of a manifest: their values, names and text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilec.backends.launcher.expressions import OPERATIONS, evaluate, format_expr, names_in

PLAIN = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: math.floor(a / b),
    "mod": lambda a, b: a - b * math.floor(a / b),
    "ceildiv": lambda a, b: math.ceil(a / b),
    "min": min,
    "max": max,
}


@given(
    st.integers(-1000, 1000),
    st.integers(-1000, 1000).filter(bool),
    st.sampled_from(sorted(OPERATIONS)),
)
def test_operations_mean_what_they_say(a: int, b: int, operation: str) -> None:
    assert evaluate((operation, "a", "b"), {"a": a, "b": b}) == PLAIN[operation](a, b)


def test_names_and_text_of_an_expression() -> None:
    expr = ("ceildiv", ("add", "M", 7), ("mul", "N", 2))
    assert list(names_in(expr)) == ["M", "N"]
    assert format_expr(expr) == "ceildiv((M + 7), (N * 2))"
    with pytest.raises(KeyError):
        evaluate(expr, {"M": 1})
