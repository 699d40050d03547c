"""The benchmark's own logic, with a clock and contestants that are not real."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gemm
from benchmarks.gemm_rows import TABLE, Row, given, select
from benchmarks.interleaved import Race, race

ROW = Row("large", 4096, 4096, 4096, 0.99)
SKINNY = Row("skinny", 1, 8192, 8192, 1.15, bandwidth=0.8)


def test_every_round_has_each_contestant_once_and_another_first() -> None:
    order: list[str] = []
    took = {"a": 2.0, "b": 3.0, "c": 5.0}
    contestants = {name: lambda name=name: order.append(name) or name for name in took}

    def clock(run: Callable[[], object]) -> float:
        return took[str(run())]

    found = race(contestants, clock, rounds=6)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 9 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert {r[0] for r in rounds[3:]} == {"a", "b", "c"}
    assert {name: len(times) for name, times in found.times.items()} == dict.fromkeys(took, 6)
    assert found.ratio("a", "b") == 1.5 and found.median("c") == 5.0


def test_a_ratio_is_the_median_of_pairs_not_the_pair_of_medians() -> None:
    found = Race({"ours": [1.0, 10.0, 2.0], "peer": [2.0, 10.0, 8.0]})
    assert found.ratio("ours", "peer") == 2.0


def test_a_bar_is_met_a_hundredth_below_and_a_missing_ratio_is_told() -> None:
    def result(cublas: float, **more: Any) -> dict[str, Any]:
        return {"ops": {"cublas": cublas, "triton": 1.2}, **more}

    assert gemm.missed(ROW, result(0.981)) == []
    assert gemm.missed(ROW, result(0.979)) == ["cublas 0.979 < 0.99"]
    assert gemm.missed(ROW, result(math.nan)) == ["cublas nan < 0.99"]
    assert gemm.missed(SKINNY, result(1.2, bandwidth=0.7)) == ["bandwidth 0.700 < 0.80"]
    assert gemm.missed(ROW, {"ops": {}}) == ["cublas did not race"]


def test_a_failing_row_is_reported_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(row: Row) -> tuple[Race, dict[str, Any]]:
        if row.K == 512:
            raise AssertionError("the result is off by 1.00e+00 of its norm")
        times = {"ops": [100.0, 100.0], "cublas": [101.0, 103.0], "copy": [85.0, 85.0]}
        return Race(times), {"triton": "128x256", "error": {"ops": 1e-4}}

    rows = [ROW, Row("thin", 8192, 8192, 512, 1.0), SKINNY]
    assert gemm.run(rows, measure, tmp_path, {"device": "none"}) == 1
    report = json.loads((tmp_path / "gemm.json").read_text())
    assert [("failed" in r) for r in report["rows"]] == [False, True, False]
    assert report["rows"][0]["ops"] == {"cublas": pytest.approx(1.02)}
    assert report["rows"][2]["bandwidth"] == pytest.approx(0.85)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert lines[0].startswith(ROW.name) and lines[0].endswith("met")
    assert "FAILED AssertionError: the result is off" in lines[1]
    assert "MISSED cublas 1.020 < 1.15" in lines[2]
    assert "geometric mean: 1.020" in shown and "1 failed" in lines[-1]
    assert gemm.run(rows[:1], measure, tmp_path, {}) == 0


def test_rows_are_chosen_by_words() -> None:
    assert select([]) == list(TABLE)
    assert {r.M for r in select(["skinny"])} == {1, 8, 16, 64, 128, 256}
    assert [r.layout for r in select(["transposes"])] == ["NN", "TN", "TT"]
    with pytest.raises(ValueError, match="no row has 'attention'"):
        select(["attention"])


def test_a_shape_that_the_table_does_not_have_is_a_row() -> None:
    assert given("300x4096x4096").name == "given:300x4096x4096:float16:NT"
    assert given("8x7x6:TN:bfloat16").name == "given:8x7x6:bfloat16:TN"
    for wrong in ("8x8", "8x8x0", "axbxc", "8x8x8:NX", "8x8x8:NT:int4", "8x8x8:NT:float16:more"):
        with pytest.raises(ValueError, match="is no product"):
            given(wrong)


def test_the_table_has_every_row_of_the_issue_once() -> None:
    assert len({r.name for r in TABLE}) == len(TABLE) == 32
    assert SKINNY in TABLE and ROW in TABLE
    assert SKINNY.bytes == 2 * (8192 + 8192 * 8192 + 8192)
    assert ROW.flops == 2.0 * 4096**3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rows", "none"], "no row"),
        (["--peers", "mkl"], "no peer mkl"),
        (["--shapes", "8x8"], "is no product"),
        (["--shapes", "8x8x8", "--rows", "large"], "either or"),
    ],
)
def test_wrong_arguments_are_told_without_a_gpu(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        gemm.main(arguments)
    assert stopped.value.code == 2 and words in capsys.readouterr().err
