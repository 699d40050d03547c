"""Operands that come in rows of m or n, on the machines that cannot read them transposed: lanes read their k
in vectors, without bank conflicts, and the products are those of float64, in the emulator and as machine
code."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

import tilec
from tests.backends.hip.cdna.device import MachineCodeDevice
from tests.backends.hip.cdna.launch import ORDERS
from tests.kernels import test_targets as products
from tests.kernels.machines import SCHEDULES
from tests.modules import example
from tilec.ir.core import walk
from tilec.ir.ops.thread import GatherRegisters, VectorLoad
from tilec.runtime import emulator
from tilec.runtime.clang import find_amd_clang
from tilec.runtime.compiled import CompiledKernel
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = [pytest.mark.hip, pytest.mark.emulator]
TARGETS = ("hip:gfx90a", "hip:gfx942")
# Dtype, sums, result, bytes of the reads of an operand (of f32 that is 4 elements for 4 steps of k).
WAYS = [
    ("float16", "float32", "float16"), ("bfloat16", "float32", "float32"),
    ("float8_e4m3fnuz", "float32", "float32"), ("int8", "int32", "int32"),
    ("float32", "float32", "float32"),
]  # fmt: skip
TILES = {
    "small": {"bm": 64, "bn": 64, "bk": 32, "threads": 128},
    "wide": {"bm": 64, "bn": 128, "bk": 64, "threads": 256},
    "eight waves": {"bm": 128, "bn": 128, "bk": 32, "threads": 512},
}
READ = ("a_frag", "b_frag", "raw")  # registers that operands are read to (raw: to be converted)
SIZES = ((72, 80, 96), (1, 1, 1), (33, 9, 0), (65, 63, 37), (64, 128, 256), (127, 130, 65))


@cache
def compiled(dtype: str, total: str, out: str, ta: bool, target: str, tile: str) -> CompiledKernel:
    """C = A B, B in rows of n, A in rows of m where `ta`."""
    return products.lowered(products.product(dtype, total, out, ta, False), target, **TILES[tile])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0])
def test_reads_are_wide_and_meet_in_no_bank(way: tuple[str, str, str], target: str) -> None:
    """Every access of shared memory in the loop takes 16 bytes, or stores what blocks allow; the counts
    of the machine code are those of the IR, and nothing spills."""
    for number, tile in enumerate(TILES):
        kernel = compiled(*way, number % 2 == 0, target, tile)
        program = kernel.lowered.program
        assert any(isinstance(op, GatherRegisters) for op in walk(program.body))
        reads = [
            op
            for op in walk(program.body)
            if isinstance(op, VectorLoad) and op.registers.hint in READ
        ]
        assert reads and all(op.count * op.registers.type.dtype.bytes == 16 for op in reads)  # type: ignore[attr-defined]
        arch = target.removeprefix("hip:")
        assembled = find_amd_clang(arch).assemble(
            kernel.lowered.text, kernel.lowered.file_name, arch
        )
        (isa,) = assembled.kernels
        assert (isa.vgpr_spills, isa.sgpr_spills, isa.scratch) == (0, 0, 0)
        assert isa.count("ds_read_u") == 0 and isa.count("ds_read_b128") > 0
    with emulator.counted() as counts:
        device = EmulatorDevice(target, "a test")
        products.check(device, kernel, number % 2 == 0, False, way[2], (128, 128, 64))
    assert counts.bank_conflicts == 0, str(counts)


EVERY = [
    (way, ta, target, tile)
    for way in WAYS
    for ta in (False, True)
    for target in TARGETS
    for tile in TILES
]
FEW = [(way, n % 2 == 0, TARGETS[n % 2], list(TILES)[n % 3]) for n, way in enumerate(WAYS)]


@pytest.mark.parametrize(
    ("way", "ta", "target", "tile"),
    [pytest.param(*case, marks=() if case in FEW else pytest.mark.nightly) for case in EVERY],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_products_are_exact(way: tuple[str, str, str], ta: bool, target: str, tile: str) -> None:
    kernel = compiled(*way, ta, target, tile)
    for place, size in enumerate(SIZES):
        mode, order = list(SCHEDULES)[place % len(SCHEDULES)]
        device: Any = EmulatorDevice(target, "a test", mode, order, seed=place)
        products.check(device, kernel, ta, False, way[2], size)
    device = MachineCodeDevice("late", ORDERS[WAYS.index(way) % 3], target=target)
    products.check(device, kernel, ta, False, way[2], (65, 63, 37))


def test_weights_in_registers_meet_values_four_at_a_time() -> None:
    """Attention: P is in registers as its product left it, so that k is as an instruction has it, and V
    is read by its 8 bytes."""
    kernel = lower(
        example("flash_attention").attention,
        (tilec.spec((1, 2, 64, 64), "float16"),) * 4,
        "hip:gfx942",
        {},
    )
    reads = [
        op.count for op in walk(kernel.lowered.program.body)
        if isinstance(op, VectorLoad) and op.registers.hint == "b_frag"
    ]  # fmt: skip
    assert sorted(set(reads)) == [4, 8]
    arch = "gfx942"
    (isa,) = (
        find_amd_clang(arch).assemble(kernel.lowered.text, kernel.lowered.file_name, arch).kernels
    )
    assert isa.count("ds_read_u") == 0 and isa.scratch == 0
    q, k, v = (
        np.random.default_rng(seed).standard_normal((1, 2, 64, 64)).astype(np.float16)
        for seed in range(3)
    )
    out = np.zeros_like(q)
    with emulator.counted() as counts:
        kernel.run_on(EmulatorDevice("hip:gfx942", "a test"), (q, k, v, out))
    shared = [count for count in counts.accesses if count.shared]
    assert {count.bytes for count in shared if count.instruction == "load_shared"} == {8, 16}
    # but for the result on its way out
    staged = max(count.line for count in shared)
    assert not [str(count) for count in shared if count.beyond and count.line != staged]
