"""What of a launch is too large."""

from __future__ import annotations

import re

import pytest

from tilec.backends.launcher.limits import SYMBOL_LIMIT, check_blocks, check_steps
from tilec.backends.launcher.unfit import Unfit
from tilec.backends.manifest import Manifest, ScalarParam
from tilec.passes import ranges


def program(*numbers: ScalarParam) -> Manifest:
    return Manifest(1, "p", "cuda:sm_80", numbers, (), ())


def test_the_limit_is_that_of_the_passes() -> None:
    assert SYMBOL_LIMIT == ranges.SYMBOL_LIMIT


def test_the_first_step_that_is_too_large_is_told() -> None:
    grid = ("floordiv", ("mul", "M", ("add", "N", 1)), 4096)
    names = {"M": 1 << 16, "N": (1 << 16) - 1}
    told = re.escape(f"(M * (N + 1)) = {1 << 32}, expected less than {SYMBOL_LIMIT}")
    with pytest.raises(Unfit, match=told):
        check_steps("the grid", grid, names)
    check_steps("the grid", grid, {**names, "M": 1})
    with pytest.raises(Unfit, match=re.escape("(M * (N + 1))")):
        check_blocks(program(), "k", (grid, 1, 1), None, 1, names)
    wide = program(ScalarParam("N", "i64"))  # 64 bits hold the steps
    check_blocks(wide, "k", (grid, 1, 1), None, 1, names)


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
    own = (132, 1, 1), ("M", *blocks[1:]), cluster, {"M": blocks[0]}
    if not told:
        check_blocks(program(), "k", *own)
    else:
        with pytest.raises(Unfit, match=told):
            check_blocks(program(), "k", *own)
