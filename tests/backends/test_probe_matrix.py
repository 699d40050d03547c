"""What cp.async, ldmatrix, stmatrix and mma mean, in the emulator, against NumPy."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.backends.emulation import every_schedule
from tests.backends.probes_matrix import COPIES, LOADS, MATRIX_PROBES, MULTIPLICATIONS

pytestmark = pytest.mark.emulator

DTYPES: dict[str, Any] = {
    "i8": np.int8, "u8": np.uint8, "i32": np.int32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f32": np.float32, "f64": np.float64, "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip
RANDOM = np.random.default_rng(11)


def make_matrix(shape: tuple[int, int], dtype: str) -> NDArray[Any]:
    if dtype in ("i8", "u8"):
        info = np.iinfo(DTYPES[dtype])
        return RANDOM.integers(info.min, info.max, shape, endpoint=True).astype(DTYPES[dtype])
    values = RANDOM.integers(-8, 9, shape) / 4  # sums of products are exact in f32, tf32 and f16
    return values.astype(DTYPES[dtype])


@pytest.mark.parametrize("name", MULTIPLICATIONS)
def test_mma(name: str) -> None:
    m, n, k, d, a = MULTIPLICATIONS[name]
    left, right = make_matrix((m, k), a), make_matrix((k, n), a)
    out = make_matrix((m, n), "i8" if d == "i32" else d).astype(DTYPES[d])
    wide = np.int64 if d == "i32" else np.float64
    expected = out.astype(wide) + left.astype(wide) @ right.astype(wide)
    MATRIX_PROBES.run(name, {"A": left, "B": right, "D": out}, "late", "random")
    np.testing.assert_array_equal(out.astype(wide), expected)


def test_tf32_drops_the_low_bits() -> None:
    left, right = np.full((16, 8), 1 + 2.0**-11, np.float32), np.ones((8, 8), np.float32)
    out = np.zeros((16, 8), np.float32)
    MATRIX_PROBES.run("mma_16_8_8_f32_f32", {"A": left, "B": right, "D": out})
    assert np.all(out == 8)


@pytest.mark.parametrize("name", COPIES)
def test_cp_async(name: str) -> None:
    dtype, bytes_, item = COPIES[name]
    n = bytes_ // item
    x = RANDOM.integers(1, 100, 64 * n).astype(DTYPES[dtype])
    expected = x.reshape(64, n).copy()
    expected[33::2] = 0
    for mode, order in every_schedule():
        y = np.full(64 * n, 7).astype(DTYPES[dtype])
        MATRIX_PROBES.run(name, {"X": x, "Y": y}, mode, order)
        assert y.reshape(64, n).tolist() == expected.tolist()


@pytest.mark.parametrize("name", LOADS)
def test_ldmatrix_and_back(name: str) -> None:
    kind, x = LOADS[name]
    rows = RANDOM.permutation(32 * 8).astype(np.float16).reshape(4, 8, 8)
    y, z = np.zeros((32, 2 * x), np.float16), np.zeros((32, 8), np.float16)
    MATRIX_PROBES.run(name, {"X": rows.reshape(-1), "Y": y, "Z": z}, "late", "reverse")
    lane = np.arange(32)
    for i in range(x):
        matrix = rows[i].T if kind.endswith("trans") else rows[i]
        for e in range(2):
            assert y[:, 2 * i + e].tolist() == matrix[lane // 4, lane % 4 * 2 + e].tolist()
    assert z.tolist() == rows.reshape(32, 8)[lane % (8 * x)].tolist()


def test_ldmatrix_of_bytes() -> None:
    rows = RANDOM.integers(-128, 128, (4, 8, 16)).astype(np.int8)
    y, z = np.zeros((32, 16), np.int8), np.zeros((32, 16), np.int8)
    MATRIX_PROBES.run("ldmatrix_bytes", {"X": rows.reshape(-1), "Y": y, "Z": z})
    lane = np.arange(32)
    for i in range(4):
        for e in range(4):
            assert y[:, 4 * i + e].tolist() == rows[i][lane // 4, lane % 4 * 4 + e].tolist()
    assert z.tolist() == rows.reshape(32, 16).tolist()
