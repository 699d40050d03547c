"""Counts of what accesses cost, where the answer is known: columns, padding, swizzles, the phases of
wide accesses on both machines, and sectors of strided, misaligned and predicated ones."""

# ruff: noqa: E501 (a line a case)

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.backends.emulation import Probe, needs_of
from tests.kernels.machines import TILES, Case
from tilec.backends.prelude import Need, render_source
from tilec.runtime import emulator
from tilec.runtime.emulator import AccessCount, Counts, EmulatorError, build, run
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = pytest.mark.emulator

# Text, lanes of a warp, wavefronts that one warp takes, how many would do, the worst phase.
SHARED = {
    "row": ("r[0] = S[t];", 32, 1, 1, 1),
    "column": ("r[0] = S[t * 32];", 32, 32, 1, 32),
    "padded_column": ("r[0] = S[t * 33];", 32, 1, 1, 1),
    "stride_2": ("r[0] = S[t * 2];", 32, 2, 1, 2),
    "broadcast": ("r[0] = S[5];", 32, 1, 1, 1),
    "stored_column": ("S[t * 32] = 2.0f;", 32, 32, 1, 32),
    "halves_of_words": ("h[0] = H[t];", 32, 1, 1, 1),
    "bytes": ("b[0] = B[4 * t];", 32, 1, 1, 1),
    "half_the_lanes": ("if (t < 16) { r[0] = S[t * 32]; }", 32, 16, 1, 16),
    "predicated": ("load_shared<1>(r, 0, S, t * 32, t < 3);", 32, 3, 1, 3),
    "8_bytes": ("load_shared<2>(r, 0, S, t * 2);", 32, 2, 2, 1),
    "8_bytes_of_rows": ("load_shared<2>(r, 0, S, t % 16 * 32);", 32, 32, 2, 16),
    "16_bytes": ("load_shared<4>(r, 0, S, t * 4);", 32, 4, 4, 1),
    "16_bytes_of_rows": ("load_shared<4>(r, 0, S, t * 32);", 32, 32, 4, 8),
    "16_bytes_padded": ("load_shared<4>(r, 0, S, t * 36);", 32, 4, 4, 1),
    "16_bytes_swizzled": ("load_shared<4>(r, 0, S, t * 32 + (t % 8) * 4);", 32, 4, 4, 1),
    "16_bytes_stored": ("fill_registers<4>(r, 0, 1.0f); store_shared<4>(S, t * 32, r, 0);", 32, 32, 4, 8),
    "matrices_of_rows": ("ldmatrix<4>(h, 0, H, t * 64);", 32, 32, 4, 8),
    "matrices_swizzled": ("ldmatrix<4>(h, 0, H, t * 64 + t % 8 * 8);", 32, 4, 4, 1),
    "one_matrix": ("ldmatrix<1>(h, 0, H, t * 64);", 32, 8, 1, 8),
    "two_matrices_apart": ("ldmatrix<2>(h, 0, H, t * 40);", 32, 2, 2, 1),
    "atomics_on_a_row": ("atomic_add(S, t, 1.0f);", 32, 1, 1, 1),
    "atomics_on_one_word": ("atomic_add(S, 5, 1.0f);", 32, 32, 1, 32),
    "atomics_on_two_words_of_a_bank": ("atomic_max(S, t % 2 * 32, 1.0f);", 32, 32, 1, 32),
    "atomic_load": ("r[0] = atomic_load(S, t);", 32, 1, 1, 1),
    "cdna_row": ("r[0] = S[t];", 64, 2, 2, 1),
    "cdna_column": ("r[0] = S[t * 32];", 64, 64, 2, 32),
    "cdna_8_bytes": ("load_shared<2>(r, 0, S, t * 2);", 64, 4, 4, 1),
    "cdna_16_bytes": ("load_shared<4>(r, 0, S, t * 4);", 64, 8, 8, 1),
    # Lanes 0 to 3 are read with 20 to 23, which lie in the other banks, but written with 4 to 7.
    "cdna_16_bytes_read": ("load_shared<4>(r, 0, S, t / 4 * 32 + t / 16 % 2 * 16 + t % 4 * 4);", 64, 8, 8, 1),
    "cdna_16_bytes_written": ("fill_registers<4>(r, 0, 1.0f); store_shared<4>(S, t / 4 * 32 + t / 16 % 2 * 16 + t % 4 * 4, r, 0);", 64, 16, 8, 2),
}  # fmt: skip

