"""The examples that reduce and scan: what vendors' compilers make of them, and their barriers. What
they compute is in test_sweep.py."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.kernels.machines import TARGETS
from tests.modules import example
from tilec.errors import TilecError
from tilec.runtime import emulator
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

CASES = ("softmax", "rms_norm", "layer_norm", "online_softmax", "cumsum", "reductions")


def kernel_of(module: ModuleType) -> Any:
    return getattr(module, {"reductions": "sums"}.get(module.__name__, module.__name__))


@pytest.mark.parametrize("name", CASES)
def test_vendors_take_the_tuned_sizes(name: str) -> None:
    """Without spills, in vectors of 16 bytes, and without a remark on layouts."""
    kernel = kernel_of(example(name))
    nvrtc, clang = find_nvrtc(), find_amd_clang()
    assert nvrtc is not None and clang is not None
    for target, compiler in zip(TARGETS, (nvrtc, nvrtc, clang), strict=True):
        compiled = lower(kernel, (), target, {})
        result = compiler.compile(compiled.source, name, find_target(target).arch)
        assert all(r.spill_loads == r.spill_stores == 0 for r in result.resources)
        assert (
            "load_global<8>" in compiled.source
            or "buffer_load<8>" in compiled.source
            or (name == "cumsum" and ("<4>(" in compiled.source))
        )
        assert not [r for r in compiled.remarks if r.code in ("TLC0410", "TLC0424", "TLC0433")]


@pytest.mark.parametrize("name", CASES)
def test_main_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As a user runs it: through the heuristic, in NumPy."""
    example(name).main()
    assert "error" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["online_softmax", "cumsum"])
def test_a_warp_holds_whole_rows(name: str) -> None:
    """Where a block has several rows, no warp waits for another."""
    for target in TARGETS:
        source = lower(kernel_of(example(name)), (), target, {}).source
        assert "shuffle" in source and "barrier()" not in source.split("_kernel(")[-1]


@pytest.mark.emulator
@pytest.mark.parametrize("missing", [0, 1])
def test_no_barrier_of_a_row_over_warps_is_needless(missing: int) -> None:
    """Without either of its barriers the softmax of a row over four warps is caught."""
    constants = {"block_M": 1, "block_N": 1024, "threads": 128}
    lowered = lower(kernel_of(example("softmax")), (), TARGETS[0], constants).lowered
    parts = lowered.emulated_text.split("  barrier();\n")
    assert len(parts) == 3
    parts[missing] += parts.pop(missing + 1)
    library = emulator.build("  barrier();\n".join(parts))
    x = np.zeros((3, 1024), np.float16)
    arrays = {"X": x, "Y": np.zeros_like(x), "M": 3, "N": 1024}
    for order in emulator.ORDERS:
        with pytest.raises(TilecError, match=r"data race|uninitialised"):
            emulator.run(library, lowered.variant.launches[0], arrays, "late", order)
