"""T.print: the same lines from the interpreter and the emulator."""

from __future__ import annotations

import numpy as np
import pytest

import tilec
import tilec.language as T
from tests.passes.planning import line_of
from tilec.errors import TargetUnsupported
from tilec.runtime.driver import lower
from tilec.runtime.emulator.process import current_team
from tilec.runtime.nvrtc import find_nvrtc

pytestmark = pytest.mark.emulator
DEVICES = ("interpreter", "emulator:cuda:sm_80", "emulator:cuda:sm_90a")


@tilec.kernel
def told(X: T.Tensor((40,), "float16"), Y: T.Tensor((2, 2), "int32")):
    with T.Kernel(1, threads=32):
        t = T.get_thread_binding()
        S = T.alloc_shared((2, 2), "int32")
        if t < 4:
            S[t // 2, t % 2] = t * 10
        if t > 29:
            T.print(X[t], msg='half: "x" %d')
            T.print(t * 2, "twice")
        if t == 1:
            T.print(msg="here")
        T.print(S, "S")
        T.copy(S, Y)


LINES = [
    'half: "x" %d 15 (block (0, 0, 0), thread 30)',
    'half: "x" %d 15.5 (block (0, 0, 0), thread 31)',
    "twice 60 (block (0, 0, 0), thread 30)",
    "twice 62 (block (0, 0, 0), thread 31)",
    "here (block (0, 0, 0), thread 1)",
    *(f"S[{i}] {10 * i} (block (0, 0, 0), thread 0)" for i in range(4)),
]


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_printed(device: str, capfd: pytest.CaptureFixture[str]) -> None:
    current_team().stop()  # the next one has the error stream of this test
    x = (np.arange(40) / 2).astype(np.float16)
    told(x, np.zeros((2, 2), np.int32), device=device)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == sorted(LINES)
    if device == "interpreter":
        assert lines == LINES
    told(x, np.zeros((2, 2), np.int32), device=device)
    assert capfd.readouterr().err.splitlines() == lines  # a stable order


def test_nvrtc_takes_it_and_amd_refuses() -> None:
    lowered = lower(told, (), "cuda:sm_80", {})
    find_nvrtc().compile(lowered.variants[0].text, "told.cu", "sm_80")
    with pytest.raises(TargetUnsupported, match="device library") as caught:
        _ = lower(told, (), "hip:gfx942", {}).variants[0].text
    assert caught.value.code == "TLC0515"
    assert line_of(caught.value.loc).startswith("T.print(X[t]")


@tilec.kernel
def spread(A: T.Tensor((32, 16), "float16"), C: T.Tensor((4,), "float32")):
    with T.Kernel(1, threads=64):
        x = T.alloc_fragment((32, 16), "float16")
        sums = T.alloc_fragment((4,), "float32")
        T.copy(A, x)
        T.print(x, "x")
        T.reduce_sum(T.reshape(x, (4, 128)), sums, dim=1)
        T.print(sums)
        T.print(T.view(sums, (2, 2), "int32"), "bits")
        T.copy(sums, C)


@pytest.mark.parametrize("device", DEVICES)
def test_a_fragment_is_printed_once_an_element(
    device: str, capfd: pytest.CaptureFixture[str]
) -> None:
    current_team().stop()
    a = np.arange(512, dtype=np.float16).reshape(32, 16) % 7
    spread(a, np.zeros(4, np.float32), device=device)
    lines = sorted(line.partition(" (block")[0] for line in capfd.readouterr().err.splitlines())
    sums = a.reshape(4, 128).astype(np.float32).sum(1)
    expected = [f"x[{i}] {value:g}" for i, value in enumerate(a.ravel())]
    expected += [f"sums[{i}] {value:g}" for i, value in enumerate(sums)]
    expected += [f"bits[{i}] {value}" for i, value in enumerate(sums.view(np.int32))]
    assert lines == sorted(expected)


def test_nvrtc_prints_fragments() -> None:
    lowered = lower(spread, (), "cuda:sm_90a", {})
    find_nvrtc().compile(lowered.variants[0].text, "spread.cu", "sm_90a")
