"""The examples that reduce and scan, on three machines and the interpreter, beside their references
in 64 bits, at ragged sizes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.kernels.machines import SCHEDULES, TARGETS
from tests.modules import example
from tilec.errors import TilecError
from tilec.runtime import emulator
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.runtime.interpreter_device import InterpreterDevice
from tilec.runtime.nvrtc import find_nvrtc
from tilec.target import find_target

Array = np.ndarray[Any, Any]


TILE = {"block_M": 4, "block_N": 256, "threads": 64}
# Per example: the compile-time parameters, and the sizes (rows, columns).
CASES: dict[str, tuple[dict[str, int], list[tuple[int, int]]]] = {
    "softmax": (TILE, [(1, 1), (5, 255), (8, 256), (3, 97), (0, 8)]),
    "rms_norm": (TILE, [(1, 1), (5, 255), (8, 256), (3, 97), (0, 8)]),
    "layer_norm": (TILE, [(1, 2), (5, 255), (8, 256), (3, 97), (0, 8)]),
    "online_softmax": (TILE, [(1, 1), (5, 255), (4, 256), (3, 257), (7, 520)]),
    "cumsum": (TILE, [(1, 1), (5, 255), (4, 256), (3, 257), (7, 520)]),
    "reductions": (
        {"block_M": 16, "block_N": 64, "threads": 64},
        [(1, 1), (15, 65), (16, 64), (17, 130), (40, 8)],
    ),
}


def kernel_of(module: ModuleType) -> Any:
    return getattr(module, {"reductions": "sums"}.get(module.__name__, module.__name__))


def inputs_of(kernel: Any, m: int, n: int) -> list[Array]:
    rng = np.random.default_rng(m * 1000 + n)
    dtype = np.float32 if kernel.name == "cumsum" else np.float16
    count = {"rms_norm": 1, "layer_norm": 2}.get(kernel.name, 0)
    shapes = [(m, n), *[(n,)] * count]
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def outputs_of(kernel: Any, m: int, n: int) -> list[Array]:
    if kernel.name == "sums":
        return [np.full(size, np.nan, np.float32) for size in (m, n)]
    dtype = np.float32 if kernel.name == "cumsum" else np.float16
    return [np.full((m, n), np.nan, dtype)]


def close(found: Array, exact: Array, terms: int) -> bool:
    """A rounding of the result, and of each of `terms` 32-bit operations on numbers near 1."""
    rounding = float(np.finfo(found.dtype).eps)
    allowed = rounding * np.abs(exact) + 4 * terms * np.finfo(np.float32).eps
    return bool(np.all(np.abs(found.astype(np.float64) - exact) <= allowed))


@pytest.mark.emulator
@pytest.mark.parametrize("name", CASES)
def test_machines_agree_with_the_reference(name: str) -> None:
    constants, sizes = CASES[name]
    module = example(name)
    kernel = kernel_of(module)
    for target in TARGETS:
        compiled = lower(kernel, (), target, constants)
        compiled.add_general()
        for number, (m, n) in enumerate(sizes):
            inputs = inputs_of(kernel, m, n)
            exact = module.reference(*inputs) if m else np.zeros((m, n))
            mode, order = SCHEDULES[number % len(SCHEDULES)]
            devices = [EmulatorDevice(target, "a test", mode, order, seed=3)]
            if target == TARGETS[0]:
                devices.append(InterpreterDevice("", "a test"))  # type: ignore[arg-type]
            for device in devices:
                made = outputs_of(kernel, m, n)
                device.run(compiled, (*inputs, *made))
                exacts = exact if isinstance(exact, tuple) else (exact,)
                for found, wanted in zip(made, exacts, strict=True):
                    assert close(found, wanted, 8 + n + m), f"{name} {m} x {n} on {device}"


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
