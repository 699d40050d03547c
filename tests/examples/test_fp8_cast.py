"""The quantising cast on three machines and the interpreter, beside its reference in 64 bits."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.kernels.machines import SCHEDULES, TARGETS
from tests.modules import example
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

SIZES = ((1, 1), (5, 255), (8, 256), (3, 97), (0, 8))
TILE = {"block_M": 4, "block_N": 256, "threads": 64}


@pytest.mark.emulator
@pytest.mark.parametrize("target", TARGETS)
def test_machines_agree_with_the_reference(target: str) -> None:
    module = example("fp8_cast")
    compiled = lower(module.fp8_cast, (), target, TILE)
    compiled.add_general()
    for number, (m, n) in enumerate(SIZES):
        x = (np.random.default_rng(m + n).standard_normal((m, n)) * 30).astype(np.float16)
        x[:1, 1:] *= 0.001  # most of a row far below its largest element: subnormal quotients
        x[2:3] = 0
        results = []
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        emulator = EmulatorDevice(target, "a test", mode, order, seed=3)
        for device in (InterpreterDevice("", "a test"), emulator):
            q = np.full((m, n), np.nan, ml_dtypes.float8_e4m3fn)
            scale = np.full(m, np.nan, np.float32)
            device.run(compiled, (x, q, scale))
            module.check(x, q, scale)
            results.append(q.tobytes() + scale.tobytes())
        assert results[0] == results[1], (m, n)


def test_a_wrong_code_is_noticed() -> None:
    module = example("fp8_cast")
    x = np.array([[1.0, -3.0, 2.5, 0.0]], np.float16)
    exact, scale = module.reference(x)
    q = exact.astype(ml_dtypes.float8_e4m3fn)
    module.check(x, q, scale.astype(np.float32))
    q.view(np.uint8)[0, 0] += 1
    with pytest.raises(AssertionError):
        module.check(x, q, scale.astype(np.float32))


def test_vendors_take_the_tuned_sizes() -> None:
    """Without spills, 16 bytes in and 16 bytes or a half of that out; on sm_89 and newer by its
    own instruction."""
    kernel = example("fp8_cast").fp8_cast
    for target, compiler in zip(
        TARGETS, (find_nvrtc(), find_nvrtc(), find_amd_clang()), strict=True
    ):
        compiled = lower(kernel, (), target, {})
        result = compiler.compile(compiled.source, "fp8_cast", find_target(target).arch)
        assert all(r.spill_loads == r.spill_stores == 0 for r in result.resources)
        assert "<8>(" in compiled.source and "convert_registers<" in compiled.source


def test_main_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example("fp8_cast").main()
    assert "largest error" in capsys.readouterr().out
