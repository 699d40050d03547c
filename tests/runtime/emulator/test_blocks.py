"""Blocks that wait for each other: together in one process, each with a shared memory of its own."""

# ruff: noqa: E501 (a line a case)

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.emulation import Probe, Probes, every_schedule, needs_of
from tilec.backends.prelude import render_source
from tilec.runtime.emulator import ORDERS, EmulatorError, Order, build, run

pytestmark = pytest.mark.emulator

_HEAD = "  shared<i32> S = shared_buffer<i32>(0, 64); regs<i32, 1> r; const i32 t = thread_id(); const i32 b = block_id<0>();\n  "
_WAIT_FOR_THE_ONE_BEFORE = "if (t == 0) { while (atomic_add(F, 0, 0) < b) { } }"
BODIES = {
    "a_chain": f"{_WAIT_FOR_THE_ONE_BEFORE} if (t == 0) {{ Y[b] = b + 1; atomic_add(F, 0, 1); }}",
    "each_has_a_shared_memory": f"S[t] = 100 * b + t; barrier(); {_WAIT_FOR_THE_ONE_BEFORE} barrier(); Y[64 * b + t] = S[63 - t]; if (t == 0) {{ atomic_add(F, 0, 1); }}",
    "all_meet": "if (t == 0) { atomic_add(F, 0, 1); while (atomic_add(F, 0, 0) < block_count<0>()) { } } barrier(); Y[64 * b + t] = 1;",
    "all_threads_poll": "atomic_max(F, b, 1); while (atomic_max(F, (b + t) % block_count<0>(), 0) == 0) { } Y[64 * b + t] = 1;",
    "polls_that_end": "for (i32 i = 0; i < 300; ++i) { if (atomic_add(F, 1, 0) != 0) { Y[0] = 7; } } Y[64 * b + t] = 1;",
    "two_places_in_turn": "if (t == 0) { if (b == 0) { while (atomic_add(F, 0, 0) + atomic_add(F, 1, 0) < 2) { } } else { atomic_add(F, b - 1, 1); } Y[b] = 1; }",
    "a_plain_read": "if (t == 0) { if (b == 0) { while (F[0] == 0) { } } else { F[0] = 1; } Y[b] = 1; }",
    "a_plain_place_passed_on": "if (t == 0) { if (b == 0) { Y[5] = 3; atomic_add(F, 0, 1); } else { while (atomic_add(F, 0, 0) == 0) { } Y[6] = Y[5]; } }",
    "a_ring": "if (t == 0) { while (atomic_add(F, b, 0) == 0) { } atomic_add(F, (b + 1) % block_count<0>(), 1); }",
    "some_wait_at_a_barrier": "if (t == 0 && b == 1) { while (atomic_add(F, 0, 0) == 0) { } } barrier();",
}  # fmt: skip

PROBES = Probes(
    {
        name: Probe(
            _HEAD + text + "\n",
            needs_of(_HEAD + text),
            {"Y": "i32", "F": "i32"},
            threads=64,
            shared_bytes=256,
        )
        for name, text in BODIES.items()
    }
)


def arrays(blocks: int = 8) -> dict[str, Any]:
    return {"Y": np.zeros(64 * blocks, np.int32), "F": np.zeros(blocks, np.int32)}


def run_it(
    name: str, blocks: int, order: Order = "forward", residents: int = 0, races: bool = True
) -> NDArray[np.int32]:
    """Y after a launch of so many blocks."""
    found = arrays(blocks)
    launch = PROBES.probes[name].launch(name, (blocks, 1, 1))
    run(PROBES.library, launch, found, "late", order, 3, residents=residents, races=races)
    made: NDArray[np.int32] = found["Y"]
    return made


EXPECTED = {
    "a_chain": [1, 2, 3, 4, 5, *[0] * 315],
    "each_has_a_shared_memory": [100 * b + 63 - t for b in range(5) for t in range(64)],
    "all_meet": [1] * 320,
    "all_threads_poll": [1] * 320,
    "polls_that_end": [1] * 320,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_they_wait_for_each_other(name: str) -> None:
    for mode, order in every_schedule():
        found = arrays(5)
        PROBES.run(name, found, mode, order, (5, 1, 1))
        assert found["Y"].tolist() == EXPECTED[name], (mode, order)


def test_two_places_polled_in_turn() -> None:
    for order in ORDERS:
        assert run_it("two_places_in_turn", 3, order)[:3].tolist() == [1, 1, 1]


def test_a_chain_needs_one_resident_block_in_its_order() -> None:
    assert run_it("a_chain", 5, "forward", residents=1)[:5].tolist() == [1, 2, 3, 4, 5]
    expected = r"block \(4, 0, 0\): deadlock; thread 0: reads F\[0\] again and again, which holds 0; threads 1 to 63: finished; 4 blocks have not begun, since 1 of 64 threads may be resident together"
    with pytest.raises(EmulatorError, match=expected):
        run_it("a_chain", 5, "reverse", residents=1)


def test_more_blocks_than_there_is_room_for() -> None:
    """The room is for 16384 threads: 256 blocks of these."""
    assert run_it("all_meet", 256).all()
    with pytest.raises(EmulatorError, match=r"and 12 more blocks; 2 blocks have not begun"):
        run_it("all_meet", 22, residents=20)
    assert run_it("a_chain", 260)[259] == 260


@pytest.mark.parametrize("order", ORDERS)
def test_a_deadlock_says_who_waits_for_what(order: Order) -> None:
    begin = time.monotonic()
    with pytest.raises(EmulatorError) as found:
        run_it("a_ring", 2, order)
    for block in (0, 1):
        text = rf"block \({block}, 0, 0\): deadlock; thread 0: reads F\[{block}\] again and again, which holds 0"
        assert re.search(text, found.value.message), found.value.message
    with pytest.raises(EmulatorError) as found:
        run_it("some_wait_at_a_barrier", 2, order)
    assert "thread 0: reads F[0] again" in found.value.message
    assert "threads 1 to 63: waits at barrier(), 63 of 64 threads came" in found.value.message
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("order", ORDERS)
def test_what_orders_nothing_is_a_race(order: Order) -> None:
    """A read that spins is seen to race with the write that ends it; an atomic without a memory
    order passes nothing on."""
    assert run_it("a_plain_read", 2, order, races=False)[:2].tolist() == [1, 1]
    with pytest.raises(
        EmulatorError, match=r"data race: (reads|writes) F byte 0, which thread 0 of block"
    ):
        run_it("a_plain_read", 2, order)
    assert run_it("a_plain_place_passed_on", 2, order, races=False)[6] == 3
    with pytest.raises(
        EmulatorError,
        match=r"data race: reads Y byte 20, which thread 0 of block \(0, 0, 0\) wrote",
    ):
        run_it("a_plain_place_passed_on", 2, order)


def test_over_processes() -> None:
    """The fast build's blocks wait for others of other processes, in whatever order."""
    library = build(render_source("cpu", [PROBES.probes["a_chain"].frame("a_chain")]), fast=True)
    for order in ORDERS:
        found = arrays(8)
        launch = PROBES.probes["a_chain"].launch("a_chain", (8, 1, 1))
        run(library, launch, found, "late", order, 3, processes=3, timeout=20.0)
        assert found["Y"][:8].tolist() == list(range(1, 9))
