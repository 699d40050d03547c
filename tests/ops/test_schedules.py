"""The choice of a schedule: a pure function of target and extents."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest

from tilec.errors import TilecError
from tilec.ops import schedules
from tilec.ops.schedules import (
    Problem,
    Schedule,
    candidates,
    choose_schedule,
    choose_tile,
    estimate,
)
from tilec.target import TARGETS, find_target

H100 = find_target("cuda:sm_90a")
SIZES = (0, 1, 100, 2048)


def blocks(p: Problem, s: Schedule) -> int:
    if s.swapped:
        p = p.swapped
    return ceil(p.M / s.block_M) * ceil(p.N / s.block_N) * p.batch * s.split


@pytest.mark.parametrize(
    "shape", [(4096,) * 3, (8192,) * 3, (16384, 16384, 4096), (8192, 8192, 128)]
)
def test_large_products_get_the_tile_that_needs_the_fewest_bytes(shape: tuple[int, ...]) -> None:
    for a, b in (("rows", "columns"), ("rows", "rows"), ("columns", "rows")):
        chosen = choose_schedule(H100, Problem(*shape, a=a, b=b))
        assert (chosen.block_M, chosen.block_N, chosen.block_K, chosen.split) == (128, 256, 64, 1)
        assert chosen.threads == 256 and chosen.stages == 4


@pytest.mark.parametrize("few", [1, 8, 16, 64])
@pytest.mark.parametrize("rows", [True, False])
def test_few_rows_or_columns_stream_as_fast_as_memory_gives(few: int, rows: bool) -> None:
    """By nearly all multiprocessors at once, each with what memory delivers to it in flight, and
    with little outside of the matrix: one H200, 8192 x 16 x 8192 took 77 us by tiles of 64 x 128,
    43 by 64 x 16."""
    p = Problem(few, 8192, 8192) if rows else Problem(8192, few, 8192)
    chosen = choose_schedule(H100, p)
    assert 0.9 * H100.multiprocessors <= blocks(p, chosen) <= H100.multiprocessors
    assert chosen.split == 1 and (chosen.cluster_M, chosen.cluster_N) == (1, 1)
    # What memory delivers in its latency: 3000 bytes a ns in 1000 ns.
    filled = 64 * chosen.block_K * 2 * (chosen.stages - 1)
    assert blocks(p, chosen) * filled >= 2 * 3_000_000
    assert chosen.swapped == (rows and few < 64)
    tile = (chosen.block_N, chosen.block_M) if chosen.swapped or not rows else ()
    assert not tile or tile == (max(few, 8), 64)


def test_a_cluster_is_filled_up_with_tiles_that_do_nothing() -> None:
    """One H200, 64 x 5000 x 8200: 53 us in clusters of two along M, of which one has no tile, 38
    without."""
    p = Problem(64, 5000, 8200, astray="AB")
    s = Schedule(64, 128, 64, 8, 128, split=3)
    along_m, along_n = replace(s, cluster_M=2), replace(s, cluster_N=2)
    assert estimate(H100, p, along_m) > estimate(H100, p, along_n)
    assert choose_schedule(H100, p).cluster_M == 1


@pytest.mark.parametrize("shape", [(32, 4096, 14336), (16, 2048, 2048), (24, 4096, 4096)])
def test_blocks_of_a_cluster_have_no_rows_to_load_of_few(shape: tuple[int, int, int]) -> None:
    """The first block loads all of A, the second what is outside. One H200, 32 x 4096 x 14336: 67.7 us
    by twos, 32.3 alone; 16 x 2048 x 2048 7.7 by fours, 5.7 alone."""
    p = Problem(*shape, astray="AB")
    alone = Schedule(64, 32, 128, 9, 128)
    in_twos = replace(alone, cluster_N=2)
    assert estimate(H100, p, in_twos) > 1.05 * estimate(H100, p, alone)
    clusters = {(s.cluster_M, s.cluster_N) for s in candidates(H100, p) if not s.swapped}
    assert (2, 1) not in clusters, "one tile along M"
    assert {(s.cluster_M, s.cluster_N) for s in candidates(H100, Problem(*shape))} == {(1, 1)}


@pytest.mark.parametrize("eights", [14, 15, 16])
def test_clusters_of_eight_are_as_many_as_the_gpu_runs_at_once(eights: int) -> None:
    """They share lines that start within sectors where one wave has all tiles. One H200 that runs 15 of
    them: 704 x 928 x 3112 12.5 us for 16.4 by twos, and of 128 blocks twice as long."""
    here = replace(H100, resident_clusters=lambda blocks: eights if blocks == 8 else 30)
    wide = 0
    for m, n in ((704, 928), (1168, 1432), (600, 1104), (2368, 504), (632, 696), (3664, 592)):
        p = Problem(m, n, 3112, astray="AB")
        s = choose_schedule(here, p)
        if s.cluster_M * s.cluster_N == 8:
            wide += 1
            rows, columns = (n, m) if s.swapped else (m, n)
            down = ceil(ceil(rows / s.block_M) / s.cluster_M) * s.cluster_M
            across = ceil(ceil(columns / s.block_N) / s.cluster_N) * s.cluster_N
            assert down * across <= 8 * eights
    assert wide >= 3
    assert choose_schedule(here, Problem(704, 928, 3112)).cluster_M == 1
    assert choose_schedule(here, Problem(4000, 5000, 3000, astray="AB")).cluster_M <= 2


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


@pytest.mark.parametrize("target", ["cuda:sm_80", "cuda:sm_90a"])
def test_of_f64_two_blocks_share_a_multiprocessor(target: str) -> None:
    """One multiplies while the other waits for its fragments: the largest tile of which two fit, in as
    many stages as that leaves; smaller ones where they are too few."""
    machine = find_target(target)
    large, small = (choose_schedule(machine, Problem(n, n, n, "f64")) for n in (4096, 512))
    assert large.block_M * large.block_N == 128 * 64 and large.block_K == 16
    assert large.stages == {"cuda:sm_80": 3, "cuda:sm_90a": 4}[target]
    for s in (large, small):
        stages = s.stages * (s.block_M + s.block_N) * s.block_K * 8
        assert 2 * (stages + 1024) <= machine.multiprocessor_shared_bytes
        assert 2 * s.block_M * s.block_N // s.threads <= 128, "registers of sums"
    assert blocks(Problem(512, 512, 512, "f64"), small) > machine.multiprocessors
    p = Problem(2048, 2048, 2048, "f64")
    twice = estimate(find_target("cuda:sm_100a"), p, large) / estimate(H100, p, large)
    assert 1.7 < twice < 2, "m8n8k4 runs at half the rate of m16n8k16"


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
    """One H200, 4000 x 5000 x 3000: 197 us, in clusters 176; by 128 x 256 220, 174, along the other way 191."""
    by = {names: choose_schedule(H100, Problem(*shape, astray=names)) for names in ("", "A", "AB")}
    assert (by[""].cluster_M, by[""].cluster_N) == (1, 1)
    assert (by["AB"].threads, by["AB"].cluster_M, by["AB"].cluster_N) == (256, 2, 1)
    slower = replace(by["AB"], cluster_M=1, cluster_N=2)
    problem = Problem(*shape, astray="AB")
    alone = replace(by["AB"], cluster_M=1)
    estimates = [estimate(H100, problem, s) for s in (by["AB"], slower, alone)]
    assert estimates[0] < 0.98 * estimates[1] and estimates[0] < 0.98 * estimates[2]
    if shape != (1000, 8200, 520):  # bound by memory
        assert estimates[0] < 0.9 * estimates[2]
    for other in ("cuda:sm_80", "cuda:sm_120a", "hip:gfx942"):
        found = candidates(find_target(other), problem)
        assert {(s.cluster_M, s.cluster_N) for s in found} == {(1, 1)}


@pytest.mark.parametrize(
    ("shape", "columns"),
    [((1800, 2400, 1200), [184]), ((3072, 3072, 3072), [192]), ((1152, 4096, 2048), [192]),
     ((2880, 2880, 2880), [112, 176])],
)  # fmt: skip
def test_tiles_of_three_warpgroups_fill_a_wave_that_others_do_not(
    shape: tuple[int, int, int], columns: list[int]
) -> None:
    """One H200: 21.4 us for 25.6 (and 18.9 by 184 columns of the transposed product, where 192 take
    19.3), 80.1 for 81.4, 31.1 for 32.0, 70.9 for 71.9 (of which 112 and 176 columns take 68.9 and
    68.4 on another)."""
    chosen = choose_schedule(H100, Problem(*shape))
    assert (chosen.block_M, chosen.threads) == (192, 384) and chosen.block_N in columns
    assert chosen.workers == 0 and chosen.stages >= 4


def test_a_last_wave_is_shared_where_that_pays() -> None:
    """One H200: 8192^3 1.024 times as fast; 2560^3 65 us shared and 59 not, for the helpers are fewer
    than the tiles."""
    assert choose_schedule(H100, Problem(8192, 8192, 8192)).workers == H100.multiprocessors
    assert choose_schedule(H100, Problem(4096, 11008, 4096)).workers == H100.multiprocessors
    assert choose_schedule(H100, Problem(2560, 2560, 2560)).workers == 0


@pytest.mark.parametrize(("few", "n", "k"), [(1, 100, 64), (24, 5120, 5120), (64, 50000, 8192)])
def test_swapped_estimates_are_those_of_the_transposed_product(
    few: int, n: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for its stores: its tiles' columns are rows of the result."""
    p = Problem(few, n, k, astray="A")
    assert p.swapped == Problem(n, few, k, astray="B") and p.swapped.swapped == p
    assert Problem(few, n, k, b="rows").swapped == Problem(n, few, k, a="columns")
    found = [s for s in candidates(H100, p) if s.swapped]
    assert found and not any(s.workers for s in found)
    monkeypatch.setattr(schedules, "_end_clocks", lambda *_: 0.0)
    for s in found:
        assert estimate(H100, p, s) == estimate(H100, p.swapped, replace(s, swapped=False))
    for other in ("cuda:sm_80", "hip:gfx942"):  # whose tiles have as few rows as they need
        assert not any(s.swapped for s in candidates(find_target(other), p))


