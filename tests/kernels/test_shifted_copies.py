"""A GEMM whose tiles begin elsewhere: operands a few elements along or before the rows, a result that
begins before the array. TMA cannot do all of it (tests/backends/test_probe_hopper.py)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.legs import every_leg
from tests.passes.test_choose_instructions import shifted

pytestmark = pytest.mark.emulator


@pytest.mark.parametrize(
    ("read", "row", "written", "along", "across"),
    [
        (8, -3, 3, 0, 0), (-8, 2, 0, 0, 0), (1, 0, 0, 0, 0), (-99, 0, 0, 3, 0), (0, 0, -1, 0, 0),
        (0, 0, -99, 0, -5),
    ],
)  # fmt: skip
def test_a_shifted_gemm(read: int, row: int, written: int, along: int, across: int) -> None:
    m, n, k = 130, 72, 64
    random = np.random.default_rng(1)
    a = random.integers(-4, 5, (m, k)).astype(np.float16)
    b = random.integers(-4, 5, (n, k)).astype(np.float16)
    shift = along if read == -99 else read
    lower = across if written == -99 else written
    moved = np.zeros((m + 200, k), np.float16)  # A from (row, shift) on, zero outside
    for i in range(m + 62):
        for j in range(k):
            if 0 <= i + row < m and 0 <= j + shift < k:
                moved[i, j] = a[i + row, j + shift]
    product = moved.astype(np.float32) @ b.astype(np.float32).T
    expected = np.full((m, n), 7, np.float16)
    rows = 64 * -(-m // 64)
    for i in range(rows):
        if 0 <= i + lower < m:
            expected[i + lower] = product[i].astype(np.float16)
    unset = np.full((m, n), 7, np.float16)
    constants = {"read": read, "row": row, "written": written}
    for leg, found in every_leg(shifted, a, b, unset, along, across, **constants):
        assert np.array_equal(found[2], expected), leg