# Text, lanes, sectors asked for, sectors needed.
GLOBAL = {
    "row": ("r[0] = X[t];", 32, 4, 4),
    "column": ("r[0] = X[t * 32];", 32, 32, 4),
    "every_other": ("r[0] = X[t * 2];", 32, 8, 4),
    "beside_a_sector": ("r[0] = X[t + 1];", 32, 5, 4),
    "one_element": ("r[0] = X[9];", 32, 1, 1),
    "backwards": ("r[0] = X[31 - t];", 32, 4, 4),
    "16_bytes": ("load_global<4>(r, 0, X, t * 4);", 32, 16, 16),
    "16_bytes_of_rows": ("load_global<4>(r, 0, X, t * 64);", 32, 32, 16),
    "predicated": ("load_global<4>(r, 0, X, t * 64, t < 5);", 32, 5, 3),
    "stored_column": ("Y[t * 32] = 1.0f;", 32, 32, 4),
    "atomics_on_one": ("atomic_add(Y, 0, 1.0f);", 32, 1, 1),
    "cdna_row": ("r[0] = X[t];", 64, 4, 4),
    "cdna_column": ("r[0] = X[t * 32];", 64, 64, 4),
}


# Each is the last line of a kernel, line 7 of "mine.py", after this.
HEAD = """
  shared<f32> S = shared_buffer<f32>(0, 8192);
  shared<f16> H = shared_buffer<f16>(0, 16384);
  shared<u8> B = shared_buffer<u8>(0, 32768);
  regs<f32, 4> r; regs<f16, 8> h; regs<u8, 4> b;
  const i32 t = thread_id() % 64;
  for (i32 i = thread_id(); i < 8192; i += THREADS) { S[i] = 1.0f; }
  barrier();
  // mine.py:7
"""
# Text, threads.
LOOPS = {
    "trips": ("for (i32 i = 0; i < t % 4 + 1; ++i) { r[0] = S[(t + 32 * i)]; } warp_sync();", 32),
    "meetings": ("for (i32 i = 0; i < 3; ++i) { if (t > i) { r[0] = S[t]; } warp_sync(); }", 32),
    "many": ("for (i32 i = 0; i < 5000; ++i) { r[0] = S[t * 2]; }", 64),
}


def _probes(warp_size: int) -> dict[str, Probe]:
    texts = {
        **{f"shared_{name}": case[:2] for name, case in SHARED.items() if case[1] == warp_size},
        **{f"global_{name}": case[:2] for name, case in GLOBAL.items() if case[1] == warp_size},
        **({f"loop_{name}": case for name, case in LOOPS.items()} if warp_size == 32 else {}),
    }
    probes = {}
    for name, (text, threads) in texts.items():
        body = HEAD.replace("THREADS", str(threads)) + f"  {text}\n"
        needs = (*needs_of(body), Need("f16"), Need("u8"))
        pointers = {"X": "const f32", "Y": "f32"}
        probes[name] = Probe(body, needs, pointers, threads=threads, shared_bytes=32768)
    return probes


@cache
def library(warp_size: int) -> Path:
    frames = [probe.frame(name) for name, probe in _probes(warp_size).items()]
    return build(render_source("cpu", frames, warp_size=warp_size), optimize=0, counts=True)


def count(name: str, warp_size: int = 32) -> list[AccessCount]:
    """What line 7 of a kernel costs."""
    arrays = {"X": np.zeros(4096, np.float32), "Y": np.zeros(4096, np.float32)}
    launch = _probes(warp_size)[name].launch(name)
    found = run(library(warp_size), launch, arrays, counts=True)
    return [c for c in found.accesses if c.line == "mine.py:7"]


@pytest.mark.parametrize("name", SHARED)
def test_shared_memory(name: str) -> None:
    _, lanes, transfers, needed, worst = SHARED[name]
    (found,) = (c for c in count(f"shared_{name}", lanes) if c.shared)
    assert (found.accesses, found.transfers, found.needed) == (1, transfers, needed)
    assert found.worst == worst


