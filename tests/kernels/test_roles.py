"""Launches by roles on sm_90a, loops of every kind: the emulated text against exact products at the
trip counts where pipelines go wrong, with the passes interpreted (TILEC_CHECK).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kernels import role_programs as programs
from tests.kernels.instructions import count_instructions
from tests.kernels.machines import SCHEDULES
from tests.kernels.test_vendor_compilers import check_nvidia
from tilec.ir.dtypes import find_dtype
from tilec.runtime.driver import lower
from tilec.runtime.emulator_device import EmulatorDevice

TARGET = "cuda:sm_90a"
STAGES = 3
TRIPS = (0, 1, STAGES - 1, STAGES, STAGES + 1, 2 * STAGES + 1)
# Operands, their sums, elements of k in a step: a row of a swizzle, of 1-byte elements two.
DTYPES = [
    ("float16", "float32", 64),
    ("float8_e4m3fn", "float32", 256),
    pytest.param("int8", "int32", 128, marks=pytest.mark.nightly),
]

Case = tuple[tuple[Any, ...], tuple[Any, ...]]
"""The inputs of a program, and what it makes of them."""


class Draw:
    """Small integers of one dtype, for whose products and sums any dtype and order is exact."""

    def __init__(self, dtype: str, seed: int) -> None:
        self.dtype, self.random = find_dtype(dtype).numpy, np.random.default_rng(seed)

    def __call__(self, *shape: int) -> Any:
        return self.random.integers(-3, 4, shape).astype(self.dtype)


def wide(x: Any) -> Any:
    return x.astype(np.float64)


def product(a: Any, b: Any) -> Any:
    return wide(a) @ np.swapaxes(wide(b), -1, -2)


def two_loops(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    length = max(0, k - bk)
    a, b, d, e = draw(m, k), draw(n, k), draw(m, length), draw(n, length)
    return (a, b, d, e), (product(a, b) + product(d, e),)


def plain(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b = draw(m, k), draw(n, k)
    return (a, b), (product(a, b),)


def masked(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b = draw(m, k), draw(n, k)
    mask = np.array([1, 0, 0, 1, 1, 0, 1][: max(1, -(-k // bk))], np.int32)
    return (a, b, mask), (product(wide(a) * np.repeat(mask, bk)[:k], b),)


def paged(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, pool = draw(m, k), draw(5, n, bk)
    table = np.arange(1, 1 + 3 * max(1, -(-k // bk)), 3, dtype=np.int32) % 5
    return (a, pool, table), (product(a, np.concatenate(list(pool[table]), axis=1)[:, :k]),)


def counted(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b, trips = draw(m, k), draw(n, k), -(-k // bk)
    counts = np.array([(trips + row) % (trips + 1) for row in range(-(-m // 64))], np.int32)
    used = np.arange(k) < np.repeat(counts, 64)[:m, None] * bk
    return (a, b, counts), (product(wide(a) * used, b),)


def two_gemms(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b, e = draw(m, k), draw(n, k), draw(n, k)
    return (a, b, e), (product(a, b), product(a, e))


def batched(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b, index = draw(3, m, k), draw(2, n, k), np.array([1, 0, 1], np.int32)
    return (a, b, index), (product(a, b[index]),)


def five_dimensions(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    a, b = draw(2, 1, 2, m, k), draw(n, k)
    return (a, b), (product(a, b),)


def convolution(draw: Draw, m: int, n: int, k: int, bk: int) -> Case:
    depth = k % (2 * bk)  # nine times as many steps as elsewhere
    x, f = draw(2, 9, 7, depth), draw(3, 3, n, depth)
    around = np.pad(wide(x), ((0, 0), (1, 1), (1, 1), (0, 0)))
    parts = (product(around[:, r : r + 9, s : s + 7], f[r, s]) for r, s in np.ndindex(3, 3))
    return (x, f), (sum(parts),)


CASES: dict[str, Callable[[Draw, int, int, int, int], Case]] = {
    "two_loops": two_loops, "nested": plain, "masked": masked, "guarded": masked, "paged": paged,
    "counted": counted, "resident": plain, "two_gemms": two_gemms, "batched": batched,
    "five_dimensions": five_dimensions, "convolution": convolution,
}  # fmt: skip
# What is not pipelined, and so run by one role: a remark says why.
WITHOUT_ROLES = {"masked": "TLC0310"}
# Where the extents that TILEC_CHECK draws multiply to more than can be interpreted.
UNCHECKED = ("five_dimensions", "convolution")


def sizes(bk: int) -> Iterator[tuple[int, int, int]]:
    """Every trip count, of whole tiles and of ragged ones in turn, and rows that fill no tile."""
    for number, trips in enumerate(TRIPS):
        ragged = number % 2 * 16 if trips else 0
        yield *((65, 72) if number % 2 else (128, 64)), trips * bk - ragged
    yield 40, 24, (STAGES + 1) * bk  # lower than a tile, as far as tensors have no known extents


@pytest.mark.emulator
@pytest.mark.parametrize(("dtype", "total", "bk"), DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_loops(
    name: str, dtype: str, total: str, bk: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if name not in UNCHECKED:
        monkeypatch.setenv("TILEC_CHECK", "1")
    kernel = getattr(programs, name)(dtype, total, bk)
    compiled = lower(kernel, (), TARGET, {"stages": STAGES})
    expected = WITHOUT_ROLES.get(name, "TLC0323")
    assert expected in [remark.code for remark in compiled.remarks]
    found = count_instructions(compiled.lowered.program)
    by_roles = name not in WITHOUT_ROLES
    assert (found["wgmma"] + found["wgmma_registers"] > 0) == (found["tma_load"] > 0) == by_roles
    if by_roles:
        check_nvidia(compiled.lowered, "sm_90a", tmp_path)
    every = list(enumerate(sizes(bk)))
    # The longest tiles take some of the trip counts: which ones there are hangs on no dtype.
    for number, size in every if bk < 256 else every[len(name) % 3 :: 3]:
        inputs, outputs = CASES[name](Draw(dtype, number), *size, bk)
        results = [np.full(x.shape, -1, find_dtype(total).numpy) for x in outputs]
        mode, order = SCHEDULES[number % len(SCHEDULES)]
        device = EmulatorDevice(TARGET, "a test", mode, order)
        compiled.run_on(device, (*inputs, *results))
        for result, output in zip(results, outputs, strict=True):
            assert np.array_equal(result, output), (size, mode, order)
