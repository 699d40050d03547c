"""split_loops: which loops become two, and what each of them tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.modules import example
from tests.passes.planning import Planned, plan
from tilec.ir.core import Block, walk
from tilec.ir.ops.arith import Compare
from tilec.ir.ops.control import For, If, While
from tilec.ir.ops.gemm import Gemm
from tilec.passes.pipeline import PIPELINE
from tilec.runtime.driver import lower

SMALL = {"block_M": 64, "block_N": 32, "threads": 128}


def split(target: str = "cuda:sm_90a", **constants: Any) -> Planned:
    array = np.zeros((1, 1, 1, 64), np.float16)
    kernel = example("flash_attention").attention
    compiled = lower(kernel, (array,) * 4, target, {**SMALL, **constants})
    return plan(compiled.program, "split_loops", target, passes=PIPELINE)


def gemms(block: Block) -> int:
    return sum(isinstance(op, Gemm) for op in walk(block))


def test_keys_up_to_the_diagonal_are_not_masked() -> None:
    result = split(causal=True)
    (first,) = result.all(While)
    rest = next(op for op in result.all(For) if op.start in first.results)
    assert gemms(first.body) == gemms(rest.body) == 2
    tests = [op for op in walk(first.condition) if isinstance(op, Compare)]
    assert [op.predicate for op in tests] == ["lt", "le"], "there is another, and it is whole"
    masks = [op for op in rest.body.ops if isinstance(op, If) and op.results]
    assert len(masks) == 1
    assert not [op for op in first.body.ops if isinstance(op, If) and op.results]
    assert rest.inits == first.results[1:]


@pytest.mark.parametrize("target", ["cuda:sm_90a", "cuda:sm_80", "hip:gfx942"])
def test_the_end_of_the_keys_is_no_reason(target: str) -> None:
    """Few blocks come to it: no second loop."""
    assert not split(target, causal=False).all(While)


@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_only_loops_with_products_in_flight_are_split(target: str) -> None:
    assert not split(target, causal=True).all(While)
