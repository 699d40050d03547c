"""The GEMM of every dtype on the interpreter and three machines, at sizes that are no multiples of
its tiles; and for every NVIDIA target, through NVRTC.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.legs import one_leg, turns
from tests.modules import example
from tilec.runtime.driver import lower
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import TARGETS

EXAMPLE = example("gemm_dtypes")
DTYPES = tuple(EXAMPLE.RESULTS)
NVIDIA = tuple(name for name in TARGETS if name.startswith("cuda"))
SIZES = ((65, 63, 127), (1, 1, 1), (64, 64, 32), (3, 130, 67), (5, 7, 0))


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "dtype"), turns(DTYPES))
def test_every_leg(device: str, dtype: str) -> None:
    for m, n, k in SIZES:
        a, b = EXAMPLE.operands(dtype, m, n, k)
        c = np.full((m, n), -77, EXAMPLE.numpy_dtype(EXAMPLE.RESULTS[dtype][1]))
        *_, result = one_leg(device, EXAMPLE.matmul(dtype), a, b, c)
        EXAMPLE.check(dtype, a, b, result)


def test_the_check_can_fail() -> None:
    for dtype in DTYPES:
        a, b = EXAMPLE.operands(dtype, 4, 4, 8)
        c = EXAMPLE.reference(dtype, a, b).astype(EXAMPLE.numpy_dtype(EXAMPLE.RESULTS[dtype][1]))
        EXAMPLE.check(dtype, a, b, c)
        c[1, 2] = -c[1, 2]
        with pytest.raises(AssertionError, match="1 of 16 elements"):
            EXAMPLE.check(dtype, a, b, c)


def test_main(capsys: pytest.CaptureFixture[str]) -> None:
    EXAMPLE.main()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(DTYPES)


def check_nvrtc(dtype: str, target: str) -> None:
    compiled = lower(getattr(EXAMPLE, f"gemm_{dtype}"), (), target, {})
    compiled.add_general()
    for variant in compiled.variants:
        arch = target.partition(":")[2]
        (resources,) = find_nvrtc().compile(variant.text, variant.file_name, arch).resources
        assert (resources.spill_stores, resources.spill_loads, resources.stack) == (0, 0, 0)


@pytest.mark.parametrize("number", range(len(DTYPES)))
def test_nvrtc(number: int) -> None:
    """Every dtype for one target, every target for a dtype at least; all for one in test_spills."""
    check_nvrtc(DTYPES[number], NVIDIA[number % len(NVIDIA)])


@pytest.mark.nightly
@pytest.mark.parametrize("target", NVIDIA)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nvrtc_takes_every_dtype_for_every_target(dtype: str, target: str) -> None:
    check_nvrtc(dtype, target)
