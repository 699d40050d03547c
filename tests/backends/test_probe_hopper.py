"""What mbarriers, TMA and wgmma mean, in the emulator, against NumPy."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.backends.emulation import Probes, every_schedule
from tests.backends.probes_hopper import HOPPER_PROBES, WGMMA, WGMMA_PROBES
from tilec.runtime.emulator import EmulatorError

pytestmark = pytest.mark.emulator

DTYPES: dict[str, Any] = {
    "i8": np.int8, "u8": np.uint8, "i32": np.int32, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
    "f32": np.float32, "tf32": np.float32, "e4m3": ml_dtypes.float8_e4m3fn, "e5m2": ml_dtypes.float8_e5m2,
}  # fmt: skip


@pytest.mark.parametrize("name", WGMMA)
def test_wgmma(name: str) -> None:
    case, random = WGMMA[name], np.random.default_rng(3)
    most = 4 if case.result == "f16" else 8  # sums are exact
    a, b = (
        random.integers(0 if dtype == "u8" else -most, most + 1, shape).astype(DTYPES[dtype])
        for dtype, shape in zip(case.dtypes, ((64, case.depth), (case.n, case.depth)), strict=True)
    )
    expected = a.astype(np.int64) @ b.astype(np.int64).T
    stored_a = np.ascontiguousarray(a.T) if case.a == "mn" else a
    stored_b = np.ascontiguousarray(b.T) if case.b == "mn" else b
    for mode, order in every_schedule():
        d = np.zeros((64, case.n), DTYPES[case.result])
        WGMMA_PROBES.run(name, {"A": stored_a, "B": stored_b, "D": d}, mode, order)
        np.testing.assert_array_equal(d.astype(np.int64), expected)


def corner(letter: str, *at: int) -> dict[str, int]:
    """The scalars of a probe's box that begins there; the last dimension is number 0."""
    return {f"{letter}{i}": x for i, x in enumerate(reversed(at))}


@pytest.mark.parametrize("rank", range(1, 6))
def test_boxes_are_clipped(rank: int) -> None:
    box, shape = (2, 2, 2, 4, 8)[-rank:], (3, 3, 3, 5, 12)[-rank:]
    x = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    for outer, inner in itertools.product((0, 1, -1, 7, -100), (0, 4, 8, -4, 100, -100)):
        start = (*(outer for _ in range(rank - 1)), inner)
        end = tuple(max(0, a) for a in start)
        values = corner("c", *start) | corner("d", *end)
        y, z = np.zeros(shape, np.float32), np.full(box, np.nan, np.float32)
        HOPPER_PROBES.run(f"box_{rank}", {"X": x, "Y": y, "Z": z, **values})
        index, exists = places(start, box, shape)
        assert z.tolist() == np.where(exists, x[index], 0).tolist()
        index, exists = places(end, box, shape)
        expected = np.zeros(shape, np.float32)
        expected[tuple(i[exists] for i in index)] = z[exists]
        assert y.tolist() == expected.tolist()


def places(
    start: tuple[int, ...], box: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """The indices of a box's elements in an array, clipped, and which of them exist."""
    inside = [np.arange(a, a + b) for a, b in zip(start, box, strict=True)]
    grid = np.meshgrid(*inside, indexing="ij")
    exists = np.all([(g >= 0) & (g < n) for g, n in zip(grid, shape, strict=True)], axis=0)
    return tuple(np.clip(g, 0, n - 1) for g, n in zip(grid, shape, strict=True)), exists


def test_boxes_of_a_strided_array() -> None:
    whole = np.arange(5 * 16, dtype=np.float32).reshape(5, 16)
    x, y, z = whole[:, :12], np.zeros((5, 12), np.float32), np.zeros((4, 8), np.float32)
    values = corner("c", 1, 4) | corner("d", 0, 0)
    HOPPER_PROBES.run("box_2", {"X": x, "Y": y, "Z": z, **values})
    assert z.tolist() == x[1:5, 4:12].tolist()


@pytest.mark.finding
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ((0, 1), (0, 0), "tma_load at element 1 of a row"),
        ((0, 0), (0, 6), "tma_store at element 6 of a row"),
        ((0, 0), (-1, 0), "tma_store at coordinate -1"),
        ((0, 0), (0, -4), "tma_store at coordinate -4"),
    ],
)
def test_places_where_no_box_may_begin(
    start: tuple[int, int], end: tuple[int, int], expected: str
) -> None:
    """An H100 takes each of them for an illegal instruction."""
    x = np.zeros((5, 12), np.float32)
    values = corner("c", *start) | corner("d", *end)
    with pytest.raises(EmulatorError, match=expected):
        HOPPER_PROBES.run("box_2", {"X": x, "Y": x.copy(), "Z": np.zeros(32, np.float32), **values})


@pytest.mark.finding
def test_tensor_map_limits() -> None:
    z = np.zeros((4, 8), np.float32)
    bad_stride = np.zeros((5, 13), np.float32)
    origin = corner("c", 0, 0) | corner("d", 0, 0)
    with pytest.raises(EmulatorError, match="X cannot be read by TMA: a stride of 52 bytes"):
        HOPPER_PROBES.run(
            "box_2", {"X": bad_stride, "Y": np.zeros((5, 12), np.float32), "Z": z, **origin}
        )
    with pytest.raises(EmulatorError, match="an array of 1 dimensions, a box of 2"):
        HOPPER_PROBES.run("box_2", {"X": np.zeros(8, np.float32), "Y": z, "Z": z, **origin})


def test_a_ring_of_mbarriers() -> None:
    t = np.arange(64)
    expected = np.where(t < 32, 0, sum(i * 100 for i in range(7)) + 7 * ((t + 1) % 32))
    for mode, order in every_schedule():
        y = np.zeros(64, np.int32)
        HOPPER_PROBES.run("ring", {"Y": y}, mode, order)
        assert y.tolist() == expected.tolist()


def test_ring_of_copies_that_nobody_waits_for() -> None:
    x, t = np.arange(1, 7 * 32 + 1, dtype=np.int32), np.arange(64)
    turns, lanes = x.reshape(7, 32).copy(), np.arange(32)
    turns[::3, lanes % 2 == 1] = 0
    expected = np.where(t < 32, 0, turns.sum(axis=0)[(t + 1) % 32])
    for mode, order in every_schedule():
        y = np.zeros(64, np.int32)
        HOPPER_PROBES.run("copied_ring", {"X": x, "Y": y}, mode, order)
        assert y.tolist() == expected.tolist()


@pytest.mark.finding
def test_a_load_that_nobody_waits_for() -> None:
    probe = HOPPER_PROBES.probes["box_2"]
    body = (
        probe.body.replace("    mbarrier_wait(full, 0, 0);\n", "").partition("    tma_store")[0]
        + "  }\n"
    )
    lost = Probes({"lost": replace(probe, body=body)})
    x = np.zeros((5, 12), np.float32)
    arguments = {
        "X": x,
        "Y": x.copy(),
        "Z": np.zeros(32, np.float32),
        **corner("c", 0, 0),
        **corner("d", 0, 0),
    }
    with pytest.raises(EmulatorError, match="ends with 1 tma_loads that no thread waited for"):
        lost.run("lost", arguments)
