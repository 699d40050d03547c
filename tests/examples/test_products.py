"""The examples of products, on the interpreter and three machines, at ragged sizes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import tilec.language as T
from tests.kernels.legs import every_leg, one_leg, turns
from tests.modules import example
from tilec.ir.dtypes import find_dtype


def normal(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Any:
    numbers = np.random.default_rng(seed + sum(shape)).standard_normal(shape)
    return numbers.astype(np.float32).astype(find_dtype(dtype).numpy)


TRANSPOSES = [(a, b) for a in (False, True) for b in (False, True)]
SIZES = [(72, 88, 72), (65, 1, 31), (67, 71, 0)]


@pytest.mark.emulator
@pytest.mark.parametrize(("device", "case"), turns(itertools.product(SIZES, TRANSPOSES)))
def test_gemm_transposes(device: str, case: tuple[tuple[int, int, int], tuple[bool, bool]]) -> None:
    module = example("gemm_transposes")
    size, transposes = case
    (m, n, k), (ta, tb) = case
    turn = SIZES.index(size) + TRANSPOSES.index(transposes)
    dtype = ("float16", "bfloat16")[turn % 2]
    policy = list(T.GemmWarpPolicy)[turn % 3]
    a = normal((k, m) if ta else (m, k), dtype)
    b = normal((n, k) if tb else (k, n), dtype, 1)
    c = np.full((m, n), np.nan, np.float32).astype(a.dtype)
    constants = {"block_M": 64, "block_N": 64, "block_K": 32, "dtype": dtype, "policy": policy}
    *_, result = one_leg(
        device, module.matmul, a, b, c, transpose_A=ta, transpose_B=tb, **constants
    )
    module.check(a, b, result, ta, tb)


# M, N, K and blocks: fewer blocks than tiles, more, tiles that four share, blocks with no step, one
# tile, none, and no step at all. Each number of blocks is a kernel to compile for every leg: two do.
STREAMS = [
    (130, 70, 200, 4), (65, 64, 96, 7), (64, 64, 300, 4), (64, 64, 32, 7), (1, 1, 1, 4),
    (0, 5, 40, 4), (66, 3, 0, 4),
]  # fmt: skip


@pytest.mark.emulator
def test_stream_k() -> None:
    module = example("stream_k")
    for m, n, k, workers in STREAMS:
        a, b = normal((m, k), "float16"), normal((n, k), "float16", 1)
        c = np.full((m, n), np.nan, np.float16)
        tile = {"block_M": 64, "block_N": 64, "block_K": 32, "threads": 128}
        bits = set()
        for leg, (*_, found) in every_leg(module.stream_k, a, b, c, workers=workers, **tile):
            try:
                module.check(a, b, found)
            except AssertionError as wrong:
                raise AssertionError(f"{leg}, {m} x {n} x {k}: {wrong}") from wrong
            bits.add((leg, found.tobytes()))
        again = dict(every_leg(module.stream_k, a, b, c, workers=workers, **tile))
        assert bits == {(leg, found.tobytes()) for leg, (*_, found) in again.items()}


CONVOLUTIONS = [
    ((2, 9, 7, 24), 40, {}),
    ((1, 8, 8, 3), 64, {"stride": 2}),
    ((1, 5, 6, 32), 65, {"size": 1, "padding": 0}),
    ((1, 12, 5, 5), 7, {"size": 5, "padding": 2, "stride": 3, "dtype": "bfloat16"}),
]


@pytest.mark.emulator
@pytest.mark.parametrize(("image", "filters", "shape"), CONVOLUTIONS, ids=str)
def test_convolution(image: tuple[int, ...], filters: int, shape: dict[str, Any]) -> None:
    module = example("convolution")
    dtype = shape.get("dtype", "float16")
    window = {k: v for k, v in shape.items() if k != "dtype"}
    size, stride, padding = (
        window.get(n, d) for n, d in (("size", 3), ("stride", 1), ("padding", 1))
    )
    x = normal(image, dtype)
    taps = normal((size * size * image[3], filters), dtype, 1)
    rows, columns = (module.extent(n, size, stride, padding) for n in image[1:3])
    y = np.full((image[0], rows, columns, filters), np.nan, np.float32).astype(x.dtype)
    for leg, (*_, found) in every_leg(module.convolution, x, taps, y, **shape):
        try:
            module.check(x, taps, found, **window)
        except AssertionError as wrong:
            raise AssertionError(f"{leg}: {wrong}") from wrong


def test_the_checks_find_a_wrong_element() -> None:
    gemm, convolution = example("gemm_transposes"), example("convolution")
    a, b = normal((8, 16), "float16"), normal((16, 8), "float16", 1)
    c = gemm.reference(a, b).astype(np.float16)
    gemm.check(a, b, c)
    x, taps = normal((1, 4, 4, 2), "float16"), normal((18, 3), "float16", 1)
    y = convolution.reference(x, taps).astype(np.float16)
    convolution.check(x, taps, y)
    for wrong in (np.nan, 40):
        c[3, 5], y[0, 1, 2, 1] = wrong, wrong
        with pytest.raises(AssertionError, match="1 of 64"):
            gemm.check(a, b, c)
        with pytest.raises(AssertionError, match="1 of 48"):
            convolution.check(x, taps, y)
