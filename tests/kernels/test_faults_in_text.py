"""Faults seeded into the text that the pipeline emits: the emulator finds each, by a finding, a
deadlock, or schedules that disagree, or the product is wrong; without a fault it finds nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.kernels import programs
from tests.kernels.cluster_faults import CLUSTER_FAULTS
from tests.kernels.machines import SCHEDULES, Case, Size
from tests.kernels.programs import TILES, Tile, reference
from tests.kernels.test_faults_of_gathers import FAULTS as GATHERS
from tests.kernels.test_faults_of_last_waves import FAULTS as LAST_WAVES
from tests.kernels.text_faults import E, Fault, fault
from tilec.backends.emitter import EmittedProgram, render
from tilec.runtime.emulator import EmulatorError, Mode, Order, build, run

pytestmark = pytest.mark.emulator

CASES = {
    "sm_80": Case("cuda:sm_80", TILES[2], "float16", True, 4),
    "sm_90a": Case("cuda:sm_90a", TILES[2], "float16", True, 3),
    "sm_90a, few rows": Case("cuda:sm_90a", TILES[2], "float16", False, 3),
    "sm_90a, clusters": Case("cuda:sm_90a", TILES[2], "float16", True, 3, (1, 2)),
    "gfx942": Case("hip:gfx942", TILES[2], "float16", True, 3),
    "eight waves": Case("hip:gfx942", Tile(128, 128, 32, 512), "float16", True, 3),
}
# Ragged in every dimension, six blocks on two multiprocessors, five trips: more than any has slots.
SIZE: Size = (136, 72, 152)
FEW_ROWS: Size = (40, 72, 24)  # A and B are lower than their tiles: boxes end with them


LOOP_BARRIER = (
    r"(for \(i32 k = 0; k < k_end; \+\+k\) \{\n(?: +cp_async_wait<\d>\(\);\n)?) +barrier\(\);\n"
)
FAULTS: dict[str, dict[str, Fault]] = {
    "sm_80": {
        "wait missing": fault(
            "asynchronous copy to them is under way", E(r" +cp_async_wait<2>\(\);\n", "")
        ),
        "wait one too lax": fault(
            "uninitialised|disagree", E("cp_async_wait<2>", "cp_async_wait<3>")
        ),
        "barrier missing": fault("uninitialised|disagree", E(LOOP_BARRIER, r"\1")),
        "commit of the loop missing": fault(
            "uninitialised|under way", E(r" +cp_async_commit\(\);\n", "", -2)
        ),
        "commit of the prologue missing": fault(
            "uninitialised|disagree", E(r" +cp_async_commit\(\);\n", "")
        ),
        "slots one too few": fault(
            "uninitialised|disagree",
            E(r"\(k \+ 3\) & 3", "(k + 3) % 3"),
            E(r"\(k & 3\)", "(k % 3)", None),
        ),
        "another slot than was filled": fault(
            "uninitialised|disagree", E(r"\(k & 3\)", "((k + 1) & 3)", None)
        ),
        "last tile not copied": fault(
            "wrong result|uninitialised", E(r"k \+ 3 < k_end", "k + 4 < k_end")
        ),
        "load out of bounds": fault(
            r"copies A\[.*has 20672 elements", E(r"m >= 0 && m < M && (k1 < K)(?=, \w+\))", r"\1")
        ),
        "store out of bounds": fault(
            r"writes C\[.*has 9792 elements", E(r"(store_global.*) && n < N\)", r"\1)")
        ),
        "accumulator undefined": fault(
            "stores an uninitialised", E(r" +fill_registers<32>\(acc.*\n", "")
        ),
        "divergent mma": fault(
            "divergent collective.*mma", E(r"( +)(mma<16)", r"\1if (lane < 16) \2")
        ),
        "divergent barrier": fault(
            "uninitialised|under way|deadlock", E(r"( +)barrier\(\);", r"\1if (t < 64) barrier();")
        ),
        "swizzle forgotten": fault(
            "of a buffer of|wrong result", E(r"\(at9 \^ \(kk \* 16\)\)", "(at9 + (kk * 16))")
        ),
        "result staged over operands in use": fault(
            "uninitialised|disagree|wrong result",
            E(r" +cp_async_wait<0>\(\);\n +barrier\(\);\n", ""),
        ),
        "staged result read too early": fault(
            "uninitialised|disagree", E(r" +barrier\(\);\n", "", -1)
        ),
        "shared out of bounds": fault(
            r"\) of a buffer of", E(r"(ldmatrix<4>\(b_frag,.*)\);", r"\1 + 6144);")
        ),
    },
    "sm_90a": {
        "empty never waited for": fault("once too often", E(r" +mbarrier_wait\(empty.*\n", "")),
        "full never waited for": fault(
            "once too often|uninitialised", E(r" +mbarrier_wait\(full.*\n", "")
        ),
        "fewer bytes expected": fault(
            "16 bytes more than expected", E(r"(mbarrier_expect.*)\);", r"\1 - 16);")
        ),
        "more bytes expected": fault(
            r"deadlock.*0 of 1 arrivals, 16 bytes\)", E(r"(mbarrier_expect.*)\);", r"\1 + 16);")
        ),
        "producer waits for the wrong phase": fault(
            "deadlock.*thread 128: waits for parity 0",
            E(r"(mbarrier_wait\(empty.*) \^ 1\)", r"\1)"),
        ),
        "consumer waits for the wrong phase": fault(
            "once too often", E(r"(mbarrier_wait\(full, \w+, \w+)\)", r"\1 ^ 1)")
        ),
        "consumer's phase never flips": fault(
            "once too often|deadlock", E(r"ring_consumer_phase \^ 1", "ring_consumer_phase")
        ),
        "a slot too few in the producer": fault(
            "deadlock", E(r"(ring_producer_slot \+ 1;\n.*== )3;", r"\g<1>2;")
        ),
        "proxy fence missing": fault(
            "without fence_proxy_async",
            E(r" +fence_proxy_async\(\);\n( +named_barrier)", r"\1"),
        ),
        "barrier before the store missing": fault(
            "without fence_proxy_async",
            E(r"(fence_proxy_async\(\);\n) +named_barrier<1, 128>\(\);\n", r"\1"),
        ),
        "wrong count of a named barrier": fault(
            "deadlock.*named_barrier<1, 256>",
            E("named_barrier<1, 128>", "named_barrier<1, 256>", None),
        ),
        "wait leaves a gemm too many": fault("uninitialised", E(r"wgmma_wait<1>", "wgmma_wait<2>")),
        "last wgmma_wait missing": fault("uninitialised", E(r" +wgmma_wait<0>\(acc\);\n", "")),
        "freed a trip early": fault(
            "deadlock|disagree|once too often",
            E(r"if \(k >= 1\) \{\n( +const i32 \w+ = ring_consumer_slot) - 1;", r"{\n\1;"),
        ),
        "last slot not freed": fault("deadlock", E(r" +mbarrier_arrive\(empty.*\n", "", -1)),
        "an arrival too many expected": fault(
            "deadlock.*1 of 2 arrivals",
            E(r"mbarrier_init\(empty, slot, 1\)", "mbarrier_init(empty, slot, 2)"),
        ),
        "initialisation not fenced": fault(
            "without mbarrier_init_fence", E(r" +mbarrier_init_fence\(\);\n", "")
        ),
        "launch before not waited for": fault(
            r"before wait_grids\(\)", E(r" +wait_grids\(\);\n", "")
        ),
        "barrier after initialisation missing": fault(
            "never initialised", E(r"^ +barrier\(\);\n", "")
        ),
        "operand overwritten before the wait": fault(
            "disagree",
            E(
                r"( +)(wgmma_commit\(\);\n)",
                r"\1\2\1if (t == 5) A_s[slot * 2048] = A_s[slot * 2048 + 1];\n"
                r"\1fence_proxy_async();\n\1named_barrier<1, 128>();\n",
            ),
        ),
        "wgmma_fence missing": fault("without wgmma_fence", E(r" +wgmma_fence\(\);\n", "")),
        "wgmma_commit missing": fault("uninitialised|under way", E(r" +wgmma_commit\(\);\n", "")),
        "store never committed": fault("no bulk_commit", E(r" +bulk_commit\(\);\n", "")),
        "staging reused too early": fault(
            "disagree|under way", E(r"bulk_wait_read<0>", "bulk_wait_read<1>")
        ),
        "exit before stores have read": fault(
            r"bulk_wait_read<0>\(\) is missing", E(r" +bulk_wait<0>\(\);\n", "")
        ),
        "box out of bounds": fault(
            "of a buffer of 6144",
            E(r"tma_load<2>\(B_s, slot \* 2048,", "tma_load<2>(B_s, slot * 2048 + 2048,"),
        ),
        "wrong k step in a descriptor": fault(
            "uninitialised|wrong result", E(r"kk \* 2", "kk * 4")
        ),
        "wrong slot in a descriptor": fault(
            "uninitialised|disagree|wrong result", E(r"slot \* 256 \+ kk", "slot * 128 + kk")
        ),
        "another swizzle in a descriptor": fault(
            "wrong result", E(r"make_descriptor<64>\(A_s", "make_descriptor<32>(A_s")
        ),
        "another stride in a descriptor": fault(
            "wrong result", E(r"(make_descriptor<64>\(B_s, 0, 16, )512", r"\g<1>256")
        ),
        "descriptor starts in the wrong place": fault(
            "wrong result|uninitialised",
            E(r"make_descriptor<64>\(B_s, 0,", "make_descriptor<64>(B_s, 256,"),
        ),
        "first product added to nothing": fault("uninitialised", E(r"p \|\| kk > 0\)", "true)")),
        "every step starts from zero": fault("wrong result", E(r"p \|\| kk > 0\)", "p && kk > 0)")),
        "accumulators converted before the wait": fault(
            "uninitialised",
            E(r" +wgmma_wait<0>\(acc\);\n", ""),
            E(r"( +convert_registers<32>\(slab, .*\n)", r"\1        wgmma_wait<0>(acc);\n"),
        ),
        "half a warpgroup multiplies": fault(
            "wgmma_ss, 64 of 128 lanes came", E(r"( +)(wgmma_ss<)", r"\1if (t < 64) \2")
        ),
        "boxes of two slots in one": fault(
            "under way|once too often|disagree",
            E(r"tma_load<2>\(A_s, slot \* 2048", "tma_load<2>(A_s, slot / 2 * 2048"),
        ),
        "load for the barrier of another slot": fault(
            "more than expected|deadlock",
            E(r"(tma_load<2>\(A_s, .*, full, )slot,", r"\g<1>(slot + 1) % 3,"),
        ),
        "fence after the barrier that it is for": fault(
            "without fence_proxy_async",
            E(r"( +fence_proxy_async\(\);\n)( +named_barrier<1, 128>\(\);\n)", r"\2"),
            E(r"( +)(bulk_commit\(\);\n)", r"\1\2\1fence_proxy_async();\n"),
        ),
        "registers that nobody gives up": fault(
            "deadlock.*thread 0: waits for 104 registers more, and the block has 0",
            E(r" +register_decrease<24>\(\);\n", ""),
        ),
        "more registers than the block started with": fault(
            "deadlock.*registers more", E("register_increase<232>", "register_increase<240>")
        ),
    },
    "sm_90a, few rows": {
        "what boxes leave is not zeroed": fault(
            "uninitialised", E(r" +store_shared<8>\(B_s,.*\n", "")
        ),
        "half of the threads zero it": fault(
            "uninitialised", E(r"( +)(store_shared<8>\(B_s,)", r"\1if (t < 128) \2")
        ),
        "zeroes not shown to the engine": fault(
            "without fence_proxy_async", E(r" +fence_proxy_async\(\);\n", "", 1)
        ),
        "bytes of whole boxes expected": fault(
            "deadlock.*0 of 1 arrivals, 1536 bytes", E(r"min\(max\(M, 1\), 64\)", "64")
        ),
        "bytes of a row less expected": fault(
            "64 bytes more than expected", E(r"min\(max\(M, 1\), 64\)", "min(M - 1, 64)")
        ),
    },
    "sm_90a, clusters": CLUSTER_FAULTS,
    "gfx942": {
        "barrier missing": fault("uninitialised|disagree", E(LOOP_BARRIER, r"\1")),
        "slots one too few": fault(
            "disagree|uninitialised", E(r"\(k \+ 1\) & 1", "0"), E(r"\(k & 1\)", "0", None)
        ),
        "another slot than was filled": fault(
            "uninitialised|disagree", E(r"\(k & 1\)", "((k + 1) & 1)", None)
        ),
        "last tile not deposited": fault(
            "wrong result|uninitialised",
            E(r"( +)(store_shared<8>\(A_s, .*A_registers1)", r"\1if (k + 2 < k_end) \2"),
        ),
        "last tile not fetched": fault("wrong result", E(r"k \+ 2 < k_end", "k + 3 < k_end")),
        "first tile not deposited": fault("uninitialised", E(r" +store_shared<8>\(A_s.*\n", "")),
        "fetched a trip early": fault("wrong result", E(r"\(k \+ 2\) \* 32", "(k + 1) * 32")),
        "deposit of other registers": fault(
            "wrong result",
            E(r"(store_shared<8>\(B_s,.*B_registers1?), \w+ \* 8\)", r"\1, 0)", None),
        ),
        "columns past the end": fault("wrong result", E(r" && k1? < K && ", " && ", None)),
        "store out of bounds": fault(
            "disagree|wrong result", E(r"(buffer_store.*) && n < N\)", r"\1)")
        ),
        "result staged over operands in use": fault(
            "uninitialised|disagree|wrong result", E(r" +barrier\(\);\n", "", -2)
        ),
        "staged result read too early": fault(
            "uninitialised|disagree", E(r" +barrier\(\);\n", "", -1)
        ),
        "accumulator undefined": fault(
            "stores an uninitialised", E(r" +fill_registers<32>\(acc.*\n", "")
        ),
        "divergent mfma": fault(
            "mfma, 32 of 64 lanes came", E(r"( +)(mfma<)", r"\1if (lane < 32) \2")
        ),
        "divergent barrier": fault(
            "uninitialised|deadlock", E(r"( +)barrier\(\);", r"\1if (t < 64) barrier();")
        ),
        "shared out of bounds": fault(
            "of a buffer of 4096", E(r"(load_shared<8>\(b_frag,.*)\);", r"\1 + 4096);")
        ),
        "swizzle forgotten": fault(
            "of a buffer of 4096|wrong result", E(r" \^ \(kk \* 16\)", " + (kk * 16)", None)
        ),
    },
    "eight waves": {
        "no barrier before the halves part": fault(
            "uninitialised|disagree",
            E(r" +barrier\(\);\n( +const i32 \w+ = warp_uniform)", r"\1"),
        ),
        "second half is not held back": fault(
            "deadlock", E(r"( +if \(\w+ == 1\) \{\n) +barrier\(\);\n", r"\1")
        ),
        "first half does not wait at the end": fault(
            "deadlock", E(r"( +if \(\w+ == 0\) \{\n) +barrier\(\);\n", r"\1")
        ),
        "both halves held back": fault("deadlock", E(r"== 1\) \{", ">= 0) {")),
        "halves in the middle of waves": fault(
            "differs from lane 0's", E(r"warp_uniform\(t >> 8\)", "warp_uniform(t >> 5)")
        ),
        "no barrier before products": fault(
            "uninitialised|disagree", E(r" +barrier\(\);\n( +set_priority<1>)", r"\1")
        ),
        "no barrier behind products": fault(
            "uninitialised|disagree", E(r"(set_priority<0>\(\);\n) +barrier\(\);\n", r"\1")
        ),
    },
}


ONE_EACH: tuple[tuple[Mode, Order], ...] = (
    ("late", "forward"), ("early", "forward"), ("random", "random"),
)  # fmt: skip
UNSEEN = {("staging reused too early", "early")}
"""A copy engine that has read at once is not disturbed, and its reads are nobody's who could race."""


