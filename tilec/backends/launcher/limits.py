"""What of a launch is too large."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .expressions import evaluate, format_expr, names_in
from .unfit import Unfit

WIDE = ("u32", "i64", "u64")
SYMBOL_LIMIT = 2**31 - 2**16
"""Symbols, and what kernels compute of them, are below this."""
INDEX_LIMIT = 1 << 31
"""What 32 bits hold of the steps in between."""
GRID_LIMITS = (2**31 - 1, 65535, 65535)
IN_PARTS = "pass the array in parts"
LARGER_BLOCKS = "give each block more of the work"


def check_symbol(name: str, value: int, dtype: str | None = "i32", origin: str = "") -> None:
    """Raises Unfit for a value that kernels cannot compute with."""
    limit = 1 << 63 if dtype == "i64" else SYMBOL_LIMIT
    if value >= limit:
        raise Unfit(f"{name} is {value}{origin}, expected less than {limit}", IN_PARTS)


def check_steps(
    what: str, expression: Any, names: Mapping[str, Any], limit: int = SYMBOL_LIMIT, hint: str = ""
) -> None:
    """The same of the steps of an expression, which kernels compute in 32 bits."""
    if isinstance(expression, (list, tuple)):
        value = evaluate(expression, names)
        if abs(value) >= limit:
            told = f"{what} needs {format_expr(expression)} = {value}, expected less than {limit}"
            raise Unfit(told, hint)
        for part in expression[1:]:
            check_steps(what, part, names, limit, hint)


def check_blocks(
    manifest: Any, symbol: str, grid: Sequence[Any], blocks: Sequence[Any] | None, cluster: int,
    names: Mapping[str, Any],
) -> None:  # fmt: skip
    """Raises Unfit for more blocks than go. With `blocks` those take turns in the grid, and their
    number is an i32."""
    numbers = (p for p in manifest.params if not hasattr(p, "shape"))
    wide = {p.name for p in numbers if p.dtype in WIDE}
    extents = grid if blocks is None else blocks
    for extent in extents:
        if wide.isdisjoint(names_in(extent)):  # else the program's steps are of 64 bits
            check_steps(f"the grid of {symbol}", extent, names, INDEX_LIMIT, LARGER_BLOCKS)
    counts = [evaluate(extent, names) for extent in extents]
    if min(counts) <= 0:
        return
    limits = GRID_LIMITS if blocks is None else (GRID_LIMITS[0],) * 3
    for axis, extent, count, limit in zip("xyz", extents, counts, limits, strict=True):
        if count > limit:
            told = "" if isinstance(extent, int) else f"{format_expr(extent)} = "
            told = f"{symbol} would have {told}{count} blocks along {axis}, at most {limit} go"
            raise Unfit(told, LARGER_BLOCKS)
    most, total = SYMBOL_LIMIT // cluster, math.prod(counts)
    if blocks is not None and total >= most:
        told = " x ".join(map(format_expr, extents))
        told = f"{symbol} would have {told} = {total} blocks, expected less than {most}"
        raise Unfit(told, LARGER_BLOCKS)


def grid_of(manifest: Any, launch: Any, names: Mapping[str, Any]) -> tuple[int, ...]:
    """The grid of a launch; one with an extent of 0 or less launches nothing. Raises Unfit where it
    is, or a symbol that its kernel takes, is too large."""
    own = launch.grid, launch.blocks, launch.cluster
    check_blocks(manifest, launch.symbol, *own, names)
    grid = tuple(evaluate(extent, names) for extent in launch.grid)
    if min(grid) > 0:
        for argument in launch.arguments:
            if argument.kind == "symbol":
                check_symbol(argument.name, names[argument.name], argument.dtype)
    return grid
