"""The fast build: the same bits from blocks that are spread over processes, atomics among them; all
findings but data races; and a process that dies is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.backends.emulation import Probe, Probes, needs_of
from tests.kernels.machines import TARGETS, TILES, Case
from tilec import config
from tilec.backends.prelude import Need, render_source
from tilec.errors import TilecError
from tilec.runtime.emulator import EmulatorError, Kind, build, run
from tilec.runtime.emulator.process import current_team
from tilec.runtime.emulator_device import EmulatorDevice

pytestmark = pytest.mark.emulator

THREADS, BLOCKS, PROCESSES = 64, 32, 3
SUMS = ("i32", "u32", "i64", "u64", "f16", "bf16", "f32", "f64")


def probe(body: str, dtype: str = "i32") -> Probe:
    return Probe(body, (*needs_of(body), Need(dtype)), {"Y": dtype}, threads=THREADS)


PROBES = Probes(
    {
        **{f"sum_{t}": probe(f"  atomic_add(Y, thread_id() % 2, convert<{t}>(1));\n", t) for t in SUMS},
        "extremes": probe(
            "  atomic_max(Y, 0, block_id<0>()); atomic_min(Y, 1, -block_id<0>());\n"
        ),
        "pairs": Probe(
            "  regs<f16, 2> r; fill_registers<2>(r, 0, convert<f16>(1.0f));\n"
            "  atomic_add_global<2>(Y, 2 * (thread_id() % 4), r, 0);\n",
            tuple(Need(n) for n in ("regs", "f16", "fill_registers", "convert", "thread_id", "atomic_add_global")),
            {"Y": "f16"},
            threads=THREADS,
        ),
        "out_of_bounds": probe("  if (block_id<0>() == 17) Y[1000 + thread_id()] = 1;\n"),
        "uninitialised": probe("  regs<i32, 1> r; if (block_id<0>() == 4) Y[0] = r[0];\n"),
        "racing": probe("  Y[0] = thread_id();\n"),
        "overflow": probe("  volatile int r[150000]; if (block_id<0>() == 2) r[thread_id()] = 1;\n"),
        "endless": probe("  i32 i = 1; while (block_id<0>() == 1 && i != 0) { i = i | 1; Y[0] = 1; }\n"),
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def launch() -> Callable[..., np.ndarray]:
    """Runs a probe, spread over processes, on zeros; what it leaves."""
    library = build(
        render_source("cpu", [p.frame(name) for name, p in PROBES.probes.items()]), fast=True
    )

    def one(name: str, dtype: Any = np.int32, timeout: float = 60.0) -> np.ndarray:
        y = np.zeros(8, dtype)
        spec = PROBES.probes[name].launch(name, (BLOCKS, 1, 1))
        run(library, spec, {"Y": y}, timeout=timeout, processes=PROCESSES)
        return y

    return one


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_bits_as_the_checked_build(target: str) -> None:
    results = []
    kinds: tuple[Kind, ...] = ("checked", "fast")
    case = Case(target, TILES[2], "float16", True, 3)
    for kind in kinds:
        a, b, c = case.operands((200, 136, 72))
        EmulatorDevice(target, "a test", "random", "random", 5, kind).run(case.lower(), (a, b, c))
        results.append(c.tobytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", SUMS)
def test_no_addition_is_lost_between_processes(launch: Any, dtype: str) -> None:
    types: dict[str, Any] = {
        "i32": np.int32, "u32": np.uint32, "i64": np.int64, "u64": np.uint64,
        "f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64,
    }  # fmt: skip
    # A bf16 counts to 256 and no further.
    expected = 256 if dtype == "bf16" else BLOCKS * THREADS // 2
    assert launch(f"sum_{dtype}", types[dtype])[:2].tolist() == [expected] * 2


def test_extremes_and_pairs_over_processes(launch: Any) -> None:
    assert launch("extremes")[:2].tolist() == [BLOCKS - 1, 1 - BLOCKS]
    assert launch("pairs", np.float16).tolist() == [BLOCKS * THREADS // 4] * 8


def test_findings_but_data_races(launch: Any) -> None:
    with pytest.raises(EmulatorError, match=r"block \(17, 0, 0\), .* writes Y\[10"):
        launch("out_of_bounds")
    with pytest.raises(EmulatorError, match=r"block \(4, 0, 0\), .* uninitialised"):
        launch("uninitialised")
    assert launch("racing")[0] in range(THREADS)
    with pytest.raises(EmulatorError, match="data race"):
        PROBES.run("racing", {"Y": np.zeros(8, np.int32)}, grid=(BLOCKS, 1, 1))


def test_a_process_that_dies_or_never_ends(launch: Any) -> None:
    with pytest.raises(EmulatorError, match=r"block \(\d+, 0, 0\), thread 0: overflows its stack"):
        launch("overflow")
    with pytest.raises(EmulatorError, match=r"block \(1, 0, 0\), thread \d+: no end after 0.5 s"):
        launch("endless", timeout=0.5)
    assert launch("extremes")[0] == BLOCKS - 1
    assert len({worker.process_id for worker in current_team().workers[:PROCESSES]}) == PROCESSES


def test_the_checked_build_stays_in_one_process() -> None:
    spec = PROBES.probes["extremes"].launch("extremes", (BLOCKS, 1, 1))
    with pytest.raises(EmulatorError, match="the checked build runs all blocks in one process"):
        run(PROBES.library, spec, {"Y": np.zeros(8, np.int32)}, processes=2)


def test_the_setting_decides() -> None:
    assert not EmulatorDevice("cuda:sm_80", "a test").fast
    with config.scope(emulator="fast"):
        assert EmulatorDevice("cuda:sm_80", "a test").fast
    with config.scope(emulator="faster"), pytest.raises(TilecError, match="no build 'faster'"):
        EmulatorDevice("cuda:sm_80", "a test")
