"""The expressions of a manifest: an int, a name, or (operation, left, right)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "ceildiv": lambda a, b: -(-a // b),
    "min": min,
    "max": max,
}
"""Division rounds down, as Python's."""


def evaluate(expression: Any, names: Mapping[str, Any]) -> int:
    """The value of an expression. KeyError for a name that `names` lacks, ZeroDivisionError for a
    division by zero."""
    if isinstance(expression, str):
        return int(names[expression])
    if isinstance(expression, (list, tuple)):
        operation, left, right = expression
        return int(OPERATIONS[operation](evaluate(left, names), evaluate(right, names)))
    return int(expression)


def names_in(expression: Any) -> Iterator[str]:
    """Every name that an expression reads, with repetition, left to right."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, (list, tuple)):
        yield from names_in(expression[1])
        yield from names_in(expression[2])


def steps_in(expression: Any) -> int:
    """How many operations an expression takes."""
    if not isinstance(expression, (list, tuple)):
        return 0
    return 1 + steps_in(expression[1]) + steps_in(expression[2])


def solve(expression: Any, value: int, known: Mapping[str, Any]) -> int | None:
    """The one unknown name of an expression where that equals `value`; None where there is no single
    answer."""
    if isinstance(expression, str):
        return value
    if not isinstance(expression, (list, tuple)):
        return None
    operation, left, right = expression
    unknown_left = any(name not in known for name in names_in(left))
    if unknown_left and any(name not in known for name in names_in(right)):
        return None
    inner, other = (
        (left, evaluate(right, known)) if unknown_left else (right, evaluate(left, known))
    )
    if operation == "add":
        return solve(inner, value - other, known)
    if operation == "sub":
        return solve(inner, value + other if unknown_left else other - value, known)
    if operation == "mul" and other and value % other == 0:
        return solve(inner, value // other, known)
    return None


def format_expr(expression: Any) -> str:
    """An expression as a person writes it: `ceildiv(N, 128)`, `(K + 7)`."""
    if not isinstance(expression, (list, tuple)):
        return str(expression)
    operation, left, right = expression
    infix = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.get(operation)
    if infix is None:
        return f"{operation}({format_expr(left)}, {format_expr(right)})"
    return f"({format_expr(left)} {infix} {format_expr(right)})"


def format_shape(shape: Any) -> str:
    """A shape of expressions, as a tuple of Python's."""
    inner = ", ".join(format_expr(extent) for extent in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
