"""Faults seeded into the hand-written GEMMs: every one must be found, and with the right words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.backends.emulation import SM80, SM90, Gemm, every_schedule, find_fault, make_operands
from tilec.runtime.emulator import EmulatorError

pytestmark = pytest.mark.emulator


@dataclass(frozen=True)
class Fault:
    """Replacements in a body, and what the report must match."""

    replacements: tuple[tuple[str, str], ...]
    expected: str

    def apply(self, body: str) -> str:
        for old, new in self.replacements:
            assert old in body, f"the body has no {old!r}"
            body = body.replace(old, new)
        return body


def fault(expected: str, *texts: str) -> Fault:
    return Fault(tuple(zip(texts[::2], texts[1::2], strict=True)), expected)


SM80_FAULTS = {
    "wait missing": fault(
        "asynchronous copy to them is under way", "    cp_async_wait<1>();\n", ""
    ),
    "wait one too lax": fault("uninitialised value to C", "cp_async_wait<1>", "cp_async_wait<2>"),
    "barrier missing": fault("uninitialised value to C", "    barrier();\n", ""),
    "store out of bounds": fault(r"writes C\[.*7200 elements", "r < M && c < N", "c < N"),
    "load out of bounds": fault(r"copies A\[16800 .. 16808\)", "m0 + r < M && k_in", "k_in"),
    "divergent mma": fault("divergent collective.*mma", "mma<16, 8", "if (lane < 16) mma<16, 8"),
    "misaligned copy": fault("no multiple", "chunk = (t % 4", "chunk = 4 + (t % 4"),
    "accumulator undefined": fault(
        "uninitialised value", "  fill_registers<32>(acc, 0, 0.0f);\n", ""
    ),
    "a stage too few": fault("uninitialised value|disagree", "next % 3", "next % 2"),
    "register out of bounds": fault(
        "register index 2", "(out, 0, acc, i / 2", "(out, 1, acc, i / 2"
    ),
    "wrong swizzle": fault("wrong result", "ra / 2 % 4", "ra % 4"),
    "shared out of bounds": fault(
        "of a buffer of 6144", "i * 16 + lane % 16", "i * 16 + lane % 16 + 256"
    ),
}

_ADVANCE = (
    "        slot = slot + 1; if (slot == 4) { slot = 0; phase = phase ^ 1; }\n      }\n      wgmma"
)
_SECOND = "if (warpgroup == 0) named_barrier<1, 128>(); else named_barrier<2, 128>();\n        if ("
_LAST = "      if (thread_id() % 128 == 0) mbarrier_arrive(empty, previous);\n      const"

SM90_FAULTS = {
    "fewer bytes expected": fault("16 bytes more than expected in phase 0", "49152", "49136"),
    "more bytes expected": fault(r"deadlock.*0 of 1 arrivals, 16 bytes\)", "49152", "49168"),
    "producer waits for the wrong phase": fault(
        "deadlock.*thread 256: waits for parity 0",
        "(empty, slot, phase ^ 1)",
        "(empty, slot, phase)",
    ),
    "consumer waits for the wrong phase": fault(
        "once too often", "(full, slot, phase)", "(full, slot, phase ^ 1)"
    ),
    "consumer's phase never flips": fault(
        "once too often|deadlock", _ADVANCE, _ADVANCE.replace("phase = phase ^ 1; ", "")
    ),
    "operand overwritten before the wait": fault(
        "disagree",
        "        wgmma_commit();\n",
        "        wgmma_commit();\n        if (thread_id() == 5) A_s[slot * 8192] = A_s[slot * 8192 + 1];\n"
        "        fence_proxy_async();\n"
        "        if (warpgroup == 0) named_barrier<1, 128>(); else named_barrier<2, 128>();\n",
    ),
    "proxy fence missing": fault("without fence_proxy_async", "        fence_proxy_async();\n", ""),
    "wrong stride in a descriptor": fault(
        "wrong result", "(B_s, 0, 16, 1024)", "(B_s, 0, 16, 512)"
    ),
    "wrong k step in a descriptor": fault("uninit|wrong", "kk * 2), desc_b", "kk * 4), desc_b"),
    "last wgmma_wait missing": fault("stores uninitialised", "      wgmma_wait<0>(acc);\n", ""),
    "wgmma_wait without the accumulator": fault(
        "stores uninit", "wgmma_wait<0>(acc)", "wgmma_wait<0>()"
    ),
    "wgmma_fence missing": fault("without wgmma_fence", "        wgmma_fence();\n", ""),
    "wgmma_commit missing": fault("uninitialised|under way", "        wgmma_commit();\n", ""),
    "accumulator written in flight": fault(
        "accumulators of a wgmma were written",
        "        wgmma_wait<1>(acc);\n",
        "        wgmma_wait<1>(acc); acc[5] = 0.0f;\n",
    ),
    "wrong count of a named barrier": fault(
        "deadlock.*named_barrier<2, 256>",
        "_barrier<2, 128>();\n        #pragma",
        "_barrier<2, 256>();\n        #pragma",
    ),
    "one named barrier for two roles": fault(
        "barrier 1|disagree", "named_barrier<2", "named_barrier<1"
    ),
    "an arrival too few": fault("deadlock", _LAST, "      const"),
    "an arrival too many expected": fault(
        "2 of 3|1 of 3", "init(empty, s, 2)", "init(empty, s, 3)"
    ),
    "freed one step early": fault(
        "stores uninitialised|disagree|once too often",
        "if (k > 0 && thread_id() % 128 == 0) mbarrier_arrive(empty, previous);",
        "if (thread_id() % 128 == 0) mbarrier_arrive(empty, slot);",
        _LAST,
        "      const",
    ),
    "staging reused too early": fault(
        "disagree|under way", "bulk_wait_read<1>", "bulk_wait_read<2>"
    ),
    "barrier before the store missing": fault("without fence_proxy_async", _SECOND, "if ("),
    "block barrier missing": fault("never initialised", "  barrier();\n", ""),
    "initialisation not fenced": fault(
        "without mbarrier_init_fence", "    mbarrier_init_fence();\n", ""
    ),
    "store never committed": fault("no bulk_commit", "          bulk_commit();\n", ""),
    "exit before stores have read": fault(
        r"bulk_wait_read<0>\(\) is missing", "    if (thread_id() % 128 == 0) bulk_wait<0>();\n", ""
    ),
    "full never waited for": fault(
        "once too often", "        mbarrier_wait(full, slot, phase);\n", ""
    ),
    "box out of bounds": fault(
        "of a buffer of 65536", "slot * 16384, B", "slot * 16384 + 16384, B"
    ),
}


RACES = {
    "sm_80": ("barrier missing", "a stage too few"),
    "sm_90a": (
        "full never waited for",
        "freed one step early",
        "operand overwritten before the wait",
        "barrier before the store missing",
    ),
}
"""Faults that leave two accesses unordered: found in any one schedule, whatever it computes."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """All variants of a body in one library: compiling is what takes the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEC_CACHE_DIR", str(tmp_path_factory.mktemp("faults")))
        return {
            "sm_80": SM80.build([f.apply(SM80.body) for f in SM80_FAULTS.values()]),
            "sm_90a": SM90.build([f.apply(SM90.body) for f in SM90_FAULTS.values()]),
        }


