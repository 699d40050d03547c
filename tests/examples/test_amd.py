"""Examples are kept in registers on all of AMD's machines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.examples.shipped import Shipped, shipped
from tests.modules import example_targets
from tilec.runtime.clang import find_amd_clang
from tilec.target import TARGETS

AMD = tuple(name for name in TARGETS if name.startswith("hip"))
CASES = tuple(
    dict.fromkeys(
        replace(case, target=target)
        for case in shipped()
        for target in AMD
        if target in example_targets(case.example)
    )
)
NAMES = sorted({case.example for case in CASES})


@pytest.mark.nightly
@pytest.mark.hip
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_is_spilled_to_memory(case: Shipped) -> None:
    """A scalar register may move to a lane of a vector one, which costs no access."""
    for compiled in case.compiled():
        arch = compiled.target.arch
        for variant in compiled.variants:
            assembled = find_amd_clang(arch).assemble(variant.text, variant.file_name, arch)
            for isa in assembled.kernels:
                assert (isa.vgpr_spills, isa.scratch) == (0, 0), f"{case}: {variant.file_name}"
