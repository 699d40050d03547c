"""Faults seeded into the text of products whose rows threads gather by asynchronous copies.

As in test_faults_in_text.py, the emulator finds each, by a finding, a deadlock or schedules that
disagree, or the product is wrong; the text as emitted is clean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.machines import SCHEDULES
from tests.kernels.test_gathers import expected, experts
from tests.kernels.text_faults import E, Fault, fault
from tilec.backends.emitter import EmittedProgram, render
from tilec.runtime.driver import lower
from tilec.runtime.emulator import EmulatorError, build, run

pytestmark = pytest.mark.emulator

SIZE = (70, 72, 200, 40)  # M, N, K, R: ragged, more trips than there are slots
WAIT = r"( +mbarrier_wait\(full, .*\n)( +fence_proxy_async\(\);\n)"
COPY = r"( +)(cp_async_reused<16>\(.*), ([^,;\n]+)\);"
SHOWN = "wgmma.* reads shared byte .*, which a cp_async has brought, without fence_proxy_async"
UNWRITTEN = "uninitialised|wrong result|disagree"
FAULTS: dict[str, dict[str, Fault]] = {
    "cuda:sm_90a": {
        "copies of threads are not shown to wgmma": fault(SHOWN, E(WAIT, r"\1")),
        "copies of threads are shown before they have landed": fault(SHOWN, E(WAIT, r"\2\1")),
        "copies of threads are shown by those who start them": fault(
            SHOWN, E(WAIT, r"\1"), E(r"( +)(cp_async_arrive)", r"\1fence_proxy_async();\n\1\2")
        ),
        "arrivals do not wait for copies": fault(
            "under way|" + UNWRITTEN, E("cp_async_arrive", "mbarrier_arrive")
        ),
        "no arrivals behind copies": fault("deadlock", E(r" +cp_async_arrive.*\n", "")),
        "every thread expects the bytes of TMA": fault(
            "to which another copy is under way", E(r"if \(t1 == 0\) \{(\n +mbarrier_expect)", r"if (t1 < 9) {\1")
        ),
        "a row that is not there is copied": fault(r"copies X\[", E(COPY, r"\1\2);")),
        "a row that is not there is not zeroed": fault(UNWRITTEN, E(COPY, r"\1if (\3) \2);")),
    },
    "cuda:sm_80": {
        "a gathered row is not waited for": fault(
            "data race|under way|" + UNWRITTEN, E("cp_async_wait<1>", "cp_async_wait<2>")
        ),
        "a gathered row that is not there is not zeroed": fault(
            UNWRITTEN, E(COPY, r"\1if (\3) \2);")
        ),
    },
}  # fmt: skip
CASES = [(target, name) for target, faults in FAULTS.items() for name in faults]


@cache
def emitted(target: str) -> EmittedProgram:
    return lower(experts, (), target, {"stages": 3}).lowered.emitted


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """All variants of a body in one library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEC_CACHE_DIR", str(tmp_path_factory.mktemp("faults")))
        return {target: _library(target) for target in FAULTS}


def _library(target: str) -> Path:
    (frame,) = emitted(target).frames
    bodies = [frame.body, *(fault.apply(frame.body) for fault in FAULTS[target].values())]
    assert len(set(bodies)) == len(bodies)
    frames = [replace(frame, name=f"experts_{i}", body=b, places=()) for i, b in enumerate(bodies)]
    return build(render(replace(emitted(target), frames=tuple(frames)), "cpu"))


def report(target: str, library: Path, number: int) -> str:
    """What the emulator says of the body `number`; "" for nothing."""
    m, n, k, r = SIZE
    rng = np.random.default_rng(0)
    x, b = (rng.integers(-3, 4, s).astype(np.float16) for s in ((r, k), (n, k)))
    rows = rng.integers(-1, r, m).astype(np.int32)
    (launch,) = emitted(target).launches
    launch = replace(launch, symbol=f"experts_{number}")
    for mode, order in SCHEDULES:
        c = np.full((m, n), np.nan, np.float32)
        values = {"X": x, "rows": rows, "B": b, "C": c, "M": m, "N": n, "K": k, "R": r}
        try:
            run(library, launch, values, mode, order, 7, multiprocessors=2, races=True)
        except EmulatorError as error:
            return error.message
        if not np.array_equal(c, expected(x, rows, b, False)):
            return "wrong result"
    return ""


@pytest.mark.parametrize(("target", "name"), CASES)
def test_fault_is_found(libraries: Mapping[str, Path], target: str, name: str) -> None:
    found = report(target, libraries[target], 1 + list(FAULTS[target]).index(name))
    assert re.search(FAULTS[target][name].expected, found, re.DOTALL), found


@pytest.mark.parametrize("target", FAULTS)
def test_text_as_emitted_is_clean(libraries: Mapping[str, Path], target: str) -> None:
    assert report(target, libraries[target], 0) == ""
