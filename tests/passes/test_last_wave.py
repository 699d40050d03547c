"""LastWave: every step of a shared tile is done once, by who has none of its own."""

from __future__ import annotations

import pytest

from tilec.ir.build import Builder
from tilec.ir.core import constant_of
from tilec.passes.last_wave import HELPERS, LastWave, Numbers


@pytest.mark.parametrize("workers", [1, 2, 5, 8, 132])
def test_every_step_is_done_once(workers: int) -> None:
    for rest in {0, 1, 2, 3, workers // 3, workers // 2, workers // 2 + 1, workers - 1} & set(
        range(workers)
    ):
        for steps in (0, 1, 2, 3, 7, 64, 129, 2**20, 2**25):
            wave = LastWave.of(Numbers(), rest, steps, workers)
            assert 0 <= wave.own <= steps and wave.own + wave.given == steps
            assert wave.own > 0 or steps == 0
            assert rest + wave.helpers <= workers
            parts: list[list[tuple[int, int]]] = [[] for _ in range(rest)]
            for helper in range(wave.helpers):
                begin = min(helper * wave.share, rest * wave.given)
                end = min((helper + 1) * wave.share, rest * wave.given)
                for tile in range(rest):
                    first, last = tile * wave.given, (tile + 1) * wave.given
                    if max(begin, first) < min(end, last):
                        parts[tile].append((max(begin, first) - first, min(end, last) - first))
            for found in parts:
                edges = [0, *(last for _, last in found)]
                assert [first for first, _ in found] == edges[:-1]
                assert edges[-1] == wave.given or not wave.helpers
                assert len(found) <= min(HELPERS, max(wave.for_each, 2))


def test_who_is_idle_helps() -> None:
    """Of 8192^3: 68 tiles of 128 x 256 are left for 132 blocks; 64 do half of each."""
    wave = LastWave.of(Numbers(), 68, 128, 132)
    assert wave.helpers == 64 and 58 <= wave.given <= 62
    few = LastWave.of(Numbers(), 8, 80, 132)
    assert few.for_each == HELPERS and few.helpers == 24 and few.own < 80 / 3


@pytest.mark.parametrize(("rest", "steps"), [(0, 5), (3, 129), (68, 128), (131, 2**25)])
def test_a_program_deals_out_as_numbers_do(rest: int, steps: int) -> None:
    b = Builder()
    wave, numbers = (
        LastWave.of(b, b.const(rest), b.const(steps), 132),
        LastWave.of(Numbers(), rest, steps, 132),
    )
    for name in ("for_each", "helpers", "own", "given", "share"):
        assert constant_of(getattr(wave, name)) == getattr(numbers, name)
