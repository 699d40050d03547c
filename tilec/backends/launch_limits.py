"""What the expressions of a manifest come to, and what of a launch is too large. Imports nothing of tilec:
`tilec build` writes it into the launcher that stands alone (cupy_launcher.py), the runtime calls it.

A problem is a sentence, "" where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
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
WIDE = ("u32", "i64", "u64")
SYMBOL_LIMIT = 2**31 - 2**16
"""Symbols, and what kernels compute of them, are below this."""
GRID_LIMITS = (2**31 - 1, 65535, 65535)


def evaluate(expression: Any, names: Mapping[str, Any]) -> int:
    """The value of an int, a name, or (operation, left, right). KeyError for a name that `names` lacks,
    ZeroDivisionError for a division by zero; division rounds down, as Python's."""
    if isinstance(expression, str):
        return int(names[expression])
    if isinstance(expression, (list, tuple)):
        operation, left, right = expression
        return int(OPERATIONS[operation](evaluate(left, names), evaluate(right, names)))
    return int(expression)


def symbol_problem(name: str, value: int, dtype: str | None = "i32", origin: str = "") -> str:
    """What is wrong with a value that kernels compute with; "" if nothing is."""
    limit = 1 << 63 if dtype == "i64" else SYMBOL_LIMIT
    return f"{name} is {value}{origin}, expected less than {limit}" if value >= limit else ""


def steps_problem(
    what: str, expression: Any, names: Mapping[str, Any], limit: int = SYMBOL_LIMIT
) -> str:
    """The same of the steps of an expression, which kernels compute in 32 bits."""
    if not isinstance(expression, (list, tuple)):
        return ""
    value = evaluate(expression, names)
    if abs(value) >= limit:
        return f"{what} needs {format_expr(expression)} = {value}, expected less than {limit}"
    _, left, right = expression
    return steps_problem(what, left, names, limit) or steps_problem(what, right, names, limit)


def blocks_problem(
    symbol: str, grid: Sequence[Any], blocks: Sequence[Any] | None, cluster: int,
    names: Mapping[str, Any], wide: Set[str],
) -> str:  # fmt: skip
    """The same of a launch's grid. With `blocks` those take turns in it, and their number is an i32."""
    extents = grid if blocks is None else blocks
    for extent in extents:
        if wide.isdisjoint(names_in(extent)):  # else the program's steps are of 64 bits
            problem = steps_problem(f"the grid of {symbol}", extent, names, 1 << 31)
            if problem:
                return problem
    counts = [evaluate(extent, names) for extent in extents]
    if min(counts) <= 0:
        return ""
    limits = GRID_LIMITS if blocks is None else (GRID_LIMITS[0],) * 3
    for axis, extent, count, limit in zip("xyz", extents, counts, limits, strict=True):
        if count > limit:
            told = "" if isinstance(extent, int) else f"{format_expr(extent)} = "
            return f"{symbol} would have {told}{count} blocks along {axis}, at most {limit} go"
    most = SYMBOL_LIMIT // cluster
    if blocks is not None and math.prod(counts) >= most:
        told = " x ".join(map(format_expr, extents))
        return f"{symbol} would have {told} = {math.prod(counts)} blocks, expected less than {most}"
    return ""


def names_in(expression: Any) -> Iterator[str]:
    """Every name that an expression reads, with repetition, left to right."""
    if isinstance(expression, str):
        yield expression
    elif isinstance(expression, (list, tuple)):
        yield from names_in(expression[1])
        yield from names_in(expression[2])


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
