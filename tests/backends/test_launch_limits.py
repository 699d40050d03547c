"""What of a launch is too large."""

from __future__ import annotations

import pytest

from tilec.backends.launch_limits import (
    SYMBOL_LIMIT,
    blocks_problem,
    evaluate,
    format_expr,
    steps_problem,
)
from tilec.passes import ranges


def test_the_limit_is_that_of_the_passes() -> None:
    assert SYMBOL_LIMIT == ranges.SYMBOL_LIMIT


def test_the_first_step_that_is_too_large_is_told() -> None:
    grid = ("floordiv", ("mul", "M", ("add", "N", 1)), 4096)
    names = {"M": 1 << 16, "N": (1 << 16) - 1}
    assert evaluate(grid, names) == 1 << 20
    told = f"(M * (N + 1)) = {1 << 32}, expected less than {SYMBOL_LIMIT}"
    assert told in steps_problem("the grid", grid, names)
    assert steps_problem("the grid", grid, {**names, "M": 1}) == ""
    assert format_expr(("ceildiv", "N", 128)) == "ceildiv(N, 128)"
    assert "(M * (N + 1))" in blocks_problem("k", (grid, 1, 1), None, 1, names, set())
    assert blocks_problem("k", (grid, 1, 1), None, 1, names, {"N"}) == "", "64 bits hold the steps"


@pytest.mark.parametrize(
    ("blocks", "cluster", "told"),
    [
        ((2**16, 2**15, 1), 1, "would have M x 32768 x 1 = 2147483648 blocks, expected less than 2147418112"),
        ((2**15, 2**15, 1), 2, "M x 32768 x 1 = 1073741824 blocks, expected less than 1073709056"),
        ((2**31, 1, 1), 1, "M = 2147483648 blocks along x"),
        ((2**15, 2**15, 1), 1, ""),
        ((2**31 - 1, 0, 70000), 1, ""),
    ],
)  # fmt: skip
def test_blocks_that_take_turns_are_counted_in_32_bits(
    blocks: tuple[int, int, int], cluster: int, told: str
) -> None:
    found = blocks_problem("k", (132, 1, 1), ("M", *blocks[1:]), cluster, {"M": blocks[0]}, set())
    assert told in found and bool(told) == bool(found)
