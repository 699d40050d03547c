"""Faults seeded into a product whose rows a producer's threads copy, each with the code that must refuse it."""

from __future__ import annotations

from tests.passes.seeded_faults import Edit, Fault

E = Edit
WAIT = "            mbarrier_wait %full, %slot_1, %20\n"
SHOWN = "            fence_proxy_async\n"
ARRIVE = "          cp_async_arrive %full, %slot_2\n"


def _fault(name: str, code: str, *edits: Edit) -> Fault:
    return Fault(name, "lowered_gather_sm_90a", code, edits)


GATHERS = (
    _fault("copies of threads not shown to wgmma", "TLC0354", E(SHOWN, "")),
    _fault(
        "copies shown before they are known to have landed",
        "TLC0354",
        E(SHOWN, ""),
        E(WAIT, SHOWN + WAIT),
    ),
    _fault(
        "copies shown by the threads that start them",
        "TLC0354",
        E(SHOWN, ""),
        E(ARRIVE, SHOWN[2:] + ARRIVE),
    ),
    _fault(
        "an arrival ahead of its copies",
        "TLC0351",
        E(ARRIVE, ARRIVE.replace("cp_", "mbarrier_").replace("async_", "")),
    ),
    _fault("too few arrivals", "TLC0355", E("<count = 129>", "<count = 65>")),
    _fault(
        "bytes expected by each thread",
        "TLC0355",
        E("%72 = compare %71, 0", "%72 = compare %71, %71"),
    ),
)
