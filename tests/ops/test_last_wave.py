"""Products whose last tiles are shared among all blocks: when, and that any number of blocks gives the
product, to the bit in every order."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.ops.test_matmul import SMALL, check, matmul, normal
from tilec import ops
from tilec.errors import ArgumentError
from tilec.ops.schedules import Problem, choose_schedule
from tilec.runtime.emulator import ORDERS
from tilec.runtime.emulator_device import EmulatorDevice
from tilec.target import find_target

H100 = find_target("cuda:sm_90a")


def shared(workers: int) -> ops.Schedule:
    return replace(SMALL, workers=workers)


@pytest.mark.parametrize(
    ("shape", "workers"),
    [
        ((8192, 8192, 8192), 132), ((4096, 11008, 4096), 132),
        ((5120, 5120, 5120), 0),  # tiles of 224 columns fill the last wave
        ((4096, 4096, 4096), 0),  # 116 tiles are left, and each helper would have seven of them
        ((8448, 8192, 8192), 0),  # nothing is left
        ((8192, 8192, 512), 0),  # the parts cost more than the steps
        ((2048, 2048, 2048), 0),  # no whole wave before
    ],
)  # fmt: skip
def test_when_it_pays(shape: tuple[int, int, int], workers: int) -> None:
    assert choose_schedule(H100, Problem(*shape)).workers == workers
    assert choose_schedule(H100, Problem(*shape, whole=True)).workers == 0
    assert choose_schedule(find_target("cuda:sm_80"), Problem(*shape)).workers == 0


def test_as_many_blocks_as_the_device_runs_at_once() -> None:
    """One with fewer multiprocessors would run the last of 132 blocks after all others."""
    smaller = replace(H100, multiprocessors=114)
    sizes = range(4096, 9216, 256)
    assert {choose_schedule(smaller, Problem(n, n, n)).workers for n in sizes} == {0, 114}
    assert choose_schedule(smaller, Problem(8192, 8192, 8192)).workers == 0  # 110 of 114 are left


@pytest.mark.parametrize(
    "schedule",
    [replace(SMALL, workers=4, split=2), replace(SMALL, workers=4, cluster_M=2)],
)
def test_what_does_not_go_together(schedule: ops.Schedule) -> None:
    a, b = normal(64, 32), normal(32, 64)
    with pytest.raises(ArgumentError, match="share the last wave"):
        ops.matmul(a, b, schedule=schedule)
    offsets = np.array([0, 64], np.int32)
    with pytest.raises(ArgumentError, match="workers=4, and K of groups is not cut"):
        ops.grouped_matmul(a, b[None], offsets, schedule=replace(SMALL, workers=4))


@pytest.mark.parametrize("workers", [1, 3, 4, 7])
def test_products(workers: int) -> None:
    for m, n, k in ((1, 8, 8), (65, 136, 40), (320, 64, 200), (193, 200, 264), (64, 64, 0)):
        a, b = normal(m, k), normal(n, k, seed=1).T
        check(ops.matmul(a, b, schedule=shared(workers)), a, b)


@pytest.mark.emulator
@pytest.mark.parametrize("target", ["cuda:sm_90a", "hip:gfx942"])
@pytest.mark.parametrize(
    ("shape", "workers"), [((193, 200, 264), 7), ((129, 136, 40), 4), ((64, 64, 8), 2)]
)
def test_every_order_gives_the_same_bits(
    shape: tuple[int, int, int], workers: int, target: str
) -> None:
    """Also where blocks come one after another: nobody waits for a later one."""
    m, n, k = shape
    a, b = normal(m, k), normal(n, k, seed=1).T
    call = matmul.check(a, b, matmul.Options())
    (arguments,) = call.launches
    lowered = call.kernel.lower(*arguments, target=target, **asdict(shared(workers)))
    results = []
    for order, residents in (*((o, 0) for o in ORDERS), ("forward", 1), ("forward", 2)):
        call.result.fill(np.nan)
        device = EmulatorDevice(target, "a test", "late", order, 5, residents=residents)
        device.run(lowered, arguments)
        results.append(call.result.copy())
    check(results[0], a, b)
    for other in results[1:]:
        assert np.array_equal(other, results[0])


@pytest.mark.emulator
def test_batches_and_epilogues() -> None:
    a, b, bias = normal(3, 65, 136), normal(136, 72, seed=1), normal(72, seed=2)
    with tilec.device("emulator:cuda:sm_90a"):
        check(ops.matmul(a, b, schedule=shared(5)), a, b)

        def rectify(x: Any, i: Any, j: Any, bias: Any) -> Any:
            return T.max(x + bias[j], 0.0)

        found = ops.matmul(a[0], b, epilogue=rectify, bias=bias, schedule=shared(3))
    exact = np.maximum(a[0].astype(np.float64) @ b.astype(np.float64) + bias, 0)
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=2e-3, atol=2e-2)


def test_helpers_store_by_themselves() -> None:
    """No buffer is set aside for their parts: it would take a stage of the operands."""
    call = matmul.check(normal(512, 64), normal(64, 512, seed=1), matmul.Options())
    constants = asdict(ops.Schedule(128, 256, 64, 4, 256, workers=132))
    lowered = call.kernel.lower(*call.launches[0], target="cuda:sm_90a", **constants)
    assert "parts_stage" not in lowered.source and "TLC0324" not in [
        r.code for r in lowered.remarks
    ]
