"""schedule_stages: leads that slots allow, in an order that keeps every dependence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import every_leg
from tests.passes import planned_kernels as kernels
from tests.passes.planning import Planned, keeps_meaning, plan, specialised
from tests.passes.step_simulation import TRIPS, faults, links_of, simulate
from tilec.ir.core import walk
from tilec.ir.ops.control import Launch
from tilec.ir.ops.pipeline import Channel, Pipeline, Receive, Send, Stage
from tilec.passes.protocols import find_rings
from tilec.passes.step_plan import plan_steps

TARGETS = ("cuda:sm_80", "cuda:sm_90a", "hip:gfx942")
PIPELINED = [
    k for k in kernels.ALL
    if k.name not in ("no_load", "address_from_shared", "carried_address")
]  # fmt: skip


def scheduled(kernel: Any, target: str, *, assume: bool = True, **constants: Any) -> Planned:
    return plan(specialised(kernel, **constants), "schedule_stages", target, assume=assume)


def leads(result: Planned) -> dict[str, int]:
    return {s.label: s.lead for s in result.all(Stage)}


def slots(result: Planned) -> dict[str, int]:
    return {c.label: c.type.slots for c in result.all(Channel)}


@tilec.kernel
def twice_made(A: kernels.IN, C: kernels.OUT, stages: int = 3):
    """A preparation of a preparation."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        E_s = T.alloc_shared((64, 32), "float16")
        acc = T.alloc_fragment((64, 64), "float32")
        t = T.get_thread_binding()
        T.clear(acc)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            for i in T.serial(16):
                D_s[i * 4 + t // 32, t % 32] = A_s[i * 4 + t // 32, t % 32] * 2
            for i in T.serial(16):
                E_s[i * 4 + t // 32, t % 32] = D_s[i * 4 + (127 - t) // 32, t % 32] + 1
            T.gemm(E_s, D_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])


@tilec.kernel
def made_and_kept(
    A: T.Tensor(("M", "K"), "float16"),
    B: T.Tensor(("N", "K"), "float16"),
    C: T.Tensor(("M", "N"), "float32"),
    total: T.Tensor(("M", 32), "float32"),
    stages: int = 3,
):
    """A preparation that keeps a tile, too, so that it cannot run ahead of its iteration."""
    with T.Kernel(T.ceildiv(A.shape[0], 64), threads=128) as bx:
        A_s = T.alloc_shared((64, 32), "float16")
        B_s = T.alloc_shared((64, 32), "float16")
        D_s = T.alloc_shared((64, 32), "float16")
        kept = T.alloc_fragment((64, 32), "float32")
        acc = T.alloc_fragment((64, 64), "float32")
        T.clear(acc)
        T.clear(kept)
        for k in T.Pipelined(T.ceildiv(A.shape[1], 32), num_stages=stages):
            T.copy(A[bx * 64, k * 32], A_s)
            T.copy(B[0, k * 32], B_s)
            for i, j in T.Parallel(64, 32):
                D_s[i, j] = A_s[i, j] * 2
                kept[i, j] += A_s[i, j]
            T.gemm(D_s, B_s, acc, transpose_B=True)
        T.copy(acc, C[bx * 64, 0])
        T.copy(kept, total[bx * 64, 0])


@pytest.mark.parametrize("depth", range(1, 7))
@pytest.mark.parametrize(("target", "assume"), [(t, True) for t in TARGETS] + [(TARGETS[0], False)])
def test_barriers_can_keep_every_schedule(depth: int, target: str, assume: bool) -> None:
    """The schedule and its step plan together, simulated over trip counts."""
    checked = 0
    for kernel in [*PIPELINED, twice_made, made_and_kept]:
        program = specialised(kernel, stages=depth)
        result = plan(program, "infer_layouts", target, assume=assume)
        launch = result.one(Launch)
        channels = [op for op in launch.body.ops if isinstance(op, Channel)]
        rings = find_rings(launch.body, channels)
        for loop in (op for op in walk(launch.body) if isinstance(op, Pipeline)):
            stages = [op for op in loop.body.ops if isinstance(op, Stage)]
            inside = [r for r in rings if r.writer in stages and r.reader in stages]
            checked += len(inside)
            found = plan_steps(stages, inside, launch.threads)
            links = links_of(stages, inside, launch.threads)
            for trips in TRIPS:
                run = simulate([s.lead for s in stages], links, found, trips)
                assert not faults(links, run, trips), (kernel.name, trips)
    assert checked >= (3 if target == "cuda:sm_90a" else 10)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kernel", [*PIPELINED, twice_made, made_and_kept], ids=lambda k: k.name)
def test_the_meaning_stays(kernel: Any, target: str) -> None:
    program = kernel.lower_to_ir()
    keeps_meaning(program, plan(program, "schedule_stages", target).program, (2,))


@pytest.mark.parametrize("depth", range(1, 7))
def test_loads_run_as_far_ahead_as_their_slots(depth: int) -> None:
    result = scheduled(kernels.gemm_nt, "cuda:sm_80", stages=depth)
    assert leads(result) == {"load": depth - 1, "mma": 0}
    assert slots(result) == {"A_s": depth, "B_s": depth}


def test_a_preparation_overlaps_the_product_of_the_iteration_before() -> None:
    result = scheduled(kernels.made_by_threads, "cuda:sm_80", stages=3)
    assert leads(result) == {"load": 3, "mma": 0, "make": 1}
    assert list(leads(result)) == ["load", "mma", "make"]  # the product is issued first
    assert slots(result) == {"A_s": 3, "D_s": 2}


def test_a_preparation_with_one_slot_does_not_lead() -> None:
    result = scheduled(kernels.half_made, "cuda:sm_80", stages=3)
    assert leads(result) == {"load": 2, "make": 0, "mma": 0}
    assert list(leads(result)) == ["load", "make", "mma"]


def test_what_a_product_in_flight_reads_is_not_filled_in_its_place() -> None:
    """On sm_90a its slot is free a step later than the next one is filled."""
    result = scheduled(made_and_kept, "cuda:sm_90a")
    assert leads(result)["make"] == 0
    assert slots(result)["D_s"] == 2
    assert slots(scheduled(made_and_kept, "cuda:sm_80"))["D_s"] == 1


@pytest.mark.emulator
def test_what_is_made_and_kept() -> None:
    for M, N, K in ((64, 64, 128), (3, 8, 32), (65, 63, 96), (1, 1, 0)):
        rng = np.random.default_rng(M)
        a, b = (rng.integers(-2, 3, (n, K)).astype(np.float16) for n in (M, N))
        C, total = np.zeros((M, N), np.float32), np.zeros((M, 32), np.float32)
        for device, (*_, c, sums) in every_leg(made_and_kept, a, b, C, total):
            wide = a.astype(np.float32)
            np.testing.assert_array_equal(c, 2 * wide @ b.T.astype(np.float32), device)
            np.testing.assert_array_equal(sums, wide.reshape(M, -1, 32).sum(1), device)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_registers_are_fetched_an_iteration_before_they_are_deposited(depth: int) -> None:
    result = scheduled(kernels.gemm_nt, "hip:gfx942", stages=depth)
    assert leads(result) == {"deposit": 1, "fetch": 2, "mma": 0}
    order = [s.label for s in result.all(Stage)]
    assert order.index("deposit") < order.index("fetch"), "the registers are free by then"
    assert {op.channel for op in result.all(Send)} == {op.channel for op in result.all(Receive)}


def test_a_stage_in_another_role_needs_no_lead() -> None:
    result = scheduled(kernels.gemm_nt, "cuda:sm_90a", stages=4)
    assert set(leads(result).values()) == {0} and slots(result) == {"A_s": 4, "B_s": 4}


def test_golden(golden: Any) -> None:
    result = scheduled(kernels.made_by_threads, "hip:gfx942", stages=3)
    assert result.text == golden("tir")
