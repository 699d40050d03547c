"""The hand-written attention: overlapping wgmmas, registers as operands, an MN-major operand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.backends.attention_sm90 import ATTENTION
from tests.backends.emulation import Probes, every_schedule
from tests.backends.test_cuda_compiles import compile_frames
from tilec.runtime.emulator import EmulatorError

FAULTS = {
    "scores_read_early": ("wgmma_wait<1>(S)", "wgmma_wait<2>(S)", "compares|uninit"),
    "output_scaled_early": (
        "      wgmma_wait<0>(O);\n      if (leader)",
        "      if (leader)",
        "were written",
    ),
    "operand_written_early": (
        "      wgmma_wait<1>(S);\n",
        "      wgmma_wait<1>(S);\n      P[3] = convert<f16>(0.0f);\n",
        "operand registers of a wgmma were written",
    ),
    "wrong_accumulator_waited_for": ("wgmma_wait<1>(S)", "wgmma_wait<1>(O)", "uninit|were written"),
}
PROBES = Probes(
    {"attention": ATTENTION}
    | {n: replace(ATTENTION, body=ATTENTION.body.replace(a, b)) for n, (a, b, _) in FAULTS.items()}
)


def make_arguments(m: int, n: int) -> dict[str, object]:
    random = np.random.default_rng(2)
    q, k, v = (random.standard_normal((x, 128)).astype(np.float16) for x in (m, n, n))
    scale = math.log2(math.e) / math.sqrt(128)
    return {
        "Q": q,
        "K": k,
        "V": v,
        "Y": np.zeros((m, 128), np.float16),
        "M": m,
        "N": n,
        "scale": scale,
    }


@pytest.mark.emulator
@pytest.mark.parametrize("shape", [(128, 64), (100, 128), (200, 320)])
def test_attention(shape: tuple[int, int]) -> None:
    results = set()
    for mode, order in every_schedule():
        arguments = make_arguments(*shape)
        PROBES.run("attention", arguments, mode, order, (-(-shape[0] // 128), 1, 1))
        y = arguments["Y"]
        assert isinstance(y, np.ndarray)
        results.add(y.tobytes())
    assert len(results) == 1
    q, k, v = (np.asarray(arguments[name], np.float64) for name in "QKV")
    scores = np.exp(q @ k.T / math.sqrt(128))
    expected = scores / scores.sum(axis=1, keepdims=True) @ v
    assert np.abs(y.astype(np.float64) - expected).max() < 2.0**-10 * np.abs(expected).max()


@pytest.mark.emulator
@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_found(name: str) -> None:
    assert PROBES.probes[name].body != ATTENTION.body
    with pytest.raises(EmulatorError, match=FAULTS[name][2]):
        PROBES.run(name, make_arguments(128, 320), races=False)
    with pytest.raises(EmulatorError):
        PROBES.run(name, make_arguments(128, 320))


def test_attention_compiles() -> None:
    """No serialised wgmma (C75xx), no spills, at the registers that 384 threads have."""
    assert "Used 168 registers" in compile_frames([ATTENTION.frame("attention")], "sm_90a")