@pytest.mark.parametrize("name", GLOBAL)
def test_global_memory(name: str) -> None:
    _, lanes, transfers, needed = GLOBAL[name]
    (found,) = (c for c in count(f"global_{name}", lanes) if not c.shared)
    assert (found.accesses, found.transfers, found.needed) == (1, transfers, needed)
    assert found.memory in ("X", "Y")


def test_lanes_that_take_different_ways() -> None:
    """Trips of a loop and meetings keep the accesses of lanes together."""
    (found,) = count("loop_trips")
    assert (found.accesses, found.transfers) == (4, 4)
    (found,) = count("loop_meetings")
    assert (found.accesses, found.transfers) == (3, 3)


def test_more_accesses_than_are_kept_waiting() -> None:
    """Nothing meets for 5000 trips; lanes wait for each other so that all are counted together."""
    (found,) = count("loop_many")
    assert (found.accesses, found.transfers, found.needed) == (10000, 20000, 10000)


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("target", ["cuda:sm_80", "hip:gfx942"])
def test_the_gemm_has_no_conflicts(target: str, order: emulator.Order) -> None:
    """And asks for no sector that it does not need; the counts do not depend on the schedule."""
    case = Case(target, TILES[2], "float16", True, 3)
    a, b, c = case.operands((128, 128, 96))
    with emulator.counted() as counts:
        EmulatorDevice(target, "a test", "late", order, 1).run(case.lower(), (a, b, c))
    assert counts.bank_conflicts == 0 and counts.excess_sectors == 0
    by_kind = {count.instruction for count in counts.accesses}
    if target.startswith("cuda"):
        assert {"ldmatrix", "cp_async"} <= by_kind
        rows = sum(c.accesses for c in counts.accesses if c.instruction == "ldmatrix")
        assert rows > 0
    assert all(count.line.startswith("programs.py:") for count in counts.accesses)


@pytest.mark.parametrize(("k", "excess"), [(96, 0), (104, 1)])
def test_what_tma_and_wgmma_move(k: int, excess: int) -> None:
    """A box is one access, each of its rows as many sectors as it touches: one more where rows begin
    inside a sector. The reads of wgmma have no conflicts, by the swizzles that they name."""
    case = Case("cuda:sm_90a", TILES[2], "float16", True, 3)
    a, b, c = case.operands((128, 128, k))
    with emulator.counted() as counts:
        EmulatorDevice("cuda:sm_90a", "a test", "late", "random", 1).run(case.lower(), (a, b, c))
    found = {(c.instruction, c.memory): c for c in counts.accesses}
    loads = found["tma_load", "A_map"]
    tile = TILES[2]
    steps = -(-k // tile.k)
    assert loads.accesses == steps * (128 // tile.m) * (128 // tile.n)
    assert loads.needed == 128 * k * 2 // 32 * (128 // tile.n)
    assert bool(loads.beyond) == bool(excess)
    stores = found["tma_store", "C_map"]
    assert stores.transfers == stores.needed == 128 * 128 * 2 // 32
    reads = found["wgmma", emulator.SHARED]
    assert reads.transfers == reads.needed > 0 and reads.worst == 1
    assert counts.bank_conflicts == 0


def test_counts_add_up() -> None:
    one, two = Counts(), Counts()
    record = {
        "line": "k.py:1", "instruction": "load", "memory": "X", "bytes": 4,
        "accesses": 2, "transfers": 8, "needed": 5, "worst": 4,
    }  # fmt: skip
    one.add("k", [record])
    two.add("k", [record | {"worst": 6}, record | {"memory": emulator.SHARED, "worst": 2}])
    one.merge(two)
    assert [c.transfers for c in one.accesses] == [16, 8] and one.accesses[0].worst == 6
    assert (one.bank_conflicts, one.excess_sectors) == (3, 6)
    assert str(one.accesses[1]) == (
        "k.py:1: load of 4 bytes, shared memory: 2 accesses, 8 wavefronts, "
        "3 beyond the ideal, up to 2-way"
    )


def test_a_build_that_does_not_count_says_so() -> None:
    body = "  Y[thread_id()] = 1.0f;\n"
    probe = Probe(body, needs_of(body), {"Y": "f32"})
    library = build(render_source("cpu", [probe.frame("probe")]), optimize=0)
    with pytest.raises(EmulatorError, match="this build counts no accesses"):
        run(library, probe.launch("probe"), {"Y": np.zeros(32, np.float32)}, counts=True)
