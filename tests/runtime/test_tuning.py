"""tilec.autotune and tilec.bench, with a clock that is not real: what is tried, refused, kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import tilec
import tilec.language as T
from tilec.errors import ArgumentError, LanguageError
from tilec.language.kernel import Kernel
from tilec.runtime import timing, tuning
from tilec.runtime.driver import compile_program
from tilec.runtime.interpreter_device import InterpreterDevice

DEVICE = InterpreterDevice("", "a test")


def scaled(wrong_at: int = 0) -> Kernel:
    """B += 2 A, C = A in blocks; with a block of `wrong_at` C is off, and 7 is no block."""

    @tilec.kernel
    def scale(
        A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"),
        C: T.Tensor(("N",), "float32"), block: int = 32,
    ):  # fmt: skip
        assert block != 7
        with T.Kernel(T.ceildiv(A.shape[0], block), threads=32) as bx:
            for i in T.Parallel(block):
                B[bx * block + i] = B[bx * block + i] + A[bx * block + i] * 2
                C[bx * block + i] = A[bx * block + i] + (1 if block == wrong_at else 0)

    return scale


def arguments(n: int = 100) -> list[np.ndarray]:
    return [np.arange(n, dtype=np.float32), np.ones(n, np.float32), np.zeros(n, np.float32)]


def search(
    kernel: Kernel, configs: list[dict[str, Any]], arrays: list[np.ndarray], us: list[float]
) -> list[tuning.Trial]:
    """A search whose candidates take `us`, in their order."""
    times = iter(us)
    current = [0.0]

    def compile_candidate(config: Any) -> Any:
        program = kernel.trace(kernel.constants_with(config))
        return compile_program(program, DEVICE.target)

    def clock(run: Callable[[], object]) -> float:
        run()
        return current[0]

    class Timed(InterpreterDevice):
        last: object = None

        def run(self, compiled: Any, arrays: Any, stream: object = None) -> Any:
            if compiled is not self.last:
                self.last, current[0] = compiled, next(times)
            return super().run(compiled, arrays, stream)

    return tuning.search(configs, arrays, Timed("", "a test"), compile_candidate, clock)


def blocks(*sizes: int) -> list[dict[str, Any]]:
    return [{"block": n} for n in sizes]


def test_the_fastest_of_those_that_are_right() -> None:
    arrays = arguments()
    trials = search(scaled(wrong_at=16), blocks(32, 16, 7, 64), arrays, [9.0, 1.0, 5.0])
    assert [t.us for t in trials] == [9.0, 0.0, 0.0, 5.0]
    assert "differ" in trials[1].problem and "AssertionError" in trials[2].problem
    assert tuning.fastest("scale", trials).config == {"block": 64}
    for found, start in zip(arrays, arguments(), strict=True):
        assert np.array_equal(found, start), "arguments end as they were"


def test_where_none_runs_every_reason_is_told() -> None:
    trials = search(scaled(), blocks(7), arguments(), [])
    with pytest.raises(
        ArgumentError, match=r"no configuration of scale runs: .*'block': 7.*TLC0112"
    ):
        tuning.fastest("scale", trials)


@pytest.mark.parametrize("value", [1, 85])
def test_a_candidate_that_leaves_an_element_out_is_none(value: float) -> None:
    @tilec.kernel
    def part(A: T.Tensor(("N",), "float32"), B: T.Tensor(("N",), "float32"), block: int = 32):
        with T.Kernel(1, threads=32):
            for i in T.Parallel(block):
                B[i] = A[i]

    arrays = [np.full(64, value, np.float32), np.full(64, value, np.float32)]
    trials = search(part, blocks(64, 32), arrays, [2.0, 1.0])
    assert not trials[0].problem and "differ" in trials[1].problem, "B held the result before"


def test_a_call_searches_once_for_each_key(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    real = tuning.search

    def counted(candidates: Any, runtime: Any, *more: Any) -> Any:
        searched.append(len(runtime[0]))
        return real(candidates, runtime, *more)

    monkeypatch.setattr(tuning, "runs_in_place", lambda device, runtime: True)
    monkeypatch.setattr(tuning, "search", counted)
    kernel = tilec.autotune(blocks(32, 64), key=["N"])(scaled())
    for n in (100, 100, 90, 100):
        a, b, c = arguments(n)
        kernel(a, b, c)
        assert np.array_equal(b, 1 + 2 * a), "the call itself ran once"
        assert np.array_equal(c, a)
    assert searched == [100, 90]
    tuning._found.clear()  # another process: what was found is on disk
    again = tilec.autotune(blocks(32, 64), key=["N"])(scaled())
    again(*arguments(90))
    other = tilec.autotune(blocks(32, 64, 128), key=["N"])(scaled())
    other(*arguments(90))
    assert searched == [100, 90, 90], "other candidates are another search"


def test_threads_search_in_turn_and_for_each_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one searches, others go on with what is known."""
    begun, go_on = threading.Event(), threading.Event()
    searched: list[int] = []
    real = tuning.search

    def slow(candidates: Any, runtime: Any, *more: Any) -> Any:
        searched.append(len(runtime[0]))
        if len(runtime[0]) == 80:
            begun.set()
            assert go_on.wait(10)
        return real(candidates, runtime, *more)

    monkeypatch.setattr(tuning, "runs_in_place", lambda device, runtime: True)
    monkeypatch.setattr(tuning, "search", slow)
    kernel = tilec.autotune(blocks(32, 64), key=["N"])(scaled())
    kernel(*arguments(110))
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(kernel, *arguments(80)) for _ in range(2)]
        assert begun.wait(10)
        kernel(*arguments(110))
        calls.append(pool.submit(kernel, *arguments(70)))
        assert searched == [110, 80]
        go_on.set()
    assert [call.result() for call in calls] == [None] * 3
    assert sorted(searched) == [70, 80, 110]