def test_the_estimate_grows_with_the_work() -> None:
    s = Schedule(128, 256, 64, 4, 256)
    for small, large in (((512, 512, 512), (512, 512, 1024)), ((4096,) * 3, (8192,) * 3)):
        assert estimate(H100, Problem(*small), s) < estimate(H100, Problem(*large), s)


@pytest.mark.parametrize("shape", [(16, 65536, 8192), (65536, 64, 4096)])
@pytest.mark.parametrize("dtype", ["f16", "f32"])
def test_no_estimate_is_below_what_memory_takes(shape: tuple[int, ...], dtype: str) -> None:
    p = Problem(*shape, dtype)
    operands = (p.M * p.K + p.K * p.N) * p.item_bytes
    least = (operands + p.M * p.N * p.out_bytes) / schedules._MEMORY / H100.multiprocessors
    assert estimate(H100, p, choose_schedule(H100, p)) > least


def test_a_choice_is_the_same_every_time() -> None:
    p = Problem(1000, 8200, 520)
    assert len({choose_schedule(H100, p) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("arch", "depths"),
    [("sm_75", (32, 32)), ("sm_80", (64, 64)), ("sm_86", (32, 64)), ("sm_89", (32, 64))],
)
def test_steps_of_warps_are_whole_lines_where_three_stages_fit(
    arch: str, depths: tuple[int, int]
) -> None:
    """Of 128 x 256 and of 128 x 128. One H200, by sm_80 code: 128 x 256 takes 1.05 to 1.25 times as
    long by steps of 32."""
    by_tile = {
        (s.block_M, s.block_N): s
        for s in candidates(find_target(f"cuda:{arch}"), Problem(4096, 4096, 4096))
    }
    large, square = by_tile[128, 256], by_tile[128, 128]
    assert (large.block_K, square.block_K) == depths
    assert large.stages >= (2 if arch == "sm_75" else 3)


@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_90a", "sm_120a", "gfx942"])
def test_a_tile_for_a_program_of_its_own(target: str) -> None:
    """Each for a kernel that has these parameters, whatever the extents."""
    here = find_target(f"hip:{target}" if target == "gfx942" else f"cuda:{target}")
    for shape in ((4096, 4096, 4096), (1, 8192, 8192), (17, 5, 0), (0, 5, 5), (5, 0, 7)):
        tile = choose_tile(here, *shape)
        assert list(tile) == ["block_M", "block_N", "block_K", "stages", "threads"]
        rows = tile["block_M"] + tile["block_N"]
        assert 2 * rows * tile["block_K"] * tile["stages"] <= here.shared_bytes


def test_a_program_of_its_own_shares_last_waves_and_lines() -> None:
    """As `matmul` does; but its tiles end behind the matrix, where TMA fills with zeros, and it has
    no parts along K."""
    tiles = {shape: tuple(choose_tile(H100, *shape).values())[:2] for shape in (
        (8192, 8192, 8192), (4000, 5000, 3000), (704, 928, 3112), (1800, 2400, 1200))}  # fmt: skip
    assert tiles[8192, 8192, 8192] == (128, 256)  # by waves alone 256 x 144
    assert tiles[4000, 5000, 3000] == (256, 152)  # in clusters; 192 x 200 without
    assert tiles[704, 928, 3112] == (64, 96)
    whole = choose_schedule(H100, Problem(1800, 2400, 1200))
    assert tiles[1800, 2400, 1200] != (whole.block_M, whole.block_N)


def test_a_tile_of_other_dtypes() -> None:
    assert choose_tile(H100, 4096, 4096, 4096, "float8_e4m3fn")["block_K"] == 128
    with pytest.raises(TilecError):
        choose_tile(H100, 4096, 4096, 4096, "float17")
