"""What clusters mean, in the emulator (with --on-gpu: on the hardware), against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.backends.emulation import every_schedule
from tests.backends.probes_clusters import BODIES, CLUSTER_PROBES, FAULTY, FAULTY_PROBES
from tilec.runtime.emulator import EmulatorError, run

pytestmark = pytest.mark.emulator

X = np.arange(1, 80 * 16 + 1, dtype=np.float32).reshape(80, 16)


def ranks(blocks: int) -> Any:
    return np.repeat(np.arange(2 * blocks) % blocks, 32)


def parts() -> Any:
    """Each cluster of two has its own 16 rows, in both blocks."""
    return np.repeat(X[:32].reshape(2, 1, 256), 2, axis=1).ravel()


def for_others() -> Any:
    """Block 1 of four loads 8 rows for the other three."""
    found = np.zeros((2, 4, 256), np.float32)
    for cluster in range(2):
        for rank in (0, 2, 3):
            found[cluster, rank, :128] = X[8 * cluster : 8 * cluster + 8].ravel()
    return found.ravel()


EXPECTED: dict[str, Any] = {
    "arrivals": ranks(4),
    "ring": ranks(4),
    "parts": parts(),
    "one_loads_for_the_others": for_others(),
    "a_ring_of_tiles": np.tile(X.reshape(5, 256)[:, ::8].ravel(), 4),
}


@pytest.mark.parametrize("name", BODIES)
def test_clusters(name: str) -> None:
    blocks, expected = BODIES[name][0], EXPECTED[name]
    for mode, order in every_schedule():
        y = np.zeros(len(expected), np.float32)
        CLUSTER_PROBES.run(name, {"X": X, "Y": y}, mode, order, (2 * blocks, 1, 1))
        assert y.tolist() == expected.tolist(), (mode, order)


@pytest.mark.finding
@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_found(name: str) -> None:
    for mode, order in every_schedule():
        y = np.zeros(4 * 256, np.float32)
        with pytest.raises(EmulatorError, match=FAULTY[name][3]):
            FAULTY_PROBES.run(name, {"X": X, "Y": y}, mode, order, (4, 1, 1))


@pytest.mark.finding
def test_a_grid_is_whole_clusters() -> None:
    launch = CLUSTER_PROBES.probes["arrivals"].launch("arrivals", (6, 1, 1))
    with pytest.raises(EmulatorError, match="6 blocks along x, which is no multiple"):
        run(CLUSTER_PROBES.library, launch, {"X": X, "Y": np.zeros(192, np.float32)})
