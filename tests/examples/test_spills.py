"""ptxas keeps the kernels of examples/ in registers, on every target: those for aligned arguments
and those for any.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import pytest

from tests.examples.shipped import NVIDIA, Shipped, shipped
from tests.modules import example_targets
from tilec.runtime.nvrtc import find_nvrtc

CASES = shipped()
# The tightest: two accumulators that are live together, beside loads of elements with addresses; a row
# of which a thread of 1024 holds 32 elements; sums beside the parts that are added.
TIGHT = [
    Shipped("fp8_cast", "cuda:sm_90a", (("N", 32768),)),
    Shipped("stream_k", "cuda:sm_90a", ()),
    *(
        Shipped("flash_attention", target, (("D", D), ("causal", True)))
        for target, D in (
            ("cuda:sm_80", 256), ("cuda:sm_90a", 128), ("cuda:sm_100a", 96), ("cuda:sm_120a", 96),
        )
    ),
]  # fmt: skip


# test_gemm_dtypes.py has each dtype compiled, on targets in turn.
ELSEWHERE = {"gemm_dtypes"}


def covering() -> list[Shipped]:
    """What every run takes: of each example every third form, on targets in turn, and the tight."""
    found: list[Shipped] = []
    for example, forms in groupby(CASES, lambda case: case.example):
        if example in ELSEWHERE:
            continue
        for case in list(forms)[:: 3 * len(NVIDIA)]:
            target = NVIDIA[len(found) % len(NVIDIA)]
            if target not in example_targets(case.example):
                target = case.target
            found.append(replace(case, target=target))
    return list(dict.fromkeys((*found, *TIGHT)))


COVERING = covering()


def check(case: Shipped) -> None:
    for compiled in case.compiled():
        for variant in compiled.variants:
            binary = find_nvrtc().compile(variant.text, variant.file_name, compiled.target.arch)
            assert binary.resources and binary.findings == (), f"{case}: {variant.file_name}"
            assert [r for r in binary.resources if r.stack] == []


@pytest.mark.parametrize("case", COVERING, ids=str)
def test_nothing_is_spilled(case: Shipped) -> None:
    check(case)


@pytest.mark.nightly
@pytest.mark.parametrize("case", [case for case in CASES if case not in COVERING], ids=str)
def test_nothing_is_spilled_on_any_target(case: Shipped) -> None:
    check(case)


def test_every_example_and_every_target_is_covered() -> None:
    assert {case.example for case in COVERING} == {case.example for case in CASES} - ELSEWHERE
    assert {case.target for case in COVERING} == {case.target for case in CASES}
    assert set(TIGHT) <= set(COVERING) < set(CASES)