def check(
    gemm: Gemm, library: Path, index: int, shape: tuple[int, int, int], expected: str
) -> None:
    assert re.search(expected, find_fault(gemm, library, f"gemm_{index}", shape), re.DOTALL)


@pytest.mark.parametrize("name", SM80_FAULTS)
def test_sm80_fault_is_found(libraries: Mapping[str, Path], name: str) -> None:
    index = list(SM80_FAULTS).index(name)
    check(SM80, libraries["sm_80"], index, (100, 72, 168), SM80_FAULTS[name].expected)


@pytest.mark.parametrize("name", SM90_FAULTS)
def test_sm90_fault_is_found(libraries: Mapping[str, Path], name: str) -> None:
    index = list(SM90_FAULTS).index(name)
    check(SM90, libraries["sm_90a"], index, (256, 264, 328), SM90_FAULTS[name].expected)


@pytest.mark.parametrize(
    ("gemm", "target", "shapes"),
    [
        (SM80, "sm_80", [(64, 64, 32), (100, 72, 168), (1, 2, 8), (130, 66, 40), (64, 128, 256)]),
        (
            SM90,
            "sm_90a",
            [(128, 256, 64), (256, 264, 328), (1, 8, 8), (200, 520, 136), (384, 256, 64)],
        ),
    ],
    ids=["sm_80", "sm_90a"],
)
def test_unchanged_body_is_clean(
    libraries: Mapping[str, Path], gemm: Gemm, target: str, shapes: list[tuple[int, int, int]]
) -> None:
    for shape in shapes:
        assert find_fault(gemm, libraries[target], "gemm", shape) == ""


@pytest.mark.parametrize(("target", "name"), [(t, n) for t, names in RACES.items() for n in names])
def test_a_race_shows_in_every_schedule(
    libraries: Mapping[str, Path], target: str, name: str
) -> None:
    gemm, faults, shape = {
        "sm_80": (SM80, SM80_FAULTS, (100, 72, 168)),
        "sm_90a": (SM90, SM90_FAULTS, (256, 264, 328)),
    }[target]
    a, b = make_operands(*shape)
    symbol = f"gemm_{list(faults).index(name)}"
    for mode, order in every_schedule():
        with pytest.raises(EmulatorError) as found:
            gemm.multiply(libraries[target], a, b, mode, order, symbol)
        assert "data race" in found.value.message
