"""T.copy: which elements it moves, seen by the interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.kernels.legs import DEVICES


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


def past_the_end(dtype: str, safe: float) -> Any:
    @tilec.kernel
    def reads(
        A: T.Tensor(("N", 64), dtype), B: T.Tensor((64, 64), dtype), C: T.Tensor((64, 64), dtype)
    ):
        with T.Kernel(1, threads=128):
            T.annotate_safe_value({A: safe})
            S = T.alloc_shared((64, 64), dtype)
            T.copy(A[0, 0], S)
            T.copy(S, B)
            for i, j in T.Parallel(64, 64):
                C[i, j] = A[i, j]

    return reads


@pytest.mark.emulator
@pytest.mark.parametrize(
    "device", ["interpreter", "emulator:cuda:sm_80", "emulator:cuda:sm_90a", "emulator:hip:gfx942"]
)
def test_safe_values_keep_their_bits(device: str) -> None:
    """Also a zero that is not the machine's own, and an integer that no float is."""
    for dtype, safe in (("float16", -0.0), ("int64", 2**63 - 1)):
        a = np.ones((60, 64), dtype)
        b, c = np.zeros((2, 64, 64), dtype)
        past_the_end(dtype, safe)(a, b, c, device=device)
        expected = np.concatenate([a, np.full((4, 64), safe, dtype)])
        assert b.tobytes() == c.tobytes() == expected.tobytes()


@tilec.kernel
def within(X: T.Tensor((48, 16), "float32"), n: T.int32, how: str = "rows"):
    """The 16 rows from the n-th on move to those from the 8th on."""
    with T.Kernel(1, threads=64):
        S = T.alloc_shared((48, 16), "float32")
        if how == "rows":
            T.copy(X[n, 0], X[8:24, :])
        elif how == "columns":
            T.copy(X[n : n + 16, 0:15], X[8:24, 1:16])
        else:
            T.copy(X, S)
            T.copy(S[n : n + 16, :], S[8:24, :])
            T.copy(S[24:40, :], S[8:24, :]) if how == "apart" else None
            T.copy(S[2:18, :], S[2:18, :])
            T.copy(S[n, :], S[7, :]) if how == "one" else None
            T.copy(S, X)


@pytest.mark.emulator
@pytest.mark.parametrize("device", DEVICES)
def test_all_is_read_before_any_is_written(device: str) -> None:
    x = np.random.default_rng(0).standard_normal((48, 16)).astype(np.float32)
    for how in ("rows", "columns", "shared", "apart", "one"):
        for n in (0, 7, 8, 20):
            expected, found = x.copy(), x.copy()
            columns = slice(0, 15) if how == "columns" else slice(0, 16)
            moved = x[24:40] if how == "apart" else x[n : n + 16, columns]
            expected[8:24, 16 - moved.shape[1] :] = moved
            if how == "one":
                expected[7] = expected[n]
            within(found, n, how=how, device=device)
            assert np.array_equal(found, expected), (how, n)


def test_what_is_apart_moves_at_once() -> None:
    @tilec.kernel
    def halves(X: T.Tensor((64, 16), "float32"), n: T.int32):
        with T.Kernel(1, threads=64):
            T.copy(X[n : n + 8, :], X[n + 8 : n + 16, :])

    assert "barrier_for_stores();" not in halves.lower(target="cuda:sm_80").source
