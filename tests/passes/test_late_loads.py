"""late_loads: tiles are loaded by the nest that reads them where registers are short, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.passes.planning import keeps_meaning, plan, specialised
from tilec.ir.ops.tile import LoadTile
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target


def sums(dtype: str) -> Any:
    """The sum of three parts of that dtype, of which a thread holds 128 elements each."""

    @tilec.kernel
    def added(
        P: T.Tensor((3, "M", "N"), dtype), C: T.Tensor(("M", "N"), "float32"), how: str = "plain",
        threads: int = 64,
    ):  # fmt: skip
        with T.Kernel(1, threads=threads):
            total = T.alloc_fragment((64, 128), "float32")
            part = T.alloc_fragment((64, 128), "float32")
            T.clear(total)
            for w in T.serial(3):
                T.copy(P[w, 0, 0], part)
                if how == "written before":
                    for _ in T.Parallel(1):
                        P[w, 0, 0] = 7
                for i, j in T.Parallel(64, 128):
                    if how != "under a condition" or i > j:
                        total[i, j] += part[i, j]
                    if how == "written by the nest":
                        P[w, i, j] = 7
                    if how == "read twice":
                        total[i, j] *= part[i, j]
                if how == "read again":
                    for i, j in T.Parallel(64, 128):
                        total[i, j] *= part[i, j]
            T.copy(total, C[0, 0])

    return added


LATE = ("plain", "under a condition")
KEPT = ("written before", "written by the nest", "read twice", "read again")


@pytest.mark.parametrize("how", LATE + KEPT)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_tile_is_loaded_by_its_only_reader(how: str, dtype: str) -> None:
    program = specialised(sums(dtype), how=how)
    fitted = plan(program, "fit_resources")
    assert bool(fitted.all(LoadTile)) == (how in KEPT)
    assert ("TLC0336" in fitted.codes) == (how in KEPT)
    keeps_meaning(program, fitted.program)


def test_a_tile_that_has_room_is_loaded_whole() -> None:
    assert plan(specialised(sums("float32"), threads=256), "fit_resources").all(LoadTile)


@pytest.mark.emulator
def test_nothing_is_spilled_at_any_size() -> None:
    added = sums("float32")
    target = find_target("cuda:sm_90a")
    compiled = lower(added, (), target.name, {})
    compiled.add_general()
    for variant in compiled.variants:
        assert find_nvrtc().compile(variant.text, variant.file_name, target.arch).findings == ()
    for m, n in ((64, 128), (1, 1), (63, 127), (5, 8), (0, 8)):
        parts = np.random.default_rng(n).integers(-9, 9, (3, m, n)).astype(np.float32)
        for leg, (_, c) in every_leg(added, parts, np.zeros((m, n), np.float32)):
            np.testing.assert_array_equal(c, parts.sum(0), err_msg=f"{leg} {m} {n}")
