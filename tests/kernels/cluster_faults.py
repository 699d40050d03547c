"""Faults seeded into the text of a GEMM whose blocks run in clusters of two, neighbours along M."""

from __future__ import annotations

from tests.kernels.text_faults import E, Fault, fault

_REMOTE = r"mbarrier_arrive_remote\((.*), t\);"
CLUSTER_FAULTS: dict[str, Fault] = {
    "an arrival too few": fault(
        r"deadlock.*block \(1, 0, 0\): deadlock.*2 of 2 arrivals",
        E(r"if \(t < 2\)", "if (t < 1)", None),
    ),
    "freed for this block alone": fault(
        "deadlock",
        E(r"if \(t < 2\)", "if (t < 1)", None),
        E(_REMOTE, r"mbarrier_arrive_remote(\1, block & 1);", None),
    ),
    "slots are free once this block has read them": fault(
        "under way|disagree|uninitialised|more than expected|once too often",
        E(r"mbarrier_init\(empty, slot, 2\)", "mbarrier_init(empty, slot, 1)"),
        E(r"if \(t < 2\)", "if (t < 1)", None),
        E(_REMOTE, r"mbarrier_arrive_remote(\1, block & 1);", None),
    ),
    "one arrival asked for instead of two": fault(
        "once too often|under way|disagree|more than expected",
        E(r"mbarrier_init\(empty, slot, 2\)", "mbarrier_init(empty, slot, 1)"),
    ),
    "both arrivals at the first block": fault(
        "once too often|deadlock|under way", E(_REMOTE, r"mbarrier_arrive_remote(\1, 0);", None)
    ),
    "arrives at a block that there is not": fault(
        "block 2 of a cluster of 2", E(r"if \(t < 2\)", "if (t < 3)", None)
    ),
    "mask of this block alone": fault(
        "deadlock.*2048 bytes", E(r"(tma_load_multicast.*slot, )3,", r"\g<1>1 << rank,")
    ),
    "mask of the other block alone": fault(
        "uninitialised|deadlock", E(r"(tma_load_multicast.*slot, )3,", r"\g<1>2 >> rank,")
    ),
    "mask of more blocks than there are": fault(
        "block 2 of a cluster of 2", E(r"(tma_load_multicast.*slot, )3,", r"\g<1>7,")
    ),
    "its own part alone is expected": fault(
        "more than expected|uninitialised|once too often|under way",
        E("(mbarrier_expect.*)8192", r"\g<1>6144"),
    ),
    "all of a tile is expected of each block": fault(
        "deadlock.*2048 bytes", E("(mbarrier_expect.*)8192", r"\g<1>10240")
    ),
    "both blocks bring the first part": fault(
        "to which another copy is under way|uninitialised",
        E(r"B_s_index = slot \* 2048 \+ rank \* 32 \* 32", "B_s_index = slot * 2048"),
    ),
    "parts of the wrong rows": fault("wrong result", E(r"bx \* 64 \+ rank \* 32", "bx * 64")),
    "parts change places": fault(
        "wrong result", E(r"bx \* 64 \+ rank \* 32", "bx * 64 + (1 - rank) * 32")
    ),
    "blocks do not meet at the start": fault(
        "never initialised", E(r"^( +)cluster_barrier\(\);", r"\1named_barrier<2, 256>();")
    ),
    "blocks do not meet at the end": fault(
        "has ended",
        E(r"^ +cluster_barrier\(\);\n", "", -1),
        E(r"^ +cluster_barrier\(\);\n", "", -1),
    ),
    "one role does not meet at the end": fault(
        r"deadlock.*cluster_barrier\(\), 256 of 512", E(r"^ +cluster_barrier\(\);\n", "", -1)
    ),
    "the cluster meets before its stores have left": fault(
        r"bulk_wait_read<0>\(\) is missing",
        E(r"      bulk_wait<0>\(\);\n", ""),
    ),
    "a block without a tile does not load": fault(
        "deadlock", E(r"(by = min\((.*), max.*\n.*k_end = )(.*);", r"\1\2 < grid_y ? \3 : 0;")
    ),
    "barriers of others not fenced": fault(
        "without mbarrier_init_fence", E(r" +mbarrier_init_fence\(\);\n", "")
    ),
}
