"""Faults seeded into the GEMM in clusters of two blocks, as the pipeline left it once."""

from __future__ import annotations

from tests.passes.seeded_faults import Edit, Fault


def _fault(name: str, codes: str, *edits: Edit) -> Fault:
    return Fault(name, "lowered_cluster_sm_90a", codes, edits)


E = Edit
CLUSTERS = (
    _fault(
        "arrivals at this block's barrier alone",
        "TLC0357",
        E("compare %42, 2 ", "compare %42, 1 "),
        E("compare %57, 2 ", "compare %57, 1 "),
    ),
    _fault(
        "a slot is free once this block has read it",
        "TLC0352",
        E("<count = 4>", "<count = 2>"),
        E("compare %42, 2 ", "compare %42, 1 "),
        E("compare %57, 2 ", "compare %57, 1 "),
        E("%empty, %40, [%42]", "%empty, %40"),
        E("%empty, %55, [%57]", "%empty, %55"),
    ),
    _fault(
        "an arrival too few asked for",
        "TLC0352 TLC0355",
        E("<count = 4>", "<count = 3>"),
    ),
    _fault(
        "an arrival at a block that there is not",
        "TLC0355",
        E("compare %42, 2 ", "compare %42, 3 "),
    ),
    _fault(
        "a tile that is another for each block",
        "TLC0360",
        E('"tma">\n            %98', '"tma", multicast = [1]>\n            %98'),
    ),
    _fault(
        "parts of the tiles of two turns",
        "TLC0360",
        E("copy %B[%98, %95]", "%apart = add %95, %rank_1 : i32\n            copy %B[%98, %apart]"),
    ),
    _fault(
        "only its own part of a tile is expected",
        "TLC0351 TLC0357",
        E("%slot_2, 32768", "%slot_2, 24576"),
    ),
    _fault(
        "every block is expected to bring all",
        "TLC0357",
        E("%slot_2, 32768", "%slot_2, 49152"),
    ),
    _fault(
        "barriers of other blocks used before they are made",
        "TLC0355",
        E("    cluster_barrier\n    %C", "    barrier\n    %C"),
    ),
    _fault(
        "blocks end while others arrive at their barriers",
        "TLC0359",
        E("      cluster_barrier\n      yield\n", "      yield\n", 2, None),
    ),
    _fault(
        "one role does not wait for the cluster",
        "TLC0357",
        E("      cluster_barrier\n      yield\n", "      yield\n", 2, 1),
    ),
    _fault(
        "one thread waits for the cluster",
        "TLC0356",
        E(
            "          yield\n        }\n        yield\n      } {",
            "          yield\n        }\n        cluster_barrier\n        yield\n      } {",
        ),
    ),
    _fault(
        "one block loads less often",
        "TLC0357",
        E("for 0, %93, 1 (%k_1", "for %rank_1, %93, 1 (%k_1"),
    ),
)