@cache
def emitted(machine: str) -> EmittedProgram:
    return CASES[machine].lower().lowered.emitted


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """All variants of a body in one library: compiling is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEC_CACHE_DIR", str(tmp_path_factory.mktemp("faults")))
        found: dict[str, Path] = {}
        for machine, faults in FAULTS.items():
            (frame,) = emitted(machine).frames
            bodies = [frame.body, *(fault.apply(frame.body) for fault in faults.values())]
            assert len(set(bodies)) == len(bodies)
            frames = [
                replace(frame, name=f"gemm_{i}", body=b, places=()) for i, b in enumerate(bodies)
            ]
            text = render(replace(emitted(machine), frames=tuple(frames)), "cpu")
            found[machine] = build(text)
        return found


def report(
    machine: str,
    library: Path,
    number: int,
    races: bool = True,
    schedules: Sequence[tuple[Mode, Order]] = SCHEDULES,
) -> str:
    """What the emulator says of body `number` in the first of the schedules that shows anything; ""
    for nothing."""
    (launch,) = emitted(machine).launches
    launch = replace(launch, symbol=f"gemm_{number}")
    m, n, k = size = FEW_ROWS if machine == "sm_90a, few rows" else SIZE
    transposed = CASES[machine].transpose_b
    a, b, _ = programs.operands(*size, "float16", transposed)
    first: np.ndarray | None = None
    for mode, order in schedules:
        c = np.full((m, n), np.nan, np.float16)
        values = {"A": a, "B": b, "C": c, "M": m, "N": n, "K": k}
        try:
            run(library, launch, values, mode, order, 7, multiprocessors=2, races=races)
        except EmulatorError as error:
            return error.message
        if first is not None and first.tobytes() != c.tobytes():
            return "schedules disagree"
        first = c
    assert first is not None
    exact, allowed = reference(a, b, transposed)
    right = np.all(np.abs(first.astype(np.float64) - exact) <= allowed)
    return "" if right else "wrong result"


@pytest.mark.parametrize(
    ("machine", "name"), [(machine, name) for machine, faults in FAULTS.items() for name in faults]
)
def test_fault_is_found(libraries: Mapping[str, Path], machine: str, name: str) -> None:
    number = list(FAULTS[machine]).index(name) + 1
    found = report(machine, libraries[machine], number, races=False)
    assert re.search(FAULTS[machine][name].expected, found, re.DOTALL), found
    for schedule in ONE_EACH:
        if (name, schedule[0]) not in UNSEEN:
            assert report(machine, libraries[machine], number, schedules=[schedule]), schedule


def test_the_table_of_faults_is_whole() -> None:
    rows = (Path(__file__).parents[2] / "docs" / "faults.md").read_text().splitlines()
    listed = [row.split("|")[1].strip() for row in rows if row.startswith("| ")]
    faults = [
        name for faults in (*FAULTS.values(), LAST_WAVES, *GATHERS.values()) for name in faults
    ]
    assert [name for name in listed if name != "fault"] == faults


@pytest.mark.parametrize("machine", FAULTS)
def test_text_as_emitted_is_clean(libraries: Mapping[str, Path], machine: str) -> None:
    assert report(machine, libraries[machine], 0) == ""
