"""The golden fixture and the markers, each run in a small project of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ONE_GOLDEN = "def test_text(golden):\n    assert 'one\\ntwo\\n' == golden('cu')\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini("[pytest]\nmarkers =\n  gpu: a\n  nightly: b\n")
    return pytester


def golden_file(project: pytest.Pytester) -> Path:
    return project.path / "golden" / "test_it" / "test_text.cu"


def test_missing_golden_fails_with_the_text(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=ONE_GOLDEN)
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no golden*test_text.cu*--update-golden*", "one", "two"])
    assert not golden_file(project).exists()


def test_update_writes_what_is_then_compared(project: pytest.Pytester) -> None:
    project.makepyfile(test_it=ONE_GOLDEN)
    project.runpytest_subprocess("--update-golden").assert_outcomes(passed=1)
    assert golden_file(project).read_text() == "one\ntwo\n"
    project.runpytest_subprocess().assert_outcomes(passed=1)
    golden_file(project).write_text("one\nthree\n")
    result = project.runpytest_subprocess()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*-three", "*+two"])


def test_update_is_refused_in_ci(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    project.makepyfile(test_it=ONE_GOLDEN)
    result = project.runpytest_subprocess("--update-golden")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert not golden_file(project).exists()


def test_nightly_is_left_out_unless_named(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_it="import pytest\n\n"
        "@pytest.mark.nightly\ndef test_long(): pass\n\ndef test_short(): pass\n"
    )
    project.runpytest_subprocess().assert_outcomes(passed=1, deselected=1)
    project.runpytest_subprocess("--nightly").assert_outcomes(passed=2)
    project.runpytest_subprocess("-m", "nightly").assert_outcomes(passed=1, deselected=1)


def test_the_users_environment_does_not_reach_a_test(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEC_DEVICE", "emulator")
    project.makepyfile(
        test_it="import os\nNAMES = {n for n in os.environ if n.startswith('TILEC_')}\n"
        "def test_clean():\n"
        "    assert NAMES == set()\n"
        "    assert 'TILEC_DEVICE' not in os.environ\n"
    )
    project.runpytest_subprocess().assert_outcomes(passed=1)


def test_this_run_has_a_cache_of_its_own(session_cache: Path) -> None:
    assert os.environ["TILEC_CACHE_DIR"] == str(session_cache)
    given = {name for name in os.environ if name.startswith("TILEC_")}
    assert given == {"TILEC_CACHE_DIR", "TILEC_CXX", "TILEC_EMULATOR_LEVEL"}
