"""Faults seeded into the text of a product whose last wave is shared: who helps and who waits.

As in test_faults_in_text.py, the emulator finds each, by a finding, a deadlock or schedules that
disagree, or the product is wrong; the text as emitted is clean, however few blocks run at once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.text_faults import E, Fault, fault
from tests.passes.test_share_last_wave import product, small, wide
from tilec.backends.emitter import EmittedProgram, render
from tilec.runtime.driver import lower
from tilec.runtime.emulator import EmulatorError, Mode, Order, build, run

pytestmark = pytest.mark.emulator

SIZE = (193, 200, 264)  # 16 tiles by 7 blocks: two are left, with two helpers each
WORKERS = 7
SCHEDULES: tuple[tuple[Mode, Order], ...] = (
    ("late", "forward"), ("early", "reverse"), ("random", "random"),
)  # fmt: skip
ARRIVES = r"( +named_barrier<1, 128>\(\);\n)( +if \(t1 == 0\) \{\n +atomic_add<release>)"
WAITED = r"(while \(more\) \{(?:.*\n)+?(?: +\}\n){3,4})( +named_barrier<1, 128>\(\);\n)"
FAULTS: dict[str, Fault] = {
    "helper arrives before all have left their sums": fault(
        "data race: reads parts", E(ARRIVES, r"\2")
    ),
    "helper does not publish its sums": fault(
        "data race: reads parts", E("atomic_add<release>", "atomic_add<relaxed>")
    ),
    "owner does not wait": fault(
        "data race: reads parts", E("bool more = true;", "bool more = false;")
    ),
    "owner does not see what it waited for": fault(
        "data race: reads parts", E("atomic_load<acquire>", "atomic_load<relaxed>")
    ),
    "owner's threads do not wait for the one that does": fault(
        "data race: reads parts", E(WAITED, r"\1")
    ),
    "owner waits for a helper less": fault(
        "data race: (reads|writes) parts", E(r"(more = \w+ < part_end);", r"\1 - 1;")
    ),
    "owner waits for a helper more": fault(
        r"deadlock.*reads arrived\[\d\] again and again", E(r"(more = \w+ < part_end);", r"\1 + 1;")
    ),
    "owner adds a part less": fault(
        "wrong result", E(r"part < part_end; \+\+part", "part < part_end - 1; ++part")
    ),
    "helpers of a tile leave their sums in one place": fault(
        "data race: writes parts", E(r"(late \* \w+) \+ \(worker - \w+\)", r"\1")
    ),
    "a step is done twice": fault("wrong result", E(r"own \+ min\(", "own - 1 + min(", None)),
    "owners come first": fault(
        r"deadlock.*reads arrived\[\d\] again and again",
        E(r"worker = block_id<0>\(\)", f"worker = {WORKERS - 1} - block_id<0>()"),
    ),
}


@pytest.fixture(scope="module")
def emitted() -> EmittedProgram:
    return lower(product, (), "cuda:sm_90a", {"stream_k": WORKERS, "stages": 3}).lowered.emitted


@pytest.fixture(scope="module")
def library(emitted: EmittedProgram, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants of the second launch, and the first."""
    clear, frame = emitted.frames
    bodies = [frame.body, *(fault.apply(frame.body) for fault in FAULTS.values())]
    assert len(set(bodies)) == len(bodies)
    frames = [replace(frame, name=f"product_{i}", body=b, places=()) for i, b in enumerate(bodies)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILEC_CACHE_DIR", str(tmp_path_factory.mktemp("faults")))
        return build(render(replace(emitted, frames=(clear, *frames)), "cpu"))


def report(emitted: EmittedProgram, library: Path, number: int, residents: int = 0) -> str:
    """What the emulator says of the body `number`; "" for nothing."""
    m, n, k = SIZE
    clear, launch = emitted.launches
    a, b = small(m, k), small(n, k, seed=1)
    expected = wide(a) @ wide(b).T
    # Of a few at once, blocks start in the order of the grid.
    for mode, order in SCHEDULES[: 1 if residents else None]:
        c = np.full((m, n), np.nan, np.float16)
        values = {"A": a, "B": b, "C": c, "M": m, "N": n, "K": k}
        values |= {w.name: _unwritten(w.shape, w.dtype) for w in emitted.manifest().workspaces}
        try:
            for one in (clear, replace(launch, symbol=f"product_{number}")):
                run(library, one, values, mode, order, 7, residents=residents)
        except EmulatorError as error:
            return error.message
        if not np.array_equal(wide(c), expected):
            return "wrong result"
    return ""


def _unwritten(shape: tuple[object, ...], dtype: str) -> np.ndarray:
    kind = {"f32": np.float32, "i32": np.int32}[dtype]
    array = np.zeros(tuple(int(str(extent)) for extent in shape), kind)
    array.view(np.uint8).fill(0xFF)
    return array


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(emitted: EmittedProgram, library: Path, name: str) -> None:
    residents = 1 if name == "owners come first" else 0
    found = report(emitted, library, 1 + list(FAULTS).index(name), residents)
    assert re.search(FAULTS[name].expected, found, re.DOTALL), found


@pytest.mark.parametrize("residents", [0, 1, 3])
def test_text_as_emitted_is_clean(emitted: EmittedProgram, library: Path, residents: int) -> None:
    assert report(emitted, library, 0, residents) == ""
