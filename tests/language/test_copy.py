"""T.copy: which elements it moves, seen by the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T


def copied(shape: tuple[int, ...], at: tuple[int, ...], tile: tuple[int, ...]) -> np.ndarray:
    """A tensor of zeros after T.copy of a tile of ones to the element at `at`."""
    letters = [f"D{n}" for n in range(len(shape))]

    @tilec.kernel
    def ones(A: T.Tensor(letters, "float32")) -> Any:
        with T.Kernel(1, threads=32) as _:
            S = T.alloc_shared(tile, "float32")
            T.fill(S, 1.0)
            T.copy(S, A[at])

    a = np.zeros(shape, np.float32)
    with tilec.device("interpreter"):
        ones(a)
    return a


@pytest.mark.parametrize(
    ("tile", "region"),
    [
        ((4,), np.s_[1, 2, 3:7]),
        ((2, 4), np.s_[1, 2:4, 3:7]),
        ((4, 1), np.s_[1, 2:6, 3:4]),  # a column: the tile's own extents of 1 count
        ((2, 1, 1), np.s_[1:3, 2:3, 3:4]),
        ((1, 3, 1), np.s_[1:2, 2:5, 3:4]),
        ((1, 1), np.s_[1, 2:3, 3:4]),
        ((1, 2, 1, 4), np.s_[1, 2:4, 3:7]),  # more than the tensor has: without them
    ],
    ids=str,
)
def test_extents_of_a_start_address(tile: tuple[int, ...], region: Any) -> None:
    expected = np.zeros((5, 8, 9), np.float32)
    expected[region] = 1
    np.testing.assert_array_equal(copied(expected.shape, (1, 2, 3), tile), expected)
