"""T.fill of a part of a fragment or of shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import compile_texts, every_leg

PARTS = (
    (slice(2, 3), slice(None), 7), (5, slice(None), 9), (slice(0, 4), slice(8, 16), -128),
    (slice(3, 5), 31, 1), (slice(None), 2, -5),
)  # fmt: skip


@tilec.kernel
def filled(Y: T.Tensor((2, 16, 32), "int8")):
    with T.Kernel(1, threads=64):
        F = T.alloc_fragment((16, 32), "int8")
        S = T.alloc_shared((16, 32), "int8")
        for place, buffer in enumerate((F, S)):
            T.clear(buffer)
            for rows, columns, value in PARTS:
                T.fill(buffer[rows, columns], value)
            T.copy(buffer, Y[place, 0, 0])


@pytest.mark.emulator
def test_parts_of_buffers_are_filled() -> None:
    exact: Any = np.zeros((16, 32), np.int8)
    for rows, columns, value in PARTS:
        exact[rows, columns] = value
    for device, (y,) in every_leg(filled, np.ones((2, 16, 32), np.int8)):
        assert (y == exact).all(), device


def test_the_compilers_take_it() -> None:
    compile_texts(filled)
