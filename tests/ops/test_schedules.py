"""The choice of a schedule: a pure function of target and extents."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from tilec.ops.schedules import Problem, Schedule, candidates, choose_schedule, estimate
from tilec.target import TARGETS, find_target

H100 = find_target("cuda:sm_90a")
SIZES = (0, 1, 100, 2048)


def blocks(p: Problem, s: Schedule) -> int:
    return ceil(p.M / s.block_M) * ceil(p.N / s.block_N) * p.batch * s.split


@pytest.mark.parametrize(
    "shape", [(4096,) * 3, (8192,) * 3, (16384, 16384, 4096), (8192, 8192, 128)]
)
def test_large_products_get_the_tile_that_needs_the_fewest_bytes(shape: tuple[int, ...]) -> None:
    for a, b in (("rows", "columns"), ("rows", "rows"), ("columns", "rows")):
        chosen = choose_schedule(H100, Problem(*shape, a=a, b=b))
        assert (chosen.block_M, chosen.block_N, chosen.block_K, chosen.split) == (128, 256, 64, 1)
        assert chosen.threads == 256 and chosen.stages == 4


@pytest.mark.parametrize("rows", [1, 8, 16, 64])
def test_few_rows_stream_as_fast_as_memory_gives(rows: int) -> None:
    """By half of the multiprocessors or more (59.9 us by 64 blocks, 62.9 by 128), without parts."""
    p = Problem(rows, 8192, 8192)
    chosen = choose_schedule(H100, p)
    count = blocks(p, chosen)
    assert 64 <= count <= H100.multiprocessors and chosen.split == 1
    # In flight: what memory delivers to each of them in its latency, 3000 bytes a ns in 1000 ns.
    row = chosen.block_K * 2
    assert count * chosen.block_N * row * (chosen.stages - 1) >= 2 * 3_000_000


@pytest.mark.parametrize("size", [512, 1024, 2048])
def test_small_products_fill_one_wave(size: int) -> None:
    p = Problem(size, size, size)
    assert 0.9 * H100.multiprocessors <= blocks(p, choose_schedule(H100, p)) <= H100.multiprocessors


def test_deep_products_of_one_tile_are_cut_along_k() -> None:
    p = Problem(128, 128, 65536)
    assert choose_schedule(H100, p).split > 1
    assert choose_schedule(H100, Problem(128, 128, 512)).split == 1


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "tf32", "f64", "i8", "u8", "e4m3", "e5m2"])
def test_every_extent_has_a_schedule_that_fits_the_target(target: str, dtype: str) -> None:
    machine = find_target(target)
    for m in SIZES:
        for n, k in ((m, 8192), (8192, m), (1, m)):
            for b in ("rows", "columns", "any"):
                p = Problem(m, n, k, dtype, b=b)
                s = choose_schedule(machine, p)
                assert s in list(candidates(machine, p))
                stage = (s.block_M + s.block_N) * s.block_K * p.item_bytes
                assert 2 * stage <= machine.shared_bytes and s.stages >= 2
                assert s.block_K * p.item_bytes >= 16, "rows of a tile are whole vectors"


def test_two_sets_of_sums_get_a_tile_that_registers_hold() -> None:
    for n in (64, 1024, 8192):
        s = choose_schedule(H100, Problem(n, n, n, "e4m3", exact=True))
        assert 2 * s.block_M * s.block_N // s.threads <= 192


def test_sums_apart_cost_more_in_large_tiles() -> None:
    """One H200: 102 us by 128 x 128, 108 by 128 x 192 at 4096; at 8192 the larger one."""
    for n, columns in ((4096, 128), (8192, 192)):
        s = choose_schedule(H100, Problem(n, n, n, "e4m3", exact=True))
        assert (s.block_M, s.block_N, s.threads) == (128, columns, 256)


@pytest.mark.parametrize("shape", [(4000, 5000, 3000), (8192,) * 3, (1000, 8200, 520)])
def test_a_cluster_shares_lines_that_tma_is_slow_to_load(shape: tuple[int, int, int]) -> None:
    """One H200, 4000 x 5000 x 3000: 255 us, in clusters 180, along the other way 223."""
    by = {names: choose_schedule(H100, Problem(*shape, astray=names)) for names in ("", "A", "AB")}
    assert (by[""].cluster_M, by[""].cluster_N) == (1, 1)
    assert (by["AB"].block_M, by["AB"].block_N, by["AB"].cluster_M) == (128, 256, 2)
    slower = replace(by["AB"], cluster_M=1, cluster_N=2)
    problem = Problem(*shape, astray="AB")
    assert estimate(H100, problem, by["AB"]) < 0.9 * estimate(H100, problem, slower)
    for other in ("cuda:sm_80", "cuda:sm_120a", "hip:gfx942"):
        found = candidates(find_target(other), problem)
        assert {(s.cluster_M, s.cluster_N) for s in found} == {(1, 1)}


@pytest.mark.parametrize(("n", "k", "columns"), [(8192, 8192, 128), (4096, 4096, 64)])
def test_few_rows_are_asked_for_once_a_cluster(n: int, k: int, columns: int) -> None:
    """One H200, 8 rows: 48.9 us alone, 45.0 in clusters of four; of 4096 columns 20.6 and 18.5."""
    for rows in (2, 8, 16):
        s = choose_schedule(H100, Problem(rows, n, k))
        assert (s.block_M, s.block_N, s.cluster_M, s.cluster_N) == (64, columns, 1, 4)
    assert choose_schedule(H100, Problem(64, n, k)).cluster_N == 1


def test_the_estimate_grows_with_the_work() -> None:
    s = Schedule(128, 256, 64, 4, 256)
    for small, large in (((512, 512, 512), (512, 512, 1024)), ((4096,) * 3, (8192,) * 3)):
        assert estimate(H100, Problem(*small), s) < estimate(H100, Problem(*large), s)


def test_a_choice_is_the_same_every_time() -> None:
    p = Problem(1000, 8200, 520)
    assert len({choose_schedule(H100, p) for _ in range(5)}) == 1