def test_the_interpreter_takes_the_first_and_a_call_may_say_its_own() -> None:
    seen: list[int] = []

    @tilec.autotune(lambda target, shapes: blocks(shapes["A"][0], 64))
    @tilec.kernel
    def k(A: T.Tensor(("N",), "float32"), block: int = 32):
        seen.append(block)
        with T.Kernel(1, threads=32):
            for i in T.Parallel(block):
                A[i] = block

    a = np.zeros(8, np.float32)
    k(a)
    k(a, block=4)
    assert seen == [8, 4] and a.tolist() == [4] * 4 + [8] * 4


def test_what_is_no_search_is_refused() -> None:
    with pytest.raises(LanguageError, match="TLC0113"):

        @tilec.kernel
        @tilec.autotune(configs=[{}])
        def below():
            pass

    a = arguments()
    with pytest.raises(ArgumentError, match=r"TLC0302.*'blok'"):
        tilec.autotune([{"blok": 1}])(scaled())(*a)
    with pytest.raises(ArgumentError, match="TLC0305"):
        tilec.autotune([])(scaled())(*a)
    for configs, found in (
        ([4], "gives 4, expected"), ({"block": [32]}, "has the configurations {'block'"),
        (lambda target, shapes: None, "has the configurations None"),
    ):  # fmt: skip
        with pytest.raises(ArgumentError, match=f"TLC0302.*{found}"):
            tilec.autotune(configs)(scaled())(*a)


def test_configurations_that_are_made_once_serve_every_call() -> None:
    kernel = tilec.autotune((config for config in blocks(32, 64)), key="N")(scaled())
    assert kernel.tuning.key == ("N",)
    for _ in range(2):
        kernel(*arguments())


def test_an_unknown_name_in_the_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "runs_in_place", lambda device, runtime: True)
    with pytest.raises(ArgumentError, match="names 'M', which is no symbol"):
        tilec.autotune(blocks(32), key=["M"])(scaled())(*arguments())


def test_bench_times_calls() -> None:
    calls: list[int] = []

    def call(a: np.ndarray, step: int) -> None:
        calls.append(step)
        time.sleep(0.001)

    found = tilec.bench(call, np.zeros(3), step=2, rounds=5)
    assert len(found.times) == 5 and calls == [2] * (5 + timing._WARM)
    assert 1000 <= min(found.times) <= found.median, "microseconds"
    assert str(timing.Timing((7, 1.5, 3))) == "3.0 us, median of 3 (1.5 least)"
    with pytest.raises(ArgumentError, match="TLC0306"):
        tilec.bench(lambda: None, rounds=0)
