"""store_regions: which statements may write a tensor in any order."""

from __future__ import annotations

from typing import Any

import pytest

import tilec
import tilec.language as T
from tests.passes.planning import found, specialised
from tilec.ir.ops.control import Launch
from tilec.passes.store_regions import StoreRegions, shared_tensors
from tilec.passes.uniformity import differing


def rows(steps: int, varying: bool) -> Any:
    """Each trip stores a row, in a place that each trip computes: of `steps` values used twice each."""

    @tilec.kernel
    def stored(C: T.Tensor(("N",), "float32")):
        with T.Kernel(8, threads=64) as bx:
            for i in T.serial(10):
                place = bx + i if varying else bx + 1
                for _ in range(steps):
                    place = place * place // 3
                for j in T.Parallel(64):
                    C[place * 640 + i * 64 + j] = 1.0

    return stored


@pytest.mark.parametrize("steps", [1, 600])
@pytest.mark.parametrize("varying", [False, True])
def test_trips_are_apart_where_only_the_counter_differs(steps: int, varying: bool) -> None:
    (launch,) = found(specialised(rows(steps, varying)), Launch)
    shared = shared_tensors(launch, StoreRegions(launch, differing(launch.body)))
    assert [tensor.hint for tensor in shared] == ["C"] * varying
