"""tilec.ops.grouped_matmul beside NumPy: ragged groups, empty ones, rows of none, lists."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tilec
from tests.kernels.legs import DEVICES
from tilec import ops
from tilec.errors import TilecError

SMALL = ops.Schedule(64, 64, 32, 3, 128)
OFFSETS = np.array([0, 5, 5, 70, 135, 136], np.int32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


def check(found: np.ndarray, a: np.ndarray, b: np.ndarray, bias: Any = None) -> None:
    for g, (first, last) in enumerate(itertools.pairwise(OFFSETS)):
        rows, matrix = a[first:last].astype(float), b[g].astype(float)
        expected = rows @ matrix + (0 if bias is None else bias[g])
        bound = 2.0**-10 * np.abs(expected) + 2.0**-15 * (np.abs(rows) @ np.abs(matrix))
        assert np.all(np.abs(found[first:last] - expected) <= bound)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["NT", "TN"])
def test_groups(device: str, layout: str) -> None:
    a, b, bias = normal(140, 72), normal(5, 72, 70, seed=1), normal(5, 70, seed=2)
    a = a if layout[0] == "N" else np.asfortranarray(a)
    b = b.swapaxes(1, 2).copy().swapaxes(1, 2) if layout[1] == "T" else b
    out = np.full((140, 70), np.nan, np.float16)
    with tilec.device(device):
        found = ops.grouped_matmul(
            a, b, OFFSETS, out=out, bias=bias, schedule=SMALL if device != "interpreter" else None,
            epilogue=lambda x, g, i, j, bias: x + bias[g, j],
        )  # fmt: skip
    assert found is out
    check(found, a, b, bias)
    assert np.isnan(found[136:]).all(), "rows of no group are left as they were"


@pytest.mark.parametrize("strided", ["a", "b"])
def test_operands_without_unit_strides(strided: str) -> None:
    """Of which a product of so many rows and columns packs copies; groups are read in place."""
    a, b = normal(140, 144), normal(5, 144, 130, seed=1)
    if strided == "a":
        a, b = a[:, ::2], b[:, :72]
    else:
        a, b = a[:, :65], np.repeat(b, 2, axis=2)[:, :65, ::2]
    check(ops.grouped_matmul(a, b, OFFSETS), a, b)


def test_no_rows_and_no_groups() -> None:
    none = np.zeros((0, 8), np.float16)
    one = np.zeros(1, np.int32)
    assert ops.grouped_matmul(none, np.zeros((0, 8, 4), np.float16), one).shape == (0, 4)
    two = np.zeros(2, np.int32)
    assert ops.grouped_matmul(none, np.zeros((1, 8, 4), np.float16), two).shape == (0, 4)
    deep = ops.grouped_matmul(
        np.zeros((3, 0), np.float16), np.zeros((1, 0, 4), np.float16), np.array([0, 3], np.int32)
    )
    assert deep.shape == (3, 4) and not deep.any()


def test_lists_are_products_of_their_own() -> None:
    a, b = [normal(3, 8), normal(5, 16)], [normal(8, 4, seed=1), normal(16, 9, seed=2)]
    for found, x, y in zip(ops.grouped_matmul(a, b), a, b, strict=True):
        assert np.allclose(found, x.astype(float) @ y.astype(float), atol=1e-2)
    out = [np.zeros((3, 4), np.float32), np.zeros((5, 9), np.float32)]
    assert [x is y for x, y in zip(ops.grouped_matmul(a, b, out=out), out, strict=True)] == [1, 1]


A, B = normal(4, 8), normal(2, 8, 4)
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: ops.grouped_matmul(A, B, [0, 2, 4]), "offsets is list"),
    (lambda: ops.grouped_matmul(A, B, OFFSETS), r"expected \(3,\) and i32"),
    (lambda: ops.grouped_matmul(A, B, np.zeros(3, np.int64)), "dtype i64"),
    (lambda: ops.grouped_matmul(A, B[0], np.zeros(3, np.int32)), "expected .M, K. and .G, K, N."),
    (
        lambda: ops.grouped_matmul(
            A, B, np.zeros(3, np.int32), schedule=ops.Schedule(64, 64, 32, 3, 128, 2)
        ),
        "split=2",
    ),
    (lambda: ops.grouped_matmul(A, B), "expected a list"),
    (lambda: ops.grouped_matmul([A], [B, B]), "1 arrays in a, 2 in b"),
    (lambda: ops.grouped_matmul([A], [B[0][:3]]), "8 columns and b 3 rows"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case[1][:20])
def test_what_does_not_fit_is_refused_at_the_call(case: tuple[Callable[[], Any], str]) -> None:
    call, words = case
    with pytest.raises(TilecError, match=words) as caught:
        call()
    assert caught.value.code == "TLC0810" and caught.value.loc.file == __file__
    assert caught.value.message.startswith("grouped_matmul: ")
    assert caught.value.hint or "dtype" not in words
