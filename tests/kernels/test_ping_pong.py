"""Eight waves that alternate on AMD's machines: their kernels agree with NumPy in the emulator, in every
order of waves, with copies that land early and late, and as the machine code that clang makes of them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.backends.hip.cdna.device import MachineCodeDevice, kernels
from tests.backends.hip.cdna.launch import ORDERS
from tests.kernels import programs
from tests.kernels.machines import SCHEDULES
from tests.kernels.programs import Tile
from tests.kernels.test_amd_counts import check_waits, letters
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
TARGETS = ("hip:gfx90a", "hip:gfx942", "hip:gfx950")


def alternating(kernel: Any, target: str, **constants: int) -> CompiledKernel:
    compiled = lower(kernel, (), target, constants)
    (form,) = (r.message for r in compiled.remarks if r.code == "TLC0335")
    assert form.startswith("8 waves in ping-pong, 4 multiply while 4 load: "), form
    compiled.add_general()
    return compiled


@cache
def gemm(target: str, transpose_b: bool = True, stages: int = 4) -> CompiledKernel:
    tile = Tile(256 if target == "hip:gfx950" else 128, 128, 32, 512)
    kernel = programs.gemm("float16", transpose_b)
    return alternating(kernel, target, **tile.constants(stages))


def operands(m: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: their sums are exact in any order."""
    draws = np.random.default_rng(m + n + k)
    return tuple(draws.integers(-4, 5, shape).astype(np.float16) for shape in ((m, k), (n, k)))


def check_product(device: Any, compiled: CompiledKernel, size: tuple[int, int, int]) -> None:
    a, b = operands(*size)
    c = np.full(size[:2], np.nan, np.float16)
    device.run(compiled, (a, b, c))
    expected = (a.astype(np.float64) @ b.T.astype(np.float64)).astype(np.float16)
    assert np.array_equal(c, expected), (device.name, size)


# Trip counts 0, 1, 2, 3 and 5, around the slots of two machines; tiles that are ragged and whole.
SIZES = ((1, 1, 0), (7, 130, 1), (128, 128, 32), (129, 9, 64), (64, 64, 95), (130, 128, 131))


@pytest.mark.parametrize(
    ("target", "stages"), [(TARGETS[0], 2), (TARGETS[1], 4), (TARGETS[2], 2), (TARGETS[2], 4)]
)
def test_gemm_emulated(target: str, stages: int) -> None:
    compiled = gemm(target, stages=stages)
    schedules = list(SCHEDULES)
    for number, size in enumerate(SIZES):
        for mode, order in schedules if number == 4 else schedules[number :: len(SIZES)]:
            device = EmulatorDevice(target, "a test", mode, order, seed=number)
            check_product(device, compiled, size)


@pytest.mark.parametrize("target", TARGETS)
def test_gemm_as_machine_code(target: str) -> None:
    compiled = gemm(target)
    for number, size in enumerate(SIZES):
        mode, order = ("late", "early")[number % 2], ORDERS[number % 3]
        check_product(MachineCodeDevice(mode, order, target=target), compiled, size)  # type: ignore[arg-type]


# Reads of all steps, each behind a barrier and before one, products between two at a higher
# priority; L: loads from global memory, W: stores of tiles to LDS.
FORMS = {
    "hip:gfx90a": r"W{2}L{2}(R{3}\|\(M{4}\)\|){2}", "hip:gfx942": r"W{2}L{2}(R{3}\|\(M{4}\)\|){2}",
    "hip:gfx950": r"L{3}(R{4}\|\(M{4}\)\|){2}",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_machine_code_has_the_form(target: str) -> None:
    """In the loop: barriers, priorities and products where they are asked for, and no spill."""
    lowered, arch = gemm(target).lowered, target.removeprefix("hip:")
    assembled = find_amd_clang(arch).assemble(lowered.text, lowered.file_name, arch)
    (isa,), (code,) = assembled.kernels, kernels(assembled.assembly).values()
    check_waits(isa, assembled.assembly, code)
    assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
    found = letters(code)
    assert len(re.findall(FORMS[target], found)) == 1, found
    assert found.count("M") == 8 and found.count("(") == found.count(")") == 2
    # both halves branch by a scalar condition around a barrier of their own
    names = [x.mnemonic for x in code.instructions]
    assert names.count("v_readfirstlane_b32") >= 1


@tilec.kernel
def two_products(
    A: T.Tensor(("M", 128), "float16"),
    B: T.Tensor(("N", 128), "float16"),
    C: T.Tensor(("M", 128), "float32"),
    times: int = 1,
    least: int = 0,
):
    """C = times A B^T B where B has `least` rows and more, else 0: two products a turn, of a pipeline
    that stands under a condition in a loop."""
    with T.Kernel(T.ceildiv(A.shape[0], 256), threads=512) as bx:
        X = T.alloc_fragment((256, 128), "float16")
        B_s = T.alloc_shared((128, 128), "float16")
        S, P = T.alloc_fragment((256, 128), "float32"), T.alloc_fragment((256, 128), "float16")
        acc = T.alloc_fragment((256, 128), "float32")
        T.copy(A[bx * 256, 0], X)
        T.clear(acc)
        for _ in T.serial(times):
            if B.shape[0] >= least:
                for k in T.Pipelined(T.ceildiv(B.shape[0], 128), num_stages=2):
                    T.copy(B[k * 128, 0], B_s)
                    T.clear(S)
                    T.gemm(X, B_s, S, transpose_B=True, policy=T.GemmWarpPolicy.FullRow)
                    T.copy(S, P)
                    T.gemm(P, B_s, acc, policy=T.GemmWarpPolicy.FullRow)
        T.copy(acc, C[bx * 256, 0])


@pytest.mark.parametrize(
    ("target", "times", "least"),
    [
        ("hip:gfx942", 1, 0), ("hip:gfx950", 3, 200),
        *(pytest.param(*case, marks=pytest.mark.nightly) for case in (
            ("hip:gfx90a", 1, 0), ("hip:gfx90a", 3, 200), ("hip:gfx942", 3, 200), ("hip:gfx950", 1, 0),
        )),
    ],
)  # fmt: skip
def test_two_products_a_turn(target: str, times: int, least: int) -> None:
    """Also where the loop runs in no turn, one, or three times; where its condition does not hold."""
    compiled = alternating(two_products, target, times=times, least=least)
    for number, (m, n) in enumerate(((1, 1), (257, 0), (70, 129), (256, 300))):
        a, b = operands(m, n, 128)
        a, b = np.sign(a), np.sign(b)
        expected = times * (a.astype(np.float64) @ b.T.astype(np.float64)) @ b.astype(np.float64)
        expected *= n >= least
        mode, order = list(SCHEDULES)[(number + times) % len(SCHEDULES)]
        devices = [EmulatorDevice(target, "a test", mode, order, seed=number)]
        if number != 3:
            machine = MachineCodeDevice(
                ("early", "late")[number % 2], ORDERS[number], target=target
            )  # type: ignore[arg-type]
            devices.append(machine)  # type: ignore[arg-type]
        for device in devices:
            c = np.full((m, 128), np.nan, np.float32)
            device.run(compiled, (a, b, c))
            assert np.array_equal(c, expected), (device.name, m, n)
