"""tilec.ops in clusters: products, batches, parts of K, epilogues and groups are as without."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

import tilec
from tests.ops.test_matmul import PARTS, SMALL, check, matmul, normal
from tilec import ops
from tilec.errors import TargetUnsupported

pytestmark = pytest.mark.emulator
ON = "emulator:cuda:sm_90a"
CLUSTERS = ((2, 1), (1, 2), (2, 2))


def clustered(schedule: ops.Schedule, cluster: tuple[int, int]) -> ops.Schedule:
    return replace(schedule, cluster_M=cluster[0], cluster_N=cluster[1])


@pytest.mark.parametrize(
    ("cluster", "b_rows"),
    [
        pytest.param(
            cluster, rows, marks=() if (i, rows) in ((0, False), (2, True)) else pytest.mark.nightly
        )
        for i, cluster in enumerate(CLUSTERS)
        for rows in (True, False)
    ],
)
def test_products(cluster: tuple[int, int], b_rows: bool) -> None:
    for m, n, k in ((1, 8, 8), (65, 136, 40), (128, 64, 104), (193, 200, 264), (64, 64, 0)):
        a, b = normal(m, k), normal(k, n, seed=1) if b_rows else normal(n, k, seed=1).T
        with tilec.device(ON):
            check(ops.matmul(a, b, schedule=clustered(SMALL, cluster)), a, b)


@pytest.mark.parametrize("cluster", CLUSTERS, ids=str)
def test_tiles_are_shared(cluster: tuple[int, int]) -> None:
    call = matmul.check(normal(65, 40), normal(40, 136, seed=1), matmul.Options())
    constants = asdict(clustered(SMALL, cluster))
    source = call.kernel.lower(*call.launches[0], target="cuda:sm_90a", **constants).source
    assert source.count("tma_load_multicast<2>(") == sum(n > 1 for n in cluster)


def test_batches_and_parts() -> None:
    a, b = normal(3, 65, 136), normal(136, 72, seed=1)
    for schedule in (SMALL, PARTS):
        with tilec.device(ON):
            check(ops.matmul(a, b, schedule=clustered(schedule, (2, 1))), a, b)


@pytest.mark.parametrize("rows", [65, 31])
def test_an_epilogue_that_reads_its_result(rows: int) -> None:
    """A block beyond the grid would read what its neighbour overwrites, so that there is no cluster."""
    a, b, c = normal(rows, 40), normal(40, 72, seed=1), normal(rows, 72, seed=2)
    before = c.astype(np.float64)

    def add(x: Any, i: Any, j: Any, c: Any) -> Any:
        return x + c[i, j]

    with tilec.device(ON):
        ops.matmul(a, b, out=c, epilogue=add, c=c, schedule=clustered(SMALL, (2, 1)))
    check(c, a, b, lambda x: x + before)


def test_groups() -> None:
    a, b = normal(150, 40), normal(3, 40, 136, seed=1)
    offsets = np.array([0, 70, 70, 150], np.int32)
    with tilec.device(ON):
        found = ops.grouped_matmul(a, b, offsets, schedule=clustered(SMALL, (1, 2)))
    for group in range(3):
        rows = slice(offsets[group], offsets[group + 1])
        check(found[rows], a[rows], b[group])


def test_other_targets_refuse_them() -> None:
    a, b = normal(65, 40), normal(40, 72, seed=1)
    with tilec.device("emulator:cuda:sm_80"), pytest.raises(TargetUnsupported, match="sm_80"):
        ops.matmul(a, b, schedule=clustered(SMALL, (2, 1)))
